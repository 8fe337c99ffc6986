"""The files of a simulation: those of a real run, and what it would have taken on AWS.

history.json, accuracy.png and model.safetensors are written as for a real run, report.html states that the
run was a simulation, and simulation.json has the spec with which it can be repeated.
"""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from components.runtime.atomic_file import write_atomically
from fedgrass import __version__
from fedgrass.console.reports.report_figures import Collector, as_counted
from fedgrass.console.reports.run_report import write_report
from fedgrass.console.runs import history
from fedgrass.console.runs.run_costs import RunCost, run_cost
from fedgrass.federation.errors import SettingsError
from fedgrass.federation.rounds import ENDED, Participation, State
from fedgrass.federation.runs import RunState
from fedgrass.simulation.simulated_run import SimulatedRun
from fedgrass.simulation.simulation_spec import SimulationSpec

_REPLIED = {Participation.REPLIED, Participation.REFUSED}


class Simulated(Struct, frozen=True, kw_only=True):
    """What a simulation showed: the JSON of ``fedgrass simulate``, and, with the spec, simulation.json."""

    run: str
    state: RunState
    reason: str  # why it ended
    rounds_closed: int
    devices: int
    assignments: int  # that devices accepted
    metrics: dict[str, float]  # of the latest global model on held-out data; empty: there is none
    virtual_seconds: float  # that the run would have taken
    real_seconds: float  # that the simulation took
    cost: RunCost  # of the run on AWS, estimated from published prices
    folder: str
    files: list[str]
    notes: list[str]


def write_simulation(
    folder: Path, spec: SimulationSpec, found: SimulatedRun, *, devices: int, real_seconds: float
) -> Simulated:
    """Write the files of a simulation.

    Args:
        folder: of the run.
        spec: of the simulation.
        found: what it has made.
        devices: number of virtual devices.
        real_seconds: that it took.

    Raises:
        SettingsError: one of the files cannot be written; the files before it are kept.
    """
    rounds = [record.round for record in found.records]
    history.write(folder, found.run, summaries_of(found), found.model or None, found.evaluations)
    collector = Collector()
    for record in found.records:
        turnarounds = {
            part.device: as_counted(part) for part in record.participants if part.state in _REPLIED
        }
        collector.add(record.round, record.participants, turnarounds)
    simulated = (
        f"{devices:,} virtual devices, {found.virtual_seconds:,.0f} s of virtual time. The rounds, replies"
        " and models are those of the real round machine; durations come from the conditions of the virtual"
        " devices, and the cost is what AWS would have charged."
    )
    now = round(time.time() * 1000)
    write_report(found.run, collector.figures(), rounds, folder, now, simulated=simulated)
    if found.statistics:
        _write(folder / "statistics.json", found.statistics)
    path = folder / "simulation.json"
    summary = Simulated(
        run=found.run.name,
        state=found.run.state,
        reason=found.run.reason,
        rounds_closed=sum(round_.state is State.CLOSED for round_ in rounds),
        devices=devices,
        assignments=found.assignments,
        metrics=latest_metrics(found),
        virtual_seconds=found.virtual_seconds,
        real_seconds=round(real_seconds, 3),
        cost=run_cost([round_ for round_ in rounds if round_.state in ENDED], found.run),
        folder=str(folder),
        files=sorted({*(file.name for file in folder.iterdir()), path.name}),
        notes=found.notes,
    )
    content = {"spec": spec, "fedgrass": __version__, **msgspec.structs.asdict(summary)}
    _write(path, msgspec.json.format(msgspec.json.encode(content), indent=1))
    return summary


def _write(path: Path, content: bytes) -> None:
    try:
        write_atomically(path, content)
    except OSError as error:
        message = f"{path} cannot be written: {error.strerror}"
        raise SettingsError(message) from error


def latest_metrics(found: SimulatedRun) -> dict[str, float]:
    """Return the metrics of the latest global model on held-out data."""
    return dict(found.evaluations[max(found.evaluations)]) if found.evaluations else {}


def summaries_of(found: SimulatedRun) -> list[Mapping[str, Any]]:
    """Return the figures of each attempt at a round, as history.json has them."""
    return [history.summarize(record, found.evaluations) for record in found.records]
