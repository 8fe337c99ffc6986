"""The state from which a ServerApp is resumed: one object of the bucket, replaced after each finished round.

The file is a weights file with arrays of bytes: ``state`` in msgpack, and ``0``, ``1``, ... the data of what
the strategy keeps. The model is not among them: it is in the content files that devices have got, and named
by its SHA-256. Values are tagged lists, such as ``["dict", [[key, value], ...]]``; nothing is executed to
read them.
"""

import functools
import inspect
import random
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import ModuleType
from typing import Any, Protocol

import msgspec
import numpy as np
from msgspec import Struct

from fedgrass.console.task_messages.content_files import Buffer, FileInPieces, MessagePart
from fedgrass.federation import weights
from fedgrass.federation.errors import SettingsError, UpdateRefused
from fedgrass.federation.task_messages.message_content import Record, data_arrays

_STATE = "state"
_LARGEST_STATE = 64 * 1024**2  # bytes of the state without arrays
_INLINE = (bool, int, float, str)
_CODE = (type, functools.partial, ModuleType)  # which the app has after a resume as before, as its functions
_LARGEST_INTEGER = 2**63

Tagged = list[Any]
Metrics = dict[int, dict[str, Any]]  # by round of the strategy


class StartState(Struct, frozen=True, kw_only=True):
    """One call of ``Strategy.start``: how far it has come, and what it has found so far."""

    strategy: str  # class name
    total: int  # rounds that it was called for
    finished: int  # rounds that are finished
    before: int  # number of the run's latest round when it was called
    last: int  # ... when its latest round was finished
    ended: bool = False  # it has returned
    arrays: Record  # the model; its data are in the content file that it names
    aggregated: bool = False  # whether a round has made a model: else it is the initial one
    train: Metrics = {}
    evaluate: Metrics = {}
    central: Metrics = {}  # of the ServerApp's own evaluation; round 0 is the initial model's
    train_config: Tagged = []
    evaluate_config: Tagged = []
    attributes: Tagged = []  # of the strategy
    left_out: tuple[str, ...] = ()  # attributes that cannot be kept


class Checkpoint(Struct, frozen=True, kw_only=True):
    """All calls of ``Strategy.start`` of a run so far; the last one may be unfinished."""

    version: int = 1
    starts: tuple[StartState, ...]
    random_state: Tagged  # of Python's module, by which strategies choose nodes

    def counted(self) -> list[range]:
        """Return the numbers of the run's rounds whose replies are part of the state."""
        return [range(start.before + 1, start.last + 1) for start in self.starts if start.finished]


class RecordCodec(Protocol):
    """Turns Flower's records and strategies into plain values; flower_api.py has the only one."""

    def to_part(self, value: object) -> MessagePart | None:
        """Return a record of Flower; None for any other value."""

    def from_part(self, record: Record, data: Sequence[bytes]) -> object:
        """Return the record of Flower again."""

    def is_strategy(self, value: object) -> bool:
        """Return whether a value is a strategy, whose attributes are kept with those around it."""


class Packer:
    """Turns values into tagged lists; the data of arrays are collected, not copied.

    Args:
        codec: for values of Flower.
    """

    def __init__(self, codec: RecordCodec) -> None:
        self._codec = codec
        self.data: list[Buffer] = []
        self.left_out: list[str] = []

    def attributes(self, owner: object, path: str = "") -> Tagged:
        """Return the attributes of a strategy that can be kept; ``left_out`` names the others."""
        kept = []
        for name, value in vars(owner).items():
            here = f"{path}{name}"
            try:
                packed = self.pack(value, here)
            except UpdateRefused:
                if not inspect.isroutine(value) and not isinstance(value, _CODE):
                    self.left_out.append(f"{here} ({type(value).__name__})")
                continue
            kept.append([name, packed])
        return kept

    def pack(self, value: Any, path: str = "") -> Tagged:
        """Return a value as a tagged list. Raises UpdateRefused for one that cannot be kept."""
        if self._codec.is_strategy(value):
            return ["strategy", self.attributes(value, f"{path}.")]
        if (part := self._codec.to_part(value)) is not None:
            return ["record", msgspec.to_builtins(part.record), [self._add(data) for data in part.data]]
        if value is None or type(value) in _INLINE:
            large = isinstance(value, int) and abs(value) >= _LARGEST_INTEGER
            return ["integer", str(value)] if large else ["plain", value]
        if isinstance(value, bytes | bytearray) and type(value) in {bytes, bytearray}:
            return [type(value).__name__, self._add(value)]
        if isinstance(value, np.ndarray | np.generic):
            return self._array(value)
        if type(value) in {list, tuple, set, frozenset}:
            return [type(value).__name__, [self.pack(member, path) for member in value]]
        if type(value) in {dict, OrderedDict}:
            return [
                type(value).__name__,
                [[self.pack(key, path), self.pack(member, path)] for key, member in value.items()],
            ]
        if callable(getattr(value, "state_dict", None)) and callable(getattr(value, "load_state_dict", None)):
            return ["state_dict", self.pack(value.state_dict(), path)]
        message = f"{path} is a {type(value).__name__}"
        raise UpdateRefused(message)

    def _array(self, value: "np.ndarray[Any, Any] | np.generic") -> Tagged:
        array = np.asarray(value, order="C")
        if array.dtype.hasobject:
            message = "an array of Python objects"
            raise UpdateRefused(message)
        kind = "array" if isinstance(value, np.ndarray) else "scalar"
        data = array.reshape(-1).view(np.uint8).data if array.size else b""
        return [kind, array.dtype.str, list(array.shape), self._add(data)]

    def _add(self, data: Buffer | bytearray) -> int:
        self.data.append(memoryview(data))
        return len(self.data) - 1


class Unpacker:
    """Makes values of tagged lists again.

    Args:
        codec: for values of Flower.
        data: of the arrays.
    """

    def __init__(self, codec: RecordCodec, data: Sequence[bytes]) -> None:
        self._codec = codec
        self._data = data

    def restore(self, owner: object, attributes: Iterable[Any]) -> None:
        """Set the attributes of a strategy, and of those inside it, as they were."""
        for name, (tag, *rest) in attributes:
            inner: Any = getattr(owner, name, None)
            if tag in {"strategy", "state_dict"} and inner is None:
                owner_type = type(owner).__name__
                message = f"the app's {owner_type} has no {name} any more: resume the run with the same app"
                raise SettingsError(message)
            if tag == "strategy":
                self.restore(inner, rest[0])
            elif tag == "state_dict":
                inner.load_state_dict(self.unpack(rest[0]))
            else:
                setattr(owner, name, self.unpack([tag, *rest]))

    def unpack(self, tagged: Sequence[Any]) -> Any:
        """Return the value of a tagged list."""
        tag, *rest = tagged
        makers: dict[str, Callable[..., Any]] = {
            "plain": lambda value: value,
            "integer": int,
            "bytes": lambda place: self._data[place],
            "bytearray": lambda place: bytearray(self._data[place]),
            "array": self._array,
            "scalar": lambda *fields: self._array(*fields)[()],
            "record": self._record,
            "dict": lambda pairs: {self.unpack(key): self.unpack(value) for key, value in pairs},
            "OrderedDict": lambda pairs: OrderedDict(self.unpack(["dict", pairs])),
            "list": lambda members: [self.unpack(member) for member in members],
            "tuple": lambda members: tuple(self.unpack(member) for member in members),
            "set": lambda members: {self.unpack(member) for member in members},
            "frozenset": lambda members: frozenset(self.unpack(member) for member in members),
        }
        make = makers.get(tag)
        if make is None:
            message = f"the ServerApp's state has a value of the unknown kind {tag!r}"
            raise SettingsError(message)
        return make(*rest)

    def _array(self, dtype: str, shape: Sequence[int], place: int) -> "np.ndarray[Any, Any]":
        # A copy, which strategies may write to.
        return np.frombuffer(self._data[place], np.dtype(dtype)).reshape(shape).copy()

    def _record(self, record: Mapping[str, Any], places: Sequence[int]) -> object:
        return self._codec.from_part(msgspec.convert(record, Record), [self._data[place] for place in places])


def random_state() -> Tagged:
    """Return the state of the random numbers of Python and of numpy's global generator.

    Strategies draw the nodes of a round from the former, and noise for privacy from the latter: a second,
    different noise on the same sum would be a second release of it.
    """
    version, internal, gauss = random.getstate()
    name, keys, *rest = np.random.get_state()  # noqa: NPY002 - the generator that Flower uses
    return [version, list(internal), gauss, [name, np.asarray(keys).tolist(), *rest]]


def set_random_state(state: Tagged) -> None:
    """Continue the random numbers where ``random_state`` was called."""
    version, internal, gauss, (name, keys, *rest) = state
    random.setstate((version, tuple(internal), gauss))
    np.random.set_state((name, np.array(keys, np.uint32), *rest))  # noqa: NPY002 - as above


def checkpoint_file(checkpoint: Checkpoint, data: Sequence[Buffer]) -> FileInPieces:
    """Return the file of a checkpoint, with the data that its values refer to.

    Raises:
        UpdateRefused: the state is too large.
    """
    state = msgspec.msgpack.encode(checkpoint)
    if len(state) > _LARGEST_STATE:
        message = f"the ServerApp's state has {len(state):,} bytes without arrays; at most {_LARGEST_STATE:,}"
        raise UpdateRefused(message)
    arrays = data_arrays([len(state), *(len(piece) for piece in data)], [state, *data])
    names = [_STATE, *map(str, range(len(data)))]
    return FileInPieces(dict(zip(names, arrays.values(), strict=True)))


def read_checkpoint(read: Callable[[int], bytes], size: int) -> tuple[Checkpoint, list[bytes]]:
    """Return a checkpoint from its file, and the data that its values refer to.

    Args:
        read: returns the given number of next bytes of the file.
        size: of the file in bytes.

    Raises:
        UpdateRefused: it is damaged.
    """
    prefix = read(min(size, weights.PREFIX))
    head = prefix + read(weights.header_size(prefix, size) - weights.PREFIX)
    layout = weights.read_layout(head, size)
    check = weights.ChunkCheck(weights.chunk_checksums(head), 0, layout.data_bytes)
    data = []
    for array in weights.in_file_order(layout).values():
        data.append(read(array.end - array.start))
        check.feed(memoryview(data[-1]))
    if next(iter(layout.arrays), "") != _STATE:
        message = "the file of the ServerApp's state has no state"
        raise UpdateRefused(message)
    try:
        return msgspec.msgpack.decode(data[0], type=Checkpoint), data[1:]
    except msgspec.DecodeError as error:
        message = f"the ServerApp's state cannot be decoded: {error}"
        raise UpdateRefused(message) from error
