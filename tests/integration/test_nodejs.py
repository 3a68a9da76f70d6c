#!/usr/bin/env python3
"""nodejs18.x in real guests: what its clones must not share, errors, memory. Semantics: agent_nodejs.py."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time

import harness
from harness import STATE, mayfly, need_kvm, result_of, write_function

HERE = os.path.dirname(os.path.abspath(__file__))
suite = harness.Suite("nodejs")
work = tempfile.mkdtemp(prefix="mayfly-test-nodejs-")
CLONES = 8

# Every source of randomness is in use before the snapshot, so that it has a stock that clones would share.
CLONE = """
import crypto, { randomBytes, randomInt, randomUUID } from 'crypto';
import { promisify } from 'util';
import vm from 'vm';
import { registerAfterRestore, registerBeforeSnapshot } from 'mayfly';

const bytesLater = promisify(randomBytes);
const early = Math.random;
const order = [];
const key = () => crypto.generateKeyPairSync('ed25519').publicKey.export({ type: 'spki', format: 'der' }).toString('hex');
const draw = async () => ({
  bytes: randomBytes(16).toString('hex'), later: (await bytesLater(16)).toString('hex'), uuid: randomUUID(),
  int: `${randomInt(2 ** 47)}`, math: `${early()}`, key: key(), web: Buffer.from(crypto.webcrypto.getRandomValues(new Uint8Array(16))).toString('hex'),
  webUuid: crypto.webcrypto.randomUUID(), context: `${vm.runInNewContext('Math.random()')}`,
});
const atInit = await draw();
registerBeforeSnapshot(() => order.push('before'));
registerAfterRestore(async () => { await null; order.push('after'); });
let calls = 0;

export const handler = async (event, context) => ({
  now: Date.now() / 1000, origin: (performance.timeOrigin + performance.now()) / 1000, calls: ++calls, order, atInit,
  draws: await draw(), stream: context.logStreamName, left: context.getRemainingTimeInMillis(),
});
"""


def run(name, source, *arguments, file="index.mjs", timeout="60"):
    need_kvm()
    function = write_function(os.path.join(work, name), source, file)
    return mayfly("run", function, "--runtime", "nodejs18.x", "--handler", "index.handler", "--json",
                  "--state", STATE, "--timeout", timeout, *arguments)


@suite.case
def the_runtime_without_a_guest():
    """agent_nodejs.py, where this machine has a node to run it with."""
    agent = os.path.join(harness.BUILD, "bin", "mayfly-agent")
    if os.geteuid() != 0 or not shutil.which("node", path="/usr/bin"):
        raise harness.Skip("not root, or no /usr/bin/node")
    done = subprocess.run([sys.executable, os.path.join(HERE, "agent_nodejs.py"), agent],
                          stdout=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 0, "\n".join(l for l in done.stdout.splitlines() if not l.startswith("ok"))


def clones_are_distinct_and_on_time():
    seen, at_init = {}, set()
    for number in range(CLONES + 1):
        sent = time.time()
        done = run("clone", CLONE)
        assert done.returncode == 0, done.stdout + done.stderr
        clone = result_of(done)
        value = clone["result"]
        assert number == 0 or clone["start"] == "restored", clone
        assert value["calls"] == 1 and value["order"] == ["before", "after"], value
        assert number == 0 or sent - 0.05 <= value["now"] <= time.time() + 0.05, (sent, value["now"])
        assert abs(value["origin"] - value["now"]) < 0.5 and 0 < value["left"] <= 60000, value
        at_init.add(json.dumps(value["atInit"]))
        for source, one in value["draws"].items():
            assert one not in seen.setdefault(source, set()), (number, source, one)
            assert one not in json.loads(next(iter(at_init))).values(), (number, source, one)
            seen[source].add(one)
    assert len(at_init) == 1 and all(len(values) == CLONES + 1 for values in seen.values())


def functions_of_one_runtime_level_are_distinct():
    """What functions draw while they initialise comes from the same preloaded interpreter."""
    done = run("another", CLONE + "// another function\n")
    assert done.returncode == 0, done.stdout + done.stderr
    mine = result_of(done)["result"]["atInit"]
    others = result_of(run("clone", CLONE))["result"]["atInit"]
    assert all(mine[source] != others[source] for source in mine), (mine, others)


def errors_are_lambdas():
    for name, source, kind in (
            ("raise", "exports.handler = async () => { throw new RangeError('no'); };", "RangeError"),
            ("exit", "exports.handler = async () => process.exit(7);", "Runtime.ExitError"),
            ("reject", "exports.handler = async () => { Promise.reject(new Error('lost')); };",
             "Runtime.UnhandledPromiseRejection"),
            ("import", "require('nope');", "Runtime.ImportModuleError")):
        done = run(name, source, file="index.js")
        assert done.returncode == 1, (name, done.stdout, done.stderr)
        assert result_of(done)["error"]["errorType"] == kind, (name, done.stdout)


def a_heap_that_grows_beyond_the_memory_ends_the_function():
    done = run("heap", "exports.handler = async () => { const all = []; for (;;) all.push(new Array(1e5).fill(all.length)); };",
               file="index.js", timeout="120")
    error = result_of(done)["error"]
    assert done.returncode == 1 and error["errorType"] in ("Runtime.ExitError", "Runtime.OutOfMemory"), error


def the_example():
    need_kvm()
    done = mayfly("run", os.path.join(HERE, "..", "..", "examples", "textstat"), "--runtime", "nodejs18.x", "--handler",
                  "index.handler", "--event", json.dumps({"text": "to be or not to be"}), "--json", "--state", STATE,
                  "--timeout", "60")
    value = result_of(done)["result"]
    assert value["words"] == 6 and value["top"][:2] == [["be", 2], ["to", 2]], value


if __name__ == "__main__":
    try:
        # One after the other: the first makes the runtime's snapshot.
        suite.main(after=[clones_are_distinct_and_on_time, functions_of_one_runtime_level_are_distinct,
                          errors_are_lambdas, a_heap_that_grows_beyond_the_memory_ends_the_function, the_example])
    finally:
        shutil.rmtree(work, ignore_errors=True)
