"""A small network of the real client, and validator clients beside its nodes, as many as a check wants.

Unlike devnet.sh, which has one set of keys in its first node, fixed ports, and no keymanager API: here each validator client is a
process of its own with keystores on disk, a token, and the keymanager API (https://ethereum.github.io/keymanager-APIs/).
"""

import json
import os
import pathlib
import re
import shutil
import subprocess
import time
import urllib.error
import urllib.request
from datetime import datetime, timezone

from helpers import Process, free_ports, wait_for
from rest import UNREACHABLE, Node
from truth import SLOTS_PER_EPOCH

PASSWORD = "of a test"
TIMEOUT_S = 20


class Network:
    """Two nodes that know each other. `resident` validators sign from within the first node, and only there."""

    def __init__(self, folder, slot_seconds, n_validators, resident):
        self.folder, self.slot_seconds, self.processes = folder, slot_seconds, []
        self.n_validators, self.resident = n_validators, resident
        home = pathlib.Path(os.environ["DEVNET_SCRIPT"]).parent
        self.lodestar = pathlib.Path(os.environ["DEVNET_ROOT"]) / "client" / "node_modules" / ".bin" / "lodestar"
        self.engine = home / "mock_engine.mjs"
        self.environment = dict(
            os.environ, LODESTAR_PRESET="minimal", NODE_OPTIONS=f"--no-deprecation --require {home / 'polyfill.cjs'}", TZ="UTC"
        )
        forks = {"ALTAIR_FORK_EPOCH": 0, "BELLATRIX_FORK_EPOCH": 0, "CAPELLA_FORK_EPOCH": 0, "TERMINAL_TOTAL_DIFFICULTY": 0}
        parameters = {"SECONDS_PER_SLOT": slot_seconds, **forks}
        self.parameters = [word for name, value in parameters.items() for word in (f"--params.{name}", value)]
        self.ports = free_ports(5)
        self.nodes = [Node(f"http://127.0.0.1:{self.ports[port]}") for port in (3, 4)]

    def start_process(self, name, binary, arguments):
        home = self.folder / name
        home.mkdir(parents=True, exist_ok=True)
        process = Process(binary, arguments, home / "log", cwd=home, env=self.environment)
        self.processes.append(process)
        return process

    def start_first(self):
        engine_port = self.ports[0]
        self.start_process("engine", "node", [self.engine, engine_port])
        arguments = [
            *("dev", "--genesisValidators", self.n_validators, "--startValidators", f"{self.resident[0]}..{self.resident[-1]}"),
            *("--genesisTime", int(time.time()) + 15, "--genesisEth1Hash", "0x" + "42" * 32),
            *("--suggestedFeeRecipient", "0x" + "0" * 36 + "aaaa", "--beaconNodes", self.nodes[0].url),
        ]
        return self.start_process("node1", self.lodestar, [*arguments, *self._node_flags(0)])

    def start_second(self):
        """Needs the first one's answer to know where it is."""
        enr = self.nodes[0].get("/eth/v1/node/identity")["data"]["enr"]
        arguments = [
            *("beacon", "--network", "dev", "--genesisStateFile", self.folder / "node1" / "genesis.ssz", "--eth1", "false"),
            *("--discv5", "true", "--targetPeers", "5", "--bootnodes", enr, "--network.connectToDiscv5Bootnodes", "true"),
        ]
        return self.start_process("node2", self.lodestar, [*arguments, *self._node_flags(1)])

    def _node_flags(self, number):
        name, p2p, rest = f"node{number + 1}", self.ports[1 + number], self.ports[3 + number]
        jwt = self.folder / "jwt.hex"
        jwt.write_text("11" * 32)
        return [
            *("--dataDir", self.folder / name / "data", "--logFile", "none", "--logLevel", "info", "--jwt-secret", jwt),
            *("--execution.urls", f"http://127.0.0.1:{self.ports[0]}"),
            *("--rest", "--rest.address", "127.0.0.1", "--rest.port", rest, "--rest.namespace", "*"),
            *("--listenAddress", "127.0.0.1", "--port", p2p, "--enr.ip", "127.0.0.1", "--enr.tcp", p2p, "--enr.udp", p2p),
            *self.parameters,
        ]

    def pubkeys(self, indices):
        """Public keys of validators, in their order."""
        answer = self.nodes[0].get("/eth/v1/beacon/states/head/validators")
        by_index = {int(row["index"]): row["validator"]["pubkey"] for row in answer["data"]}
        return [by_index[index] for index in indices]

    def slot_now(self):
        genesis = int(self.nodes[0].get("/eth/v1/beacon/genesis")["data"]["genesis_time"])
        return int((time.time() - genesis) // self.slot_seconds)

    def stop(self):
        """All at once. What does not end by itself is killed."""
        for process in self.processes:
            if process.running():
                process.process.terminate()
        wait_for(lambda: not any(process.running() for process in self.processes), 20, 0.2)
        for process in self.processes:
            process.process.kill()
            process.process.wait()


    def not_published(self, clients):
        """Votes that were recorded and went nowhere, by the logs: {(validator, target epoch)}.

        A node refuses the second vote of a validator for an epoch, because it knows the first one. A client that has lost a key after
        it wrote its record cannot sign.
        """
        votes = set()
        for log in [self.folder / "node1" / "log", self.folder / "node2" / "log"]:
            pattern = r"Error on submitPoolAttestations .* targetEpoch=(\d+), validatorIndex=(\d+)"
            votes |= {(int(index), int(epoch)) for epoch, index in re.findall(pattern, plain(log))}
        for client in clients:
            pattern = r"Error signing attestation slot=(\d+), .*validatorIndex=(\d+)"
            votes |= {(int(index), int(slot) // SLOTS_PER_EPOCH) for slot, index in re.findall(pattern, plain(client.log))}
        return votes


class ValidatorClient:
    """A validator client with a folder of its own, which need not run.

    Its keystores lie where it looks for them at a start (`keystores/`, `secrets/`), and its token is there before it has ever run, so
    that others can be told where to find it.
    """

    def __init__(self, network, name, node, port):
        self.network, self.name, self.node, self.port = network, name, node, port
        self.home = network.folder / name
        self.data = self.home / "data"
        self.log = self.home / "log"
        self.url = f"http://127.0.0.1:{port}"
        self.token_file = self.data / "validator-db" / "api-token.txt"
        self._write_token(f"api-token-0x{os.urandom(32).hex()}")

    def _write_token(self, token):
        self.token_file.parent.mkdir(parents=True)
        self.token_file.write_text(token)

    def forget_protection(self):
        """Takes its protection database away, while it does not run. Its token stays."""
        token = self.token_file.read_text()
        shutil.rmtree(self.token_file.parent)
        self._write_token(token)

    def has_keystores(self, keystores):
        for keystore in keystores:
            folder = self.data / "keystores" / f"0x{keystore['pubkey']}"
            folder.mkdir(parents=True)
            (folder / "voting-keystore.json").write_text(json.dumps(keystore))
            secrets = self.data / "secrets"
            secrets.mkdir(exist_ok=True)
            (secrets / folder.name).write_text(PASSWORD)

    def command(self):
        """The words that start it."""
        words = [
            *(self.network.lodestar, "validator", "--network", "dev", "--dataDir", self.data, "--beaconNodes", self.node.url),
            *("--keymanager", "--keymanager.address", "127.0.0.1", "--keymanager.port", self.port),
            *("--suggestedFeeRecipient", "0x" + "0" * 36 + "bbbb", "--graffiti", self.name),
            *("--logFile", "none", "--logLevel", "debug", *self.network.parameters),
        ]
        return [str(word) for word in words]

    def start(self):
        binary, *arguments = self.command()
        return self.network.start_process(self.name, binary, arguments)

    def ask(self, method, body=None):
        """The answer of `/eth/v1/keystores`; None while the client is not there."""
        headers = {"Authorization": f"Bearer {self.token_file.read_text()}", "Content-Type": "application/json"}
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + "/eth/v1/keystores", data, headers, method=method)
        try:
            with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{self.name}: {method}: {error.code} {error.read().decode()[:300]}") from error
        except UNREACHABLE:
            return None

    def listed(self):
        """Public keys in its list; None while it is not there."""
        answer = self.ask("GET")
        return None if answer is None else {row["validating_pubkey"] for row in answer["data"]}

    def delete(self, pubkeys):
        """Deletes keys; its protection data of them, also of those that it had no more (EIP-3076)."""
        answer = self.ask("DELETE", {"pubkeys": pubkeys})
        return None if answer is None else json.loads(answer["slashing_protection"])

    def import_keys(self, keystores, protection):
        """The status of each keystore."""
        passwords = [PASSWORD] * len(keystores)
        body = {"keystores": list(map(json.dumps, keystores)), "passwords": passwords, "slashing_protection": json.dumps(protection)}
        return [row["status"] for row in self.ask("POST", body)["data"]]

    def requests(self):
        """What its keymanager API was asked, by its own account: (Unix seconds, "Req" or "Res", operation)."""
        found = []
        for line in plain(self.log).splitlines():
            match = re.match(r"(\w{3}-\d\d \d\d:\d\d:\d\d\.\d{3})\[.*?\]\s*(?:\w+:)?\s*(Req|Res) \S+ (?:\S+ )?(\w+Keys)\b", line)
            if match:
                stamp = datetime.strptime(f"{datetime.now(timezone.utc).year}-{match[1]} +0000", "%Y-%b-%d %H:%M:%S.%f %z")
                found.append((stamp.timestamp(), match[2], match[3]))
        return found


def plain(log):
    """A log without its colours."""
    return re.sub(r"\x1b\[[0-9;]*m", "", log.read_text(errors="replace"))


def make_keystores(first, pubkeys):
    """Keystores of the interop validators from `first` on."""
    script = pathlib.Path(__file__).with_name("keystores.mjs")
    asked = json.dumps({"from": first, "pubkeys": pubkeys, "password": PASSWORD})
    return json.loads(subprocess.run(["node", script], input=asked, capture_output=True, text=True, check=True, timeout=60).stdout)


def contradictions(records):
    """What all these protection files together contradict: shares nothing with the program under test.

    {(public key, kind, slot of the blocks or target epoch of the votes)}: two blocks of one slot or two votes with one target that
    differ in the signing root, or a vote that surrounds another.
    """
    blocks, votes = {}, {}
    for pubkey, kind, place, root, source in messages(records, with_source=True):
        if kind == "block":
            blocks.setdefault((pubkey, place), set()).add(root)
        else:
            votes.setdefault(pubkey, {}).setdefault(place, set()).add((root, source))
    found = {(pubkey, "double_proposal", slot) for (pubkey, slot), roots in blocks.items() if len(roots) > 1}
    for pubkey, by_target in votes.items():
        spans = [(source, target) for target, some in by_target.items() for _, source in some]
        found |= {(pubkey, "double_vote", target) for target, some in by_target.items() if len({root for root, _ in some}) > 1}
        found |= {(pubkey, "surround_vote", a[1]) for a in spans if any(a[0] < b[0] and b[1] < a[1] for b in spans)}
    return found


def messages(records, with_source=False):
    """Everything that these protection files record: {(public key, kind, slot or target, signing root)}."""
    found = set()
    for entry in (entry for record in records for entry in record["data"]):
        pubkey = entry["pubkey"]
        found |= {(pubkey, "block", int(one["slot"]), one["signing_root"], None) for one in entry["signed_blocks"]}
        for vote in entry["signed_attestations"]:
            found.add((pubkey, "vote", int(vote["target_epoch"]), vote["signing_root"], int(vote["source_epoch"])))
    return found if with_source else {message[:4] for message in found}
