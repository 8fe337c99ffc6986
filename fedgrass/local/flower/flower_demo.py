"""A Flower app in ``fedgrass demo``: its component on the demo's devices, each with its partition."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from components.trainer.tasks.task_release import COMPONENT
from fedgrass.console.flower.flower_component import flower_code
from fedgrass.console.flower.flower_project import TASK_PREFIX, check_flwr, read_project, task_name
from fedgrass.console.options import Value
from fedgrass.console.tasks.task_component import build_task, component_name
from fedgrass.federation.encodings.array_types import read_arrays
from fedgrass.federation.errors import SettingsError
from fedgrass.federation.weights import Arrays
from fedgrass.local.flower.flower_initial_model import initial_model_of

_VERSION = "1.0.0"  # of the component
_PARTITION, _PARTITIONS = "node-partition-id", "node-num-partitions"


def is_flower(choice: str) -> bool:
    """Return whether a value of ``--task`` names a Flower app."""
    return choice.startswith(TASK_PREFIX)


class FlowerDemoTask:
    """A Flower app, with what the demo needs of a task.

    Args:
        choice: the value of ``--task``: ``flower:NAME``, or ``flower:`` for the app's own name.
        path: folder of the app.
        devices: number of devices, which get a partition each.
        options: options of the task.
        has_server_app: whether its ServerApp drives the fleet, so that the demo needs no initial model.

    Raises:
        SettingsError: the app cannot be used, or has no initial model.
    """

    keeps_order = True  # of the model's arrays: an app may turn them into a list

    def __init__(
        self,
        choice: str,
        path: Path | None,
        devices: int,
        options: Mapping[str, Value],
        *,
        has_server_app: bool = False,
    ) -> None:
        if path is None:
            message = f"--task is {choice}, a Flower app: give its folder by --task-path"
            raise SettingsError(message)
        check_flwr()
        self.project = read_project(path)
        self.name = task_name(self.project, choice.removeprefix(TASK_PREFIX))
        self._devices = devices
        self._options = options
        self._model: Arrays = {}
        self.training: Mapping[str, Value] = {}
        if has_server_app:
            return
        node = {_PARTITION: 0, _PARTITIONS: devices}
        found = initial_model_of(path, options={**node, **options})
        self._model, self.training = read_arrays(found.model), found.settings

    def configuration(self, share: int) -> dict[str, object]:
        """Return the trainer's tasks for the device with partition ``share``: only this task."""
        partition: dict[str, Value] = {_PARTITION: share, _PARTITIONS: self._devices}
        located = {COMPONENT: component_name(self.name)}
        return {self.name: {**partition, **self._options, **located}, "digits": {"enabled": False}}

    def build_component(self, folder: Path) -> str:
        """Build the app's component, as ``fedgrass flower add`` does; return its name.

        The demo's devices run this interpreter, so requirements are not installed again.
        """
        folder.mkdir(parents=True, exist_ok=True)
        build_task(flower_code(self.project, self.name, folder), _VERSION, folder)
        return component_name(self.name)

    def shared_data_warning(self) -> str:
        """Return no warning: each device has its partition."""
        return ""

    def get(self) -> Any:
        """Return what has the initial weights: this object, which trains on devices only."""
        return self

    def initial_weights(self, seed: int) -> Arrays:  # noqa: ARG002 - the ServerApp draws them
        """Return the ServerApp's initial model."""
        return self._model

    def raise_if_failed(self) -> None:
        """Raise nothing: the app was tried before."""

    def evaluate(self, weights: Arrays) -> Mapping[str, float]:  # noqa: ARG002 - only devices have data
        """Return no metrics: the devices evaluate the model."""
        return {}
