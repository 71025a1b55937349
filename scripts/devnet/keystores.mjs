// Prints keystores (EIP-2335) of interop validators as JSON. Standard input: {"from": 0, "pubkeys": ["0x..", ..], "password": ".."}.
// The key of validator i is what all clients take for it in test networks: sha256 of i, little endian, modulo the curve's order.
import crypto from "node:crypto";
import fs from "node:fs";

const ORDER = 0x73eda753299d7d483339d80809a1d80553bda402fffe5bfeffffffff00000001n;
const sha256 = (bytes) => crypto.createHash("sha256").update(bytes).digest();
const hex = (bytes) => Buffer.from(bytes).toString("hex");

function secretKey(index) {
  const seed = Buffer.alloc(32);
  seed.writeUInt32LE(index);
  const secret = BigInt("0x" + hex(sha256(seed).reverse())) % ORDER;
  return Buffer.from(secret.toString(16).padStart(64, "0"), "hex");
}

function keystore(index, pubkey, password) {
  const [salt, iv, rounds] = [crypto.randomBytes(32), crypto.randomBytes(16), 1024];
  const derived = crypto.pbkdf2Sync(password, salt, rounds, 32, "sha256");
  const cipher = crypto.createCipheriv("aes-128-ctr", derived.subarray(0, 16), iv);
  const sealed = Buffer.concat([cipher.update(secretKey(index)), cipher.final()]);
  const kdfParams = { dklen: 32, c: rounds, prf: "hmac-sha256", salt: hex(salt) };
  return {
    crypto: {
      kdf: { function: "pbkdf2", params: kdfParams, message: "" },
      checksum: { function: "sha256", params: {}, message: hex(sha256(Buffer.concat([derived.subarray(16, 32), sealed]))) },
      cipher: { function: "aes-128-ctr", params: { iv: hex(iv) }, message: hex(sealed) },
    },
    pubkey: pubkey.replace("0x", ""),
    path: `m/12381/3600/${index}/0/0`,
    uuid: crypto.randomUUID(),
    version: 4,
  };
}

const { from, pubkeys, password } = JSON.parse(fs.readFileSync(0, "utf8"));
console.log(JSON.stringify(pubkeys.map((pubkey, i) => keystore(from + i, pubkey, password))));
