"""Simulations without devices, and works that misbehave: what a grid's executors run in tests.

They are functions of a module, so that worker processes can import them.
"""

import math
import os
import signal
import time
from pathlib import Path
from typing import NamedTuple

import msgspec

from fedgrass.console.runs.fleet_operator import RoundRecord
from fedgrass.federation.errors import SettingsError
from fedgrass.federation.rounds import Participant, Participation, Round, State
from fedgrass.federation.runs import Run, RunState
from fedgrass.federation.settings_parser import parse_settings
from fedgrass.simulation.grids.cell_work import CellWork, simulate_cell
from fedgrass.simulation.simulation_spec import SimulationSpec

START = 1_700_000_000_000
MODEL_BYTES = 40_000


class FakeSimulated(NamedTuple):
    run: Run
    records: list[RoundRecord]
    evaluations: dict[int, dict[str, float]]
    virtual_seconds: float
    notes: list[str]


def fake_run_spec(spec: SimulationSpec, *, workers: int, report: object) -> FakeSimulated:
    """A run whose accuracy grows with the learning rate, and whose rounds take longer with more devices."""
    del workers, report
    settings = parse_settings({"task": spec.task.partition("=")[0], **spec.settings})
    if settings.training.get("epochs") == 666:
        message = "the task has no such number of epochs"
        raise SettingsError(message)
    rate = float(settings.training.get("learning_rate", 0.1))
    asked = settings.count or spec.devices
    records, evaluations, now = [], {0: {"accuracy": 0.1, "loss": 2.3}}, START
    for number in range(1, settings.rounds + 1):
        closed_at = now + 1000 * asked + 100 * (spec.seed % 7)
        records.append(RoundRecord(_round(number, now, closed_at, asked), _participants(asked, now)))
        accuracy = 1 - 0.9 * math.exp(-rate * number) - 0.01 * (spec.seed % 5)
        evaluations[number] = {"accuracy": accuracy, "loss": 2.3 * math.exp(-rate * number)}
        now = closed_at
    run = Run(
        name="simulated",
        state=RunState.SUCCEEDED,
        settings=settings,
        started_at=START,
        initial_sha256="0" * 64,
        initial_bytes=MODEL_BYTES,
        ended_at=now,
    )
    return FakeSimulated(run, records, evaluations, (now - START) / 1000, ["clients are trained one by one"])


def _round(number: int, opened_at: int, closed_at: int, asked: int) -> Round:
    return Round(
        run="simulated",
        number=number,
        attempt=1,
        state=State.CLOSED,
        asked=asked,
        needed=asked - 1,
        minimum=1,
        opened_at=opened_at,
        deadline_at=opened_at + 600_000,
        base=number - 1,
        base_sha256="0" * 64,
        base_bytes=MODEL_BYTES,
        accepted=asked,
        replied=asked - 1,
        late=1,
        bytes_up=(asked - 1) * MODEL_BYTES,
        closed_at=closed_at,
    )


def _participants(asked: int, opened_at: int) -> list[Participant]:
    states = [Participation.LATE, *[Participation.REPLIED] * (asked - 1)]
    return [
        Participant(device=f"device-{place:05}", state=state, announced_at=opened_at, accepted=True)
        for place, state in enumerate(states)
    ]


def fake_run_cell(work: bytes) -> bytes:
    """``run_cell`` with ``fake_run_spec``."""
    cell = msgspec.json.decode(work, type=CellWork)
    outcome = simulate_cell(cell, fake_run_spec)
    return msgspec.json.encode(msgspec.structs.replace(outcome, seconds=1.5, detail=""))


def slow_run_cell(work: bytes) -> bytes:
    """Like ``fake_run_cell``; with the task option ``wait_for``, only when the file of that name exists."""
    cell = msgspec.json.decode(work, type=CellWork)
    if awaited := cell.spec.task_options.get("wait_for"):
        until = time.monotonic() + 60
        while not Path(str(awaited)).exists() and time.monotonic() < until:
            time.sleep(0.01)
    return fake_run_cell(work)


def lost_run_cell(work: bytes) -> bytes:
    """Like ``fake_run_cell``; with the option ``lost_until``, killed until it has been tried so often."""
    cell = msgspec.json.decode(work, type=CellWork)
    if until := cell.spec.task_options.get("lost_until"):
        tries = Path(str(cell.spec.task_options["tries"]))
        with tries.open("a") as file:
            file.write("x")
        if tries.stat().st_size <= int(until):
            os.kill(os.getpid(), signal.SIGKILL)
    return fake_run_cell(work)
