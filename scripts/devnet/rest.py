"""A beacon node's REST API, as far as the check needs it, with the quirks of the client we test against."""

import http.client
import json
import urllib.error
import urllib.request

TIMEOUT_S = 10
UNREACHABLE = (OSError, ValueError, http.client.HTTPException)


class Node:
    """One beacon node. Failures of a single request come back as None: the caller polls again."""

    def __init__(self, url):
        self.url = url

    def get(self, path):
        try:
            with urllib.request.urlopen(self.url + path, timeout=TIMEOUT_S) as answer:
                return json.load(answer)
        except UNREACHABLE:
            return None

    def post(self, path, body):
        """Returns the status code and the answer's text."""
        request = urllib.request.Request(self.url + path, json.dumps(body).encode(), {"Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()
        except OSError as error:
            return 0, str(error)

    def multiaddr(self):
        """Where its peers dial it, loopback TCP."""
        identity = self.get("/eth/v1/node/identity")
        return next(address for address in identity["data"]["p2p_addresses"] if "/ip4/127.0.0.1/tcp/" in address)

    def head_slot(self):
        answer = self.get("/eth/v1/node/syncing")
        return int(answer["data"]["head_slot"]) if answer else -1

    def headers_at(self, slot):
        """Every block of that slot it knows, canonical or not: (root, proposer)."""
        answer = self.get(f"/eth/v1/beacon/headers?slot={slot}")
        return [(h["root"], int(h["header"]["message"]["proposer_index"])) for h in answer["data"]] if answer else []

    def block(self, root):
        answer = self.get(f"/eth/v2/beacon/blocks/{root}")
        return answer["data"]["message"] if answer else None

    def committees(self, epoch, slots_per_epoch):
        """{(slot, committee index): validators}. This client names the two the other way round, and counts slots from 0."""
        answer = self.get(f"/eth/v1/beacon/states/head/committees?epoch={epoch}")
        if not answer:
            return {}
        rows = [(int(row["index"]), int(row["slot"]), [int(v) for v in row["validators"]]) for row in answer["data"]]
        if all(slot >= epoch * slots_per_epoch for _, slot, _ in rows) and epoch > 0:
            return {(slot, index): validators for index, slot, validators in rows}  # a client without the quirk
        return {(epoch * slots_per_epoch + slot, index): validators for slot, index, validators in rows}

    def is_slashed(self, validator):
        answer = self.get(f"/eth/v1/beacon/states/head/validators/{validator}")
        return bool(answer and answer["data"]["validator"]["slashed"])

    def accused_in_pool(self):
        """Validators against whom it holds a slashing for one of its next blocks: it has checked the signatures, or would not hold it."""
        proposers = self.get("/eth/v1/beacon/pool/proposer_slashings") or {"data": []}
        accused = {int(one["signed_header_1"]["message"]["proposer_index"]) for one in proposers["data"]}
        for one in (self.get("/eth/v1/beacon/pool/attester_slashings") or {"data": []})["data"]:
            accused |= {int(v) for v in one["attestation_1"]["attesting_indices"]} & {int(v) for v in one["attestation_2"]["attesting_indices"]}
        return accused

    def connected_peers(self):
        """Peer ids of everyone connected, as the node sees it."""
        answer = self.get("/eth/v1/node/peers?state=connected")
        return {peer["peer_id"] for peer in answer["data"]} if answer else None
