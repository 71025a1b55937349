"""What both checks against the real client need: telling what held, waiting with a bound, ports, times, processes."""

import argparse
import pathlib
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from datetime import datetime

STOP_SECONDS = 60


class Report:
    """Prints each check as it is made, and counts those that failed."""

    def __init__(self):
        self.failed = 0

    def check(self, held, text):
        print(f"  {'ok    ' if held else 'FAILED'} {text}", flush=True)
        self.failed += not held
        return held


def arguments():
    """What both checks are started with; each adds its own."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--binary", required=True)
    parser.add_argument("--keep", type=pathlib.Path)
    return parser


def run_check(name, run, keep=None):
    """Calls `run` with a folder and a report, and returns the exit code. The folder stays if something failed, or for `keep`."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    folder = keep or pathlib.Path(tempfile.mkdtemp(prefix="slashwatch-devnet-"))
    folder.mkdir(parents=True, exist_ok=True)
    report, started = Report(), time.monotonic()
    try:
        run(folder.resolve(), report)
    finally:
        took = time.monotonic() - started
        if report.failed or keep:
            print(f"logs, captures and data are in {folder}")
        else:
            shutil.rmtree(folder, ignore_errors=True)
    print(f"{name}: {report.failed or 'no'} checks failed, {took:.0f} s")
    return 1 if report.failed else 0


def wait_for(condition, seconds, every=1.0):
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if condition():
            return True
        time.sleep(every)
    return bool(condition())


def free_port(port=0):
    """That port if it is free, any free one for 0; None if it is taken."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return None
        return probe.getsockname()[1]


def free_ports(count):
    """So many different ports that are free for TCP and for UDP.

    They are below those that the system gives to connections, so that none is taken before its process starts.
    """
    ports = []
    for port in random.sample(range(15_000, 32_000), 1_000):
        with socket.socket() as tcp, socket.socket(type=socket.SOCK_DGRAM) as udp:
            try:
                tcp.bind(("127.0.0.1", port))
                udp.bind(("127.0.0.1", port))
            except OSError:
                continue
        ports.append(port)
        if len(ports) == count:
            return ports
    raise OSError(f"no {count} free ports")


def answered(ask, seconds=60):
    """What it answers as soon as it is not None."""
    answer = None

    def asked():
        nonlocal answer
        answer = ask()
        return answer is not None

    if not wait_for(asked, seconds, 0.5):
        raise TimeoutError(f"no answer within {seconds} s")
    return answer


def unix_seconds(text):
    """RFC 3339 with nanoseconds, which the standard library reads to microseconds only."""
    head, _, fraction = text.rstrip("Z").partition(".")
    return int(datetime.fromisoformat(head + "+00:00").timestamp()) + float("0." + (fraction or "0"))


class Process:
    """A process, its output in a file. `log` is appended to, so that a second start keeps the first one's."""

    def __init__(self, binary, arguments, log, **options):
        self.log = log
        with open(log, "ab") as out:
            command = [str(part) for part in (binary, *arguments)]
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, **options)

    def running(self):
        return self.process.poll() is None

    def stop(self, seconds=STOP_SECONDS):
        """SIGINT, as a user would; the exit code, or None when it had to be killed."""
        if self.running():
            self.process.send_signal(signal.SIGINT)
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            return None

    def log_tail(self, lines=15):
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])
