#!/usr/bin/env python3
"""What mayflyd shows: logs that can be followed, metrics, traces at a collector, health."""

import http.client
import http.server
import json
import os
import re
import signal
import socket
import threading
import time

import harness
from daemon import PATIENCE_S, Daemon, raw, work
from harness import need_kvm

suite = harness.Suite("observe")

PRINTING = """
import os, sys, time
def handler(event, context):
    print("says", event.get("word", ""))
    sys.stderr.buffer.write(b"raw \\xff\\x1b[31m\\n")
    sys.stderr.flush()
    if "sleep" in event:
        time.sleep(event["sleep"])
    if "raise" in event:
        raise ValueError(event["raise"])
    return {"trace": os.environ.get("_X_AMZN_TRACE_ID", "")}
"""


class SocketConnection(http.client.HTTPConnection):
    """HTTP over the daemon's Unix socket."""

    def __init__(self, path):
        super().__init__("localhost", timeout=PATIENCE_S)
        self.path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(PATIENCE_S)
        self.sock.connect(self.path)


def ask(daemon, method, target, body=None, **headers):
    """Status, headers and body of a request over the Unix socket."""
    connection = SocketConnection(os.path.join(daemon.state, "mayflyd.sock"))
    connection.request(method, target, body, {name.replace("_", "-"): value
                                              for name, value in headers.items()})
    reply = connection.getresponse()
    answer = reply.status, reply.headers, reply.read()
    connection.close()
    return answer


def invoke(daemon, name, event, **headers):
    return ask(daemon, "POST", f"/2015-03-31/functions/{name}/invocations", json.dumps(event),
               **headers)


def metrics(daemon):
    """Each series of /metrics with its value."""
    status, _, text = ask(daemon, "GET", "/metrics")
    assert status == 200, text
    series = {}
    for line in text.decode().splitlines():
        if not line.startswith("#"):
            name, _, value = line.rpartition(" ")
            assert name not in series, line
            series[name] = float(value)
    return series


def logs(daemon, name, query=""):
    status, _, text = ask(daemon, "GET", f"/mayfly/v1/functions/{name}/logs{query}")
    assert status == 200, (status, text)
    lines = [json.loads(line) for line in text.splitlines()]
    for line in lines:
        assert sorted(line) == ["instance", "message", "request_id", "stream", "time", "version"], line
    return lines


def until(condition, what):
    """Waits for @condition to give something."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        found = condition()
        if found:
            return found
        time.sleep(0.05)
    raise AssertionError(f"never: {what}")


class Collector(http.server.BaseHTTPRequestHandler):
    """An OpenTelemetry collector, of which only the ears are there."""

    spans = []
    lock = threading.Lock()

    def do_POST(self):  # pylint: disable=invalid-name
        message = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        assert self.path == "/v1/traces" and self.headers["Content-Type"] == "application/json"
        with Collector.lock:
            for resource in message["resourceSpans"]:
                assert {"key": "service.name", "value": {"stringValue": "mayflyd"}} in \
                    resource["resource"]["attributes"]
                for scope in resource["scopeSpans"]:
                    Collector.spans += scope["spans"]
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, *arguments):
        pass


def spans_of(trace, at_least):
    """The spans of a trace by name, when so many are there."""
    def found():
        with Collector.lock:
            spans = [span for span in Collector.spans if span["traceId"] == trace]
        return spans if len(spans) >= at_least else None
    return {span["name"]: span for span in until(found, f"{at_least} spans of {trace}")}


@suite.case
def operators_without_guests():
    log = os.path.join(work, "observe.log")
    daemon = Daemon("observe-plain", images=False,
                    config=f"log: {{level: info, file: {log}}}\n", log=log)
    status, _, body = ask(daemon, "GET", "/healthz")
    assert (status, json.loads(body)) == (200, {"status": "alive"})
    status, _, body = ask(daemon, "GET", "/readyz")
    ready = json.loads(body)
    assert status == 503 and not ready["ready"] and any("images" in why for why in ready["reasons"]), ready
    # Of all tenants only on the socket.
    assert b" 403 " in raw(daemon.port, b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n")
    series = metrics(daemon)
    assert series["mayfly_memory_available_bytes"] > 0 and series["process_resident_memory_bytes"] > 0
    assert series['mayfly_http_requests_total{class="4xx"}'] == 1, series
    status, headers, _ = ask(daemon, "GET", "/mayfly/v1/functions/f/logs")
    assert status == 404 and headers["x-amzn-ErrorType"] == "ResourceNotFoundException"
    # Moved away, as logrotate does.
    os.rename(log, log + ".1")
    daemon.process.send_signal(signal.SIGHUP)
    until(lambda: os.path.exists(log), "the log opened anew")
    assert daemon.stop() == 0
    assert '"message":"ending"' in open(log, encoding="utf-8").read()
    assert "ready:" in open(log + ".1", encoding="utf-8").read()


@suite.case
def open_metrics():
    daemon = Daemon("observe-open", images=False, config="metrics: open\n")
    answer = raw(daemon.port, b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    assert b" 200 " in answer, answer
    assert daemon.stop() == 0


def check_logs(daemon):
    """Lambda's lines around what is printed; hostile bytes cleaned."""
    follower = SocketConnection(os.path.join(daemon.state, "mayflyd.sock"))
    follower.request("GET", "/mayfly/v1/functions/f/logs?follow=true")
    stream = follower.getresponse()
    assert stream.status == 200
    status, headers, _ = invoke(daemon, "f", {"word": "hello"})
    request_id = headers["x-amzn-RequestId"]
    assert status == 200
    seen = []
    while not (seen and seen[-1]["message"].startswith(f"REPORT RequestId: {request_id}")):
        line = stream.readline()
        assert line, seen
        if line.strip():
            seen.append(json.loads(line))
    ours = [line for line in seen if line["request_id"] == request_id]
    messages = [(line["stream"], line["message"]) for line in ours]
    assert messages[0] == ("platform", f"START RequestId: {request_id} Version: $LATEST"), messages
    assert ("stdout", "says hello") in messages and ("stderr", "raw \ufffd\x1b[31m") in messages, messages
    assert messages[-2] == ("platform", f"END RequestId: {request_id}"), messages
    assert re.fullmatch(
        rf"REPORT RequestId: {request_id}\tDuration: \d+\.\d\d ms\tBilled Duration: \d+ ms\t"
        r"Memory Size: 128 MB\tMax Memory Used: \d+ MB(\tRestore Duration: \d+\.\d\d ms"
        r"\tBilled Restore Duration: \d+ ms|\tInit Duration: \d+\.\d\d ms)?\t(\n.*)?",
        messages[-1][1]), messages
    assert all(re.fullmatch(r"[0-9a-f]{16}", line["instance"]) for line in ours[1:]), ours
    until(lambda: logs(daemon, "f", f"?request_id={request_id}") == ours, "the same lines, read")
    assert len(logs(daemon, "f", "?since=1h&limit=2")) == 2
    follower.close()
    # And as CloudWatch Logs has them, for the tools that read them there.
    events = daemon.aws("filter-log-events", "--log-group-name", "/aws/lambda/f", "--filter-pattern",
                        f'"{request_id}"', "--start-time", "1000", service="logs")["events"]
    assert [event["message"].split()[0] for event in events] == ["START", "END", "REPORT"], events
    daemon.aws("filter-log-events", "--log-group-name", "/aws/lambda/g", service="logs",
               fails="ResourceNotFoundException")
    # A timeout says so.
    _, headers, _ = invoke(daemon, "f", {"sleep": 60})
    request_id = headers["x-amzn-RequestId"]
    late = until(lambda: [line for line in logs(daemon, "f", f"?request_id={request_id}")
                          if "REPORT" in line["message"]] and
                 logs(daemon, "f", f"?request_id={request_id}"), "the log of a timeout")
    assert any("Task timed out after 20.00 seconds" in line["message"] for line in late), late
    assert "Status: timeout" in late[-1]["message"], late


def check_metrics(daemon):
    before = metrics(daemon)
    invoke(daemon, "f", {})
    invoke(daemon, "f", {"raise": "no"})
    after = metrics(daemon)
    labels = 'tenant="default",function="f"'

    def grown(name):
        return after.get(name, 0) - before.get(name, 0)
    assert grown(f'mayfly_invocations_total{{{labels},kind="ok"}}') == 1, after
    assert grown(f'mayfly_invocations_total{{{labels},kind="function_error"}}') == 1, after
    assert grown(f"mayfly_duration_seconds_count{{{labels}}}") == 2, after
    assert sum(grown(f'mayfly_starts_total{{{labels},kind="{kind}"}}')
               for kind in ("warm", "restored", "cold")) == 2, after
    assert grown('mayfly_gb_seconds_total{tenant="default"}') > 0
    assert grown('mayfly_http_requests_total{class="2xx"}') >= 2
    assert after[f"mayfly_concurrency{{{labels}}}"] == 0
    assert after['mayfly_builds_total{result="ok"}'] == 1, after
    assert after["mayfly_instances_memory_bytes"] > 1 << 20, after
    assert after['mayfly_instances{state="idle"}'] >= 1, after
    daemon.aws("put-function-concurrency", "--function-name", "f", "--reserved-concurrent-executions", "0")
    assert invoke(daemon, "f", {})[0] == 429
    daemon.aws("delete-function-concurrency", "--function-name", "f")
    assert metrics(daemon)[f'mayfly_throttles_total{{{labels},reason="function"}}'] == 1


def check_traces(daemon):
    root, caller = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
    status, headers, body = invoke(daemon, "f", {}, traceparent=f"00-{root}-{caller}-01")
    told = json.loads(body)["trace"]
    assert status == 200 and headers["traceparent"] == f"00-{root}-{caller}-01"
    assert headers["X-Amzn-Trace-Id"] == \
        f"Root=1-{root[:8]}-{root[8:]};Parent={caller};Sampled=1", headers["X-Amzn-Trace-Id"]
    spans = spans_of(root, 3)
    assert spans["f"]["parentSpanId"] == caller and spans["f"]["kind"] == 2, spans
    assert spans["run"]["parentSpanId"] == spans["f"]["spanId"] == spans["acquire"]["parentSpanId"]
    assert told == f"Root=1-{root[:8]}-{root[8:]};Parent={spans['run']['spanId']};Sampled=1", told
    request_id = {"key": "faas.invocation_id", "value": {"stringValue": headers["x-amzn-RequestId"]}}
    assert request_id in spans["f"]["attributes"], spans["f"]
    for name in ("acquire", "run"):
        assert int(spans["f"]["startTimeUnixNano"]) <= int(spans[name]["startTimeUnixNano"]) <= \
            int(spans[name]["endTimeUnixNano"]) <= int(spans["f"]["endTimeUnixNano"]), spans
    # Asynchronous: what came with the event is there when it runs.
    status, _, _ = invoke(daemon, "f", {}, X_Amz_Invocation_Type="Event",
                          X_Amzn_Trace_Id=f"Root=1-5759e988-bd862e3fe1be46a994272793;Parent={caller};Sampled=1")
    assert status == 202
    assert spans_of("5759e988bd862e3fe1be46a994272793", 3)["f"]["parentSpanId"] == caller
    # Not sampled: no spans. Nonsense: another trace, and no error.
    other = "5759e98800000000000000000000000f"
    invoke(daemon, "f", {}, X_Amzn_Trace_Id=f"Root=1-{other[:8]}-{other[8:]};Sampled=0")
    for nonsense in ("Root=1", "\xff\xfe", "x" * 3000, "Root=1-5759e988-zd862e3fe1be46a994272793"):
        status, headers, body = invoke(daemon, "f", {}, X_Amzn_Trace_Id=nonsense)
        assert status == 200, (nonsense, body)
        trace = headers["X-Amzn-Trace-Id"]
        assert re.fullmatch(r"Root=1-[0-9a-f]{8}-[0-9a-f]{24};Sampled=1", trace), trace
        assert json.loads(body)["trace"].startswith(trace.split(";")[0] + ";Parent="), body
    spans_of(trace.split(";")[0][7:].replace("-", ""), 3)
    assert not [span for span in Collector.spans if span["traceId"] == other]


@suite.case
def with_guests():
    need_kvm()
    collector = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Collector)
    threading.Thread(target=collector.serve_forever, daemon=True).start()
    endpoint = f"http://127.0.0.1:{collector.server_address[1]}"
    daemon = Daemon("observe-guests", snapshots=True, config=f"otlp: {{endpoint: \"{endpoint}\"}}\n")
    daemon.deploy("f", "--timeout", "20", source=PRINTING)
    state = daemon.wait_active("f")
    assert state["State"] == "Active", (state, daemon.lines)
    status, _, body = ask(daemon, "GET", "/readyz")
    assert (status, json.loads(body)) == (200, {"ready": True, "reasons": []}), body
    check_logs(daemon)
    check_metrics(daemon)
    check_traces(daemon)
    follower = SocketConnection(os.path.join(daemon.state, "mayflyd.sock"))
    follower.request("GET", "/mayfly/v1/functions/f/logs?follow=true")
    follower.getresponse()
    assert daemon.stop() == 0  # who follows does not hold it up
    collector.shutdown()
    ran = [json.loads(line) for line in daemon.lines if '"message":"invocation"' in line]
    assert len(ran) >= 8 and all(line["tenant"] == "default" and line["function"] == "f" for line in ran)
    assert {line["status"] for line in ran} == {"ok", "timeout", "function_error"}, ran
    assert all(line["duration_ms"] > 0 and line["billed_ms"] > 0 and line["instance"] for line in ran), ran
    throttled = [json.loads(line) for line in daemon.lines if '"message":"throttled"' in line]
    assert [line["level"] for line in throttled] == ["warning"], throttled


if __name__ == "__main__":
    suite.main()
