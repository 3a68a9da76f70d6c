#!/usr/bin/env python3
"""What mayflyd holds, collects and restores over its life: provisioned instances, garbage, kill -9."""

import concurrent.futures
import glob
import json
import os
import re
import signal
import subprocess
import time

import harness
from daemon import MAYFLYD, PATIENCE_S, Daemon
from harness import need_kvm

suite = harness.Suite("restart")
GONE_S = 20  # what has to go "at once" may take so long on a slow day


def wait_until(condition, what, seconds=GONE_S):
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, f"not within {seconds} s: {what}"
        time.sleep(0.1)


def metrics(daemon):
    """The daemon's figures, by name and labels."""
    text = subprocess.run(["curl", "-s", "--unix-socket", os.path.join(daemon.state, "mayflyd.sock"),
                           "http://localhost/metrics"], capture_output=True, text=True, check=True,
                          timeout=60).stdout
    found = {}
    for line in text.splitlines():
        if line and not line.startswith("#"):
            name, value = line.rsplit(" ", 1)
            found[name] = float(value)
    return found


def starts(daemon, function, kind):
    """How many events of @function began so."""
    return sum(value for name, value in metrics(daemon).items()
               if "starts_total" in name and f'"{function}"' in name and f'"{kind}"' in name)


def instances_in(daemon):
    return set(os.listdir(os.path.join(daemon.state, "run")))


def leaves():
    """Control groups of VMs, by hierarchy: {instance: [directories]}."""
    found = {}
    for path in glob.glob("/sys/fs/cgroup/mayfly/*/") + glob.glob("/sys/fs/cgroup/*/mayfly/*/"):
        found.setdefault(os.path.basename(path.rstrip("/")), []).append(path)
    return found


def processes_in(paths):
    found = set()
    for path in paths:
        try:
            with open(os.path.join(path, "cgroup.procs"), encoding="ascii") as file:
                found |= {int(pid) for pid in file.read().split()}
        except FileNotFoundError:
            pass
    return found


@suite.case
def only_one_daemon_a_state():
    daemon = Daemon("one", images=False)
    done = subprocess.run([MAYFLYD, *daemon.arguments], capture_output=True, text=True, check=False,
                          timeout=60)
    assert done.returncode == 3, done
    assert f"mayflyd with process id {daemon.process.pid} serves" in done.stderr, done.stderr
    assert "--state" in done.stderr, done.stderr
    daemon.aws("list-functions")  # the first one is none the worse
    # Killed, it is free, and the stale socket is in nobody's way.
    daemon.stop(signal.SIGKILL)
    daemon.start()
    daemon.aws("list-functions")
    assert daemon.stop() == 0


@suite.case
def killed_with_live_guests():
    need_kvm()
    daemon = Daemon("killed", snapshots=True, config="shells: 1\nunsigned_loopback: true\n")
    daemon.deploy("f", "--timeout", "60")
    assert daemon.wait_active("f")["State"] == "Active", daemon.lines
    with concurrent.futures.ThreadPoolExecutor(3) as pool:
        list(pool.map(lambda i: daemon.invoke("f", {"sleep": 2}, out=f"o{i}"), range(3)))
        busy = pool.submit(daemon.aws, "invoke", "--function-name", "f", "--payload",
                           '{"sleep": 50}', "--cli-binary-format", "raw-in-base64-out", "busy",
                           fails="onnection")
        wait_until(lambda: metrics(daemon)['mayfly_instances{state="busy"}'] == 1, "one is busy")
        before = instances_in(daemon)
        mine = {name: paths for name, paths in leaves().items() if name in before}
        monitors = daemon.monitors()
        assert len(before) >= 3 and len(monitors) >= 3, (before, monitors)
        if mine:
            assert monitors == processes_in(path for paths in mine.values() for path in paths)
        builds = len(snapshots_of(daemon))
        # One of them reads no control socket and takes no time to die of it.
        os.kill(min(monitors), signal.SIGSTOP)
        daemon.stop(signal.SIGKILL)
        daemon.start()
        try:
            wait_until(lambda: not any(os.path.exists(f"/proc/{pid}") for pid in monitors),
                       "monitors gone")
            wait_until(lambda: not before & instances_in(daemon), "directories and sockets gone")
            wait_until(lambda: not before & set(leaves()), "control groups gone")
        finally:
            busy.result()
    _, body = daemon.invoke("f", {"text": "a b"})
    assert json.loads(body)["words"] == 2
    assert starts(daemon, "f", "cold") == 0, metrics(daemon)
    assert len(snapshots_of(daemon)) == builds
    assert daemon.stop() == 0
    assert not daemon.monitors()
    assert not instances_in(daemon)


def snapshots_of(daemon):
    """Names of the functions' snapshots in its store."""
    return {os.path.basename(path)[:-len(".json")]
            for path in glob.glob(os.path.join(daemon.state, "snapshots", "names", "function-*"))}


if __name__ == "__main__":
    suite.main()
