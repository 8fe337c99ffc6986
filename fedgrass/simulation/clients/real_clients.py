"""Trains virtual devices in worker processes."""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import CancelledError, Future
from contextlib import suppress
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from components.trainer.session.eligibility import read_free_memory
from components.trainer.tasks.partition import SHARE, SHARES
from components.trainer.tasks.registry import BUILT_IN
from components.trainer.worker.worker_protocol import Failure, TaskOptions
from fedgrass.federation.errors import SettingsError
from fedgrass.federation.messages import Announcement
from fedgrass.federation.messages.message_fields import checked_name, shorten
from fedgrass.federation.weights import Arrays, decode, encode
from fedgrass.simulation.clients import job_calls
from fedgrass.simulation.clients.client_state import DeviceState
from fedgrass.simulation.clients.client_trainer import ClientUpdate, ClientWork, ReadObject
from fedgrass.simulation.clients.job_calls import JobResult, Problem, WorkerOptions
from fedgrass.simulation.clients.worker_pool import WorkerDied, WorkerPool
from fedgrass.simulation.fleets.data_slices import number_of_slices, too_many_slices
from fedgrass.simulation.fleets.device_conditions import DeviceConditions
from fedgrass.simulation.simulation_spec import SimulationSpec

_GROUP = 25  # clients per job; never changed by the number of workers, on which no result may depend
_PATHS = {"folder", "file"}  # options with a path, relative to the current folder
_MEMORY_SHARE = 0.5  # of the free memory is for the tasks of all workers
_DEFAULT_MEMORY = 4 << 30  # bytes, where the free memory is unknown


class RealClients:
    """A ``ClientTrainer`` with a pool of worker processes.

    Args:
        spec: the simulation.
        devices: all of its devices.
        workers: how many processes.
        folder: for the files of the devices and the output of the workers.

    Raises:
        SettingsError: the task, its options or its data cannot be used; the message names the device.
    """

    def __init__(
        self, spec: SimulationSpec, devices: Sequence[DeviceConditions], workers: int, folder: Path
    ) -> None:
        self._folder = folder
        self._first = devices[0]
        self._notes: list[str] = []
        name, options = task_options(spec)
        free = read_free_memory() or _DEFAULT_MEMORY
        self._pool = WorkerPool(
            workers,
            job_calls.start,
            (
                WorkerOptions(
                    task=name,
                    options=options,
                    devices=number_of_slices(devices),
                    folder=str(folder),
                    most_bytes=round(free * _MEMORY_SHARE / workers),
                    vectorize=spec.vectorize == "auto",
                ),
            ),
        )
        try:
            self._check(devices, workers)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def initial_model(self, seed: int) -> Arrays:
        """Return the weights with which the run starts, by the task of the first device."""
        return decode(self._result(job_calls.initial_model, self._first, seed))

    def examples(self) -> int:
        """Return the number of training examples of the first device."""
        found: int = self._result(job_calls.count_examples, self._first)
        return found

    def timed_bytes(self, announcement: Announcement) -> None:
        """Return None: transfers are timed by the files themselves."""

    def evaluate(self, weights: Arrays, *, number: int = 0, updates: int = 0) -> Mapping[str, float]:  # noqa: ARG002 - the interface
        """Return the metrics of a global model by the task's ``evaluate_held_out``, if it has one."""
        found: dict[str, float] = self._result(job_calls.evaluate, self._first, encode(weights))
        return found

    def submit(self, work: Sequence[ClientWork], read: ReadObject) -> Sequence[Future[ClientUpdate]]:
        """Begin assignments that were announced at the same time; return a future of each, in order."""
        futures: list[Future[ClientUpdate]] = [Future() for _ in work]
        for future in futures:
            future.set_running_or_notify_cancel()
        for start in range(0, len(work), _GROUP):
            group = slice(start, start + _GROUP)
            self._begin(work[group], futures[group], read)
        return futures

    def settle(self, work: ClientWork, *, counted: bool) -> None:
        """Keep what a device has made for its later rounds with an update, or undo it."""
        DeviceState(self._folder, work.device.name).settle(work.announcement, counted=counted)

    def notes(self) -> Sequence[str]:
        """Return what the user should know, such as why clients are not trained together."""
        return self._notes

    def close(self) -> None:
        """End the worker processes. May be called twice."""
        self._pool.close()

    def _begin(
        self, work: Sequence[ClientWork], futures: Sequence[Future[ClientUpdate]], read: ReadObject
    ) -> None:
        job = self._pool.submit(job_calls.perform, work, _objects(work, read))
        job.add_done_callback(partial(self._done, work, futures, read))

    def _done(
        self,
        work: Sequence[ClientWork],
        futures: Sequence[Future[ClientUpdate]],
        read: ReadObject,
        job: "Future[JobResult]",
    ) -> None:
        try:
            result = job.result()
        except WorkerDied as error:
            if len(work) > 1:  # one device ends the process: the others must not fail with it
                for one, future in zip(work, futures, strict=True):
                    self._begin([one], [future], read)
            else:
                reason = f"task {work[0].announcement.task!r} failed: {error}"
                futures[0].set_result(ClientUpdate(Failure(shorten(reason))))
        except (Exception, CancelledError) as error:  # noqa: BLE001 - raised where the future is read
            for future in futures:
                future.set_exception(error)
        else:
            self._notes.extend(note for note in result.notes if note not in self._notes)
            for future, update in zip(futures, result.updates, strict=True):
                future.set_result(update)

    def _check(self, devices: Sequence[DeviceConditions], workers: int) -> None:
        """Create the first and the last task, of the smallest share, and start the other workers."""
        checked = [devices[0], *([devices[-1]] if len(devices) > 1 else [])]
        first = self._pool.submit(job_calls.check, checked)
        for _ in range(workers - 1):
            self._pool.submit(job_calls.warm_up)
        try:
            notes = _raised(first.result)
        except SettingsError as error:
            raise SettingsError(too_many_slices(devices, str(error))) from error
        self._notes.extend(notes)

    def _result(self, function: Callable[..., object], *arguments: object) -> Any:
        return _raised(self._pool.submit(function, *arguments).result)


def task_options(spec: SimulationSpec) -> tuple[str, TaskOptions]:
    """Return the name of a simulation's task, and its options for all devices.

    Raises:
        SettingsError: there is no such task, or an option is set for each device.
    """
    name, _, module = spec.task.partition("=")
    checked_name("task", name)
    if not module and name not in BUILT_IN:
        message = (
            f"there is no task {name!r}; built-in tasks are {', '.join(BUILT_IN)}; give your own as"
            " --task NAME=package.module:ClassName --task-path FOLDER"
        )
        raise SettingsError(message)
    for option in (SHARE, SHARES):
        if option in spec.task_options:
            message = (
                f"the task's option {option!r} is set for each device: choose the number of devices instead"
            )
            raise SettingsError(message)
    place: TaskOptions = {"module": module} if module else {}
    if spec.task_path:
        place["path"] = str(Path(spec.task_path).absolute())
    chosen: TaskOptions = {
        key: str(Path(str(value)).absolute()) if key in _PATHS else value
        for key, value in spec.task_options.items()
    }
    return name, {**chosen, **place}


def _objects(work: Sequence[ClientWork], read: ReadObject) -> dict[str, bytes]:
    """Return the objects that some assignments read, by key; missing ones fail the assignments."""
    found = {}
    for key in sorted({key for one in work for key in _keys(one.announcement)}):
        with suppress(KeyError):
            found[key] = read(key)
    return found


def _keys(announcement: Announcement) -> list[str]:
    files = [file for file in announcement.carried.values() if file]
    if announcement.frozen:
        files.append(announcement.frozen)
    return [announcement.model_key, *(file.key for file in files)]


def _raised(result: Callable[[], Any]) -> Any:
    """Return the result of a call, or raise what went wrong as an error of the user."""
    try:
        found = result()
    except WorkerDied as error:
        message = f"the task cannot be used: {error}"
        raise SettingsError(message) from error
    if isinstance(found, Problem):
        raise SettingsError(found.text)
    return found
