"""Which clients a simulation has."""

from collections.abc import Sequence
from pathlib import Path

from fedgrass.federation.errors import SettingsError
from fedgrass.simulation.clients.client_trainer import ClientTrainer
from fedgrass.simulation.clients.curve_clients import CurveClients
from fedgrass.simulation.clients.real_clients import RealClients
from fedgrass.simulation.fleets.device_conditions import DeviceConditions
from fedgrass.simulation.simulation_spec import SimulationSpec


def open_clients(
    spec: SimulationSpec, devices: Sequence[DeviceConditions], workers: int, folder: Path
) -> ClientTrainer:
    """Start what makes the updates of virtual devices; it is to be closed, or used in a ``with`` block.

    Args:
        spec: the simulation.
        devices: all of its devices.
        workers: how many processes train.
        folder: for the files of the devices and the output of the workers; it exists and is empty.

    Raises:
        SettingsError: the task, its options or its data cannot be used, or there are too many devices for
            the data; the message names the device.
    """
    if spec.training == "curve":
        if not spec.learning_curve:
            message = (
                "training is 'curve', but there is no learning_curve: give the file with --learning-curve"
            )
            raise SettingsError(message)
        return CurveClients(spec, devices, folder)
    return RealClients(spec, devices, workers, folder)
