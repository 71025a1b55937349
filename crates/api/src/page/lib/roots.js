// The hash tree root of a block header, which is the block's root. Browsers compute SHA-256 for
// pages from this machine or over TLS only; elsewhere the root stays unknown.

const bytes = (hex) => Uint8Array.from(hex.slice(2).match(/../g), (pair) => parseInt(pair, 16));

function number(text) {
  const leaf = new Uint8Array(32);
  new DataView(leaf.buffer).setBigUint64(0, BigInt(text), true);
  return leaf;
}

async function pair(one, other) {
  const both = new Uint8Array(64);
  both.set(one);
  both.set(other, 32);
  return new Uint8Array(await crypto.subtle.digest("SHA-256", both));
}

// Five fields, so eight leaves.
export async function headerRoot(header) {
  if (!globalThis.crypto?.subtle) return null;
  let row = [number(header.slot), number(header.proposer_index), bytes(header.parent_root), bytes(header.state_root), bytes(header.body_root)];
  while (row.length < 8) row.push(new Uint8Array(32));
  while (row.length > 1) {
    const next = [];
    for (let n = 0; n < row.length; n += 2) next.push(await pair(row[n], row[n + 1]));
    row = next;
  }
  return "0x" + [...row[0]].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}
