"""The tasks of the devices in a worker process: each is created on first use and kept while memory lasts."""

import os
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

from components.runtime.component_errors import ConfigurationError
from components.trainer.tasks.partition import SHARE, SHARES, takes_shares
from components.trainer.tasks.registry import find_class, make_task
from components.trainer.tasks.task import Task
from components.trainer.training import TorchTask
from components.trainer.worker.worker_protocol import TaskOptions
from fedgrass.simulation.fleets.device_conditions import DeviceConditions

_PAGE = os.sysconf("SC_PAGE_SIZE")
_THING = "AWS_IOT_THING_NAME"


def memory_in_use() -> int:
    """Return the resident memory of this process, in bytes."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * _PAGE
    except OSError:
        return 0  # not on Linux: all tasks are kept


class VirtualTasks:
    """Creates the tasks of devices; the least recently used ones are dropped once memory is short.

    Args:
        name: of the task.
        options: of the task for all devices.
        devices: among how many its data are split, if its class takes shares.
        most_bytes: of memory that this process may use before it drops tasks.
        used: returns the bytes that it uses.
    """

    def __init__(
        self,
        name: str,
        options: TaskOptions,
        devices: int,
        most_bytes: int,
        used: Callable[[], int] = memory_in_use,
    ) -> None:
        self._name = name
        self._options = options
        self._devices = devices
        self._most_bytes = most_bytes
        self._used = used
        self._room: int | None = None  # number of tasks to keep; None: not known yet
        self._tasks: OrderedDict[str, Task] = OrderedDict()
        self._class: type[Task] | None = None

    @property
    def takes_shares(self) -> bool:
        """Whether each device has its share of the data. Raises ConfigurationError if there is no class."""
        return takes_shares(self._found_class())

    def options_of(self, device: DeviceConditions) -> TaskOptions:
        """Return the options of a device's task."""
        shares: TaskOptions = {SHARE: device.share, SHARES: self._devices} if self.takes_shares else {}
        return {**self._options, **shares}

    def of(self, device: DeviceConditions) -> Task:
        """Return the task of a device.

        Raises:
            ConfigurationError: its class cannot be imported, or does not accept the options.
        """
        task = self._tasks.get(device.name)
        if task is not None:
            self._tasks.move_to_end(device.name)
            return task
        self._make_room()
        task = self._tasks[device.name] = self._make(device)
        return task

    def _found_class(self) -> type[Task]:
        if self._class is None:
            self._class = find_class(self._name, self._options)
        return self._class

    def _make(self, device: DeviceConditions) -> Task:
        os.environ[_THING] = device.name  # as on a Greengrass device
        task = make_task(self._name, self._found_class(), self.options_of(device))
        if device.examples is not None and device.examples < task.examples():
            if not isinstance(task, TorchTask):
                message = (
                    f"device {device.name} has at most {device.examples} examples, but the number of"
                    f" examples of task {self._name!r} cannot be limited, since it is no TorchTask"
                )
                raise ConfigurationError(message)
            task.limit_training(device.examples)
        return task

    def _make_room(self) -> None:
        if self._room is None and self._tasks and self._used() > self._most_bytes:
            self._room = len(self._tasks)
        while self._room is not None and len(self._tasks) >= self._room:
            self._tasks.popitem(last=False)
