"""The roles of arrays: trained by gradients or not, and the auxiliary state that an update carries."""

import json
import math
import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence

import msgspec
from msgspec import Struct

from fedgrass.federation.errors import SettingsError
from fedgrass.federation.weights import DTYPES, Array, Layout, in_file_order
from fedgrass.federation.weights.weights_layout import FLOATS

_BYTES = DTYPES["F32"].itemsize


def auxiliary_name(what: str, array: str) -> str:
    """Return the name of the array with the auxiliary state ``what`` of a model's array."""
    return f"{what}:{array}"


def model_array_of(name: str, model: Layout) -> str:
    """Return the model's array that ``name`` or the auxiliary array ``name`` belongs to."""
    return name if name in model.arrays else name.partition(":")[2]


def auxiliary_layout(model: Layout, carried: Sequence[str], start: int = 0) -> Layout:
    """Return the layout of the auxiliary arrays of a model's updates, the first at byte ``start``."""
    arrays, position = {}, start
    for what in carried:
        for name, array in in_file_order(model).items():
            if array.dtype in FLOATS:
                end = position + math.prod(array.shape) * _BYTES
                arrays[auxiliary_name(what, name)] = Array("F32", array.shape, position, end)
                position = end
    return Layout(arrays, 0, position - start)


def update_layout(model: Layout, carried: Sequence[str]) -> Layout:
    """Return the layout of an update: the model's arrays and the auxiliary ones; without a header.

    Raises:
        SettingsError: The model has an array with the name of an auxiliary one.
    """
    more = auxiliary_layout(model, carried, model.data_bytes)
    for name in more.arrays.keys() & model.arrays.keys():
        message = f"the model has an array {name!r}, the name of an auxiliary array of its updates: rename it"
        raise SettingsError(message)
    return Layout({**model.arrays, **more.arrays}, 0, model.data_bytes + more.data_bytes)


TRAINED = "trained"  # the entry of the header's metadata
# BatchNorm of PyTorch (running_mean, running_var, num_batches_tracked), Keras (moving_mean, moving_variance),
# Flax (batch_stats/...), and a variance by its plain name.
_STATISTIC = re.compile(
    r"(running|moving|population)_(mean|var|std|avg|average)|num_batches_tracked|batch_stats"
    r"|(^|[./:])(var|variance)$",
    re.IGNORECASE,
)


class Votes(Struct, frozen=True):
    """The votes of the updates of a round, or of a part of it."""

    updates: int = 0
    declared: int = 0  # updates with a declaration; the others voted by names
    trained: list[int] = []  # votes for each array of the model, in the order of its file

    def __add__(self, other: "Votes") -> "Votes":
        """Return the sum of both votes; ``NO_VOTES`` is neutral."""
        if not (self.updates and other.updates):
            return self if self.updates else other
        trained = [one + more for one, more in zip(self.trained, other.trained, strict=True)]
        return Votes(self.updates + other.updates, self.declared + other.declared, trained)

    @property
    def is_declared(self) -> bool:
        """Whether more than half of the updates have a declaration."""
        return 2 * self.declared > self.updates


NO_VOTES = Votes()
# Created here, before any thread can: see messages/message_codec.py.
_NAMES = msgspec.json.Decoder(frozenset[str])


def trained_metadata(trained: Collection[str] | None) -> dict[str, str]:
    """Return the header entry that declares the arrays ``trained``; empty if they are not known."""
    if trained is None:
        return {}
    return {TRAINED: json.dumps(sorted(trained), separators=(",", ":"), ensure_ascii=False)}


def declared_names(declaration: str) -> frozenset[str] | None:
    """Return the arrays that a declaration names; None if it is empty or not a JSON list of names."""
    try:
        return _NAMES.decode(declaration)
    except (msgspec.DecodeError, UnicodeEncodeError, RecursionError):
        return None


def is_statistic(name: str) -> bool:
    """Return whether an array's name looks like that of a statistic, which no gradient moves."""
    return _STATISTIC.search(name) is not None


def statistics_among(arrays: Iterable[str], trained: Collection[str] | None) -> frozenset[str]:
    """Return the arrays that no gradient moves: all but ``trained``, or by their names if that is None."""
    return frozenset(
        name for name in arrays if (is_statistic(name) if trained is None else name not in trained)
    )


def count_votes(arrays: Sequence[str], declarations: Iterable[str]) -> Votes:
    """Return the votes of some updates.

    Args:
        arrays: Names of the model's arrays, in the order of its file.
        declarations: The declaration of each update; empty for an update without one.
    """
    totals, updates, declared = [0] * len(arrays), 0, 0
    for text, count in Counter(declarations).items():  # usually all updates have the same one
        trained = declared_names(text)
        statistics = statistics_among(arrays, trained)
        updates += count
        declared += count if trained is not None else 0
        for place, name in enumerate(arrays):
            totals[place] += count if name not in statistics else 0
    return Votes(updates, declared, totals)


def averaged_arrays(arrays: Sequence[str], votes: Votes) -> frozenset[str]:
    """Return the arrays that are averaged and not stepped: at most half of the votes are for a step."""
    counts: Mapping[str, int] = dict(zip(arrays, votes.trained, strict=True))
    return frozenset(name for name, count in counts.items() if 2 * count <= votes.updates)
