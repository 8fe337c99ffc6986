"""What a round counts, read from the reply of an app: its arrays, its number of examples, its metrics."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from math import isfinite

import numpy as np
from numpy.typing import NDArray

from components.runtime.component_errors import WorkFailed
from components.trainer.flower.serialised_arrays import NUMPY, array_in
from fedgrass.federation.errors import UpdateRefused
from fedgrass.federation.messages import message_fields
from fedgrass.federation.task_messages.message_content import ArrayEntry, Record, carried
from fedgrass.federation.weights import Arrays

_NAMED = 5  # arrays in an error
_UNFIT = re.compile(r"[^A-Za-z0-9_./:@ -]")  # characters that no name of a metric has
Numbers = Mapping[str, object]


def arrays_of_reply(
    records: Sequence[Record], data: Sequence[bytes], key: str
) -> dict[str, tuple[ArrayEntry, bytes]]:
    """Return the serialised arrays of a reply by name.

    Args:
        records: of the reply.
        data: of the arrays of all records.
        key: of the record with the model's arrays; another one is taken if it is the only
            one, as Flower does.

    Raises:
        WorkFailed: there is no such record.
    """
    record = _record(records, "arrays", key)
    if record is None:
        names = [each.name for each in records if each.kind == "arrays"]
        reason = f"has the ArrayRecords {_listed(names)}" if names else "has no ArrayRecord"
        message = (
            f"the reply of the app's train function {reason}; the trained arrays are expected under the key"
            f" {key!r} (the task's option arrays_key)"
        )
        raise WorkFailed(message)
    parts = zip(carried(records), data, strict=True)
    wanted = set(map(id, record.arrays))
    return {entry.name: (entry, each) for entry, each in parts if id(entry) in wanted}


def update_of(arrays: Mapping[str, tuple[str, bytes]], model: Arrays) -> dict[str, NDArray[np.generic]]:
    """Return the trained arrays, in their own types, after a check against the model.

    Args:
        arrays: form of serialisation and data by name.
        model: the arrays from which the app started.

    Raises:
        WorkFailed: names, shapes or kinds of types differ, or an array cannot be read; the text names it.
    """
    if different := [*_difference("lacks", model, arrays), *_difference("adds", arrays, model)]:
        message = f"the arrays of the app's reply are not the model's: it {' and '.join(different)}"
        raise WorkFailed(message)
    return {name: _checked(name, *arrays[name], model[name]) for name in model}


def _checked(name: str, form: str, data: bytes, expected: NDArray[np.generic]) -> NDArray[np.generic]:
    if form != NUMPY:
        message = f"array {name!r} of the app's reply has the form {form!r}; fedgrass averages {NUMPY!r}"
        raise WorkFailed(message)
    try:
        array = array_in(data, name)
    except UpdateRefused as error:
        message = f"the app's reply is not usable: {error}"
        raise WorkFailed(message) from error
    if array.shape != expected.shape:
        message = (
            f"array {name!r} of the app's reply has the shape {array.shape}, the model has {expected.shape}"
        )
        raise WorkFailed(message)
    if array.dtype != expected.dtype and not _is_convertible(array.dtype.kind, expected.dtype.kind):
        message = (
            f"array {name!r} of the app's reply has the type {array.dtype}, the model has {expected.dtype}"
        )
        raise WorkFailed(message)
    return array


def _is_convertible(kind: str, expected: str) -> bool:
    """Return whether values of a kind of type become those of another one when the update is written."""
    return (kind == "f" and expected == "f") or (kind in "iu" and expected in "iu")


def examples_of_reply(metrics: Numbers, key: str, what: str, smallest: int) -> int:
    """Return the number of examples in the metrics of a reply.

    Args:
        metrics: by name.
        key: of the number of examples.
        what: the app's function, for errors.
        smallest: number that is allowed.

    Raises:
        WorkFailed: it is missing, or no whole number from ``smallest``.
    """
    if key not in metrics:
        message = (
            f"the reply of the app's {what} function has no {key!r} in a MetricRecord"
            f" (it has {_listed(metrics)}): fedgrass weights by the number of examples; return it under that"
            " key, or name the app's own key by the task's option examples_key"
        )
        raise WorkFailed(message)
    count = metrics[key]
    if isinstance(count, int | float) and isfinite(count) and int(count) == count and count >= smallest:
        return int(count)
    message = (
        f"the reply of the app's {what} function has {key} = {count!r};"
        f" it takes a whole number from {smallest}"
    )
    raise WorkFailed(message)


def metrics_of_reply(records: Sequence[Record], key: str) -> dict[str, object]:
    """Return the values of all MetricRecords by name; a name that several have belongs to the first.

    Args:
        records: of the reply.
        key: of the record that comes first.
    """
    ordered = sorted((r for r in records if r.kind == "metrics"), key=lambda record: record.name != key)
    found: dict[str, object] = {}
    for record in ordered:
        for name, value in record.values.items():
            found[f"{record.name}.{name}" if name in found else name] = value
    return found


def sendable_names(metrics: Numbers) -> dict[str, object]:
    """Return metrics under names that messages carry: short ones, with ``_`` for other characters."""
    found: dict[str, object] = {}
    for name, value in metrics.items():
        found[_free(_UNFIT.sub("_", name)[: message_fields.LONGEST_METRIC_NAME] or "_", found)] = value
    return found


def single_numbers(metrics: Numbers) -> dict[str, float]:
    """Return those metrics that are single finite numbers."""
    return {
        name: float(value)
        for name, value in metrics.items()
        if isinstance(value, int | float) and not isinstance(value, bool) and isfinite(value)
    }


def _free(name: str, taken: Mapping[str, object]) -> str:
    number, found = 1, name
    while found in taken:
        number += 1
        end = f"_{number}"
        found = name[: message_fields.LONGEST_METRIC_NAME - len(end)] + end
    return found


def _record(records: Iterable[Record], kind: str, key: str) -> Record | None:
    """Return the record of a kind with a key, or the only one of the kind."""
    of_kind = [record for record in records if record.kind == kind]
    named = [record for record in of_kind if record.name == key]
    if named:
        return named[0]
    return of_kind[0] if len(of_kind) == 1 else None


def _difference(verb: str, names: Iterable[str], others: Iterable[str]) -> Iterator[str]:
    if more := sorted(set(names) - set(others)):
        yield f"{verb} {_listed(more)}"


def _listed(names: Iterable[str]) -> str:
    shown = list(map(repr, names))
    rest = [f"{len(shown) - _NAMED} more"] if len(shown) > _NAMED else []
    return ", ".join(shown[:_NAMED] + rest) or "nothing"
