"""The file of a learning curve: the metrics of each global model, from an earlier run or made up.

A CSV file whose first column is ``round``, the number of the model (0: the initial one), or ``updates``, how
many updates all models up to it have counted. The other columns are metrics, such as ``accuracy``:

    updates,accuracy,loss
    0,0.1,2.3
    1000,0.81,0.62
    10000,0.93,0.24

Between two rows, the metrics are interpolated linearly; after the last one they stay.
"""

import csv
import math
import re
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from pathlib import Path

from fedgrass.federation.errors import SettingsError

ROUND, UPDATES = "round", "updates"
_METRIC = re.compile(r"[A-Za-z][A-Za-z0-9_./:@ -]{0,63}")
_ACCURACY = "accuracy"


class LearningCurve:
    """The metrics of global models.

    Args:
        by: the column by which rows are found: ``round`` or ``updates``.
        places: its values, increasing.
        metrics: the values of each metric in the same rows, by name.
    """

    def __init__(self, by: str, places: Sequence[float], metrics: Mapping[str, Sequence[float]]) -> None:
        self.by = by
        self._places = places
        self._metrics = metrics

    def at(self, number: int, updates: int) -> dict[str, float]:
        """Return the metrics of a global model.

        Args:
            number: of the model.
            updates: that all models up to it have counted.
        """
        place = number if self.by == ROUND else updates
        after = bisect_right(self._places, place)
        if after in {0, len(self._places)}:
            row = min(after, len(self._places) - 1)
            return {name: values[row] for name, values in self._metrics.items()}
        start, end = self._places[after - 1], self._places[after]
        share = (place - start) / (end - start)
        return {
            name: values[after - 1] + share * (values[after] - values[after - 1])
            for name, values in self._metrics.items()
        }


def load_curve(path: Path) -> LearningCurve:
    """Return the learning curve of a file.

    Raises:
        SettingsError: the file cannot be read, or a value in it cannot be used; the text names the line.
    """
    try:
        rows = list(csv.reader(path.read_text(encoding="utf-8-sig").splitlines()))
    except OSError as error:
        message = f"the learning curve {path} cannot be read: {error.strerror}"
        raise SettingsError(message) from error
    except (UnicodeDecodeError, csv.Error) as error:
        message = f"the learning curve {path} is no CSV file: {error}"
        raise SettingsError(message) from error
    names = _names(path, rows)
    places: list[float] = []
    metrics: dict[str, list[float]] = {name: [] for name in names[1:]}
    for line, row in enumerate(rows[1:], 2):
        if not row:
            continue
        where = f"line {line} of the learning curve {path}"
        if len(row) != len(names):
            message = f"{where} has {len(row)} values; its first line has {len(names)} columns"
            raise SettingsError(message)
        places.append(_place(where, names[0], row[0], places))
        for name, text in zip(names[1:], row[1:], strict=True):
            metrics[name].append(_metric(where, name, text))
    if not places:
        message = f"the learning curve {path} has no rows"
        raise SettingsError(message)
    return LearningCurve(names[0], places, metrics)


def _names(path: Path, rows: Sequence[Sequence[str]]) -> list[str]:
    names = [name.strip() for name in rows[0]] if rows else []
    if not names or names[0] not in {ROUND, UPDATES}:
        found = f"is {names[0]!r}" if names else "is missing"
        message = (
            f"the first column of the learning curve {path} {found}: it must be {ROUND} or {UPDATES}, the"
            " others are metrics"
        )
        raise SettingsError(message)
    if len(names) == 1:
        message = f"the learning curve {path} has no metrics besides its column {names[0]!r}"
        raise SettingsError(message)
    for name in names[1:]:
        if name in {ROUND, UPDATES} or names.count(name) > 1 or not _METRIC.fullmatch(name):
            message = (
                f"the learning curve {path} has the column {name!r}: after {names[0]} come metrics, each"
                " once, with names of letters, digits and _./:@ -"
            )
            raise SettingsError(message)
    return names


def _place(where: str, name: str, text: str, earlier: Sequence[float]) -> float:
    value = _number(where, name, text)
    if value < 0 or value != int(value) or (earlier and value <= earlier[-1]):
        message = f"{where} has the {name} {text.strip()}: it takes whole numbers from 0 that increase"
        raise SettingsError(message)
    return value


def _metric(where: str, name: str, text: str) -> float:
    value = _number(where, name, text)
    if name == _ACCURACY and not 0 <= value <= 1:
        message = f"{where} has the {name} {text.strip()}: it is a share, from 0 to 1"
        raise SettingsError(message)
    return value


def _number(where: str, name: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        found = f"{text.strip()!r}" if text.strip() else "no value"
        message = f"{where} has {found} in the column {name!r}: it takes a finite number"
        raise SettingsError(message)
    return value
