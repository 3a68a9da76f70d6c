#!/usr/bin/env python3
"""mayflyd with the tools that people have: the AWS CLI and the AWS SDK for JavaScript, unchanged."""

import base64
import json
import os
import shutil
import signal
import subprocess
import time
import urllib.request

import harness
from daemon import MAYFLYD, PATIENCE_S, Daemon, make_zip, raw, work
from harness import BUILD, Skip, need_kvm

suite = harness.Suite("mayflyd")


@suite.case
def awscli_without_guests():
    """All that needs no VM: it works on hosts without /dev/kvm, where builds stay Pending."""
    daemon = Daemon("plain", images=False)
    made = daemon.deploy("f", "--environment", "Variables={AB=1}", "--tags", "a=b", "--timeout", "9")
    assert made["State"] == "Pending" and made["Timeout"] == 9, made
    daemon.deploy("g")
    assert [f["FunctionName"] for f in daemon.aws("list-functions")["Functions"]] == ["f", "g"]
    page = daemon.aws("list-functions", "--page-size", "1", "--max-items", "1")
    assert len(page["Functions"]) == 1 and page["NextToken"], page
    got = daemon.aws("get-function", "--function-name", "f")
    assert got["Tags"] == {"a": "b"}
    with urllib.request.urlopen(got["Code"]["Location"], timeout=60) as code:
        assert code.read()[:2] == b"PK"
    daemon.aws("tag-resource", "--resource", made["FunctionArn"], "--tags", "c=d")
    assert daemon.aws("list-tags", "--resource", made["FunctionArn"])["Tags"] == {"a": "b", "c": "d"}
    daemon.aws("put-function-concurrency", "--function-name", "f", "--reserved-concurrent-executions", "3")
    assert daemon.aws("get-function-concurrency", "--function-name", "f") == {
        "ReservedConcurrentExecutions": 3}
    daemon.aws("put-function-event-invoke-config", "--function-name", "f", "--maximum-retry-attempts", "0")
    assert daemon.aws("get-account-settings")["AccountUsage"]["FunctionCount"] == 2
    daemon.aws("invoke", "--function-name", "f", "--invocation-type", "DryRun", "out")
    daemon.aws("invoke", "--function-name", "f", "out", fails="ResourceConflictException")
    daemon.aws("get-function", "--function-name", "h", fails="ResourceNotFoundException")
    daemon.aws("create-function", "--function-name", "k", "--runtime", "cobol", "--role",
               "arn:aws:iam::000000000000:role/r", "--handler", "h", "--zip-file", "fileb://f.zip",
               fails="InvalidParameterValueException")
    daemon.aws("delete-function", "--function-name", "f")
    daemon.aws("delete-function", "--function-name", "f", fails="ResourceNotFoundException")
    daemon.aws("list-functions", AWS_SHARED_CREDENTIALS_FILE="/dev/null", AWS_ACCESS_KEY_ID="AKIDX",
               AWS_SECRET_ACCESS_KEY="y", fails="UnrecognizedClientException")
    assert daemon.stop() == 0


@suite.case
def two_tenants_and_restart():
    daemon = Daemon("tenants", images=False, config="""
region: eu-west-1
tenants:
  - name: one
    account: "000000000001"
    access_keys: [{id: AKIDONE, secret: s1}]
  - name: two
    account: "000000000002"
    access_keys: [{id: AKIDTWO, secret: s2}]
""")
    one = {"AWS_SHARED_CREDENTIALS_FILE": "/dev/null", "AWS_ACCESS_KEY_ID": "AKIDONE",
           "AWS_SECRET_ACCESS_KEY": "s1"}
    two = {**one, "AWS_ACCESS_KEY_ID": "AKIDTWO", "AWS_SECRET_ACCESS_KEY": "s2"}
    make_zip(os.path.join(work, "t.zip"))
    create = ("create-function", "--function-name", "f", "--runtime", "python3.11", "--handler", "h.h",
              "--role", "arn:aws:iam::000000000001:role/r", "--zip-file", "fileb://t.zip")
    arn = daemon.aws(*create, **one)["FunctionArn"]
    assert arn == "arn:aws:lambda:eu-west-1:000000000001:function:f", arn
    daemon.aws("get-function", "--function-name", "f", fails="ResourceNotFoundException", **two)
    daemon.aws("get-function", "--function-name", arn, fails="ResourceNotFoundException", **two)
    daemon.aws("list-functions", fails="InvalidSignatureException", **{**one, "AWS_SECRET_ACCESS_KEY": "s2"})
    assert b" 403 " in raw(daemon.port, b"GET /2015-03-31/functions HTTP/1.1\r\nHost: x\r\n\r\n")
    # What was answered for is there after a kill.
    daemon.stop(signal.SIGKILL)
    daemon.start()
    assert daemon.aws("get-function", "--function-name", "f", **one)
    assert daemon.stop() == 0


@suite.case
def bad_configuration():
    path = os.path.join(work, "bad.yaml")
    with open(path, "w", encoding="utf-8") as file:
        file.write("region: eu-west-1\nkeep_alive_s: soon\n")
    done = subprocess.run([MAYFLYD, "--config", path, "--state", os.path.join(work, "bad")],
                          capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 3 and f"{path}:2: keep_alive_s" in done.stderr, done


@suite.case
def awscli_with_guests():
    need_kvm()
    daemon = Daemon("guests")
    daemon.deploy("f", "--timeout", "2")
    state = daemon.wait_active("f")
    assert state["State"] == "Active", (state, daemon.lines)
    answer, body = daemon.invoke("f", {"text": "a b c"}, "--log-type", "Tail")
    assert json.loads(body) == {"words": 3, "version": "$LATEST"} and answer["StatusCode"] == 200
    log = base64.b64decode(answer["LogResult"]).decode()
    assert "START RequestId: " in log and "called\n" in log and "Billed Duration: " in log, log
    answer, body = daemon.invoke("f", {"raise": "no"})
    assert answer["FunctionError"] == "Unhandled" and json.loads(body)["errorType"] == "ValueError"
    answer, body = daemon.invoke("f", {"sleep": 60})
    assert answer["FunctionError"] == "Unhandled" and b"timed out" in body.lower(), body
    daemon.aws("publish-version", "--function-name", "f")
    daemon.aws("create-alias", "--function-name", "f", "--name", "live", "--function-version", "1")
    until = time.monotonic() + PATIENCE_S
    while daemon.aws("get-function-configuration", "--function-name", "f", "--qualifier", "1")["State"] == "Pending":
        assert time.monotonic() < until
        time.sleep(1)
    answer, body = daemon.invoke("f", {"text": "a"}, "--qualifier", "live")
    assert answer["ExecutedVersion"] == "1" and json.loads(body)["version"] == "1", (answer, body)
    url = daemon.aws("create-function-url-config", "--function-name", "f", "--auth-type", "NONE")
    request = urllib.request.Request(url["FunctionUrl"] + "some/path", data=b"hello",
                                     headers={"Content-Type": "text/plain"})
    with urllib.request.urlopen(request, timeout=PATIENCE_S) as reply:
        assert (reply.status, reply.headers["X-Path"], reply.read()) == (202, "/some/path", b"hello")
    daemon.aws("put-function-concurrency", "--function-name", "f", "--reserved-concurrent-executions", "0")
    daemon.aws("invoke", "--function-name", "f", "out", fails="TooManyRequestsException")
    daemon.aws("delete-function-concurrency", "--function-name", "f")
    # Stopped and started: from its snapshot, without a new build.
    assert daemon.stop() == 0
    assert not harness.monitors_of(daemon.state)
    daemon.start()
    _, body = daemon.invoke("f", {"text": "a b"})
    assert json.loads(body)["words"] == 2
    daemon.aws("delete-function", "--function-name", "f")
    assert daemon.stop() == 0


def sdk_for_javascript():
    """After the others: on the state of awscli_with_guests, so that no guest boots again."""
    need_kvm()
    if not shutil.which("npm") or not shutil.which("node"):
        raise Skip("no npm")
    place = os.path.join(os.path.abspath(BUILD), "sdk")
    os.makedirs(place, exist_ok=True)
    shutil.copy(os.path.join(os.path.dirname(__file__), "sdk_client.mjs"), place)
    if not os.path.isdir(os.path.join(place, "node_modules", "@aws-sdk", "client-lambda")):
        done = subprocess.run(["npm", "install", "--no-audit", "--no-fund", "@aws-sdk/client-lambda@3"],
                              cwd=place, capture_output=True, text=True, check=False, timeout=300)
        if done.returncode != 0:
            raise Skip("npm cannot install @aws-sdk/client-lambda: " + done.stderr[-200:])
    daemon = Daemon("guests")
    archive = make_zip(os.path.join(work, "js.zip"))
    done = subprocess.run(["node", "sdk_client.mjs", daemon.endpoint, archive], cwd=place,
                          env={**daemon.environment(), "PATH": os.environ["PATH"]},
                          capture_output=True, text=True, check=False, timeout=PATIENCE_S)
    assert done.returncode == 0, (done.stderr, daemon.lines)
    seen = json.loads(done.stdout)
    assert seen["state"] == "Pending" and seen["words"] == 3 and seen["streamed_words"] == 2, seen
    assert seen["complete"] and "REPORT RequestId" in seen["log"], seen
    assert seen["error"] == ["ResourceNotFoundException", 404, True] and seen["listed"] == ["js"], seen
    assert daemon.stop() == 0


if __name__ == "__main__":
    suite.main(after=[sdk_for_javascript])
