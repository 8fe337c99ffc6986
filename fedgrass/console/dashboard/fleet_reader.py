"""Which row to read next: the dashboard makes one small read after the other, the most urgent first.

First what the page shows of the open rounds: which runs are active, and their latest rounds; then the
curves. The participants, the devices and the other runs, which take many pages, are read in turn.
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from fedgrass.console.dashboard.fleet_alarms import FleetAlarms
from fedgrass.console.dashboard.fleet_book import FleetBook
from fedgrass.console.dashboard.fleet_reads import IDLE_RATE, OPEN_RATE, FleetReads
from fedgrass.console.dashboard.fleet_runs import KnownRun
from fedgrass.console.topic_feed.topic_subscription import Link
from fedgrass.federation.errors import FedgrassError

# Seconds between two reads of the list of living runs, of a living run with its latest round, of another run
# that a page shows, and of the names of all runs.
_LIVING_EVERY, _RUN_EVERY, _WATCHED_EVERY, _NAMES_EVERY = 2.0, 2.0, 10.0, 300.0
# Seconds between two passes over the participants of a round, or over the devices. Of many rows they are
# longer, so that each of both takes about one read unit a second.
_LEAST_PASS, _UNITS_PER_SECOND = 10.0, 1.0
_RETRY_SECONDS = (1.0, 2.0, 5.0, 10.0)  # after reads that failed; the last one is repeated
_IDLE_SECONDS = 0.2

Read = Callable[[], None]


class _Pass:
    """How far many pages were read, and when they are read again."""

    def __init__(self, of: object = None) -> None:
        self.of = of
        self.start: Any = None
        self.due = 0.0
        self.units = 0.0

    def advance(self, start: Any, units: float, now: float) -> None:
        """Note that a page was read, and where the next one begins; None: this was the last one."""
        self.start = start
        self.units += units
        if start is None:
            self.due = now + max(_LEAST_PASS, self.units / _UNITS_PER_SECOND)
            self.units = 0.0


class FleetReader:
    """Keeps a book up to date. ``read_next`` is called by one thread.

    Args:
        book: what is known, which the reads complete.
        reads: the tables.
        alarms: the alarms and dead letters.
        clock: returns the time in seconds.
    """

    def __init__(
        self, book: FleetBook, reads: FleetReads, alarms: FleetAlarms, clock: Callable[[], float]
    ) -> None:
        self._book, self._reads, self._alarms, self._clock = book, reads, alarms, clock
        self._living_due = self._names_due = 0.0
        self._names_start: Any = None
        self._devices = _Pass()
        self._participants: dict[str, _Pass] = {}
        self._failures = 0
        self._turn = 0
        self.read_at = 0  # of the last read that succeeded, in milliseconds since the epoch

    def refresh(self) -> None:
        """Read soon what an action may have changed."""
        with self._book.lock:
            self._living_due = 0.0
            for known in self._book.runs.values():
                known.read_at = 0.0
        self._alarms.refresh()

    def begin_passes(self) -> None:
        """Read participants and devices soon, since messages were missed."""
        with self._book.lock:
            self._living_due = self._devices.due = 0.0
            for each in self._participants.values():
                each.due = 0.0

    def read_next(self) -> float:
        """Make the most urgent read, if one is due and the budget allows it.

        Returns:
            The seconds to wait before the next call.
        """
        budget = self._reads.budget
        try:
            with self._book.lock:
                budget.rate = OPEN_RATE if not self.read_at or self._book.has_open_round else IDLE_RATE
                if wait := budget.wait_seconds():
                    return wait
                read = self._next_read(self._clock())
            if read is None:
                if self._alarms.read_if_due():
                    with self._book.lock:
                        self._book.changed()
                return _IDLE_SECONDS
            read()
        except FedgrassError as error:
            return self._failed(str(error))
        except Exception as error:  # noqa: BLE001 - the page shows it, and the next read may succeed
            return self._failed(f"internal error, please report it: {type(error).__name__}: {error}")
        self._failures = 0
        self.read_at = self._book.now()
        self._book.set_connection("api", Link.CONNECTED)
        return 0.0

    def _failed(self, error: str) -> float:
        self._failures += 1
        self._book.set_connection("api", Link.RECONNECTING, error)
        return _RETRY_SECONDS[min(self._failures, len(_RETRY_SECONDS)) - 1]

    def _next_read(self, now: float) -> Read | None:
        """Return the most urgent read that is due, or None."""
        if now >= self._living_due:
            return self._read_living
        if hint := self._book.next_hint():
            return partial(self._read_round, *hint)
        followed = self._book.followed
        if followed:
            oldest = min(followed, key=lambda known: known.read_at)
            every = _RUN_EVERY if oldest.is_living else _WATCHED_EVERY
            if now >= oldest.read_at + max(every, len(followed) / 2):
                return partial(self._read_run, oldest)
        if device := self._book.next_new_device():
            return partial(self._read_device, device)
        if now >= self._names_due:
            return self._read_names
        incomplete = [known for known in followed if known.run and not known.complete]
        reads: list[Read] = [partial(self._read_rounds, known) for known in incomplete]
        reads = reads or list(self._page_reads(followed, now))
        self._turn += 1
        return reads[self._turn % len(reads)] if reads else None

    def _page_reads(self, followed: list[KnownRun], now: float) -> Iterator[Read]:
        """Yield the reads of pages that are due, of which none waits for all pages of another."""
        for known in followed:
            if known.name not in self._book.cells:
                self._participants.pop(known.name, None)
            if known.latest and now >= self._pass_of(known).due:
                yield partial(self._read_participants, known)
        if now >= self._devices.due:
            yield self._read_devices
        unread = (known for known in self._book.runs.values() if known.run is None and not known.is_lost)
        if named := next(unread, None):
            yield partial(self._read_run, named)

    def _read_living(self) -> None:
        names = set(self._reads.living())
        with self._book.lock:
            self._living_due = self._clock() + _LIVING_EVERY
            for name in names:
                known = self._book.known_run(name, "RUNNING")
                if not known.is_living:  # it had failed, and continues
                    known.state, known.read_at = "RUNNING", 0.0
            for known in self._book.runs.values():
                if known.is_living and known.name not in names:
                    known.read_at = 0.0  # it has ended: its row is read next
            self._book.drop_cells()

    def _read_names(self) -> None:
        page = self._reads.run_states(self._names_start)
        with self._book.lock:
            for name, state in page.items:
                self._book.known_run(name, state)
            self._names_start = page.next
            if page.next is None:
                self._names_due = self._clock() + _NAMES_EVERY

    def _read_run(self, known: KnownRun) -> None:
        run = self._reads.run(known.name)
        with self._book.lock:
            known.read_at = self._clock()
            if run is None:
                if not known.is_lost:
                    known.lose()
                    self._book.changed()
                return
            was_living = known.is_living
            if known.keep(run):
                self._book.changed()
            is_followed = known.is_living or was_living or known.name in self._book.watched
            if run.round and is_followed and (known.latest is None or known.has_open_round or was_living):
                self._book.changed_rounds[run.name, run.round, run.attempt] = None

    def _read_round(self, run: str, number: int, attempt: int) -> None:
        round_ = self._reads.round(run, number, attempt)
        with self._book.lock:
            known = self._book.runs.get(run)
            if known is None or round_ is None:
                return
            state = known.latest.state if known.latest else None
            if known.keep_rounds([round_]):
                self._book.changed()
            if known.run and (number, attempt) > (known.run.round, known.run.attempt):
                known.read_at = 0.0  # the run has opened this round since its row was read
            if known.latest and known.latest.state is not state:
                self._pass_of(known).due = 0.0  # it has ended: the rows of its devices are final
            self._book.cells_of(run, number, attempt)

    def _read_rounds(self, known: KnownRun) -> None:
        page = self._reads.rounds(known.name, known.next_page)
        with self._book.lock:
            known.next_page, known.complete = page.next, page.next is None
            if known.keep_rounds(page.items):
                self._book.changed()

    def _pass_of(self, known: KnownRun) -> _Pass:
        """Return the pass over the participants of a run's latest round."""
        latest = known.latest
        of = (latest.number, latest.attempt) if latest else None
        found = self._participants.get(known.name)
        if found is None or found.of != of:
            found = self._participants[known.name] = _Pass(of)
        return found

    def _read_participants(self, known: KnownRun) -> None:
        with self._book.lock:
            current, latest = self._pass_of(known), known.latest
        if latest is None:
            return
        units = self._reads.budget.units
        page = self._reads.participants(known.name, latest.number, latest.attempt, current.start)
        with self._book.lock:
            now = self._clock()
            current.advance(page.next, self._reads.budget.units - units, now)
            if page.next is None and not known.has_open_round:
                current.due = now + _NAMES_EVERY
            cells = self._book.cells_of(known.name, latest.number, latest.attempt)
            if cells is not None:
                self._book.keep_participants(cells, page.items)

    def _read_devices(self) -> None:
        units = self._reads.budget.units
        page = self._reads.devices(self._devices.start)
        with self._book.lock:
            self._book.devices.read(page.items, self._book.now())
            self._devices.advance(page.next, self._reads.budget.units - units, self._clock())
            if page.next is None:
                self._book.devices.end_pass()
            self._book.changed()

    def _read_device(self, name: str) -> None:
        candidate = self._reads.device(name)
        with self._book.lock:
            if candidate:
                self._book.devices.read([candidate], self._book.now())
                self._book.changed()
