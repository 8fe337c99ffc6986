"""Seeded schedules over the ports in memory, with all kinds of faults at once or only some.

    python -m tests.chaos --schedules 2000 --seed 1

A schedule is determined by its seed: ``play(seed)`` reproduces it. Those of odd seeds have a buffered run.
"""

import random
import time
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from typing import Any

from msgspec import Struct

from fedgrass.federation.aggregation.sharding_plan import Scale
from tests.chaos.in_memory.disturbed_ports import CALM, Chances
from tests.chaos.in_memory.simulation import DEVICES, Disturbances, Simulation

SCALES = (Scale(), Scale(), Scale(group=2, grouped_bytes=0), Scale(sharded_bytes=0))
_SETTINGS: dict[str, tuple[Any, ...]] = {
    "rounds": (2, 3, 4),
    "attempts": (1, 3, 3),
    "threshold": (0.5, 0.75, 1.0, 1.0),
    "minimum_replies": (1, 2),
    "accept_seconds": (0, 30, 60),
    "deadline_seconds": (120, 300),
    "aggregation": ("mean", "weighted_mean", "weighted_mean"),
    "on_abandoned": ("retry", "retry", "retry", "fail"),
    "evaluate_every": (0, 0, 1),
}
_SCHEDULES: tuple[dict[str, Any], ...] = (
    {},
    {},
    {"schedule": "every", "every_minutes": 4},
    {"schedule": "adaptive", "every_minutes": 2},
    {"schedule": "by_hand"},
)
_COHORTS: tuple[dict[str, Any], ...] = ({}, {}, {"selection": "random", "count": 3})


_BUFFERED: dict[str, tuple[Any, ...]] = {
    "rounds": (3, 5, 8),
    "buffer_size": (1, 2, 2, 3),
    "max_staleness": (1, 3, 10),
    "staleness": ("polynomial", "constant", "hinge"),
    "staleness_exponent": (0.5, 1.0),
    "staleness_slack": (0, 1),
}
_NOT_BUFFERED = ("threshold", "evaluate_every", "count", "selection")


class Played(Struct, frozen=True):
    """The findings of a schedule."""

    seed: int
    state: str
    closed: int
    letters: int
    happened: dict[str, int]
    problems: list[str]
    stale: int = 0  # updates in models that started from an older model than the newest
    given_up: bool = (
        False  # by the operator: the table was restored, and the bucket had lost the later rounds
    )


def draw(seed: int, *, buffered: bool | None = None) -> Simulation:
    """Return the schedule of a seed: with all kinds of faults, or only some.

    Args:
        seed: of the schedule.
        buffered: whether its run is buffered; if None, the seed decides.
    """
    dice = random.Random(f"schedule {seed}")  # noqa: S311 - repeatable
    settings = {field: dice.choice(values) for field, values in _SETTINGS.items()}
    settings |= dice.choice(_SCHEDULES) | dice.choice(_COHORTS)
    if settings.get("count") and settings["minimum_replies"] > 2:
        settings["minimum_replies"] = 2
    if buffered or (buffered is None and seed % 2):
        settings = _buffered(random.Random(f"buffered {seed}"), settings)  # noqa: S311 - repeatable
    everything = dice.random() < 0.5

    def some(value: Any, nothing: Any = 0) -> Any:
        return value if everything or dice.random() < 0.4 else nothing

    often = dice.choice([0.001, 0.004, 0.012, 0.03, 0.06])
    chances = Chances(
        killed_before=some(often),
        killed_after=some(often),
        error=some(often),
        answer_lost=some(often * 2),
        answer_late=some(often),
        stale=some(often * 4),
        stalled=some(often / 2),
        object_lost=some(often / 2),
    )
    wrong = Disturbances(
        seconds=dice.choice([900, 2400, 5400]),
        chances=CALM if chances == Chances() else chances,
        twice=some(0.1),
        alarms_early=some(0.15),
        alarms_late=some(0.15),
        alarms_twice=some(0.15),
        alarms_never=some(dice.choice([0.2, 1.0])),
        devices_fail=some(0.15),
        objects_lost=some(dice.randint(0, 4)),
        journals_damaged=some(dice.randint(0, 3)),
        restores=some(dice.choice([0, 0, 1, 2])),
        actions=some(dice.randint(0, 8)),
        hellos=some(dice.randint(0, 4)),
        redrives=dice.random() < 0.5,
        # The seeds of the tests, which say whether the run is buffered, keep their schedules.
        forgets=random.Random(f"forgets {seed}").choice([0, 0, 3]) if buffered is None else 0,  # noqa: S311 - as above
    )
    return Simulation(seed, wrong, dice.choice(SCALES), settings)


def _buffered(dice: random.Random, settings: dict[str, Any]) -> dict[str, Any]:
    """Return the settings of a buffered run with the same schedule and deadlines."""
    kept = {field: value for field, value in settings.items() if field not in _NOT_BUFFERED}
    drawn = {field: dice.choice(values) for field, values in _BUFFERED.items()}
    size = drawn["buffer_size"]
    oldest = (drawn["max_staleness"] + 1) * size  # more devices in flight would mostly be refused
    drawn["in_flight"] = dice.randint(size, min(DEVICES, oldest))
    drawn["minimum_replies"] = min(kept["minimum_replies"], size)
    if drawn["staleness"] != "hinge":
        del drawn["staleness_slack"]
    return {**kept, **drawn, "mode": "buffered"}


def play(seed: int, *, buffered: bool | None = None) -> Played:
    """Run the schedule of a seed; see :func:`draw`."""
    simulation = draw(seed, buffered=buffered)
    try:
        simulation.play()
    except Exception as error:  # noqa: BLE001 - every error is reported with its seed
        simulation.problems.append(f"stuck: {type(error).__name__}: {error}")
    run = simulation.run()
    return Played(
        seed,
        f"{run.state}" if run else "never started",
        sum(of.state.value == "CLOSED" for of in simulation.rounds._rounds.values()),
        len(simulation.queue.all_letters),
        simulation.disturber.happened,
        simulation.problems,
        simulation.stale,
        simulation.given_up,
    )


def play_all(seeds: Iterable[int], processes: int) -> list[Played]:
    """Run schedules, several at a time."""
    with ProcessPoolExecutor(processes) as pool:
        return list(pool.map(play, seeds, chunksize=10))


def report(played: list[Played], began: float) -> tuple[list[str], int]:
    """Return the findings as lines, and the number of schedules that failed."""
    bad = [one for one in played if one.problems]
    kinds = Counter(problem.partition(":")[0] for one in bad for problem in one.problems)
    happened: Counter[str] = Counter()
    for one in played:
        happened.update(one.happened)
    states = Counter(one.state for one in played)
    lines = [
        f"{len(played)} schedules in {time.monotonic() - began:.0f} s",
        f"{sum(one.closed for one in played)} rounds closed",
        f"{sum(one.stale for one in played)} updates from older models in models of buffered runs",
        f"{sum(one.letters for one in played)} dead letters",
        f"{sum(one.given_up for one in played)} runs cancelled, since they could not be repaired",
        "runs: " + ", ".join(f"{count} {state}" for state, count in sorted(states.items())),
        "calls: " + ", ".join(f"{count} {what}" for what, count in sorted(happened.items())),
    ]
    lines += [f"  seed {one.seed}: {problem}" for one in bad for problem in one.problems]
    found = {kind: kinds[kind] for kind in ("wrong", "twice", "stuck", "letter")}
    lines.append(", ".join(f"{kind}: {count}" for kind, count in found.items()))
    return lines, len(bad)
