"""mayflyd under test: a daemon with a state directory of its own, driven by the AWS CLI."""

import atexit
import glob
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import zipfile

from harness import BUILD, STATE, Skip

MAYFLYD = os.path.join(BUILD, "bin", "mayflyd")
AWS = "/usr/bin/aws"
PATIENCE_S = 900
work = tempfile.mkdtemp(prefix="mayfly-test-mayflyd-")  # of this run: states, zips, answers
atexit.register(shutil.rmtree, work, ignore_errors=True)
running = set()  # processes of daemons that were not stopped: a case that fails leaves them


@atexit.register  # so before the directory goes
def kill_running():
    for process in running:
        process.kill()
        process.wait()


APP = """
import time
def handler(event, context):
    print("called")
    if "raise" in event:
        raise ValueError(event["raise"])
    if "sleep" in event:
        time.sleep(event["sleep"])
    if "rawPath" in event:
        return {"statusCode": 202, "headers": {"X-Path": event["rawPath"]}, "body": event.get("body")}
    return {"words": len(event.get("text", "").split()), "version": context.function_version}
"""


def make_zip(path, source=APP):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("app.py", source)
    return path


class Daemon:
    """mayflyd with a state directory of its own, which shares the images of the others.

    @snapshots: those too, so that no runtime has to be booted again for it. @log: the file that
    its configuration has it log to."""

    def __init__(self, name, images=True, config=None, snapshots=False, log=None):
        self.log = log
        self.state = os.path.join(work, name)
        os.makedirs(self.state, exist_ok=True)
        for part in ["images"] * images + ["snapshots"] * snapshots:
            if not os.path.exists(os.path.join(self.state, part)):
                os.symlink(os.path.abspath(os.path.join(STATE, part)),
                           os.path.join(self.state, part))
        self.arguments = ["--state", self.state, "--listen", "127.0.0.1:0"]
        if config:
            path = os.path.join(self.state, "mayflyd.yaml")
            with open(path, "w", encoding="utf-8", opener=lambda p, f: os.open(p, f, 0o600)) as file:
                file.write(config)
            self.arguments += ["--config", path]
        self.start()

    def start(self):
        self.process = subprocess.Popen([MAYFLYD, *self.arguments], stderr=subprocess.PIPE, text=True)
        running.add(self.process)
        self.lines = []
        for line in self.said():
            self.lines.append(line)
            if "ready:" in line:
                break
        assert self.lines and "ready:" in self.lines[-1], f"it does not start: {self.lines}"
        port = self.lines[-1].split("(port ")[1].split(")")[0]
        self.endpoint = f"http://127.0.0.1:{port}"
        self.port = int(port)

    def said(self):
        """Its log, as it comes, until it ends."""
        if not self.log:
            for line in self.process.stderr: # "yield from" would close it
                yield line
            return
        while not os.path.exists(self.log) and self.process.poll() is None:
            time.sleep(0.02)
        with open(self.log, encoding="utf-8") as file:
            while self.process.poll() is None:
                line = file.readline()
                if line.endswith("\n"):
                    yield line
                else:
                    file.seek(file.tell() - len(line.encode()))
                    time.sleep(0.02)

    def stop(self, number=signal.SIGTERM):
        self.process.send_signal(number)
        self.lines += self.process.stderr.readlines()
        status = self.process.wait(timeout=120)
        running.discard(self.process)
        return status

    def monitors(self):
        """Process ids of the monitors that it started, of shells too."""
        found = set()
        for path in glob.glob("/proc/[0-9]*/stat"):
            try:
                with open(path, encoding="ascii", errors="replace") as file:
                    pid, name, _, parent = re.match(r"(\d+) \((.*)\) (\S) (\d+)", file.read()).groups()
            except OSError:
                continue
            if int(parent) == self.process.pid and name == "mayfly-vmm":
                found.add(int(pid))
        return found

    def environment(self, **more):
        return {"PATH": "/usr/bin:/bin", "HOME": work, "AWS_PAGER": "", "AWS_MAX_ATTEMPTS": "1",
                "AWS_SHARED_CREDENTIALS_FILE": os.path.join(self.state, "credentials"),
                "AWS_DEFAULT_REGION": "eu-central-1", **more}

    def aws(self, *arguments, fails=None, service="lambda", **environment):
        """One `aws lambda` (or another @service's) command: its JSON. @fails: the exception that it must name."""
        if not os.access(AWS, os.X_OK):
            raise Skip("no awscli")
        done = subprocess.run(
            [AWS, "--endpoint-url", self.endpoint, "--cli-read-timeout", "0", service, *arguments],
            env=self.environment(**environment), capture_output=True, text=True, check=False,
            timeout=PATIENCE_S, cwd=work)
        if fails:
            assert done.returncode != 0 and fails in done.stderr, (arguments, done.stdout, done.stderr)
            return done.stderr
        assert done.returncode == 0, (arguments, done.stdout, done.stderr)
        return json.loads(done.stdout) if done.stdout.strip() else None

    def deploy(self, name, *more, source=APP):
        make_zip(os.path.join(work, name + ".zip"), source)
        return self.aws("create-function", "--function-name", name, "--runtime", "python3.11",
                        "--handler", "app.handler", "--role", "arn:aws:iam::000000000000:role/r",
                        "--zip-file", f"fileb://{name}.zip", *more)

    def wait_active(self, name):
        until = time.monotonic() + PATIENCE_S
        while time.monotonic() < until:
            state = self.aws("get-function-configuration", "--function-name", name)
            if state["State"] != "Pending" and state["LastUpdateStatus"] != "InProgress":
                return state
            time.sleep(1)
        raise AssertionError(f"'{name}' stays Pending: {self.lines}")

    def invoke(self, name, event, *more, out="out.json"):
        answer = self.aws("invoke", "--function-name", name, "--payload", json.dumps(event),
                          "--cli-binary-format", "raw-in-base64-out", *more, out)
        with open(os.path.join(work, out), "rb") as file:
            return answer, file.read()


def raw(port, data):
    with socket.create_connection(("127.0.0.1", port), timeout=60) as sock:
        sock.sendall(data)
        return sock.recv(65536)
