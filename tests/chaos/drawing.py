"""The settings of the campaign's runs, drawn by its dice: how a round is averaged, in which form, by whom."""

import random
from collections.abc import Mapping
from dataclasses import dataclass

from fedgrass.federation.settings import RunSettings, parse_settings

# The size of a run's model says how its rounds are averaged: the stacks' limits are those of world.py.
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
# Krum of four devices; steps of q-FedAvg so long that an update too many is seen in them.
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
_DOWNLOADS = ("float32", "float32", "float16", "bfloat16", "int8")


@dataclass(frozen=True)
class Drawn:
    """What a run is to do, and the size of its model."""

    settings: RunSettings
    megabytes: float


class Drawing:
    """Draws one run's settings after the other; every aggregation comes in its turn.

    Args:
        dice: of the place.
        task: of all runs.
        stretch: by how much the machine is slower than a quiet one.
    """

    def __init__(self, dice: random.Random, task: str, stretch: float) -> None:
        self._dice = dice
        self._task = task
        self._stretch = stretch
        self._turns: dict[str, list[str]] = {}

    def run(self, rounds: int) -> Drawn:
        """Return what a run of so many rounds is to do."""
        dice = self._dice
        division = self._next("division", _DIVISIONS)
        aggregation = self._next(division, _AGGREGATIONS[division])
        settings = {
            "task": self._task,
            "rounds": rounds,
            "deadline_seconds": round(dice.randint(6, 9) * self._stretch),
            "attempts": 8,
            "evaluate_last": False,  # the audit follows the rounds that make models
            "aggregation": aggregation,
            "aggregation_options": OPTIONS.get(aggregation, {}),
            **dice.choice(_UPLOADS),
            "download_encoding": dice.choice(_DOWNLOADS),
            **self._cohort(division, aggregation),
        }
        if division == "by one" and aggregation != "scaffold":
            settings["clip_norm"] = dice.choice([None, None, 40.0])
        return Drawn(parse_settings(settings), MEGABYTES[division])

    def _cohort(self, division: str, aggregation: str) -> dict[str, object]:
        """Return who is asked, and how many close a round: groups and Krum want three of four at least."""
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

    def _next(self, what: str, choices: tuple[str, ...]) -> str:
        """Return the next of some choices, each of which comes once before any comes again."""
        turns = self._turns.setdefault(what, [])
        if not turns:
            turns += choices
            self._dice.shuffle(turns)
        return turns.pop()
