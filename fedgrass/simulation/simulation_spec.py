"""What a simulation is: one JSON object, which a worker on any machine can run."""

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

from fedgrass.simulation.fleets.fleet_spec import FleetSpec

LARGEST_FLEET = 1_000_000


class SimulationSpec(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One simulation. Equal specs give bit-identical histories and models.

    Attributes:
        task: a built-in task, or NAME=module:Class.
        task_path: folder of the module of the user's own task.
        task_options: options of the task, as on a device; share and shares are set for each device.
        devices: how many virtual devices; 0: as many as the trace has.
        settings: of the run and of its training, without the task.
        fleet: what the devices are like.
        seed: of the initial model, of the devices, and of all that is drawn in the simulation.
        training: ``real`` trains; ``curve`` takes the metrics of each round from ``learning_curve``.
        learning_curve: file with the metrics of each global model, in the form that docs/simulation.md names.
        strategies: files, or folders of packages, with custom aggregation strategies.
        vectorize: whether clients of one shape are trained together.
        held_out_every: the models of every so many rounds are measured on held-out data, and the last one.
        longest_hours: of virtual time; a run that takes longer is cut off.
    """

    task: str = "digits"
    task_path: str = ""
    task_options: dict[str, bool | int | float | str] = {}
    devices: Annotated[int, Meta(ge=0, le=LARGEST_FLEET)] = 100
    settings: dict[str, Any] = {}
    fleet: FleetSpec = msgspec.field(default_factory=FleetSpec)
    seed: Annotated[int, Meta(ge=0, lt=2**32)] = 0
    training: Literal["real", "curve"] = "real"
    learning_curve: str = ""
    strategies: list[str] = []
    vectorize: Literal["auto", "never"] = "auto"
    held_out_every: Annotated[int, Meta(ge=1, le=1_000_000)] = 1
    longest_hours: Annotated[float, Meta(gt=0)] = 24.0 * 365
