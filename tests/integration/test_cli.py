#!/usr/bin/env python3
"""The command at a daemon: deploying, invoking, listing; with its exit statuses and messages."""

import atexit
import json
import os
import re
import subprocess
import time

import harness
from daemon import APP, PATIENCE_S, Daemon, work
from harness import MAYFLY, STATE, mayfly, need_kvm, write_function

suite = harness.Suite("cli")


class Cli:
    """A daemon, and the command on its socket."""

    def __init__(self, name, images=True, **options):
        state = os.path.join(work, name)
        os.makedirs(state, exist_ok=True)
        # Made snapshots of the runtimes are used: what they cost is measured elsewhere.
        if images and os.path.isdir(os.path.join(STATE, "snapshots")):
            os.symlink(os.path.abspath(os.path.join(STATE, "snapshots")), os.path.join(state, "snapshots"))
        self.daemon = Daemon(name, images=images, **options)
        self.state = self.daemon.state
        atexit.register(self.daemon.process.kill)  # where a case fails before it stops it

    def __call__(self, *arguments, status=0, **options):
        """The command's stdout; its stderr, too, where it is to fail."""
        done = mayfly(*arguments, "--state", self.state, **options)
        assert done.returncode == status, (arguments, done.returncode, done.stdout, done.stderr)
        return done.stdout if status == 0 else done.stdout + done.stderr

    def json(self, *arguments, **options):
        return json.loads(self(*arguments, "--json", **options))


def signed(daemon, **more):
    with open(os.path.join(daemon.state, "credentials"), encoding="utf-8") as file:
        text = file.read()
    return {"PATH": "/usr/bin:/bin", "MAYFLY_ENDPOINT": daemon.endpoint,
            "AWS_ACCESS_KEY_ID": re.search(r"aws_access_key_id *= *(\S+)", text)[1],
            "AWS_SECRET_ACCESS_KEY": re.search(r"aws_secret_access_key *= *(\S+)", text)[1], **more}


@suite.case
def no_daemon():
    done = mayfly("ls", "--state", os.path.join(work, "nobody"))
    assert done.returncode == 3 and not done.stdout, done
    assert "mayflyd is not running" in done.stderr and "mayflyd --state" in done.stderr, done
    done = mayfly("ls", "--endpoint", "http://127.0.0.1:1")
    assert done.returncode == 3 and "http://127.0.0.1:1" in done.stderr, done
    done = mayfly("ls", "--endpoint", "nonsense://x")
    assert done.returncode == 2 and "no URL" in done.stderr, done


@suite.case
def wrong_usage():
    for arguments, said in ((("invoke",), "which function"), (("ls", "x"), "'x'"),
                            (("deploy", ".", "--memory", "64"), "128"),
                            (("deploy", ".", "--env", "X"), "NAME=VALUE"),
                            (("deploy", "--memory", "128"), "which directory"),
                            (("invoke", "f", "--async", "--stream"), "only one"),
                            (("ls", "--state", "/x", "--endpoint", "http://x"), "not both")):
        done = mayfly(*arguments, cwd=work)
        assert done.returncode == 2 and said in done.stderr, (arguments, done)
    for command in ("deploy", "invoke", "ls", "get", "rm"):
        for asked in ((command, "--help"), ("help", command)):
            done = mayfly(*asked)
            assert done.returncode == 0 and done.stdout.startswith(f"mayfly {command} - "), done


@suite.case
def deploy_without_guests():
    """What needs no VM: where there is no image, a function stays Pending or fails, and is listed."""
    cli = Cli("plain", images=False)
    code = write_function(os.path.join(work, "plain-code"), APP)
    assert "no functions yet" in cli("ls")
    out = cli.json("deploy", code, "--name", "f", "--runtime", "python3.11", "--handler", "app.handler",
                   "--memory", "256", "--env", "STAGE=a=b", "--concurrency", "7", "--no-wait")
    assert out["functions"][0]["action"] == "created", out
    got = cli.json("get", "f")
    configuration = got["Configuration"]
    assert configuration["MemorySize"] == 256, got
    assert configuration["Environment"]["Variables"] == {"STAGE": "a=b"}, got
    assert got["Concurrency"]["ReservedConcurrentExecutions"] == 7, got
    assert [v["Version"] for v in got["Versions"]] == ["$LATEST"] and got["Aliases"] == [], got
    assert "STAGE=a=b" in cli("get", "f") and "7 reserved" in cli("get", "f")
    assert "ResourceNotFoundException" in cli("get", "g", status=2)
    assert "its runtime" in cli("deploy", code, "--name", "new", "--no-wait", status=2)
    assert "ValidationException" in cli("deploy", code, "--name", "a b", "--no-wait", status=2)
    assert "no such file" in cli("deploy", work + "/none", "--no-wait", status=2).lower()
    assert cli("rm", "f") == "removed f\n"
    assert "ResourceNotFoundException" in cli("rm", "f", status=2)
    assert cli.daemon.stop() == 0


@suite.case
def signed_endpoint():
    """Over TCP with a signature: queries, bodies, pages; refusals say what to do."""
    cli = Cli("signed", images=False)
    code = write_function(os.path.join(work, "signed-code"), APP)
    names = [f"f{i:02}" for i in range(60)]
    env = signed(cli.daemon)
    listed = "".join(f"  - {{name: {n}, runtime: python3.11, handler: app.handler}}\n" for n in names)
    with open(os.path.join(code, "mayfly.yaml"), "w", encoding="utf-8") as file:
        file.write("functions:\n" + listed)
    done = mayfly("deploy", "--no-wait", "--json", cwd=code, env=env)
    assert done.returncode == 0, done
    assert [f["name"] for f in json.loads(done.stdout)["functions"]] == names
    # Two pages, the second with a marker in its signed query.
    done = mayfly("ls", "--json", env=env)
    assert [f["FunctionName"] for f in json.loads(done.stdout)["functions"]] == names, done
    done = mayfly("get", "f07:$LATEST", "--json", env=env)
    assert json.loads(done.stdout)["Configuration"]["FunctionName"] == "f07", done
    done = mayfly("rm", "f07", env=env)
    assert done.returncode == 0, done
    done = mayfly("get", "arn:aws:lambda:us-east-1:000000000000:function:f08", env=env)
    assert done.returncode == 2 and "name, not its ARN" in done.stderr, done
    done = mayfly("ls", env={**env, "AWS_SECRET_ACCESS_KEY": "wrong"})
    assert done.returncode == 3 and "InvalidSignatureException" in done.stderr, done
    done = mayfly("ls", env={**env, "AWS_SECRET_ACCESS_KEY": ""})
    assert done.returncode == 3 and "AWS_ACCESS_KEY_ID" in done.stderr, done
    # An ARN goes through the socket, and a tenant that is not there does not.
    assert "f08" in cli("get", "arn:aws:lambda:us-east-1:000000000000:function:f08")
    assert "no tenant" in cli("ls", "--tenant", "nobody", status=3)
    # A large body: curl asks before it sends it.
    with open(os.path.join(code, "blob"), "wb") as file:
        file.write(os.urandom(3 << 20))
    done = mayfly("deploy", code, "--name", "large", "--runtime", "python3.11", "--handler",
                  "app.handler", "--no-wait", env=env)
    assert done.returncode == 0, done
    assert cli.daemon.stop() == 0


@suite.case
def with_guests():
    need_kvm()
    cli = Cli("guests")
    place = os.path.join(work, "project")
    write_function(os.path.join(place, "src"), APP)
    with open(os.path.join(place, "mayfly.yaml"), "w", encoding="utf-8") as file:
        file.write("functions:\n  - name: words\n    runtime: python3.11\n    handler: app.handler\n"
                   "    code: src\n    timeout: 2\n    environment: [STAGE=test]\n")
    first = cli.json("deploy", cwd=place)["functions"][0]
    assert first["action"] == "created" and first["state"] == "Active", first
    again = cli.json("deploy", cwd=place)["functions"][0]
    assert again["action"] == "unchanged" and again["changed"] == [], again
    out = cli("deploy", os.path.join(place, "src"), "--name", "words", "--timeout", "3", "--alias", "live")
    assert "updated (Timeout, Version, Alias)" in out and "version 1, alias live" in out, out
    again = cli.json("deploy", os.path.join(place, "src"), "--name", "words", "--alias", "live")
    assert again["functions"][0]["action"] == "unchanged" and again["functions"][0]["version"] == "1", again

    assert json.loads(cli("invoke", "words", "--event", '{"text":"a b c"}')) == {
        "words": 3, "version": "$LATEST"}
    event = os.path.join(work, "event.json")
    with open(event, "w", encoding="utf-8") as file:
        file.write('{"text":"a b"}')
    assert json.loads(cli("invoke", "words:live", "-e", "@" + event)) == {"words": 2, "version": "1"}
    result = cli.json("invoke", "words", "-q", "live", "-e", "-", "--log", stdin='{"text":"a"}')
    assert result["result"]["words"] == 1 and result["version"] == "1", result
    assert "called\n" in result["log"] and "REPORT RequestId" in result["log"], result
    assert json.loads(cli("invoke", "words", "--stream", "-e", '{"text":"a b"}'))["words"] == 2
    failed = cli("invoke", "words", "-e", '{"raise":"no \\u001b[31m"}', status=1)
    assert '"errorType": "ValueError"' in failed and "the function failed: ValueError: no" in failed, failed
    assert "\x1b" not in failed, failed
    failed = cli("invoke", "words", "--stream", "-e", '{"raise":"no"}', status=1)
    assert "ValueError" in failed, failed
    failed = cli("invoke", "words", "-e", '{"sleep":60}', "--json", status=1)
    assert '"function-error"' in failed and "timed out" in failed.lower(), failed
    assert "InvalidRequestContent" in cli("invoke", "words", "-e", "{", status=2)
    assert "queued" in cli("invoke", "words", "--async")
    assert "could be invoked" in cli("invoke", "words", "--dry-run")

    listed = cli("ls", "--versions").splitlines()
    assert len(listed) == 3 and " Active " in listed[1], listed
    assert "live → version 1" in cli("get", "words")
    assert "ResourceConflict" in cli("rm", "words:1", status=3)
    # Code whose init phase fails is deployed, and the old one goes on.
    write_function(os.path.join(place, "src"), "raise RuntimeError('broken')")
    out = cli("deploy", cwd=place, status=1)
    assert "goes on as it was" in out or "cannot run" in out, out
    cli("rm", "words")
    assert "no functions yet" in cli("ls")
    assert cli.daemon.stop() == 0
    assert not harness.monitors_of(cli.state)


if __name__ == "__main__":
    suite.main()
