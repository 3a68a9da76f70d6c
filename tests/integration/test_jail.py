#!/usr/bin/env python3
"""What is around a monitor whose guest runs (security.md figure 12), and what is planted in its way."""

import json
import os
import re
import shutil
import signal
import subprocess
import tempfile
import time

import harness
from harness import MAYFLY, STATE, Skip, mayfly, need_kvm, write_function

suite = harness.Suite("jail")
work = tempfile.mkdtemp(prefix="mayfly-test-jail-")

SLEEPER = """
import time
def handler(event, context):
    print("event", event["n"], flush=True)
    time.sleep(event["seconds"])
    return event["n"]
"""
FIRST_USER = 0x70000000
V1 = {"memory": ("memory.limit_in_bytes",), "pids": ("pids.max",), "cpu": ("cpu.cfs_quota_us",)}
V2 = {"memory": ("memory.max",), "pids": ("pids.max",), "cpu": ("cpu.max",)}


def function():
    return write_function(os.path.join(work, "sleeper"), SLEEPER)


def start(n, seconds=600, *, wrapper=(), extra=()):
    """A run that says "event N" on stderr once its handler is called, then sleeps there."""
    return subprocess.Popen([*wrapper, os.path.abspath(MAYFLY), "run", function(), "--handler",
                             "app.handler", "--json", "--timeout", "900",
                             "--state", os.path.abspath(STATE), "--event",
                             json.dumps({"n": n, "seconds": seconds}), *extra],
                            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                            stderr=subprocess.PIPE, text=True)


def wait_for_handler(child, n):
    lines = []
    for line in child.stderr:
        lines.append(line)
        if f"event {n}" in line:
            return "".join(lines)
    raise AssertionError("the handler was never called: " + "".join(lines)[-600:])


def end(child):
    child.send_signal(signal.SIGTERM)
    child.communicate(timeout=60)


def read(*path):
    with open(os.path.join("/", *path), encoding="ascii", errors="replace") as file:
        return file.read()


def monitor_of(pid):
    children = read(f"proc/{pid}/task/{pid}/children").split()
    assert len(children) == 1, children
    assert os.readlink(f"/proc/{children[0]}/exe").endswith("/mayfly-vmm")
    return int(children[0])


def status_of(path):
    return dict(line.split(":", 1) for line in read(path, "status").splitlines())


def need_root():
    if os.geteuid() != 0:
        raise Skip("a whole jail needs root")


def need_cgroups():
    checks = json.loads(mayfly("doctor", "--json", "--state", STATE).stdout)["checks"]
    jail = next(check for check in checks if check["name"] == "jail of a VM")
    if jail["verdict"] != "good":
        raise Skip(f"this host allows no whole jail: {jail['detail']}")


def controllers():
    """Where each controller's hierarchy is mounted, and the files to look at there."""
    found = {}
    for line in read("proc/self/mountinfo").splitlines():
        left, right = line.split(" - ")
        point, (kind, _, options) = left.split()[4], right.split()[:3]
        if kind == "cgroup2":
            names = read(point, "cgroup.controllers").split()
            found.update({name: (point, V2[name]) for name in names if name in V2})
        elif kind == "cgroup":
            for name in V1:
                if name in options.split(","):
                    found.setdefault(name, (point, V1[name]))
    return found


def check_privileges(monitor):
    users = set()
    for task in os.listdir(f"/proc/{monitor}/task"):
        status = status_of(f"proc/{monitor}/task/{task}")
        assert status["Seccomp"].strip() == "2", status
        assert status["NoNewPrivs"].strip() == "1", status
        for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
            assert int(status[name], 16) == 0, (name, status)
        assert status["Groups"].strip() == "", status
        users |= set(status["Uid"].split()) | set(status["Gid"].split())
    assert len(users) == 1 and int(min(users)) >= FIRST_USER, users
    limits = read(f"proc/{monitor}/limits")
    for name, value in (("Max core file size", 0), ("Max locked memory", 0),
                        ("Max open files", 1280)):
        assert re.search(rf"{name} +{value} +{value} ", limits), limits
    assert read(f"proc/{monitor}/environ") == ""
    assert os.getsid(monitor) == monitor
    # Not dumpable: its /proc files are root's, not its user's.
    assert os.stat(f"/proc/{monitor}/environ").st_uid == 0
    return int(users.pop())


def check_descriptors(monitor):
    """Everything a monitor has open, and how often: nothing else, and nothing it could find more with."""
    allowed = {r"/dev/null": 2, r"/dev/kvm": 1, r"pipe:\[\d+\]": 1, r".*/console\.log": 1,
               r"anon_inode:\[eventpoll\]": 1, r"anon_inode:kvm-vm": 1,
               r"anon_inode:kvm-vcpu:0": 1,
               r"anon_inode:\[eventfd\]": 9,  # the loop, the end, the console, queues of devices
               r"anon_inode:\[timerfd\]": 2,  # console output, time limits of streams
               # What its memory and its root are mapped from: to tell a file that was cut short.
               r".*/snapshots/cache/[0-9a-f]{64}\.mem": 1, r".*/images/cache/[^/]+": 1,
               r"socket:\[\d+\]": 5}  # control, clients' listener, the agent's stream, its copies
    counts = {}
    for fd in os.listdir(f"/proc/{monitor}/fd"):
        try:
            target = os.readlink(f"/proc/{monitor}/fd/{fd}")
        except FileNotFoundError:
            continue  # a timer that was closed meanwhile
        known = [pattern for pattern in allowed if re.fullmatch(pattern, target)]
        assert known, (fd, target)
        if "/cache/" in target:
            flags = int(re.search(r"flags:\t(\d+)", read(f"proc/{monitor}/fdinfo/{fd}"))[1], 8)
            assert flags & os.O_ACCMODE == os.O_RDONLY, (target, oct(flags))
        counts[known[0]] = counts.get(known[0], 0) + 1
    for pattern, n in counts.items():
        assert n <= allowed[pattern], (pattern, n)


def check_surroundings(monitor):
    mounts = read(f"proc/{monitor}/mountinfo").splitlines()
    assert len(mounts) == 1, mounts
    options = mounts[0].split(" - ")[0].split()[5]
    assert {"ro", "nosuid", "nodev", "noexec"} <= set(options.split(",")), mounts
    assert " - tmpfs " in mounts[0], mounts
    assert os.listdir(f"/proc/{monitor}/root/") == []
    assert os.readlink(f"/proc/{monitor}/cwd") == "/"
    for name in ("mnt", "pid", "ipc", "uts", "net"):
        assert os.readlink(f"/proc/{monitor}/ns/{name}") != os.readlink(f"/proc/self/ns/{name}")
    assert status_of(f"proc/{monitor}")["NSpid"].split()[-1] == "1"
    links = [line.split(":")[0].strip() for line in read(f"proc/{monitor}/net/dev").splitlines()[2:]]
    assert links == ["lo"], links


def check_limits(monitor):
    leaves = []
    for name, (point, files) in controllers().items():
        line = next(line for line in read(f"proc/{monitor}/cgroup").splitlines()
                    if name in line.split(":")[1].split(",") or line.startswith("0::"))
        leaf = point + line.split(":", 2)[2]
        assert "/mayfly/" in leaf, line
        assert str(monitor) in read(leaf, "cgroup.procs").split()
        for file in files:
            value = read(leaf, file).split()[0]
            assert value.isdigit() and int(value) > 0, (file, value)
            if name == "memory":
                # The VM's: the function's 128 MiB, 512 of /tmp, 32 for its system; and some more.
                assert 672 << 20 < int(value) < 1024 << 20, value
        leaves.append(leaf)
    return leaves


@suite.case
def two_running_monitors():
    need_kvm()
    need_root()
    need_cgroups()
    children, users, leaves = [], set(), []
    try:
        for n in (1, 2):
            children.append(start(n))
            said = wait_for_handler(children[-1], n)
            assert "not whole" not in said, said
        for child in children:
            monitor = monitor_of(child.pid)
            users.add(check_privileges(monitor))
            check_descriptors(monitor)
            check_surroundings(monitor)
            leaves += check_limits(monitor)
        assert len(users) == 2, users
    finally:
        for child in children:
            end(child)
    for leaf in leaves:
        assert not os.path.exists(leaf), leaf


@suite.case
def parent_killed_while_the_monitor_is_stopped():
    """A stopped monitor reads no control socket: only the parent-death signal ends it. It is cleared
    by a change of user, so it must have been set after that."""
    need_kvm()
    child = start(3)
    wait_for_handler(child, 3)
    monitor = monitor_of(child.pid)
    leaves = check_limits(monitor) if os.geteuid() == 0 else []
    os.kill(monitor, signal.SIGSTOP)
    child.kill()
    child.communicate()
    deadline = time.monotonic() + 5
    while os.path.exists(f"/proc/{monitor}") and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not os.path.exists(f"/proc/{monitor}")
    # What the killed command left is swept by the next one.
    done = mayfly("run", function(), "--handler", "app.handler", "--event",
                  '{"n": 4, "seconds": 0}', "--state", STATE)
    assert done.returncode == 0, done.stderr
    for leaf in leaves:
        assert not os.path.exists(leaf), leaf


@suite.case
def planted_links_are_refused():
    need_kvm()
    target = os.path.join(work, "target")
    with open(target, "w", encoding="ascii") as file:
        file.write("kept")
    link = os.path.join(work, "console")
    os.symlink(target, link)
    done = mayfly("run", function(), "--handler", "app.handler", "--boot", "--console", link,
                  "--state", STATE)
    assert done.returncode == 3, (done.returncode, done.stderr)
    assert "open the console file" in done.stderr, done.stderr
    assert read(target) == "kept"


def run_without_cgroups(*extra):
    """In a mount namespace where no control group can be made; the state directory is the same."""
    points = " ".join({point for point, _ in controllers().values()})
    script = (f'for p in {points}; do mount --bind "$p" "$p" && mount -o remount,bind,ro "$p" '
              '|| exit 99; done; exec "$@"')
    return start(5, 0, wrapper=["unshare", "-m", "sh", "-c", script, "sh"], extra=extra)


@suite.case
def what_is_missing_is_said():
    need_kvm()
    need_root()
    need_cgroups()
    child = run_without_cgroups()
    stdout, stderr = child.communicate(timeout=600)
    assert child.returncode == 0, stderr
    assert json.loads(stdout)["result"] == 5
    for name in ("memory", "pids", "cpu"):
        assert f"cgroup {name}: Read-only file system" in stderr, stderr
    assert stderr.count("the jail is not whole") == 1, stderr

    child = run_without_cgroups("--require-jail")
    stdout, stderr = child.communicate(timeout=600)
    assert child.returncode == 3, (child.returncode, stderr)
    assert "a whole jail is required, but this is missing: cgroup" in stderr, stderr


@suite.case
def without_root():
    """A user who may only open /dev/kvm: no user of the VM's own and no limits, but all the rest."""
    need_kvm()
    need_root()  # to become such a user, with images that are his
    home = os.path.join(work, "home")
    os.chmod(work, 0o755)
    subprocess.run(["sh", "-ec", f"""mkdir {home}; cp -r {STATE}/images {STATE}/snapshots {home}
        cp {MAYFLY} {MAYFLY}-vmm {home}; chown -R 12345:12345 {home}"""], check=True)
    function()
    script = """mount -t tmpfs none /dev && mknod -m 666 /dev/kvm c 10 232 &&
        mknod -m 666 /dev/null c 1 3 && mknod -m 666 /dev/urandom c 1 9 || exit 99
        exec setpriv --reuid=12345 --regid=12345 --clear-groups "$@" """
    child = subprocess.Popen(
        ["unshare", "-m", "sh", "-c", script, "sh", f"{home}/mayfly", "run", f"{work}/sleeper",
         "--handler", "app.handler", "--timeout", "900", "--state", home, "--event",
         '{"n": 7, "seconds": 600}'],
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    wait_for_handler(child, 7)
    monitor = monitor_of(child.pid)
    status = status_of(f"proc/{monitor}")
    assert status["Uid"].split() == ["12345"] * 4, status
    assert status["Seccomp"].strip() == "2" and status["NoNewPrivs"].strip() == "1", status
    for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
        assert int(status[name], 16) == 0, (name, status)
    check_descriptors(monitor)
    check_surroundings(monitor)
    child.send_signal(signal.SIGTERM)
    said = child.communicate(timeout=60)[1]
    assert "a user of its own: only root can give it one" in said, said


@suite.case
def no_jail_is_said_loudly():
    need_kvm()
    done = mayfly("run", function(), "--handler", "app.handler", "--no-jail", "--event",
                  '{"n": 6, "seconds": 0}', "--state", STATE)
    assert done.returncode == 0, done.stderr
    assert "WARNING: --no-jail" in done.stderr, done.stderr
    done = mayfly("run", function(), "--no-jail", "--require-jail", "--state", STATE)
    assert done.returncode == 2, (done.returncode, done.stderr)


if __name__ == "__main__":
    try:
        suite.main(workers=1)
    finally:
        shutil.rmtree(work, ignore_errors=True)
