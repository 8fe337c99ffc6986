"""The demo's own copy of the task: for the initial model, and to judge the global one."""

import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from components.trainer.tasks.registry import BUILT_IN, load_task
from fedgrass.console.key_values import Value
from fedgrass.federation.errors import SettingsError
from fedgrass.federation.names import checked_name
from fedgrass.federation.weights import decode

LOAD_SECONDS = 120.0
DEALT = {"digits", "mnist", "cifar10", "air_quality"}  # the tasks that deal one data set to all devices


class DemoTask:
    """A built-in task by its name, or one's own as ``name=package.module:ClassName``.

    Args:
        choice: what the person chose.
        path: the folder in which one's own module lies.
        devices: how many devices share the data, where the task deals shares.
        options: of the task. A folder or file is meant as seen from here, not from a core's work folder.

    Raises:
        SettingsError: there is no such task.
    """

    def __init__(
        self, choice: str, path: Path | None, devices: int, options: Mapping[str, Value] | None = None
    ) -> None:
        name, _, module = choice.partition("=")
        self.name = checked_name("task", name)
        if not module and name not in BUILT_IN:
            message = (
                f"there is no task {name!r}; built in are: {', '.join(BUILT_IN)}. One of your own is given"
                " as --task NAME=package.module:ClassName --task-path FOLDER"
            )
            raise SettingsError(message)
        self._module = {"module": module} if module else {}
        self._path = {"path": str(path.absolute())} if path else {}
        self._shares = devices if name in DEALT and not module else 0
        self._chosen = {key: _from_here(key, value) for key, value in (options or {}).items()}
        self._loaded: list[Any] = []
        self._failed: list[Exception] = []
        # Importing torch takes seconds, in which the cloud and the cores can start.
        self._thread = threading.Thread(target=self._load, daemon=True)
        self._thread.start()

    def configuration(self, share: int) -> dict[str, object]:
        """Return the trainer's tasks on the device that gets share number ``share``: this one alone."""
        others: dict[str, object] = {} if self.name == "digits" else {"digits": {"enabled": False}}
        return {self.name: self._options(share), **others}

    def get(self) -> Any:
        """Return the task once it is loaded; raises what loading it raised."""
        self._thread.join(LOAD_SECONDS)
        self.raise_if_failed()
        if not self._loaded:
            message = f"the task {self.name!r} was not loaded within {LOAD_SECONDS:.0f} s"
            raise SettingsError(message)
        return self._loaded[0]

    def raise_if_failed(self) -> None:
        """Raise what loading the task raised, if it is over and failed; does not wait for it."""
        if self._failed:
            raise self._failed[0]

    def judge(self, model: bytes) -> Mapping[str, float]:
        """Measure a global model by the task's ``evaluate_held_out``; a task without it measures nothing."""
        task = self.get()
        if not hasattr(task, "evaluate_held_out"):
            return {}
        metrics: Mapping[str, float] = task.evaluate_held_out(decode(model)).metrics
        return metrics

    def _options(self, share: int) -> dict[str, Value]:
        shares = {"share": share, "shares": self._shares} if self._shares else {}
        return {**shares, **self._chosen, **self._module, **self._path}

    def _load(self) -> None:
        try:
            self._loaded.append(load_task(self.name, self._options(0)))
        except Exception as error:  # noqa: BLE001  # told by get(), in the thread that asks
            self._failed.append(error)


def _from_here(key: str, value: Value) -> Value:
    return str(Path(str(value)).absolute()) if key in {"folder", "file"} else value
