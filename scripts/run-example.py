#!/usr/bin/env python3
"""`make run`: a daemon, the word-count example deployed to it, one invocation for each kind of start.

    scripts/run-example.py BUILD STATE

Standard output has the results and the table; what is being done goes to standard error. A daemon
that already runs on STATE is used and left alone; else one is started, and ended again.
"""

import concurrent.futures
import json
import os
import re
import shutil
import signal
import subprocess
import sys

NAME, RUNTIME, HANDLER, TIMEOUT_S = "wordcount", "python3.11", "app.handler", "30"
EVENT = json.dumps({"path": "text.txt"})
TEXT = "/usr/share/common-licenses/GPL-3"  # every Debian has it


def say(text):
    print(f"== {text}", file=sys.stderr, flush=True)


class Example:
    def __init__(self, build, state):
        self.programs, self.state = os.path.join(build, "bin"), state
        self.code = os.path.join(build, "examples", NAME)
        self.daemon = None

    def mayfly(self, *arguments, quiet=False, may_fail=False):
        """The command: its stdout. Its progress goes to the terminal."""
        done = subprocess.run(
            [os.path.join(self.programs, "mayfly"), *arguments, "--state", self.state], check=False,
            text=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL if quiet else None)
        if done.returncode != 0 and not may_fail:
            sys.stdout.write(done.stdout)
            raise SystemExit(done.returncode)
        return done.stdout if done.returncode == 0 else None

    def prepare_code(self):
        """The example beside a text of over 100 KB."""
        root = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "examples", NAME)
        os.makedirs(self.code, exist_ok=True)
        shutil.copy(os.path.join(root, "app.py"), self.code)
        with open(TEXT, "rb") as source, open(os.path.join(self.code, "text.txt"), "wb") as text:
            text.write(3 * source.read())

    def start_daemon(self):
        if self.mayfly("ls", quiet=True, may_fail=True) is not None:
            say("a mayflyd runs on this state already: using it")
            return
        say("mayflyd: starting")
        log = os.path.join(self.state, "mayflyd.log")
        with open(log, "w", encoding="utf-8") as out:
            # In a group of its own, so that Ctrl-C ends this first, and the daemon in order.
            self.daemon = subprocess.Popen(
                [os.path.join(self.programs, "mayflyd"), "--state", self.state, "--listen",
                 "127.0.0.1:0"], stderr=subprocess.PIPE, text=True, start_new_session=True)
            for line in self.daemon.stderr:
                out.write(line)
                if '"message":"ready:' in line:
                    break
            else:
                self.daemon.wait()
                with open(log, encoding="utf-8") as lines:
                    sys.stderr.write(lines.read())
                raise SystemExit("mayflyd does not start: 'build/bin/mayfly doctor' may say why")

    def stop_daemon(self):
        if not self.daemon:
            return
        self.daemon.send_signal(signal.SIGTERM)
        with open(os.path.join(self.state, "mayflyd.log"), "a", encoding="utf-8") as out:
            out.writelines(self.daemon.stderr)
        self.daemon.wait()

    def boot(self):
        """The long way, without daemon and snapshots: where the time of a boot goes."""
        return json.loads(self.mayfly(
            "run", self.code, "--runtime", RUNTIME, "--handler", HANDLER, "--event", EVENT,
            "--timeout", TIMEOUT_S, "--boot", "--json"))["timings_us"]

    def deploy(self):
        self.mayfly("rm", NAME, quiet=True, may_fail=True)  # of the last `make run`
        return json.loads(self.mayfly(
            "deploy", self.code, "--name", NAME, "--runtime", RUNTIME, "--handler", HANDLER,
            "--timeout", TIMEOUT_S, "--json"))["functions"][0]["seconds"]

    def invoke(self):
        answer = json.loads(self.mayfly("invoke", NAME, "--event", EVENT, "--log", "--json"))
        took = {"total": answer["round_trip_us"], "result": answer["result"], "restore": 0}
        for name, field in (("invoke", "Duration"), ("restore", "Restore Duration")):
            found = re.search(rf"(?:^|\t){field}: ([0-9.]+) ms", answer.get("log", ""))
            if found:
                took[name] = float(found[1]) * 1000
        return took

    def invoke_restored(self):
        """The instance that the snapshot was made of is still warm: of two events at once one has
        it, the other's instance is restored."""
        with concurrent.futures.ThreadPoolExecutor(2) as pool:
            both = [call.result() for call in [pool.submit(self.invoke) for _ in range(2)]]
        return max(both, key=lambda took: (took.get("restore", 0), took["total"]))


def shown(us):
    return f"{us / 1e6:.2f} s" if us >= 1e6 else f"{us / 1e3:.1f} ms"


def parts(took, names):
    return ", ".join(f"{label} {shown(took[name])}" for name, label in names if took.get(name))


def print_table(boot, deployed_s, restored, warm):
    stages = (("decompress", "decompress"), ("vm_create", "VM"), ("kernel", "kernel"),
              ("agent_ready", "agent"), ("init", "init phase"), ("invoke", "function"))
    calls = (("restore", "restore"), ("invoke", "function"))
    rows = (("cold boot", boot["total"], parts(boot, stages)),
            ("deploy", deployed_s * 1e6, "pack, init phase, snapshot; a boot where there is no runtime's"),
            ("restored", restored["total"], parts(restored, calls)),
            ("warm", warm["total"], parts(warm, calls)))
    print(f"\n  {'start':<10} {'time':>9}   where it went")
    for name, us, note in rows:
        print(f"  {name:<10} {shown(us):>9}   {note}")


def print_way_on(example):
    programs, state = (os.path.relpath(p) for p in (example.programs, example.state))
    print(f"""
Go on by hand:

  export PATH=$PWD/{programs}:$PATH MAYFLY_STATE=$PWD/{state}
  mayflyd 2>>{state}/mayflyd.log &
  mayfly invoke {NAME} --event '{{"text":"to be or not to be"}}' --log
  mayfly deploy --help

  export AWS_SHARED_CREDENTIALS_FILE=$MAYFLY_STATE/credentials AWS_DEFAULT_REGION=us-east-1
  aws --endpoint-url http://127.0.0.1:9555 lambda list-functions""")


def main():
    example = Example(os.path.abspath(sys.argv[1]), os.path.abspath(sys.argv[2]))
    example.prepare_code()
    say("a cold boot, for comparison: kernel, agent, interpreter, init phase, function")
    boot = example.boot()
    try:
        example.start_daemon()
        say(f"deploying {NAME} (the first time, its runtime is booted and frozen)")
        deployed_s = example.deploy()
        say("invoking it: twice at once, so that one is restored from the snapshot; then warm")
        restored, warm = example.invoke_restored(), example.invoke()
    finally:
        example.stop_daemon()
    print(json.dumps(warm["result"])[:300])
    print_table(boot, deployed_s, restored, warm)
    print_way_on(example)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
