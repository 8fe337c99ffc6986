"""Learning curves: one simulation as a list of its models, and the time, rounds and bytes to a target."""

import math
import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from msgspec import Struct

from fedgrass.console.runs.fleet_operator import RoundRecord
from fedgrass.federation.errors import FedgrassError
from fedgrass.federation.runs import RunState
from fedgrass.federation.weights import Arrays, decode
from fedgrass.simulation import simulation
from fedgrass.simulation.simulation_spec import SimulationSpec

_LINES = 10  # of progress, of one simulation


def say(text: str) -> None:
    """Print a line of progress at once."""
    print(text, flush=True)


class Stopwatch:
    """Real time and processor time since it was created."""

    def __init__(self) -> None:
        self._began, self._used = time.perf_counter(), sum(os.times()[:4])

    def figures(self) -> dict[str, float]:
        """Return the seconds; processor seconds are those of this process and of the children that ended."""
        return {
            "wall_seconds": round(time.perf_counter() - self._began, 1),
            "processor_seconds": round(sum(os.times()[:4]) - self._used, 1),
        }


class Point(Struct, frozen=True, kw_only=True):
    """One global model of a run.

    Attributes:
        model: its number, which is that of the round that made it.
        seconds: of virtual time since the start of the run.
        updates: that were counted until then.
        bytes: that all devices have downloaded and uploaded until then.
        accuracy: on examples that no device trains on; or another metric.
    """

    model: int
    seconds: float
    updates: int
    bytes: int
    accuracy: float


class Curve(Struct, frozen=True, kw_only=True):
    """The models of one run, and what the simulation took.

    Attributes:
        points: in order.
        weights: of the latest model.
        wall_seconds: of real time, with the start of the workers.
    """

    points: Sequence[Point]
    weights: Arrays
    wall_seconds: float

    @property
    def last(self) -> Point:
        """The latest model."""
        return self.points[-1]

    def reached(self, target: float) -> Point | None:
        """Return the first model with an accuracy of at least ``target``; None: there is none."""
        return next((point for point in self.points if point.accuracy >= target), None)

    def settled(self, models: int) -> float:
        """Return the mean accuracy of the last models, ``models`` of them at most."""
        return statistics.mean(point.accuracy for point in self.points[-models:])

    def at_seconds(self, seconds: float) -> Point | None:
        """Return the latest model that there was at a time; None: there was none yet."""
        return next((point for point in reversed(self.points) if point.seconds <= seconds), None)


class CurveRecorder:
    """Takes the rounds of a simulation as they end.

    Args:
        name: of the run, for lines of progress.
        rounds: as many as the run has.
        metric: of the evaluation of each model.
        until: the accuracy at which the simulation may stop; None: it plays all rounds.
    """

    def __init__(
        self,
        name: str,
        rounds: int,
        metric: str = "accuracy",
        until: float | None = None,
    ) -> None:
        self.points: list[Point] = []
        self._name, self._rounds = name, rounds
        self._metric, self._until = metric, until
        self._updates = self._bytes = 0

    def add(self, record: RoundRecord, metrics: Mapping[str, float]) -> None:
        """Take a round that has ended; ``metrics`` are empty unless it has made a model."""
        round_ = record.round
        downloads = sum(participant.accepted for participant in record.participants)
        self._bytes += round_.bytes_up + downloads * (round_.base_download_bytes or round_.base_bytes)
        self._updates += round_.good
        if self._metric not in metrics:
            return
        point = Point(
            model=round_.number,
            seconds=(round_.closed_at - simulation.START) / 1000,
            updates=self._updates,
            bytes=self._bytes,
            accuracy=metrics[self._metric],
        )
        self.points.append(point)
        if point.model % math.ceil(self._rounds / _LINES) == 0 or self.is_done():
            say(
                f"  {self._name}: round {point.model} of {self._rounds},"
                f" {self._metric} {point.accuracy:.4f}, {point.seconds:,.0f} virtual seconds"
            )

    def is_done(self) -> bool:
        """Return whether the target was reached."""
        return bool(self.points) and self._until is not None and self.points[-1].accuracy >= self._until


def simulate(
    name: str,
    spec: SimulationSpec,
    *,
    workers: int,
    metric: str = "accuracy",
    until: float | None = None,
) -> Curve:
    """Run a simulation; return its learning curve.

    Args:
        name: for lines of progress.
        spec: the simulation.
        workers: processes that train.
        metric: of the evaluation of each model.
        until: the accuracy at which the simulation may stop; None: it plays all rounds.

    Raises:
        FedgrassError: the simulation cannot be run, its run failed, or it made no model with this metric.
    """
    recorder = CurveRecorder(name, spec.settings["rounds"], metric, until)
    began = time.perf_counter()
    notes: list[str] = []
    run = simulation.run_spec(
        spec, workers=workers, report=notes.append, on_round=recorder.add, stop=recorder.is_done
    )
    wall = time.perf_counter() - began
    if not recorder.is_done():
        for note in notes:
            say(f"  {name}: {note}")
    if run.run.state is RunState.FAILED:
        message = f"{name}: the run failed: {run.run.reason}"
        raise FedgrassError(message)
    if not recorder.points:
        message = f"{name}: no model has the metric {metric!r}"
        raise FedgrassError(message)
    return Curve(points=recorder.points, weights=decode(run.model), wall_seconds=wall)


def values_of(points: Sequence[Point | None], take: Callable[[Point], float]) -> list[float | None]:
    """Return a value of each point; None where there is no point."""
    return [None if point is None else take(point) for point in points]


def mean_and_spread(values: Sequence[float | None], digits: int = 4) -> dict[str, Any]:
    """Return the mean, the lowest and the highest of the values of all seeds.

    A seed that has none (it missed a target) makes the mean and the highest value None: the mean of the
    others would be too good. ``missed`` counts such seeds.
    """
    found = [value for value in values if value is not None]
    missed = len(values) - len(found)
    return {
        "mean": None if missed else round(statistics.mean(found), digits),
        "lowest": round(min(found), digits) if found else None,
        "highest": None if missed else round(max(found), digits),
        "missed": missed,
    }


def in_words(figures: Mapping[str, Any], unit: str = "") -> str:
    """Return the result of ``mean_and_spread`` for the terminal."""
    if figures["missed"]:
        best = "" if figures["lowest"] is None else f", the others from {figures['lowest']:g}{unit}"
        return f"not reached by {figures['missed']}{best}"
    return f"{figures['mean']:g}{unit} ({figures['lowest']:g} to {figures['highest']:g})"
