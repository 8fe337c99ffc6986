"""Stands for the module ``select`` in paho-mqtt, without the limit of 1,024 file descriptors of ``select()``.

A hundred cores in one process have more: the connections of the last ones would never be read.
"""

import select as _select
from collections.abc import Sequence
from typing import Any

_BROKEN = _select.POLLERR | _select.POLLHUP | _select.POLLNVAL


def select(
    reading: Sequence[Any], writing: Sequence[Any], _exceptional: Sequence[Any], seconds: float | None
) -> tuple[list[Any], list[Any], list[Any]]:
    """Return the sockets that can be read and those that can be written, as ``select.select`` does.

    Raises:
        ValueError: one of them is closed.
    """
    wanted: dict[int, int] = {}
    for sockets, flag in ((reading, _select.POLLIN), (writing, _select.POLLOUT)):
        for each in sockets:
            wanted[each.fileno()] = wanted.get(each.fileno(), 0) | flag
    poll = _select.poll()
    for descriptor, flags in wanted.items():
        poll.register(descriptor, flags)
    ready = dict(poll.poll(None if seconds is None else max(0, int(seconds * 1000))))
    readable = [each for each in reading if ready.get(each.fileno(), 0) & (_select.POLLIN | _BROKEN)]
    writable = [each for each in writing if ready.get(each.fileno(), 0) & (_select.POLLOUT | _BROKEN)]
    return readable, writable, []
