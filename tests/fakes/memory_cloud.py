"""Every port of the cloud in memory, and workers that crash or are overtaken at a chosen call."""

from collections import Counter
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from fedgrass.local.in_memory.memory_bucket import MemoryBucket, MemoryWriter
from fedgrass.local.in_memory.memory_ports import (
    MemoryAlarms,
    MemoryDevices,
    MemoryPublisher,
    MemoryThingGroups,
)
from fedgrass.local.in_memory.memory_rounds import LARGEST_ROW, MemoryRounds, Rows, row_size

__all__ = [
    "LARGEST_ROW",
    "CallCounter",
    "Counted",
    "Crash",
    "MemoryAlarms",
    "MemoryBucket",
    "MemoryDevices",
    "MemoryPublisher",
    "MemoryRounds",
    "MemoryThingGroups",
    "MemoryWriter",
    "Rows",
    "row_size",
]

P = ParamSpec("P")
T = TypeVar("T")


class Crash(BaseException):
    """A crash of the worker. Not an ``Exception``, so that the code under test cannot catch it."""


class CallCounter:
    """Counts the calls of ports; at a chosen call the worker crashes, or another one acts first."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self._times: Counter[str] = Counter()
        self._planned: dict[tuple[str, int], Callable[[], object]] = {}
        self.most: int | None = None  # more calls are taken for an endless loop
        self.before: Callable[[str], None] | None = None  # called with the name of each call

    def plan(self, act: Callable[[], object], *, name: str = "", call: int = 1) -> None:
        """Call ``act`` just before the ``call``-th call from now (from 1), of ``name`` or of any port."""
        self._planned[name, self._times[name] + call] = act

    def plan_crash(self, *, name: str = "", call: int = 1) -> None:
        """Crash the worker just before that call."""
        self.plan(_die, name=name, call=call)

    def forget_plans(self) -> None:
        self._planned.clear()

    def counted(self, name: str) -> None:
        self.calls.append(name)
        if self.most is not None and len(self.calls) > self.most:
            message = f"more than {self.most} calls of ports: the work goes round for ever"
            raise AssertionError(message)
        if self.before:
            self.before(name)
        for key in ("", name):
            self._times[key] += 1
            act = self._planned.pop((key, self._times[key]), None)
            if act:
                act()


def _die() -> None:
    raise Crash


class Counted:
    """A port whose calls are counted by a ``CallCounter`` before they are made."""

    def __init__(self, port: object, counter: CallCounter) -> None:
        self._port = port
        self._counter = counter

    def __getattr__(self, name: str) -> object:
        attribute = getattr(self._port, name)
        return _counting(attribute, name, self._counter) if callable(attribute) else attribute


def _counting(method: Callable[P, T], name: str, counter: CallCounter) -> Callable[P, T]:
    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        counter.counted(name)
        return method(*args, **kwargs)

    return call
