"""What the dashboard shows of one stack, kept up to date from its topics and from few reads.

Two threads: one takes the messages of the fleet's topics, the other makes one read after the other
(``fleet_reader``), as the budget of ``fleet_reads`` allows. The page reads from memory. Heartbeats are not
subscribed to: those of 10,000 devices would cost a thousand times as much as the reads of their rows.
"""

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

from fedgrass.console import stack
from fedgrass.console.aws_clients import Clients
from fedgrass.console.dashboard.fleet_alarms import FleetAlarms
from fedgrass.console.dashboard.fleet_book import FleetBook, subscribed_topics
from fedgrass.console.dashboard.fleet_reader import FleetReader
from fedgrass.console.dashboard.fleet_reads import FleetReads, ReadBudget
from fedgrass.console.dashboard.fleet_runs import KnownRun
from fedgrass.console.dashboard.fleet_views import (
    CellBlock,
    DevicesPage,
    DeviceView,
    Overview,
    RunView,
    Turnaround,
)
from fedgrass.console.devices.device_history import WorkRecord, recent_work
from fedgrass.console.stack import StackError
from fedgrass.console.topic_feed.signed_address import signed_address
from fedgrass.console.topic_feed.topic_subscription import (
    Feed,
    Link,
    Received,
    TopicSubscription,
)
from fedgrass.federation.errors import SettingsError
from fedgrass.federation.rounds import ENDED

_BATCH = 200  # messages that are processed at a time: the page waits no longer than for these
_TAKE_SECONDS = 0.5
_CLOSE_SECONDS = 2.0
_MODELS_SHOWN = 200
_MOST_CACHED = 100
_ROUNDS_OF_A_DEVICE = 20
_HEARTBEAT_SECONDS = 60

Built = TypeVar("Built")


def open_fleet_state(stack_name: str, profile: str = "", region: str = "") -> "FleetState":
    """Return the state of a deployed stack, not started.

    Raises:
        StackError: the stack does not exist, or AWS refused the request.
    """
    clients = stack.clients_of(profile, region)
    outputs = stack.outputs(stack_name, clients)
    feed = TopicSubscription(lambda: signed_address(profile, region), subscribed_topics(outputs["Fleet"]))
    return FleetState(stack_name, clients, outputs, feed, region=clients("dynamodb").meta.region_name)


class FleetState:
    """One stack. All methods may be called from any thread, and return from memory, except ``device``.

    Args:
        stack_name: name of the stack.
        clients: returns the boto3 client of a service.
        outputs: the outputs of the stack.
        feed: messages of ``subscribed_topics``.
        clock: returns the seconds since the epoch.
        region: AWS region, to show.
    """

    def __init__(  # noqa: PLR0913, PLR0917 - what it is made of
        self,
        stack_name: str,
        clients: Clients,
        outputs: Mapping[str, str],
        feed: Feed,
        clock: Callable[[], float] = time.time,
        region: str = "",
    ) -> None:
        self._name, self._region, self._feed = stack_name, region, feed
        self.budget = ReadBudget(clock)  # counts the read units since the start
        self._dynamodb = clients("dynamodb")
        self._turnarounds = outputs["TurnaroundsTableName"]
        self._reads = FleetReads(self._dynamodb, outputs, self.budget)
        self._alarms = FleetAlarms(clients, outputs, stack_name, clock)
        self._book = FleetBook(float(outputs.get("HeartbeatSeconds", _HEARTBEAT_SECONDS)), clock)
        self._reader = FleetReader(self._book, self._reads, self._alarms, clock)
        self._cached: dict[object, tuple[int, Any]] = {}
        self._closing = threading.Event()
        self._wake = threading.Event()
        self._threads = [
            threading.Thread(target=target, name=f"fleet-{target.__name__.strip('_')}", daemon=True)
            for target in (self._follow, self._keep_reading)
        ]

    def start(self) -> None:
        """Begin to connect and to read, in the background."""
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        """End both threads; nothing is read or received any more."""
        self._closing.set()
        self._wake.set()
        for thread in self._threads:
            if thread.is_alive():
                thread.join(_CLOSE_SECONDS)

    @property
    def version(self) -> int:
        """A number that grows with each change of what the methods below return."""
        return self._book.version

    def refresh(self) -> None:
        """Read soon what an action may have changed."""
        self._reader.refresh()
        self._wake.set()

    def watch_run(self, name: str) -> None:
        """Keep the rounds and cells of a run up to date until ``unwatch_run``; calls are counted."""
        self._book.watch(name)
        self._wake.set()

    def unwatch_run(self, name: str) -> None:
        """End one call of ``watch_run``."""
        self._book.unwatch(name)

    def overview(self) -> Overview:
        """Return what the page shows at once."""
        return self._cache("overview", self._overview)

    def run(self, name: str) -> RunView | None:
        """Return a run with its rounds and the cells of its latest one; None: not read yet."""
        return self._cache(("run", name), lambda: self._run_view(name))

    def blocks(self, name: str, most: int = 1000) -> tuple[CellBlock, ...]:
        """Return the devices of a run's latest round in at most ``most`` blocks, by name."""

        def build() -> tuple[CellBlock, ...]:
            cells = self._book.cells.get(name)
            return cells.blocks(most) if cells else ()

        return self._cache(("blocks", name, most), build)

    def devices(
        self, page: int = 0, per_page: int = 50, text: str = "", health: str = "", version: str = ""
    ) -> DevicesPage:
        """Return a page of the devices; see ``DeviceBook.page``."""
        with self._book.lock:
            return self._book.devices.page(page, per_page, text, health, version)

    def device(self, name: str) -> DeviceView:
        """Return one device with its last rounds, read now. Waits for AWS; not counted as reads of the page.

        Raises:
            SettingsError: it is not registered.
            StackError: it cannot be read.
        """
        candidate = self._reads.device(name)
        with self._book.lock:
            if candidate is None:
                self._book.devices.remove(name)
                self._book.changed()
                message = f"there is no device {name!r}: it has sent no heartbeat, or was forgotten"
                raise SettingsError(message)
            self._book.devices.read([candidate], self._book.now())
            line = self._book.devices.line(name)
        if line is None:
            message = f"the device {name!r} was forgotten"
            raise SettingsError(message)
        try:
            with stack.refusals():
                work = recent_work(self._dynamodb, self._turnarounds, name, _ROUNDS_OF_A_DEVICE)
        except StackError as error:  # such as a stack of an older version, whose table has no index
            return DeviceView(line=line, note=str(error))
        return DeviceView(line=line, turnarounds=tuple(map(_turnaround, work)))

    def _cache(self, key: object, build: Callable[[], Built]) -> Built:
        """Return what ``build`` returned for this version of the state."""
        with self._book.lock:
            known = self._cached.get(key)
            if known is None or known[0] != self._book.version:
                if len(self._cached) > _MOST_CACHED:
                    self._cached.clear()
                known = self._cached[key] = (self._book.version, build())
            built: Built = known[1]
            return built

    def _overview(self) -> Overview:
        book, alarms, status = self._book, self._alarms.view, self._feed.status
        runs = sorted(book.runs.values(), key=_by_start)
        costs = [dollars for known in runs if (dollars := known.dollars()) is not None]
        models = sorted(
            (model for known in runs for model in known.models()), key=lambda model: -model.made_at
        )
        is_connected = book.topics.state == book.api.state == Link.CONNECTED
        return Overview(
            stack=self._name,
            region=self._region,
            connected=is_connected,
            trouble="" if is_connected else book.api.error or book.topics.error,
            read_at=self._reader.read_at,
            runs=tuple(known.line() for known in runs),
            fleet=book.devices.counts(),
            alarms=alarms.alarms,
            alarms_note="; ".join(filter(None, (alarms.alarms_note, alarms.letters_note))),
            dead_letters=alarms.dead_letters,
            dead_letter_count=alarms.dead_letter_count,
            cost_dollars=sum(costs) if costs else None,
            read_units=self.budget.units,
            read_units_per_second=self.budget.per_second(),
            models=tuple(models[:_MODELS_SHOWN]),
            topics=book.topics,
            api=book.api,
            messages=status.received,
            dropped=status.dropped,
            unreadable=book.unreadable + self._reads.unreadable,
        )

    def _run_view(self, name: str) -> RunView | None:
        known = self._book.runs.get(name)
        if known is None or known.run is None:
            return None
        run, latest, cells = known.run, known.latest, self._book.cells.get(name)
        return RunView(
            line=known.line(),
            settings=known.settings(),
            rounds=known.views(),
            open_round=known.view(latest) if latest and latest.state not in ENDED else None,
            cells=cells.cells() if cells else (),
            counts=cells.counts() if cells else {},
            unknown=max(0, (latest.asked if latest else 0) - (len(cells) if cells else 0)),
            history=known.history(),
            cost_dollars=known.dollars(),
            waiting_since=run.waiting_since,
            target_metric=run.settings.target_metric,
            lower_is_better=run.settings.lower_is_better,
        )

    def receive(self, received: list[Received]) -> None:
        """Process messages of the fleet's topics."""
        for start in range(0, len(received), _BATCH):
            self._book.receive(received[start : start + _BATCH])
        if self._book.changed_rounds or self._book.new_devices:
            self._wake.set()

    def note_feed(self) -> None:
        """Note the state of the feed; after it was lost, read what its messages would have reported."""
        status = self._feed.status
        if self._book.set_connection("topics", status.link, status.error):
            self._reader.begin_passes()
            self._wake.set()

    def read_next(self) -> float:
        """Make the most urgent read; return the seconds to wait before the next one."""
        return self._reader.read_next()

    def _follow(self) -> None:
        with self._feed:
            while not self._closing.is_set():
                received = self._feed.take(_TAKE_SECONDS)
                self.note_feed()
                self.receive(received)
        self._book.set_connection("topics", Link.CLOSED)

    def _keep_reading(self) -> None:
        while not self._closing.is_set():
            self._wake.clear()
            seconds = self.read_next()
            if not self._closing.is_set():
                self._wake.wait(seconds)


def _turnaround(work: WorkRecord) -> Turnaround:
    times = work.times
    return Turnaround(
        run=work.run,
        round=work.round,
        attempt=work.attempt,
        state=(work.counted or work.outcome).lower(),
        seconds=times.turnaround_seconds if times else 0.0,
        download_seconds=times.download_seconds if times else 0.0,
        evaluate_seconds=times.evaluate_seconds if times else 0.0,
        train_seconds=times.train_seconds if times else 0.0,
        upload_seconds=times.upload_seconds if times else 0.0,
        reason=work.counted_reason or work.reason,
    )


def _by_start(known: KnownRun) -> tuple[bool, int, str]:
    return (not known.is_living, -(known.run.started_at if known.run else 0), known.name)


@contextmanager
def opened(state: FleetState) -> Iterator[FleetState]:
    """Start a state, and close it on exit."""
    state.start()
    try:
        yield state
    finally:
        state.close()
