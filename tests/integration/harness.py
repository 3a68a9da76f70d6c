"""What the integration suites share: running build/bin/mayfly, cases with names, the closing line."""

import concurrent.futures
import json
import os
import subprocess
import sys
import time
import traceback

BUILD = os.path.abspath(os.environ.get("MAYFLY_BUILD", "build"))
STATE = os.path.abspath(os.environ.get("MAYFLY_STATE", os.path.join(BUILD, "state")))
MAYFLY = os.path.join(BUILD, "bin", "mayfly")


class Skip(Exception):
    """A case that this host cannot run; the text says why."""


def need_kvm():
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        raise Skip("no usable /dev/kvm")


def mayfly(*arguments, timeout=900, stdin=None, env=None, **options):
    """Runs the command; its exit status, stdout and stderr as text."""
    return subprocess.run([MAYFLY, *arguments], input=stdin, stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, timeout=timeout, check=False, text=True,
                          env=env, **options)


def write_function(directory, source, name="app.py"):
    os.makedirs(directory, exist_ok=True)
    with open(os.path.join(directory, name), "w", encoding="utf-8") as file:
        file.write(source)
    return directory


def result_of(done):
    """The one object that --json prints; anything else on stdout is a failure."""
    lines = done.stdout.splitlines()
    assert len(lines) == 1, f"stdout is not one line: {done.stdout[:400]!r} {done.stderr[-400:]!r}"
    return json.loads(lines[0])


def monitors_of(state):
    """Process ids of monitors whose instances belong to @state: they hold its images open."""
    found = set()
    for entry in os.listdir("/proc"):
        try:
            if (entry.isdigit() and os.readlink(f"/proc/{entry}/exe").endswith("/mayfly-vmm")
                    and any(state in line for line in open(f"/proc/{entry}/maps"))):
                found.add(int(entry))
        except OSError:
            pass
    return found


def mounts():
    with open("/proc/self/mounts", encoding="utf-8") as file:
        return sorted(file.read().splitlines())


class Suite:
    """Cases run two at a time (a boot keeps one core busy); the report is in their order."""

    def __init__(self, name):
        self.name = name
        self.cases = []

    def case(self, function):
        self.cases.append(function)
        return function

    def _run(self, function):
        began = time.monotonic()
        try:
            function()
            outcome, text = "ok", ""
        except Skip as skip:
            outcome, text = "skipped", f" ({skip})"
        except Exception:  # pylint: disable=broad-except
            outcome, text = "FAILED", "\n" + traceback.format_exc()
        took = time.monotonic() - began
        print(f"{outcome:8}{took:6.1f} s  {function.__name__}{text}", flush=True)
        return outcome

    def main(self, workers=2, after=None):
        """@after: run alone once all others are done."""
        with concurrent.futures.ThreadPoolExecutor(workers) as pool:
            outcomes = list(pool.map(self._run, self.cases))
        outcomes += [self._run(function) for function in after or []]
        passed, failed, skipped = (outcomes.count(o) for o in ("ok", "FAILED", "skipped"))
        print(f"{self.name}: {passed} passed, {failed} failed, {skipped} skipped")
        sys.exit(1 if failed else 0)
