"""Draws the settings of the campaign's runs: aggregation, encoding, model size, selection."""

import random
from collections.abc import Mapping
from dataclasses import dataclass

from fedgrass.federation.settings import RunSettings
from fedgrass.federation.settings_parser import parse_settings

# The size of a run's model determines how its rounds are averaged: world.py has the stacks' limits.
MEGABYTES: Mapping[str, float] = {"by one": 0.02, "in groups": 0.3, "in shards": 1.2}
_DIVISIONS = ("by one", "by one", "in groups", "in groups", "in shards")
_SEPARABLE = ("mean", "weighted_mean", "fedprox", "fedavgm", "fedadagrad", "fedadam", "fedyogi")
_COLUMNWISE = ("median", "trimmed_mean")
_SURVEYED = ("krum", "multi_krum", "q_fedavg")
_AGGREGATIONS: Mapping[str, tuple[str, ...]] = {
    "by one": (*_SEPARABLE, *_COLUMNWISE, *_SURVEYED, "scaffold"),
    "in groups": _SEPARABLE,
    "in shards": (*_SEPARABLE, *_COLUMNWISE),
}
_DIVISIONS_OF_BUFFERS = ("by one", "by one", "in shards")
_AGGREGATIONS_OF_BUFFERS: Mapping[str, tuple[str, ...]] = {
    "by one": (*_SEPARABLE, *_COLUMNWISE, "krum", "multi_krum"),
    "in shards": (*_SEPARABLE, *_COLUMNWISE),
}
# Krum with four devices; q-FedAvg with steps long enough that one update too many shows.
OPTIONS: Mapping[str, Mapping[str, float]] = {
    "krum": {"malicious": 0},
    "multi_krum": {"malicious": 0},
    "q_fedavg": {"learning_rate": 100.0},
}
_UPLOADS: tuple[Mapping[str, object], ...] = (
    {},
    {},
    {"upload_encoding": "float16"},
    {"upload_encoding": "bfloat16", "upload_difference": True},
    {"upload_encoding": "int8", "upload_difference": True},
    {"upload_encoding": "top_k", "upload_difference": True, "top_k_fraction": 0.1},
)
# With four devices of equal speed, few buffers have an update from an older model; the faults delay some.
_MODES = ("synchronous", "synchronous", "buffered")
_DOWNLOADS = ("float32", "float32", "float16", "bfloat16", "int8")


@dataclass(frozen=True)
class Drawn:
    """The settings of a run and the size of its model."""

    settings: RunSettings
    megabytes: float


class Drawing:
    """Draws the settings of one run after the other, with each aggregation in turn.

    Args:
        dice: the random numbers of this place.
        task: the task of all runs.
        stretch: how many times slower the machine is than an idle one.
    """

    def __init__(self, dice: random.Random, task: str, stretch: float) -> None:
        self._dice = dice
        self._task = task
        self._stretch = stretch
        self._turns: dict[str, list[str]] = {}

    def run(self, rounds: int) -> Drawn:
        """Return the settings of a run with a number of rounds."""
        dice = self._dice
        mode = self._next("mode", _MODES)
        if mode == "buffered":
            division = self._next("division of buffers", _DIVISIONS_OF_BUFFERS)
            aggregation = self._next(f"buffers {division}", _AGGREGATIONS_OF_BUFFERS[division])
        else:
            division = self._next("division", _DIVISIONS)
            aggregation = self._next(division, _AGGREGATIONS[division])
        settings = {
            "task": self._task,
            "rounds": rounds,
            "deadline_seconds": round(dice.randint(6, 9) * self._stretch),
            "attempts": 8,
            "evaluate_last": False,  # the audit checks the rounds that make models
            "aggregation": aggregation,
            "aggregation_options": OPTIONS.get(aggregation, {}),
            **dice.choice(_UPLOADS),
            "download_encoding": dice.choice(_DOWNLOADS),
            **(self._buffer(aggregation) if mode == "buffered" else self._cohort(division, aggregation)),
        }
        if division == "by one" and aggregation != "scaffold":
            settings["clip_norm"] = dice.choice([None, None, 40.0])
        return Drawn(parse_settings(settings), MEGABYTES[division])

    def _cohort(self, division: str, aggregation: str) -> dict[str, object]:
        """Return the cohort and the threshold of a round: groups and Krum need at least three of four."""
        if division == "in groups" or aggregation in {"krum", "multi_krum"}:
            minimum = 3 if "krum" in aggregation else self._dice.choice([1, 2])
            return {"threshold": self._dice.choice([0.7, 1.0]), "minimum_replies": minimum}
        some: dict[str, object] = {"selection": "random", "fraction": self._dice.choice([0.7, 1.0])}
        whom: dict[str, object] = self._dice.choice([{"selection": "all"}, some])
        return {
            **whom,
            "threshold": self._dice.choice([0.5, 0.7, 1.0]),
            "minimum_replies": self._dice.choice([1, 2]),
        }

    def _buffer(self, aggregation: str) -> dict[str, object]:
        """Return the buffer of a buffered run: Krum needs three of the four devices."""
        dice, size = self._dice, 3 if "krum" in aggregation else self._dice.choice([1, 2, 2, 3])
        return {
            "mode": "buffered",
            "buffer_size": size,
            "in_flight": dice.randint(max(2, size), 4),
            "max_staleness": dice.choice([3, 10]),
            "staleness": dice.choice(["polynomial", "polynomial", "constant", "hinge"]),
            "staleness_exponent": dice.choice([0.5, 1.0]),
            "staleness_slack": dice.choice([0, 1]),
            "minimum_replies": size if "krum" in aggregation else 1,
        }

    def _next(self, what: str, choices: tuple[str, ...]) -> str:
        """Return the next of some choices; all are used once before one is repeated."""
        turns = self._turns.setdefault(what, [])
        if not turns:
            turns += choices
            self._dice.shuffle(turns)
        return turns.pop()
