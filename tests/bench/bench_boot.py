#!/usr/bin/env python3
"""Cold boots, stage by stage, and the monitor's own memory, as `mayfly run --json` reports them.

usage: bench_boot.py BUILD STATE [--count N] [--json FILE]
"""

import argparse
import json
import os
import platform
import subprocess
import tempfile

STAGES = ["decompress", "vm_create", "kernel", "agent_ready", "init", "invoke", "total"]


def percentile(values, share):
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def figure(name, unit, values):
    return {
        "name": name,
        "unit": unit,
        "n": len(values),
        "p50": percentile(values, 0.5),
        "p90": percentile(values, 0.9),
        "p99": percentile(values, 0.99),
        "ratio_to": {},
    }


def run_once(mayfly, state, function):
    command = [mayfly, "run", function, "--handler", "app.handler", "--json", "--state", state,
               "--boot"]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True)
    return json.loads(done.stdout)


def main():
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("build")
    arguments.add_argument("state")
    arguments.add_argument("--count", type=int, default=5)
    arguments.add_argument("--json")
    given = arguments.parse_args()
    mayfly = os.path.join(given.build, "bin", "mayfly")

    samples = {stage: [] for stage in STAGES}
    hello, private = [], []
    with tempfile.TemporaryDirectory() as function:
        with open(os.path.join(function, "app.py"), "w", encoding="utf-8") as file:
            file.write("def handler(event, context):\n    return None\n")
        for i in range(given.count):
            result = run_once(mayfly, given.state, function)
            times = result["timings_us"]
            for stage in STAGES:
                samples[stage].append(times[stage])
            hello.append(times["vm_create"] + times["kernel"] + times["agent_ready"])
            private.append(result["memory_bytes"]["monitor_private"])
            print(f"  boot {i + 1} of {given.count}: {hello[-1] / 1e6:.2f} s to hello", flush=True)

    figures = [figure(f"boot.{stage}", "us", samples[stage]) for stage in STAGES]
    figures.append(figure("boot.create_to_hello", "us", hello))
    figures.append(figure("monitor.private_memory", "bytes", private))
    print(f"{'figure':28}{'n':>4}{'p50':>14}{'p90':>14}{'p99':>14}")
    for f in figures:
        print(f"{f['name']:28}{f['n']:4}{f['p50']:12} {f['unit'][:2]}{f['p90']:12} {f['unit'][:2]}"
              f"{f['p99']:12} {f['unit'][:2]}")
    stages = {stage: percentile(samples[stage], 0.5) for stage in STAGES if stage != "total"}
    print(f"what dominates: {max(stages, key=stages.get)}")
    if given.json:
        host = {"machine": platform.machine(), "kernel": platform.release(),
                "cpus": os.cpu_count()}
        with open(given.json, "w", encoding="utf-8") as file:
            json.dump({"host": host, "figures": figures}, file, indent=1)


if __name__ == "__main__":
    main()
