"""Who really equivocated, from the nodes' own REST APIs: shares nothing with the program under test.

A double proposal: two roots for one slot and proposer, over what both nodes know. A double vote: two different
AttestationData with one target epoch, over the attestations in all blocks that both nodes know. Votes that no block
included are not in here, so the watcher may know more; it may not know less.
"""

import json
import threading

SLOTS_PER_EPOCH = 8  # minimal preset
LOOK_BACK_SLOTS = 12


def bits(bitlist_hex):
    """Positions of the ones in an SSZ bitlist; its highest one is the delimiter."""
    number = int.from_bytes(bytes.fromhex(bitlist_hex[2:]), "little")
    return [i for i in range(number.bit_length() - 1) if number >> i & 1]


class Truth(threading.Thread):
    """Polls both nodes until stopped. `since_slot`: what is older is nobody's fault, the watcher was not there."""

    def __init__(self, nodes, since_slot, poll_seconds):
        super().__init__(daemon=True)
        self.nodes, self.since_slot, self.poll_seconds = nodes, since_slot, poll_seconds
        self.stopped = threading.Event()
        self.proposals = {}  # (slot, proposer) -> roots
        self.votes = {}  # (validator, target epoch) -> {data as JSON: (source, slot)}
        self.unresolved = 0  # attestations whose committee no node would tell
        self.slots = set()
        self._read = set()  # block roots done
        self._committees = {}  # (node, epoch) -> {(slot, index): validators}

    def run(self):
        while not self.stopped.is_set():
            self.poll()
            self.stopped.wait(self.poll_seconds)

    def stop(self):
        self.stopped.set()
        self.join()
        self.poll()

    def poll(self):
        for number, node in enumerate(self.nodes):
            head = node.head_slot()
            if head < 0:
                continue
            for epoch in (head // SLOTS_PER_EPOCH - 1, head // SLOTS_PER_EPOCH):
                if epoch >= 0 and not self._committees.get((number, epoch)):
                    self._committees[number, epoch] = node.committees(epoch, SLOTS_PER_EPOCH)
            for slot in range(max(self.since_slot, head - LOOK_BACK_SLOTS), head + 1):
                for root, proposer in node.headers_at(slot):
                    self.slots.add(slot)
                    self.proposals.setdefault((slot, proposer), set()).add(root)
                    if root not in self._read:
                        block = node.block(root)
                        if block:
                            self._read.add(root)
                            self._add_votes(number, block)

    def _add_votes(self, number, block):
        for attestation in block["body"]["attestations"]:
            data = attestation["data"]
            slot, epoch = int(data["slot"]), int(data["target"]["epoch"])
            if slot < self.since_slot:
                continue
            seats = self._committees.get((number, epoch), {}).get((slot, int(data["index"])))
            if seats is None:
                self.unresolved += 1
                continue
            text = json.dumps(data, sort_keys=True)
            for position in bits(attestation["aggregation_bits"]):
                self.votes.setdefault((seats[position], epoch), {})[text] = (int(data["source"]["epoch"]), slot)

    def double_proposals(self):
        """{(validator, slot)}"""
        return {(proposer, slot) for (slot, proposer), roots in self.proposals.items() if len(roots) > 1}

    def double_votes(self):
        """{(validator, target epoch)}"""
        return {key for key, different in self.votes.items() if len(different) > 1}
