"""The demo's instance of the task: draws the initial model and evaluates the global ones."""

import inspect
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from components.trainer.tasks.registry import BUILT_IN, find_class, make_task
from components.trainer.tasks.task import Task
from fedgrass.console.options import Value
from fedgrass.federation.encodings.array_types import read_task_arrays
from fedgrass.federation.errors import SettingsError
from fedgrass.federation.messages.message_fields import checked_name
from fedgrass.local.task_loading import explain

_LOAD_SECONDS = 120.0
_SHARE, _SHARES = "share", "shares"


class DemoTask:
    """A built-in task by its name, or a user's task as ``name=package.module:ClassName``.

    A task whose class takes ``share`` and ``shares`` gets a different share of its data on each device.

    Args:
        choice: the value of ``--task``.
        path: folder of the user's module.
        devices: number of devices that share the data.
        options: options of the task; a relative folder or file is relative to the current folder.

    Raises:
        SettingsError: the task does not exist.
    """

    def __init__(
        self, choice: str, path: Path | None, devices: int, options: Mapping[str, Value] | None = None
    ) -> None:
        name, _, module = choice.partition("=")
        self.name = checked_name("task", name)
        if not module and name not in BUILT_IN:
            message = (
                f"there is no task {name!r}; built-in tasks are {', '.join(BUILT_IN)}; give your own"
                " as --task NAME=package.module:ClassName --task-path FOLDER"
            )
            raise SettingsError(message)
        self._module = {"module": module} if module else {}
        self._path = {"path": str(path.absolute())} if path else {}
        self._devices = devices
        self._chosen = {key: _absolute(key, value) for key, value in (options or {}).items()}
        self._class: list[type[Task]] = []
        self._found = threading.Event()  # set when the class was imported, or failed to import
        self._loaded: list[Any] = []
        self._failed: list[BaseException] = []
        # Importing torch takes seconds, during which the cloud and the cores can start.
        self._thread = threading.Thread(target=self._load, daemon=True)
        self._thread.start()

    def configuration(self, share: int) -> dict[str, object]:
        """Return the trainer's tasks for the device with share number ``share``: only this task.

        Waits until the class is imported, and raises the error of the import.
        """
        others: dict[str, object] = {} if self.name == "digits" else {"digits": {"enabled": False}}
        return {self.name: self._options(share), **others}

    def shared_data_warning(self) -> str:
        """Return a warning if all devices have the same data; empty if each has its share."""
        if self.name == "noise" or self._devices == 1:
            return ""
        takes = _takes_shares(self._imported())
        if takes and not {_SHARE, _SHARES} & self._chosen.keys():
            return ""
        why = "--task-option sets their share" if takes else "its class does not take `share` and `shares`"
        return (
            f"all {self._devices} devices have the same data of task {self.name!r}: {why}"
            " (docs/own_task.md, shares of one data set)"
        )

    def get(self) -> Any:
        """Wait for the task and return it; raises the error of loading it."""
        self._thread.join(_LOAD_SECONDS)
        self.raise_if_failed()
        if not self._loaded:
            message = f"the task {self.name!r} was not loaded within {_LOAD_SECONDS:.0f} s"
            raise SettingsError(message)
        return self._loaded[0]

    def raise_if_failed(self) -> None:
        """Raise the error of loading the task, if it has failed already; does not wait.

        Raises:
            SettingsError: the user's code raised an exception that is not an Exception, such as SystemExit.
        """
        if not self._failed:
            return
        failure = self._failed[0]
        if isinstance(failure, Exception):
            raise failure
        message = f"the task {self.name!r} cannot be loaded: {explain(failure)}"
        raise SettingsError(message) from failure

    def evaluate(self, model: bytes) -> Mapping[str, float]:
        """Return the metrics of a global model by the task's ``evaluate_held_out``; empty if it has none."""
        task = self.get()
        if not hasattr(task, "evaluate_held_out"):
            return {}
        metrics: Mapping[str, float] = task.evaluate_held_out(read_task_arrays(model)).metrics
        return metrics

    def _imported(self) -> type[Task]:
        """Wait for the class of the task and return it; raises the error of importing it."""
        if not self._found.wait(_LOAD_SECONDS):
            message = f"the module of task {self.name!r} was not imported within {_LOAD_SECONDS:.0f} s"
            raise SettingsError(message)
        if not self._class:
            self.raise_if_failed()
        return self._class[0]

    def _options(self, share: int) -> dict[str, Value]:
        # Built-in tasks are known to share their data, so the cores can start before PyTorch is imported.
        shared = self.name != "noise" if not self._module else _takes_shares(self._imported())
        shares = {_SHARE: share, _SHARES: self._devices} if shared else {}
        return {**shares, **self._chosen, **self._module, **self._path}

    def _load(self) -> None:
        try:
            options = {**self._chosen, **self._module, **self._path}
            self._class.append(find_class(self.name, options))
            self._found.set()
            self._loaded.append(make_task(self.name, self._class[0], self._options(0)))
        except BaseException as error:  # noqa: BLE001 - get() raises it in the calling thread
            self._failed.append(error)
        finally:
            self._found.set()


def _takes_shares(make: Callable[..., Any]) -> bool:
    """Return whether the class of a task takes ``share`` and ``shares``."""
    try:
        parameters = inspect.signature(make).parameters.values()
    except (TypeError, ValueError):  # a class without a signature, such as one written in C
        return False
    if any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters):
        return True
    return {_SHARE, _SHARES} <= {parameter.name for parameter in parameters}


def _absolute(key: str, value: Value) -> Value:
    return str(Path(str(value)).absolute()) if key in {"folder", "file"} else value
