#!/usr/bin/env python3
"""The real agent and its runtimes, without a VM: PID 1 of fresh namespaces, its host played by this file.

usage: agent_contained.py PATH-OF-MAYFLY-AGENT [-v] [NAME…]      (as root; NAME: run only these tests)

The agent's root is an overlay of this machine's root and a directory with the agent and runtimes in the
places that a root image has them. What needs a guest is not tested here: vsock, /dev, the memory limit
where this machine has no cgroup v2 memory controller; that the clock is set is only seen by strace, which
keeps it from happening. Nothing is frozen here: a guest does not notice that.
Prints one line a test and exits with 1 if any failed.
"""

import json
import os
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
RUNTIMES = os.path.join(HERE, "..", "..", "guest-agent", "runtimes")
OK, FUNCTION_ERROR, TIMEOUT, EXITED, OUT_OF_MEMORY, TOO_LARGE, AGENT_ERROR = range(7)
FILE, DIRECTORY, SYMLINK = range(3)
PRELOADED, FROZEN, RESTORE_RESULT, RESPONSE_PART = 5, 6, 7, 8
FRAME_MAX = 8 << 20

# ---- the few messages of agent.proto, by hand: a second opinion on what is on the wire ----


def varint(value):
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def field(number, value):
    if isinstance(value, str):
        value = value.encode()
    if isinstance(value, (bytes, bytearray)):
        return varint(number << 3 | 2) + varint(len(value)) + value
    return varint(number << 3) + varint(int(value))


def decode(data):
    """Message bytes → {field number: [values]}."""
    fields, at = {}, 0

    def take_varint():
        nonlocal at
        value = shift = 0
        while True:
            byte = data[at]
            at += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    while at < len(data):
        key = take_varint()
        if key & 7 == 0:
            value = take_varint()
        else:
            assert key & 7 == 2, f"wire type {key & 7}"
            length = take_varint()
            value = data[at : at + length]
            at += length
        fields.setdefault(key >> 3, []).append(value)
    return fields


class Answer:
    """InitResult or InvokeResult, with the logs that came before it."""

    def __init__(self, fields, is_init, logs, dropped):
        get = lambda n, default: fields.get(n, [default])[-1]
        shift = 0 if is_init else 1
        self.request_id = "" if is_init else bytes(get(1, b"")).decode()
        self.outcome = get(1 + shift, 0)
        self.payload = bytes(get(2 + shift, b""))
        self.duration_us = get(3 + shift, 0)
        self.peak = get(4 + shift, 0)
        self.message = bytes(get(5 + shift, b"")).decode()
        self.logs, self.dropped = logs, dropped

    def json(self):
        return json.loads(self.payload)

    def __repr__(self):
        return f"<outcome {self.outcome} {self.message!r} {self.payload[:200]!r} logs {self.logs!r:.300}>"


class Done:
    """Preloaded, Frozen or RestoreResult, with the logs that came before it."""

    def __init__(self, kind, fields, logs):
        get = lambda n, default: fields.get(n, [default])[-1]
        self.kind, self.logs, self.outcome = kind, logs, get(1, 0)
        self.message = bytes(get(2, b"")).decode()
        error = b"" if kind == PRELOADED else bytes(get(3, b""))
        self.error = json.loads(error) if error else None

    def __repr__(self):
        return f"<{self.kind}: outcome {self.outcome} {self.message!r} {self.error!r} logs {self.logs!r:.300}>"


class Guest:
    """One agent with its namespaces; a context manager."""

    on_part = None  # called with each piece of a streamed response
    strace = None  # set to a file name: trace its system calls
    strace_options = []

    def __enter__(self):
        try:
            self.start()
            return self
        except BaseException:
            self.stream = self.stream or socket.socket()
            self.process.kill()
            print(open(self.errors.name).read(), end="", file=sys.stderr)
            self.__exit__()
            raise

    def start(self):
        self.stream = None
        self.dir = tempfile.mkdtemp(prefix="mayfly-agent-")
        stage = os.path.join(self.dir, "files")
        for name in ("var/task", "sys/fs/cgroup", "proc", "tmp", "usr/lib/mayfly", "run/agent", "sbin"):
            os.makedirs(os.path.join(stage, name))
        runtimes = os.path.join(stage, "usr/lib/mayfly/runtimes")
        shutil.copytree(RUNTIMES, runtimes, ignore=shutil.ignore_patterns("__pycache__"))
        if os.path.exists("/usr/bin/python3.11"):  # compiled as in an image
            compile_all = ["/usr/bin/python3.11", "-m", "compileall", "-q", "--invalidation-mode", "unchecked-hash"]
            subprocess.run(compile_all + ["-s", runtimes, "-p", "/usr/lib/mayfly/runtimes", runtimes], check=True)
        shutil.copy(AGENT, os.path.join(stage, "usr/lib/mayfly/agent"))
        for name in ("stage", "root", "sockets"):
            os.makedirs(os.path.join(self.dir, name))
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(os.path.join(self.dir, "sockets", "host"))
        listener.listen(1)
        self.cgroup = make_cgroup()
        script = (
            'mount -t tmpfs tmpfs "$1/stage" && cp -a "$1/files/." "$1/stage" && '
            'mount -t overlay -o "lowerdir=$1/stage:/" overlay "$1/root" && '
            'mount --bind "$1/sockets" "$1/root/run/agent" && mount --rbind /dev "$1/root/dev" && '
            'cd "$1/root" && exec chroot . /usr/lib/mayfly/agent --socket /run/agent/host'
        )
        command = ["unshare", "--pid", "--mount", "--net", "--cgroup", "--ipc", "--uts", "--fork", "sh", "-c", script, "sh", self.dir]
        if Guest.strace:
            command = ["strace", "-f", "-o", Guest.strace] + Guest.strace_options + command
        self.errors = open(os.path.join(self.dir, "errors"), "w+")
        self.process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=self.errors, stderr=self.errors, preexec_fn=self.enter_cgroup
        )
        listener.settimeout(20)
        self.stream, _ = listener.accept()
        listener.close()
        self.stream.settimeout(60)
        self.hello = decode(self.receive_frame())[1][0]

    def enter_cgroup(self):
        if self.cgroup:
            with open(os.path.join(self.cgroup, "cgroup.procs"), "w") as procs:
                procs.write("0")

    def __exit__(self, *_):
        self.stream.close()  # and with that the agent powers off
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise AssertionError("the agent outlives its host")
        finally:
            self.errors.close()
            if self.cgroup:
                for name in (os.path.join(self.cgroup, "function"), self.cgroup):
                    remove_cgroup(name)
            shutil.rmtree(self.dir)

    def receive_exactly(self, count):
        data = bytearray()
        while len(data) < count:
            piece = self.stream.recv(count - len(data))
            if not piece:
                raise ConnectionError("the agent closed the connection")
            data += piece
        return bytes(data)

    def receive_frame(self):
        (length,) = struct.unpack("<I", self.receive_exactly(4))
        assert 0 < length <= FRAME_MAX, length
        return self.receive_exactly(length)

    def send(self, number, body):
        self.stream.sendall(frame(number, body))

    def receive_answer(self):
        logs, dropped = [b"", b""], [0, 0]
        self.parts, self.content_types = [], []
        while True:
            fields = decode(self.receive_frame())
            if 3 in fields:
                log = decode(fields[3][0])
                stream = log.get(1, [0])[0]
                logs[stream] += bytes(log.get(2, [b""])[0])
                dropped[stream] += log.get(3, [0])[0]
                continue
            if RESPONSE_PART in fields:
                part = decode(fields[RESPONSE_PART][0])
                self.parts.append(bytes(part.get(1, [b""])[0]))
                self.content_types += [bytes(t).decode() for t in part.get(2, [])]
                if self.on_part:
                    self.on_part(self.parts[-1])
                continue
            for kind in (PRELOADED, FROZEN, RESTORE_RESULT):
                if kind in fields:
                    return Done(kind, decode(fields[kind][0]), logs)
            is_init = 2 in fields
            return Answer(decode(fields[2 if is_init else 4][0]), is_init, logs, dropped)

    def prepare(self, files, handler="app.handler", runtime="python3.11", environment=None, init_ms=10000, log_bytes=65536, memory=128, code_after=(), initialization_type=""):
        body = field(1, runtime) + field(2, handler)
        for name, value in (environment or {}).items():
            body += field(3, field(1, name) + field(2, value))
        body += field(4, "f") + field(5, "$LATEST") + field(6, "arn:aws:lambda:eu-west-1:1:function:f")
        body += field(7, memory) + field(8, init_ms) + field(9, 64 << 20) + field(10, log_bytes)
        body += field(11, "/aws/lambda/f") + field(12, "2024/01/01/[$LATEST]1") + field(15, initialization_type)
        self.send(1, body)
        for path, content in list(files.items()) + list(code_after):
            self.send_code(path, content)
        self.send(3, b"")
        return self.receive_answer()

    def send_code(self, path, content):
        kind, mode = FILE, 0o755 if path == "bootstrap" else 0o644
        if isinstance(content, tuple):
            kind, content = content
        if isinstance(content, str):
            content = content.encode()
        for start in range(0, max(1, len(content)), 1 << 20):
            piece = content[start : start + (1 << 20)]
            self.send(2, field(1, path) + field(2, kind) + field(3, mode) + field(4, piece) + field(5, start > 0))

    def invoke(self, event, request_id="8476a536-e9f4-11e8-9739-2dfe598c3fcd", timeout_ms=3000, **extra):
        self.send_invoke(event, request_id, timeout_ms, **extra)
        answer = self.receive_answer()
        assert answer.request_id == request_id, answer
        return answer

    def preload(self, runtime="python3.11"):
        self.send(6, field(1, runtime) + field(2, 256) + field(3, 16 << 20) + field(4, 65536) + field(6, os.urandom(32)))
        return self.receive_answer()

    def freeze(self, timeout_ms=0):
        self.send(7, field(1, timeout_ms))
        return self.receive_answer()

    def restore(self, **what):
        self.send(8, restored(wants_result=True, **what))
        return self.receive_answer()

    def restore_and_invoke(self, event, what, **how):
        """As a host does it: one write."""
        body = invocation(event, request_id="1-2-3", **how)
        self.stream.sendall(frame(8, restored(**what)) + frame(4, body))
        return self.receive_answer()

    def send_invoke(self, event, request_id="1-2-3", timeout_ms=3000, client_context="", identity="", trace=""):
        self.send(4, invocation(event, request_id, timeout_ms, client_context, identity, trace))


def invocation(event, request_id="1-2-3", timeout_ms=3000, client_context="", identity="", trace=""):
    event = event if isinstance(event, bytes) else json.dumps(event).encode()
    body = field(1, request_id) + field(2, timeout_ms) + field(3, event)
    return body + field(4, client_context) + field(5, identity) + field(6, trace)


def restored(wall_clock_ns=0, entropy=None, instance_id="i-1", hostname="clone-1", log_stream="stream-1", environment=None, boot_id=None, wants_result=False, timeout_ms=0):
    entropy = os.urandom(64) if entropy is None else entropy
    boot_id = os.urandom(16) if boot_id is None else boot_id
    body = field(1, wall_clock_ns) + field(2, entropy) + field(3, instance_id) + field(4, hostname) + field(5, log_stream)
    for name, value in (environment or {}).items():
        body += field(6, field(1, name) + field(2, value))
    return body + field(7, boot_id) + field(8, wants_result) + field(9, timeout_ms)


def frame(number, body):
    message = field(number, body)
    return struct.pack("<I", len(message)) + message


def make_cgroup():
    for root in ("/sys/fs/cgroup", "/sys/fs/cgroup/unified"):
        if os.path.exists(os.path.join(root, "cgroup.controllers")):
            path = os.path.join(root, f"mayfly-test-{os.getpid()}-{time.monotonic_ns()}")
            os.mkdir(path)
            return path
    return None


def remove_cgroup(path):
    for _ in range(100):
        try:
            os.rmdir(path)
            return
        except FileNotFoundError:
            return
        except OSError:  # its last process is still ending
            time.sleep(0.02)


def check(condition, *what):
    if not condition:
        raise AssertionError(what)


# ---- python3.11 ----

BASIC = """
import os, sys
def handler(event, context):
    print("hello", event.get("n"))
    print("to stderr", file=sys.stderr)
    return {"n": event.get("n"), "id": context.aws_request_id, "left": context.get_remaining_time_in_millis(),
            "name": context.function_name, "memory": context.memory_limit_in_mb, "arn": context.invoked_function_arn,
            "uid": os.getuid(), "gid": os.getgid(), "groups": os.getgroups(), "cwd": os.getcwd(),
            "status": [l for l in open("/proc/self/status") if l.startswith(("NoNewPrivs", "CapEff"))],
            "env": dict(os.environ), "path": sys.path, "fds": sorted(os.listdir("/proc/self/fd")),
            "identity": context.identity.cognito_identity_id, "client": str(context.client_context)}
"""


def test_python_ok():
    with Guest() as g:
        hello = decode(g.hello)
        check(hello[1] == [1] and hello[4] == [b"python3.11"] and hello[6][0] > hello[5][0], hello)
        r = g.prepare({"app.py": BASIC}, environment={"MINE": "1", "AWS_REGION": "eu-west-1", "_HANDLER": "evil"})
        check(r.outcome == OK, r)
        for n in range(3):
            r = g.invoke({"n": n}, trace=f"Root=1-{n}")
            v = r.json()
            check(r.outcome == OK and v["n"] == n and v["id"] == r.request_id, r)
            check(r.logs == [b"hello %d\n" % n, b"to stderr\n"], r.logs)
        check(0 < v["left"] <= 3000 and v["uid"] == 993 and v["gid"] == 993 and v["groups"] == [], v)
        check("NoNewPrivs:\t1\n" in v["status"] and "CapEff:\t0000000000000000\n" in v["status"], v["status"])
        check(v["cwd"] == "/var/task" and v["name"] == "f" and v["memory"] == "128" and v["arn"].endswith(":f"), v)
        check(len([f for f in v["fds"]]) <= 6, v["fds"])
        env = v["env"]
        check(env["MINE"] == "1" and env["_HANDLER"] == "app.handler" and env["AWS_REGION"] == "eu-west-1", env)
        check(env["TZ"] == ":UTC" and env["LANG"] == "en_US.UTF-8" and "LC_ALL" not in env, env)
        check(env["AWS_LAMBDA_FUNCTION_NAME"] == "f" and env["AWS_LAMBDA_FUNCTION_VERSION"] == "$LATEST", env)
        check(env["AWS_LAMBDA_FUNCTION_MEMORY_SIZE"] == "128" and env["LAMBDA_TASK_ROOT"] == "/var/task", env)
        check(env["_X_AMZN_TRACE_ID"] == "Root=1-2" and env["AWS_EXECUTION_ENV"] == "AWS_Lambda_python3.11", env)
        check(env["AWS_LAMBDA_LOG_GROUP_NAME"] == "/aws/lambda/f" and "LD_LIBRARY_PATH" in env, env)
        check(v["path"][0] == "/var/task", v["path"])
        r = g.invoke({}, identity='{"cognitoIdentityId":"abc"}', client_context='{"custom":{"a":1}}')
        check(r.json()["identity"] == "abc" and "'a': 1" in r.json()["client"], r)


def test_python_raise():
    code = 'import json\ndef deep():\n    raise ValueError("boom \\u00e9")\ndef handler(e, c):\n    deep()\n'
    with Guest() as g:
        check(g.prepare({"app.py": code}).outcome == OK)
        for _ in range(2):
            r = g.invoke({})
            v = r.json()
            check(r.outcome == FUNCTION_ERROR, r)
            check(v["errorType"] == "ValueError" and v["errorMessage"] == "boom é", v)
            check(v["requestId"] == r.request_id, v)
            check(
                v["stackTrace"]
                == [
                    '  File "/var/task/app.py", line 5, in handler\n    deep()\n',
                    '  File "/var/task/app.py", line 3, in deep\n    raise ValueError("boom \\u00e9")\n',
                ],
                v,
            )
            check(b"[ERROR] ValueError: boom" in r.logs[0], r.logs)


def init_error(files, handler, kind, message):
    with Guest() as g:
        r = g.prepare(files, handler)
        check(r.outcome == FUNCTION_ERROR, r)
        v = r.json()
        check(v["errorType"] == kind and message in v["errorMessage"], v)
        r = g.invoke({})
        check(r.outcome == EXITED and "no runtime" in r.message, r)
        return v


def test_python_syntax_error():
    v = init_error({"app.py": "def handler(e, c)\n  pass\n"}, "app.handler", "Runtime.UserCodeSyntaxError", "Syntax error in module 'app'")
    check(v["stackTrace"] == ['  File "/var/task/app.py" Line 1\n    def handler(e, c)\n'], v)


def test_python_missing_handler():
    init_error({"app.py": "x = 1"}, "app.handler", "Runtime.HandlerNotFound", "Handler 'handler' missing on module 'app'")


def test_python_missing_module():
    init_error({"app.py": "x = 1"}, "nope.handler", "Runtime.ImportModuleError", "Unable to import module 'nope': No module named 'nope'")


def test_python_malformed_handler():
    init_error({"app.py": "x = 1"}, "handler", "Runtime.MalformedHandlerName", "Bad handler 'handler'")


def test_python_builtin_module():
    init_error({"app.py": "x = 1"}, "time.sleep", "Runtime.BuiltInModuleConflict", "Cannot use built-in module time")


def test_python_raise_at_import():
    v = init_error({"app.py": "x = 1\n1 / 0\n"}, "app.handler", "ZeroDivisionError", "division by zero")
    check(v["stackTrace"] == ['  File "/var/task/app.py", line 2, in <module>\n    1 / 0\n'], v)


def test_python_package_handler():
    with Guest() as g:
        files = {"pkg/sub/mod.py": "from pkg.sub import other\ndef fn(e, c): return other.X", "pkg/sub/other.py": "X = 7"}
        check(g.prepare(files, "pkg/sub/mod.fn").outcome == OK)
        check(g.invoke({}).payload == b"7")


def test_python_exit():
    for how, words in (("sys.exit(3)", "exit status 3"), ("os._exit(0)", "without providing a reason"), ("os.kill(os.getpid(), 9)", "signal: 9 (Killed)")):
        with Guest() as g:
            check(g.prepare({"app.py": f"import os, sys\ndef handler(e, c):\n    print('bye', flush=True)\n    {how}\n"}).outcome == OK)
            r = g.invoke({})
            check(r.outcome == EXITED and words in r.message and r.logs[0] == b"bye\n", r)
            check(g.invoke({}).outcome == EXITED)


def test_python_exit_at_import():
    with Guest() as g:
        r = g.prepare({"app.py": "import sys\nsys.exit(5)\n"})
        check(r.outcome == EXITED and "exit status 5" in r.message, r)


def test_python_timeout():
    with Guest() as g:
        check(g.prepare({"app.py": "import time\ndef handler(e, c):\n    print('in')\n    time.sleep(60)\n"}).outcome == OK)
        began = time.monotonic()
        r = g.invoke({}, timeout_ms=300)
        check(r.outcome == TIMEOUT and r.message == "Task timed out after 0.30 seconds", r)
        check(r.logs[0] == b"in\n" and 0.25 < time.monotonic() - began < 2, r)
        check(g.invoke({}).outcome == EXITED)


def test_python_timeout_children():
    code = "import os, time\ndef handler(e, c):\n    for _ in range(20):\n        if os.fork() == 0:\n            os.setsid(); time.sleep(60)\n    time.sleep(60)\n"
    with Guest() as g:
        check(g.prepare({"app.py": code}).outcome == OK)
        check(g.invoke({}, timeout_ms=500).outcome == TIMEOUT)
        if g.cgroup:
            for _ in range(100):
                if not open(os.path.join(g.cgroup, "function", "cgroup.procs")).read():
                    break
                time.sleep(0.02)
            check(not open(os.path.join(g.cgroup, "function", "cgroup.procs")).read(), "processes left")


def test_python_init_timeout():
    with Guest() as g:
        r = g.prepare({"app.py": "import time\ntime.sleep(60)\n"}, init_ms=300)
        check(r.outcome == TIMEOUT, r)


def test_python_orphans():
    code = "import os\ndef handler(e, c):\n    if os.fork() == 0:\n        if os.fork() == 0: os._exit(0)\n        os._exit(0)\n    os.wait()\n    return [p for p in os.listdir('/proc') if p.isdigit()]\n"
    with Guest() as g:
        check(g.prepare({"app.py": code}).outcome == OK)
        for _ in range(50):
            r = g.invoke({})
        time.sleep(0.2)
        check(len(g.invoke({}).json()) <= 3, r)


def test_python_prints_100_mb():
    code = "import os\ndef handler(e, c):\n    chunk = b'x' * 65535 + b'\\n'\n    for _ in range(1600): os.write(1, chunk)\n    return 'done'\n"
    with Guest() as g:
        check(g.prepare({"app.py": code}, log_bytes=1 << 20).outcome == OK)
        for _ in range(2):
            r = g.invoke({}, timeout_ms=30000)
            check(r.outcome == OK and r.payload == b'"done"', r.outcome)
            check(len(r.logs[0]) == 1 << 20 and r.dropped == [1600 * 65536 - (1 << 20), 0], len(r.logs[0]), r.dropped)


def test_python_response_sizes():
    with Guest() as g:
        check(g.prepare({"app.py": "def handler(e, c): return 'a' * e"}).outcome == OK)
        for size in (0, 1, 60000, 65526, 65536, 200000, (6 << 20) - 2):
            r = g.invoke(size)
            check(r.outcome == OK and len(r.payload) == size + 2, size, r.outcome, r.message)
        r = g.invoke((6 << 20) - 1)
        check(r.outcome == TOO_LARGE and r.payload == b"", r)
        check(g.invoke(1).payload == b'"a"', "lives on")


def test_python_event_sizes():
    with Guest() as g:
        check(g.prepare({"app.py": "def handler(e, c): return len(e)"}).outcome == OK)
        for size in (0, 1, 60000, 65536, 200000, (6 << 20) - 2, 5):
            r = g.invoke("b" * size)
            check(r.outcome == OK and r.json() == size, size, r)


def test_python_not_json():
    with Guest() as g:
        check(g.prepare({"app.py": "def handler(e, c): return {1, 2} if e else object"}).outcome == OK)
        r = g.invoke(1)
        check(r.outcome == FUNCTION_ERROR and r.json()["errorType"] == "Runtime.MarshalError", r)
        check("Unable to marshal response: Object of type set is not JSON serializable" == r.json()["errorMessage"], r)
        r = g.invoke(b"{nope")
        check(r.json()["errorType"] == "Runtime.UnmarshalError" and "Unable to unmarshal input:" in r.json()["errorMessage"], r)


def test_python_large_error():
    with Guest() as g:
        check(g.prepare({"app.py": "def handler(e, c): raise Exception('y' * 10000000)"}).outcome == OK)
        r = g.invoke(1)
        check(r.outcome == FUNCTION_ERROR and len(r.payload) < 256 << 10 and r.json()["errorType"] == "Exception", r)


def test_python_recursion():
    with Guest() as g:
        check(g.prepare({"app.py": "def handler(e, c): return handler(e, c)"}).outcome == OK)
        r = g.invoke(1)
        check(r.json()["errorType"] == "RecursionError" and len(r.json()["stackTrace"]) <= 200, r)


def test_python_logging():
    code = "import logging\nlog = logging.getLogger()\nlog.setLevel('INFO')\ndef handler(e, c):\n    log.info('a %s', 1)\n    c.log('direct\\n')\n"
    with Guest() as g:
        check(g.prepare({"app.py": code}).outcome == OK)
        r = g.invoke({}, request_id="rid-1")
        lines = r.logs[0].decode().split("\n")
        check(lines[0].startswith("[INFO]\t20") and lines[0].endswith("Z\trid-1\ta 1") and lines[1] == "direct", r)


def test_python_threads_and_subprocess():
    code = "import subprocess, threading\ndef handler(e, c):\n    t = threading.Thread(target=print, args=('t',)); t.start(); t.join()\n    return subprocess.run(['sh', '-c', 'echo sub >&2; echo out; ls /proc/self/fd | wc -l'], capture_output=True, text=True).stdout\n"
    with Guest() as g:
        check(g.prepare({"app.py": code}).outcome == OK)
        r = g.invoke({})
        check(r.json() == "out\n4\n" and r.logs[0] == b"t\n", r)


def test_python_device_links_and_spawn():
    code = "import multiprocessing, os\ndef work(q): q.put(41)\ndef handler(e, c):\n    os.system('echo a > /dev/stdout; echo b > /dev/stderr')\n    m = multiprocessing.get_context('spawn'); q = m.Queue(); p = m.Process(target=work, args=(q,)); p.start(); v = q.get(); p.join(); exit_exists = exit\n    return v\n"
    with Guest() as g:
        check(g.prepare({"app.py": code}).outcome == OK)
        r = g.invoke({})
        check(r.json() == 41 and r.logs == [b"a\n", b"b\n"], r)


def test_python_large_code():
    with Guest() as g:
        files = {f"data/{n}": os.urandom(5 << 20) for n in range(8)}
        check(g.prepare({"app.py": "import os\ndef handler(e, c): return sum(os.path.getsize('data/' + n) for n in os.listdir('data'))"} | files).outcome == OK)
        check(g.invoke({}).json() == 40 << 20)


def test_python_broken_protocol():
    for word in ("bytes(8)", "b'\\xff' * 8", "b'\\x02\\0\\0\\0\\xff\\xff\\xff\\x7f'", "b'\\x02\\0\\0\\0\\1\\0\\0\\0xx'"):
        with Guest() as g:
            check(g.prepare({"app.py": f"import os, time\ndef handler(e, c):\n    os.write(4, {word}); time.sleep(60)\n"}).outcome == OK)
            r = g.invoke({}, timeout_ms=5000)
            check(r.outcome == AGENT_ERROR and "protocol" in r.message, word, r)
    with Guest() as g:  # an answer before it was asked
        check(g.prepare({"app.py": "import os, threading\ndef handler(e, c): pass\nthreading.Timer(0.2, os.write, (4, b'\\x02' + bytes(7))).start()\n"}).outcome == OK)
        time.sleep(0.5)
        check(g.invoke({}).outcome == EXITED)


def test_python_read_only_code():
    code = "def handler(e, c):\n    out = []\n    for p in ('/var/task/app.py', '/var/task/new', '/etc/passwd', '/usr/lib/mayfly/agent'):\n        try: open(p, 'a'); out.append(p)\n        except OSError: pass\n    open('/tmp/x', 'w').write('ok')\n    return out\n"
    with Guest() as g:
        check(g.prepare({"app.py": code}).outcome == OK)
        check(g.invoke({}).json() == [])


def test_code_paths():
    for path in ("../x", "/etc/x", "a/../../x", "a//b", "./a", "", "a/.", "x" * 300, "a/" * 600 + "b"):
        with Guest() as g:
            r = g.prepare({path: "1"})
            check(r.outcome == AGENT_ERROR and "code path" in r.message, path, r)
    for link, then in (("l", "l/passwd"), ("d/l", "d/l/x"), ("l", "l")):
        with Guest() as g:
            r = g.prepare({"app.py": "def handler(e, c): return 1"} | dict([(link, (SYMLINK, "/tmp"))]), code_after=[(then, "evil")])
            check(r.outcome == AGENT_ERROR, r)
            check(not os.path.exists("/tmp/passwd") and not os.path.exists("/tmp/x"), "escaped")


def test_code_kinds():
    code = "import os\ndef handler(e, c): return [os.path.getsize('big'), os.readlink('l'), os.path.isdir('d'), oct(os.stat('app.py').st_mode), os.stat('app.py').st_uid]"
    with Guest() as g:
        big = os.urandom(3 * (1 << 20) + 17)
        r = g.prepare({"d": (DIRECTORY, b""), "l": (SYMLINK, "app.py"), "big": big, "app.py": code})
        check(r.outcome == OK, r)
        check(g.invoke({}).json() == [len(big), "app.py", True, "0o100644", 0])


def test_unknown_runtime():
    with Guest() as g:
        r = g.prepare({"app.py": ""}, runtime="cobol")
        check(r.outcome == AGENT_ERROR and "no runtime 'cobol'" in r.message, r)


def test_bad_request_id():
    with Guest() as g:
        check(g.prepare({"app.py": "def handler(e, c): return 1"}).outcome == OK)
        g.send_invoke({}, request_id="a b\r\nX: y")
        check(g.receive_answer().outcome == AGENT_ERROR)
        check(g.invoke({}).outcome == OK)


def test_shutdown():
    code = "import signal, sys, time\ndef bye(*a):\n    print('bye', flush=True); sys.exit(0)\nsignal.signal(signal.SIGTERM, bye)\ndef handler(e, c): return 1"
    for grace in (0, 2000):
        with Guest() as g:
            check(g.prepare({"app.py": code}).outcome == OK)
            g.send(5, field(1, grace))
            check(g.process.wait(5) is not None)
    with Guest() as g:  # a runtime that will not go
        check(g.prepare({"app.py": "import signal\nsignal.signal(15, signal.SIG_IGN)\ndef handler(e, c): return 1"}).outcome == OK)
        began = time.monotonic()
        g.send(5, field(1, 500))
        g.process.wait(5)
        check(0.4 < time.monotonic() - began < 3)


def test_hostile_host():
    for garbage in (b"\xff\xff\xff\xff", b"\0\0\0\0", b"\x03\0\0\0\xff\xff\xff", struct.pack("<I", 3) + field(4, b"\0")[:3]):
        with Guest() as g:
            g.stream.sendall(garbage)
            check(g.process.wait(5) is not None)
    with Guest() as g:  # an Invoke before Prepare
        g.send_invoke({})
        check(g.process.wait(5) is not None)


# ---- provided ----

BOOTSTRAP = """#!/usr/bin/python3.11
import http.client, json, os, sys, time
api = http.client.HTTPConnection(os.environ["AWS_LAMBDA_RUNTIME_API"])
def call(method, path, body=None, headers={}, **more):
    api.request(method, "/2018-06-01/runtime/" + path, body, headers, **more)
    answer = api.getresponse()
    return answer.status, dict(answer.getheaders()), answer.read()
"""
LOOP = """
while True:
    status, headers, event = call("GET", "invocation/next")
    rid = headers["Lambda-Runtime-Aws-Request-Id"]
    event = json.loads(event)
    print("got", status, flush=True)
    exec(event["do"])
"""


def provided(setup="", loop=LOOP):
    return {"bootstrap": BOOTSTRAP + setup + loop}


def test_provided_ok():
    with Guest() as g:
        r = g.prepare(provided(), runtime="provided")
        check(r.outcome == OK, r)
        do = 'r = call("POST", f"invocation/{rid}/response", json.dumps([headers, dict(os.environ), os.getuid()]))\nprint(r[0], r[2].decode(), flush=True)'
        for n in range(3):
            r = g.invoke({"do": do}, trace="Root=1-x", client_context='{"a":\n1}', identity='{"b":2}')
            check(r.outcome == OK and b"got 200\n" in r.logs[0], r)
            headers, env, uid = r.json()
            check(headers["Lambda-Runtime-Aws-Request-Id"] == r.request_id, headers)
            check(abs(int(headers["Lambda-Runtime-Deadline-Ms"]) - time.time() * 1000 - 3000) < 2000, headers)
            check(headers["Lambda-Runtime-Invoked-Function-Arn"].endswith(":function:f"), headers)
            check(headers["Lambda-Runtime-Trace-Id"] == "Root=1-x" and headers["Content-Type"] == "application/json", headers)
            check(headers["Lambda-Runtime-Client-Context"] == '{"a": 1}' and headers["Lambda-Runtime-Cognito-Identity"] == '{"b":2}', headers)
            check(uid == 993 and env["AWS_LAMBDA_RUNTIME_API"] == "127.0.0.1:9001" and env["_HANDLER"] == "app.handler", env)
        r = g.invoke({"do": 'call("POST", f"invocation/{rid}/response", "1")'})
        check(b'202 {"status":"OK"}' in r.logs[0], r)


def test_provided_chunked():
    with Guest() as g:
        check(g.prepare(provided(), runtime="provided").outcome == OK)
        r = g.invoke({"do": 'call("POST", f"invocation/{rid}/response", iter([b"ab"] * 1000), encode_chunked=True)'})
        check(r.outcome == OK and r.payload == b"ab" * 1000, r)


STREAMED = """
import base64, socket
def streamed(rid, pieces, content_type="text/plain", trailers=b"", pause=0.05, cut=False):
    s = socket.create_connection(("127.0.0.1", 9001))
    s.sendall((f"POST /2018-06-01/runtime/invocation/{rid}/response HTTP/1.1\\r\\nHost: x\\r\\nContent-Type: {content_type}\\r\\n"
               "Lambda-Runtime-Function-Response-Mode: streaming\\r\\nTransfer-Encoding: chunked\\r\\nTrailer: Lambda-Runtime-Function-Error-Type\\r\\n\\r\\n").encode())
    for piece in pieces:
        s.sendall(b"%x\\r\\n%s\\r\\n" % (len(piece), piece))
        time.sleep(pause)
    if not cut:
        s.sendall(b"0\\r\\n" + trailers + b"\\r\\n")
        print(s.recv(1000).split(b"\\r\\n")[0].decode(), flush=True)
    s.close()
def trailer(object):
    body = base64.b64encode(json.dumps(object).encode())
    return b"Lambda-Runtime-Function-Error-Type: Function.Odd\\r\\nLambda-Runtime-Function-Error-Body: " + body + b"\\r\\n"
"""


def test_provided_streamed():
    with Guest() as g:
        check(g.prepare(provided("import time\n" + STREAMED), runtime="provided").outcome == OK)
        arrivals = []
        g.on_part = lambda part: arrivals.append(time.monotonic())
        r = g.invoke({"do": "streamed(rid, [b'one', b'two', b'three'])"})
        check(r.outcome == OK and r.payload == b"" and b"".join(g.parts) == b"onetwothree" and g.content_types == ["text/plain"], g.parts, r)
        check(arrivals[-1] - arrivals[0] > 0.07, arrivals)
        g.on_part = None
        r = g.invoke({"do": "streamed(rid, [bytes([i]) * (1 << 20) for i in range(20)], pause=0)"}, timeout_ms=30000)
        data = b"".join(g.parts)
        check(b"HTTP/1.1 202 Accepted" in r.logs[0], "of the one before", r.logs)
        check(r.outcome == OK and len(data) == 20 << 20 and all(data[i << 20] == i and data[((i + 1) << 20) - 1] == i for i in range(20)), len(data))
        r = g.invoke({"do": "streamed(rid, [b'begun'], trailers=trailer({'errorType': 'Function.Odd', 'errorMessage': 'mid'}))"})
        check(r.outcome == FUNCTION_ERROR and r.json()["errorMessage"] == "mid" and b"".join(g.parts) == b"begun", g.parts, r)
        r = g.invoke({"do": "streamed(rid, [b'begun'], trailers=b'Lambda-Runtime-Function-Error-Type: Function.Odd\\r\\n')"})
        check(r.outcome == FUNCTION_ERROR and r.json()["errorType"] == "Function.Odd", r)
        for n in range(20):  # one piece or two: as the network likes
            r = g.invoke({"do": "streamed(rid, [b'x'], trailers=trailer({'errorMessage': 'mid'}), pause=0)" if n % 2 else "streamed(rid, [])"})
            check(r.outcome == (FUNCTION_ERROR if n % 2 else OK) and b"".join(g.parts) == (b"x" if n % 2 else b""), n, g.parts, r)
            check(g.content_types == ["text/plain"], n, g.content_types)
        r = g.invoke({"do": "call('POST', f'invocation/{rid}/response', 'at once', {'Lambda-Runtime-Function-Response-Mode': 'streaming'})"})
        check(r.outcome == OK and b"".join(g.parts) == b"at once" and r.payload == b"" and len(g.content_types) == 1, g.parts, r)
        # One that breaks off is no answer: another one may still come.
        r = g.invoke({"do": "streamed(rid, [b'torn'], cut=True); time.sleep(0.1); call('POST', f'invocation/{rid}/error', '{}')"})
        check(r.outcome == FUNCTION_ERROR and b"torn" in g.parts, g.parts, r)
        check(g.invoke({"do": 'call("POST", f"invocation/{rid}/response", "1")'}).payload == b"1", "lives on")


def test_provided_error():
    with Guest() as g:
        check(g.prepare(provided(), runtime="provided").outcome == OK)
        body = '{"errorMessage":"m","errorType":"T","stackTrace":[]}'
        r = g.invoke({"do": f"call('POST', f'invocation/{{rid}}/error', {body!r})"})
        check(r.outcome == FUNCTION_ERROR and r.payload.decode() == body, r)
        r = g.invoke({"do": "call('POST', f'invocation/{rid}/error', '', {'Lambda-Runtime-Function-Error-Type': 'Runtime.Odd'})"})
        check(r.outcome == FUNCTION_ERROR and r.json()["errorType"] == "Runtime.Odd", r)


def test_provided_refusals():
    with Guest() as g:
        check(g.prepare(provided(), runtime="provided").outcome == OK)
        do = """
out = [call("POST", "invocation/other/response", "1"), call("POST", "invocation//response", "1"), call("POST", "nope", ""), call("GET", f"invocation/{rid}/response"),
       call("GET", "invocation/next"), call("POST", "init/error", "{}"), call("PUT", "invocation/next", ""), call("GET", "x" * 5000)]
call("POST", f"invocation/{rid}/response", json.dumps([[s, b.decode()] for s, h, b in out]))
again = call("POST", f"invocation/{rid}/response", "2")
print("again", again[0], again[2].decode(), flush=True)
"""
        r = g.invoke({"do": do})
        v = r.json()
        check([s for s, _ in v] == [400, 400, 404, 405, 403, 403, 405, 404], v)
        check(json.loads(v[0][1])["errorType"] == "InvalidRequestID", v)
        r = g.invoke({"do": 'call("POST", f"invocation/{rid}/response", "1")'})
        check(b"again 400" in r.logs[0], r)


def test_provided_sizes():
    with Guest() as g:
        check(g.prepare(provided(), runtime="provided").outcome == OK)
        for size in (0, 100000, 6 << 20):
            r = g.invoke({"do": f'call("POST", f"invocation/{{rid}}/response", "a" * {size})'}, timeout_ms=20000)
            check(r.outcome == OK and len(r.payload) == size, size, r.outcome, r.message)
        r = g.invoke({"do": 'x = call("POST", f"invocation/{rid}/response", "a" * ((6 << 20) + 1)); print(x[0], x[2].decode(), flush=True)'})
        check(r.outcome == TOO_LARGE, r)
        r = g.invoke({"do": 'call("POST", f"invocation/{rid}/response", "1")', "pad": "p" * (6 << 20)}, timeout_ms=20000)
        check(r.outcome == OK and b'413 {"errorMessage":"Exceeded maximum' in r.logs[0], r)


def test_provided_init_error():
    with Guest() as g:
        body = '{"errorMessage":"no","errorType":"Extension.X"}'
        r = g.prepare(provided(f"call('POST', 'init/error', {body!r})\nsys.exit(1)\n"), runtime="provided")
        check(r.outcome == FUNCTION_ERROR and r.payload.decode() == body, r)


def test_provided_init_exit():
    with Guest() as g:
        r = g.prepare(provided("sys.exit(9)\n"), runtime="provided")
        check(r.outcome == EXITED and "exit status 9" in r.message, r)


def test_provided_no_bootstrap():
    with Guest() as g:
        r = g.prepare({"app.py": ""}, runtime="provided")
        check(r.outcome == FUNCTION_ERROR and r.json()["errorType"] == "Runtime.InvalidEntrypoint", r)
        check("Couldn't find valid bootstrap(s): [/var/task/bootstrap /opt/bootstrap]" in r.json()["errorMessage"], r)
    with Guest() as g:
        r = g.prepare({"bootstrap": b"no program"}, runtime="provided")
        check(r.outcome == FUNCTION_ERROR and "Exec format error" in r.json()["errorMessage"], r)


def test_provided_shell():
    """The tutorial's runtime: a shell script, curl, a connection for every call."""
    if not shutil.which("curl"):
        return "no curl here"
    script = """#!/bin/sh
while true; do
  H=$(mktemp)
  E=$(curl -sS -LD "$H" "http://$AWS_LAMBDA_RUNTIME_API/2018-06-01/runtime/invocation/next")
  ID=$(grep -Fi Lambda-Runtime-Aws-Request-Id "$H" | tr -d '[:space:]' | cut -d: -f2)
  curl -sS "http://$AWS_LAMBDA_RUNTIME_API/2018-06-01/runtime/invocation/$ID/response" -d "echo $E" >/dev/null
done
"""
    with Guest() as g:
        check(g.prepare({"bootstrap": script}, runtime="provided").outcome == OK)
        for n in range(12):
            r = g.invoke({"n": n})
            check(r.outcome == OK and r.payload == b'echo {"n": %d}' % n, r)


def test_provided_timeout_and_exit():
    with Guest() as g:
        check(g.prepare(provided(), runtime="provided").outcome == OK)
        check(g.invoke({"do": "time.sleep(60)"}, timeout_ms=300).outcome == TIMEOUT)
    with Guest() as g:
        check(g.prepare(provided(), runtime="provided").outcome == OK)
        r = g.invoke({"do": "sys.exit(4)"})
        check(r.outcome == EXITED and "exit status 4" in r.message, r)
    with Guest() as g:  # answers, then ends at once: the answer counts
        check(g.prepare(provided(), runtime="provided").outcome == OK)
        r = g.invoke({"do": 'call("POST", f"invocation/{rid}/response", "1"); os._exit(1)'})
        check(r.outcome == OK and r.payload == b"1", r)


def test_provided_hostile_http():
    setup = """
import socket
def raw(data, wait=0.05):
    s = socket.create_connection(("127.0.0.1", 9001)); s.sendall(data); s.settimeout(wait)
    try: return s.recv(1000)
    except OSError: return b""
keep = []
for data in (b"\\0" * 5000, b"GET / HTTP/9.9\\r\\n\\r\\n", b"CONNECT a:1 HTTP/1.1\\r\\n\\r\\n", b"A" * 300000, b"POST /2018-06-01/runtime/init/error HTTP/1.1\\r\\nContent-Length: 18446744073709551616\\r\\n\\r\\n",
             b"POST / HTTP/1.1\\r\\nContent-Length: 1\\r\\nTransfer-Encoding: chunked\\r\\n\\r\\n0\\r\\n\\r\\n", b"GET / HTTP/1.1\\r\\nUpgrade: x\\r\\nConnection: Upgrade\\r\\n\\r\\n",
             b"GET / HTTP/1.1\\r\\n" + b"H: v\\r\\n" * 20000 + b"\\r\\n", b"POST /x HTTP/1.1\\r\\nTransfer-Encoding: chunked\\r\\n\\r\\nzz\\r\\n"):
    try: raw(data)
    except OSError: pass
for _ in range(50):
    s = socket.socket(); s.setblocking(False)
    try: s.connect(("127.0.0.1", 9001))
    except OSError: pass
    keep.append(s)
time.sleep(0.2)
for s in keep: s.close()
time.sleep(0.2)
"""
    with Guest() as g:
        r = g.prepare(provided(setup), runtime="provided")
        check(r.outcome == OK, r)
        r = g.invoke({"do": 'call("POST", f"invocation/{rid}/response", "1")'})
        check(r.outcome == OK and r.payload == b"1", r)


# ---- snapshots ----

WHO = """
import json, os, random, socket, sys, tempfile, time, uuid
seen = [random.random(), str(uuid.uuid4()), str(uuid.uuid1())]
def handler(event, context):
    return {"random": random.random(), "uuid4": str(uuid.uuid4()), "uuid1": str(uuid.uuid1()), "urandom": os.urandom(8).hex(),
            "host": socket.gethostname(), "boot": open("/proc/sys/kernel/random/boot_id").read(), "env": dict(os.environ),
            "stream": context.log_stream_name, "preloaded": "decimal" in sys.modules, "path": sys.path, "argv": sys.argv,
            "libs": os.path.exists("/var/task/lib"), "tmp": os.statvfs("/tmp").f_blocks * os.statvfs("/tmp").f_frsize,
            "temp": tempfile.mktemp(), "zone": time.tzname}
"""


def test_preload():
    with Guest() as g:
        r = g.preload()
        check(r.kind == PRELOADED and r.outcome == OK and r.logs == [b"", b""], r)
        r = g.prepare({"app.py": WHO}, environment={"MINE": "1", "TZ": "EST5EDT"})
        check(r.outcome == OK, r)
        v = g.invoke({}, trace="Root=1").json()
        check(v["preloaded"] and v["host"] and not v["libs"] and v["tmp"] == 64 << 20, v)
        check(v["path"][0] == "/var/task" and v["argv"] == ["/usr/lib/mayfly/runtimes/python3.11/__pycache__/bootstrap.cpython-311.pyc"], v)
        check(v["zone"] == ["EST", "EDT"], v["zone"])
        preloaded = v["env"]
    with Guest() as g:  # exactly the environment of a function that was not preloaded
        check(g.prepare({"app.py": WHO}, environment={"MINE": "1", "TZ": "EST5EDT"}).outcome == OK)
        v = g.invoke({}, trace="Root=1").json()
        check(v["env"] == preloaded and not v["preloaded"], v["env"], preloaded)


def test_preload_errors():
    with Guest() as g:
        check(g.preload().outcome == OK)
        r = g.prepare({"app.py": "1 / 0"})
        check(r.outcome == FUNCTION_ERROR and r.json()["errorType"] == "ZeroDivisionError", r)
        check(r.json()["stackTrace"] == ['  File "/var/task/app.py", line 1, in <module>\n    1 / 0\n'], r)
    with Guest() as g:
        check(g.preload().outcome == OK)
        r = g.prepare(provided(), runtime="provided")
        check(r.outcome == AGENT_ERROR and "another runtime" in r.message, r)
    with Guest() as g:
        r = g.preload("cobol")
        check(r.outcome == AGENT_ERROR and "cobol" in r.message, r)
    with Guest() as g:  # one Preload only
        check(g.preload().outcome == OK)
        g.send(6, field(1, "python3.11"))
        check(g.process.wait(5) is not None)


def test_preload_shadowed():
    """Files of the function's that are called like preloaded modules."""
    files = {"random.py": "MINE = 1", "email/__init__.py": "MINE = 2", "app.py": "import random, email, json\ndef handler(e, c): return [random.MINE, email.MINE]"}
    with Guest() as g:
        check(g.preload().outcome == OK)
        r = g.prepare(files)
        check(r.outcome == OK and g.invoke({}).json() == [1, 2], r)
        check(g.freeze().outcome == OK)
        check(g.restore_and_invoke({}, {}).json() == [1, 2])


def test_preload_provided():
    with Guest() as g:
        check(g.preload("provided").outcome == OK)
        check(g.prepare(provided(), runtime="provided").outcome == OK)
        check(g.invoke({"do": 'call("POST", f"invocation/{rid}/response", "1")'}).payload == b"1")


def test_restored():
    """Everything that must differ between clones does, and is what the host said where it said it."""
    boot = bytes(range(16))
    lives = []
    for n, entropy in enumerate((b"a" * 64, b"b" * 64, b"b" * 64)):
        with Guest() as g:
            check(g.preload().outcome == OK)
            check(g.prepare({"app.py": WHO}).outcome == OK)
            r = g.freeze()
            check(r.kind == FROZEN and r.outcome == OK and r.error is None, r)
            what = dict(entropy=entropy, instance_id=f"i-{n}", hostname=f"clone-{n}", log_stream=f"s-{n}", boot_id=boot, environment={"EXTRA": "x=y", "AWS_LAMBDA_LOG_STREAM_NAME": "no"})
            r = g.restore_and_invoke({}, what)
            check(r.outcome == OK, r)
            v = r.json()
            check(v["host"] == f"clone-{n}" and v["stream"] == f"s-{n}" and v["env"]["EXTRA"] == "x=y", v)
            check(v["env"]["AWS_LAMBDA_LOG_STREAM_NAME"] == f"s-{n}" and v["env"]["MAYFLY_INSTANCE_ID"] == f"i-{n}", v)
            check(v["boot"] == "00010203-0405-4607-8809-0a0b0c0d0e0f\n", v["boot"])
            lives.append(v)
            later = g.invoke({}).json()
            check(later["random"] != v["random"] and later["env"]["EXTRA"] == "x=y", later)
    a, b, c = lives
    check(a["random"] != b["random"] and b["random"] == c["random"], "the generator is seeded with what the host sent")
    check(len({v["urandom"] for v in lives}) == len({v["uuid4"] for v in lives}) == 3, lives)
    node = lambda v: v["uuid1"].rpartition("-")[2]
    check(node(a) != node(b) and node(b) == node(c), lives)


def test_restored_boot_ids():
    with Guest() as g:
        check(g.prepare({"app.py": WHO}).outcome == OK)
        first = g.invoke({}).json()["boot"]
        check(len(first) == 37 and first[14] == "4" and first != open("/proc/sys/kernel/random/boot_id").read(), first)
    with Guest() as g:
        check(g.prepare({"app.py": WHO}).outcome == OK)
        check(g.invoke({}).json()["boot"] != first)


HOOKS = """
import mayfly, snapshot_restore_py, os
from snapshot_restore_py import register_before_snapshot, register_after_restore
done = []
def note(word, **more):
    done.append(word); print(word, os.environ.get("EXTRA"), flush=False)
register_before_snapshot(note, "b1", more=1)
mayfly.register_before_snapshot(note, "b2")
@register_before_snapshot
def b3(): note("b3")
register_after_restore(note, "a1", more=1)
@mayfly.register_after_restore
def a2(): note("a2")
@snapshot_restore_py.register_after_restore
def a3(): note("a3")
assert callable(b3) and callable(a2)
def handler(e, c): return done
"""


def test_hooks_order():
    for preload in (False, True):
        with Guest() as g:
            if preload:
                check(g.preload().outcome == OK)
            check(g.prepare({"app.py": HOOKS}).outcome == OK)
            check(g.invoke({}).json() == [])
            r = g.freeze()
            check(r.outcome == OK and r.logs[0] == b"b3 None\nb2 None\nb1 None\n", r)
            r = g.restore_and_invoke({}, {"environment": {"EXTRA": "1"}})
            check(r.json() == ["b3", "b2", "b1", "a1", "a2", "a3"] and r.logs[0] == b"a1 1\na2 1\na3 1\n", r)
            check(len(g.invoke({}).json()) == 6)


def test_hooks_without_event():
    """An instance that is restored ahead of its event: the hooks do not wait for it."""
    with Guest() as g:
        check(g.prepare({"app.py": HOOKS}).outcome == OK)
        check(g.freeze().outcome == OK)
        r = g.restore(environment={"EXTRA": "1"})
        check(r.kind == RESTORE_RESULT and r.outcome == OK and r.logs[0] == b"a1 1\na2 1\na3 1\n", r)
        r = g.invoke({})
        check(len(r.json()) == 6 and r.logs[0] == b"", r)
    with Guest() as g:  # and where they are to wait, they do
        check(g.prepare({"app.py": HOOKS}).outcome == OK)
        check(g.freeze().outcome == OK)
        g.send(8, restored(environment={"EXTRA": "2"}))
        time.sleep(0.2)
        r = g.invoke({})
        check(r.logs[0] == b"a1 2\na2 2\na3 2\n" and len(r.json()) == 6, r)


def test_hooks_own_library():
    """A function that brings AWS's package: its hooks are its own."""
    library = "b, a = [], []\ndef register_before_snapshot(f, *x, **k): b.append((f, x, k)); return f\ndef register_after_restore(f, *x, **k): a.append((f, x, k)); return f\ndef get_before_snapshot(): return b\ndef get_after_restore(): return a\n"
    code = "import snapshot_restore_py as s\ns.register_before_snapshot(print, 'B')\ns.register_after_restore(print, 'A')\ndef handler(e, c): return 1"
    with Guest() as g:
        check(g.preload().outcome == OK)
        check(g.prepare({"app.py": code, "snapshot_restore_py/__init__.py": library}).outcome == OK)
        check(g.freeze().logs[0] == b"B\n")
        check(g.restore_and_invoke({}, {}).logs[0] == b"A\n")


def test_hooks_raise():
    code = "import mayfly\ndef bad(): raise ValueError('no')\nmayfly.register_%s(bad)\ndef handler(e, c): return 1\n"
    with Guest() as g:
        check(g.prepare({"app.py": code % "before_snapshot"}).outcome == OK)
        r = g.freeze()
        check(r.outcome == FUNCTION_ERROR and r.error["errorType"] == "Runtime.BeforeSnapshotError" and r.error["errorMessage"] == "ValueError: no", r)
        check(r.error["stackTrace"] == ['  File "/var/task/app.py", line 2, in bad\n    def bad(): raise ValueError(\'no\')\n'] and b"[ERROR]" in r.logs[0], r)
        check(g.invoke({}).outcome == EXITED)
        r = g.freeze()
        check(r.outcome == EXITED, r)
    with Guest() as g:
        check(g.prepare({"app.py": code % "after_restore"}).outcome == OK)
        check(g.freeze().outcome == OK)
        r = g.restore_and_invoke({"big": "x" * 200000}, {})
        check(r.outcome == FUNCTION_ERROR and r.json()["errorType"] == "Runtime.AfterRestoreError" and r.json()["errorMessage"] == "ValueError: no", r)
        check(g.invoke({}).outcome == EXITED)
    with Guest() as g:
        check(g.prepare({"app.py": code % "after_restore"}).outcome == OK)
        check(g.freeze().outcome == OK)
        r = g.restore()
        check(r.outcome == FUNCTION_ERROR and r.error["errorType"] == "Runtime.AfterRestoreError", r)
        check(g.invoke({}).outcome == EXITED)


def test_hooks_hang_or_exit():
    code = "import mayfly, os, time\nmayfly.register_%s(%s)\ndef handler(e, c): return 1\n"
    for call, outcome in (("time.sleep, 60", TIMEOUT), ("os._exit, 3", EXITED)):
        with Guest() as g:
            check(g.prepare({"app.py": code % ("before_snapshot", call)}).outcome == OK)
            check(g.freeze(timeout_ms=300).outcome == outcome)
        with Guest() as g:
            check(g.prepare({"app.py": code % ("after_restore", call)}).outcome == OK)
            check(g.freeze().outcome == OK)
            check(g.restore(timeout_ms=300).outcome == outcome)
        with Guest() as g:
            check(g.prepare({"app.py": code % ("after_restore", call)}).outcome == OK)
            check(g.freeze().outcome == OK)
            check(g.restore_and_invoke({}, {}, timeout_ms=300).outcome == outcome)


def test_restore_levels():
    """Freeze and Restored before there is a function, and before there is a runtime."""
    with Guest() as g:
        check(g.freeze().outcome == OK)
        g.send(8, restored())
        check(g.preload().outcome == OK)
        check(g.freeze().outcome == OK)
        r = g.restore(hostname="runtime-level")
        check(r.kind == RESTORE_RESULT and r.outcome == OK, r)
        g.send(8, restored(hostname="again", environment={"EXTRA": "not kept"}))
        check(g.prepare({"app.py": WHO}).outcome == OK)
        v = g.invoke({}).json()
        check(v["host"] == "again" and "EXTRA" not in v["env"] and v["stream"] == "2024/01/01/[$LATEST]1", v)
        for n in range(3):  # a clone can be frozen again
            check(g.freeze().outcome == OK)
            v = g.restore_and_invoke({}, {"hostname": f"h{n}", "log_stream": ""}).json()
            check(v["host"] == f"h{n}" and v["stream"] == "2024/01/01/[$LATEST]1", v)


def test_restore_errors():
    for what in ({"hostname": "h" * 65}, {"boot_id": b"short"}, {"entropy": b"e" * 1000}, {"environment": {"A=B": "1"}}, {"environment": {"A": "x" * 70000}}):
        with Guest() as g:
            check(g.prepare({"app.py": WHO}).outcome == OK)
            check(g.freeze().outcome == OK)
            r = g.restore_and_invoke({}, what)
            check(r.outcome == AGENT_ERROR and r.payload == b"" and r.message, r)
            check(g.invoke({}).outcome == AGENT_ERROR)
        with Guest() as g:
            check(g.prepare({"app.py": WHO}).outcome == OK)
            r = g.restore(**what)
            check(r.outcome == AGENT_ERROR and r.message, r)


def test_restore_large():
    """A restoration and an event that are not read at once."""
    code = "import os\ndef handler(e, c): return [len(e), len(os.environ['EXTRA'])]"
    with Guest() as g:
        check(g.prepare({"app.py": code}).outcome == OK)
        for size, extra in ((0, 60000), (5, 8000), (65000, 1000), (70000, 30000), ((6 << 20) - 2, 60000)):
            check(g.freeze().outcome == OK)
            r = g.restore_and_invoke("e" * size, {"environment": {"EXTRA": "x" * extra}}, timeout_ms=20000)
            check(r.json() == [size, extra], size, r)


def test_freeze_order():
    """Hosts that do not wait."""
    code = "import mayfly, time\nmayfly.register_before_snapshot(time.sleep, 0.5)\ndef handler(e, c): time.sleep(0.5)"
    for message in (frame(7, b""), frame(4, invocation({})), frame(8, restored())):
        with Guest() as g:
            check(g.prepare({"app.py": code}).outcome == OK)
            g.stream.sendall(frame(7, b"") + message)
            check(g.process.wait(5) is not None)
    with Guest() as g:
        check(g.prepare({"app.py": code}).outcome == OK)
        g.stream.sendall(frame(4, invocation({})) + frame(7, b""))
        check(g.process.wait(5) is not None)
    with Guest() as g:  # half of a message behind it
        check(g.prepare({"app.py": code.replace("0.5", "0")}).outcome == OK)
        g.stream.sendall(frame(7, b"") + frame(4, invocation({}))[:9])
        r = g.receive_answer()
        check(r.outcome == AGENT_ERROR and "after Freeze" in r.message, r)


def test_restore_provided():
    """A custom runtime without and with an interest in snapshots."""
    answer = {"do": 'call("POST", f"invocation/{rid}/response", json.dumps(os.environ["AWS_LAMBDA_INITIALIZATION_TYPE"]))'}
    with Guest() as g:
        check(g.prepare(provided(), runtime="provided").outcome == OK)
        check(g.freeze().outcome == OK)
        check(g.restore_and_invoke(answer, {}).payload == b'"on-demand"')
        check(g.freeze().outcome == OK)
        check(g.restore().outcome == OK)
        check(g.invoke(answer).outcome == OK)
    setup = 'print("woken", call("GET", "restore/next")[0], flush=True)\n'
    with Guest() as g:
        check(g.prepare(provided(setup), runtime="provided", initialization_type="snap-start").outcome == OK)
        check(g.freeze().outcome == OK)
        r = g.restore_and_invoke(answer, {})
        check(r.payload == b'"snap-start"' and b"woken 200\n" in r.logs[0], r)
        r = g.invoke({"do": 'print(call("GET", "restore/next")[0], call("POST", "restore/error", "{}")[0], flush=True)\n' + answer["do"]})
        check(b"403 403" in r.logs[0], r)
    with Guest() as g:
        check(g.prepare(provided(setup), runtime="provided").outcome == OK)
        check(g.freeze().outcome == OK)
        r = g.restore()
        check(r.outcome == OK and b"woken 200\n" in r.logs[0], r)
        check(g.invoke(answer).outcome == OK)
    with Guest() as g:  # never frozen: the event wakes it
        check(g.prepare(provided(setup), runtime="provided").outcome == OK)
        check(b"woken 200\n" in g.invoke(answer).logs[0])
    failing = setup + "call('POST', 'restore/error', '{\"errorMessage\":\"m\",\"errorType\":\"T\"}')\n"
    for alone in (False, True):
        with Guest() as g:
            check(g.prepare(provided(failing), runtime="provided").outcome == OK)
            check(g.freeze().outcome == OK)
            r = g.restore() if alone else g.restore_and_invoke(answer, {})
            check(r.outcome == FUNCTION_ERROR and (r.error if alone else r.json())["errorType"] == "T", r)


def traced(act, options=()):
    """What @act makes agent and runtime call: a list of (process, name, line)."""
    Guest.strace = os.path.join(tempfile.gettempdir(), f"mayfly-strace-{os.getpid()}")
    Guest.strace_options = list(options)
    try:
        with Guest() as g:
            check(g.preload().outcome == OK)
            check(g.prepare({"app.py": WHO + "def small(e, c): return e\n"}, "app.small").outcome == OK)
            check(g.freeze().outcome == OK)
            time.sleep(0.3)
            before = len(open(Guest.strace).read().splitlines())
            act(g)
            time.sleep(0.3)
            lines = open(Guest.strace).read().splitlines()[before:]
    finally:
        os.remove(Guest.strace)
        Guest.strace, Guest.strace_options = None, []
    calls = []
    for line in lines:
        pid, rest = line.split(None, 1)
        name = rest.split("(")[0]
        if rest.startswith("<..."):  # begun before the freeze, or seen begin
            name = rest.split()[1]
            if any(p == pid and n == name for p, n, _ in calls[-3:]):
                continue
        calls.append((pid, name, rest))
    return calls


def test_restored_system_calls():
    """The whole of a clone's first invocation, in the order in which it must happen."""
    if not shutil.which("strace"):
        return "no strace here"

    def act(g):
        r = g.restore_and_invoke({"n": 1}, {"wall_clock_ns": 1700000000123456789})
        check(r.payload == b'{"n": 1}', r)

    calls = traced(act, ["-e", "inject=clock_settime:retval=0"])
    # What both wake up in is of their old life, whether strace shows its end or not.
    agent = next(pid for pid, _, line in calls if "RNDADDENTROPY" in line)
    for pid, name in ((agent, "epoll_wait"), (None, "readv")):
        own = [call for call in calls if (call[0] == agent) == (pid == agent)]
        if own[0][1] == name:
            calls.remove(own[0])
    names = [name for pid, name, _ in calls if pid == agent]
    runtime = [name for pid, name, _ in calls if pid != agent]
    renew = ["clock_settime", "ioctl", "ioctl", "sethostname", "pwrite64"]
    check(names[:8] == ["read"] + renew + ["writev", "epoll_wait"], names)
    lines = [line for pid, _, line in calls if pid == agent]
    check("{tv_sec=1700000000, tv_nsec=123456789}" in lines[1] and "CLOCK_REALTIME" in lines[1], lines)
    check("RNDADDENTROPY" in lines[2] and "RNDRESEEDCRNG" in lines[3], lines)
    check(names[8:] in (["read", "writev", "epoll_wait"], ["read", "pread64", "writev", "epoll_wait"]), names)
    check(runtime == ["writev", "readv"], runtime)
    print(f"     {len(calls)} system calls: agent {' '.join(names)}; runtime {' '.join(runtime)}")


# ---- what an invocation costs ----


def count_system_calls():
    """Not a test: prints how many system calls one small invocation makes, agent and runtime."""
    Guest.strace = os.path.join(tempfile.gettempdir(), f"mayfly-strace-{os.getpid()}")
    code = "def handler(e, c): return e"
    calls = 50
    with Guest() as g:
        check(g.prepare({"app.py": code}).outcome == OK)
        g.invoke({})
        before = open(Guest.strace).read().count("\n")
        time.sleep(0.3)
        before = len(open(Guest.strace).read().splitlines())
        for _ in range(calls):
            g.invoke({})
        time.sleep(0.3)
        lines = open(Guest.strace).read().splitlines()[before:]
    os.remove(Guest.strace)
    names = {}
    for line in lines:
        if "resumed>" in line:
            continue
        pid, rest = line.split(None, 1)
        names.setdefault((pid, rest.split("(")[0]), 0)
        names[pid, rest.split("(")[0]] += 1
    total = sum(names.values())
    print(f"system calls per small python invocation: {total / calls:.2f}")
    for (pid, name), n in sorted(names.items()):
        print(f"  process {pid} {name}: {n / calls:.2f}")


def main():
    global AGENT
    arguments = [a for a in sys.argv[1:] if a != "-v"]
    if not arguments or os.geteuid() != 0:
        sys.exit(__doc__)
    AGENT = os.path.abspath(arguments[0])
    if arguments[1:] == ["count"]:
        return count_system_calls()
    tests = [(n, f) for n, f in globals().items() if n.startswith("test_") and (len(arguments) == 1 or n[5:] in arguments[1:] or n in arguments[1:])]
    failed = 0
    for name, test in tests:
        began = time.monotonic()
        try:
            note = test()
            print(f"ok   {name} ({time.monotonic() - began:.2f} s)" + (f": skipped, {note}" if note else ""), flush=True)
        except Exception as e:
            failed += 1
            print(f"FAIL {name}: {type(e).__name__}: {e}", flush=True)
    print(f"{len(tests) - failed} passed, {failed} failed")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
