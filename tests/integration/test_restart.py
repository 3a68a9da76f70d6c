#!/usr/bin/env python3
"""What mayflyd holds, collects and restores over its life: provisioned instances, garbage, kill -9."""

import concurrent.futures
import glob
import json
import os
import signal
import sqlite3
import subprocess
import time

import harness
from daemon import APP, MAYFLYD, PATIENCE_S, Daemon, make_zip, work
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
        for answer, body in pool.map(lambda i: daemon.invoke("f", {"sleep": 2}, out=f"o{i}"), range(3)):
            assert "FunctionError" not in answer, body
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
        wait_until(lambda: os.path.exists(os.path.join(daemon.state, "recent")), "it is noted as used")
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
    # What was in use is ready for its next event before that comes.
    wait_until(lambda: metrics(daemon)["mayfly_shells_ready"] == 1, "a shell of its shape")
    _, body = daemon.invoke("f", {"text": "a b"})
    assert json.loads(body)["words"] == 2
    assert starts(daemon, "f", "cold") == 0, metrics(daemon)
    assert len(snapshots_of(daemon)) == builds
    assert daemon.stop() == 0
    assert not daemon.monitors()
    assert not instances_in(daemon)


def provisioned(daemon, qualifier):
    """(Status, Requested, Allocated, Available)"""
    got = daemon.aws("get-provisioned-concurrency-config", "--function-name", "p", "--qualifier", qualifier)
    return (got["Status"],) + tuple(got[f"{word}ProvisionedConcurrentExecutions"]
                                    for word in ("Requested", "Allocated", "Available"))


def publish(daemon, name):
    version = daemon.aws("publish-version", "--function-name", name)["Version"]
    wait_until(lambda: daemon.aws("get-function-configuration", "--function-name", name, "--qualifier",
                                  version)["State"] == "Active", "published", PATIENCE_S)
    return version


@suite.case
def provisioned_instances():
    need_kvm()
    daemon = Daemon("provisioned", snapshots=True, config="shells: 1\nkeep_alive_s: 3600\n")
    daemon.deploy("p")
    daemon.wait_active("p")
    assert publish(daemon, "p") == "1"
    daemon.aws("create-alias", "--function-name", "p", "--name", "live", "--function-version", "1")
    put = daemon.aws("put-provisioned-concurrency-config", "--function-name", "p", "--qualifier", "live",
                     "--provisioned-concurrent-executions", "2")
    assert put["Status"] == "IN_PROGRESS" and put["RequestedProvisionedConcurrentExecutions"] == 2, put
    wait_until(lambda: provisioned(daemon, "live") == ("READY", 2, 2, 2), "ready")
    before = starts(daemon, "p", "restored") + starts(daemon, "p", "cold")
    for _ in range(2):
        answer, body = daemon.invoke("p", {"text": "a"}, "--qualifier", "live")
        assert answer["ExecutedVersion"] == "1" and json.loads(body)["words"] == 1, (answer, body)
    assert starts(daemon, "p", "warm") == 2
    assert starts(daemon, "p", "restored") + starts(daemon, "p", "cold") == before
    # A daemon that starts again holds them again, before anybody asks.
    assert daemon.stop() == 0
    daemon.start()
    wait_until(lambda: provisioned(daemon, "live") == ("READY", 2, 2, 2), "ready after a restart")
    daemon.invoke("p", {"text": "a"}, "--qualifier", "live")
    assert starts(daemon, "p", "warm") == 1 and starts(daemon, "p", "restored") == 0
    # What nobody asks for any more is let go at once, whatever the keep-alive is.
    daemon.aws("delete-provisioned-concurrency-config", "--function-name", "p", "--qualifier", "live")
    wait_until(lambda: metrics(daemon)['mayfly_instances{state="idle"}'] == 0, "let go")
    daemon.aws("get-provisioned-concurrency-config", "--function-name", "p", "--qualifier", "live",
               fails="ProvisionedConcurrencyConfigNotFoundException")
    assert daemon.stop() == 0


@suite.case
def garbage_goes():
    need_kvm()
    daemon = Daemon("garbage", snapshots=True, config="shells: 1\n")
    daemon.deploy("g", source=APP)
    daemon.wait_active("g")
    first = snapshots_of(daemon)
    assert len(first) == 1 and code_of(daemon) == 1, first
    make_zip(os.path.join(work, "g2.zip"), APP + "# 2\n")
    daemon.aws("update-function-code", "--function-name", "g", "--zip-file", "fileb://g2.zip")
    daemon.wait_active("g")
    wait_until(lambda: len(snapshots_of(daemon)) == 1 and not first & snapshots_of(daemon)
               and code_of(daemon) == 1, "the older build gone")
    _, body = daemon.invoke("g", {"text": "a b"})
    assert json.loads(body)["words"] == 2
    others = set(glob.glob(os.path.join(daemon.state, "snapshots", "names", "*")))
    daemon.aws("delete-function", "--function-name", "g")
    wait_until(lambda: not snapshots_of(daemon) and code_of(daemon) == 0, "all of it gone")
    left = set(glob.glob(os.path.join(daemon.state, "snapshots", "names", "*")))
    assert len(others) - len(left) == 1, others - left  # the runtime's levels stay
    assert daemon.stop() == 0


def code_of(daemon):
    return len(glob.glob(os.path.join(daemon.state, "code", "*.zip")))


def snapshots_of(daemon):
    """Names of its functions' snapshots: the store is shared with others, so by the registry's label."""
    with sqlite3.connect(f"file:{daemon.state}/mayfly.db?mode=ro", uri=True) as database:
        identity = database.execute("SELECT value FROM counters WHERE name = 'identity'").fetchone()[0]
    label = f"function-{identity & (2**64 - 1):016x}.*"
    return {os.path.basename(path)
            for path in glob.glob(os.path.join(daemon.state, "snapshots", "names", label))}


if __name__ == "__main__":
    suite.main()
