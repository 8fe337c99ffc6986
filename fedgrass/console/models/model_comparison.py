"""What differs between two models, array by array. Both are read in pieces; no array is held as a whole."""

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from fedgrass.console import stack
from fedgrass.console.models.model_catalogue import ModelCatalogue
from fedgrass.console.results import show_result
from fedgrass.console.runs.fleet_operator import Operator, open_operator
from fedgrass.console.tables import show, table
from fedgrass.console.terminal import say
from fedgrass.federation import object_keys
from fedgrass.federation.encodings.array_types import bfloat16_to_float32
from fedgrass.federation.errors import SettingsError, UpdateRefused
from fedgrass.federation.weights import DTYPES, PREFIX, Array, Layout, header_size, read_layout

_PIECE = 256 * 1024  # values of an array that are compared at once
_MOST_SHOWN = 40  # rows of the text; the JSON form has all arrays


class ModelReader(Protocol):
    """A weights file that is read in pieces."""

    def layout(self) -> Layout:
        """Return what it contains. Raises UpdateRefused."""

    def read_into(self, start: int, target: memoryview) -> None:
        """Fill ``target`` with the bytes from ``start`` on. Raises UpdateRefused."""


class ArrayDifference(Struct, frozen=True, kw_only=True):
    """An array that both models have in the same shape. Norms are Euclidean, computed in float64.

    Attributes:
        array: its name.
        shape: its shape.
        dtype_before: its type in the first model, such as ``F32``.
        dtype_after: its type in the second one.
        norm_before: of its values in the first model; null: a value is not finite.
        norm_after: of its values in the second one.
        norm_difference: of second minus first.
        largest_difference: the largest absolute difference of two values.
        cosine: of the angle between both; null: one of them is zero or not finite.
        is_equal: whether all values are the same.
    """

    array: str
    shape: list[int]
    dtype_before: str
    dtype_after: str
    norm_before: float | None
    norm_after: float | None
    norm_difference: float | None
    largest_difference: float | None
    cosine: float | None
    is_equal: bool


class ReshapedArray(Struct, frozen=True, kw_only=True):
    """An array whose shape differs between the models.

    Attributes:
        array: its name.
        shape_before: in the first model.
        shape_after: in the second one.
    """

    array: str
    shape_before: list[int]
    shape_after: list[int]


class ModelDifference(Struct, frozen=True, kw_only=True):
    """What differs between two models.

    Attributes:
        before: name of the first model: RUN/ROUND, or a file.
        after: name of the second one.
        arrays: those that both have in the same shape, in the order of their names.
        reshaped: those whose shape differs.
        removed: names of arrays that only the first model has.
        added: names of arrays that only the second model has.
        norm_difference: of all arrays together, second minus first; null: a value is not finite.
        cosine: of all arrays together; null: one of them is zero or not finite.
    """

    before: str
    after: str
    arrays: list[ArrayDifference]
    reshaped: list[ReshapedArray]
    removed: list[str]
    added: list[str]
    norm_difference: float | None
    cosine: float | None


@stack.refusals()
def diff(stack_name: str, output: str, *, before: str, after: str, task: str) -> None:
    """Show what differs between two models.

    Args:
        stack_name: the stack.
        output: ``text`` or ``json``.
        before: RUN/ROUND, an alias of the task, or a safetensors file.
        after: as ``before``.
        task: of aliases.
    """
    with_stack: list[Operator] = []

    def operator() -> Operator:
        if not with_stack:  # two files need no stack
            with_stack.append(open_operator(stack_name))
        return with_stack[0]

    first, first_name = _reader(operator, before, task)
    second, second_name = _reader(operator, after, task)
    show_result(compare_models(first, second, first_name, second_name), output, draw_difference)


def compare_models(first: ModelReader, second: ModelReader, before: str, after: str) -> ModelDifference:
    """Return what differs between two models.

    Raises:
        SettingsError: one is not a model; the text names it.
    """
    there, here = _layout(first, before), _layout(second, after)
    names = sorted(there.arrays.keys() & here.arrays.keys())
    common = [name for name in names if there.arrays[name].shape == here.arrays[name].shape]
    sums = {name: _compare(name, first, second, there, here) for name in common}
    total = sum(sums.values(), start=_Sums())
    return ModelDifference(
        before=before,
        after=after,
        arrays=[
            ArrayDifference(
                array=name,
                shape=list(there.arrays[name].shape),
                dtype_before=there.arrays[name].dtype,
                dtype_after=here.arrays[name].dtype,
                norm_before=_root(found.before),
                norm_after=_root(found.after),
                norm_difference=_root(found.difference),
                largest_difference=found.largest if math.isfinite(found.largest) else None,
                cosine=found.cosine,
                is_equal=found.is_equal,
            )
            for name, found in sums.items()
        ],
        reshaped=[
            ReshapedArray(
                array=name,
                shape_before=list(there.arrays[name].shape),
                shape_after=list(here.arrays[name].shape),
            )
            for name in names
            if name not in sums
        ],
        removed=sorted(there.arrays.keys() - here.arrays.keys()),
        added=sorted(here.arrays.keys() - there.arrays.keys()),
        norm_difference=_root(total.difference),
        cosine=total.cosine,
    )


class _Sums(Struct):
    """Sums over the values of an array: of squares, of products, and of squared differences."""

    before: float = 0.0
    after: float = 0.0
    product: float = 0.0
    difference: float = 0.0
    largest: float = 0.0
    is_equal: bool = True

    def __add__(self, other: "_Sums") -> "_Sums":
        return _Sums(
            self.before + other.before,
            self.after + other.after,
            self.product + other.product,
            self.difference + other.difference,
            max(self.largest, other.largest),
            self.is_equal and other.is_equal,
        )

    @property
    def cosine(self) -> float | None:
        """The cosine of the angle between both; None if one is zero or not finite."""
        norms = math.sqrt(self.before) * math.sqrt(self.after) if min(self.before, self.after) >= 0 else 0.0
        if not norms or not math.isfinite(norms) or not math.isfinite(self.product):
            return None
        return max(-1.0, min(1.0, self.product / norms))


def _compare(name: str, first: ModelReader, second: ModelReader, there: Layout, here: Layout) -> _Sums:
    found = _Sums()
    pairs = zip(_pieces(first, there, name), _pieces(second, here, name), strict=True)
    with np.errstate(all="ignore"):  # what is not finite becomes null
        for before, after in pairs:
            step = after - before
            found += _Sums(
                float(before @ before),
                float(after @ after),
                float(before @ after),
                float(step @ step),
                float(np.max(np.abs(step), initial=0.0)),
                bool(np.array_equal(before, after)),
            )
    return found


def _pieces(model: ModelReader, layout: Layout, name: str) -> Iterator[NDArray[np.float64]]:
    """Yield the values of an array as float64, in its order."""
    array: Array = layout.arrays[name]
    dtype, values = DTYPES[array.dtype], math.prod(array.shape)
    for start in range(0, values, _PIECE):
        buffer = bytearray(min(_PIECE, values - start) * dtype.itemsize)
        model.read_into(layout.header_bytes + array.start + start * dtype.itemsize, memoryview(buffer))
        raw = np.frombuffer(buffer, dtype)
        plain = bfloat16_to_float32(raw) if array.dtype == "BF16" else raw
        yield plain.astype(np.float64)


def _root(square: float) -> float | None:
    return math.sqrt(square) if math.isfinite(square) else None


def _layout(model: ModelReader, name: str) -> Layout:
    try:
        return model.layout()
    except (UpdateRefused, KeyError) as error:
        message = f"{name} is not a model in safetensors format: {error}"
        raise SettingsError(message) from error


class _Objects(Protocol):
    def read_layout(self, key: str) -> Layout: ...

    def read_into(self, key: str, start: int, target: memoryview, version: str = "") -> str: ...


class BucketModel:
    """A model in the bucket."""

    def __init__(self, bucket: _Objects, key: str) -> None:
        self._bucket, self._key = bucket, key
        self._version = ""

    def layout(self) -> Layout:
        """Return what it contains; see ``ModelReader``."""
        return self._bucket.read_layout(self._key)

    def read_into(self, start: int, target: memoryview) -> None:
        """Fill ``target``; see ``ModelReader``."""
        self._version = self._bucket.read_into(self._key, start, target, self._version)


class FileModel:
    """A model in a local file."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def layout(self) -> Layout:
        """Return what it contains; see ``ModelReader``."""
        size = self._path.stat().st_size
        with self._path.open("rb") as file:
            prefix = file.read(PREFIX)
            head = prefix + file.read(header_size(prefix, size) - len(prefix))
        return read_layout(head, size)

    def read_into(self, start: int, target: memoryview) -> None:
        """Fill ``target``; see ``ModelReader``."""
        with self._path.open("rb") as file:
            file.seek(start)
            if file.readinto(target) != len(target):
                message = f"{self._path} ends at byte {self._path.stat().st_size}"
                raise UpdateRefused(message)


def _reader(operator: Callable[[], Operator], given: str, task: str) -> tuple[ModelReader, str]:
    path = Path(given)
    if path.is_file():
        return FileModel(path), given
    if given.endswith(".safetensors"):
        message = f"there is no file {given}"
        raise SettingsError(message)
    catalogue = ModelCatalogue(operator())
    entry = catalogue.entry(catalogue.resolve(given, task))
    return BucketModel(operator().bucket, object_keys.model(entry.run, entry.round)), entry.model


def draw_difference(found: ModelDifference) -> None:
    """Print a row per array that differs."""
    changed = [
        array for array in found.arrays if not array.is_equal or array.dtype_before != array.dtype_after
    ]
    say(
        f"{found.before} -> {found.after}: {len(found.arrays)} arrays in common, {len(changed)} differ;"
        f" norm of the difference {_figure(found.norm_difference)}, cosine {_figure(found.cosine)}"
    )
    rows = [
        (
            array.array,
            "x".join(map(str, array.shape)) or "scalar",
            array.dtype_before
            if array.dtype_before == array.dtype_after
            else f"{array.dtype_before} -> {array.dtype_after}",
            _figure(array.norm_before),
            _figure(array.norm_after),
            _figure(array.norm_difference),
            _figure(array.largest_difference),
            _figure(array.cosine),
        )
        for array in sorted(changed, key=lambda one: -(one.norm_difference or math.inf))[:_MOST_SHOWN]
    ]
    if rows:
        show(table("array", "shape", "type", "norm", "then", "difference", "largest", "cosine", rows=rows))
    if len(changed) > _MOST_SHOWN:
        say(f"and {len(changed) - _MOST_SHOWN} more arrays: --output json has all")
    for array in found.reshaped:
        say(f"{array.array}: shape {tuple(array.shape_before)} -> {tuple(array.shape_after)}")
    for name in found.removed:
        say(f"{name}: only in {found.before}")
    for name in found.added:
        say(f"{name}: only in {found.after}")


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"
