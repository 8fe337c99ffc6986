"""A simulation in memory, with small settings and devices that differ in what a test changes."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from fedgrass.console.runs.fleet_operator import RoundRecord
from fedgrass.federation.rounds import Participant, Participation
from fedgrass.simulation.fleets.device_conditions import DeviceConditions
from fedgrass.simulation.simulated_run import SimulatedRun
from fedgrass.simulation.simulated_settings import settings_of
from fedgrass.simulation.simulation import Simulation
from fedgrass.simulation.simulation_spec import SimulationSpec
from tests.fakes.numpy_clients import NumpyClients

SECOND, MINUTE = 1000, 60_000
QUICK: Mapping[str, Any] = {"rounds": 2, "evaluate_last": False}


def device(number: int, **changes: Any) -> DeviceConditions:
    """Return the conditions of a device that trains for ten seconds, with some of them changed."""
    found = {"name": f"device-{number:05}", "share": number, "fixed_seconds": 10.0, "latency": 0.1}
    return DeviceConditions(**{**found, **changes})


def play(
    devices: Sequence[DeviceConditions],
    settings: Mapping[str, Any] = {},
    clients: NumpyClients | None = None,
    *,
    stop: Callable[[], bool] | None = None,
    on_round: Callable[[RoundRecord, Mapping[str, float]], None] | None = None,
    **spec: Any,
) -> SimulatedRun:
    """Simulate a run of two rounds, unless ``settings`` has another number."""
    made = SimulationSpec(devices=len(devices), settings={**QUICK, **settings}, **spec)
    simulation = Simulation(made, settings_of(made), devices, clients or NumpyClients())
    return simulation.play(report=lambda _line: None, on_round=on_round, stop=stop)


def part(found: SimulatedRun, round_: int, device_number: int, attempt: int = 1) -> Participant:
    """Return what a device did in an attempt at a round."""
    name = f"device-{device_number:05}"
    [record] = [
        each for each in found.records if (each.round.number, each.round.attempt) == (round_, attempt)
    ]
    [one] = [each for each in record.participants if each.device == name]
    return one


def states(found: SimulatedRun) -> list[dict[str, Participation]]:
    """Return the states of the devices, by name, of each attempt."""
    return [{one.device: one.state for one in record.participants} for record in found.records]
