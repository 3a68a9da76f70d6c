#!/usr/bin/env python3
"""The command at a daemon: deploying, invoking, listing; with its exit statuses and messages."""

import atexit
import io
import json
import os
import re
import signal
import socket
import subprocess
import tarfile

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
    for command in ("deploy", "invoke", "ls", "get", "rm", "logs", "top", "metrics", "backup",
                    "restore-backup"):
        for asked in ((command, "--help"), ("help", command)):
            done = mayfly(*asked)
            assert done.returncode == 0 and done.stdout.startswith(f"mayfly {command} - "), done


@suite.case
def deploy_without_guests():
    """What needs no VM: where there is no image, a function stays Pending or fails, and is listed."""
    cli = Cli("plain", images=False)
    code = write_function(os.path.join(work, "plain-code"), APP)
    assert "no functions yet" in cli("ls")
    assert "FUNCTION" in cli("top", "--once", "-i", "1") and "mayfly_" in cli("metrics")
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
                   "    code: src\n    timeout: 100\n    environment: [STAGE=test]\n")
    first = cli.json("deploy", cwd=place)["functions"][0]
    assert first["action"] == "created" and first["state"] == "Active", first
    again = cli.json("deploy", cwd=place)["functions"][0]
    assert again["action"] == "unchanged" and again["changed"] == [], again
    out = cli("deploy", os.path.join(place, "src"), "--name", "words", "--timeout", "120", "--alias", "live")
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
    assert '"ValueError"' in failed and "the function failed: ValueError: no" in failed, failed
    assert "\x1b" not in failed, failed
    failed = cli("invoke", "words", "--stream", "-e", '{"raise":"no"}', status=1)
    assert "ValueError" in failed, failed
    assert "InvalidRequestContent" in cli("invoke", "words", "-e", "{", status=2)
    assert "queued" in cli("invoke", "words", "--async")
    assert "could be invoked" in cli("invoke", "words", "--dry-run")

    # What was printed and counted on the way; "called" is what the function prints.
    logged = cli("logs", "words", "--since", "1h")
    assert "  called\n" in logged and "REPORT RequestId: " in logged and "  1        " in logged, logged
    assert "called" in cli("logs", "words", "--messages").splitlines(), logged
    lines = [json.loads(line) for line in cli("logs", "words", "--json").splitlines()]
    assert {line["stream"] for line in lines} >= {"stdout", "platform"}, lines
    only = cli("logs", "words", "--request-id", result["request_id"], "--json").splitlines()
    assert only and all(json.loads(line)["request_id"] == result["request_id"] for line in only), only
    assert "since" in cli("logs", "words", "--since", "tomorrow", status=2)
    assert "NotFound" in cli("logs", "nobody", status=2)
    with subprocess.Popen([MAYFLY, "logs", "words", "--follow", "--messages", "-n", "1", "--state", cli.state],
                          stdout=subprocess.PIPE, text=True) as following:
        following.stdout.readline()  # the one line of before: it follows
        cli("invoke", "words", "-e", '{"text":"a"}')
        for line in following.stdout:
            if line.startswith("REPORT"):
                break
        following.send_signal(signal.SIGINT)
        assert following.wait(timeout=60) == 130
    assert "mayfly_starts_total" in cli("metrics")
    row = next(f for f in cli.json("top", "-i", "1")["functions"] if f["function"] == "words")
    assert row["total"] >= 6 and row["errors"] == 0, row
    top = cli("top", "--once", "-i", "1")
    assert "FUNCTION" in top and "words " in top and "instances:" in top, top

    listed = cli("ls", "--versions").splitlines()
    assert len(listed) == 3 and " Active " in listed[1], listed
    assert "live → version 1" in cli("get", "words")
    assert "ResourceConflict" in cli("rm", "words:1", status=3)
    cli("deploy", os.path.join(place, "src"), "--name", "words", "--timeout", "1")
    failed = cli("invoke", "words", "-e", '{"sleep":600}', "--json", status=1)
    assert '"function-error"' in failed and "timed out" in failed.lower(), failed
    # Code whose init phase fails is deployed, and the old one goes on.
    write_function(os.path.join(place, "src"), "raise RuntimeError('broken')")
    out = cli("deploy", cwd=place, status=1)
    assert "goes on as it was" in out or "cannot run" in out, out
    cli("rm", "words")
    assert "no functions yet" in cli("ls")
    assert cli.daemon.stop() == 0
    assert not harness.monitors_of(cli.state)


def members(path):
    done = subprocess.run(["tar", "--zstd", "-tf", path], capture_output=True, text=True, check=True)
    return done.stdout.split()


def pack(path, files):
    """A tar.zst with these (name, bytes), in this order."""
    with subprocess.Popen(["zstd", "-q", "-f", "-o", path], stdin=subprocess.PIPE) as zstd:
        with tarfile.open(fileobj=zstd.stdin, mode="w|") as archive:
            for name, data in files:
                info = tarfile.TarInfo(name)
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
    assert zstd.returncode == 0


@suite.case
def backup_and_restore():
    """While the daemon works: what it has is there again in a fresh state, the code included."""
    cli = Cli("backup", images=False)
    code = write_function(os.path.join(work, "backup-code"), APP)
    for name in ("a", "b"):
        write_function(code, APP + f"# {name}\n")
        cli("deploy", code, "--name", name, "--runtime", "python3.11", "--handler", "app.handler",
            "--env", f"WHO={name}", "--no-wait")
    cli("invoke", "a", "--async")
    file = os.path.join(work, "backup.tar.zst")
    out = cli.json("backup", file)
    assert (out["functions"], out["versions"], out["codes"]) == (2, 2, 2), out
    assert os.stat(file).st_mode & 0o777 == 0o600
    names = members(file)
    assert names[0] == "mayfly-backup.json" and {"mayfly.db", "credentials"} <= set(names), names
    assert len([n for n in names if n.startswith("code/")]) == 2, names
    cli("rm", "a")
    cli("backup", file)  # over the old one
    assert len([n for n in members(file) if n.startswith("code/")]) in (1, 2)
    assert not [n for n in os.listdir(cli.state) if n.startswith(".backup")], os.listdir(cli.state)

    state = os.path.join(work, "restored")
    refused = mayfly("restore-backup", file, "--state", cli.state)
    assert refused.returncode in (2, 3) and cli.state in refused.stderr, refused
    done = mayfly("restore-backup", file, "--state", state)
    assert done.returncode == 0 and "1 functions" in done.stdout, done
    before = cli.json("ls")
    assert cli.daemon.stop() == 0
    again = Cli("restored", images=False)
    assert [f["FunctionName"] for f in again.json("ls")["functions"]] == ["b"]
    assert again.json("ls")["functions"][0]["CodeSha256"] == before["functions"][0]["CodeSha256"]
    with open(os.path.join(state, "credentials"), encoding="utf-8") as new, \
            open(os.path.join(cli.state, "credentials"), encoding="utf-8") as old:
        assert new.read() == old.read()
    assert again.json("deploy", code, "--name", "b", "--no-wait")["functions"][0]["action"] == "unchanged"
    assert again.daemon.stop() == 0
    assert "database" in mayfly("restore-backup", file, "--state", state).stderr


@suite.case
def backups_that_are_none():
    def refused(path, said):
        state = os.path.join(work, "refused")
        done = mayfly("restore-backup", path, "--state", state)
        assert done.returncode == 2 and said in done.stderr, (said, done)
        assert set(os.listdir(state)) <= {"mayflyd.lock"}, os.listdir(state)

    cli = Cli("whole", images=False)
    code = write_function(os.path.join(work, "whole-code"), APP)
    cli("deploy", code, "--name", "a", "--runtime", "python3.11", "--handler", "app.handler", "--no-wait")
    whole = os.path.join(work, "whole.tar.zst")
    cli("backup", whole)
    assert cli.daemon.stop() == 0
    unpacked = subprocess.run(["zstd", "-dc", whole], capture_output=True, check=True).stdout
    with tarfile.open(fileobj=io.BytesIO(unpacked)) as archive:
        files = [(m.name, archive.extractfile(m).read()) for m in archive.getmembers()]
    bad = os.path.join(work, "bad.tar.zst")
    with open(whole, "rb") as source, open(bad, "wb") as target:
        target.write(source.read()[:-100])
    refused(bad, "damaged")
    with open(bad, "wb") as target:
        target.write(os.urandom(1000))
    refused(bad, "no backup")
    for change, said in (
            (lambda n, d: (n, d[:-1] + b"x") if n.startswith("code/") else (n, d), "what its name says"),
            (lambda n, d: None if n.startswith("code/") else (n, d), "is missing"),
            (lambda n, d: None if n == "mayfly.db" else (n, d), "no database"),
            (lambda n, d: (n, b"\x00" * 4096) if n == "mayfly.db" else (n, d), "database"),
            (lambda n, d: ("../evil", d) if n == "credentials" else (n, d), "../evil"),
            (lambda n, d: ("/etc/evil", d) if n == "credentials" else (n, d), "/etc/evil"),
            (lambda n, d: ("run/x", d) if n == "credentials" else (n, d), "run/x"),
            (lambda n, d: (n, b'{"format": 99}') if n == "mayfly-backup.json" else (n, d), "newer")):
        pack(bad, [made for made in (change(*file) for file in files) if made])
        refused(bad, said)
    assert not os.path.exists(os.path.join(work, "evil"))
    done = mayfly("backup", bad, "--state", os.path.join(work, "refused"))
    assert done.returncode == 2 and "no database" in done.stderr, done


@suite.case
def completion_in_bash():
    script = os.path.join(work, "completion.bash")
    with open(script, "w", encoding="utf-8") as file:
        file.write(mayfly("completion", "bash").stdout)
    done = subprocess.run(
        ["bash", "-c", f"""source {script}; complete -p mayfly
t() {{ COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _mayfly; echo "${{COMPREPLY[@]}}"; }}
t mayfly dep; t mayfly deploy --conc; t mayfly snapshot imp; t mayfly run --requ"""],
        capture_output=True, text=True, check=False, timeout=60,
        env={"PATH": os.path.dirname(MAYFLY) + ":/usr/bin:/bin"})
    assert done.stdout.splitlines() == ["complete -F _mayfly mayfly", "deploy", "--concurrency",
                                        "import", "--require-jail"], done


@suite.case
def installed():
    """`make install` into a directory: the programs find each other, the unit is one, ready is said."""
    root = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..")
    place = os.path.join(work, "installed")
    where = [f"PREFIX={place}/usr", f"SYSCONFDIR={place}/etc", f"STATEDIR={place}/var",
             f"UNITDIR={place}/units", f"BUILD={os.path.dirname(os.path.dirname(MAYFLY))}"]
    env = {k: v for k, v in os.environ.items() if k not in ("MAKEFLAGS", "MFLAGS", "MAKELEVEL")}

    def make(what, *more):
        done = subprocess.run(["make", "-o", "build", what, *where, *more], cwd=root, env=env,
                              capture_output=True, text=True, check=False, timeout=300)
        assert done.returncode == 0, done

    make("install", f"DESTDIR={work}/dest")
    assert os.path.exists(f"{work}/dest{place}/usr/bin/mayfly")  # the link leads to what is there
    with open(f"{work}/dest{place}/units/mayflyd.service", encoding="utf-8") as file:
        text = file.read()
        assert "@" not in text and f"{work}/dest" not in text, text
    make("install")
    config = f"{place}/etc/mayflyd.yaml"
    assert os.stat(config).st_mode & 0o777 == 0o600
    if os.access("/usr/bin/systemd-analyze", os.X_OK):
        done = subprocess.run(["systemd-analyze", "verify", f"{place}/units/mayflyd.service"],
                              capture_output=True, text=True, check=False, timeout=60)
        assert done.returncode == 0 and place not in done.stderr, done
    # The sample's examples are right: with all of them, what is missing is the certificate.
    with open(config, encoding="utf-8") as file:
        lines = [line[1:] if re.match("#(?! )|#  ", line) else line for line in file]
    with open(f"{work}/all.yaml", "w", encoding="utf-8", opener=lambda p, f: os.open(p, f, 0o600)) as file:
        file.writelines(line for line in lines if not re.match("socket|state|log:", line))
    done = subprocess.run([f"{place}/usr/sbin/mayflyd", "--config", f"{work}/all.yaml", "--state", f"{work}/all"],
                          capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 3 and "/etc/mayfly/cert.pem" in done.stderr, (done, "".join(lines))
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(f"{work}/notify")
        manager.settimeout(120)
        with subprocess.Popen([f"{place}/usr/sbin/mayflyd", "--config", config, "--state", f"{place}/var",
                               "--listen", "127.0.0.1:0"], stderr=subprocess.PIPE, text=True,
                              env={"PATH": "/usr/bin", "NOTIFY_SOCKET": f"{work}/notify"}) as daemon:
            try:
                assert manager.recv(100) == b"READY=1"
                done = subprocess.run([f"{place}/usr/bin/mayfly", "ls", "--state", f"{place}/var"],
                                      capture_output=True, text=True, check=False, timeout=60)
                assert done.returncode == 0 and "no functions" in done.stdout, done
            finally:
                daemon.terminate()
            assert manager.recv(100) == b"STOPPING=1"
            daemon.stderr.read()
        assert daemon.returncode == 0
    # The monitor is found, and jailed as from the build directory.
    jails = [next(check for check in json.loads(subprocess.run(
        [program, "doctor", "--json", "--state", STATE], capture_output=True, text=True, check=False,
        timeout=300).stdout)["checks"] if check["name"] == "jail of a VM")
             for program in (f"{place}/usr/bin/mayfly", MAYFLY)]
    assert jails[0] == jails[1] and "no monitor" not in jails[0]["detail"], jails
    with open(config, "a", encoding="utf-8") as file:
        file.write("# mine\n")
    make("install")
    make("uninstall")
    left = [name for _, _, names in os.walk(place) for name in names]
    with open(config, encoding="utf-8") as file:
        assert "# mine" in file.read()
    assert not [n for n in left if n.startswith("mayfly") and n != "mayflyd.yaml" and
                not n.startswith("mayfly.db") and not n.startswith("mayflyd.")], left


if __name__ == "__main__":
    suite.main()
