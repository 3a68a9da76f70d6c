"""Hooks of a function around the snapshot that it is started from.

    import mayfly

    mayfly.register_before_snapshot(pool.close)
    mayfly.register_after_restore(connect, "db.example", retries=3)

    @mayfly.register_after_restore
    def renew():
        ...

Register them while the module is imported: what a handler registers is too late. Before-snapshot
hooks run in the reverse order of registration, after-restore hooks in the order of registration.
In a function that was not started from a snapshot none of them runs. A hook that raises ends the
function's process; the error is what the host, or the invoker, gets.
"""

__all__ = ["register_before_snapshot", "register_after_restore"]

_before_snapshot = []
_after_restore = []


def register_before_snapshot(function, *args, **kwargs):
    """Call function(*args, **kwargs) before the snapshot is taken. Returns the function."""
    _before_snapshot.append((function, args, kwargs))
    return function


def register_after_restore(function, *args, **kwargs):
    """Call function(*args, **kwargs) in every process that the snapshot becomes, before its first
    event. Returns the function."""
    _after_restore.append((function, args, kwargs))
    return function


def get_before_snapshot():
    """The hooks, as (function, args, kwargs), in the order of registration."""
    return _before_snapshot


def get_after_restore():
    """Likewise."""
    return _after_restore
