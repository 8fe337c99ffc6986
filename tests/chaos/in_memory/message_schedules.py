"""Seeded schedules of runs with ServerApps over the ports in memory.

    python -m tests.chaos --schedules 2000 --seed 1      plays 500 of them besides

A schedule is determined by its seed: ``play(seed)`` reproduces it.
"""

import random
import time
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor

from msgspec import Struct

from fedgrass.console.task_messages.message_outcomes import Failure, Reply
from fedgrass.federation.rounds import State
from tests.chaos.in_memory.disturbed_ports import CALM, Chances
from tests.chaos.in_memory.message_simulation import MessageSimulation
from tests.chaos.in_memory.simulation import Disturbances

KINDS = ("wrong", "twice", "lost", "stuck", "letter")


class Played(Struct, frozen=True):
    """The findings of a schedule."""

    seed: int
    states: list[str]  # of its runs
    closed: int  # rounds
    replies: int  # that ServerApps pulled
    errors: int  # in place of replies
    lives: int  # processes of ServerApps
    adopted: int  # messages that a later process of their ServerApp adopted
    happened: dict[str, int]
    problems: list[str]


def draw(seed: int) -> MessageSimulation:
    """Return the schedule of a seed: with all kinds of faults, or only some."""
    dice = random.Random(f"messages {seed}")  # noqa: S311 - repeatable
    everything = dice.random() < 0.5

    def some(value: float) -> float:
        return value if everything or dice.random() < 0.4 else 0

    often = dice.choice([0.001, 0.004, 0.012, 0.03])
    chances = Chances(
        killed_before=some(often),
        killed_after=some(often),
        error=some(often),
        answer_lost=some(often * 2),
        answer_late=some(often),
        stale=some(often * 4),
        stalled=some(often / 2),
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
        objects_lost=int(some(dice.randint(0, 3))),
        actions=int(some(dice.randint(0, 8))),
        hellos=int(some(dice.randint(0, 6))),
        redrives=dice.random() < 0.5,
        restores=int(some(dice.choice([0, 0, 1, 2]))),
    )
    settings = {
        "accept_seconds": dice.choice([0, 30, 60]),
        "deadline_seconds": dice.choice([120, 600]),
        "seen_within_seconds": 600,
    }
    return MessageSimulation(seed, wrong, settings, runs=dice.choice([1, 2, 2]))


def play(seed: int) -> Played:
    """Run the schedule of a seed; see :func:`draw`."""
    simulation = draw(seed)
    try:
        simulation.play()
    except Exception as error:  # noqa: BLE001 - every error is reported with its seed
        simulation.problems.append(f"stuck: {type(error).__name__}: {error}")
    apps = simulation.apps
    runs = [simulation.rounds.run(app.name) for app in apps]
    outcomes = [outcome for app in apps for of in app.outcomes.values() for _, outcome in of.values()]
    happened = Counter(simulation.disturber.happened)
    for app in apps:
        happened.update({f"app {what}": count for what, count in app.disturber.happened.items()})
    return Played(
        seed,
        [str(run.state) if run else "never started" for run in runs],
        sum(round_.state is State.CLOSED for round_ in simulation.rounds._rounds.values()),
        sum(isinstance(outcome, Reply) for outcome in outcomes),
        sum(isinstance(outcome, Failure) for outcome in outcomes),
        sum(app.lives for app in apps),
        sum(app.adopted for app in apps),
        dict(happened),
        simulation.problems,
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
    states = Counter(state for one in played for state in one.states)
    lines = [
        f"{len(played)} schedules of ServerApps in {time.monotonic() - began:.0f} s",
        f"{sum(one.closed for one in played)} rounds closed",
        f"{sum(one.replies for one in played)} replies pulled",
        f"{sum(one.errors for one in played)} errors in the place of replies",
        f"{sum(one.lives for one in played)} processes of ServerApps",
        f"{sum(one.adopted for one in played)} messages adopted by a later process",
        "runs: " + ", ".join(f"{count} {state}" for state, count in sorted(states.items())),
        "calls: " + ", ".join(f"{count} {what}" for what, count in sorted(happened.items())),
    ]
    lines += [f"  seed {one.seed}: {problem}" for one in bad for problem in one.problems]
    lines.append(", ".join(f"{kind}: {kinds[kind]}" for kind in KINDS))
    return lines, len(bad)
