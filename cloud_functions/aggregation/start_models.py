"""The older models from which devices of a buffered run started, read slice by slice next to the updates.

In a synchronous round all devices start from the round's base. In a buffered run a device that trained while
others finished started from an older model, and its change is relative to that one. Each such model is read
once per slice, however many devices started from it, and its values are kept until the next slice: the memory
grows with the number of distinct models, which the run's ``max_staleness`` bounds, so slices are shortened by
that number.

Changes of arrays that gradients move are relative to the device's start. All other arrays, such as running
means and counts, are no changes but measurements: they are mixed into the current model as in Xie, Koyejo and
Gupta, "Asynchronous Federated Optimization" (2019), algorithm 1, so that each new value lies between the
current one and those of the devices. A variance thus stays above zero, whatever model it started from.
"""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from cloud_functions.aggregation.model_files import ModelReader, readable
from cloud_functions.aggregation.reader_threads import Block, ModelSlices
from cloud_functions.aggregation.server_step import Change, Mask
from fedgrass.federation import object_keys
from fedgrass.federation.aggregation.aggregation_strategy import Floats
from fedgrass.federation.errors import AggregationFailed
from fedgrass.federation.ports import Bucket
from fedgrass.federation.weights import Layout
from fedgrass.federation.weights.slices import Slice


class UnreadableStart(Exception):
    """An older model cannot be read; what was trained from it must not enter the average.

    Args:
        number: of the model.
        reason: why the updates that started from it are refused.
    """

    def __init__(self, number: int, reason: str) -> None:
        super().__init__(reason)
        self.number = number
        self.reason = reason


class StartModels:
    """The older models of a round's updates, opened when they are first read.

    Args:
        bucket: contains the models.
        run: the name of the run.
        base: number of the round's base.
        layout: of the round's base, which older models share.
        numbers: from which model each of the N updates started.
    """

    def __init__(self, bucket: Bucket, run: str, base: int, layout: Layout, numbers: Sequence[int]) -> None:
        self._bucket = bucket
        self._run = run
        self._base = base
        self._layout = layout
        self._numbers = np.array(numbers, dtype=np.int64)
        self._older = sorted({*numbers} - {base})
        self._readers: dict[int, ModelReader] = {}
        self._part: Slice | None = None
        self._values: dict[int, Floats] = {}

    def __len__(self) -> int:
        """Return the number of distinct older models."""
        return len(self._older)

    def places(self, number: int) -> list[int]:
        """Return the places of the updates that started from a model."""
        return [int(place) for place in np.flatnonzero(self._numbers == number)]

    def weights(self, kept: Floats) -> dict[int, float]:
        """Return the sum of the weights of the updates that started from each older model.

        Args:
            kept: weights of the N updates, float64 array of shape (N,).
        """
        return {number: float(kept[self._numbers == number].sum()) for number in self._older}

    def own(self, kept: Floats) -> float:
        """Return the sum of the weights of the updates that started from the round's base."""
        return float((kept[self._numbers == self._base] if self._older else kept).sum())

    def _older_in(self, places: range) -> Iterator[tuple[int, NDArray[np.int64]]]:
        """Yield each older model of some updates, and the rows, from 0, of those that started from it."""
        for number in self._older:
            rows = np.flatnonzero(self._numbers[places.start : places.stop] == number)
            if len(rows):
                yield number, rows

    def correct(
        self, change: Change, model: ModelSlices, weights: Mapping[int, float], mask: Mask | None
    ) -> None:
        """Correct the sum of a slice of updates by the older models from which some of them started.

        Full weights become changes by subtracting the start; the change of an averaged value is the value
        minus the base, whatever its start. Only differences of averaged values need their start added.

        Args:
            change: the sum, of which the weights of updates that started from the base are the share.
            model: the round's base.
            weights: the sum of the weights, each times its factor, of the updates of each older model.
            mask: the values that are averaged, shape (L,).

        Raises:
            UnreadableStart: one of the models cannot be read.
        """
        part = change.part
        if model.has_changes(part):
            if mask is not None and not model.is_carried(part):
                for number, weight in weights.items():
                    change.total += weight * np.where(mask, self.values(number, part) - change.model, 0)
            return
        for number, weight in weights.items():
            if mask is None:
                change.total -= weight * self.values(number, part)
            elif mask.all():
                change.total -= weight * change.model
            else:
                change.total -= weight * np.where(mask, change.model, self.values(number, part))

    def correct_rows(self, block: Block, model: ModelSlices, base: Floats | None, mask: Mask | None) -> None:
        """Correct the rows of a block whose devices started from older models; see :meth:`correct`.

        Args:
            block: of values minus ``base``; of changes as devices sent them if that is None.
            model: the round's base.
            base: its values, shape (L,).
            mask: the values that are averaged, shape (L,).

        Raises:
            UnreadableStart: one of the models cannot be read.
        """
        part = block.part
        for number, rows in self._older_in(block.places):
            if base is not None:
                gap = base - self.values(number, part)
                if mask is not None:
                    gap[mask] = 0
            elif mask is not None and not model.is_carried(part):
                gap = np.where(mask, self.values(number, part) - model.values(part), 0)
            else:
                return
            block.rows[rows] += gap.astype(part.dtype)

    def of(self, place: int) -> int | None:
        """Return the older model from which an update started; None if it started from the round's base."""
        number = int(self._numbers[place]) if self._older else self._base
        return None if number == self._base else number

    def values(self, number: int, part: Slice) -> Floats:
        """Return a slice of an older model, float64 array of shape (L,), which must not be changed.

        Raises:
            UnreadableStart: the model is missing, damaged, or has other arrays than the round's base.
        """
        if self._part is not part:
            self._part, self._values = part, {}
        if number not in self._values:
            try:
                self._values[number] = self._read(number, part)
            except AggregationFailed as error:
                reason = f"it started from model {number}, without which its change is unknown: {error}"
                raise UnreadableStart(number, reason) from error
        return self._values[number]

    def _read(self, number: int, part: Slice) -> Floats:
        """Return a slice of an older model. Raises AggregationFailed if it cannot be read."""
        key = object_keys.model(self._run, number)
        if number not in self._readers:
            with readable(key):
                found = self._bucket.read_layout(key)
            if found.arrays != self._layout.arrays:
                message = f"{key} has other arrays than the model that the round changes"
                raise AggregationFailed(message)
            self._readers[number] = ModelReader(self._bucket, key, found)
        values = self._readers[number].values(part)
        if not np.isfinite(values).all():
            message = f"{key} has values that are not finite, near array {part.pieces[0].name!r}"
            raise AggregationFailed(message)
        return values
