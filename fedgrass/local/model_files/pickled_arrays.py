"""Arrays of a legacy pickle, read by an unpickler that makes arrays and plain containers and nothing else.

A pickle is a program: ``pickle.load`` runs what its author wrote. Here every name in it
is looked up in a table of a few functions that make arrays, and any other one is refused by name before
anything is called. Only ``fedgrass model convert-pickle`` uses this, in a child process; no other part of
fedgrass reads pickles.
"""

import io
import json
import math
import pickle
import re
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedgrass.federation.errors import SettingsError
from fedgrass.federation.weights import check_finite, encode
from fedgrass.local.model_files.pytorch_files import read_state_dict, state_of

_ZIP = b"PK"  # how files of PyTorch begin, since version 1.6


class RefusedPickle(SettingsError):
    """A pickle has something other than arrays and plain containers."""


def convert_in_child(options: dict[str, Any], note: Callable[[str], None]) -> int:
    """Write the arrays of a pickle, ``source``, as a safetensors file, ``target``."""
    note("reading the pickle")
    source = Path(options["source"])
    arrays, reader = read_pickle(source)
    check_finite(arrays)
    Path(options["target"]).write_bytes(encode(arrays, in_order=True))
    Path(options["result"]).write_text(
        json.dumps({"arrays": len(arrays), "reader": reader}), encoding="utf-8"
    )
    return 0


def read_pickle(path: Path) -> tuple[dict[str, NDArray[np.generic]], str]:
    """Return the arrays of a pickle by name, and what has read them.

    Raises:
        SettingsError: it has anything but arrays; the text names it.
    """
    data = path.read_bytes()
    try:
        return read_state_dict(path), "torch.load with weights only"
    except SettingsError as error:
        if data.startswith(_ZIP):
            raise
        first = error
    try:
        found = _plain(ArrayUnpickler(data).load())
    except RefusedPickle:
        raise
    except Exception as error:
        message = f"{path} can be read neither as a file of PyTorch nor as a pickle: {first}; {error}"
        raise SettingsError(message) from error
    return state_of(found, path), "the unpickler for arrays"


class ArrayUnpickler(pickle.Unpickler):
    """An unpickler of numpy arrays in dicts and lists; it calls no functions but those of this module.

    Not even numpy's own are called: the state of a crafted type could make numpy take numbers for pointers.
    """

    def __init__(self, data: bytes) -> None:
        super().__init__(io.BytesIO(data), encoding="latin1")  # how Python 2 wrote bytes

    def find_class(self, module: str, name: str) -> Any:
        """Return what makes an array here. Raises RefusedPickle for any other name."""
        found = _ALLOWED.get((module.replace("numpy._core", "numpy.core"), name))  # its newer name
        if found is None:
            message = f"the pickle refers to {module}.{name}: only arrays and plain containers are read"
            raise RefusedPickle(message)
        return found

    def persistent_load(self, pid: object) -> Any:
        """Refuse references to other objects. Raises RefusedPickle."""
        message = f"the pickle refers to another object, {pid!r}: only arrays and plain containers are read"
        raise RefusedPickle(message)


class _Type:
    """A type of numbers, whose byte order follows in its state.

    Args:
        text: such as ``f4``, the numpy name without a byte order.
    """

    def __init__(self, text: object, *_: object) -> None:
        if not isinstance(text, str) or not _NUMBERS.fullmatch(text):
            message = f"the pickle has an array of the type {text!r}: only arrays of numbers are read"
            raise RefusedPickle(message)
        self.dtype = np.dtype(text)

    def __setstate__(self, state: object) -> None:
        order = state[1] if isinstance(state, tuple) and len(state) > 1 else None
        if order not in {"<", ">", "|", "="}:
            message = f"the pickle has a type of numbers with the state {state!r:.100}"
            raise RefusedPickle(message)
        self.dtype = self.dtype.newbyteorder(order)


class _PickledArray:
    """An array, whose values follow in its state."""

    def __init__(self) -> None:
        self.value: NDArray[np.generic] = np.zeros(0, np.float32)

    def __setstate__(self, state: object) -> None:
        match state:
            case (int(), tuple(shape), _Type() as kind, bool(in_fortran), bytes() | str() as data):
                raw = data.encode("latin1") if isinstance(data, str) else data
                self.value = _array(raw, kind, shape, "F" if in_fortran else "C")
            case _:
                message = "the pickle has an array of an unknown form, or one of objects"
                raise RefusedPickle(message)


def _reconstruct(kind: object, *_: object) -> _PickledArray:
    """Return an empty array, as numpy's ``_reconstruct`` does, of the plain array type alone."""
    if kind is not _ARRAY_TYPE:
        message = "the pickle has an array of another class than numpy's own"
        raise RefusedPickle(message)
    return _PickledArray()


def _from_buffer(data: object, kind: object, shape: object, order: object) -> _PickledArray:
    """Return an array of the bytes in protocol 5 of pickle, as numpy's ``_frombuffer`` does."""
    made = _PickledArray()
    raw = bytes(data) if isinstance(data, bytes | bytearray) else None
    made.__setstate__((1, shape, kind, order == "F", raw))
    return made


def _scalar(kind: object, data: object = b"") -> _PickledArray:
    """Return a number as an array without dimensions, as numpy's ``scalar`` does."""
    made = _PickledArray()
    made.__setstate__((1, (), kind, False, data))
    return made


def _encode(text: object, encoding: object = "latin1") -> bytes:
    """Return bytes that old protocols wrote as text, as ``codecs.encode`` does for this encoding alone."""
    if not isinstance(text, str) or encoding != "latin1":
        message = f"the pickle has bytes in the encoding {encoding!r:.100}"
        raise RefusedPickle(message)
    return text.encode("latin1")


def _no_bytes() -> bytes:
    """Return empty bytes, which old protocols wrote as a call of ``bytes``."""
    return b""


def _array(raw: bytes, kind: _Type, shape: tuple[Any, ...], order: Any) -> NDArray[np.generic]:
    is_shape = all(isinstance(size, int) and size >= 0 for size in shape)
    if not is_shape or math.prod(shape) * kind.dtype.itemsize != len(raw):
        message = f"the pickle has an array of the shape {shape!r:.100} in {len(raw)} bytes"
        raise RefusedPickle(message)
    values = np.frombuffer(raw, kind.dtype).reshape(shape, order=order)
    return values.astype(kind.dtype.newbyteorder("<"), order="C")


def _plain(found: object) -> object:
    """Return a loaded mapping with numpy's arrays, also in the mappings within it."""
    if isinstance(found, _PickledArray):
        return found.value
    if isinstance(found, dict):
        return {name: _plain(value) for name, value in found.items()}
    return found


_NUMBERS = re.compile(r"[biuf][1248]")
_ARRAY_TYPE = object()  # stands for the class of arrays, which is only ever named and cannot be called here
_ALLOWED: dict[tuple[str, str], Any] = {
    ("__builtin__", "bytes"): _no_bytes,
    ("builtins", "bytes"): _no_bytes,
    ("_codecs", "encode"): _encode,
    ("collections", "OrderedDict"): OrderedDict,
    ("numpy", "ndarray"): _ARRAY_TYPE,
    ("numpy", "dtype"): _Type,
    ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy.core.multiarray", "scalar"): _scalar,
    ("numpy.core.numeric", "_frombuffer"): _from_buffer,
}
