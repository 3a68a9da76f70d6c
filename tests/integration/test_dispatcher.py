#!/usr/bin/env python3
"""The dispatcher and its pools with real guests: starts, crashes, limits, what is left behind."""

import concurrent.futures
import itertools
import json
import os
import select
import shutil
import signal
import subprocess
import tempfile
import threading
import time

import harness
from harness import BUILD, STATE, mayfly, need_kvm, write_function

suite = harness.Suite("dispatcher")
work = tempfile.mkdtemp(prefix="mayfly-test-dispatcher-")
DRIVER = os.path.join(BUILD, "bin", "dispatcher_driver")

APP = """
import os
import socket
import sys
import time
calls = 0
made = os.urandom(8).hex()
print("init phase")

def handler(event, context):
    global calls
    calls += 1
    print("call", calls)
    if event.get("print"):
        sys.stdout.write("x" * event["print"] + "the end")
    time.sleep(event.get("sleep", 0))
    if event.get("exit") is not None:
        os._exit(event["exit"])
    if event.get("raise"):
        raise ValueError(event["raise"])
    return {"calls": calls, "host": socket.gethostname(), "made": made}
"""


def children(pid):
    """Processes that any thread of @pid has spawned."""
    found = []
    for task in os.listdir(f"/proc/{pid}/task"):
        try:
            with open(f"/proc/{pid}/task/{task}/children", encoding="ascii") as file:
                found += map(int, file.read().split())
        except FileNotFoundError:
            pass
    return found


def kill(pids):
    """Kills, and waits until all threads are dead (reaping is the driver's)."""
    for pid in pids:
        handle = os.pidfd_open(pid)
        os.kill(pid, signal.SIGKILL)
        assert select.select([handle], [], [], 30)[0], "it does not die"
        os.close(handle)


class Dispatcher:
    """A driver process; call() may be used by many threads."""

    def __init__(self):
        need_kvm()
        self.process = subprocess.Popen(
            [DRIVER, STATE, os.path.join(BUILD, "bin", "mayfly-vmm"), "python3.11", "linux-6.12"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.ids = itertools.count(1)
        self.lock = threading.Lock()
        self.waiting = {}
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self):
        for line in self.process.stdout:
            reply = json.loads(line)
            self.waiting[reply["id"]].set_result(reply)

    def begin(self, op, **arguments):
        future = concurrent.futures.Future()
        with self.lock:
            number = next(self.ids)
            self.waiting[number] = future
            self.process.stdin.write(json.dumps({"op": op, "id": number, **arguments}) + "\n")
            self.process.stdin.flush()
        return future

    def call(self, op, **arguments):
        return self.begin(op, **arguments).result(600)

    def invoke(self, function, event=None, **arguments):
        return self.call("invoke", event=event or {}, **function, **arguments)

    def directories(self):
        return {os.readlink(f"/proc/{self.process.pid}/fd/{fd}")
                for fd in os.listdir(f"/proc/{self.process.pid}/fd")
                if "/run/" in os.readlink(f"/proc/{self.process.pid}/fd/{fd}")}

    def __enter__(self):
        return self

    def __exit__(self, kind, value, trace):
        if kind:
            self.process.kill()
        else:
            self.end(30000)

    def end(self, deadline_ms):
        """Ends it, and looks at what it leaves."""
        directories = self.directories()
        assert self.call("shutdown", deadline_ms=deadline_ms)["result"] == 0
        assert children(self.process.pid) == [], "processes are left"
        # The file that VMs' users are locked in is everybody's, and stays open.
        left = [path for path in directories if os.path.exists(path) and not path.endswith("/uids")]
        assert not left, f"directories are left: {left}"
        files = len(os.listdir(f"/proc/{self.process.pid}/fd"))
        assert files <= 5, f"{files} descriptors are open"
        self.process.stdin.close()
        assert self.process.wait(60) == 0


def function(name, source=APP):
    """Code that no other run has seen: its snapshot is not there yet."""
    unique = f"{source}\nUNIQUE = {time.time_ns()}\n"
    return {"name": name, "code": write_function(os.path.join(work, name), unique)}


@suite.case
def starts_and_states():
    """Cold, warm, restored; the init phase once an instance; a burst in parallel."""
    with Dispatcher() as host:
        app = function("starts")
        crowd = [host.begin("invoke", event={"sleep": 1}, **app) for _ in range(3)]
        crowd = [future.result(600) for future in crowd]
        assert [reply["kind"] for reply in crowd] == ["ok"] * 3, crowd
        starts = sorted(reply["start"] for reply in crowd)
        assert starts.count("cold") == 1, starts
        cold = next(reply for reply in crowd if reply["start"] == "cold")
        assert cold["init_us"] > 0 and "init phase" in cold["log"], cold
        warm = host.invoke(app)
        assert warm["start"] == "warm" and warm["payload"]["calls"] == 2, warm
        assert "init phase" not in warm["log"] and "call 2" in warm["log"], warm
        assert 0 < warm["memory"] <= 128 << 20
        assert 0 < warm["duration_us"] <= warm["billed_ms"] * 1000 < warm["duration_us"] + 1000

        burst = [host.begin("invoke", event={"sleep": 2}, **app) for _ in range(8)]
        burst = [future.result(600) for future in burst]
        assert [reply["kind"] for reply in burst] == ["ok"] * 8, burst
        assert len({reply["payload"]["host"] for reply in burst}) == 8, burst
        assert sum(reply["start"] == "restored" for reply in burst) >= 5, burst
        restored = [reply for reply in burst if reply["start"] == "restored"]
        assert all(reply["payload"]["calls"] == 1 for reply in restored), restored
        assert {reply["payload"]["made"] for reply in burst} == {warm["payload"]["made"]}, burst
        print("restored: acquired within us:", sorted(r["acquire_us"] for r in restored),
              "restore us:", sorted(r["restore_us"] for r in restored), "warm us:",
              warm["duration_us"], "acquire us:", warm["acquire_us"])


@suite.case
def failures_are_told_apart():
    with Dispatcher() as host:
        app = function("failures")
        first = host.invoke(app)
        assert first["kind"] == "ok", first

        raised = host.invoke(app, {"raise": "no"})
        assert raised["kind"] == "function error" and raised["payload"]["errorType"] == "ValueError"
        again = host.invoke(app)
        assert again["start"] == "warm" and again["payload"]["calls"] == 3, again

        gone = host.invoke(app, {"exit": 3})
        assert gone["kind"] == "function error", gone
        assert gone["payload"]["errorType"] == "Runtime.ExitError", gone
        after = host.invoke(app)
        assert after["kind"] == "ok" and after["start"] == "restored", after

        late = host.invoke(app, {"sleep": 60}, timeout_ms=1500)
        assert late["kind"] == "timeout" and late["billed_ms"] == 1500, late
        assert "Task timed out after 1.50 seconds" in late["payload"]["errorMessage"], late
        assert host.invoke(app)["kind"] == "ok"

        loud = host.invoke(app, {"print": 20000})
        assert len(loud["log"]) == 4096 and loud["log"].endswith("xxthe end"), loud["log"][-40:]


@suite.case
def killed_monitors():
    """In mid-event: a sandbox error soon after, and the slot is usable again; idle: never used."""
    with Dispatcher() as host:
        app = function("killed")
        assert host.invoke(app)["kind"] == "ok"
        pending = host.begin("invoke", event={"sleep": 60}, timeout_ms=60000, reserved=1, **app)
        deadline = time.monotonic() + 30
        while host.call("status")["busy"] == 0 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert host.invoke(app, reserved=1)["throttle"] == (
            "ReservedFunctionConcurrentInvocationLimitExceeded")
        time.sleep(1)
        began = time.monotonic()
        kill(children(host.process.pid))  # waiting shells too
        died = pending.result(60)
        assert time.monotonic() - began < 30
        assert died["kind"] == "sandbox error", died
        assert "killed by signal 9" in died["payload"]["errorMessage"], died
        after = host.invoke(app, reserved=1)
        assert after["kind"] == "ok" and after["start"] == "restored", after

        kill(children(host.process.pid))
        after = host.invoke(app)
        assert after["kind"] == "ok" and after["start"] == "restored", after
        status = host.call("status")
        assert status["busy"] == 0 and status["shells_died"] > 0, status


@suite.case
def limits_and_tenants():
    with Dispatcher() as host:
        app = function("limits")
        assert host.call("build", **app)["kind"] == "ok"
        built = host.invoke(app)
        assert built["start"] == "warm" and built["payload"]["calls"] == 1, built
        assert host.invoke(app, reserved=0)["kind"] == "throttled"
        full = host.invoke(app, unreserved=0)
        assert full["throttle"] == "ConcurrentInvocationLimitExceeded", full
        other = host.invoke(app, tenant="other")
        # The same code, but an init phase of its own: nothing that one tenant's made is another's.
        assert other["kind"] == "ok" and other["start"] == "cold", other
        assert other["payload"]["made"] != built["payload"]["made"], (other, built)
        assert other["payload"]["host"] != built["payload"]["host"]

        held = host.call("provision", minimum=3, maximum=3, **app)
        assert held["ready"] == 3 and held["wanted"] == 3, held
        burst = [host.begin("invoke", event={"sleep": 1}, **app) for _ in range(3)]
        burst = [future.result(600) for future in burst]
        assert [reply["start"] for reply in burst] == ["warm"] * 3, burst

        host.call("invalidate", **app)
        deadline = time.monotonic() + 30
        while host.call("status")["live"] > 1 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert host.call("status")["live"] == 1  # the other tenant's


@suite.case
def broken_init():
    with Dispatcher() as host:
        app = function("broken", "raise RuntimeError('never')\n")
        crowd = [host.begin("invoke", event={}, **app) for _ in range(2)]
        for future in crowd:
            reply = future.result(600)
            assert reply["kind"] == "function error" and reply["init_failure"], reply
            assert "never" in json.dumps(reply["payload"]), reply
        missing = host.invoke({"name": "missing", "code": os.path.join(work, "missing")})
        assert missing["failed"] < 0 and "missing" in missing["text"], missing


@suite.case
def shut_down_in_mid_event():
    host = Dispatcher()
    app = function("stopped")
    assert host.invoke(app)["kind"] == "ok"
    pending = host.begin("invoke", event={"sleep": 100}, timeout_ms=200000, **app)
    deadline = time.monotonic() + 30
    while host.call("status")["busy"] == 0 and time.monotonic() < deadline:
        time.sleep(0.01)
    began = time.monotonic()
    host.end(500)
    assert time.monotonic() - began < 30
    assert "shut down" in pending.result(10)["text"]


def names():
    try:
        return {name.removesuffix(".json")
                for name in os.listdir(os.path.join(STATE, "snapshots", "names"))}
    except FileNotFoundError:
        return set()


if __name__ == "__main__":
    before = names()
    try:
        suite.main()
    finally:
        shutil.rmtree(work, ignore_errors=True)
        for name in names() - before:
            if name.startswith("function-"):
                mayfly("snapshot", "rm", name, "--state", STATE)
