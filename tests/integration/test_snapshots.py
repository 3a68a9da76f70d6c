#!/usr/bin/env python3
"""Restoring instead of booting: clones are distinct, clocks right, hooks in order, damage refused."""

import hashlib
import json
import os
import shutil
import signal
import struct
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
            "age": time.monotonic() - born,
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
    seen, ages, began = [set() for _ in range(6)], [], time.monotonic()
    for number in range(100):
        sent = time.time()
        done, clone = run(function, "--event", json.dumps({"number": number}))
        assert done.returncode == 0, done.stderr
        assert clone["start"] == "restored", clone
        value = clone["result"]
        assert value["calls"] == 1 and value["event"] == {"number": number}
        assert value["order"] == ["before", "after"], value["order"]
        ages.append(value["age"])
        assert sent - 0.05 <= value["now"] <= time.time() + 0.05, (sent, value["now"])
        for known, one in zip(seen, value["ids"]):
            assert one not in known, (number, one)
            known.add(one)
        if number == 0:
            time.sleep(10)
    # The monotonic clock goes on where it stopped: a snapshot's age is nothing that passes in a clone.
    assert min(ages) >= 0 and ages[-1] - ages[0] < (time.monotonic() - began) / 2, ages


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
    ids = lambda: {s["id"] for s in json.loads(
        mayfly("snapshot", "ls", "--json", "--state", state).stdout)["snapshots"]}
    function = write_function(os.path.join(work, "damaged"), "def handler(e, c):\n    return e\n")
    before = ids()
    done, _ = run(function)
    assert done.returncode == 0, done.stderr
    made = ids() - before
    assert len(made) == 1, made
    part = os.path.join(state, "snapshots", made.pop(), "state.pb")
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


def a_damaged_runtime_level_is_made_anew():
    """So is one of another processor: the monitor refuses both, and no function would start again."""
    def runtimes():
        listed = json.loads(mayfly("snapshot", "ls", "--json", "--state", state).stdout)["snapshots"]
        return {s["id"] for s in listed if s["level"] == "runtime"}

    function = write_function(os.path.join(work, "level"), "def handler(e, c):\n    return e\n")
    before = runtimes()
    assert before
    for snapshot in before:
        part = os.path.join(state, "snapshots", snapshot, "state.pb")
        with open(part, "r+b") as file:
            file.seek(os.path.getsize(part) // 2)
            byte = file.read(1)
            file.seek(-1, os.SEEK_CUR)
            file.write(bytes([byte[0] ^ 0x10]))
    done, _ = run(function)
    assert done.returncode == 0, done.stderr
    assert runtimes() - before, "no runtime level was made"
    done, result = run(function)
    assert done.returncode == 0 and result["start"] == "restored", done.stderr


SLEEPER = """
import time

def handler(event, context):
    print("asleep", flush=True)
    for _ in range(event["naps"]):
        time.sleep(0.1)
    return event
"""


def start_sleeper(function):
    """A clone that naps for minutes in its handler, and its monitor's process id."""
    child = subprocess.Popen([MAYFLY, "run", function, "--handler", "app.handler", "--json",
                              "--state", state, "--timeout", "600", "--event",
                              '{"naps": 5000}'], stdout=subprocess.PIPE,
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
    stdout, stderr = child.communicate(timeout=600)
    assert child.returncode == 3, (child.returncode, stdout, stderr)
    message = json.loads(stdout)["error"]["errorMessage"]
    assert "memory file of this VM was truncated at 4194304 of " in message, message
    assert "mayfly snapshot verify" in message, message


def a_memory_file_cut_short_under_two_clones():
    """The clone that reaches for a page that is gone ends with the reason; nothing else does."""
    need_kvm()
    function = write_function(os.path.join(work, "sleeper"), SLEEPER)
    done, _ = run(function, "--event", '{"naps": 0}')
    assert done.returncode == 0, done.stderr
    runs, monitor = start_sleeper(function)
    stands, stopped = start_sleeper(function)
    os.kill(stopped, signal.SIGSTOP)
    try:
        memory = memory_file_of(monitor)
        assert memory == memory_file_of(stopped) and memory.startswith(os.path.realpath(state)), memory
        os.chmod(memory, 0o600)
        os.truncate(memory, 4 << 20)
        ends_for_lack_of_memory(runs)
        # The other still stands there, and the cut file is replaced for whoever comes next.
        assert stands.poll() is None and os.path.exists(f"/proc/{stopped}")
        done, again = run(function, "--event", '{"naps": 0}')
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


FULL_DISK = """
set -e
tmpfs=$1 size=$2 mayfly=$3 function=$4 state=$5 work=$6
mkdir -p "$work/kept"
mount --bind "$state/$tmpfs" "$work/kept"
mount -t tmpfs -o "size=$size" none "$state/$tmpfs"
if [ "$tmpfs" = snapshots ]; then
    # Memory is mapped from the cache, and a tmpfs wants room for a hole that is read: it stays outside.
    mkdir "$state/snapshots/cache"
    mount --bind "$work/kept/cache" "$state/snapshots/cache"
    find "$work/kept" -mindepth 1 -maxdepth 1 ! -name cache -exec cp -a {} "$state/snapshots/" ';'
fi
list() { (cd "$state/snapshots" && find . ! -name filler ! -name '*.mem' | sort); }
run() { "$mayfly" run "$function" --handler app.handler --json --state "$state" --timeout 30 --event "$1"; }
if [ "$tmpfs" = snapshots ]; then
    cat /dev/zero >"$state/snapshots/filler" 2>/dev/null || true
fi
list >"$work/before"
run '{"n": 1}' >"$work/first.out" 2>"$work/first.err" || true
list >"$work/after"
umount "$state/run" 2>/dev/null || rm -f "$state/$tmpfs/filler"
run '{"n": 2}' >"$work/second.out" 2>"$work/second.err" || true
run '{"n": 3}' >"$work/third.out" 2>"$work/third.err" || true
"""


def full_disk(name, tmpfs, size):
    """A disk that fills up while a live VM is frozen: it answers all the same, and a retry works."""
    need_kvm()
    if os.getuid() != 0:
        raise harness.Skip("mounting a small disk needs root")
    function = write_function(os.path.join(work, name),
                              "def handler(e, c):\n    return [e, '%s']\n" % name)
    here = os.path.join(work, name + "-disk")
    os.makedirs(here)
    subprocess.run(["unshare", "-m", "sh", "-c", FULL_DISK, "sh", tmpfs, size,
                    os.path.abspath(MAYFLY), function, os.path.abspath(state), here], check=True,
                   timeout=600)
    read = lambda file: open(os.path.join(here, file), encoding="utf-8").read()
    first, second, third = (json.loads(read(f"{n}.out")) for n in ("first", "second", "third"))
    assert first["status"] == "ok" and first["result"] == [{"n": 1}, name], (first,
                                                                            read("first.err"))
    assert "going on without a snapshot" in read("first.err"), read("first.err")
    assert "No space left" in read("first.err") or "no space left" in read("first.err")
    assert read("before") == read("after"), "something partial is visible"
    assert second["result"] == [{"n": 2}, name], (second, read("second.err"))
    assert "without a snapshot" not in read("second.err"), read("second.err")
    assert third["start"] == "restored" and third["timings_us"]["init"] == 0, third


def a_full_store_costs_the_snapshot_only():
    full_disk("fullstore", "snapshots", "64m")


def a_full_run_directory_costs_the_snapshot_only():
    full_disk("fullrun", "run", "300k")


def rewritten(snapshot, name, change):
    """A snapshot made of another: @change works on its state and manifest; digests are right."""
    old = os.path.join(state, "snapshots", snapshot["id"])
    with open(os.path.join(old, "state.pb"), "rb") as file:
        data = file.read()
    with open(os.path.join(old, "manifest.json"), encoding="utf-8") as file:
        manifest = json.load(file)
    data = change(data, manifest)
    manifest["name"] = name
    manifest["state"].update(bytes=len(data), sha256=hashlib.sha256(data).hexdigest())
    text = json.dumps(manifest).encode()
    ident = hashlib.sha256(text).hexdigest()
    new = os.path.join(state, "snapshots", ident)
    shutil.copytree(old, new, ignore=shutil.ignore_patterns("working_set"))  # has the old id in it
    for part, content in (("state.pb", data), ("manifest.json", text)):
        with open(os.path.join(new, part), "wb") as file:
            file.write(content)
    with open(os.path.join(state, "snapshots", "names", name + ".json"), "w",
              encoding="utf-8") as file:
        json.dump({"version": 1, "id": ident}, file)


def a_snapshot_of_another_processor_is_refused():
    """Well formed, its digests right, and of a processor that has what this one lacks."""
    need_kvm()
    ls = json.loads(mayfly("snapshot", "ls", "--json", "--state", state).stdout)["snapshots"]
    greeting = [s for s in ls if s["name"] == "greeting"][0]
    lacking = []

    def richer(data, manifest):
        words = [int(word, 16) for word in manifest["cpu"]["features"]]
        old = b"".join(struct.pack("<I", word) for word in words)
        assert data.count(old) == 1
        lacking.append(~words[4] & -~words[4])  # of leaf 7, EDX
        words[4] |= lacking[0]
        manifest["cpu"]["features"] = ["%08x" % word for word in words]
        return data.replace(old, b"".join(struct.pack("<I", word) for word in words))

    rewritten(greeting, "richer", richer)
    assert mayfly("snapshot", "verify", "richer", "--state", state).returncode == 0
    done = mayfly("run", "--snapshot", "richer", "--state", state)
    assert done.returncode == 3, (done.returncode, done.stderr)
    assert "7.edx:%#x" % lacking[0] in done.stderr, done.stderr
    rewritten(greeting, "same", lambda data, manifest: data)
    done = mayfly("run", "--snapshot", "same", "--event", "7", "--json", "--state", state)
    assert done.returncode == 0 and result_of(done)["result"] == [7], done.stderr
    for name in ("richer", "same"):
        assert mayfly("snapshot", "rm", name, "--state", state).returncode == 0


def a_snapshot_keeps_to_its_own_image():
    """Found by digest, whatever bears the name now; and where it is gone, nothing else will do."""
    need_kvm()
    images = os.path.join(state, "images")
    python = os.path.join(images, "manifests", "python3.11.json")
    aside = os.path.join(work, "aside")
    os.makedirs(aside)
    with open(python, encoding="utf-8") as file:
        image = json.load(file)
    with open(os.path.join(images, "manifests", "base.json"), encoding="utf-8") as file:
        other = json.load(file)
    image_object = os.path.join(images, "objects", "sha256", image["digest"] + ".mfi")

    def restore():
        return mayfly("run", "--snapshot", "greeting", "--event", "8", "--json", "--state", state)

    shutil.move(python, aside)
    try:
        with open(python, "w", encoding="utf-8") as file:
            json.dump(dict(other, name="python3.11"), file)
        done = restore()
        assert done.returncode == 0 and result_of(done)["result"] == [8], done.stderr
        shutil.move(image_object, aside)
        done = restore()
        assert done.returncode == 3, (done.returncode, done.stderr)
        assert "no image '" + image["digest"][:12] in done.stderr, done.stderr
    finally:
        shutil.move(os.path.join(aside, os.path.basename(image_object)), image_object)
        shutil.move(os.path.join(aside, "python3.11.json"), python)
    assert restore().returncode == 0


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
                          a_full_store_costs_the_snapshot_only,
                          a_full_run_directory_costs_the_snapshot_only,
                          a_snapshot_of_another_processor_is_refused,
                          a_snapshot_keeps_to_its_own_image,
                          a_damaged_snapshot_is_refused_and_made_anew,
                          a_damaged_runtime_level_is_made_anew,
                          nothing_is_left_behind])
    finally:
        shutil.rmtree(work, ignore_errors=True)
        shutil.rmtree(state, ignore_errors=True)
