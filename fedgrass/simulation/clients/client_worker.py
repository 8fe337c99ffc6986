"""What a worker process does: the work of several devices, one by one or together.

Everything but the fit is the trainer's own code (components/trainer/worker).
"""

import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch

from components.runtime.atomic_file import unfinished, without_flushes
from components.runtime.component_errors import ConfigurationError, WorkDeclined, WorkFailed
from components.trainer.tasks.task import Fit
from components.trainer.training import TorchTask
from components.trainer.worker.prepared_training import PreparedTraining
from components.trainer.worker.work_failure import failure_of
from components.trainer.worker.work_runner import WorkRunner
from components.trainer.worker.worker_protocol import Result, WorkOrder
from fedgrass.federation.weights import decode, encode
from fedgrass.simulation.clients.client_state import DeviceState
from fedgrass.simulation.clients.client_trainer import ClientUpdate, ClientWork
from fedgrass.simulation.clients.job_calls import JobResult, Problem, WorkerOptions
from fedgrass.simulation.clients.virtual_tasks import VirtualTasks
from fedgrass.simulation.fleets.device_conditions import DeviceConditions

_SEED_LIMIT = 2**32  # of numpy's global generator
_NOISE = "noise"  # makes its own data on each device
_LONG = 1e9  # seconds: an assignment in virtual time has no deadline on this machine's clock


class ClientWorker:
    """Performs the assignments of virtual devices.

    Args:
        options: of the process.
    """

    def __init__(self, options: WorkerOptions) -> None:
        torch.set_num_threads(1)
        torch.set_flush_denormal(True)
        self._folder = Path(options.folder)
        self._name = options.task
        self._tasks = VirtualTasks(options.task, options.options, options.devices, options.most_bytes)

    def perform(self, works: Sequence[ClientWork], objects: Mapping[str, bytes]) -> JobResult:
        """Perform assignments; see ``job_calls``."""
        with without_flushes():
            return JobResult([self._one(work, objects) for work in works])

    def check(self, devices: Sequence[DeviceConditions]) -> list[str] | Problem:
        """Create tasks; see ``job_calls``."""
        for device in devices:
            try:
                examples = self._tasks.of(device).examples()
            except BaseException as error:  # noqa: BLE001 - the task is the user's code
                return self._problem(device, error)
            if not examples:
                return Problem(
                    f"device {device.name} has no examples of task {self._name!r} to train on:"
                    " use fewer devices"
                )
        if len(devices) > 1 and not self._tasks.takes_shares and self._name != _NOISE:
            note = (
                f"all devices have the same data of task {self._name!r}: its class does not take `share` and"
                " `shares` (docs/own_task.md, shares of one data set)"
            )
            return [note]
        return []

    def initial_model(self, device: DeviceConditions, seed: int) -> bytes | Problem:
        """Return initial weights; see ``job_calls``."""
        try:
            return encode(self._tasks.of(device).initial_weights(seed))
        except BaseException as error:  # noqa: BLE001 - the task is the user's code
            return self._problem(device, error)

    def evaluate(self, device: DeviceConditions, model: bytes) -> dict[str, float] | Problem:
        """Return the metrics of a model; see ``job_calls``."""
        try:
            task: Any = self._tasks.of(device)
            if not hasattr(task, "evaluate_held_out"):
                return {}
            found: Mapping[str, float] = task.evaluate_held_out(decode(model)).metrics
        except BaseException as error:  # noqa: BLE001 - the task is the user's code
            return self._problem(device, error)
        return {name: float(value) for name, value in found.items()}

    def _one(self, work: ClientWork, objects: Mapping[str, bytes]) -> ClientUpdate:
        runner, order = self._runner(work, objects), self._order(work)
        try:
            _seed(work.seed)
            if work.announcement.work != "train":
                return ClientUpdate(_timeless(runner.perform(order, _ignore, _never)))
            prepared = runner.prepare(order)
            return self._finished(work, prepared, prepared.fit(_ignore, _never))
        except BaseException as error:  # noqa: BLE001 - the task is the user's code and may raise anything
            return ClientUpdate(failure_of(order, error, unloadable=runner.unloadable))

    def _finished(self, work: ClientWork, prepared: PreparedTraining, fit: Fit) -> ClientUpdate:
        rng = np.random.default_rng(work.seed)
        result = prepared.finish(fit, _never, rng)
        path = unfinished(Path(prepared.work.update))
        update = path.read_bytes()
        path.unlink()
        return ClientUpdate(_timeless(result), update)

    def _runner(self, work: ClientWork, objects: Mapping[str, bytes]) -> WorkRunner:
        def fetch(_bucket: str, key: str, _size: int) -> bytes:
            try:
                return objects[key]
            except KeyError as error:
                message = f"the object {key} is missing"
                raise WorkFailed(message) from error

        return WorkRunner(fetch, find_task=lambda _name, _options: self._tasks.of(work.device))

    def _order(self, work: ClientWork) -> WorkOrder:
        given = work.announcement
        settings = dict(given.settings)
        if given.work == "train" and self._takes_seed(work.device):
            settings.setdefault("seed", work.seed)
        announcement = msgspec.structs.replace(given, deadline_seconds=_LONG, settings=settings)
        state = DeviceState(self._folder, work.device.name)
        return state.order(announcement, self._tasks.options_of(work.device))

    def _takes_seed(self, device: DeviceConditions) -> bool:
        try:
            return isinstance(self._tasks.of(device), TorchTask)
        except BaseException:  # noqa: BLE001 - it is raised again by the work, whose failure it is
            return False

    def _problem(self, device: DeviceConditions, error: BaseException) -> Problem:
        if isinstance(error, ConfigurationError | WorkFailed | WorkDeclined):
            return Problem(str(error))
        from fedgrass.local.task_loading import explain  # noqa: PLC0415 - for the user's mistakes only

        return Problem(f"task {self._name!r} cannot be used for device {device.name}: {explain(error)}")


def _timeless(result: Result) -> Result:
    """Return a result without the durations on this machine, which differ from run to run."""
    return msgspec.structs.replace(
        result,
        download_seconds=0.0,
        evaluate_seconds=0.0,
        train_seconds=0.0,
        timeline={},
        worker_seconds=0.0,
    )


def _seed(seed: int) -> None:
    """Seed the global generators, from which a user's task may draw."""
    random.seed(seed)
    np.random.seed(seed % _SEED_LIMIT)  # noqa: NPY002 - the global one is what a task may use
    torch.manual_seed(seed)


def _ignore(_fraction: float) -> None:
    """Report nothing."""


def _never() -> bool:
    return False
