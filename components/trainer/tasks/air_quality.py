"""Air quality in Beijing: hourly PM2.5 at twelve stations from 2013 to 2017; each device is one station.

A regression of the PM2.5 concentration in ug/m3 from the other pollutants, the weather and the time, as for a
station whose PM2.5 sensor has failed. The data set is "Beijing Multi-Site Air Quality" of the UCI Machine
Learning Repository (Zhang et al., Proceedings of the Royal Society A 473, 2017): a CSV file per station. Rows
with a missing value ("NA") are skipped.
"""

import csv
import datetime as dt
import io
import math
from collections.abc import Iterable, Iterator
from functools import cache, partial
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from components.runtime.component_errors import ConfigurationError
from components.trainer.tasks.data_sets import Publication
from components.trainer.tasks.partition import Option, Partition, parse_partition
from components.trainer.tasks.task import Evaluation
from components.trainer.training import TorchTask, TrainingSettings, load_arrays
from fedgrass.federation.weights import Arrays

_ADDRESS = (
    "https://archive.ics.uci.edu/static/public/501/beijing+multi+site+air+quality+data.zip, and unpack it"
)
_FILES = "PRSA_Data_*_20130301-20170228.csv"
# Mean and standard deviation of each column over all stations until the end of 2016, rounded. Constants, not
# computed per device: they are part of the model, so every device must use the same values.
_COLUMNS = {
    "PM10": (104, 90),
    "SO2": (15.5, 21),
    "NO2": (50, 35),
    "CO": (1216, 1122),
    "O3": (58, 57),
    "TEMP": (14, 11.3),
    "PRES": (1010, 10.3),
    "DEWP": (3, 13.6),
    "RAIN": (0.07, 0.84),
    "WSPM": (1.7, 1.2),
}
_TARGET, _TARGET_MEAN, _TARGET_DEVIATION = "PM2.5", 79.0, 78.6
_WINDS = ["N", "NNE", "NE", "ENE", "E", "ESE", "SE", "SSE", "S", "SSW", "SW", "WSW", "W", "WNW", "NW", "NNW"]
FEATURES = len(_COLUMNS) + 6  # plus wind direction, hour and day of the year, each as a point on a circle
_TEST_FROM = dt.date(2017, 1, 1)  # the global model is evaluated on 2017 at all stations; never trained on
_HELD_OUT_WEEK = 10  # every tenth week is held out for the device's evaluation: hours of a day are correlated
_DEFAULTS = TrainingSettings(epochs=2, learning_rate=0.01, momentum=0.9, batch_size=64)
Row = tuple[dt.date, list[float], float]  # day, features, PM2.5 in ug/m3


class AirQuality(TorchTask):
    """Air quality at one station, or at a share of the stations.

    Args:
        folder: where the stations' CSV files are, plain or compressed by gzip.
        station: the name of this device's station, such as ``Tiantan``; empty: given by the share.
        partition_options: ``share`` and ``shares``, by which stations are assigned to devices; share 0 of 12
            is the first station.
    """

    def __init__(self, folder: str = "", station: str = "", **partition_options: Option) -> None:
        partition = parse_partition("air_quality", partition_options, own=("folder", "station"))
        publication = Publication("air_quality", "Beijing Multi-Site Air Quality", _ADDRESS, folder)
        paths = stations(publication)
        own = [
            row
            for name in chosen_stations(list(paths), station, partition)
            for row in publication.once(name, partial(read, publication, paths[name]))
        ]
        early = [row for row in own if row[0] < _TEST_FROM]
        held_out = [row for row in early if row[0].toordinal() // 7 % _HELD_OUT_WEEK == 0]
        training = [row for row in early if row[0].toordinal() // 7 % _HELD_OUT_WEEK]
        super().__init__(
            make_model, to_tensors(training), to_tensors(held_out), defaults=_DEFAULTS, loss=scaled_loss
        )
        self._read_test = cache(
            lambda: to_tensors(
                [row for path in paths.values() for row in read(publication, path) if row[0] >= _TEST_FROM]
            )
        )

    def evaluate_held_out(self, weights: Arrays) -> Evaluation:
        """Evaluate a model on 2017 at all stations, which no device trains on."""
        load_arrays(self._model, weights)
        return self.measure(self._read_test())


class Micrograms(nn.Module):
    """Last layer: scales outputs near 0 to ug/m3."""

    def forward(self, outputs: Tensor) -> Tensor:
        """Return float32 of shape (n,) for outputs of shape (n, 1)."""
        return outputs.squeeze(1) * _TARGET_DEVIATION + _TARGET_MEAN


def make_model() -> nn.Module:
    """Return three linear layers from 16 features to PM2.5 in ug/m3: 3,201 parameters."""
    return nn.Sequential(
        nn.Linear(FEATURES, 64), nn.ReLU(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 1), Micrograms()
    )


def scaled_loss(outputs: Tensor, targets: Tensor) -> Tensor:
    """Return the mean squared error divided by the target's variance: 1 for a model that outputs the mean."""
    return nn.functional.mse_loss(outputs, targets) / _TARGET_DEVIATION**2


def stations(publication: Publication) -> dict[str, Path]:
    """Return the files of the stations by station name, in alphabetical order.

    Raises:
        ConfigurationError: neither the folder nor its subfolders contain one.
    """
    found = [path for pattern in (_FILES, f"{_FILES}.gz") for path in publication.path.rglob(pattern)]
    if not found:
        publication.find(_FILES)  # raises the error that names the missing files and where to download them
    return {path.name.split("_")[2]: path for path in sorted(found)}


def chosen_stations(names: list[str], station: str, partition: Partition) -> list[str]:
    """Return the configured station, or those of this device's share.

    Raises:
        ConfigurationError: the station does not exist, or there are fewer stations than shares.
    """
    if not station:
        by_station = Partition(share=partition.share, shares=partition.shares, split="column")
        return [names[place] for place in by_station.places(names)]
    if station not in names:
        message = f"task 'air_quality' has no station {station!r}; the folder has: {', '.join(names)}"
        raise ConfigurationError(message)
    return [station]


def read(publication: Publication, path: Path) -> Iterator[Row]:
    """Yield day, features and PM2.5 of each hour of a station for which all values are present.

    Raises:
        ConfigurationError: the file lacks a column, or a value is not a number.
    """
    text = publication.read(path).decode(errors="replace")
    table = csv.DictReader(io.StringIO(text, newline=""))
    try:
        _check_columns(table.fieldnames or ())
        for line in table:
            if all(line[name] != "NA" for name in (_TARGET, "wd", *_COLUMNS)):
                yield _row(line)
    except (TypeError, ValueError, OverflowError, csv.Error) as error:
        raise publication.damaged(path, f"line {table.line_num}: {error}") from error


def _check_columns(found: Iterable[str]) -> None:
    required = {"year", "month", "day", "hour", "wd", _TARGET, *_COLUMNS}
    if missing := sorted(required - set(found)):
        message = f"no column {missing[0]!r}"
        raise ValueError(message)


def to_tensors(rows: list[Row]) -> TensorDataset:
    """Return features, float32 of shape (n, 16), and PM2.5 in ug/m3, float32 of shape (n,)."""
    features = torch.tensor([row[1] for row in rows]).reshape(-1, FEATURES)
    return TensorDataset(features, torch.tensor([row[2] for row in rows]))


def _row(line: dict[str, str]) -> Row:
    day = dt.date(int(line["year"]), int(line["month"]), int(line["day"]))
    scaled = [(float(line[name]) - mean) / deviation for name, (mean, deviation) in _COLUMNS.items()]
    turns = (_WINDS.index(line["wd"]) / len(_WINDS), int(line["hour"]) / 24, day.timetuple().tm_yday / 366)
    circles = [part(2 * math.pi * turn) for turn in turns for part in (math.sin, math.cos)]
    target = float(line[_TARGET])
    if not all(map(math.isfinite, [*scaled, target])):
        message = "a value is not finite"
        raise ValueError(message)
    return day, scaled + circles, target
