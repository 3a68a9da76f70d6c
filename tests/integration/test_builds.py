#!/usr/bin/env python3
"""The life of a build: what serves while an update is made or fails, publishing, hosts without images."""

import json
import os
import shutil
import threading
import time
import urllib.request

import harness
from daemon import Daemon, make_zip, work
from harness import STATE, need_kvm

suite = harness.Suite("builds")
PATIENCE_S = 300

SAYS = """
import time
def handler(event, context):
    time.sleep(event.get("sleep", 0))
    return "%s of " + context.function_version
"""
SLOW_INIT = "import time\ntime.sleep(4)\n"


def link_store(what, state):
    """The images or snapshots of the tests, as files of this state's own: nothing is made twice, and
    nothing that a case does is seen by others."""
    source = os.path.join(STATE, what)
    if os.path.isdir(source):
        shutil.copytree(source, os.path.join(state, what), copy_function=link_or_copy, symlinks=True)


def link_or_copy(source, target):
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def start(name):
    """A daemon that restores what others have booted."""
    need_kvm()
    state = os.path.join(work, name)
    os.makedirs(state)
    for what in ("images", "snapshots"):
        link_store(what, state)
    return Daemon(name, images=False, config="shells: 1\nmetrics: open\n")


def status(daemon, name, *more):
    return daemon.aws("get-function-configuration", "--function-name", name, *more)


def wait_until(condition, what):
    until = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < until, f"never: {what}"
        time.sleep(0.2)


def say(daemon, name, event=None, *more, out="say.json"):
    return json.loads(daemon.invoke(name, event or {}, *more, out=out)[1])


def update(daemon, name, source, *more):
    make_zip(os.path.join(work, name + "-new.zip"), source)
    return daemon.aws("update-function-code", "--function-name", name, "--zip-file",
                      f"fileb://{name}-new.zip", *more)


def instances(daemon):
    with urllib.request.urlopen(daemon.endpoint + "/metrics", timeout=60) as answer:
        lines = answer.read().decode().splitlines()
    return sum(int(line.split()[-1]) for line in lines if line.startswith("mayfly_instances{"))


@suite.case
def updates_and_versions():
    daemon = start("updates")
    # Publish answers at once: the version is Pending as the function is.
    made = daemon.deploy("f", "--publish", "--timeout", "60", source=SAYS % "one")
    assert (made["Version"], made["State"]) == ("1", "Pending"), made
    state = daemon.wait_active("f")
    assert state["State"] == "Active", state
    wait_until(lambda: status(daemon, "f", "--qualifier", "1")["State"] == "Active", "version 1")
    assert say(daemon, "f", None, "--qualifier", "1") == "one of 1"
    # An update in mid-invocation: the event gets its answer, and so do others, until the new is there.
    answers = []
    long = threading.Thread(target=lambda: answers.append(say(daemon, "f", {"sleep": 8}, out="long.json")))
    long.start()
    time.sleep(2)
    made = update(daemon, "f", SLOW_INIT + SAYS % "two", "--publish")
    assert (made["Version"], made["State"]) == ("2", "Pending"), made
    assert status(daemon, "f")["LastUpdateStatus"] == "InProgress"
    assert say(daemon, "f") == "one of $LATEST"
    seen = {"one of $LATEST"}
    while status(daemon, "f")["LastUpdateStatus"] == "InProgress":
        seen.add(say(daemon, "f"))
    assert seen <= {"one of $LATEST", "two of $LATEST"}, seen
    assert status(daemon, "f")["LastUpdateStatus"] == "Successful", daemon.lines
    assert say(daemon, "f") == "two of $LATEST"
    long.join()
    assert answers == ["one of $LATEST"], answers
    wait_until(lambda: status(daemon, "f", "--qualifier", "2")["State"] == "Active", "version 2")
    assert say(daemon, "f", None, "--qualifier", "2") == "two of 2"
    assert say(daemon, "f", None, "--qualifier", "1") == "one of 1"
    # A version that is deleted keeps no instance.
    kept = instances(daemon)
    daemon.aws("delete-function", "--function-name", "f", "--qualifier", "1")
    wait_until(lambda: instances(daemon) < kept, "fewer instances")
    assert daemon.stop() == 0


@suite.case
def failing_update_keeps_the_old():
    daemon = start("failing")
    daemon.deploy("f", source=SAYS % "good")
    daemon.wait_active("f")
    update(daemon, "f", "raise RuntimeError('not today')")
    state = daemon.wait_active("f")
    assert (state["State"], state["LastUpdateStatus"]) == ("Active", "Failed"), state
    assert state["LastUpdateStatusReasonCode"] == "FunctionError", state
    assert "not today" in state["LastUpdateStatusReason"], state
    assert say(daemon, "f") == "good of $LATEST"
    daemon.aws("publish-version", "--function-name", "f", fails="ResourceConflictException")
    # For ever: also after a restart, from the old snapshot.
    assert daemon.stop() == 0
    daemon.start()
    assert say(daemon, "f") == "good of $LATEST"
    update(daemon, "f", SAYS % "better")
    state = daemon.wait_active("f")
    assert state["LastUpdateStatus"] == "Successful", state
    assert say(daemon, "f") == "better of $LATEST"
    # Deleted while it serves: the event gets its answer, and nothing is left.
    answers = []
    long = threading.Thread(target=lambda: answers.append(say(daemon, "f", {"sleep": 2}, out="last.json")))
    long.start()
    time.sleep(1)
    daemon.aws("delete-function", "--function-name", "f")
    daemon.aws("invoke", "--function-name", "f", "out", fails="ResourceNotFoundException")
    long.join()
    assert answers == ["better of $LATEST"], answers
    # Deleted while it is built.
    daemon.deploy("g", source=SLOW_INIT + SAYS % "never")
    time.sleep(2)
    daemon.aws("delete-function", "--function-name", "g")
    daemon.aws("get-function", "--function-name", "g", fails="ResourceNotFoundException")
    wait_until(lambda: instances(daemon) == 0, "no instances")
    assert daemon.stop() == 0
    assert not [line for line in daemon.lines if '"error"' in line], daemon.lines


@suite.case
def hosts_without_images():
    """No VM is needed: what is missing is said, to whom it concerns."""
    daemon = Daemon("bare", images=False)
    daemon.deploy("f")
    wait_until(lambda: "no images" in status(daemon, "f")["StateReason"], "a reason to wait")
    state = status(daemon, "f")
    assert (state["State"], state["StateReasonCode"]) == ("Pending", "Creating"), state
    assert daemon.stop() == 0
    said = [line for line in daemon.lines if "no images" in line]
    assert len(said) == 1, daemon.lines
    # Images are there now, but not that of its runtime.
    shutil.rmtree(os.path.join(daemon.state, "images"), ignore_errors=True)
    link_store("images", daemon.state)
    done = harness.mayfly("image", "rm", "python3.11", "--store", os.path.join(daemon.state, "images"))
    assert done.returncode == 0, done.stderr
    daemon.start()
    wait_until(lambda: status(daemon, "f")["State"] == "Failed", "Failed")
    state = status(daemon, "f")
    assert state["StateReasonCode"] == "InvalidRuntime", state
    assert "mayfly image build python3.11" in state["StateReason"], state
    assert daemon.state not in json.dumps(state), state
    daemon.aws("invoke", "--function-name", "f", "out", fails="mayfly image build python3.11")
    make_zip(os.path.join(work, "h.zip"))
    said = daemon.aws("create-function", "--function-name", "h", "--runtime", "python3.11", "--role",
                      "arn:aws:iam::000000000000:role/r", "--handler", "h.h", "--zip-file",
                      "fileb://h.zip", fails="InvalidParameterValueException")
    assert "mayfly image build python3.11" in said, said
    daemon.aws("get-function", "--function-name", "h", fails="ResourceNotFoundException")
    assert daemon.stop() == 0


if __name__ == "__main__":
    suite.main(workers=1)
