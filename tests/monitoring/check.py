"""A real Prometheus and Alertmanager over a real watcher.

`check.py BINARY` starts `slashwatch demo`, Prometheus with monitoring/prometheus.yml and rules.yml, and Alertmanager with
monitoring/alertmanager.yml, all on loopback and on free ports. Checked are
  - Prometheus scrapes the watcher and has loaded every rule without an error;
  - every expression of every dashboard is taken by Prometheus, and those about what a demo has give an answer;
  - the slashing wave of the demo arrives in Alertmanager, with a link that answers, and is handed on to a receiver;
  - the offences that make up the wave are inhibited by it;
  - the alert that always fires reaches the receiver too.
Everything that is started is stopped, whatever happens. Needs nothing but Python's standard library.
"""

import http.server
import json
import pathlib
import re
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.parse
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parents[2]
MONITORING = ROOT / "monitoring"
WAIT_SECONDS = 45


def free_port():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


def get(url):
    with urllib.request.urlopen(url, timeout=5) as answer:
        return json.load(answer)


def wait_for(what, ask):
    """Repeats `ask` until it gives something."""
    until, last = time.monotonic() + WAIT_SECONDS, None
    while time.monotonic() < until:
        try:
            if found := ask():
                return found
        except (OSError, ValueError) as error:
            last = error
        time.sleep(0.2)
    raise AssertionError(f"{what} did not happen in {WAIT_SECONDS} s ({last})")


def replaced(text, old, new):
    assert old in text, f"{old!r} is not in the shipped file any more"
    return text.replace(old, new)


class Receiver(http.server.BaseHTTPRequestHandler):
    """Keeps the names of the alerts that Alertmanager hands on."""

    names = set()

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        Receiver.names |= {alert["labels"]["alertname"] for alert in body["alerts"]}
        self.send_response(204)
        self.end_headers()

    def log_message(self, *_):
        pass


def expressions():
    for path in sorted((MONITORING / "dashboards").glob("*.json")):
        dashboard = json.loads(path.read_text())
        for panel in dashboard["panels"]:
            for target in panel["targets"]:
                expr = target["expr"].replace("$instance", ".*").replace("$__rate_interval", "1m")
                yield f"{path.name}: {panel['title']}", expr


def main(binary, folder, children):
    def start(name, *command, **options):
        log = open(folder / f"{name}.log", "w")
        child = subprocess.Popen(command, stderr=log, stdout=options.get("stdout", log), text=True)
        children.append(child)
        return child

    # A wave within some seconds; the watcher stays up afterwards.
    demo = start("slashwatch", binary, "demo", "--slots", "60", "--slot-ms", "1000", "--stay", "--listen", "127.0.0.1:0", stdout=subprocess.PIPE)
    watcher = next(line for line in demo.stdout if line.startswith("page and API: ")).split("http://")[1].strip()
    threading.Thread(target=lambda: [None for _ in demo.stdout], daemon=True).start()

    sink = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Receiver)
    threading.Thread(target=sink.serve_forever, daemon=True).start()
    hook = f"webhook_configs: [{{url: 'http://127.0.0.1:{sink.server_port}/'}}]"

    alertmanager_port, prometheus_port = free_port(), free_port()
    text = (MONITORING / "alertmanager.yml").read_text()
    for receiver in ["people", "dead-man"]:
        text = re.sub(rf"- name: {receiver}\b.*", f"- {{name: {receiver}, {hook}}}", text)
    text = replaced(text, "group_wait: 10s", "group_wait: 1s")
    (folder / "alertmanager.yml").write_text(text)
    start(
        "alertmanager", "prometheus-alertmanager", f"--config.file={folder}/alertmanager.yml", f"--storage.path={folder}/am",
        f"--web.listen-address=127.0.0.1:{alertmanager_port}", "--cluster.listen-address=",
    )
    text = (MONITORING / "prometheus.yml").read_text()
    text = replaced(text, "127.0.0.1:9093", f"127.0.0.1:{alertmanager_port}")
    text = replaced(text, "127.0.0.1:5080", watcher)
    text = replaced(text, "rule_files: [rules.yml]", f"rule_files: ['{MONITORING}/rules.yml']")
    text = replaced(text, "interval: 15s", "interval: 1s")
    (folder / "prometheus.yml").write_text(text)
    start(
        "prometheus", "prometheus", f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/tsdb",
        f"--web.listen-address=127.0.0.1:{prometheus_port}",
    )
    prometheus, alertmanager = f"http://127.0.0.1:{prometheus_port}", f"http://127.0.0.1:{alertmanager_port}"

    def up():
        targets = get(f"{prometheus}/api/v1/targets")["data"]["activeTargets"]
        return [target for target in targets if target["health"] == "up"]

    wait_for("a scrape of the watcher", up)
    print(f"ok      Prometheus scrapes {watcher}")

    def alert(name):
        found = get(f"{alertmanager}/api/v2/alerts")
        return next((one for one in found if one["labels"]["alertname"] == name), None)

    wave = wait_for("the wave in Alertmanager", lambda: alert("SlashwatchSlashingWave"))
    with urllib.request.urlopen(wave["annotations"]["link"], timeout=5) as page:
        assert page.status == 200, page.status
    print(f"ok      the wave is in Alertmanager, and {wave['annotations']['link']} answers")
    wait_for("the offences, inhibited by the wave", lambda: (alert("SlashwatchOffence") or {"status": {"inhibitedBy": []}})["status"]["inhibitedBy"])
    print("ok      the wave inhibits its offences")
    wanted = {"SlashwatchSlashingWave", "SlashwatchOwnKeysInDanger", "SlashwatchAlive"}
    wait_for(f"{wanted} at the receiver", lambda: wanted <= Receiver.names)
    assert "SlashwatchOffence" not in Receiver.names, "an inhibited alert was handed on"
    print(f"ok      the receiver has {', '.join(sorted(Receiver.names))}")

    rules = [rule for group in get(f"{prometheus}/api/v1/rules")["data"]["groups"] for rule in group["rules"]]
    assert len(rules) > 10 and all(rule["health"] == "ok" for rule in rules), rules
    answered = total = 0
    for place, expr in expressions():
        try:
            result = get(f"{prometheus}/api/v1/query?" + urllib.parse.urlencode({"query": expr}))["data"]["result"]
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{place}: Prometheus refuses {expr}: {error.read().decode()}") from None
        total, answered = total + 1, answered + bool(result)
    # What a demo does not have: an unknown fork, records of discovery, refusals.
    assert answered >= total * 3 // 4, f"only {answered} of {total} expressions have an answer"
    print(f"ok      {len(rules)} rules, {total} expressions of dashboards ({answered} with data)")


if __name__ == "__main__":
    children, started = [], time.monotonic()
    with tempfile.TemporaryDirectory(prefix="monitoring-test-") as name:
        try:
            main(sys.argv[1], pathlib.Path(name), children)
        except BaseException:
            for log in pathlib.Path(name).glob("*.log"):
                print(f"-- {log.name}\n{log.read_text()[-2000:]}", file=sys.stderr)
            raise
        finally:
            for child in children:
                child.terminate()
            for child in children:
                child.wait()
    print(f"monitoring: all green in {time.monotonic() - started:.0f} s")
