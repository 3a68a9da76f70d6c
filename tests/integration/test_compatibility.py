#!/usr/bin/env python3
"""mayflyd against the service model that AWS's own tools are made from, by botocore itself: shapes,
statuses, pages, waiters; and a wrong type in every member of every operation."""

import base64
import copy
import http.client
import importlib
import io
import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
import zipfile

# Debian's awscli brings its own copy.
sys.path.append("/usr/lib/python3/dist-packages")
for BOTOCORE in ("botocore", "awscli.botocore", None):
    try:
        importlib.import_module((BOTOCORE or "os") + (".session" if BOTOCORE else ""))
        break
    except ImportError:
        pass

import harness
from daemon import AWS, Daemon
from harness import Skip, need_kvm

suite = harness.Suite("compatibility")
ROLE = "arn:aws:iam::000000000000:role/r"
ECHO = "def handler(event, context):\n    return event if 'rawPath' in event else {'got': event}\n"


def zipped(text=ECHO):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("app.py", text)
    return buffer.getvalue()


def part_of_botocore(name):
    if not BOTOCORE:
        raise Skip("no botocore")
    return importlib.import_module(f"{BOTOCORE}.{name}")


def session_of(daemon):
    session = part_of_botocore("session").get_session()
    with open(os.path.join(daemon.state, "credentials"), encoding="utf-8") as file:
        lines = dict(line.split(" = ") for line in file.read().splitlines() if " = " in line)
    session.set_credentials(lines["aws_access_key_id"], lines["aws_secret_access_key"])
    return session


def client_of(daemon, service="lambda", **config):
    config = part_of_botocore("config").Config(
        retries={"max_attempts": 1}, parameter_validation=False, **config)
    return session_of(daemon).create_client(
        service, region_name="eu-central-1", endpoint_url=daemon.endpoint,
        config=config)


# --- shapes -------------------------------------------------------------------------------------

# What is required by the model and left out by Lambda itself, where nothing is set up.
LEFT_OUT = {("GetFunctionCodeSigningConfigResponse", "CodeSigningConfigArn")}
PYTHON = {"string": str, "integer": int, "long": int, "boolean": bool, "map": dict, "list": list,
          "structure": dict, "double": (int, float), "float": (int, float),
          "timestamp": (int, float, str)}


def check_shape(shape, value, where, problems, is_present):
    """@value, as it came in JSON, against the model: types, required members; where the model is of
    the @is_present, unknown members and enums, too."""
    if value is None:
        return
    if shape.type_name != "blob" and (not isinstance(value, PYTHON[shape.type_name])
                                      or (shape.type_name in ("integer", "long") and value is True)):
        problems.append(f"{where}: {value!r} is no {shape.type_name}")
    elif shape.type_name == "structure":
        for name in shape.required_members:
            if name not in value and (shape.name, name) not in LEFT_OUT:
                problems.append(f"{where}: lacks '{name}'")
        for name, member in value.items():
            if name in shape.members:
                check_shape(shape.members[name], member, f"{where}.{name}", problems, is_present)
            elif is_present:
                problems.append(f"{where}: has '{name}', which the model does not know")
    elif shape.type_name == "list":
        for member in value:
            check_shape(shape.member, member, where + "[]", problems, is_present)
    elif shape.type_name == "map":
        for name, member in value.items():
            check_shape(shape.value, member, f"{where}.{name}", problems, is_present)
    elif shape.type_name == "string" and shape.metadata.get("enum"):
        if is_present and value not in shape.metadata["enum"]:
            problems.append(f"{where}: {value!r} is none of {shape.metadata['enum']}")


class Checked:
    """A client whose every answer is held against the model."""

    def __init__(self, client):
        self.client, self.problems, self.seen = client, [], set()
        model = client.meta.service_model.operation_model("CreateFunction")
        self.is_present = "LoggingConfig" in model.input_shape.members  # Debian's is of 2022
        client.meta.events.register("after-call.lambda", self.check)

    def check(self, model, http_response, **_):
        status, where = http_response.status_code, model.name
        self.seen.add(where)
        if status >= 400:
            body = json.loads(http_response.content)
            if not http_response.headers.get("x-amzn-ErrorType") or "Type" not in body:
                self.problems.append(f"{where}: {status} without its type")
            return
        wanted = model.http.get("responseCode", 200)
        if status != wanted and (where, status) not in (("DeleteFunction", 204), ("Invoke", 202),
                                                        ("Invoke", 204)):
            self.problems.append(f"{where}: {status} and not {wanted}")
        if not http_response.headers.get("x-amzn-RequestId"):
            self.problems.append(f"{where}: no x-amzn-RequestId")
        shape = model.output_shape
        if not shape or model.has_streaming_output or model.has_event_stream_output:
            return
        value = json.loads(http_response.content) if http_response.content else {}
        for name, member in shape.members.items():
            place = member.serialization.get("location")
            if place == "statusCode":
                value[name] = status
            elif place == "header" and member.serialization["name"] in http_response.headers:
                value[name] = http_response.headers[member.serialization["name"]]
        check_shape(shape, value, where, self.problems, self.is_present)

    def __call__(self, operation, fails=None, **parameters):
        method = getattr(self.client, operation)
        model = self.client.meta.service_model.operation_model(
            self.client.meta.method_to_api_mapping[operation])
        parameters = {n: v for n, v in parameters.items() if n in model.input_shape.members}
        if not fails:
            return method(**parameters)
        try:
            method(**parameters)
        except self.client.exceptions.ClientError as error:
            assert error.response["Error"]["Code"] == fails, (operation, error.response)
            assert error.response["Error"]["Message"], (operation, error.response)
            return error.response
        raise AssertionError(f"{operation} did not fail with {fails}")


def has(client, operation):
    return hasattr(client, operation)


def create(call, name, **more):
    return call("create_function", FunctionName=name, Runtime="python3.11", Role=ROLE,
                Handler="app.handler", Code={"ZipFile": zipped()}, **more)


@suite.case
def every_operation_has_its_shape():
    """Builds need guests: here they stay Pending, whatever else is as it is."""
    daemon = Daemon("shapes", images=False)
    call = Checked(client_of(daemon))
    made = create(call, "f", Description="d", Timeout=5, MemorySize=256, Tags={"a": "b"},
                  Environment={"Variables": {"AB": "c"}}, TracingConfig={"Mode": "Active"},
                  DeadLetterConfig={}, EphemeralStorage={"Size": 600}, Architectures=["x86_64"],
                  PackageType="Zip", VpcConfig={"SubnetIds": [], "SecurityGroupIds": []}, Layers=[],
                  FileSystemConfigs=[], SnapStart={"ApplyOn": "None"},
                  LoggingConfig={"LogFormat": "Text"})
    arn = made["FunctionArn"]
    create(call, "f", fails="ResourceConflictException")
    create(call, "g")
    call("get_function", FunctionName="f")
    call("get_function", FunctionName=arn)
    call("get_function", FunctionName="h", fails="ResourceNotFoundException")
    call("get_function_configuration", FunctionName="f")
    call("list_functions")
    call("list_functions", FunctionVersion="ALL")
    call("list_functions", MaxItems=0, fails="ValidationException")
    call("list_versions_by_function", FunctionName="f")
    call("create_alias", FunctionName="f", Name="live", FunctionVersion="$LATEST")
    call("get_alias", FunctionName="f", Name="live")
    call("update_alias", FunctionName="f", Name="live", Description="x")
    call("list_aliases", FunctionName="f")
    call("get_alias", FunctionName="f", Name="no", fails="ResourceNotFoundException")
    call("put_function_concurrency", FunctionName="f", ReservedConcurrentExecutions=3)
    call("get_function_concurrency", FunctionName="f")
    call("delete_function_concurrency", FunctionName="f")
    call("put_provisioned_concurrency_config", FunctionName="f", Qualifier="9",
         ProvisionedConcurrentExecutions=1, fails="ResourceNotFoundException")
    call("get_provisioned_concurrency_config", FunctionName="f", Qualifier="live",
         fails="ProvisionedConcurrencyConfigNotFoundException")
    call("list_provisioned_concurrency_configs", FunctionName="f")
    call("delete_provisioned_concurrency_config", FunctionName="f", Qualifier="9",
         fails="ResourceNotFoundException")
    call("create_function_url_config", FunctionName="f", AuthType="NONE",
         Cors={"AllowOrigins": ["*"], "MaxAge": 5, "AllowCredentials": True})
    call("get_function_url_config", FunctionName="f")
    call("update_function_url_config", FunctionName="f", AuthType="AWS_IAM")
    call("list_function_url_configs", FunctionName="f")
    call("delete_function_url_config", FunctionName="f")
    call("put_function_event_invoke_config", FunctionName="f", MaximumRetryAttempts=1,
         DestinationConfig={"OnFailure": {"Destination": arn}})
    call("get_function_event_invoke_config", FunctionName="f")
    call("update_function_event_invoke_config", FunctionName="f", MaximumEventAgeInSeconds=60)
    call("list_function_event_invoke_configs", FunctionName="f")
    call("delete_function_event_invoke_config", FunctionName="f")
    call("tag_resource", Resource=arn, Tags={"c": "d"})
    call("list_tags", Resource=arn)
    call("untag_resource", Resource=arn, TagKeys=["a", "c"])
    call("add_permission", FunctionName="f", StatementId="s", Action="lambda:InvokeFunction",
         Principal="s3.amazonaws.com", SourceArn="arn:aws:s3:::b", SourceAccount="123456789012")
    policy = json.loads(call("get_policy", FunctionName="f")["Policy"])
    assert policy["Statement"][0]["Principal"] == {"Service": "s3.amazonaws.com"}, policy
    call("remove_permission", FunctionName="f", StatementId="s")
    call("get_policy", FunctionName="f", fails="ResourceNotFoundException")
    call("get_account_settings")
    call("get_function_code_signing_config", FunctionName="f")
    call("delete_function_code_signing_config", FunctionName="f")
    call("put_function_code_signing_config", FunctionName="f", CodeSigningConfigArn="a",
         fails="InvalidParameterValueException")
    call("list_code_signing_configs")
    call("create_code_signing_config", AllowedPublishers={"SigningProfileVersionArns": ["a"]},
         fails="InvalidParameterValueException")
    if has(call.client, "get_runtime_management_config"):
        call("get_runtime_management_config", FunctionName="f")
        call("put_runtime_management_config", FunctionName="f", UpdateRuntimeOn="Auto")
    if has(call.client, "get_function_recursion_config"):
        call("get_function_recursion_config", FunctionName="f")
        call("put_function_recursion_config", FunctionName="f", RecursiveLoop="Terminate")
    call("list_event_source_mappings", FunctionName="f")
    call("create_event_source_mapping", FunctionName="f", fails="InvalidParameterValueException")
    call("get_event_source_mapping", UUID="u", fails="ResourceNotFoundException")
    call("update_event_source_mapping", UUID="u", fails="ResourceNotFoundException")
    call("delete_event_source_mapping", UUID="u", fails="ResourceNotFoundException")
    call("list_layers")
    call("list_layer_versions", LayerName="l")
    call("get_layer_version", LayerName="l", VersionNumber=1, fails="ResourceNotFoundException")
    call("get_layer_version_by_arn", Arn="arn:aws:lambda:eu-central-1:000000000000:layer:l:1",
         fails="ResourceNotFoundException")
    call("delete_layer_version", LayerName="l", VersionNumber=1)
    call("publish_layer_version", LayerName="l", Content={"ZipFile": zipped()},
         fails="InvalidParameterValueException")
    assert call("invoke", FunctionName="f", InvocationType="DryRun")["StatusCode"] == 204
    assert call("invoke", FunctionName="f", InvocationType="Event")["StatusCode"] == 202
    assert call("invoke_async", FunctionName="f", InvokeArgs=b"{}")["Status"] == 202
    call("delete_alias", FunctionName="f", Name="live")
    call("delete_function", FunctionName="f")
    call("delete_function", FunctionName="f", fails="ResourceNotFoundException")
    assert not call.problems, "\n".join(call.problems)
    assert len(call.seen) > 50, sorted(call.seen)
    assert daemon.stop() == 0


@suite.case
def pages_and_who_one_is():
    daemon = Daemon("pages", images=False)
    client = client_of(daemon)
    names = [f"f{i:03}" for i in range(57)]
    for name in names:
        create(lambda operation, **p: getattr(client, operation)(**p), name)
    pages = list(client.get_paginator("list_functions").paginate(PaginationConfig={"PageSize": 10}))
    assert [f["FunctionName"] for page in pages for f in page["Functions"]] == names
    assert len(pages) == 6 and all(len(page["Functions"]) == 10 for page in pages[:5])
    assert len(list(client.get_paginator("list_functions").paginate())) == 2  # 50 at most, as Lambda
    for i in range(12):
        client.create_alias(FunctionName="f000", Name=f"a{i:02}", FunctionVersion="$LATEST")
    for operation, key, parameters, n in (
            ("list_versions_by_function", "Versions", {"FunctionName": "f000"}, 1),
            ("list_aliases", "Aliases", {"FunctionName": "f000"}, 12),
            ("list_function_url_configs", "FunctionUrlConfigs", {"FunctionName": "f000"}, 0),
            ("list_function_event_invoke_configs", "FunctionEventInvokeConfigs",
             {"FunctionName": "f000"}, 0),
            ("list_provisioned_concurrency_configs", "ProvisionedConcurrencyConfigs",
             {"FunctionName": "f000"}, 0),
            ("list_event_source_mappings", "EventSourceMappings", {}, 0),
            ("list_layers", "Layers", {}, 0),
            ("list_layer_versions", "LayerVersions", {"LayerName": "l"}, 0),
            ("list_code_signing_configs", "CodeSigningConfigs", {}, 0)):
        found = client.get_paginator(operation).paginate(
            **parameters, PaginationConfig={"PageSize": 5}).build_full_result()
        assert len(found.get(key, [])) == n, (operation, found)
    client.get_waiter("function_exists").wait(FunctionName="f001")
    who = client_of(daemon, "sts").get_caller_identity()
    assert who["Account"] == "000000000000" and who["Arn"].endswith(":user/default"), who
    if os.access(AWS, os.X_OK):
        done = subprocess.run([AWS, "--endpoint-url", daemon.endpoint, "sts", "get-caller-identity"],
                              env=daemon.environment(), capture_output=True, check=True, timeout=300)
        assert json.loads(done.stdout)["Arn"] == who["Arn"], done
    assert daemon.stop() == 0


def get(url, **headers):
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=60) as reply:
            return reply.status, reply.read(), reply.headers
    except urllib.error.HTTPError as error:
        return error.code, error.read(), error.headers


@suite.case
def presigned():
    daemon = Daemon("presigned", images=False)
    client = client_of(daemon)
    create(lambda operation, **p: getattr(client, operation)(**p), "f")
    url = client.generate_presigned_url("get_function", Params={"FunctionName": "f"}, ExpiresIn=300)
    status, body, _ = get(url)
    assert status == 200 and json.loads(body)["Configuration"]["FunctionName"] == "f", (url, body)
    short = client.generate_presigned_url("get_function", Params={"FunctionName": "f"}, ExpiresIn=1)
    time.sleep(2.1)
    for wrong in (url.replace("functions/f", "functions/g"), url + "&a=b", url[:-1] + "x", short,
                  url.replace("X-Amz-Expires=300", "X-Amz-Expires=301")):
        status, body, headers = get(wrong)
        assert status == 403 and headers["x-amzn-ErrorType"], (wrong, status, body)
    assert daemon.stop() == 0


# --- wrong types --------------------------------------------------------------------------------

WRONG = {"string": [7, {}, []], "integer": ["x", 1.5, {}], "long": ["x", 1.5, {}],
         "boolean": ["true", 1], "structure": [7, "x", []], "map": [7, "x", []],
         "list": [7, "x", {}], "blob": [7, {}, []], "double": ["x", {}], "float": ["x", {}]}
ERRORS = {"SerializationException", "InvalidParameterValueException", "ValidationException",
          "InvalidRequestContentException"}
# Not of this host: refused whatever they say.
REFUSED = {"CreateEventSourceMapping", "UpdateEventSourceMapping", "CreateCodeSigningConfig",
           "UpdateCodeSigningConfig", "PublishLayerVersion", "AddLayerVersionPermission",
           "PutFunctionCodeSigningConfig"}
VALID = {
    "CreateFunction": {"FunctionName": "new", "Runtime": "python3.11", "Role": ROLE,
                       "Handler": "app.handler"},
    "CreateAlias": {"Name": "other", "FunctionVersion": "$LATEST"},
    "CreateFunctionUrlConfig": {"AuthType": "NONE"},
    "PutFunctionConcurrency": {"ReservedConcurrentExecutions": 1},
    "PutProvisionedConcurrencyConfig": {"ProvisionedConcurrentExecutions": 1},
    "TagResource": {"Tags": {"a": "b"}},
    "AddPermission": {"StatementId": "w", "Action": "lambda:InvokeFunction", "Principal": "*"},
    "PutRuntimeManagementConfig": {"UpdateRuntimeOn": "Auto"},
    "PutFunctionRecursionConfig": {"RecursiveLoop": "Terminate"},
}
URI = {"FunctionName": "f", "Name": "live", "UUID": "u", "LayerName": "l", "VersionNumber": "1",
       "CodeSigningConfigArn": "c", "StatementId": "s"}


def wrong_values(shape, valid):
    """What may stand in this member's place: another type, or a wrong one deeper down."""
    for value in WRONG.get(shape.type_name, []):
        yield value
    if shape.type_name == "structure":
        for name, member in shape.members.items():
            for value in wrong_values(member, None):
                yield {**(valid or {}), name: value}
    elif shape.type_name == "map":
        for value in wrong_values(shape.value, None):
            yield {"k1": value}
    elif shape.type_name == "list":
        for value in wrong_values(shape.member, None):
            yield [value]


def raw(daemon, method, path, body):
    """Unsigned, over the Unix socket: what no client library would send."""
    connection = http.client.HTTPConnection("localhost")
    connection.sock = socket.socket(socket.AF_UNIX)
    connection.sock.settimeout(60)
    connection.sock.connect(os.path.join(daemon.state, "mayflyd.sock"))
    connection.request(method, path, body=json.dumps(body), headers={"Host": "localhost"})
    reply = connection.getresponse()
    text = reply.read()
    connection.close()
    return reply.status, reply.headers, text


def implemented(daemon, model):
    method, path = model.http["method"], model.http["requestUri"]
    for name, value in {**URI, "Resource": "arn:aws:lambda:eu-central-1:000000000000:function:f"}.items():
        path = path.replace("{%s}" % name, urllib.parse.quote(value, safe=""))
    if "{" in path:
        return None
    _, headers, _ = raw(daemon, method, path, {})
    known = headers.get("x-amzn-ErrorType") not in ("UnknownOperationException",
                                                    "MethodNotAllowedException")
    return (method, path) if known else None


@suite.case
def wrong_types_everywhere():
    daemon = Daemon("types", images=False)
    client = client_of(daemon)
    create(lambda operation, **p: getattr(client, operation)(**p), "f")
    client.create_alias(FunctionName="f", Name="live", FunctionVersion="$LATEST")
    model = client.meta.service_model
    code = {"ZipFile": base64.b64encode(zipped()).decode()}
    tried, problems = 0, []
    for name in sorted(model.operation_names):
        operation = model.operation_model(name)
        if operation.has_event_stream_output or not operation.input_shape or name in REFUSED:
            continue
        members = {n: s for n, s in operation.input_shape.members.items()
                   if not s.serialization.get("location")
                   and n != operation.input_shape.serialization.get("payload")}
        place = members and implemented(daemon, operation)
        if not place:
            continue
        valid = copy.deepcopy(VALID.get(name, {}))
        if name == "CreateFunction":
            valid["Code"] = code
        for member, shape in members.items():
            for value in wrong_values(shape, valid.get(member)):
                status, headers, text = raw(daemon, *place, {**valid, member: value})
                tried += 1
                if status != 400 or headers.get("x-amzn-ErrorType") not in ERRORS:
                    problems.append(f"{name}.{member} = {value!r}: {status} {text[:160]!r}")
    assert not problems, "%d of %d:\n%s" % (len(problems), tried, "\n".join(problems[:60]))
    assert tried > 300, tried
    # Nothing of it was done.
    assert [f["FunctionName"] for f in client.list_functions()["Functions"]] == ["f"]
    assert not client.list_tags(Resource=client.get_function(FunctionName="f")["Configuration"]
                                ["FunctionArn"])["Tags"]
    assert daemon.stop() == 0


# --- with guests --------------------------------------------------------------------------------


@suite.case
def waiters_and_urls():
    need_kvm()
    daemon = Daemon("waiters", snapshots=True, config="trusted_proxies: [127.0.0.1]\n")
    call = Checked(client_of(daemon, read_timeout=900))
    client = call.client
    patient = {"Delay": 1, "MaxAttempts": 900}
    create(call, "f")
    client.get_waiter("function_active_v2").wait(FunctionName="f", WaiterConfig=patient)
    call("update_function_code", FunctionName="f", ZipFile=zipped("x = 1\n"), DryRun=True)
    call("update_function_configuration", FunctionName="f", Timeout=9)
    client.get_waiter("function_updated_v2").wait(FunctionName="f", WaiterConfig=patient)
    assert call("publish_version", FunctionName="f")["Version"] == "1"
    client.get_waiter("published_version_active").wait(
        FunctionName="f", Qualifier="1", WaiterConfig=patient)
    answer = call("invoke", FunctionName="f", Qualifier="1", Payload=b'{"a": 1}', LogType="Tail")
    assert answer["ExecutedVersion"] == "1" and answer["LogResult"], answer
    assert json.loads(answer["Payload"].read()) == {"got": {"a": 1}}
    call("create_alias", FunctionName="f", Name="live", FunctionVersion="1")
    call("put_provisioned_concurrency_config", FunctionName="f", Qualifier="live",
         ProvisionedConcurrentExecutions=1)
    call("get_provisioned_concurrency_config", FunctionName="f", Qualifier="live")
    call("delete_provisioned_concurrency_config", FunctionName="f", Qualifier="live")
    url = call("create_function_url_config", FunctionName="f", AuthType="NONE")["FunctionUrl"]
    status, body, _ = get(url + "a%20b?x=1&x=2", **{"Authorization": "Bearer own", "Cookie": "a=1; b=2",
                                                    "X-Forwarded-For": "6.6.6.6, 203.0.113.7"})
    event = json.loads(body)
    assert status == 200 and event["rawPath"] == "/a%20b", body
    assert event["headers"]["authorization"] == "Bearer own" and event["cookies"] == ["a=1", "b=2"]
    assert event["queryStringParameters"] == {"x": "1,2"}, event
    assert event["requestContext"]["http"]["sourceIp"] == "203.0.113.7", event
    assert event["headers"]["x-forwarded-for"] == "203.0.113.7", event
    # Signed by botocore, as for AWS: the caller's key is in the event, his signature is not.
    call("update_function_url_config", FunctionName="f", AuthType="AWS_IAM")
    assert get(url)[0] == 403
    signed = part_of_botocore("awsrequest").AWSRequest("GET", url + "p?q=1")
    credentials = session_of(daemon).get_credentials()
    part_of_botocore("auth").SigV4Auth(credentials, "lambda", "eu-central-1").add_auth(signed)
    status, body, _ = get(url + "p?q=1", **dict(signed.headers))
    event = json.loads(body)
    assert status == 200 and "authorization" not in event["headers"], body
    assert event["requestContext"]["authorizer"]["iam"]["accessKey"] == credentials.access_key, event
    assert not call.problems, "\n".join(call.problems)
    call("delete_function", FunctionName="f")
    assert daemon.stop() == 0


if __name__ == "__main__":
    suite.main()
