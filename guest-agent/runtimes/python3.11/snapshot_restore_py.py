"""The names that AWS Lambda has for the hooks of `mayfly`, for functions written for SnapStart."""

from mayfly import (
    get_after_restore,
    get_before_snapshot,
    register_after_restore,
    register_before_snapshot,
)

__all__ = [
    "register_before_snapshot",
    "register_after_restore",
    "get_before_snapshot",
    "get_after_restore",
]
