#!/usr/bin/env python3
"""mayfly bench measures and reports; how fast is nobody's failure here."""

import json
import os
import shutil
import tempfile
import xml.etree.ElementTree

import harness
from harness import STATE, Skip, mayfly, need_kvm

suite = harness.Suite("bench")
work = tempfile.mkdtemp(prefix="mayfly-test-bench-")

TIMES = ["boot.agent_answers", "boot.first_result", "boot.teardown",
         "plain.restored", "plain.first_exit", "plain.teardown",
         "no_shell.shell_made", "no_shell.restored", "no_shell.first_exit", "no_shell.teardown",
         "shell.restored", "shell.restored_monitor", "shell.first_exit",
         "shell.first_exit_monitor", "shell.agent_answers", "shell.first_result",
         "shell.first_result_cpu",
         "shell.teardown", "burst.restored", "burst.first_exit", "burst.all_first_exit"]


def bench(*arguments, **options):
    return mayfly("bench", "restore", "--memory", "128", "--state", STATE, *arguments, **options)


def everything_is_measured_and_drawn():
    need_kvm()
    file, plot = os.path.join(work, "f.json"), os.path.join(work, "f.svg")
    drawn = shutil.which("gnuplot") is not None
    done = bench("--count", "3", "--parallel", "2", "--alive", "2", "--boots", "1", "--json", file,
                 *(["--plot", plot] if drawn else []))
    assert done.returncode == 0, done.stderr
    with open(file, encoding="utf-8") as stream:
        result = json.load(stream)
    figures = {f["name"]: f for f in result["figures"]}
    for name in TIMES:
        figure = figures[name]
        assert figure["unit"] == "us" and figure["memory_mib"] == 128, figure
        assert 0 < figure["p50"] <= figure["p90"] <= figure["p99"] <= figure["max"], figure
        assert name in done.stdout, done.stdout
    for name in ("shell.restored", "shell.agent_answers", "plain.first_exit"):
        assert figures[name]["n"] == 3 and figures[name]["ratio_to"], figures[name]
    assert figures["boot.first_result"]["n"] == 1 and figures["burst.first_exit"]["n"] == 2
    for name in ("alive.guest", "alive.monitor"):
        assert figures[name]["n"] == 2 and figures[name]["p50"] > 0, figures[name]
    assert figures["alive.cpu"]["unit"] == "percent" and figures["alive.cpu"]["n"] == 2
    # Stages come in their order, whatever they take.
    assert figures["shell.restored_monitor"]["p50"] <= figures["shell.restored"]["max"]
    assert figures["boot.agent_answers"]["p50"] < figures["boot.first_result"]["p50"]
    assert result["host"]["kernel"] == os.uname().release and result["host"]["kvm"]
    assert result["snapshots"][0]["memory_mib"] == 128 and result["snapshots"][0]["age_s"] >= 0
    assert any(limit["what"].startswith("restored") for limit in result["limits"])
    if drawn:
        root = xml.etree.ElementTree.parse(plot).getroot()
        assert root.tag.endswith("svg") and "shell: first result" in "".join(root.itertext())


def json_alone_on_stdout():
    need_kvm()
    done = bench("--count", "1", "--parallel", "0", "--boots", "0", "--json", "-")
    assert done.returncode == 0, done.stderr
    names = {f["name"] for f in json.loads(done.stdout)["figures"]}
    assert "shell.first_result" in names and "boot.first_result" not in names
    assert not any(name.startswith(("burst", "alive")) for name in names), names


INVOKE_TIMES = ["warm.total", "warm.host", "warm.cpu", "dry.host", "dry.cpu", "dry.host_cold",
                "dry.cpu_cold", "restored.total", "restored.host", "restored.acquire", "get.10",
                "list.10", "burst.warm_before", "burst.all_results"]


def invoke(*arguments, **options):
    return mayfly("bench", "invoke", "--state", STATE, *arguments, **options)


def invocations_are_measured_and_drawn():
    need_kvm()
    file, plot = os.path.join(work, "i.json"), os.path.join(work, "i.svg")
    drawn, wrk = shutil.which("gnuplot") is not None, shutil.which("wrk") is not None
    done = invoke("--count", "3", "--seconds", "3" if wrk else "0", "--functions", "10", "--burst", "2",
                  "--bursts", "1", "--json", file, *(["--plot", plot] if drawn else []))
    assert done.returncode == 0, done.stderr
    with open(file, encoding="utf-8") as stream:
        result = json.load(stream)
    figures = {f["name"]: f for f in result["figures"]}
    for name in INVOKE_TIMES + (["dry.signed", "dry.unsigned"] if wrk else []) + ["rss", "rss.10"]:
        figure = figures[name]
        assert 0 < figure["p50"] <= figure["p99"] <= figure["max"], figure
        assert name in done.stdout, done.stdout
    assert "get.1000" not in figures
    # The parts of an invocation are parts of it.
    assert figures["warm.host"]["p50"] < figures["warm.total"]["p50"]
    assert figures["restored.host"]["p50"] < figures["restored.total"]["p50"]
    asked = {limit["what"]: limit for limit in result["limits"]}
    assert any(what.startswith("warm p99 beside a burst") for what in asked), asked
    if drawn:
        root = xml.etree.ElementTree.parse(plot).getroot()
        assert root.tag.endswith("svg") and "warm, without the guest" in "".join(root.itertext())
    assert not [name for name in os.listdir(STATE) if name.startswith("bench-")], "it left its state"


def wrk_is_asked_for_at_once():
    done = invoke("--seconds", "1", timeout=60, env={"PATH": os.path.join(work, "empty")})
    assert done.returncode == 3 and "apt-get install wrk" in done.stderr, done.stderr


def what_cannot_be_written_is_said_at_once():
    done = bench("--json", os.path.join(work, "none", "f.json"), timeout=60)
    assert done.returncode == 3 and "none/f.json" in done.stderr, done.stderr
    done = bench("--plot", os.path.join(work, "f.svg"), timeout=60,
                 env={"PATH": os.path.join(work, "empty")})
    assert done.returncode == 3 and "gnuplot-nox" in done.stderr, done.stderr


def too_many_clones_for_the_limits_are_refused():
    need_kvm()
    done = bench("--count", "1", "--boots", "0", "--parallel", "0", "--alive", "1000",
                 preexec_fn=limit_files)
    assert done.returncode == 3 and "open files" in done.stderr, done.stderr


def limit_files():
    import resource  # pylint: disable=import-outside-toplevel
    resource.setrlimit(resource.RLIMIT_NOFILE, (512, 512))


def nothing_is_left_behind():
    if not os.path.isdir(os.path.join(STATE, "run")):
        raise Skip("nothing has run")
    assert harness.monitors_of(STATE) == set(), "monitors still run"


if __name__ == "__main__":
    try:
        suite.main(after=[everything_is_measured_and_drawn, json_alone_on_stdout,
                          invocations_are_measured_and_drawn, wrk_is_asked_for_at_once,
                          what_cannot_be_written_is_said_at_once,
                          too_many_clones_for_the_limits_are_refused, nothing_is_left_behind])
    finally:
        shutil.rmtree(work, ignore_errors=True)
