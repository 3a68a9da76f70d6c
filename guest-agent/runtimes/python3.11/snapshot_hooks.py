"""The python3.11 runtime's part in snapshots: what it imports ahead of any function, coming to rest
before one is taken, and becoming somebody in each process that was restored from it.

Imported by bootstrap.py only where there is a snapshot: a plain start pays for none of this.
"""

import gc
import posix
import sys
from _sha512 import sha512

# What nearly every function needs, or its libraries do. The pages are shared by all clones of all
# functions, so the price is paid once, in time and in memory: measured, 0.04 s and 6 MiB of private
# memory. Not asyncio, which would be 2 MiB more for few. Not ssl, and what imports it: where it is
# loaded every clone has to reseed OpenSSL.
PRELOADED_MODULES = """
    abc base64 binascii bisect calendar collections.abc contextlib copy dataclasses datetime decimal enum
    functools hashlib heapq hmac inspect io itertools json linecache locale logging math operator os
    pathlib platform queue random re secrets select shutil signal socket stat string struct
    subprocess tempfile textwrap threading time token tokenize traceback types typing uuid warnings
    weakref zlib urllib.parse urllib.error concurrent.futures.thread email.message email.parser
""".split()

TOUCH_BYTES = 512 << 10


def import_modules():
    """Import PRELOADED_MODULES. Returns the names of all that were loaded by that."""
    before = set(sys.modules)
    for name in PRELOADED_MODULES:
        __import__(name)
    return set(sys.modules) - before


def forget_shadowed(names, directories):
    """A file of the function's that is called like a preloaded module wins, as in a plain start."""
    tops = {name.partition(".")[0] for name in names}
    for directory in directories:
        try:
            entries = posix.listdir(directory)
        except OSError:
            continue
        for top in tops.intersection(entry.partition(".")[0] for entry in entries):
            for name in [n for n in names if n == top or n.startswith(top + ".")]:
                sys.modules.pop(name, None)


def hooks(getter_name):
    """All registered hooks. A function may bring the snapshot_restore_py of the package index."""
    found = []
    modules = []
    for name in ("mayfly", "snapshot_restore_py"):
        getter = getattr(sys.modules.get(name), getter_name, None)
        if getter is not None and getter not in modules:
            modules.append(getter)
            found += getter()
    return found


def run_before_snapshot():
    for function, args, kwargs in reversed(hooks("get_before_snapshot")):
        function(*args, **kwargs)


def run_after_restore():
    for function, args, kwargs in hooks("get_after_restore"):
        function(*args, **kwargs)


def reseed(seed):
    """Everything in known modules that clones must not share. @seed: 32 bytes, or b""."""
    seed = seed or posix.urandom(32)

    def derive(purpose):
        return sha512(purpose + seed).digest()

    random = sys.modules.get("random")
    if hasattr(random, "seed"):
        random.seed(int.from_bytes(derive(b"random"), "little"))
    uuid = sys.modules.get("uuid")
    if hasattr(uuid, "_generate_time_safe"):
        # uuid1(): libuuid keeps a node and a clock sequence that cannot be reached from here.
        uuid._generate_time_safe = None
        uuid._node = int.from_bytes(derive(b"uuid")[:6], "little") | 1 << 40  # "multicast": made up
        uuid._last_timestamp = None
    tempfile = sys.modules.get("tempfile")
    if hasattr(tempfile, "_name_sequence"):
        tempfile._name_sequence = None
    ssl = sys.modules.get("_ssl")
    if hasattr(ssl, "RAND_add"):
        # OpenSSL's generators then fetch new entropy from the kernel, too, before they go on.
        ssl.RAND_add(derive(b"ssl"), 64.0)
    numpy = sys.modules.get("numpy.random")
    if hasattr(numpy, "seed"):
        words = derive(b"numpy")
        numpy.seed([int.from_bytes(words[i : i + 4], "little") for i in range(0, 64, 4)])


def settle(rehearse):
    """Leave the memory as the first invocation likes to find it: garbage gone, what stays out of
    the collector's sight, the pages that it will write to present. @rehearse: a harmless one."""
    gc.collect()
    gc.freeze()
    # Small blocks, then large ones: freed again at once, they leave pages behind that are in use by
    # nobody and cost no fault any more.
    small = [bytes(480) for _ in range(TOUCH_BYTES // 512)]
    large = [b"\0" * 60000 for _ in range(TOUCH_BYTES // 60000)]
    del small, large
    for _ in range(3):  # the interpreter specialises its code as it runs
        rehearse()
