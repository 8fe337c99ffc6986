"""Beijing's air: PM2.5 at twelve stations, hour by hour 2013 to 2017; one station is one device.

A regression: the fine dust of an hour, in ug/m3, from the other pollutants, the weather and the time, as a
station would need it whose dust sensor has failed. The data are "Beijing Multi-Site Air Quality" of the UCI
Machine Learning Repository (Zhang et al., Proceedings of the Royal Society A 473, 2017), a CSV file per
station. Rows with a missing value ("NA") are left out.
"""

import csv
import datetime as dt
import io
import math
from collections.abc import Iterable, Iterator
from functools import cache
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

ADDRESS = (
    "https://archive.ics.uci.edu/static/public/501/beijing+multi+site+air+quality+data.zip, and unpack it"
)
FILES = "PRSA_Data_*_20130301-20170228.csv"
# Column: mean and standard deviation over all stations until the end of 2016, rounded. They are part of the
# model, so they stand here and are not computed per device: every device has to scale alike.
COLUMNS = {
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
TARGET, TARGET_MEAN, TARGET_DEVIATION = "PM2.5", 79.0, 78.6
WINDS = ["N", "NNE", "NE", "ENE", "E", "ESE", "SE", "SSE", "S", "SSW", "SW", "WSW", "W", "WNW", "NW", "NNW"]
FEATURES = len(COLUMNS) + 6  # and wind, hour and month, each as a point on a circle
JUDGED_FROM = dt.date(2017, 1, 1)  # by the judge of the global model, at all stations; never trained on
HELD_OUT_WEEK = 10  # every tenth week is the device's own for evaluation: hours of one day are much alike
DEFAULTS = TrainingSettings(epochs=2, learning_rate=0.01, momentum=0.9, batch_size=64)
Row = tuple[dt.date, list[float], float]


class AirQuality(TorchTask):
    """The air at one station, or at a share of the stations.

    Args:
        folder: where the stations' CSV files are, packed by gzip or not.
        station: the name of this device's station, such as ``Tiantan``; or instead of it
        dealing: ``share`` and ``shares``, by which the stations are dealt; share 0 of 12 is the first.
    """

    def __init__(self, folder: str = "", station: str = "", **dealing: Option) -> None:
        partition = parse_partition("air_quality", dealing, own=("folder", "station"))
        publication = Publication("air_quality", "Beijing Multi-Site Air Quality", ADDRESS, folder)
        paths = stations(publication)
        own = [
            row
            for name in chosen_stations(list(paths), station, partition)
            for row in read(publication, paths[name])
        ]
        early = [row for row in own if row[0] < JUDGED_FROM]
        held_out = [row for row in early if row[0].toordinal() // 7 % HELD_OUT_WEEK == 0]
        training = [row for row in early if row[0].toordinal() // 7 % HELD_OUT_WEEK]
        super().__init__(
            make_model, to_tensors(training), to_tensors(held_out), defaults=DEFAULTS, loss=scaled_loss
        )
        self._read_judged = cache(
            lambda: to_tensors(
                [row for path in paths.values() for row in read(publication, path) if row[0] >= JUDGED_FROM]
            )
        )

    def evaluate_held_out(self, weights: Arrays) -> Evaluation:
        """Measure a model at all stations in 2017, which no device trains on."""
        load_arrays(self._model, weights)
        return self.measure(self._read_judged())


class Micrograms(nn.Module):
    """The last layer: from a number near 0 to ug/m3."""

    def forward(self, outputs: Tensor) -> Tensor:
        """Return shape (n,) for (n, 1)."""
        return outputs.squeeze(1) * TARGET_DEVIATION + TARGET_MEAN


def make_model() -> nn.Module:
    """Return three linear layers: 16 features in, ug/m3 out."""
    return nn.Sequential(
        nn.Linear(FEATURES, 64), nn.ReLU(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 1), Micrograms()
    )


def scaled_loss(outputs: Tensor, targets: Tensor) -> Tensor:
    """Return the mean squared error, 1 for a model that always says the mean."""
    return nn.functional.mse_loss(outputs, targets) / TARGET_DEVIATION**2


def stations(publication: Publication) -> dict[str, Path]:
    """Return the stations' files by their names, in the order of the alphabet.

    Raises:
        ConfigurationError: there is none in the folder, nor in the one that the archive makes in it.
    """
    found = [path for pattern in (FILES, f"{FILES}.gz") for path in publication.path.rglob(pattern)]
    if not found:
        publication.find(FILES)  # says what is missing and where it is published
    return {path.name.split("_")[2]: path for path in sorted(found)}


def chosen_stations(names: list[str], station: str, partition: Partition) -> list[str]:
    """Return the station that was named, or those of this device's share.

    Raises:
        ConfigurationError: there is no such station, or fewer stations than shares.
    """
    if not station:
        by_station = Partition(share=partition.share, shares=partition.shares, split="column")
        return [names[place] for place in by_station.places(names)]
    if station not in names:
        message = f"task 'air_quality' has no station {station!r}; the folder has: {', '.join(names)}"
        raise ConfigurationError(message)
    return [station]


def read(publication: Publication, path: Path) -> Iterator[Row]:
    """Yield day, features and PM2.5 of each hour of a station that has them all.

    Raises:
        ConfigurationError: the file lacks a column or has what is no number.
    """
    text = publication.read(path).decode(errors="replace")
    table = csv.DictReader(io.StringIO(text, newline=""))
    try:
        _check_columns(table.fieldnames or ())
        for line in table:
            if all(line[name] != "NA" for name in (TARGET, "wd", *COLUMNS)):
                yield _row(line)
    except (TypeError, ValueError, OverflowError, csv.Error) as error:
        raise publication.damaged(path, f"line {table.line_num}: {error}") from error


def _check_columns(found: Iterable[str]) -> None:
    wanted = {"year", "month", "day", "hour", "wd", TARGET, *COLUMNS}
    if missing := sorted(wanted - set(found)):
        message = f"no column {missing[0]!r}"
        raise ValueError(message)


def to_tensors(rows: list[Row]) -> TensorDataset:
    """Return features, float32 of shape (n, 16), and PM2.5, float32 of shape (n,)."""
    features = torch.tensor([row[1] for row in rows]).reshape(-1, FEATURES)
    return TensorDataset(features, torch.tensor([row[2] for row in rows]))


def _row(line: dict[str, str]) -> Row:
    day = dt.date(int(line["year"]), int(line["month"]), int(line["day"]))
    scaled = [(float(line[name]) - mean) / deviation for name, (mean, deviation) in COLUMNS.items()]
    turns = (WINDS.index(line["wd"]) / len(WINDS), int(line["hour"]) / 24, day.timetuple().tm_yday / 366)
    circles = [part(2 * math.pi * turn) for turn in turns for part in (math.sin, math.cos)]
    dust = float(line[TARGET])
    if not all(map(math.isfinite, [*scaled, dust])):
        message = "a value is not finite"
        raise ValueError(message)
    return day, scaled + circles, dust
