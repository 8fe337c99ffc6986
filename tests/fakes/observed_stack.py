"""A stack whose tables hold what given devices did: rounds, turnarounds and heartbeats."""

import math
import random
from collections.abc import Iterable, Iterator, Sequence
from typing import cast

from fedgrass.console.reports.turnaround_rows import Turnaround
from fedgrass.console.runs.fleet_operator import Operator
from fedgrass.federation.rounds import Participant, Participation, Round, State, Work
from fedgrass.federation.runs import Run, RunState
from fedgrass.federation.selection import Candidate
from fedgrass.federation.settings_parser import parse_settings
from fedgrass.simulation.fleets.device_conditions import DeviceConditions

START = 1_700_000_000_000
MODEL_BYTES = 2_000_000
EXAMPLES = 120
EPOCHS = 3
ROUND_SECONDS = 3600
RUN = Run(
    name="run-1",
    state=RunState.SUCCEEDED,
    settings=parse_settings({"task": "digits", "rounds": 100, "training": {"epochs": EPOCHS}}),
    started_at=START,
    initial_sha256="0" * 64,
    initial_bytes=MODEL_BYTES,
)


class ObservedStack:
    """The parts of ``Operator`` that learning a fleet uses, over rows that a test may change."""

    def __init__(self) -> None:
        self.found: list[Run] = [RUN]
        self.rows: list[tuple[Round, list[Participant], dict[str, Turnaround]]] = []
        self.candidates: list[Candidate] = []
        self.rounds_read = 0

    def operator(self) -> Operator:
        return cast("Operator", self)

    def runs(self) -> dict[str, RunState]:
        return {run.name: run.state for run in self.found}

    def every_run(self, names: Iterable[str]) -> list[Run]:
        return [run for run in self.found if run.name in set(names)]

    def rounds_alone(self, run: Run) -> Iterator[Round]:
        return (row[0] for row in self.rows if row[0].run == run.name)

    def participants(self, round_: Round) -> list[Participant]:
        self.rounds_read += 1
        return next(parts for row, parts, _ in self.rows if row == round_)

    def turnarounds(self, round_: Round) -> dict[str, Turnaround]:
        return next(found for row, _, found in self.rows if row == round_)

    def devices(self) -> list[Candidate]:
        return self.candidates


def round_of(number: int, run: Run = RUN, **changes: object) -> Round:
    """Return a round of training that ended at its deadline."""
    opened = START + number * ROUND_SECONDS * 1000
    values: dict[str, object] = {
        "run": run.name,
        "number": number,
        "attempt": 1,
        "state": State.CLOSED,
        "work": Work.TRAIN,
        "asked": 1,
        "needed": 1,
        "minimum": 1,
        "opened_at": opened,
        "deadline_at": opened + ROUND_SECONDS * 1000 - 1,
        "closed_at": opened + ROUND_SECONDS * 1000 - 1,
        "base_sha256": "0" * 64,
        "base_bytes": MODEL_BYTES,
    }
    return Round(**{**values, **changes})  # type: ignore[arg-type]


def stack_of(devices: Sequence[DeviceConditions], rounds: int, seed: int = 1) -> ObservedStack:
    """Return a stack on which each device took part in each round, with the durations of a simulation."""
    rng, stack = random.Random(seed), ObservedStack()  # noqa: S311 - no secret
    for number in range(1, rounds + 1):
        row = round_of(number)
        parts, turnarounds = [], {}
        for device in devices:
            lost = rng.random() < device.dropout
            parts.append(
                Participant(
                    device=device.name,
                    state=Participation.ACCEPTED if lost else Participation.REPLIED,
                    announced_at=row.opened_at,
                    accepted=True,
                )
            )
            if not lost:
                turnarounds[device.name] = turnaround_of(device, rng)
        stack.rows.append((row, parts, turnarounds))
    stack.candidates = [candidate(device.name, device) for device in devices]
    return stack


def candidate(name: str, device: DeviceConditions | None = None, last_seen: int = 0) -> Candidate:
    """Return a device as its heartbeat describes it."""
    return Candidate(
        device=name,
        last_seen=last_seen or START,
        tasks=frozenset({"digits"}),
        examples=EXAMPLES,
        attributes=dict(device.attributes) if device else {},
    )


def turnaround_of(device: DeviceConditions, rng: random.Random) -> Turnaround:
    """Return the turnaround of an assignment, as docs/simulation.md computes it."""
    train = device.seconds_per_example * EXAMPLES * EPOCHS * math.exp(rng.gauss(0, device.jitter))
    download, upload = MODEL_BYTES / device.download, MODEL_BYTES / device.upload
    waiting = 2 * device.latency + device.fixed_seconds
    return Turnaround(
        seconds=download + train + upload + waiting,
        download=download,
        train=train,
        upload=upload,
        examples=EXAMPLES,
        bytes=MODEL_BYTES,
    )
