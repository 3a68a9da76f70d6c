#!/usr/bin/env python3
"""Restoring instead of booting: clones are distinct, clocks right, hooks in order, damage refused."""

import json
import os
import shutil
import signal
import subprocess
import tempfile
import time

import harness
from harness import MAYFLY, STATE, mayfly, need_kvm, result_of, write_function

suite = harness.Suite("snapshots")
work = tempfile.mkdtemp(prefix="mayfly-test-snapshots-")
# A state directory of its own: images shared by hard links, snapshots made here.
state = os.path.join(os.path.dirname(STATE), "test-snapshots-state")

CLONE = """
import os
import random
import socket
import time
import uuid
import mayfly

born = time.monotonic()
order = []
mayfly.register_before_snapshot(lambda: order.append("before"))
mayfly.register_after_restore(lambda: order.append("after"))
calls = 0

def handler(event, context):
    global calls
    calls += 1
    now = time.time()
    with open("/proc/sys/kernel/random/boot_id") as file:
        boot_id = file.read().strip()
    return {"now": now, "calls": calls, "order": order, "event": event,
            "forward": time.monotonic() >= born,
            "ids": [os.urandom(16).hex(), os.getrandom(16).hex(), str(uuid.uuid4()),
                    str(random.getrandbits(128)), boot_id, socket.gethostname(),
                    os.environ["AWS_LAMBDA_LOG_STREAM_NAME"] if event.get("stream") else ""]}
"""


def run(function, *arguments):
    need_kvm()
    done = mayfly("run", function, "--handler", "app.handler", "--json", "--state", state,
                  "--timeout", "30", *arguments)
    return done, result_of(done)


def clone_function():
    return write_function(os.path.join(work, "clone"), CLONE)


def clones_are_distinct_and_on_time():
    """security.md's figures 10 and 11: 100 clones, every id of each its own; clocks right."""
    function = clone_function()
    done, first = run(function)
    assert done.returncode == 0, done.stderr
    assert first["start"] == "boot" and first["result"]["calls"] == 1
    seen = [set() for _ in range(6)]
    for number in range(100):
        sent = time.time()
        done, clone = run(function, "--event", json.dumps({"number": number}))
        assert done.returncode == 0, done.stderr
        assert clone["start"] == "restored", clone
        value = clone["result"]
        assert value["calls"] == 1 and value["event"] == {"number": number}
        assert value["order"] == ["before", "after"], value["order"]
        assert value["forward"]
        assert sent - 0.05 <= value["now"] <= time.time() + 0.05, (sent, value["now"])
        for known, one in zip(seen, value["ids"]):
            assert one not in known, (number, one)
            known.add(one)
        if number == 0:
            time.sleep(10)


def restored_start_is_far_cheaper_than_a_boot():
    done, again = run(clone_function())
    assert done.returncode == 0, done.stderr
    assert again["start"] == "restored"
    times = again["timings_us"]
    assert times["kernel"] == 0 and times["init"] == 0 and 0 < times["restore"], times
    print(f"restore {times['restore']} us, first result {times['invoke']} us after it")


def the_first_restored_run_leaves_its_working_set():
    """Once; and whatever stands there, a run is none the worse for it."""
    function = write_function(os.path.join(work, "set"), "def handler(e, c):\n    return e\n")
    sets = lambda: {s["id"]: s["working_set"] for s in json.loads(
        mayfly("snapshot", "ls", "--json", "--state", state).stdout)["snapshots"]}
    before = sets()
    done, _ = run(function)
    assert done.returncode == 0, done.stderr
    made = [i for i in sets() if i not in before and not sets()[i]]
    assert len(made) == 1, made
    done, _ = run(function)
    assert done.returncode == 0 and sets()[made[0]] is True, done.stderr
    part = os.path.join(state, "snapshots", made[0], "working_set")
    recorded = os.stat(part)
    assert 100 < recorded.st_size < 100000
    run(function)
    assert os.stat(part).st_mtime_ns == recorded.st_mtime_ns
    with open(part, "wb") as file:
        file.write(b"no list of pages")
    done, again = run(function)
    assert done.returncode == 0 and again["start"] == "restored", done.stderr


def a_named_snapshot_is_created_and_run():
    need_kvm()
    function = write_function(os.path.join(work, "named"), "def handler(e, c):\n    return [e]\n")
    done = mayfly("snapshot", "create", function, "--handler", "app.handler", "-o", "greeting",
                  "--state", state, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["name"] == "greeting"
    done = mayfly("run", "--snapshot", "greeting", "--event", "5", "--json", "--state", state)
    assert done.returncode == 0 and result_of(done)["result"] == [5], done.stderr
    done = mayfly("snapshot", "verify", "greeting", "--state", state)
    assert done.returncode == 0, done.stderr
    archive = os.path.join(work, "greeting.tar")
    assert mayfly("snapshot", "export", "greeting", archive, "--state", state).returncode == 0
    assert mayfly("snapshot", "rm", "greeting", "--state", state).returncode == 0
    done = mayfly("run", "--snapshot", "greeting", "--state", state)
    assert done.returncode == 3 and "greeting" in done.stderr, done.stderr
    assert mayfly("snapshot", "import", archive, "--state", state).returncode == 0
    done = mayfly("run", "--snapshot", "greeting", "--event", "6", "--json", "--state", state)
    assert done.returncode == 0 and result_of(done)["result"] == [6], done.stderr


def an_init_phase_that_fails_leaves_no_snapshot():
    function = write_function(os.path.join(work, "broken"), "raise RuntimeError('not today')\n")
    done, result = run(function)
    assert done.returncode == 1 and result["error"]["errorType"] == "RuntimeError", result
    done, result = run(function)
    assert done.returncode == 1, "a failed init phase must be tried again"


def a_damaged_snapshot_is_refused_and_made_anew():
    function = clone_function()
    snapshots = json.loads(mayfly("snapshot", "ls", "--json", "--state", state).stdout)["snapshots"]
    clone = [s for s in snapshots if s["level"] == "function" and s["name"] != "greeting"][0]
    part = os.path.join(state, "snapshots", clone["id"], "state.pb")
    with open(part, "r+b") as file:
        file.seek(os.path.getsize(part) // 2)
        byte = file.read(1)
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte[0] ^ 0x10]))
    done, result = run(function)
    assert done.returncode == 0, done.stderr
    assert "state.pb" in done.stderr or "state" in done.stderr, done.stderr
    assert "making a new snapshot" in done.stderr, done.stderr
    done, result = run(function)
    assert result["start"] == "restored" and "making" not in done.stderr, done.stderr


SLEEPER = """
import time

def handler(event, context):
    print("asleep", flush=True)
    time.sleep(event["sleep"])
    return event
"""


def start_sleeper(function, seconds):
    """A clone that sleeps in its handler, and its monitor's process id."""
    child = subprocess.Popen([MAYFLY, "run", function, "--handler", "app.handler", "--json",
                              "--state", state, "--timeout", "300", "--event",
                              json.dumps({"sleep": seconds})], stdout=subprocess.PIPE,
                             stderr=subprocess.PIPE, text=True)
    for line in child.stderr:
        if "asleep" in line:
            break
    with open(f"/proc/{child.pid}/task/{child.pid}/children", encoding="ascii") as file:
        return child, int(file.read().split()[0])


def memory_file_of(monitor):
    with open(f"/proc/{monitor}/maps", encoding="utf-8") as file:
        return {line.split()[-1] for line in file if line.rstrip().endswith(".mem")}.pop()


def ends_for_lack_of_memory(child):
    stdout, stderr = child.communicate(timeout=120)
    assert child.returncode == 3, (child.returncode, stdout, stderr)
    message = json.loads(stdout)["error"]["errorMessage"]
    assert "memory file of this VM was truncated at 4194304 of 134217728 bytes" in message, message
    assert "mayfly snapshot verify" in message, message


def a_memory_file_cut_short_under_two_clones():
    """The clone that reaches for a page that is gone ends with the reason; nothing else does."""
    need_kvm()
    function = write_function(os.path.join(work, "sleeper"), SLEEPER)
    done, _ = run(function, "--event", '{"sleep": 0}')
    assert done.returncode == 0, done.stderr
    runs, monitor = start_sleeper(function, 2)
    stands, stopped = start_sleeper(function, 0.5)
    os.kill(stopped, signal.SIGSTOP)
    try:
        memory = memory_file_of(monitor)
        assert memory == memory_file_of(stopped) and memory.startswith(os.path.realpath(state)), memory
        os.chmod(memory, 0o600)
        os.truncate(memory, 4 << 20)
        ends_for_lack_of_memory(runs)
        # The other still stands there, and the cut file is replaced for whoever comes next.
        assert stands.poll() is None and os.path.exists(f"/proc/{stopped}")
        done, again = run(function, "--event", '{"sleep": 0}')
        assert done.returncode == 0 and again["start"] == "restored", done.stderr
        assert stands.poll() is None
    finally:
        os.kill(stopped, signal.SIGCONT)
    ends_for_lack_of_memory(stands)


FLAGS = """
def handler(event, context):
    with open("/proc/cpuinfo") as file:
        return [line for line in file if line.startswith("flags")][0].split()
"""


def a_cpu_template_is_kept_or_refused():
    """Where guests see the processor's own CPUID it cannot be kept: nothing is made then."""
    need_kvm()
    function = write_function(os.path.join(work, "flags"), FLAGS)
    checks = json.loads(mayfly("doctor", "--json", "--state", state).stdout)["checks"]
    verdict = [c["verdict"] for c in checks if c["name"] == "CPU templates"][0]
    done = mayfly("snapshot", "create", function, "--handler", "app.handler", "-o", "portable",
                  "--cpu-template", "portable", "--state", state)
    if verdict == "good":
        assert done.returncode == 0, done.stderr
        done = mayfly("run", "--snapshot", "portable", "--json", "--state", state)
        flags = result_of(done)["result"]
        assert "sse4_2" in flags and "avx" not in flags, flags
    else:
        assert done.returncode == 3 and "CPU template 'portable'" in done.stderr, done.stderr
        assert mayfly("snapshot", "inspect", "portable", "--state", state).returncode == 3
    done = mayfly("run", function, "--handler", "app.handler", "--cpu-template", "i386")
    assert done.returncode == 2 and "portable-v3" in done.stderr, done.stderr


def nothing_is_left_behind():
    assert harness.monitors_of(state) == set(), "monitors still run"
    assert os.listdir(os.path.join(state, "run")) == []


if __name__ == "__main__":
    shutil.rmtree(state, ignore_errors=True)
    if os.path.isdir(os.path.join(STATE, "images")):
        shutil.copytree(os.path.join(STATE, "images"), os.path.join(state, "images"))
    try:
        # One after the other: each stands on the one before.
        suite.main(after=[clones_are_distinct_and_on_time,
                          restored_start_is_far_cheaper_than_a_boot,
                          the_first_restored_run_leaves_its_working_set,
                          a_named_snapshot_is_created_and_run,
                          an_init_phase_that_fails_leaves_no_snapshot,
                          a_memory_file_cut_short_under_two_clones,
                          a_cpu_template_is_kept_or_refused,
                          a_damaged_snapshot_is_refused_and_made_anew,
                          nothing_is_left_behind])
    finally:
        shutil.rmtree(work, ignore_errors=True)
        shutil.rmtree(state, ignore_errors=True)
