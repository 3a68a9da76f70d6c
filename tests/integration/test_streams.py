#!/usr/bin/env python3
"""Streamed responses from real guests: parts one by one, much of it, errors, clients that go or do not read."""

import base64
import hashlib
import http.client
import io
import json
import os
import socket
import struct
import sys
import time
import zipfile

import harness
from daemon import PATIENCE_S, Daemon
from harness import need_kvm

suite = harness.Suite("streams")
TIMEOUT_S = 60

STREAMER = """
import { createHash } from 'crypto';
import { setTimeout as sleep } from 'timers/promises';
let calls = 0;

export const handler = awslambda.streamifyResponse(async (event, stream, context) => {
  const how = event.rawPath ? event.queryStringParameters?.how ?? 'http' : event.how;
  calls++;
  if (how === 'three') {
    for (const word of ['one', 'two', 'three']) { stream.write(word); await sleep(event.pause_ms ?? 1000); }
  } else if (how === 'much' || how === 'endless') {
    const hash = createHash('sha256');
    // No more than there is time for, where a copy in the guest's kernel takes seconds; unless it is to be too much.
    for (let i = 0; i < (event.mib ?? 190) * 16 && (how === 'endless' || context.getRemainingTimeInMillis() > 30000); i++) {
      const block = Buffer.alloc(1 << 16, i);
      hash.update(block);
      stream.write(block);
    }
    stream.write(hash.digest('hex'));
  } else if (how === 'raise') {
    stream.write('begun');
    throw new RangeError('mid-stream');
  } else if (how === 'http') {
    stream = awslambda.HttpResponseStream.from(stream, { statusCode: 201, headers: { 'Content-Type': 'text/x', 'X-A': 'b' }, cookies: ['c=d'] });
    for (const word of ['alpha ', 'beta ', 'gamma']) { stream.write(word); await sleep(1000); }
  } else {
    stream.write(`${calls}`);
  }
  stream.end();
});
"""

# Nothing is started between the words: where guests' kernels are emulated that takes seconds, in which
# they would all have been written.
BOOTSTRAP = """#!/bin/bash
api=http://$AWS_LAMBDA_RUNTIME_API/2018-06-01/runtime/invocation
headers=/tmp/headers
while :; do
  curl -sS -D "$headers" -o /dev/null "$api/next"
  id=$(grep -i lambda-runtime-aws-request-id "$headers" | tr -d '\\r' | cut -d' ' -f2)
  exec 3<>"/dev/tcp/${AWS_LAMBDA_RUNTIME_API/://}"
  printf 'POST /2018-06-01/runtime/invocation/%s/response HTTP/1.1\\r\\nHost: x\\r\\n' "$id" >&3
  printf 'Lambda-Runtime-Function-Response-Mode: streaming\\r\\nContent-Type: text/plain\\r\\n' >&3
  printf 'Transfer-Encoding: chunked\\r\\n\\r\\n' >&3
  for word in one two three; do
    printf '%x\\r\\n%s\\n\\r\\n' $((${#word} + 1)) $word >&3
    read -r -t 1 -u 3
  done
  printf '0\\r\\n\\r\\n' >&3
  read -r -u 3
  exec 3>&-
done
"""


class UnixConnection(http.client.HTTPConnection):
    def __init__(self, path):
        super().__init__("localhost", timeout=PATIENCE_S)
        self.path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self.path)


def ask(daemon, method, path, body=None):
    """One request of the API; its status and JSON."""
    connection = UnixConnection(os.path.join(daemon.state, "mayflyd.sock"))
    connection.request(method, path, json.dumps(body) if body is not None else None)
    response = connection.getresponse()
    text = response.read()
    connection.close()
    return response.status, json.loads(text) if text else None


def deploy(daemon, name, file, source, runtime, handler):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        info = zipfile.ZipInfo(file)
        info.external_attr = 0o100755 << 16
        archive.writestr(info, source)
    status, answer = ask(daemon, "POST", "/2015-03-31/functions", {
        "FunctionName": name, "Runtime": runtime, "Handler": handler, "Role": "arn:aws:iam::000000000000:role/r",
        "Timeout": TIMEOUT_S, "MemorySize": 128, "Code": {"ZipFile": base64.b64encode(buffer.getvalue()).decode()}})
    assert status == 201, answer


def wait_active(daemon, name):
    until = time.monotonic() + PATIENCE_S
    while time.monotonic() < until:
        state = ask(daemon, "GET", f"/2015-03-31/functions/{name}/configuration")[1]
        if state["State"] != "Pending":
            break
        time.sleep(1)
    assert state["State"] == "Active", state


def frames(response):
    """(seconds since the first byte was asked for, event type, payload) of each frame of an event stream."""
    began = time.monotonic()
    while True:
        head = response.read(12)
        if not head:
            return
        total, head_len = struct.unpack(">II", head[:8])
        rest = response.read(total - 12)
        headers, at = {}, 0
        while at < head_len:
            name_len = rest[at]
            name = rest[at + 1 : at + 1 + name_len].decode()
            at += 1 + name_len + 1
            (length,) = struct.unpack(">H", rest[at : at + 2])
            headers[name] = rest[at + 2 : at + 2 + length].decode()
            at += 2 + length
        yield time.monotonic() - began, headers[":event-type"], rest[head_len:-4]


def open_stream(daemon, name, event):
    connection = UnixConnection(os.path.join(daemon.state, "mayflyd.sock"))
    connection.request("POST", f"/2021-11-15/functions/{name}/response-streaming-invocations", json.dumps(event))
    response = connection.getresponse()
    assert response.status == 200, response.read()
    return connection, response


def stream(daemon, name, event):
    connection, response = open_stream(daemon, name, event)
    seen = list(frames(response))
    connection.close()
    assert seen[-1][1] == "InvokeComplete" and all(kind == "PayloadChunk" for _, kind, _ in seen[:-1]), seen[-1]
    return [(when, data) for when, _, data in seen[:-1]], json.loads(seen[-1][2])


def check_three(daemon, name):
    parts, end = stream(daemon, name, {"how": "three"})
    assert b"".join(data for _, data in parts).split() in ([b"onetwothree"], [b"one", b"two", b"three"]), parts
    assert end == {} and parts[-1][0] - parts[0][0] > 1.5, (name, parts)


def parts_arrive_one_by_one(daemon):
    check_three(daemon, "streamer")


def a_custom_runtime_streams(daemon):
    deploy(daemon, "provided", "bootstrap", BOOTSTRAP, "provided", "x")
    wait_active(daemon, "provided")
    check_three(daemon, "provided")


def twenty_megabytes_arrive_intact(daemon):
    """Or as much of them as this machine manages in half a minute."""
    parts, end = stream(daemon, "streamer", {"how": "much", "mib": 20})
    data = b"".join(part for _, part in parts)
    body, digest = data[:-64], data[-64:].decode()
    assert end == {} and 0 < len(body) <= 20 << 20, (end, len(body))
    assert hashlib.sha256(body).hexdigest() == digest, len(body)
    print(f"{len(body) / (1 << 20):.1f} MiB in {parts[-1][0] - parts[0][0]:.1f} s")


def an_error_in_mid_stream_is_told(daemon):
    parts, end = stream(daemon, "streamer", {"how": "raise"})
    assert [data for _, data in parts] == [b"begun"] and end["ErrorCode"] == "Unhandled", (parts, end)
    assert json.loads(end["ErrorDetails"])["errorType"] == "RangeError", end


def a_buffered_call_gets_it_whole(daemon):
    status, answer = ask(daemon, "POST", "/2015-03-31/functions/streamer/invocations", {})
    assert status == 200 and isinstance(answer, int), answer


def read_url(daemon, url):
    connection = http.client.HTTPConnection("127.0.0.1", daemon.port, timeout=PATIENCE_S)
    connection.request("GET", "/url/" + url["FunctionUrl"].split("/url/")[1])
    response = connection.getresponse()
    began = time.monotonic()
    assert response.status == 201 and response.getheader("X-A") == "b" and response.getheader("Set-Cookie") == "c=d"
    assert response.getheader("Content-Type") == "text/x", response.getheaders()
    first = response.read1(100)
    at_first = time.monotonic() - began
    try:
        rest = response.read()
    finally:
        connection.close()
    assert first + rest == b"alpha beta gamma" and first.startswith(b"alpha ") and len(first) < 16, (first, rest)
    assert time.monotonic() - began - at_first > 1, "all of it came at once"


def a_function_url_streams(daemon):
    status, url = ask(daemon, "POST", "/2021-10-31/functions/streamer/url", {"AuthType": "NONE", "InvokeMode": "RESPONSE_STREAM"})
    assert status == 201, url
    # Known and not explained: some seconds after an event that threw in mid-stream (the case before), the
    # runtime's process now and then ends in the middle of another event, whose client sees its stream cut.
    # guest-agent/runtimes/README.md has what was seen.
    for tries_left in (2, 1, 0):
        try:
            read_url(daemon, url)
            break
        except http.client.IncompleteRead:
            if not tries_left:
                raise
            print("a stream was cut: once more")


def a_client_that_goes_leaves_the_instance_of_use(daemon):
    connection, response = open_stream(daemon, "streamer", {"how": "much", "mib": 1})
    next(frames(response))
    connection.close()
    before = daemon.monitors()
    parts, end = stream(daemon, "streamer", {})
    assert end == {} and int(parts[0][1]) >= 1, (parts, end)
    assert before & daemon.monitors(), "no instance is left"


def a_client_that_does_not_read_is_bounded_by_the_timeout(daemon):
    status, _ = ask(daemon, "PUT", "/2015-03-31/functions/streamer/configuration", {"Timeout": 5})
    assert status == 200
    until = time.monotonic() + PATIENCE_S
    while ask(daemon, "GET", "/2015-03-31/functions/streamer/configuration")[1]["LastUpdateStatus"] == "InProgress":
        assert time.monotonic() < until
        time.sleep(1)
    connection, _ = open_stream(daemon, "streamer", {"how": "endless"})
    began = time.monotonic()
    # It is torn, not completed, when the function's time is over; until then nothing is held but buffers.
    with open(f"/proc/{daemon.process.pid}/status", encoding="ascii") as file:
        before_kib = int([line for line in file if line.startswith("VmRSS")][0].split()[1])
    connection.sock.settimeout(1)
    time.sleep(20)
    with open(f"/proc/{daemon.process.pid}/status", encoding="ascii") as file:
        after_kib = int([line for line in file if line.startswith("VmRSS")][0].split()[1])
    assert after_kib - before_kib < 16 << 10, (before_kib, after_kib)
    # Torn where the client was what held it up; with a proper end where the guest never got that far.
    total, tail, end = 0, b"", b"0\r\n\r\n"
    connection.sock.settimeout(PATIENCE_S)
    try:
        while not tail.endswith(end) and (piece := connection.sock.recv(1 << 20)):
            total, tail = total + len(piece), (tail + piece)[-len(end):]
    except ConnectionError:
        pass
    assert total < 20 << 20, total
    print(f"{total} bytes, over after {time.monotonic() - began:.0f} s")
    connection.close()
    parts, end = stream(daemon, "streamer", {})
    assert end == {} and parts, (parts, end)


def main():
    cases = [parts_arrive_one_by_one, twenty_megabytes_arrive_intact, an_error_in_mid_stream_is_told,
             a_buffered_call_gets_it_whole, a_function_url_streams, a_client_that_goes_leaves_the_instance_of_use,
             a_client_that_does_not_read_is_bounded_by_the_timeout, a_custom_runtime_streams]
    try:
        need_kvm()
    except harness.Skip as skip:
        print(f"streams: 0 passed, 0 failed, {len(cases)} skipped ({skip})")
        return
    daemon = Daemon("streams", snapshots=True)
    try:
        deploy(daemon, "streamer", "index.mjs", STREAMER, "nodejs18.x", "index.handler")
        wait_active(daemon, "streamer")

        def of(function):
            case = lambda: function(daemon)
            case.__name__ = function.__name__
            return case

        suite.main(after=[of(function) for function in cases])
    finally:
        status = daemon.stop()
        if status != 0:
            print(f"mayflyd ended with {status}:", *daemon.lines[-20:])


if __name__ == "__main__":
    sys.exit(main())
