"""What a worker process does: the work of several devices, one by one or together.

Everything but the fit is the trainer's own code (components/trainer/worker).
"""

import random
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
import torch

from components.runtime.atomic_file import unfinished, without_flushes
from components.runtime.component_errors import ConfigurationError, WorkDeclined, WorkFailed
from components.trainer.tasks.shared_reads import share_reads
from components.trainer.tasks.task import Fit, PartialTask
from components.trainer.training import TorchTask, parse_training_settings
from components.trainer.training.sgd import parse_plain_settings
from components.trainer.worker.prepared_training import PreparedTraining
from components.trainer.worker.work_failure import failure_of
from components.trainer.worker.work_runner import WorkRunner
from components.trainer.worker.worker_protocol import Result, WorkOrder
from fedgrass.federation.weights import decode, encode
from fedgrass.local import task_sharing
from fedgrass.simulation.clients.client_state import DeviceState
from fedgrass.simulation.clients.client_trainer import ClientUpdate, ClientWork
from fedgrass.simulation.clients.job_calls import JobResult, Problem, WorkerOptions
from fedgrass.simulation.clients.joint_limits import NotTogether, likeness, why_alone, why_settings_alone
from fedgrass.simulation.clients.joint_training import Client, train_together
from fedgrass.simulation.clients.virtual_tasks import VirtualTasks
from fedgrass.simulation.fleets.device_conditions import DeviceConditions

_SEED_LIMIT = 2**32  # of numpy's global generator
_NOISE = "noise"  # makes its own data on each device
_LONG = 1e9  # seconds: an assignment in virtual time has no deadline on this machine's clock


def prepare_process() -> None:
    """Set what PyTorch sets for the whole process: one thread, on which no result may depend."""
    torch.set_num_threads(1)


class ClientWorker:
    """Performs the assignments of virtual devices.

    Args:
        options: of the process.
    """

    def __init__(self, options: WorkerOptions) -> None:
        self._folder = Path(options.folder)
        self._name = options.task
        share_reads()
        self._vectorize = options.vectorize
        self._tasks = VirtualTasks(options.task, options.options, options.devices, options.most_bytes)

    def perform(self, works: Sequence[ClientWork], objects: Mapping[str, bytes]) -> JobResult:
        """Perform assignments; see ``job_calls``."""
        notes: dict[str, None] = {}
        with without_flushes():
            begun = [self._begin(work, objects) for work in works]
            fits = self._fit_together([one for one in begun if isinstance(one, _Begun)], notes)
            updates = [self._end(one, fits.get(id(one))) if isinstance(one, _Begun) else one for one in begun]
        return JobResult(updates, list(notes))

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

    def count_examples(self, device: DeviceConditions) -> int | Problem:
        """Return the number of examples; see ``job_calls``."""
        try:
            return self._tasks.of(device).examples()
        except BaseException as error:  # noqa: BLE001 - the task is the user's code
            return self._problem(device, error)

    def initial_model(self, device: DeviceConditions, seed: int) -> bytes | Problem:
        """Return the initial weights that the run's model has; see ``job_calls``."""
        try:
            return encode(task_sharing.initial_model(self._tasks.of(device), seed).shared)
        except BaseException as error:  # noqa: BLE001 - the task is the user's code
            return self._problem(device, error)

    def evaluate(self, device: DeviceConditions, model: bytes) -> dict[str, float] | Problem:
        """Return the metrics of a model; see ``job_calls``."""
        try:
            task: Any = self._tasks.of(device)
            if not hasattr(task, "evaluate_held_out"):
                return {}
            whole = decode(model)
            if isinstance(task, PartialTask):  # its private arrays are those that it begins with
                whole = task_sharing.initial_model(task, 0).complete(model)
            found: Mapping[str, float] = task.evaluate_held_out(whole).metrics
        except BaseException as error:  # noqa: BLE001 - the task is the user's code
            return self._problem(device, error)
        return {name: float(value) for name, value in found.items()}

    def _begin(self, work: ClientWork, objects: Mapping[str, bytes]) -> "_Begun | ClientUpdate":
        """Perform an assignment up to its fit; all of it if it is other work."""
        runner, order = self._runner(work, objects), self._order(work)
        try:
            _seed(work.seed)
            if work.announcement.work != "train":
                result = _timeless(runner.perform(order, _ignore, _never))
                return ClientUpdate(result, _taken(Path(order.update)) if result.bytes else b"")
            return _Begun(work, runner.prepare(order), runner)
        except BaseException as error:  # noqa: BLE001 - the task is the user's code and may raise anything
            return ClientUpdate(failure_of(order, error, unloadable=runner.unloadable))

    def _end(self, begun: "_Begun", fit: Fit | None) -> ClientUpdate:
        """Complete a training; train first if there is no fit yet."""
        work, prepared = begun.work, begun.prepared
        try:
            if fit is None:
                _seed(work.seed)
                fit = prepared.fit(_ignore, _never)
            result = prepared.finish(fit, _never, np.random.default_rng(work.seed))
            update = _taken(unfinished(Path(prepared.work.update)))
        except BaseException as error:  # noqa: BLE001 - the task is the user's code and may raise anything
            return ClientUpdate(failure_of(prepared.work, error, unloadable=begun.runner.unloadable))
        return ClientUpdate(_timeless(result), update)

    def _fit_together(self, begun: Sequence["_Begun"], notes: dict[str, None]) -> dict[int, Fit]:
        """Train what can be trained together; return the fits by the ``id`` of their assignment."""
        if not self._vectorize:
            return {}
        groups: dict[Hashable, list[tuple[_Begun, Client]]] = {}
        found: dict[int, Fit] = {}
        for one in begun:
            try:
                client, key = _client_of(one.prepared)
                groups.setdefault(key, []).append((one, client))
            except NotTogether as error:
                notes[f"clients are trained one by one: {error}"] = None
            except WorkFailed:
                continue  # by itself, it fails with its reason
        for group in groups.values():
            if len(group) == 1:
                continue
            try:
                fits = train_together([client for _, client in group])
            except NotTogether as error:
                notes[f"clients are trained one by one: {error}"] = None
                continue
            found.update({id(one): fit for (one, _), fit in zip(group, fits, strict=True) if fit})
        return found

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


class _Begun(NamedTuple):
    """A training that is prepared."""

    work: ClientWork
    prepared: PreparedTraining
    runner: WorkRunner


def _client_of(prepared: PreparedTraining) -> tuple[Client, Hashable]:
    """Return a training as one to be done together with others, and what these must have in common.

    Raises:
        NotTogether: it cannot be done together with others.
        WorkFailed: its settings are wrong.
    """
    task = prepared.task
    reason = why_alone(task)
    if reason or not isinstance(task, TorchTask):
        raise NotTogether(reason)
    parts = task.training_parts()
    parse = parse_plain_settings if prepared.scaffold else parse_training_settings
    chosen = parse(prepared.settings, parts.defaults)
    if reason := why_settings_alone(chosen):
        raise NotTogether(reason)
    correction = prepared.scaffold.correction() if prepared.scaffold else None
    key = likeness(task), msgspec.structs.replace(chosen, seed=0), correction is None
    return Client(task, prepared.given, chosen, correction), key


def _taken(path: Path) -> bytes:
    """Return the content of a file with an update, or with an answer to a query, and remove it."""
    content = path.read_bytes()
    path.unlink()
    return content


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
    torch.default_generator.manual_seed(seed)  # torch.manual_seed takes 3 ms for devices that are not there


def _ignore(_fraction: float) -> None:
    """Report nothing."""


def _never() -> bool:
    return False
