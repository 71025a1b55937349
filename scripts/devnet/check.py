"""slashwatch against a real consensus client. Run by scripts/devnet-test.sh, which holds the lock and cleans up.

Two scenes, each on a fresh network of two nodes and 64 validators:
  connected  the nodes know each other; a second validator client signs with the keys of validators 0..23: few enough that
             the others go on when all of them are slashed
  split      they do not; a second validator client signs with all keys on the other half

In each, `slashwatch run` and `slashwatch capture` listen to both nodes, and it is checked that
  1. both nodes keep both listeners connected, all the time, by their own account and by the watcher's;
  2. every double proposal and double vote the nodes' REST APIs show (truth.py) is found, by the right name;
  3. nobody is accused who was not signing twice;
  4. each finding is on disk within a second of the second message's arrival;
  5. exported proofs, posted to a node, get exactly their validators slashed; in the first scene the watcher, told to submit, then hands
     over the others by itself: no more in a slot than a block takes, and the node slashes whom they accuse (or, should the client have
     stopped making blocks by a defect of its own, it has found the proofs valid and holds them for its next block);
  6. both programs stop cleanly, and the capture, replayed, gives the same findings with the same ids.
"""

import json
import os
import pathlib
import shutil
import signal
import statistics
import subprocess
import sys
import threading
import time
from datetime import datetime

from helpers import Process, arguments, free_port, run_check, unix_seconds, wait_for
from rest import Node
from truth import Truth
from watcher import Api, write_config

DEVNET_PORTS = (8551, 9000, 9001, 9596, 9597)
MAX_LATENCY_S = 1.0
# A block takes one or two attester slashings, and the more are slashed, the fewer are left to propose one.
SLASHED_WITHIN_S = 180
# So long without a block, and the client has stopped: it no longer takes itself for synced after eight slots without one.
STALLED_SLOTS = 16
UP_WITHIN_S = 60
SUBMITTED_WITHIN_S = 120
# Two are what a block may carry (MAX_ATTESTER_SLASHINGS). This client packs as many attester slashings as its pool has, so that a
# third one stops its block production ("Invalid list length 3 over limit 2"). A reorg that takes slashings back into the pool does the
# same, however slowly they came.
ATTESTER_SLASHINGS_PER_BLOCK = 2
# Posted by hand.
N_PROOFS = {"proposer_slashing": 1, "attester_slashing": ATTESTER_SLASHINGS_PER_BLOCK}


class Scene:
    """What differs between the two scenes."""

    def __init__(self, name, criminals, crime_seconds, slot_seconds):
        self.name, self.criminals, self.crime_seconds, self.slot_seconds = name, criminals, crime_seconds, slot_seconds


def devnet(*arguments, slot_seconds):
    environment = dict(os.environ, SPS=str(slot_seconds), VALIDATORS="64", LODESTAR_PRESET="minimal")
    command = ["bash", os.environ["DEVNET_SCRIPT"], *arguments]
    subprocess.run(command, env=environment, check=True, timeout=180, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)


def stop_crime():
    """The second validator client only; `devnet.sh down` would stop the nodes too."""
    pid = int((pathlib.Path(os.environ["DEVNET_ROOT"]) / "run" / "crime.pid").read_text())
    os.kill(pid, signal.SIGTERM)


class Connectivity(threading.Thread):
    """Asks both nodes, every few seconds, who is connected to them, and the watcher how many peers it has."""

    def __init__(self, nodes, api, n_listeners):
        super().__init__(daemon=True)
        self.nodes, self.api, self.n_listeners = nodes, api, n_listeners
        self.own = {node.get("/eth/v1/node/identity")["data"]["peer_id"] for node in nodes}
        self.samples, self.missing, self.listeners = 0, [], set()
        self.stopped = threading.Event()
        self.started = time.monotonic()

    def listeners_of(self, node):
        peers = node.connected_peers()
        return None if peers is None else peers - self.own

    def run(self):
        while not self.stopped.wait(3):
            for node in self.nodes:
                listeners = self.listeners_of(node)
                if listeners is None:
                    continue  # the node was busy
                self.samples += 1
                self.listeners |= listeners
                if len(listeners) < self.n_listeners:
                    self.missing.append((round(time.monotonic() - self.started), node.url, len(listeners)))
            status = self.api.get("/v1/status")
            if status and status["peers"] != len(self.nodes):
                self.missing.append((round(time.monotonic() - self.started), "watcher", status["peers"]))

    def stop(self):
        self.stopped.set()
        self.join()


def check_findings(report, scene, findings, truth):
    by_kind = lambda kind: [f for f in findings if f["kind"] == kind]
    proposals = {(int(f["validator"]["index"]), int(f["slot"])) for f in by_kind("double_proposal")}
    votes = {(int(f["validator"]["index"]), int(f["epoch"])) for f in by_kind("double_vote")}
    for name, real, found in [
        ("double proposals", truth.double_proposals(), proposals),
        ("double votes", truth.double_votes(), votes),
    ]:
        missed = sorted(real - found)
        report.check(not missed, f"{name}: {len(real)} real ones in both nodes' blocks, {len(found)} found, missed: {missed[:5] or 'none'}")
    report.check(truth.unresolved == 0, f"ground truth is complete ({truth.unresolved} attestations without committee)")
    report.check(bool(truth.double_proposals() if scene.name == "connected" else truth.double_votes()), "there was a crime to find")
    innocent = sorted({int(f["validator"]["index"]) for f in findings} - set(scene.criminals))
    report.check(not innocent, f"nobody innocent accused: {innocent[:5] or 'none'}")
    latencies = [unix_seconds(f["recorded_at"]) - unix_seconds(f["second_seen"]) for f in findings]
    if report.check(bool(latencies), f"{len(findings)} findings of {len({f['validator']['index'] for f in findings})} validators"):
        median, worst = statistics.median(latencies), max(latencies)
        text = f"second message to finding on disk: median {median * 1e3:.0f} ms, worst {worst * 1e3:.0f} ms"
        report.check(min(latencies) >= 0 and worst < MAX_LATENCY_S, text)


def check_slashed(report, node, convicted, text, slot_seconds):
    """Waits until the node's own state says that all of them are slashed, or the client has stopped making blocks."""
    started, head, since = time.monotonic(), node.head_slot(), time.monotonic()

    def settled():
        nonlocal head, since
        if node.head_slot() != head:
            head, since = node.head_slot(), time.monotonic()
        stalled = time.monotonic() - since > STALLED_SLOTS * slot_seconds
        return stalled or all(node.is_slashed(v) for v in convicted)

    wait_for(settled, SLASHED_WITHIN_S)
    spared, held = sorted(v for v in convicted if not node.is_slashed(v)), []
    if spared and time.monotonic() - since > STALLED_SLOTS * slot_seconds:
        held = sorted(set(spared) & node.accused_in_pool())
        print(f"    the client has made no block since slot {head}; it took the proofs against {held} for valid and holds them", flush=True)
        spared = sorted(set(spared) - set(held))
    slashed = len(convicted) - len(held) - len(spared)
    text = f"{slashed} of {len(convicted)} validators {text} are slashed on chain after {time.monotonic() - started:.0f} s"
    report.check(not spared, f"{text}, spared: {spared or 'none'}")


def check_proofs(report, api, node, findings, slot_seconds):
    """Posts a few proofs and waits until the node's own state says that the validators they convict are slashed."""
    by_proof = {}
    for finding in findings:
        by_proof.setdefault(finding["evidence"]["id"], []).append(finding)
    chosen, convicted = [], set()
    for kind, at_most in N_PROOFS.items():
        proofs = [group for group in by_proof.values() if group[0]["evidence"]["type"] == kind]
        for group in proofs[:at_most]:
            chosen.append(group)
    if not report.check(bool(chosen), "there are proofs to post"):
        return
    for group in chosen:
        kind = group[0]["evidence"]["type"]
        proof = api.evidence(group[0])
        status, answer = node.post(f"/eth/v1/beacon/pool/{kind}s", proof)
        # An earlier proof of the list may have got the validator slashed already: then the node need not take this one.
        known = all(node.is_slashed(int(f["validator"]["index"])) for f in group)
        report.check(status == 200 or known, f"{kind} of {len(group)} validators posted: {status} {answer[:120]}")
        convicted |= {int(f["validator"]["index"]) for f in group}
    check_slashed(report, node, convicted, f"convicted by {len(chosen)} posted proofs", slot_seconds)


def check_submissions(report, api, node, findings, slot_seconds):
    """The watcher, started again on the same data with submission switched on, hands over what is not yet punished."""
    accused = {}
    for finding in findings:
        accused.setdefault(finding["evidence"]["id"], set()).add(int(finding["validator"]["index"]))
    def wanted():
        """Those that the watcher holds to be neither in a block nor too late."""
        return {f["evidence"]["id"] for f in api.findings() or findings if f["punishable"] == "yes" and not f["included"]}

    def listed():
        page = api.get("/v1/submissions?limit=1000")
        return page["submissions"] if page else []

    n_wanted = len(wanted())
    wait_for(lambda: wanted() <= {one["evidence"] for one in listed() if one["state"] != "pending"}, SUBMITTED_WITHIN_S)
    by_state, all_of_them = {}, listed()
    for one in all_of_them:
        by_state.setdefault(one["state"], []).append(one)
    text = ", ".join(f"{len(some)} {state}" for state, some in sorted(by_state.items())) or "none"
    accepted = by_state.get("accepted", [])
    report.check(bool(accepted) and set(by_state) <= {"accepted", "not_needed"}, f"submitted by itself, {n_wanted} wanted: {text}")
    for one in by_state.get("refused", [])[:3]:
        print(f"    refused: {one['answer']}")
    genesis = int(node.get("/eth/v1/beacon/genesis")["data"]["genesis_time"])
    in_slot = {}
    for one in accepted:
        seconds = datetime.fromisoformat(one["last_attempt"][:19] + "+00:00").timestamp() - genesis
        key = (one["type"], int(seconds // slot_seconds))
        in_slot[key] = in_slot.get(key, 0) + 1
    most = max((n for (kind, _), n in in_slot.items() if kind == "attester_slashing"), default=0)
    report.check(most <= ATTESTER_SLASHINGS_PER_BLOCK, f"attester slashings in one slot: {most} at most")
    convicted = {validator for one in accepted for validator in accused.get(one["evidence"], ())}
    check_slashed(report, node, convicted, "accused by them", slot_seconds)


def check_replay(report, binary, folder, live, since_slot):
    out = folder / "replayed.jsonl"
    command = [binary, "replay", folder / "capture.e2s", "--data-dir", folder / "replay-data", "--findings", out]
    done = subprocess.run([str(part) for part in command], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=600)
    if not report.check(done.returncode == 0, f"the capture replays (exit {done.returncode})"):
        print(done.stderr[-2000:])
        return
    # Before that slot one of the two may have been connected and the other not yet.
    by_id = lambda findings: {f["id"]: f for f in findings if f["evidence"] and int(f["slot"]) >= since_slot}
    replayed, known = by_id(map(json.loads, out.read_text().splitlines())), by_id(live)
    describe = lambda f: f"{f['kind']} of {f['validator']['index']} at slot {f['slot']}"
    lost = [describe(f) for i, f in known.items() if i not in replayed]
    added = [describe(f) for i, f in replayed.items() if i not in known]
    text = f"replayed ids equal live ones: {len(known)} live, {len(replayed)} replayed, lost {lost[:3] or 'none'}, added {added[:3] or 'none'}"
    report.check(not lost and not added, text)


def play(scene, binary, folder, report):
    folder.mkdir(parents=True)
    taken = [port for port in DEVNET_PORTS if free_port(port) is None]
    if not report.check(not taken, f"the client's ports are free, taken: {taken or 'none'}"):
        return
    print(f"{scene.name}: {scene.slot_seconds}-s slots, validators {scene.criminals[0]}..{scene.criminals[-1]} signing twice "
          f"for {scene.crime_seconds} s", flush=True)
    nodes = [Node("http://127.0.0.1:9596"), Node("http://127.0.0.1:9597")]
    crime = lambda: devnet("crime", f"{scene.criminals[0]}..{scene.criminals[-1]}", slot_seconds=scene.slot_seconds)
    # A check that was killed leaves its network's folder behind, and a network started in it would go on with the old genesis.
    devnet("down", slot_seconds=scene.slot_seconds)
    devnet("up", *(["split"] if scene.name == "split" else []), slot_seconds=scene.slot_seconds)
    if scene.name == "split":
        crime()  # at once: this client takes no duties on an empty half that is more than an epoch behind the clock
    if not report.check(wait_for(lambda: nodes[0].head_slot() >= 1, UP_WITHIN_S), "the client makes blocks"):
        return devnet("down", slot_seconds=scene.slot_seconds)

    api_port = free_port()
    write_config(folder / "run.toml", folder / "run-data", nodes, api_port)
    write_config(folder / "capture.toml", folder / "capture-data", nodes, None)
    recorder = Process(binary, ["capture", "--config", folder / "capture.toml", "--out", folder / "capture.e2s"], folder / "capture.log")
    watcher = Process(binary, ["run", "--config", folder / "run.toml"], folder / "run.log")
    api = Api(api_port)
    try:
        if not report.check(api.wait_ready(watcher, 60), "ready"):
            print(watcher.log_tail())
            return
        connectivity = Connectivity(nodes, api, n_listeners=2)
        both = lambda: all(len(connectivity.listeners_of(node) or ()) >= 2 for node in nodes)
        report.check(wait_for(both, 60), "both nodes are connected to both listeners")
        connectivity.start()
        truth = Truth(nodes, since_slot=max(node.head_slot() for node in nodes) + 2, poll_seconds=scene.slot_seconds)
        truth.start()
        time.sleep(2 * scene.slot_seconds)
        if scene.name != "split":
            crime()
        until = time.monotonic() + scene.crime_seconds
        while time.monotonic() < until and watcher.running() and recorder.running():
            time.sleep(1)
        stop_crime()
        # What the second signer said in its last slot is included one slot later, and polled one later again.
        time.sleep(3 * scene.slot_seconds)
        truth.stop()
        connectivity.stop()
        print(f"  status: {json.dumps(api.get('/v1/status'))[:600]}", flush=True)

        findings = api.findings()
        if report.check(findings is not None, "the API answers"):
            text = f"connected all the time: {connectivity.samples} samples in {time.monotonic() - connectivity.started:.0f} s"
            report.check(not connectivity.missing and connectivity.samples > 0, f"{text}, missing: {connectivity.missing[:4] or 'none'}")
            check_findings(report, scene, findings, truth)
            check_proofs(report, api, nodes[0], findings, scene.slot_seconds)
            findings = api.findings() or findings  # the posted operations were heard too
            if scene.name == "connected":
                report.check(watcher.stop() == 0, "stopped, to be started with submission switched on")
                write_config(folder / "run.toml", folder / "run-data", nodes, api_port, submits=True)
                watcher = Process(binary, ["run", "--config", folder / "run.toml"], folder / "run-submitting.log")
                if report.check(api.wait_ready(watcher, 60), "ready again"):
                    check_submissions(report, api, nodes[0], findings, scene.slot_seconds)
                    findings = api.findings() or findings
        stopped = {"run": watcher.stop(), "capture": recorder.stop()}
        report.check(set(stopped.values()) == {0}, f"stopped cleanly: exit codes {stopped}")
        check_replay(report, binary, folder, findings or [], truth.since_slot)
    finally:
        for process in (watcher, recorder):
            process.stop()
        for log in (pathlib.Path(os.environ["DEVNET_ROOT"]) / "run").glob("*/log"):
            shutil.copy(log, folder / f"client-{log.parent.name}.log")
        devnet("down", slot_seconds=scene.slot_seconds)


def main():
    parser = arguments()
    parser.add_argument("--short", action="store_true")
    given = parser.parse_args()
    some, everyone = range(24), range(64)
    scenes = (
        [Scene("connected", some, 75, 3), Scene("split", everyone, 40, 2)]
        if given.short
        else [Scene("connected", some, 1800, 6), Scene("split", everyone, 300, 2)]
    )

    def run(folder, report):
        for scene in scenes:
            play(scene, given.binary, folder / scene.name, report)

    return run_check("real client", run, given.keep)


if __name__ == "__main__":
    sys.exit(main())
