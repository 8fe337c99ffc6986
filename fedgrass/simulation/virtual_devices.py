"""The virtual devices: what a trainer's session sends and decides, as events in virtual time.

    announced   at the moment of publication: the work begins to be computed, all of that moment together
    arrival     the message arrives: accept, repeat a reply, or drop it, as components/trainer/session does
    result      the update is needed to know how long the work takes
    finish      the update is uploaded; the completion is sent, and repeated until its verdict arrives
    turned on   a hello, and a reply whose verdict is missing

A device that is off neither receives nor sends, and its work waits.
"""

import random
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from functools import partial
from typing import Literal

from msgspec import UNSET
from msgspec.structs import replace

from components.runtime.retries import delays
from components.trainer.session.completion_message import completion_of
from components.trainer.session.outbox import FIRST_REPLY_DELAY, LARGEST_REPLY_DELAY, status
from components.trainer.worker.worker_protocol import Failure, Result, id_of
from fedgrass.federation import messages, object_keys
from fedgrass.federation.messages import Announcement, Verdict
from fedgrass.federation.messages.trace_context import format_timeline
from fedgrass.federation.topics import Kind
from fedgrass.simulation import work_durations
from fedgrass.simulation.clients.client_trainer import ClientTrainer, ClientUpdate, ClientWork
from fedgrass.simulation.fleets.device_conditions import DeviceConditions
from fedgrass.simulation.virtual_cloud import VirtualCloud
from fedgrass.simulation.virtual_directory import VirtualDirectory
from fedgrass.simulation.work_durations import Draws

_WAIT_SECONDS = 0.2  # of real time, between two looks whether the user has stopped the simulation


class Stopped(Exception):
    """The user has stopped the simulation while it waited for a training."""


class _Work:
    """An assignment of a device."""

    __slots__ = ("announcement", "began", "deadline", "draws", "future", "name", "work")

    def __init__(self, device: DeviceConditions, announcement: Announcement, draws: Draws) -> None:
        self.announcement = announcement
        self.name = id_of(announcement)
        self.draws = draws
        self.work = ClientWork(device, announcement, draws.seed)
        self.future: Future[ClientUpdate] | None = None
        self.began = 0  # milliseconds since the start of the simulation
        self.deadline = 0


class _Reply:
    """The last completion of a device."""

    __slots__ = ("counted", "pauses", "payload", "settled", "until", "work")

    def __init__(self, work: _Work, payload: bytes, pauses: Iterator[float]) -> None:
        self.work = work
        self.payload = payload
        self.settled = False  # it need not be sent again
        self.counted: bool | None = None  # the verdict; None: there was none
        self.pauses = pauses
        self.until = work.deadline


class _Device:
    """What a device knows: one assignment at a time, and its last reply."""

    __slots__ = ("conditions", "reply", "submitted", "work")

    def __init__(self, conditions: DeviceConditions) -> None:
        self.conditions = conditions
        self.work: _Work | None = None
        self.reply: _Reply | None = None
        self.submitted: _Work | None = None  # is being computed; its announcement is on its way

    def knows_later(self, announcement: Announcement) -> bool:
        """Return whether a later round or attempt is known to the device."""
        known = [found.announcement for found in (self.work, self.reply and self.reply.work) if found]
        place = (announcement.round, announcement.attempt)
        return any((other.round, other.attempt) > place for other in known)

    def knows(self, name: str) -> bool:
        """Return whether it does, or has done, an assignment."""
        return any(found.name == name for found in (self.work, self.reply and self.reply.work) if found)


class VirtualDevices:
    """The devices of a simulation.

    Args:
        conditions: of each device.
        cloud: to which they reply.
        directory: of the devices, which learns what they report.
        trainer: computes their updates.
        seed: of what chance decides.
        start: the virtual time at which the simulation begins, in milliseconds since the epoch.
    """

    def __init__(  # noqa: PLR0913 - the fleet, what is around it, and when it begins
        self,
        conditions: Sequence[DeviceConditions],
        cloud: VirtualCloud,
        directory: VirtualDirectory,
        trainer: ClientTrainer,
        seed: int,
        *,
        start: int,
    ) -> None:
        self.assignments = 0
        self.timed_bytes: dict[
            str, tuple[int, int]
        ] = {}  # of model and update, where they differ from the files
        self._conditions = {each.name: each for each in conditions}
        self._devices: dict[str, _Device] = {}  # those that were asked at least once
        self._cloud = cloud
        self._clock = cloud.clock
        self._directory = directory
        self._trainer = trainer
        self._seed = seed
        self._start = start
        self._rng = random.Random(seed)  # noqa: S311 - repeatable: the pauses between repeated replies
        self._announced: list[tuple[_Device, Announcement]] = []
        self.is_stopped: Callable[[], bool] = lambda: False
        for each in conditions:
            self._await_turning_on(each)

    @property
    def _now(self) -> int:
        """Milliseconds since the start of the simulation."""
        return self._clock.now - self._start

    # ------------------------------------------------------------ messages of the cloud
    def receive(self, name: str, message: Announcement | Verdict) -> None:
        """Take a message to a device at the moment at which the cloud publishes it."""
        device = self._devices.get(name)
        if device is None:
            device = self._devices[name] = _Device(self._conditions[name])
        latency = device.conditions.latency
        if isinstance(message, Verdict):
            self._clock.after(latency, partial(self._on_verdict, device, message))
        else:
            self._announced.append((device, message))

    def begin_announced(self) -> None:
        """Begin to compute what was announced at this moment, together, in the order of announcement."""
        announced, self._announced = self._announced, []
        begun = []
        for device, announcement in announced:
            arrival = self._clock.now + round(device.conditions.latency * 1000)
            self._clock.at(arrival, partial(self._on_announcement, device, announcement))
            if work := self._foreseen(device, announcement, arrival - self._start):
                device.submitted = work
                begun.append(work)
        self._submit(begun)

    def _foreseen(self, device: _Device, announcement: Announcement, arrival: int) -> _Work | None:
        """Return an assignment that the device will accept and reply to, as far as can be foreseen."""
        name = id_of(announcement)
        if device.knows(name) or device.knows_later(announcement):
            return None
        if device.submitted and device.submitted.name == name:
            return None
        draws = work_durations.draw(self._seed, device.conditions, announcement)
        if draws.drops_out or not device.conditions.is_on(arrival):
            return None
        least = self._least_seconds(device.conditions, announcement, draws)
        if least > announcement.deadline_seconds:
            return None
        return _Work(device.conditions, announcement, draws)

    def _least_seconds(self, conditions: DeviceConditions, announcement: Announcement, draws: Draws) -> float:
        """Return the least that the work can take, before its number of examples is known."""
        least = work_durations.training_seconds(conditions, announcement, 0, draws.jitter)
        return work_durations.download_seconds(conditions, self._timed(announcement)[0]) + least

    def _timed(self, announcement: Announcement, update_bytes: int = 0) -> tuple[Announcement, int]:
        """Return an assignment and the size of its update as their transfers are timed."""
        sizes = self._trainer.timed_bytes(announcement)
        if sizes is None:
            return announcement, update_bytes
        self.timed_bytes[id_of(announcement)] = sizes
        return replace(announcement, model_bytes=sizes[0]), sizes[1]

    def _submit(self, begun: Sequence[_Work]) -> None:
        if not begun:
            return
        futures = self._trainer.submit([each.work for each in begun], self._read)
        for work, future in zip(begun, futures, strict=True):
            work.future = future

    def _read(self, key: str) -> bytes:
        return self._cloud.bucket.objects[key]

    def _on_announcement(self, device: _Device, announcement: Announcement) -> None:
        submitted, device.submitted = device.submitted, None
        name = id_of(announcement)
        if submitted and submitted.name != name:  # it is for another announcement, which is on its way
            device.submitted, submitted = submitted, None
        conditions = device.conditions
        is_on = conditions.is_on(self._now)
        if is_on and device.reply and device.reply.work.name == name:
            self._repeat(device, device.reply, until=self._now + round(announcement.deadline_seconds * 1000))
        elif is_on and not device.knows(name) and not device.knows_later(announcement):
            draws = work_durations.draw(self._seed, conditions, announcement)
            self._accept(device, submitted or _Work(conditions, announcement, draws))
            return
        if submitted:
            self._trainer.settle(submitted.work, counted=False)

    def _on_verdict(self, device: _Device, verdict: Verdict) -> None:
        if not device.conditions.is_on(self._now):
            return
        name = messages.round_id(verdict.run, verdict.round, verdict.attempt)
        if device.work and device.work.name == name:  # the round is over: the work would be useless
            self._drop(device)
        elif device.reply and device.reply.work.name == name:
            reply = device.reply
            reply.settled = True
            if reply.counted is None or (reply.counted and not verdict.counted):
                reply.counted = verdict.counted
                self._trainer.settle(reply.work.work, counted=verdict.counted)

    # ------------------------------------------------------------ work
    def _accept(self, device: _Device, work: _Work) -> None:
        self._drop(device)
        if device.reply:
            device.reply.settled = True  # the run has moved on
        self.assignments += 1
        device.work, conditions, announcement = work, device.conditions, work.announcement
        work.began = self._now
        work.deadline = work.began + round(announcement.deadline_seconds * 1000)
        self._send(device, Kind.STATUS, messages.encode(status(announcement, "accepted")))
        if work.draws.drops_out:
            return
        seconds = self._least_seconds(conditions, announcement, work.draws)
        ready = work_durations.finish(conditions, work.began, seconds)
        if ready is None or ready > work.deadline:
            self._clock.at(self._start + work.deadline, partial(self._overdue, device, work))
            return
        if work.future is None:
            self._submit([work])
        self._clock.at(self._start + ready, partial(self._result, device, work))

    def _result(self, device: _Device, work: _Work) -> None:
        """Learn what the work has made, and so when it is done and uploaded."""
        if device.work is not work or work.future is None:
            return
        update = self._wait(work.future)
        if isinstance(update.result, Failure):
            state: Literal["declined", "failed"] = "declined" if update.result.declined else "failed"
            device.work = None
            self._trainer.settle(work.work, counted=False)
            self._send(
                device, Kind.STATUS, messages.encode(status(work.announcement, state, update.result.reason))
            )
            return
        conditions, result = device.conditions, update.result
        trained = work_durations.training_seconds(
            conditions, work.announcement, result.examples, work.draws.jitter
        )
        announced, update_bytes = self._timed(work.announcement, len(update.update))
        downloaded = work_durations.download_seconds(conditions, announced)
        uploaded = update_bytes / conditions.upload
        done = work_durations.finish(conditions, work.began, downloaded + trained + uploaded)
        if done is None or done > work.deadline:
            self._clock.at(self._start + work.deadline, partial(self._overdue, device, work))
            return
        timed = replace(
            result,
            download_seconds=downloaded,
            evaluate_seconds=0.0 if work.announcement.work == "train" else trained,
            train_seconds=trained if work.announcement.work == "train" else 0.0,
            timeline={},
            worker_seconds=downloaded + trained,
        )
        call = partial(self._finish, device, work, replace(update, result=timed), uploaded)
        self._clock.at(self._start + done, call)

    def _wait(self, future: Future[ClientUpdate]) -> ClientUpdate:
        """Wait for an update in real time. Raises Stopped."""
        while True:
            try:
                return future.result(timeout=_WAIT_SECONDS)
            except TimeoutError:
                if future.done():
                    raise
                if self.is_stopped():
                    raise Stopped from None

    def _finish(self, device: _Device, work: _Work, update: ClientUpdate, uploaded: float) -> None:
        if device.work is not work or not isinstance(update.result, Result):
            return
        announcement, result = work.announcement, update.result
        if update.update:
            key = object_keys.update(
                device.conditions.name, announcement.run, announcement.round, announcement.attempt
            )
            self._cloud.bucket.write(key, update.update)
        completion = completion_of(
            announcement, result, uploaded, timeline=self._timeline(work, result, uploaded)
        )
        self._directory.note_work(device.conditions.name, result.examples_of_task, frozenset(result.reported))
        device.work = None
        work.future = None  # it holds the update, of which the bucket has a copy
        pauses = delays(FIRST_REPLY_DELAY, LARGEST_REPLY_DELAY, self._rng)
        device.reply = _Reply(work, messages.encode(completion), pauses)
        self._repeat(device, device.reply, until=work.deadline)

    def _timeline(self, work: _Work, result: Result, uploaded: float) -> str:
        """Return the timeline of the work; empty unless the announcement carried a trace."""
        if work.announcement.trace is UNSET:
            return ""
        total = (self._now - work.began) / 1000
        worked = result.train_seconds or result.evaluate_seconds
        parts = {
            "download": (0.0, result.download_seconds),
            work.announcement.work: (result.download_seconds, result.download_seconds + worked),
        }
        if result.bytes:
            parts["upload"] = (max(0.0, total - uploaded), total)
        return format_timeline(parts, total)

    def _overdue(self, device: _Device, work: _Work) -> None:
        """Give an assignment up at its deadline, as a real device does."""
        if device.work is not work:
            return
        device.work = None
        if work.future:
            self._trainer.settle(work.work, counted=False)
        seconds = work.announcement.deadline_seconds
        reason = f"deadline: the work was not done after {seconds:g} s"
        if device.conditions.is_on(self._now):
            self._send(device, Kind.STATUS, messages.encode(status(work.announcement, "failed", reason)))

    def _drop(self, device: _Device) -> None:
        """Drop the assignment in progress, if there is one."""
        if device.work and device.work.future:
            self._trainer.settle(device.work.work, counted=False)
        device.work = None

    # ------------------------------------------------------------ messages to the cloud
    def _repeat(self, device: _Device, reply: _Reply, *, until: int) -> None:
        """Send a completion, and again with longer and longer pauses until its verdict or its deadline."""
        reply.until, reply.settled = until, False
        self._send(device, Kind.COMPLETE, reply.payload)
        self._clock.after(next(reply.pauses), partial(self._repeat_unsettled, device, reply))

    def _repeat_unsettled(self, device: _Device, reply: _Reply) -> None:
        if device.reply is not reply or reply.settled or self._now > reply.until:
            return
        if device.conditions.is_on(self._now):
            self._send(device, Kind.COMPLETE, reply.payload)
        self._clock.after(next(reply.pauses), partial(self._repeat_unsettled, device, reply))

    def _send(self, device: _Device, kind: Kind, payload: bytes) -> None:
        self._cloud.reply(device.conditions.name, kind, payload, device.conditions.latency)

    # ------------------------------------------------------------ on and off
    def _await_turning_on(self, conditions: DeviceConditions) -> None:
        if conditions.on:
            at = work_durations.next_turned_on(conditions, self._now)
            if at is not None:
                self._clock.at(self._start + at, partial(self._turned_on, conditions))

    def _turned_on(self, conditions: DeviceConditions) -> None:
        self._cloud.hello(conditions.name, conditions.latency)
        device = self._devices.get(conditions.name)
        if device and device.reply and not device.reply.settled and self._now <= device.reply.until:
            self._send(device, Kind.COMPLETE, device.reply.payload)
        self._await_turning_on(conditions)
