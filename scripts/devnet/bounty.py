"""The kill switch against a real client's validator clients and their keymanager API. Run by scripts/devnet-test.sh.

One network of two nodes that know each other, 64 validators, 3-s slots. Three sets of keys:
  32..63  sign from within the first node, so that the chain goes on
  0..15   the group `saved`, with a kill switch that names both of its validator clients, and a lock file
  16..31  the group `control`, watched in the same way, without a switch
Each group has one validator client on the first node. Then a second one starts for each on the second node, at the same time, with the
same keys and an empty protection database: what happens when somebody moves a machine and forgets the old one.

It is checked that
  1. the drill finds the client that runs, names the one that does not, and stops nothing;
  2. the first offence of the group fires the switch; both clients' lists are empty, and none of the keys signs any more: not by the
     clients' own records (asked again an epoch later), and not by what is heard;
  3. the protection data of both clients is kept, for every key, and only the owner can read it;
  4. the findings are what the clients' own records contradict, no more and no less, but for votes that the logs show were never
     published; every offence in the nodes' blocks is found (truth.py); and the group with a switch loses fewer keys than the one
     without, in the same three epochs;
  5. a supervisor that runs the line of docs/watching.md before each start does not start the client again while the lock file is there;
     `killswitch rearm`, beside the running watcher, lets it go; it comes back without keys;
  6. on a new protection database, with the kept files imported, the keys sign again, and nothing that contradicts what they signed;
  7. the heartbeat is called.
The times that it prints are the clients' own: their keymanager API logs each request.
"""

import contextlib
import http.server
import json
import os
import pathlib
import re
import signal
import stat
import subprocess
import sys
import threading
import time

from helpers import Process, answered, arguments, free_ports, run_check, unix_seconds, wait_for
from network import Network, ValidatorClient, contradictions, make_keystores, messages
from truth import SLOTS_PER_EPOCH, Truth
from watcher import Api, write_config

SLOT_SECONDS = 3
EPOCH_SECONDS = SLOTS_PER_EPOCH * SLOT_SECONDS
N_VALIDATORS, SAVED, CONTROL, RESIDENT = 64, range(16), range(16, 32), range(32, 64)
GROUP = "saved"
UP_WITHIN_S = 120
# One slot in four is proposed by a key of the group, and its two blocks differ: without an offence for so long, it signs nowhere twice.
OFFENCE_WITHIN_S = 8 * EPOCH_SECONDS
CONTROL_EPOCHS = 3
# From the second message to the empty lists. A tenth of it is usual on an idle machine.
MAX_STOP_S = 5.0
OFFENCES = ("double_vote", "surround_vote", "double_proposal")
REFUSALS = 3
DOCS = pathlib.Path(__file__).parents[2] / "docs" / "watching.md"

# What systemd does with Restart=always, RestartSec=1 and an ExecStartPre.
SUPERVISOR = """
while :; do
  if eval "$PRE"; then
    echo "supervisor: started"
    "$@" >> "$LOG" 2>&1 & echo $! > "$PID"
    wait
    echo "supervisor: ended"
  else
    echo "supervisor: refused"
  fi
  sleep 1
done
"""


class Supervisor(Process):
    """Starts a validator client again and again, as the recipe for systemd in docs/watching.md has it."""

    def __init__(self, client, lock_file):
        recipe = re.search(r"^ *ExecStartPre=(.*)$", DOCS.read_text(), re.MULTILINE)[1]
        # The sign says that systemd runs it as root.
        pre = recipe.removeprefix("+").replace("/var/lib/slashwatch/acme-1.lock", str(lock_file))
        assert str(lock_file) in pre, "the recipe names the lock file that the page has everywhere"
        self.pid_file = client.home / "pid"
        variables = dict(client.network.environment, PRE=pre, LOG=str(client.log), PID=str(self.pid_file))
        arguments = ["-c", SUPERVISOR, "supervisor", *client.command()]
        super().__init__("/bin/sh", arguments, client.home / "supervisor.log", env=variables, cwd=client.home, start_new_session=True)

    def count(self, word):
        return self.log.read_text().count(f"supervisor: {word}\n")

    def end_client(self):
        """What a crash or an update does to it."""
        os.kill(int(self.pid_file.read_text()), signal.SIGTERM)

    def stop(self, seconds=20):
        """The loop and its client: they are a session of their own."""
        for how, patience in ((signal.SIGTERM, seconds), (signal.SIGKILL, 10)):
            try:
                os.killpg(self.process.pid, how)
            except ProcessLookupError:
                break
            wait_for(lambda: not self.running(), patience, 0.1)
        return self.process.wait()


class Pings(http.server.ThreadingHTTPServer):
    """Counts the calls of the heartbeat."""

    def __init__(self):
        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                self.server.count += self.path == "/ping"
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_):
                pass

        super().__init__(("127.0.0.1", 0), Handler)
        self.count = 0
        threading.Thread(target=self.serve_forever, daemon=True).start()


class Watch:
    """The program under test: its configuration, its commands, what it says."""

    def __init__(self, binary, folder, network, clients, ping_url):
        self.binary, self.config, self.data = binary, folder / "slashwatch.toml", folder / "slashwatch-data"
        self.lock_file = folder / "saved.lock"
        (folder / "heartbeat.url").write_text(ping_url)
        named = ", ".join(f'{{ url = "{client.url}", token_file = "{client.token_file}" }}' for client in clients)
        self.ports = free_ports(1)
        self.more = (
            '[alerts.heartbeat]\nsecret_file = "heartbeat.url"\nevery = "5s"\n'
            f'[[watch.groups]]\nname = "{GROUP}"\nkeys = ["{SAVED[0]}-{SAVED[-1]}"]\n'
            f'[watch.groups.kill_switch]\naction = "keymanager"\nclients = [{named}]\nlock_file = "{self.lock_file}"\n'
            f'[[watch.groups]]\nname = "control"\nkeys = ["{CONTROL[0]}-{CONTROL[-1]}"]\n'
        )
        write_config(self.config, self.data, network.nodes, self.ports[0], more=self.more)
        self.api = Api(self.ports[0])

    def command(self, *words):
        """Exit code and everything it said."""
        command = [self.binary, *words]
        done = subprocess.run([str(word) for word in command], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60)
        return done.returncode, done.stdout + done.stderr

    def switch(self):
        groups = answered(lambda: self.api.get("/v1/watch/groups"))["groups"]
        return next(group["kill_switch"] for group in groups if group["name"] == GROUP)

    def offences(self, indices):
        """Findings of offences by these validators, the earliest first."""
        findings = answered(self.api.findings)
        own = [f for f in findings if f["kind"] in OFFENCES and int(f["validator"]["index"]) in indices]
        return sorted(own, key=lambda finding: unix_seconds(finding["recorded_at"]))

    def last_votes(self):
        """{validator: slot of its last vote}, of the group with the switch."""
        page = answered(lambda: self.api.get(f"/v1/watch/validators?group={GROUP}&limit=100"))
        return {int(key["index"]): int(key["last_vote"] or 0) for key in page["validators"]}


def accused(findings):
    return {int(finding["validator"]["index"]) for finding in findings}


class Bounty:
    """The test, step by step. Each step returns whether it makes sense to go on."""

    def __init__(self, binary, folder, report):
        self.report, self.check = report, report.check
        self.folder = folder
        self.network = Network(folder, SLOT_SECONDS, N_VALIDATORS, RESIDENT)
        self.pings = Pings()
        node1, node2 = self.network.nodes
        ports = free_ports(4)
        self.first, self.second, self.control_first, self.control_second = (
            ValidatorClient(self.network, name, node, port)
            for name, node, port in zip(("saved-1", "saved-2", "control-1", "control-2"), (node1, node2, node1, node2), ports)
        )
        self.clients = (self.first, self.second)
        self.binary = binary
        self.supervisor = self.watcher = self.truth = None
        # Whatever is started is stopped, the last one first, however this ends.
        self.to_stop = contextlib.ExitStack()

    def run(self):
        steps = (
            *(self.bring_up, self.start_watching, self.start_second_signers, self.see_it_stop, self.see_silence, self.see_the_lock),
            *(self.see_it_return, self.compare, self.end),
        )
        with self.to_stop:
            self.to_stop.callback(self.pings.shutdown)
            self.to_stop.callback(self.network.stop)
            for step in steps:
                if not step():
                    if self.watcher:
                        print(self.watcher.log_tail())
                    return

    def bring_up(self):
        network = self.network
        network.start_first()
        answers = lambda node: node.get("/eth/v1/node/identity") is not None
        if not self.check(wait_for(lambda: answers(network.nodes[0]), UP_WITHIN_S), "the first node answers"):
            return False
        network.start_second()
        if not self.check(wait_for(lambda: answers(network.nodes[1]), UP_WITHIN_S), "the second node answers"):
            return False
        self.pubkeys = {group: network.pubkeys(group) for group in (SAVED, CONTROL)}
        self.index_of = {pubkey: index for group, some in self.pubkeys.items() for index, pubkey in zip(group, some)}
        self.keystores = {group: make_keystores(group[0], some) for group, some in self.pubkeys.items()}
        for client, group in zip((self.first, self.second, self.control_first, self.control_second), (SAVED, SAVED, CONTROL, CONTROL)):
            client.has_keystores(self.keystores[group])
        self.watch = Watch(self.binary, self.folder, network, self.clients, f"http://127.0.0.1:{self.pings.server_port}/ping")
        self.supervisor = Supervisor(self.first, self.watch.lock_file)
        self.to_stop.callback(self.supervisor.stop)
        self.control_first.start()
        up = lambda: all(len(client.listed() or ()) == 16 for client in (self.first, self.control_first))
        if not self.check(wait_for(up, UP_WITHIN_S), "two validator clients with 16 keys each"):
            return False
        return self.check(wait_for(lambda: min(node.head_slot() for node in network.nodes) >= 1, UP_WITHIN_S), "the nodes make blocks")

    def start_watching(self):
        watch = self.watch
        code, text = watch.command("config", "check", watch.config)
        self.check(code == 0, f"config check (exit {code}) {text if code else ''}")
        self.watcher = Process(self.binary, ["run", "--config", watch.config], self.folder / "slashwatch.log")
        self.to_stop.callback(self.watcher.stop)
        if not self.check(watch.api.wait_ready(self.watcher, UP_WITHIN_S), "the watcher is ready"):
            return False
        heard = wait_for(lambda: all(watch.last_votes().get(index) for index in SAVED), 3 * EPOCH_SECONDS)
        self.check(heard, "a vote of each key of the group is heard")
        code, text = watch.command("killswitch", "test", GROUP, "--config", watch.config)
        drilled = "has 16 keys of the group and 0 others" in text and f"FAILED {self.second.url}" in text
        self.check(code != 0 and drilled, f"the drill finds one client and misses the other (exit {code}): {text.strip()[-300:]}")
        self.check(len(answered(self.first.listed)) == 16 and not watch.lock_file.exists(), "the drill stopped nothing")
        return self.check(watch.switch()["state"] == "ready" and watch.offences(range(N_VALIDATORS)) == [], "nobody has offended so far")

    def start_second_signers(self):
        since = max(node.head_slot() for node in self.network.nodes)
        self.truth = Truth(self.network.nodes, since_slot=since, poll_seconds=SLOT_SECONDS)
        self.truth.start()
        self.to_stop.callback(self.truth.stop)
        self.crime_began = time.time()
        self.second.start()
        self.control_second.start()
        return True

    def see_it_stop(self):
        # The clients are not asked meanwhile: what their logs have is what the watcher asked.
        wait_for(lambda: self.watch.switch()["state"] in ("done", "failed"), OFFENCE_WITHIN_S, 0.25)
        switch = self.watch.switch()
        if not self.check(switch["state"] == "done", f"the switch fires: {switch['state']}, {switch['answer']}"):
            return False
        self.stopped_at = unix_seconds(switch["ordered_at"]) + switch["took_ms"] / 1e3
        self.stopped_slot = self.network.slot_now()
        asked = {client: client.requests() for client in self.clients}
        offence = next(f for f in self.watch.offences(SAVED) if f["id"] == switch["finding"])
        # Votes of one slot are found together.
        is_first = offence["recorded_at"] == self.watch.offences(SAVED)[0]["recorded_at"]
        self.check(is_first, f"it is the group's first offence that fired it: {offence['kind']}")
        self.check(switch["attempts"] == 1, "ordered once")

        second_seen = unix_seconds(offence["second_seen"])
        deletes, confirmed = [], []
        for client, requests in asked.items():
            since = [one for one in requests if one[0] >= second_seen - 0.05]
            asked_to_delete = [at for at, how, what in since if (how, what) == ("Req", "deleteKeys")]
            answered_list = [at for at, how, what in since if how == "Res" and what.startswith("list")]
            deletes.append(min(asked_to_delete, default=float("inf")) - second_seen)
            confirmed.append(max(answered_list, default=float("inf")) - second_seen)
        text = f"second message to DELETE: {min(deletes):.3f} s at the first client, {max(deletes):.3f} s at the last"
        self.check(max(confirmed) < MAX_STOP_S, f"{text}; to the lists that no longer have the keys: {max(confirmed):.3f} s")
        print(f"    second signers were started {second_seen - self.crime_began:.1f} s before; the order took {switch['took_ms']} ms")
        for client in self.clients:
            self.check(answered(client.listed) == set(), f"{client.name}: its list is empty")

        self.check(self.watch.lock_file.exists(), "the lock file is there")
        folder = self.watch.data / "killswitch"
        files = sorted(folder.glob("*.slashing-protection.json"))
        self.kept = {client: [json.loads(f.read_text()) for f in files if f"-{client.port}-" in f.name] for client in self.clients}
        for client, records in self.kept.items():
            has = {entry["pubkey"] for record in records for entry in record["data"]}
            n = len(messages(records))
            text = f"{client.name}: protection data of {len(has)} keys kept, {n} messages"
            self.check(has == set(self.pubkeys[SAVED]) and n > 0, text)
        private = [f.name for f in folder.iterdir() if stat.S_IMODE(f.stat().st_mode) & 0o077]
        self.check(not private, f"nobody else can read what is kept: {private or 'well'}")
        return True

    def see_silence(self):
        until = self.stopped_slot + SLOTS_PER_EPOCH + 2
        wait_for(lambda: self.network.slot_now() >= until, 4 * EPOCH_SECONDS)
        head = self.network.nodes[0].head_slot()
        goes_on = head > self.stopped_slot + SLOTS_PER_EPOCH // 2
        self.check(goes_on, f"the others go on: head at slot {head}, stopped at {self.stopped_slot}")
        late = {index: slot for index, slot in self.watch.last_votes().items() if slot > self.stopped_slot}
        self.check(not late, f"an epoch later no vote of the keys was heard since: {late or 'none'}")
        self.records = [record for some in self.kept.values() for record in some]
        again = [answered(lambda: client.delete(self.pubkeys[SAVED])) for client in self.clients]
        new = messages(again) - messages(self.records)
        self.check(not new, f"nor is there a record of one in either client: {sorted(new)[:2] or 'none'}")
        return True

    def see_the_lock(self):
        self.supervisor.end_client()
        refused = wait_for(lambda: self.supervisor.count("refused") >= REFUSALS, 60, 0.2)
        self.check(refused, f"the client ends, and the supervisor finds the lock: refused {self.supervisor.count('refused')} times")
        self.check(self.supervisor.count("started") == 1 and self.first.listed() is None, "it does not start the client")
        self.check("killswitch rearm" in self.supervisor.log_tail(), "and shows what to do")
        # A machine that was set up anew: without the record of what was signed, only the kept files have it.
        self.first.forget_protection()
        return True

    def see_it_return(self):
        began = time.time()
        code, text = self.watch.command("killswitch", "rearm", GROUP, "--config", self.watch.config)
        self.check(code == 0, f"rearm beside the watcher (exit {code}): {text.strip()[-200:]}")
        ready = self.watch.switch()["state"] == "ready"
        self.check(ready and not self.watch.lock_file.exists(), "the lock is gone, and the switch is ready")
        back = wait_for(lambda: self.first.listed() is not None, UP_WITHIN_S, 0.2)
        text = f"the supervisor starts the client after {time.time() - began:.1f} s, without keys"
        if not self.check(back and self.first.listed() == set(), text):
            return False
        for record in self.kept[self.second]:
            self.first.import_keys([], record)
        *others, last = self.kept[self.first]
        for record in others:
            self.first.import_keys([], record)
        statuses = self.first.import_keys(self.keystores[SAVED], last)
        self.check(set(statuses) == {"imported"}, f"keys and kept protection data are imported: {sorted(set(statuses))}")
        imported_at, offences = self.network.slot_now(), len(self.watch.offences(SAVED))
        voting = lambda: {index for index, slot in self.watch.last_votes().items() if slot > imported_at}
        # The client asks for its duties at the next epoch, and each key has one in it.
        wait_for(lambda: len(voting()) == len(SAVED), 4 * EPOCH_SECONDS)
        self.check(len(voting()) == len(SAVED), f"{len(voting())} of {len(SAVED)} keys sign again")
        self.check(len(self.watch.offences(SAVED)) == offences, "and offend no more")
        after = answered(lambda: self.first.delete(self.pubkeys[SAVED]))
        place = lambda records: {message[:3] for message in messages(records)}
        missing = place(self.records) - place([after])
        self.check(not missing, f"the new database has every duty of the kept files, missing: {sorted(missing)[:2] or 'none'}")
        new = contradictions([*self.records, after]) - contradictions(self.records)
        self.check(not new, f"what they sign contradicts nothing they signed: {sorted(new)[:2] or 'nothing'}")
        return True

    def compare(self):
        until = self.stopped_at + CONTROL_EPOCHS * EPOCH_SECONDS
        wait_for(lambda: time.time() >= until, CONTROL_EPOCHS * EPOCH_SECONDS + 1)
        control = (self.control_first, self.control_second)
        # Deleted twice: this client lists the keys after the first DELETE, and would ask for their duties again.
        control_records = [answered(lambda: client.delete(self.pubkeys[CONTROL])) for client in (*control, *control)]
        seen_until = self.network.slot_now() + 3
        wait_for(lambda: self.network.slot_now() >= seen_until, 10 * SLOT_SECONDS)
        self.truth.stop()
        truth = self.truth
        offences = {"with": self.watch.offences(SAVED), "without": self.watch.offences(CONTROL)}
        lost = {which: accused(some) for which, some in offences.items()}
        not_published = self.network.not_published((*self.clients, *control))
        for which, records in (("with", self.records), ("without", control_records)):
            slots = sorted({int(f["slot"]) for f in offences[which]})
            print(f"  {which} a switch: {len(lost[which])} of 16 keys lost, {sorted(lost[which])}, in slots {slots}")
            place = lambda f: int(f["slot" if f["kind"] == "double_proposal" else "epoch"])
            found = {(int(f["validator"]["index"]), f["kind"], place(f)) for f in offences[which]}
            signed = {(self.index_of[pubkey], kind, place) for pubkey, kind, place in contradictions(records)}
            refused = {one for one in signed - found if one[1] == "double_vote" and (one[0], one[2]) in not_published}
            text = f"{len(signed)} contradictions in the clients' own records, {len(refused)} of them never published"
            false, missed = sorted(found - signed), sorted(signed - found - refused)
            self.check(not false and not missed, f"{text}; {len(found)} found, missed: {missed or 'none'}, false: {false or 'none'}")
        everybody = self.watch.offences(range(N_VALIDATORS))
        found_proposals = {(int(f["validator"]["index"]), int(f["slot"])) for f in everybody if f["kind"] == "double_proposal"}
        found_votes = {(int(f["validator"]["index"]), int(f["epoch"])) for f in everybody if f["kind"] == "double_vote"}
        missed = sorted((truth.double_proposals() - found_proposals) | (truth.double_votes() - found_votes))
        n = len(truth.double_proposals()) + len(truth.double_votes())
        self.check(truth.unresolved == 0, f"ground truth is complete ({truth.unresolved} attestations without committee)")
        self.check(not missed and n > 0, f"{n} offences in both nodes' blocks, missed: {missed or 'none'}")
        self.check(not accused(everybody) & set(RESIDENT), "nobody else is accused")
        return self.check(0 < len(lost["with"]) < len(lost["without"]), "the switch saves keys")

    def end(self):
        self.check(self.pings.count >= 3, f"the heartbeat was called {self.pings.count} times")
        self.check(self.watch.switch()["state"] == "ready", "the switch has not fired again")
        code = self.watcher.stop()
        return self.check(code == 0, f"the watcher stops cleanly (exit {code})")


def main():
    given = arguments().parse_args()
    print(f"bounty: {SLOT_SECONDS}-s slots, 16 keys with a kill switch and 16 without, each in two validator clients", flush=True)
    keep = given.keep and given.keep / "bounty"
    return run_check("bounty", lambda folder, report: Bounty(given.binary, folder, report).run(), keep)


if __name__ == "__main__":
    sys.exit(main())
