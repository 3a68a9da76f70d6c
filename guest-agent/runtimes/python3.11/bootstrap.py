"""The python3.11 runtime: loads the handler once, then serves events, one at a time.

Started by mayfly-agent as `python3.11 -ISB bootstrap.py [preload]`, unprivileged, in /var/task, with
messages on fd 3 and answers on fd 4 (../README.md has the layout). What it imports at start is paid for
by every function, a page fault for each 4 KiB, so that is: builtins, json and whatever the handler wants.
With `preload` it imports much more, says so, and waits for a function (snapshot_hooks.py).

Errors have the types and words that AWS Lambda's Python runtime gives them.
"""

import builtins
import gc
import posix
import sys
import time
from os import environ

TASK_ROOT = "/var/task"
EVENT_FD, ANSWER_FD = 3, 4
HEADER_BYTES = 40
BUFFER_BYTES = 64 << 10
EVENT, LOAD, FREEZE, RESTORE = range(4)
READY, INIT_ERROR, RESULT, ERROR, TOO_LARGE, PRELOADED, AT_REST, FREEZE_ERROR, AWAKE, RESTORE_ERROR = range(10)
FLAG_ANSWER = 1
SMALL_BYTES = 64 << 10
# Not __file__: that may be the compiled one.
OWN_FILE = (lambda: None).__code__.co_filename
HOOKS_FILE = OWN_FILE.rpartition("/")[0] + "/snapshot_hooks.py"
RESPONSE_MAX = 6 << 20
ERROR_MAX = 256 << 10
FRAMES_MAX = 200
LIBRARY_PATH = (
    "/lib64:/usr/lib64:/var/runtime:/var/runtime/lib:/var/task:/var/task/lib:/opt/lib"
)

json = None  # imported by prepare_json(), once sys.path is what the handler shall see
to_json = None  # of what a handler returns
current_request_id = ""


class Fault(Exception):
    """An error with one of the names that Lambda has for it."""

    def __init__(self, error_type, message, stack_trace=()):
        Exception.__init__(self, message)
        self.error_type = error_type
        self.message = message
        self.stack_trace = list(stack_trace)


# ---- the environment that the function sees ----


def set_environment(block):
    """@block: NAME=VALUE, each with a 0 after it, as the agent got them from the host."""
    had_zone = environ.get("TZ")
    for entry in block.split("\0")[:-1]:
        name, _, value = entry.partition("=")
        environ[name] = value
    if environ.get("TZ") != had_zone:
        time.tzset()


def prepare_environment():
    # Set by the agent only to keep Python from looking for locales that the guest does not have.
    if environ.get("LC_ALL") == "POSIX":
        del environ["LC_ALL"]
    # Too late for this process's loader, which was spared the search; its children have it.
    if "LD_LIBRARY_PATH" not in environ:
        environ["LD_LIBRARY_PATH"] = LIBRARY_PATH


def prepare_path():
    """sys.path as in Lambda: the function, layers, PYTHONPATH, the standard library, the runtime.

    The interpreter was told to ignore PYTHONPATH (-I), whose last entry is the runtime's own directory;
    that comes after the standard library here, where looking into it costs the least."""
    runtime_dir = environ.get("LAMBDA_RUNTIME_DIR", "")
    first = [TASK_ROOT]
    try:
        posix.stat("/opt/python")
    except OSError:
        pass
    else:
        first += ["/opt/python/lib/python3.11/site-packages", "/opt/python"]
    first += [p for p in environ.get("PYTHONPATH", "").split(":") if p and p != runtime_dir]
    standard = [p for p in sys.path if not p.endswith(".zip")]
    last = [p for p in (runtime_dir, "/usr/lib/python3/dist-packages") if p]
    sys.path[:] = first + standard + last
    return first


def prepare_builtins():
    # What the skipped `site` module would have set, as far as programs (not consoles) use it.
    import _sitebuiltins

    builtins.exit = _sitebuiltins.Quitter("exit", "Ctrl-D (i.e. EOF)")
    builtins.quit = _sitebuiltins.Quitter("quit", "Ctrl-D (i.e. EOF)")


# ---- logging: set up only if the function imports it ----


class LoggingHook:
    """Gives the root logger Lambda's handler the moment the function imports `logging`."""

    def find_spec(self, name, path=None, target=None):
        if name != "logging":
            return None
        sys.meta_path.remove(self)
        for finder in sys.meta_path:
            spec = finder.find_spec(name, path, target)
            if spec is not None:
                break
        else:
            return None
        load = spec.loader.exec_module

        def exec_module(module):
            load(module)
            set_up_logging(module)

        spec.loader.exec_module = exec_module
        return spec


def set_up_logging(logging):
    class Handler(logging.Handler):
        def emit(self, record):
            sys.stdout.write(self.format(record))

    def add_request_id(record):
        record.aws_request_id = current_request_id
        return True

    formatter = logging.Formatter(
        "[%(levelname)s]\t%(asctime)s.%(msecs)03dZ\t%(aws_request_id)s\t%(message)s\n",
        "%Y-%m-%dT%H:%M:%S",
    )
    formatter.converter = time.gmtime
    handler = Handler()
    handler.setFormatter(formatter)
    handler.addFilter(add_request_id)
    logging.getLogger().addHandler(handler)


# ---- the context object ----


class Record:
    """Attributes by name, those that are missing are None."""

    __slots__ = ()

    def __init__(self, values):
        for name in self.__slots__:
            setattr(self, name, values.get(name))

    def __repr__(self):
        pairs = ",".join(f"{name}={getattr(self, name)!r}" for name in self.__slots__)
        return f"{type(self).__name__}([{pairs}])"


class CognitoIdentity(Record):
    __slots__ = ("cognito_identity_id", "cognito_identity_pool_id")


class Client(Record):
    __slots__ = (
        "installation_id",
        "app_title",
        "app_version_name",
        "app_version_code",
        "app_package_name",
    )


class ClientContext(Record):
    __slots__ = ("custom", "env", "client")


class LambdaContext:
    def __init__(self, request_id, arn, deadline_ms, client_context, identity):
        self.aws_request_id = request_id
        self.invoked_function_arn = arn
        self.function_name = environ.get("AWS_LAMBDA_FUNCTION_NAME")
        self.function_version = environ.get("AWS_LAMBDA_FUNCTION_VERSION")
        self.memory_limit_in_mb = environ.get("AWS_LAMBDA_FUNCTION_MEMORY_SIZE")
        self.log_group_name = environ.get("AWS_LAMBDA_LOG_GROUP_NAME")
        self.log_stream_name = environ.get("AWS_LAMBDA_LOG_STREAM_NAME")
        self.identity = make_identity(identity)
        self.client_context = make_client_context(client_context)
        self._deadline_ms = deadline_ms

    def get_remaining_time_in_millis(self):
        return max(0, self._deadline_ms - int(time.time() * 1000))

    def log(self, message):
        sys.stdout.write(str(message))

    def __repr__(self):
        names = [name for name in vars(self) if not name.startswith("_")]
        return "LambdaContext([" + ",".join(f"{n}={getattr(self, n)}" for n in names) + "])"


def parse_context(text, name):
    try:
        value = json.loads(text)
        if not isinstance(value, dict):
            raise ValueError("not an object")
        return value
    except ValueError as e:
        raise Fault(
            "Runtime.LambdaContextUnmarshalError", f"Unable to parse {name} JSON: {e}"
        ) from None


def make_identity(text):
    values = parse_context(text, "Cognito Identity") if text else {}
    return CognitoIdentity(
        {
            "cognito_identity_id": values.get("cognitoIdentityId"),
            "cognito_identity_pool_id": values.get("cognitoIdentityPoolId"),
        }
    )


def make_client_context(text):
    if not text:
        return None
    context = ClientContext(parse_context(text, "Client Context"))
    if isinstance(context.client, dict):
        context.client = Client(context.client)
    return context


# ---- the handler ----


def load_handler(name):
    module_name, dot, function_name = name.rpartition(".")
    if not dot:
        raise Fault(
            "Runtime.MalformedHandlerName",
            f"Bad handler '{name}': not enough values to unpack (expected 2, got 1)",
        )
    if module_name.split(".")[0] in sys.builtin_module_names:
        raise Fault(
            "Runtime.BuiltInModuleConflict",
            f"Cannot use built-in module {module_name} as a handler module",
        )
    path = module_name.replace("/", ".")
    try:
        __import__(path)
    except ImportError as e:
        raise Fault(
            "Runtime.ImportModuleError", f"Unable to import module '{module_name}': {e}"
        ) from None
    except SyntaxError as e:
        place = f'  File "{e.filename}" Line {e.lineno}\n    {e.text}'
        raise Fault(
            "Runtime.UserCodeSyntaxError",
            f"Syntax error in module '{module_name}': {e}",
            [place],
        ) from None
    try:
        return getattr(sys.modules[path], function_name)
    except AttributeError:
        raise Fault(
            "Runtime.HandlerNotFound",
            f"Handler '{function_name}' missing on module '{module_name}'",
        ) from None


# ---- errors ----


def source_line(path, number):
    try:
        with open(path, encoding="utf-8", errors="replace") as source:
            for count, line in enumerate(source, 1):
                if count == number:
                    return line.strip()
    except OSError:
        pass
    return ""


def stack_trace(tb):
    """As traceback.format_tb() without its imports, and without the frames of this file."""
    frames = []
    while tb is not None:
        code = tb.tb_frame.f_code
        ours = code.co_filename in (OWN_FILE, HOOKS_FILE)
        if not ours and (frames or not code.co_filename.startswith("<frozen importlib")):
            frames.append((code.co_filename, tb.tb_lineno, code.co_name))
        tb = tb.tb_next
    if len(frames) > FRAMES_MAX:
        frames[FRAMES_MAX // 2 : -FRAMES_MAX // 2] = []
    lines = []
    for path, number, name in frames:
        text = f'  File "{path}", line {number}, in {name}\n'
        source = source_line(path, number)
        lines.append(text + f"    {source}\n" if source else text)
    return lines


def error_object(error, request_id):
    if isinstance(error, Fault):
        error_type, message, trace = error.error_type, error.message, error.stack_trace
    else:
        error_type, trace = type(error).__name__, stack_trace(error.__traceback__)
        try:
            message = str(error)
        except Exception as e:
            message = f"<exception str() failed: {e!r}>"
    return {
        "errorMessage": message,
        "errorType": error_type,
        "requestId": request_id,
        "stackTrace": trace,
    }


def encode_error(error):
    data = json.dumps(error).encode("ascii")
    if len(data) > ERROR_MAX:
        error = dict(error, errorMessage=error["errorMessage"][:4096], stackTrace=[])
        data = json.dumps(error).encode("ascii")
    return data


def log_error(error):
    head = f"[ERROR] {error['errorType']}: {error['errorMessage'][:ERROR_MAX]}\n"
    trace = error["stackTrace"]
    try:
        sys.stdout.write(head + ("Traceback (most recent call last):\n" + "".join(trace) if trace else ""))
        sys.stdout.flush()
    except (OSError, ValueError):
        pass  # the function closed its stdout


# ---- answers and events ----


def answer(kind, body=b""):
    head = bytes((kind, 0, 0, 0)) + len(body).to_bytes(4, "little")
    total = 8 + len(body)
    parts = [head + body] if total <= SMALL_BYTES else [head, body]
    sent = posix.writev(ANSWER_FD, parts)
    if sent < total:  # interrupted by a signal of the function's own
        left = memoryview(b"".join(parts))
        while sent < total:
            sent += posix.write(ANSWER_FD, left[sent:])


def encode_default(value):
    kind = type(value)
    if kind.__name__ == "Decimal" and kind.__module__ == "decimal":
        if value.is_finite() and value == value.to_integral_value():
            return int(value)
        return float(value)
    raise TypeError(f"Object of type {kind.__name__} is not JSON serializable")


def encode_response(value):
    if isinstance(value, bytes):
        return value
    try:
        return to_json(value).encode("ascii")
    except Exception as e:
        raise Fault("Runtime.MarshalError", f"Unable to marshal response: {e}") from None


class Reader:
    """Reads messages into one buffer: small ones cost one read(2), also for two of them, and touch no
    new memory."""

    def __init__(self):
        self.buffer = memoryview(bytearray(b"\0" * BUFFER_BYTES))
        self.start = self.end = 0  # of what has been read and not been taken yet

    def read(self):
        """Returns (kind, flags, deadline_ms, six parts as views), or None once the agent has gone. The
        views are valid until the next call."""
        if self.start == self.end:
            self.start = self.end = 0
            self.end = posix.readv(EVENT_FD, [self.buffer])
            if self.end == 0:
                return None
        self.fill(HEADER_BYTES)
        at = self.start
        header = self.buffer[at : at + HEADER_BYTES]
        lengths = [int.from_bytes(header[i : i + 4], "little") for i in range(16, 40, 4)]
        total = HEADER_BYTES + sum(lengths)
        if total <= BUFFER_BYTES:
            self.fill(total)
            view = self.buffer[self.start : self.start + total]
            self.start += total
        else:
            view = self.read_large(total)
        parts = []
        at = HEADER_BYTES
        for length in lengths:
            parts.append(view[at : at + length])
            at += length
        return view[0], view[1], int.from_bytes(view[8:16], "little"), parts

    def fill(self, count):
        """Have at least @count bytes at start."""
        if self.start + count > BUFFER_BYTES:
            left = bytes(self.buffer[self.start : self.end])
            self.buffer[: len(left)] = left
            self.start, self.end = 0, len(left)
        while self.end - self.start < count:
            self.end += self.more(self.buffer[self.end :])

    def read_large(self, total):
        large = memoryview(bytearray(total))
        have = self.end - self.start
        large[:have] = self.buffer[self.start : self.end]
        self.start = self.end = 0
        while have < total:
            have += self.more(large[have:])
        return large

    @staticmethod
    def more(view):
        count = posix.readv(EVENT_FD, [view])
        if count == 0:
            raise EOFError("the agent closed the pipe")
        return count


def text(view):
    return str(view, "utf-8", "surrogateescape")


def decode_event(text):
    try:
        return json.loads(text)
    except Exception as e:
        raise Fault("Runtime.UnmarshalError", f"Unable to unmarshal input: {e}") from None


def serve(handler, deadline_ms, parts):
    """One invocation: returns the kind and the body of the answer."""
    global current_request_id
    request_id, arn, trace_id, client_context, identity, event = map(text, parts)
    current_request_id = request_id
    if trace_id:
        environ["_X_AMZN_TRACE_ID"] = trace_id
    elif "_X_AMZN_TRACE_ID" in environ:
        del environ["_X_AMZN_TRACE_ID"]
    try:
        context = LambdaContext(request_id, arn, deadline_ms, client_context, identity)
        body = encode_response(handler(decode_event(event), context))
    except Exception as e:  # SystemExit is none: it ends the runtime, which the agent reports
        error = error_object(e, request_id)
        log_error(error)
        return ERROR, encode_error(error)
    return (RESULT, body) if len(body) <= RESPONSE_MAX else (TOO_LARGE, b"")


def flush():
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError, AttributeError):
            pass  # the function closed or replaced it


def fail(kind, e, name=None):
    """The end of this process: tell why. @name: what Lambda calls it, if it has a name for it."""
    error = error_object(e, "")
    if name:
        error["errorMessage"] = f"{error['errorType']}: {error['errorMessage']}"
        error["errorType"] = name
    log_error(error)
    flush()
    answer(kind, encode_error(error))
    sys.exit(1)


# ---- snapshots; what they need more is in snapshot_hooks.py ----


def load_snapshot_hooks():
    """The runtime's own module, whatever the function has put into its path."""
    module = sys.modules.get("mayfly_snapshot_hooks")
    if module is None:
        from _frozen_importlib_external import spec_from_file_location

        spec = spec_from_file_location("mayfly_snapshot_hooks", HOOKS_FILE)
        module = type(sys)(spec.name)
        sys.modules[spec.name] = module
        spec.loader.exec_module(module)
    return module


def rehearse():
    """An invocation that leaves no trace."""
    global current_request_id
    event = b'{"text": "\\u00e9", "numbers": [1, -2.5, 1e3], "nothing": null, "yes": true, "deep": [[[[{}]]]]}'
    texts = [b"8476a536-e9f4-11e8-9739-2dfe598c3fcd", b"arn", b"", b'{"custom":{}}', b'{"a":"b"}', event]
    saved = environ.get("_X_AMZN_TRACE_ID")
    serve(lambda event, context: {"e": event, "t": context.get_remaining_time_in_millis()}, 0, texts)
    if saved is not None:
        environ["_X_AMZN_TRACE_ID"] = saved
    current_request_id = ""


def wait_for_function(reader):
    """Preload: returns once this is a certain function's process."""
    snapshots = load_snapshot_hooks()
    loaded = snapshots.import_modules()
    snapshots.settle(rehearse)
    flush()
    answer(PRELOADED)
    message = reader.read()
    if message is None:
        sys.exit(0)
    environ.clear()
    set_environment(text(message[3][0]))
    prepare_environment()
    snapshots.forget_shadowed(loaded, prepare_path())
    snapshots.reseed(b"")
    gc.unfreeze()  # what a function replaces can be collected again


def freeze():
    snapshots = load_snapshot_hooks()
    try:
        snapshots.run_before_snapshot()
    except Exception as e:
        fail(FREEZE_ERROR, e, "Runtime.BeforeSnapshotError")
    snapshots.settle(rehearse)
    flush()
    answer(AT_REST)


def restore(flags, parts):
    """The first thing that happens in a clone."""
    snapshots = load_snapshot_hooks()
    try:
        set_environment(text(parts[0]))
        snapshots.reseed(bytes(parts[1]))
        snapshots.run_after_restore()
    except Exception as e:
        fail(RESTORE_ERROR, e, "Runtime.AfterRestoreError")
    if flags & FLAG_ANSWER:
        flush()
        answer(AWAKE)


# ---- the process ----


def prepare_json():
    global json, to_json
    import json as json_module

    json = json_module
    to_json = json.JSONEncoder(default=encode_default).encode


def prepare_process():
    prepare_builtins()
    sys.stdout.reconfigure(line_buffering=True)
    sys.meta_path.insert(0, LoggingHook())
    # The function and its children have no business with these.
    posix.set_inheritable(EVENT_FD, False)
    posix.set_inheritable(ANSWER_FD, False)


def main():
    is_preload = sys.argv[1:] == ["preload"]
    del sys.argv[1:]
    reader = Reader()
    if is_preload:
        prepare_process()
        prepare_json()
        wait_for_function(reader)
    else:
        prepare_environment()
        prepare_path()
        prepare_process()
        prepare_json()
    try:
        handler = load_handler(environ.get("_HANDLER", ""))
    except Exception as e:
        fail(INIT_ERROR, e)
    # What exists now is there to stay: collections need not touch it, page by page, ever again.
    gc.freeze()
    flush()
    answer(READY)
    while True:
        message = reader.read()
        if message is None:
            return
        kind, flags, deadline_ms, parts = message
        if kind == FREEZE:
            freeze()
        elif kind == RESTORE:
            restore(flags, parts)
        else:
            word, body = serve(handler, deadline_ms, parts)
            flush()
            answer(word, body)


if __name__ == "__main__":  # not in the children of multiprocessing
    main()
