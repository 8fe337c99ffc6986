"""Bring sinks up to date with a run, once or until the run has ended."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, suppress
from typing import Literal

import msgspec
from msgspec import Struct

from fedgrass.console import stack
from fedgrass.console.models.model_catalogue import ModelCatalogue
from fedgrass.console.results import show_result
from fedgrass.console.runs.fleet_operator import Operator, RoundRecord
from fedgrass.console.terminal import complain, printable, say
from fedgrass.console.tracking.tracked_run import (
    Key,
    TrackedModel,
    TrackedRound,
    TrackedRun,
    model_of,
    tracked_round,
)
from fedgrass.console.tracking.tracking_sink import Sink, open_sink
from fedgrass.federation.errors import FedgrassError, SettingsError
from fedgrass.federation.rounds import ENDED
from fedgrass.federation.runs import LIVING, Run

Models = Literal["last", "all", "none"]
_POLL_SECONDS = 5.0
_MOST_SKIPPED = 60  # turns before a failed sink is tried again: five minutes
_LONGEST_REASON = 300  # characters of a sink's error


class SinkReport(Struct, frozen=True, kw_only=True):
    """What one sink received."""

    sink: str  # as on the command line
    rounds: int  # attempts at rounds that were added now
    models: int  # models that were added now
    recorded: int  # attempts that it had already
    error: str  # why it is not up to date; empty: it is


class TrackReport(Struct, frozen=True, kw_only=True):
    """The result of ``fedgrass run track``."""

    run: str
    state: str  # of the run, such as RUNNING
    sinks: list[SinkReport]
    count: int  # of the sinks


@stack.refusals()
def track(  # noqa: PLR0913 - the options of the command
    name: str, *, stack_name: str, sinks: Sequence[str], follow: bool, models: Models, output: str
) -> None:
    """Carry out ``fedgrass run track``.

    Raises:
        SettingsError: a sink cannot be opened as it is named, or there is no such run.
        FedgrassError: a sink is not up to date in the end.
    """
    if not sinks:
        message = "name a sink: --sink jsonl:FILE, mlflow:URL, tensorboard:FOLDER, sagemaker: or otlp:URL"
        raise SettingsError(message)
    opened = [open_sink(each, stack.client) for each in dict.fromkeys(sinks)]
    outputs = stack.outputs(stack_name)
    place = Place(fleet=outputs["Fleet"], stack=stack_name, bucket=outputs["BucketName"])
    report = track_run(
        Operator(stack.client, outputs), place, name, opened, models=models, follow=follow, warn=complain
    )
    show_result(report, output, _draw)
    if late := [each.sink for each in report.sinks if each.error]:
        message = f"not up to date: {', '.join(late)}; the run is unaffected, and the same command continues"
        raise FedgrassError(message)


class Place(Struct, frozen=True, kw_only=True):
    """Where runs are: the fleet, its stack, and its bucket."""

    fleet: str
    stack: str
    bucket: str


def track_run(  # noqa: PLR0913 - what of which run goes where, and how long
    operator: Operator,
    place: Place,
    name: str,
    sinks: Sequence[Sink],
    *,
    models: Models = "last",
    follow: bool = False,
    warn: Callable[[str], None],
    pause: Callable[[], None] = lambda: time.sleep(_POLL_SECONDS),
) -> TrackReport:
    """Bring sinks up to date with a run.

    Args:
        operator: of the stack.
        place: of the stack.
        name: of the run.
        sinks: opened, but not begun; they are closed here.
        models: which models the sinks get.
        follow: whether to continue until the run has ended.
        warn: called with a line when a sink, or AWS while following, fails.
        pause: waits between two readings.

    Raises:
        SettingsError: there is no such run.
    """
    deliveries = [Delivery(sink, models, warn) for sink in sinks]
    unread = ""  # why AWS did not let the run be read
    with ExitStack() as closing:
        for delivery in deliveries:
            closing.callback(delivery.close)
        while True:
            try:
                run = _turn(operator, place, name, deliveries, is_last=not follow)
            except Exception as error:
                if not (follow and stack.is_passing(error)):
                    raise
                if (reason := _reason(error)) != unread:
                    unread = reason
                    warn(f"the run cannot be read at the moment: {reason}")
            else:
                unread = ""
                if not follow or run.state not in LIVING:
                    break
            pause()
    reports = [
        SinkReport(
            sink=each.sink.name,
            rounds=each.rounds,
            models=each.models,
            recorded=each.recorded,
            error=each.error,
        )
        for each in deliveries
    ]
    return TrackReport(run=name, state=run.state, sinks=reports, count=len(reports))


def _turn(
    operator: Operator, place: Place, name: str, deliveries: Sequence["Delivery"], *, is_last: bool
) -> Run:
    """Read what is new of a run, and deliver it; return the run.

    The run's row is read first: what has ended since is delivered at the next turn. The aliases are read at
    the last turn only.
    """
    run = operator.run(name)
    tracked = TrackedRun(fleet=place.fleet, stack=place.stack, bucket=place.bucket, run=run)
    for delivery in deliveries:
        delivery.begin(tracked)
    first = min((each.first for each in deliveries if each.is_begun), default=0)
    if not first:
        return run
    for record in _ended_rounds(operator, run, first):
        found = tracked_round(record)
        for delivery in deliveries:
            delivery.offer(found, place.bucket)
    promoted: list[TrackedModel] = []
    if is_last or run.state not in LIVING:
        aliases = _aliases(operator, run)
        promoted = [_model(operator, run, place.bucket, number) for number in sorted(set(aliases.values()))]
        tracked = msgspec.structs.replace(tracked, aliases=aliases)
    for delivery in deliveries:
        delivery.finish(tracked, run.published + 1, promoted)
    return run


def _aliases(operator: Operator, run: Run) -> dict[str, int]:
    """Return the aliases that name a model that a round of this run has made, with its number."""
    records = ModelCatalogue(operator).aliases(run.settings.task)
    models = {alias: record.model for alias, record in records.items()}
    return {alias: model.round for alias, model in models.items() if model.run == run.name and model.round}


def _model(operator: Operator, run: Run, bucket: str, number: int) -> TrackedModel:
    """Return a model that a round of a run has made."""
    for round_ in operator.rounds_alone(run, number):
        if round_.number == number and (model := model_of(bucket, round_)):
            return model
    message = (
        f"an alias names the model {run.name}/{number}, but the rounds table has no such round: rebuild it by"
        f" `fedgrass run repair {run.name}`"
    )
    raise SettingsError(message)


def _ended_rounds(operator: Operator, run: Run, first: int) -> Iterator[RoundRecord]:
    """Yield the attempts at rounds from ``first`` on that have ended and whose result is published.

    The participants of other attempts are not read: while a round is open, that would be most of the rows.
    """
    for found in operator.rounds_alone(run, first):
        published = found.number <= run.published or run.state not in LIVING
        if found.state in ENDED and published:
            yield RoundRecord(found, operator.participants(found))


def _draw(report: TrackReport) -> None:
    for each in report.sinks:
        rounds = "1 round" if each.rounds == 1 else f"{each.rounds} rounds"
        models = "1 model" if each.models == 1 else f"{each.models} models"
        known = f", {each.recorded} rounds were there" if each.recorded else ""
        state = f"; {each.error}" if each.error else ""
        say(f"{each.sink}: {rounds} and {models} added{known}{state}")
    say(f"run {report.run}: {report.state}")


class Delivery:
    """Brings one sink up to date, whatever happens to it.

    Args:
        sink: the sink.
        models: which models it gets.
        warn: called with a line when the sink fails, once for each different reason.
    """

    def __init__(self, sink: Sink, models: Models, warn: Callable[[str], None]) -> None:
        self.sink = sink
        self.error = ""
        self.rounds = self.models = self.recorded = 0
        self._chosen = models
        self._warn = warn
        self._warned = ""  # the reason of the last line
        self._begun = False
        self._skips = self._failures = 0  # turns to skip, and failures in a row
        self._attempts: set[Key] = set()
        self._models: set[int] = set()
        self._latest: TrackedModel | None = None  # not yet delivered, as a later round may make another one
        self.first = 1  # number of the first round that the sink may lack

    def begin(self, tracked: TrackedRun) -> None:
        """Open the record of a run, unless it is open, or has failed just now."""
        if self._begun:
            return
        if self._skips:
            self._skips -= 1
            return
        self.error = ""

        def begin() -> None:
            recorded = self.sink.begin(tracked)
            self._attempts, self._models = set(recorded.attempts), set(recorded.models)
            self.recorded = self.recorded or len(self._attempts)
            self.first, self._latest = 1, None
            self._begun = True

        self._guarded(begin)

    def offer(self, found: TrackedRound, bucket: str) -> None:
        """Deliver an ended round and its model, unless the sink has them."""
        if not self._begun or self.error:
            return
        if found.key not in self._attempts:
            self._guarded(lambda: self._add_round(found))
        model = model_of(bucket, found.record.round)
        if model is not None and not self.error:
            self._latest = model
            if self._chosen == "all":
                self._add_model(model)

    def finish(self, tracked: TrackedRun, first: int, promoted: Sequence[TrackedModel] = ()) -> None:
        """Deliver the last model if the run has ended, and the state of the run.

        Args:
            tracked: the run.
            first: the first round whose end may still come: the next offers begin there.
            promoted: the models that aliases name.
        """
        if not self._begun or self.error:
            return
        for model in promoted if self._chosen != "none" else ():
            if not self.error:
                self._add_model(model)
        if self._chosen == "last" and self._latest and not self.error and tracked.run.state not in LIVING:
            self._add_model(self._latest)
        if not self.error:
            self._guarded(lambda: self.sink.update(tracked))
        if not self.error:
            self.first, self._failures, self._warned = first, 0, ""

    @property
    def is_begun(self) -> bool:
        """Whether the sink takes rounds now."""
        return self._begun

    def close(self) -> None:
        """Close the sink."""
        with suppress(Exception):  # everything was made durable before; the error of that was reported
            self.sink.close()

    def _add_round(self, found: TrackedRound) -> None:
        self.rounds += self.sink.add_round(found)
        self._attempts.add(found.key)

    def _add_model(self, model: TrackedModel) -> None:
        if model.number in self._models:
            return

        def add() -> None:
            self.models += self.sink.add_model(model)
            self._models.add(model.number)

        self._guarded(add)

    def _guarded(self, call: Callable[[], None]) -> None:
        """Make a call to the sink; an error ends its turn, and it is begun again at the next one."""
        try:
            call()
        except Exception as error:  # noqa: BLE001 - a client of another system may raise anything
            self.error = _reason(error)
            self._begun = False
            self._failures += 1
            self._skips = min(2**self._failures, _MOST_SKIPPED)
            self.close()
            if self.error != self._warned:
                self._warned = self.error
                self._warn(f"{self.sink.name}: {self.error}")


def _reason(error: Exception) -> str:
    """Return an exception in one line; of a failed connection only why, which clients bury in their texts."""
    cause: BaseException | None = None if isinstance(error, FedgrassError) else error
    while cause is not None:
        if isinstance(cause, OSError) and cause.errno and cause.strerror:
            place = f"{cause.filename}: " if cause.filename else ""
            return printable(f"{place}{cause.strerror}", _LONGEST_REASON)
        cause = cause.__cause__ or cause.__context__
    text = " ".join(str(error).split()) or type(error).__name__
    named = text if isinstance(error, FedgrassError) else f"{type(error).__name__}: {text}"
    return printable(named, _LONGEST_REASON)
