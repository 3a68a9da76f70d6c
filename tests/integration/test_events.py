#!/usr/bin/env python3
"""Asynchronous invocations of a real daemon: destinations, dead letters, retries, ages, and kill -9.

A function with a reserved concurrency of 0 never runs: its events end at once, at the on-failure
destination. So most of this needs no guest, and works on hosts without /dev/kvm, too.
"""

import atexit
import base64
import http.client
import http.server
import json
import os
import random
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections import Counter

import harness
from daemon import Daemon, make_zip, work
from harness import STATE, Skip, need_kvm

suite = harness.Suite("events")
PATIENCE_S = 900
QUICK = "events: {running: 2, retry_base_ms: 200, throttle_base_ms: 100, delivery_base_ms: 20}\n"
ALLOW = "destinations: {allow: [127.0.0.1/32]}\n"

APP = """
def handler(event, context):
    if event.get("raise"):
        raise ValueError("no luck with " + str(event["n"]))
    return {"n": event.get("n"), "of": event.get("requestContext", {}).get("requestId")}
"""


# --- helpers --------------------------------------------------------------------------------------

begun = []


def begin(name, **options):
    begun.append(Daemon(name, **options))
    return begun[-1]


def end_all():
    """What a case that failed left behind."""
    for daemon in begun:
        if daemon.process.poll() is None:
            daemon.process.kill()

class UnixConnection(http.client.HTTPConnection):
    """To the daemon's Unix socket: no signature, and none of the AWS CLI's seconds."""

    def __init__(self, path):
        super().__init__("localhost", timeout=60)
        self.path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(60)
        self.sock.connect(self.path)


def ask(daemon, method, path, body=None, **headers):
    connection = UnixConnection(os.path.join(daemon.state, "mayflyd.sock"))
    try:
        connection.request(method, path, body, headers)
        answer = connection.getresponse()
        return answer.status, answer.headers, answer.read()
    finally:
        connection.close()


def send_event(daemon, name, event, **headers):
    """The request id of an event that was accepted."""
    status, answer, body = ask(daemon, "POST", f"/2015-03-31/functions/{name}/invocations",
                               json.dumps(event), **{"X-Amz-Invocation-Type": "Event", **headers})
    assert status == 202, (status, body)
    return answer["x-amzn-RequestId"]


def configure(daemon, name, **config):
    """@config: OnSuccess, OnFailure, and members of the request as they are."""
    destinations = {k: {"Destination": config.pop(k)} for k in ("OnSuccess", "OnFailure") if k in config}
    status, _, body = ask(daemon, "PUT", f"/2019-09-25/functions/{name}/event-invoke-config",
                          json.dumps({**config, "DestinationConfig": destinations}))
    assert status == 200, body


def lines_of(daemon, name, tenant="default"):
    """The whole lines of a spool: each must be JSON, whatever was killed meanwhile."""
    try:
        with open(os.path.join(daemon.state, "spool", tenant, name + ".jsonl"), encoding="utf-8") as file:
            return [json.loads(line) for line in file.read().split("\n")[:-1]]
    except FileNotFoundError:
        return []


def wait_for(what, truth, daemon=None):
    until = time.monotonic() + PATIENCE_S
    while time.monotonic() < until:
        value = truth()
        if value:
            return value
        time.sleep(0.05)
    raise AssertionError(f"{what}: not within {PATIENCE_S} s ({daemon and daemon.process.poll()})")


def ids_of(records):
    return Counter(record["requestContext"]["requestId"] for record in records)


def create(daemon, name, dead_letter=None):
    archive = make_zip(os.path.join(work, f"{os.path.basename(daemon.state)}-{name}.zip"))
    with open(archive, "rb") as file:
        code = base64.b64encode(file.read()).decode()
    function = {"FunctionName": name, "Runtime": "python3.11", "Handler": "app.handler",
                "Role": "arn:aws:iam::000000000000:role/r", "Code": {"ZipFile": code}}
    if dead_letter:
        function["DeadLetterConfig"] = {"TargetArn": dead_letter}
    status, _, body = ask(daemon, "POST", "/2015-03-31/functions", json.dumps(function))
    assert status == 201, body


def never_runs(daemon, name, dead_letter=None):
    create(daemon, name, dead_letter)
    status, _, body = ask(daemon, "PUT", f"/2017-10-31/functions/{name}/concurrency",
                          '{"ReservedConcurrentExecutions": 0}')
    assert status == 200, body


class Endpoint:
    """An HTTP endpoint of the test, which keeps what is posted."""

    def __init__(self, fails=0, context=None):
        self.posts, self.fails, self.lock = [], fails, threading.Lock()
        endpoint = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self):  # pylint: disable=invalid-name
                body = self.rfile.read(int(self.headers["Content-Length"]))
                with endpoint.lock:
                    endpoint.fails -= 1
                    status = 200 if endpoint.fails < 0 else 503
                    if status == 200:
                        endpoint.posts.append((dict(self.headers), body))
                self.send_response(status)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        if context:
            self.server.socket = context.wrap_socket(self.server.socket, server_side=True)
        self.port = self.server.server_address[1]
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self):
        self.server.shutdown()
        self.server.server_close()


# --- without guests -------------------------------------------------------------------------------

@suite.case
def targets_through_the_aws_cli():
    daemon = begin("targets", images=False)
    daemon.deploy("f")
    put = ("put-function-event-invoke-config", "--function-name", "f", "--destination-config")
    arn = "arn:aws:lambda:us-east-1:000000000000:function:f"
    long_url = "https://example.com/" + "x" * 330  # Lambda's maximum: 350
    for number, target in enumerate(("file:good", "http://example.com:8080/hook?a=b", arn, long_url)):
        made = daemon.aws(*put, json.dumps({"OnSuccess": {"Destination": target}}))
        assert made["DestinationConfig"]["OnSuccess"]["Destination"] == target, made
        made = daemon.deploy(f"f{number}", "--dead-letter-config", "TargetArn=" + target)
        assert made["DeadLetterConfig"]["TargetArn"] == target, made
    for target in ("file:../x", "ftp://example.com/", "http://a:b@example.com/", "http://example.com:25/",
                   "arn:aws:sqs:us-east-1:000000000000:q", "http://", "x" * 600):
        daemon.aws(*put, json.dumps({"OnFailure": {"Destination": target}}),
                   fails="InvalidParameterValueException")
    make_zip(os.path.join(work, "bad.zip"))
    daemon.aws("create-function", "--function-name", "bad", "--runtime", "python3.11", "--handler",
               "app.handler", "--role", "arn:aws:iam::000000000000:role/r", "--zip-file", "fileb://bad.zip",
               "--dead-letter-config", "TargetArn=file:/etc/passwd", fails="InvalidParameterValueException")
    assert daemon.stop() == 0


@suite.case
def ages():
    """A function that stays Pending (there is no image): its events grow old."""
    daemon = begin("ages", images=False, config=QUICK)
    create(daemon, "f", "file:dead")
    configure(daemon, "f", MaximumEventAgeInSeconds=60, OnFailure="file:old")
    began = time.monotonic()
    sent = send_event(daemon, "f", {"n": 1})
    records = wait_for("an old event's record", lambda: lines_of(daemon, "old"), daemon)
    assert time.monotonic() - began >= 59
    assert records[0]["requestContext"] == {
        "requestId": sent, "functionArn": "arn:aws:lambda:us-east-1:000000000000:function:f:$LATEST",
        "condition": "EventAgeExceeded", "approximateInvokeCount": 0}, records
    assert records[0]["requestPayload"] == {"n": 1} and "responseContext" not in records[0]
    letters = wait_for("its dead letter", lambda: lines_of(daemon, "dead"), daemon)
    assert letters[0]["Body"] == {"n": 1} and letters[0]["MessageAttributes"]["RequestID"] == sent
    # Deleted with events that wait: they go, the daemon does not mind.
    send_event(daemon, "f", {})
    assert ask(daemon, "DELETE", "/2015-03-31/functions/f")[0] == 204
    status, _, _ = ask(daemon, "POST", "/2015-03-31/functions/f/invocations", "{}",
                       **{"X-Amz-Invocation-Type": "Event"})
    assert status == 404
    assert daemon.stop() == 0


@suite.case
def a_full_queue():
    daemon = begin("full", images=False, config="events: {max_tenant_events: 3}\n")
    create(daemon, "f")
    for n in range(3):
        send_event(daemon, "f", {"n": n})
    daemon.aws("invoke", "--function-name", "f", "--invocation-type", "Event", "out",
               fails="TooManyRequestsException")
    # What makes room lets others in.
    assert ask(daemon, "DELETE", "/2015-03-31/functions/f")[0] == 204
    create(daemon, "g")
    send_event(daemon, "g", {})
    assert daemon.stop() == 0


@suite.case
def dead_letters_to_an_endpoint():
    daemon, endpoint = begin("letters", images=False, config=QUICK + ALLOW), Endpoint(fails=2)
    never_runs(daemon, "f", f"http://127.0.0.1:{endpoint.port}/dead")
    configure(daemon, "f", OnFailure=f"http://127.0.0.1:{endpoint.port}/failed")
    sent = send_event(daemon, "f", {"n": 7})
    wait_for("two posts", lambda: len(endpoint.posts) == 2, daemon)
    letter = next((h, b) for h, b in endpoint.posts if "RequestID" in h)
    record = next(json.loads(b) for h, b in endpoint.posts if "RequestID" not in h)
    assert json.loads(letter[1]) == {"n": 7} and letter[0]["RequestID"] == sent, letter
    assert letter[0]["ErrorCode"] == "429" and "concurrency is 0" in letter[0]["ErrorMessage"], letter
    assert record["requestContext"]["condition"] == "RetriesExhausted", record
    assert record["requestPayload"] == {"n": 7} and record["version"] == "1.0", record
    assert daemon.stop() == 0
    assert not any("dropped" in line for line in daemon.lines), daemon.lines
    endpoint.close()


@suite.case
def no_way_in():
    """Tenants' endpoints are not the host's: loopback by any name, metadata, the API itself."""
    daemon, endpoint = begin("ssrf", images=False, config=QUICK), Endpoint()
    ways = [f"http://127.0.0.1:{endpoint.port}/", f"http://localhost:{endpoint.port}/",
            f"http://2130706433:{endpoint.port}/", f"http://[::ffff:127.0.0.1]:{endpoint.port}/",
            f"http://0x7f.1:{daemon.port}/", "http://169.254.169.254/latest/meta-data/",
            "http://10.0.0.1/"]
    for number, url in enumerate(ways):
        never_runs(daemon, f"f{number}")
        configure(daemon, f"f{number}", OnFailure=url)
        send_event(daemon, f"f{number}", {})
    wait_for("an empty queue", lambda: queue_is_empty(daemon), daemon)
    counted = ask(daemon, "GET", "/metrics")[2].decode()
    assert f"\nmayfly_queue_dropped_total {len(ways)}\n" in counted, counted
    assert daemon.stop() == 0
    dropped = [line for line in daemon.lines if "dropped" in line]
    assert all(any(url in line for line in dropped) for url in ways), daemon.lines
    assert all("must not be reached" in line and "destinations.allow" in line for line in dropped), dropped
    assert not endpoint.posts
    endpoint.close()


@suite.case
def tls_is_verified():
    place = os.path.join(work, "tls")
    os.makedirs(place, exist_ok=True)
    certificate, key = os.path.join(place, "cert.pem"), os.path.join(place, "key.pem")
    if not shutil.which("openssl"):
        raise Skip("no openssl")
    subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256",
                    "-nodes", "-keyout", key, "-out", certificate, "-days", "2", "-subj", "/CN=localhost",
                    "-addext", "subjectAltName=DNS:localhost"], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    endpoint = Endpoint(context=context)
    trusting = begin("trusting", images=False, config=QUICK + "destinations: {allow: [127.0.0.1, '::1'], "
                      f"ca: {certificate}}}\n")
    doubting = begin("doubting", images=False, config=QUICK + ALLOW)
    by_name, by_address = (f"https://{host}:{endpoint.port}/" for host in ("localhost", "127.0.0.1"))
    for daemon, name, url in ((doubting, "f", by_name), (trusting, "f", by_name), (trusting, "g", by_address)):
        never_runs(daemon, name)
        configure(daemon, name, OnFailure=url)
        send_event(daemon, name, {"n": name})
    wait_for("a post", lambda: endpoint.posts, trusting)
    assert json.loads(endpoint.posts[0][1])["requestPayload"] == {"n": "f"}
    # Neither a certificate that nobody vouches for, nor another name's.
    for daemon in (trusting, doubting):
        wait_for("an empty queue", lambda d=daemon: queue_is_empty(d), daemon)
        assert daemon.stop() == 0
        dropped = [line for line in daemon.lines if "dropped after 5 attempts" in line]
        assert len(dropped) == 1 and "certificate" in dropped[0], daemon.lines
    assert len(endpoint.posts) == 1, endpoint.posts
    endpoint.close()


# --- kill -9 --------------------------------------------------------------------------------------

def send_until_killed(daemon, accepted, unknown, pause_s):
    """Sends events until the daemon is gone."""
    while True:
        try:
            accepted.append(send_event(daemon, "f", {"n": len(accepted)}))
        except (OSError, http.client.HTTPException):
            unknown.append(1)  # perhaps accepted, but nobody was told
            return
        time.sleep(pause_s)


def kill_again_and_again(daemon, kills, spool, pause_s, most_s):
    """What was accepted and the records of it, at the end."""
    seed = random.randrange(1 << 30)
    chance = random.Random(seed)
    accepted, unknown = [], []
    for _ in range(kills):
        senders = [threading.Thread(target=send_until_killed, args=(daemon, accepted, unknown, pause_s))
                   for _ in range(2)]
        for sender in senders:
            sender.start()
        time.sleep(chance.uniform(0.02, most_s))
        daemon.stop(signal.SIGKILL)
        for sender in senders:
            sender.join()
        daemon.start()
    wait_for("all records", lambda: set(accepted) <= set(ids_of(lines_of(daemon, spool))), daemon)
    # What nobody was told of comes, too; then nothing more.
    wait_for("an empty queue", lambda: queue_is_empty(daemon), daemon)
    records = ids_of(lines_of(daemon, spool))
    again = sum(records.values()) - len(records)
    print(f"  seed {seed}: {kills} kills, {len(accepted)} accepted, {len(records)} with a record, "
          f"{again} records more than once, one at most {max(records.values())} times", flush=True)
    assert accepted and set(accepted) <= set(records), set(accepted) - set(records)
    assert len(set(records) - set(accepted)) <= len(unknown), records
    return records, again


def queue_is_empty(daemon):
    done = subprocess.run([sys.executable, "-c", "import sqlite3, sys; c = sqlite3.connect("
                           "'file:' + sys.argv[1] + '?mode=ro', uri=True); print(sum(c.execute("
                           "'SELECT count(*) FROM ' + t).fetchone()[0] for t in ('events', 'deliveries')))",
                           os.path.join(daemon.state, "mayfly.db")], capture_output=True, text=True,
                          check=True, timeout=60)
    return done.stdout.strip() == "0"


@suite.case
def kills_without_guests():
    """Every event is claimed, ended, and its record written to the spool: all that needs no guest."""
    kills = int(os.environ.get("MAYFLY_KILLS", "12"))
    daemon = begin("kills", images=False, config=QUICK)
    never_runs(daemon, "f")
    configure(daemon, "f", OnFailure="file:ends")
    records, again = kill_again_and_again(daemon, kills, "ends", 0.001, 0.6)
    # Each kill may repeat what was being sent: a record for each of the sender's threads.
    assert again <= kills * 16 and max(records.values()) <= kills + 1, records.most_common(3)
    assert daemon.stop() == 0


# --- with guests ----------------------------------------------------------------------------------

def guest_daemon(name, config):
    """Its state has what snapshots of runtimes there are already: no guest boots, if possible."""
    need_kvm()
    state, there = os.path.join(work, name), os.path.join(STATE, "snapshots")
    os.makedirs(state, exist_ok=True)
    if os.path.isdir(there):
        shutil.copytree(there, os.path.join(state, "snapshots"), symlinks=True,
                        ignore=shutil.ignore_patterns("cache"))
    return begin(name, config=config)


def deploy_guest(daemon, name, *more):
    daemon.deploy(name, *more, "--timeout", "20", source=APP)
    state = daemon.wait_active(name)
    assert state["State"] == "Active", (state, daemon.lines)


@suite.case
def retries_and_destinations_with_guests():
    daemon = guest_daemon("retries", QUICK)
    deploy_guest(daemon, "f", "--dead-letter-config", "TargetArn=file:letters")
    deploy_guest(daemon, "next")
    configure(daemon, "f", OnFailure="file:failed", MaximumRetryAttempts=2,
              OnSuccess="arn:aws:lambda:us-east-1:000000000000:function:next")
    configure(daemon, "next", OnSuccess="file:passed-on")
    failing, fine = send_event(daemon, "f", {"raise": True, "n": 5}), send_event(daemon, "f", {"n": 6})
    record = wait_for("the record of a failure", lambda: lines_of(daemon, "failed"), daemon)[0]
    assert record["requestContext"]["requestId"] == failing, record
    assert record["requestContext"]["condition"] == "RetriesExhausted", record
    assert record["requestContext"]["approximateInvokeCount"] == 3, record
    assert record["responseContext"] == {"statusCode": 200, "executedVersion": "$LATEST",
                                         "functionError": "Unhandled"}, record
    assert record["responsePayload"]["errorMessage"] == "no luck with 5", record
    letter = wait_for("the dead letter", lambda: lines_of(daemon, "letters"), daemon)[0]
    assert letter["MessageAttributes"] == {"RequestID": failing, "ErrorCode": "200",
                                           "ErrorMessage": "no luck with 5"}, letter
    passed = wait_for("the next function's record", lambda: lines_of(daemon, "passed-on"), daemon)[0]
    assert passed["responsePayload"]["of"] == fine, passed
    assert passed["requestPayload"]["responsePayload"] == {"n": 6, "of": None}, passed
    assert daemon.stop() == 0


@suite.case
def kills_with_guests():
    kills = int(os.environ.get("MAYFLY_GUEST_KILLS", "5"))
    daemon = guest_daemon("guestkills", QUICK)
    deploy_guest(daemon, "f")
    configure(daemon, "f", OnSuccess="file:ran", OnFailure="file:failed")
    records, again = kill_again_and_again(daemon, kills, "ran", 0.25, 3)
    assert not lines_of(daemon, "failed"), lines_of(daemon, "failed")[:2]
    # Each kill may repeat what ran (two at once) and what was being sent.
    assert again <= kills * (2 + 16) and max(records.values()) <= kills + 1, records.most_common(3)
    assert daemon.stop() == 0
    assert not harness.monitors_of(daemon.state)


if __name__ == "__main__":
    atexit.register(end_all)
    suite.main()
