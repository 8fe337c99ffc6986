"""What the tasks of many virtual devices in one process share: data sets read once, and splits made once.

On a device nothing is shared: its one task keeps its own examples, and the rest of the data set is freed.
"""

from collections.abc import Callable, Hashable, Sequence
from typing import Any, TypeVar

T = TypeVar("T")
_kept: list[dict[Hashable, Any]] = []  # one dict once reads are shared
_latest: list[tuple[Sequence[Hashable], int]] = []  # the values last seen, and their fingerprint


def share_reads() -> None:
    """Keep from now on what ``read_once`` reads, for as long as this process lives."""
    if not _kept:
        _kept.append({})


def reads_are_shared() -> bool:
    """Return whether ``share_reads`` was called."""
    return bool(_kept)


def read_once(key: Hashable, read: Callable[[], T]) -> T:
    """Return what ``read`` returns, or what it has returned for an equal key if reads are shared.

    Args:
        key: all that the result depends on; its first entry names the kind of data.
        read: called without arguments; its result must not be changed by those who share it.
    """
    if not _kept:
        return read()
    kept = _kept[0]
    if key not in kept:
        kept[key] = read()
    found: T = kept[key]
    return found


def fingerprint(values: Sequence[Hashable]) -> int:
    """Return a number that is equal for equal values, in this process; quick for the object last seen."""
    if not (_latest and _latest[0][0] is values):
        _latest[:] = [(values, hash(tuple(values)))]
    return _latest[0][1]
