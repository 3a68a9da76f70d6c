#!/usr/bin/env python3
"""What `mayfly run` makes of a host that fails under it: processes killed, stopped or missing."""

import json
import os
import shutil
import signal
import subprocess
import tempfile
import time

import harness
from harness import MAYFLY, STATE, mayfly, need_kvm, write_function

suite = harness.Suite("host-failures")
work = tempfile.mkdtemp(prefix="mayfly-test-host-")

SLEEPER = """
import time
def handler(event, context):
    print("event", event["n"], flush=True)
    time.sleep(600)
"""


def monitor_of(pid):
    """The monitor that process @pid started, once it is there."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        with open(f"/proc/{pid}/task/{pid}/children", encoding="ascii") as file:
            children = file.read().split()
        if children and os.readlink(f"/proc/{children[0]}/exe").endswith("mayfly-vmm"):
            return int(children[0])
        time.sleep(0.01)
    raise AssertionError("no monitor was started")


def alive(pid):
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii") as file:
            return file.read().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def start(name, *arguments):
    """A run of a function that sleeps; its event comes from standard input."""
    function = write_function(os.path.join(work, name), SLEEPER)
    child = subprocess.Popen([MAYFLY, "run", function, "--handler", "app.handler", "--boot",
                              "--json", "--state", STATE, "--event", "-", *arguments],
                             stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                             stderr=subprocess.PIPE, text=True)
    child.stdin.write('{"n": 5}')
    child.stdin.close()
    child.stdin = None
    return child


def wait_for_handler(child):
    for line in child.stderr:
        if "event 5" in line:
            return
    raise AssertionError("the handler was never called")


def ends_within(child, seconds):
    began = time.monotonic()
    stdout, stderr = child.communicate(timeout=seconds + 60)
    took = time.monotonic() - began
    assert took < seconds, f"{took:.1f} s"
    return json.loads(stdout), stderr


@suite.case
def monitor_killed_in_mid_invoke():
    need_kvm()
    child = start("killed", "--timeout", "900")
    monitor = monitor_of(child.pid)
    wait_for_handler(child)
    os.kill(monitor, signal.SIGKILL)
    result, stderr = ends_within(child, 5)
    assert child.returncode == 3 and result["status"] == "host-error", result
    assert "killed by signal 9" in result["error"]["errorMessage"], result
    assert "killed by signal 9" in stderr, stderr


@suite.case
def monitor_stopped_in_mid_invoke():
    """The guest cannot keep the timeout now, so the host must: within its grace."""
    need_kvm()
    child = start("stopped", "--timeout", "4")
    monitor = monitor_of(child.pid)
    wait_for_handler(child)
    os.kill(monitor, signal.SIGSTOP)
    result, _ = ends_within(child, 40)
    assert child.returncode == 1, result
    assert result["error"]["errorType"] == "Sandbox.Timedout", result
    assert "timed out after 4.00 seconds" in result["error"]["errorMessage"], result
    assert not alive(monitor)


@suite.case
def command_killed_while_booting():
    """No monitor outlives its command, and the next run sweeps what was left."""
    need_kvm()
    child = start("orphan", "--timeout", "900")
    monitor = monitor_of(child.pid)
    time.sleep(1)
    with open(f"/proc/{monitor}/cmdline", encoding="ascii") as file:
        directory = os.path.join(STATE, "run", file.read().rstrip("\0").split("\0")[-1])
    assert os.path.isdir(directory), directory
    child.kill()
    child.communicate()
    deadline = time.monotonic() + 5
    while alive(monitor) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not alive(monitor)
    following = start("following", "--timeout", "900")
    monitor_of(following.pid)
    assert not os.path.exists(directory)
    following.send_signal(signal.SIGTERM)
    following.communicate(timeout=30)
    assert following.returncode == 130


def refused(words, command):
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                          check=False, timeout=60)
    assert done.returncode == 3, (done.returncode, done.stderr)
    assert len([line for line in done.stderr.splitlines() if words in line]) == 1, done.stderr
    assert done.stdout == "", done.stdout


@suite.case
def no_kvm_device():
    if os.getuid() != 0:
        raise harness.Skip("hiding /dev/kvm needs root")
    function = write_function(os.path.join(work, "nokvm"), SLEEPER)
    script = 'mount -t tmpfs none /dev && exec "$@"'
    refused("no /dev/kvm: load the module",
            ["unshare", "-m", "sh", "-c", script, "sh", os.path.abspath(MAYFLY), "run",
             os.path.abspath(function), "--handler", "app.handler", "--boot",
             "--state", os.path.abspath(STATE)])


@suite.case
def no_monitor_program():
    need_kvm()
    function = write_function(os.path.join(work, "nomonitor"), SLEEPER)
    lonely = os.path.join(work, "mayfly")
    shutil.copy2(MAYFLY, lonely)
    refused("no monitor program", [lonely, "run", function, "--handler", "app.handler", "--boot",
                                   "--state", STATE])


@suite.case
def packages_that_reach_outside():
    function = write_function(os.path.join(work, "outside"), SLEEPER)
    os.symlink("/etc/passwd", os.path.join(function, "secrets"))
    done = mayfly("run", function, "--handler", "app.handler", "--state", STATE)
    assert done.returncode == 2, (done.returncode, done.stderr)
    assert "'secrets' points outside the package" in done.stderr, done.stderr


if __name__ == "__main__":
    try:
        suite.main()
    finally:
        shutil.rmtree(work, ignore_errors=True)
