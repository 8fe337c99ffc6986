"""The figures of one simulation of a grid: small enough that ten thousand of them fit into memory."""

from collections.abc import Mapping, Sequence
from typing import Protocol

from msgspec import Struct

from fedgrass.console.runs.fleet_operator import RoundRecord
from fedgrass.console.runs.run_costs import run_cost
from fedgrass.federation.rounds import AT_WORK, Participation, State, Work
from fedgrass.federation.runs import Run
from fedgrass.federation.training_settings import without_local_metrics

# Of a training that was begun: its update is in a model, or will be counted in a later buffer.
_OF_USE = frozenset({Participation.REPLIED, Participation.HELD, Participation.CARRIED})
_BEGUN = _OF_USE | AT_WORK | {Participation.REFUSED, Participation.LATE, Participation.STALE}


class Simulated(Protocol):
    """What a simulation returns, as far as the figures need it."""

    @property
    def run(self) -> Run:
        """The run as it ended."""

    @property
    def records(self) -> Sequence[RoundRecord]:
        """Its attempts at rounds, in order."""

    @property
    def evaluations(self) -> Mapping[int, Mapping[str, float]]:
        """Metrics of the global models on held-out data, by model number."""

    @property
    def virtual_seconds(self) -> float:
        """Virtual duration of the run."""

    @property
    def notes(self) -> Sequence[str]:
        """What the user should know."""


class CurvePoint(Struct, frozen=True, kw_only=True):
    """The metrics of one global model."""

    round: int  # that made the model; 0: the initial one
    seconds: float  # of virtual time since the start, when the model was there
    metrics: dict[str, float]


class CellFigures(Struct, frozen=True, kw_only=True):
    """The figures of one simulation.

    Attributes:
        state: in which the run ended.
        reason: why it ended so.
        rounds: global models that it made.
        virtual_seconds: its duration on the virtual clock.
        curve: the metrics of its models: on held-out data, otherwise as the devices measured them.
        bytes_up: of all updates that were counted.
        bytes_down: of all downloads.
        dollars: its estimated cost on AWS, without the fleet's standing costs.
        trainings: that devices began.
        wasted: those of them whose update is in no model.
        notes: what the simulation reported.
    """

    state: str
    reason: str = ""
    rounds: int
    virtual_seconds: float
    curve: tuple[CurvePoint, ...]
    bytes_up: int
    bytes_down: int
    dollars: float
    trainings: int
    wasted: int
    notes: tuple[str, ...] = ()

    @property
    def last(self) -> Mapping[str, float]:
        """The metrics of the latest model that has any."""
        return next((point.metrics for point in reversed(self.curve) if point.metrics), {})


def figures_of(simulated: Simulated) -> CellFigures:
    """Return the figures of a simulation that has ended."""
    run, records = simulated.run, simulated.records
    parts = [part for record in records if record.round.work is Work.TRAIN for part in record.participants]
    begun = [part for part in parts if part.accepted and part.state in _BEGUN]
    closed = [record for record in records if record.round.state is State.CLOSED]
    return CellFigures(
        state=str(run.state),
        reason=run.reason,
        rounds=sum(record.round.work is Work.TRAIN for record in closed),
        virtual_seconds=simulated.virtual_seconds,
        curve=tuple(_curve(run, closed, simulated.evaluations)),
        bytes_up=sum(record.round.bytes_up for record in records),
        bytes_down=sum(record.round.bytes_down for record in records),
        dollars=run_cost([record.round for record in records], run).dollars,
        trainings=len(begun),
        wasted=sum(part.state not in _OF_USE for part in begun),
        notes=tuple(simulated.notes),
    )


def _curve(
    run: Run, closed: Sequence[RoundRecord], evaluations: Mapping[int, Mapping[str, float]]
) -> list[CurvePoint]:
    """Return the metrics of each model, with the time at which the round that made it was closed."""
    made_at = {0: run.started_at}
    made_at |= {record.round.number: record.round.closed_at for record in closed}
    metrics: Mapping[int, Mapping[str, float]] = evaluations
    if not any(evaluations.values()):
        # The devices measured the model that they had downloaded, on their own data.
        metrics = {
            record.round.base: {
                name: record.round.metrics[name] for name in without_local_metrics(record.round.metrics)
            }
            for record in closed
            if record.round.metrics
        }
    return [
        CurvePoint(
            round=number,
            seconds=(made_at.get(number, run.started_at) - run.started_at) / 1000,
            metrics=dict(sorted(found.items())),
        )
        for number, found in sorted(metrics.items())
        if found
    ]
