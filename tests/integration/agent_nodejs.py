#!/usr/bin/env python3
"""The nodejs18.x runtime under the real agent, without a VM: as agent_contained.py, whose Guest it uses.

usage: agent_nodejs.py PATH-OF-MAYFLY-AGENT [NAME…]      (as root; NAME: run only these tests)

Needs /usr/bin/node (18 or later) on this machine. That clones differ needs a guest: test_nodejs.py.
"""

import json
import os
import sys
import time

import agent_contained
from agent_contained import EXITED, FUNCTION_ERROR, Guest, OK, TIMEOUT, TOO_LARGE, check

RUNTIME = "nodejs18.x"


def prepared(g, files, handler="index.handler", **how):
    files = files if isinstance(files, dict) else {"index.js": files}
    return g.prepare(files, handler, runtime=RUNTIME, **how)


def ready(g, files, handler="index.handler", **how):
    r = prepared(g, files, handler, **how)
    check(r.outcome == OK, r)


def lines(r):
    """The log's lines as [time, request id, level, text]."""
    return [line.split("\t", 3) for line in r.logs[0].decode().splitlines()]


BASIC = """
const fs = require('fs');
exports.handler = async (event, context) => {
  console.log('hello %d', event.n, { a: [1] });
  console.error('two\\nlines');
  process.stdout.write('raw\\n');
  process.stderr.write('to stderr\\n');
  return {
    n: event.n, context, left: context.getRemainingTimeInMillis(), env: { ...process.env }, uid: process.getuid(),
    cwd: process.cwd(), fds: fs.readdirSync('/proc/self/fd'), argv: process.argv, gc: typeof gc, waits: context.callbackWaitsForEmptyEventLoop,
  };
};
"""


def test_basic():
    with Guest() as g:
        ready(g, BASIC, environment={"MINE": "1", "_HANDLER": "evil"})
        for n in range(3):
            r = g.invoke({"n": n}, trace=f"Root=1-{n}", client_context='{"custom":{"a":1}}', identity='{"cognitoIdentityId":"abc"}')
            check(r.outcome == OK and r.json()["n"] == n, r)
        v, c = r.json(), r.json()["context"]
        check(c["awsRequestId"] == r.request_id and c["functionName"] == "f" and c["functionVersion"] == "$LATEST", c)
        check(c["memoryLimitInMB"] == "128" and c["logGroupName"] == "/aws/lambda/f" and c["invokedFunctionArn"].endswith(":f"), c)
        check(c["logStreamName"] == "2024/01/01/[$LATEST]1" and c["clientContext"]["custom"]["a"] == 1 and c["identity"]["cognitoIdentityId"] == "abc", c)
        check(v["waits"] is True and 0 < v["left"] <= 3000 and v["uid"] == 993 and v["cwd"] == "/var/task" and v["gc"] == "undefined", v)
        check(v["argv"][1:] == ["/usr/lib/mayfly/runtimes/nodejs18.x/bootstrap.js"], v["argv"])
        env = v["env"]
        check(env["MINE"] == "1" and env["_HANDLER"] == "index.handler" and env["_X_AMZN_TRACE_ID"] == "Root=1-2", env)
        check(env["AWS_EXECUTION_ENV"] == "AWS_Lambda_nodejs18.x" and env["NODE_PATH"].startswith("/opt/nodejs/node18"), env)
        check(env["LAMBDA_RUNTIME_DIR"] == "/usr/lib/mayfly/runtimes/nodejs18.x" and "AWS_LAMBDA_RUNTIME_API" not in env, env)
        log = r.logs[0].decode()
        first = lines(r)[0]
        check(first[0].startswith("20") and first[0].endswith("Z") and first[1:] == [r.request_id, "INFO", "hello 2 { a: [ 1 ] }"], log)
        check(f"\t{r.request_id}\tERROR\ttwo\nlines\nraw\n" in log and r.logs[1] == b"to stderr\n", r.logs)


def test_handler_names():
    cjs, esm = "exports.a = { b: async () => 'cjs' };", "export const a = { b: async () => 'esm' };"
    package = json.dumps({"type": "module"})
    for files, handler, expected in (
        ({"index.js": cjs}, "index.a.b", "cjs"),
        ({"src/deep/mod.js": cjs}, "src/deep/mod.a.b", "cjs"),
        ({"src/mod.mjs": esm}, "src/mod.a.b", "esm"),
        ({"mod.cjs": cjs}, "mod.a.b", "cjs"),
        ({"index.js": esm, "package.json": package}, "index.a.b", "esm"),
        ({"src/index.js": esm, "package.json": package}, "src/index.a.b", "esm"),
        ({"src/index.js": cjs, "src/package.json": "{}", "package.json": package}, "src/index.a.b", "cjs"),
        ({"node_modules/dep/index.js": cjs, "node_modules/dep/package.json": "{}"}, "dep.a.b", "cjs"),
        ({"index.mjs": "import { x } from './lib/x.mjs'; import cjs from 'dep'; const late = await Promise.resolve(7); export const a = { b: async () => x + cjs.y + late };",
          "lib/x.mjs": "export const x = 'x';", "node_modules/dep/index.js": "exports.y = 'y'"}, "index.a.b", "xy7"),
    ):
        with Guest() as g:
            ready(g, files, handler)
            check(g.invoke({}).json() == expected, handler)


def init_error(files, handler, kind, words):
    with Guest() as g:
        r = prepared(g, files, handler)
        check(r.outcome == FUNCTION_ERROR, r)
        v = r.json()
        check(v["errorType"] == kind and words in v["errorMessage"] and isinstance(v["trace"], list), v)
        check(not any("/usr/lib/mayfly" in line for line in v["trace"]), v)
        check(b"\tundefined\tERROR\tUncaught Exception \t{" in r.logs[0], r.logs)
        r = g.invoke({})
        check(r.outcome == EXITED and "no runtime" in r.message, r)
        return v


def test_init_errors():
    init_error({"index.js": "exports.handler = ("}, "index.handler", "Runtime.UserCodeSyntaxError", "SyntaxError: ")
    init_error({"index.mjs": "export const handler = ("}, "index.handler", "Runtime.UserCodeSyntaxError", "SyntaxError: ")
    init_error({"index.js": "require('nope')"}, "index.handler", "Runtime.ImportModuleError", "Error: Cannot find module 'nope'")
    init_error({"index.mjs": "import 'nope'"}, "index.handler", "Runtime.ImportModuleError", "Cannot find package 'nope'")
    init_error({"index.js": ""}, "other.handler", "Runtime.ImportModuleError", "Error: Cannot find module 'other'")
    init_error({"index.js": ""}, "index.handler", "Runtime.HandlerNotFound", "index.handler is undefined or not exported")
    init_error({"index.js": "exports.handler = 7"}, "index.handler", "Runtime.HandlerNotFound", "index.handler is not a function")
    init_error({"index.js": ""}, "handler", "Runtime.MalformedHandlerName", "Bad handler")
    init_error({"index.js": ""}, "../index.handler", "Runtime.MalformedHandlerName", "is not a valid handler name")
    v = init_error({"index.js": "null.x"}, "index.handler", "TypeError", "Cannot read properties of null")
    check(v["trace"][1].strip().startswith("at Object.<anonymous> (/var/task/index.js:1:"), v)


def test_exit_in_init():
    with Guest() as g:
        r = prepared(g, "process.exit(5)")
        check(r.outcome == EXITED and "exit status 5" in r.message, r)
    with Guest() as g:
        r = prepared(g, "Promise.reject(new RangeError('early')); exports.handler = async () => new Promise(() => {});")
        check(r.outcome == FUNCTION_ERROR and r.json()["errorType"] == "Runtime.UnhandledPromiseRejection", r)
        check(r.json()["errorMessage"] == "RangeError: early", r)


def test_errors():
    code = """
    class Odd extends Error { constructor(m) { super(m); this.name = 'Odd'; this.detail = { x: 1 }; } }
    exports.handler = async (how) => {
      if (how === 'odd') throw new Odd('boom é');
      if (how === 'text') throw 'just text';
      if (how === 'none') throw undefined;
      if (how === 'bad') throw { get name() { throw 1; }, toString() { throw 2; } };
      if (how === 'circular') { const a = {}; a.a = a; return a; }
      if (how === 'big') throw new Error('y'.repeat(10e6));
      return how;
    };"""
    with Guest() as g:
        ready(g, code)
        r = g.invoke("odd")
        v = r.json()
        check(r.outcome == FUNCTION_ERROR and v["errorType"] == "Odd" and v["errorMessage"] == "boom é", v)
        check(len(v["trace"]) == 2 and "/var/task/index.js:4:" in v["trace"][1], v)
        text = lines(r)[0][3]
        check(text.startswith("Invoke Error \t{") or text.startswith("Invoke Error\t{"), text)
        logged = json.loads(text[text.index("{"):])
        check(logged["errorType"] == "Odd" and logged["detail"] == {"x": 1} and logged["stack"], logged)
        check(g.invoke("text").json() == {"errorType": "string", "errorMessage": "just text", "trace": []})
        check(g.invoke("none").json()["errorMessage"] == "handled")
        check(g.invoke("bad").json()["errorType"] == "handled")
        check(g.invoke("circular").json()["errorType"] == "Runtime.MarshalError")
        r = g.invoke("big")
        check(r.json()["errorType"] == "Error" and len(r.payload) < 256 << 10, len(r.payload))
        check(g.invoke(b"{nope").json()["errorType"] == "SyntaxError")
        check(g.invoke("on").json() == "on", "lives on")


def test_callbacks():
    code = """
    exports.handler = (how, context, callback) => {
      if (how === 'plain') return callback(null, 1);
      if (how === 'error') return callback(new Error('called back'));
      if (how === 'late') return setTimeout(callback, 30, null, 'late');
      if (how === 'waits') { callback(null, 'x'); return setTimeout(() => console.log('after'), 50); }
      if (how === 'quick') { context.callbackWaitsForEmptyEventLoop = false; setTimeout(() => console.log('next time'), 1); return callback(null, 'q'); }
      if (how === 'succeed') return context.succeed('s');
      if (how === 'fail') return context.fail('f');
      if (how === 'done') return context.done(null, 'd');
      if (how === 'twice') { callback(null, 1); callback(null, 2); return; }
      if (how === 'throw') throw new Error('thrown');
    };"""
    with Guest() as g:
        ready(g, code)
        for how, expected in (("plain", 1), ("late", "late"), ("waits", "x"), ("succeed", "s"), ("done", "d"), ("twice", 1), ("nothing", None)):
            r = g.invoke(how)
            check(r.outcome == OK and r.json() == expected, how, r)
            check((b"after" in r.logs[0]) == (how == "waits"), how, r)
        for how, expected in (("error", "called back"), ("fail", "f"), ("throw", "thrown")):
            r = g.invoke(how)
            check(r.outcome == FUNCTION_ERROR and r.json()["errorMessage"] == expected, how, r)
        check(g.invoke("quick").json() == "q")
        time.sleep(0.1)
        r = g.invoke("late")
        check(b"next time" in r.logs[0], "what was left over runs with the next event", r)


def test_promises():
    code = """
    exports.handler = (how, context) => {
      if (how === 'sync') return 7;
      if (how === 'then') return { then(f) { f('thenable'); } };
      if (how === 'never') return new Promise(() => {});
      if (how === 'timer') return new Promise((f) => setTimeout(f, 20, 't'));
      if (how === 'undefined') return Promise.resolve();
      if (how === 'function') return Promise.resolve(() => 1);
      setInterval(() => {}, 5);
      return Promise.resolve('left an interval');
    };"""
    with Guest() as g:
        ready(g, code)
        for how, expected in (("sync", None), ("then", "thenable"), ("timer", "t"), ("undefined", None), ("function", None)):
            r = g.invoke(how)
            check(r.outcome == OK and r.json() == expected, how, r)
        r = g.invoke("never")
        check(r.outcome == FUNCTION_ERROR and r.json()["errorType"] == "Runtime.NodeJsExit", r)
        check(g.invoke("interval").json() == "left an interval" and g.invoke("timer").json() == "t")


def processor_ticks(g):
    """User and system time of all processes in the guest but its first."""
    total = 0
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/stat") as stat:
                fields = stat.read().rpartition(")")[2].split()
            with open(f"/proc/{pid}/status") as status:
                if "\nUid:\t993\t" in status.read():
                    total += int(fields[11]) + int(fields[12])
        except OSError:
            pass
    return total


def test_idle():
    code = "let n = 0; setInterval(() => { n++; }, 1); exports.handler = async () => n;"
    with Guest() as g:
        ready(g, code)
        before, first = g.invoke({}).json(), processor_ticks(g)
        time.sleep(1)
        spent = processor_ticks(g) - first
        check(spent <= 2, "an idle process used", spent, "ticks")
        check(g.invoke({}).json() <= before + 5, "a timer ran between two events")


def test_ends():
    for code, outcome, words in (
        ("exports.handler = async () => process.exit(3)", EXITED, "exit status 3"),
        ("exports.handler = async () => process.exit(0)", EXITED, "without providing a reason"),
        ("exports.handler = async () => process.abort()", EXITED, "signal: 6"),
        ("exports.handler = async () => { for (;;); }", TIMEOUT, "timed out after 0.50 seconds"),
        ("exports.handler = () => { setTimeout(() => {}, 1e6); }", TIMEOUT, "timed out"),
    ):
        with Guest() as g:
            ready(g, code)
            r = g.invoke({}, timeout_ms=500)
            check(r.outcome == outcome and words in r.message and r.payload == b"", code, r)
            check(g.invoke({}).outcome == EXITED)
    for code, kind, message in (
        ("exports.handler = () => { setTimeout(() => { throw new RangeError('later'); }, 5); }", "RangeError", "later"),
        ("exports.handler = async () => { Promise.reject(new RangeError('lost')); return 1; }", "Runtime.UnhandledPromiseRejection", "RangeError: lost"),
        ("exports.handler = () => { Promise.reject('why'); }", "Runtime.UnhandledPromiseRejection", "why"),
    ):
        with Guest() as g:
            ready(g, code)
            r = g.invoke({})
            check(r.outcome == EXITED and r.json()["errorType"] == kind and r.json()["errorMessage"] == message, code, r)
            check(g.invoke({}).outcome == EXITED and g.invoke({}).payload == b"")


def test_sizes():
    with Guest() as g:
        ready(g, "exports.handler = async (e) => typeof e === 'string' ? e.length : 'é'.repeat(e.n) + 'a'.repeat(e.a ?? 0)")
        for size in (0, 1, 60000, 65536, 200000, (6 << 20) - 2, 5):
            check(g.invoke("b" * size).json() == size, size)
        for size in (0, 1, 16384, 30000, 65536, (3 << 20) - 1):
            r = g.invoke({"n": size})
            check(r.outcome == OK and len(r.payload) == 2 * size + 2, size, r.outcome, r.message)
        r = g.invoke({"n": (3 << 20) - 1, "a": 1})
        check(r.outcome == TOO_LARGE and r.payload == b"", r)
        check(g.invoke({"n": 1}).json() == "é", "lives on")


def test_children():
    code = """
    const { execSync } = require('child_process');
    const { Worker } = require('worker_threads');
    exports.handler = async () => {
      const out = execSync('echo sub >&2; echo out; ls /proc/self/fd | wc -l', { stdio: ['ignore', 'pipe', 'inherit'] }).toString();
      const worker = new Worker("require('worker_threads').parentPort.postMessage(41)", { eval: true });
      return [out, await new Promise((f) => worker.once('message', f))];
    };"""
    with Guest() as g:
        ready(g, code)
        r = g.invoke({}, timeout_ms=20000)
        check(r.json() == ["out\n4\n", 41] and r.logs[1] == b"sub\n", r)


def test_prints_much():
    code = "exports.handler = async () => { const s = 'x'.repeat(65535) + '\\n'; for (let i = 0; i < 100; i++) process.stdout.write(s); console.log('last'); return 1; };"
    with Guest() as g:
        ready(g, code, log_bytes=32 << 20)
        r = g.invoke({}, timeout_ms=30000)
        check(r.json() == 1 and r.logs[0].startswith(b"xxx") and r.logs[0].endswith(b"last\n") and r.dropped == [0, 0], r.dropped)
        check(len(r.logs[0]) > 100 << 16, len(r.logs[0]))


STREAM = """
const { pipeline } = require('stream/promises');
const { Readable } = require('stream');
exports.handler = awslambda.streamifyResponse(async (how, stream, context) => {
  if (how === 'three') for (const word of ['one', 'two', 'three']) { stream.write(word); await new Promise((f) => setTimeout(f, 60)); }
  if (how === 'http') stream = awslambda.HttpResponseStream.from(stream, { statusCode: 201, headers: { 'x-a': 'b' }, cookies: ['c=d'] });
  if (how === 'http' || how === 'type') { how === 'type' && stream.setContentType('text/plain'); stream.write('body'); }
  if (how === 'object') stream.write({ a: 1 });
  if (how === 'late') { stream.write('x'); stream.setContentType('text/plain'); }
  if (how === 'throw') { stream.write('begun'); throw new RangeError('mid'); }
  if (how === 'unfinished') { stream.write('open'); return; }
  if (how === 'background') { setTimeout(() => stream.end('later'), 30); return; }
  if (how === 'exit') { stream.write('bye'); process.exit(4); }
  if (how === 'lost') { stream.write('gone'); Promise.reject(new Error('lost')); }
  if (typeof how === 'number') { return pipeline(Readable.from((function* () { for (let i = 0; i < how; i++) yield Buffer.alloc(1 << 20, i); })()), stream); }
  stream.end();
});
"""


def test_streams():
    with Guest() as g:
        ready(g, STREAM)
        arrivals = []
        g.on_part = lambda part: arrivals.append(time.monotonic())
        r = g.invoke("three")
        check(r.outcome == OK and r.payload == b"" and b"".join(g.parts) == b"onetwothree", g.parts, r)
        check(g.content_types == ["application/octet-stream"] and arrivals[-1] - arrivals[1] > 0.09, arrivals)
        g.on_part = None
        for how, content_type, body in (
            ("http", "application/vnd.awslambda.http-integration-response", b'{"statusCode":201,"headers":{"x-a":"b"},"cookies":["c=d"]}' + bytes(8) + b"body"),
            ("type", "text/plain", b"body"),
            ("object", "application/octet-stream", b'{"a":1}'),
            ("background", "application/octet-stream", b"later"),
            ("nothing", "application/octet-stream", b""),
        ):
            r = g.invoke(how)
            check(r.outcome == OK and b"".join(g.parts) == body and g.content_types == [content_type], how, g.parts, g.content_types, r)
        for how, begun, message in (("throw", b"begun", "mid"), ("unfinished", b"open", "Response stream is not finished."), ("late", b"x", "Cannot set content-type, too late.")):
            r = g.invoke(how)
            check(r.outcome == FUNCTION_ERROR and r.json()["errorMessage"] == message and b"".join(g.parts) == begun, how, g.parts, r)
        r = g.invoke(21, timeout_ms=30000)
        data = b"".join(g.parts)
        check(r.outcome == OK and len(data) == 21 << 20 and all(data[i << 20 : (i + 1) << 20] == bytes([i]) * (1 << 20) for i in range(21)), len(data))
        check(max(map(len, g.parts)) <= 1 << 20, max(map(len, g.parts)))
        r = g.invoke("exit")
        check(r.outcome == EXITED and g.parts[-1] == b"bye", g.parts, r)
    with Guest() as g:
        ready(g, STREAM)
        r = g.invoke("lost")
        check(r.outcome == EXITED and r.json()["errorType"] == "Runtime.UnhandledPromiseRejection" and g.parts[-1] == b"gone", r)
    with Guest() as g:
        ready(g, "exports.handler = awslambda.streamifyResponse((e, stream) => { stream.end('x'); });")
        check(g.invoke({}).json()["errorMessage"] == "Streaming does not support non-async handlers.")


def test_stream_limits():
    with Guest() as g:
        ready(g, STREAM)
        r = g.invoke(201, timeout_ms=60000)
        total = sum(map(len, g.parts))
        check(r.outcome == TOO_LARGE and 199 << 20 < total <= 200 << 20, total, r)
        check(g.invoke("type").outcome == OK, "lives on")
        # A host that does not read stops the function, which then runs into its deadline.
        g.send_invoke(100, timeout_ms=1500)
        time.sleep(1)
        r = g.receive_answer()
        check(r.outcome in (OK, TIMEOUT), r)


SNAPSHOT = """
const mayfly = require('mayfly');
const crypto = require('crypto');
const seen = [];
const early = Math.random;
mayfly.registerBeforeSnapshot(() => { seen.push('b1'); });
mayfly.registerBeforeSnapshot(async () => { await null; seen.push('b2'); });
mayfly.registerAfterRestore(() => { seen.push('a1 ' + process.env.MAYFLY_INSTANCE_ID + ' ' + process.env.NEW); });
mayfly.registerAfterRestore(async () => { await new Promise((f) => setTimeout(f, 5)); seen.push('a2'); });
crypto.randomUUID(); crypto.randomInt(5); Math.random();
exports.handler = async () => ({ seen, zone: new Date(0).getTimezoneOffset(), log: process.env.AWS_LAMBDA_LOG_STREAM_NAME,
  origin: Math.abs(performance.timeOrigin + performance.now() - Date.now()), mine: process.env.MINE, left: process.env.LEFT,
  early: early() });
"""

PATHS = {"NODE_PATH": "/usr/lib/mayfly/runtimes/nodejs18.x"}  # an image has it in /node_modules


def test_snapshots():
    for is_preloaded in (False, True):
        with Guest() as g:
            if is_preloaded:
                r = g.preload(RUNTIME)
                check(r.outcome == OK, r)
                check(g.freeze().outcome == OK)
                check(g.restore().outcome == OK)
            ready(g, SNAPSHOT, environment={"MINE": "1", "TZ": "Asia/Tokyo"} | PATHS)
            r = g.freeze()
            check(r.outcome == OK, r)
            r = g.restore_and_invoke({}, {"environment": {"NEW": "new", "TZ": "UTC"}, "entropy": bytes(64)})
            v = r.json()
            check(v["seen"] == ["b2", "b1", "a1 i-1 new", "a2"], v)
            check(v["zone"] == 0 and v["log"] == "stream-1" and v["origin"] < 1000 and v["mine"] == "1", v)
            check(g.freeze().outcome == OK and g.restore(instance_id="i-2").outcome == OK)
            v = g.invoke({}).json()
            check(v["seen"][4:] == ["b2", "b1", "a1 i-2 new", "a2"], v)
            check(g.invoke({}).json()["early"] != v["early"])


def test_hook_errors():
    for hook, kind, outcome in (
        ("registerBeforeSnapshot(() => { throw new TypeError('no'); })", "freeze", "Runtime.BeforeSnapshotError"),
        ("registerBeforeSnapshot(async () => { throw new TypeError('no'); })", "freeze", "Runtime.BeforeSnapshotError"),
        ("registerAfterRestore(() => { throw new TypeError('no'); })", "restore", "Runtime.AfterRestoreError"),
        ("registerAfterRestore(async () => { await null; throw new TypeError('no'); })", "restore", "Runtime.AfterRestoreError"),
    ):
        with Guest() as g:
            ready(g, f"require('mayfly').{hook}; exports.handler = async () => 1;", environment=PATHS)
            r = g.freeze()
            if kind == "restore":
                check(r.outcome == OK, r)
                r = g.restore()
            check(r.outcome == FUNCTION_ERROR and r.error["errorType"] == outcome and r.error["errorMessage"] == "TypeError: no", r)


def test_preload():
    with Guest() as g:
        check(g.preload(RUNTIME).outcome == OK)
        ready(g, {"index.mjs": "import http from 'http'; export const handler = async () => [process.env, typeof http.request, process.memoryUsage().rss];"}, environment={"A": "b"})
        env, http, rss = g.invoke({}).json()
        check(env["A"] == "b" and env["TZ"] == ":UTC" and "LC_ALL" not in env and http == "function", env)
        print(f"     {rss >> 20} MiB resident")


def main():
    arguments = sys.argv[1:]
    if not arguments or os.geteuid() != 0:
        sys.exit(__doc__)
    if not os.path.exists("/usr/bin/node"):
        print("skipped: no /usr/bin/node on this machine")
        return
    agent_contained.AGENT = os.path.abspath(arguments[0])
    tests = [(n, f) for n, f in globals().items() if n.startswith("test_") and (len(arguments) == 1 or n[5:] in arguments[1:])]
    failed = 0
    for name, test in tests:
        began = time.monotonic()
        try:
            test()
            print(f"ok   {name} ({time.monotonic() - began:.2f} s)", flush=True)
        except Exception as e:
            failed += 1
            print(f"FAIL {name}: {type(e).__name__}: {e}", flush=True)
    print(f"{len(tests) - failed} passed, {failed} failed")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
