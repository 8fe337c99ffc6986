"""What a simulation has made: the run and its rounds, as an operator would read them, and its models."""

from collections.abc import Callable, Mapping

from msgspec import Struct

from fedgrass.console.runs.fleet_operator import RoundRecord
from fedgrass.federation.runs import Run

OnRound = Callable[[RoundRecord, Mapping[str, float]], None]  # a round that has ended, its model's metrics


class SimulatedRun(Struct, frozen=True, kw_only=True):
    """A run that was simulated, to its end or as far as it came.

    Attributes:
        run: its row.
        records: its attempts at rounds with their participants, in order.
        evaluations: the metrics of the global models on data that no device trains on, by number of model.
        model: the file of the latest global model.
        virtual_seconds: how long the run would have taken.
        notes: what the user should know of the simulation.
        devices: number of virtual devices.
        assignments: that devices have accepted.
        statistics: the file of the merged statistics, of a run of statistics; empty if there are none.
    """

    run: Run
    records: list[RoundRecord]
    evaluations: dict[int, Mapping[str, float]]
    model: bytes
    virtual_seconds: float
    notes: list[str]
    devices: int = 0
    assignments: int = 0
    statistics: bytes = b""
