"""Configures and asks the program under test."""

import json
import time
import urllib.request

from rest import UNREACHABLE


def write_config(path, data_dir, nodes, api_port, submits=False, more=""):
    """Both nodes as peers and as REST nodes. No listening: these are all the peers there are. `more` is further tables."""
    urls = ", ".join(f'"{node.url}"' for node in nodes)
    peers = ", ".join(f'"{node.multiaddr()}"' for node in nodes)
    api = f'enabled = true\nlisten = "127.0.0.1:{api_port}"' if api_port else "enabled = false"
    path.write_text(
        f'data_dir = "{data_dir}"\n'
        f"[nodes]\nurls = [{urls}]\nrefresh_epochs = 8\n"
        f"[gossip]\nlisten = []\npeers = [{peers}]\n"
        f"[api]\n{api}\n"
        f"[submission]\nenabled = {str(submits).lower()}\n"
        '[log]\nlevel = "info"\n' + more
    )


class Api:
    """The watcher's own HTTP API."""

    def __init__(self, port):
        self.url = f"http://127.0.0.1:{port}"

    def get(self, path):
        try:
            with urllib.request.urlopen(self.url + path, timeout=10) as answer:
                return json.load(answer)
        except UNREACHABLE:
            return None

    def wait_ready(self, watcher, seconds):
        until = time.monotonic() + seconds
        while time.monotonic() < until and watcher.running():
            try:
                with urllib.request.urlopen(self.url + "/readyz", timeout=5) as answer:
                    if answer.status == 200:
                        return True
            except UNREACHABLE:
                pass
            time.sleep(0.5)
        return False

    def findings(self):
        """All slashable findings, page by page. Anomalies, which have no proof, are not what is checked here."""
        found, cursor = [], None
        while True:
            page = self.get("/v1/findings?limit=1000" + (f"&cursor={cursor}" if cursor else ""))
            if page is None:
                return None
            found += [finding for finding in page["findings"] if finding["evidence"]]
            cursor = page["next"]
            if not cursor:
                return found

    def evidence(self, finding):
        """The proof as JSON, ready to be posted to a node."""
        return self.get(f"/v1/findings/{finding['id']}/evidence")
