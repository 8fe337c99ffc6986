"""Keep the state of a running strategy after each round, and continue from it.

``Strategy.start`` of Flower is called as it is, but on a recorder in the strategy's place, which passes every
call on and notes what comes back. To resume, ``start`` runs from its first round again, and the recorder
answers for the rounds that are finished: no message is sent, and Flower's own loop rebuilds its result. Then
the strategy gets its attributes back, and the next round is its first real one.
"""

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import msgspec

from fedgrass.console.flower.checkpoint_file import (
    Checkpoint,
    Packer,
    StartState,
    Unpacker,
    checkpoint_file,
    random_state,
    read_checkpoint,
    set_random_state,
)
from fedgrass.console.flower.flower_api import (
    FLOWER_LOGGER,
    ArrayRecord,
    ConfigRecord,
    MetricRecord,
    Strategy,
    from_records,
    to_record,
)
from fedgrass.console.runs.streamed_bucket import StreamedObjects
from fedgrass.console.task_messages.content_files import FileInPieces, MessagePart, arrays_file
from fedgrass.console.task_messages.exchange_ports import ExchangeFailed
from fedgrass.console.task_messages.message_exchange import MessageExchange
from fedgrass.federation import object_keys
from fedgrass.federation.errors import SettingsError, UpdateRefused
from fedgrass.federation.task_messages.content_reader import read_data
from fedgrass.federation.task_messages.message_content import ContentFile, Record
from fedgrass.federation.weights import sha256

_RECORDS = (ArrayRecord, MetricRecord, ConfigRecord)


class FlowerCodec:
    """The ``RecordCodec`` for Flower's records and strategies."""

    def to_part(self, value: object) -> MessagePart | None:
        """Return a record of Flower; None for any other value."""
        return to_record("record", value) if isinstance(value, _RECORDS) else None

    def from_part(self, record: Record, data: Any) -> object:
        """Return the record of Flower again."""
        return from_records([record], data)[record.name]

    def is_strategy(self, value: object) -> bool:
        """Return whether a value is a strategy."""
        return isinstance(value, Strategy)


class CheckpointStore:
    """The checkpoint of one run in the bucket; a second ServerApp that writes it is noticed.

    Args:
        bucket: the fleet's bucket.
        run: name of the run.
    """

    def __init__(self, bucket: StreamedObjects, run: str) -> None:
        self._bucket, self._run = bucket, run
        self._key = object_keys.server_app(run)
        self._version: str | None = None

    @property
    def has_state(self) -> bool:
        """Whether a checkpoint was read or written."""
        return self._version is not None

    def read(self) -> tuple[Checkpoint, list[bytes]] | None:
        """Return the checkpoint and the data that its values refer to; None if there is none.

        Raises:
            SettingsError: it is damaged.
        """
        try:
            size, read, version = self._bucket.stream(self._key)
            found = read_checkpoint(read, size)
        except KeyError:
            return None
        except UpdateRefused as error:
            message = f"the state of the ServerApp of run {self._run!r} cannot be read: {error}"
            raise SettingsError(message) from error
        self._version = version
        return found

    def write(self, file: FileInPieces) -> None:
        """Replace the checkpoint. Raises ExchangeFailed if another process has replaced it since."""
        version = self._bucket.write_pieces_over(self._key, file.pieces, self._version)
        if version is None:  # unless the answer to an earlier attempt of the same write was lost
            version = self._version_of(file)
        if version is None:
            message = (
                f"the state of the ServerApp of run {self._run!r} was replaced: another ServerApp drives this"
                " run at the same time; stop one of them"
            )
            raise ExchangeFailed(message)
        self._version = version

    def _version_of(self, file: FileInPieces) -> str | None:
        """Return the version of the checkpoint in the bucket if it has just these bytes."""
        try:
            size, read, version = self._bucket.stream(self._key)
        except KeyError:
            return None
        return version if size == file.bytes and sha256(read(size)) == file.sha256 else None

    def arrays(self, record: Record) -> ArrayRecord:
        """Return the model of a checkpoint, from its content file."""
        assert record.file is not None  # noqa: S101 - ``Checkpoints`` writes none without
        key = object_keys.content(self._run, record.file.sha256)
        try:
            size, read, _ = self._bucket.stream(key)
            data = read_data(read, size)
            return from_records([msgspec.structs.replace(record, file=None)], data)[record.name]
        except (KeyError, UpdateRefused) as error:
            message = f"the model of the ServerApp's state, {key}, cannot be read: {error}"
            raise SettingsError(message) from error


class Checkpoints:
    """Keeps the state of the strategies of one ServerApp, and hands it back after a resume.

    Args:
        exchange: of the run's messages.
        store: of the checkpoint.
        warn: shows what cannot be kept.
        resumed: the checkpoint of an earlier process, and its data.
    """

    def __init__(
        self,
        exchange: MessageExchange,
        store: CheckpointStore,
        warn: Callable[[str], None],
        resumed: tuple[Checkpoint, list[bytes]] | None = None,
    ) -> None:
        self._exchange, self._store, self._warn = exchange, store, warn
        self._resumed = list(resumed[0].starts) if resumed else []
        self._random = resumed[0].random_state if resumed else None
        self._data = resumed[1] if resumed else []
        self._done: list[StartState] = []
        self._warned: set[str] = set()

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Let every ``Strategy.start`` be recorded."""
        original = Strategy.start
        signature = inspect.signature(original)
        checkpoints = self

        def start(strategy: Any, *arguments: Any, **options: Any) -> Any:
            bound = signature.bind(strategy, *arguments, **options)
            bound.apply_defaults()
            return checkpoints._start(original, bound)

        Strategy.start = start
        try:
            yield
        finally:
            Strategy.start = original

    def _start(self, original: Callable[..., Any], bound: inspect.BoundArguments) -> Any:
        given = bound.arguments
        strategy = next(iter(given.values()))
        before = self._resumed.pop(0) if self._resumed else None
        if before:
            self._check_same(before, strategy, given["num_rounds"])
            if not before.aggregated:  # else the first model that is used is that of the last finished round
                given["initial_arrays"] = self.arrays(before)
        recorder = _Recorder(self, strategy, given, before)
        names = list(given)
        given[names[0]] = recorder.as_strategy()
        if given.get("evaluate_fn"):
            given["evaluate_fn"] = recorder.evaluate
        with recorder.muted():
            result = original(*bound.args, **bound.kwargs)
        self._done.append(self.save(recorder, ended=True))
        return result

    @staticmethod
    def _check_same(before: StartState, strategy: object, total: int) -> None:
        found = type(strategy).__name__
        if found != before.strategy or total < before.finished:
            message = (
                f"the run was started with the strategy {before.strategy} for {before.total} rounds, of which"
                f" {before.finished} are finished, and the app now starts {found} for {total}: resume it with"
                " the app and the configuration that it was started with"
            )
            raise SettingsError(message)

    def restore(self, strategy: object, before: StartState, *configs: Any) -> None:
        """Give a strategy its attributes back, and the random numbers their state."""
        unpacker = Unpacker(FlowerCodec(), self._data)
        unpacker.restore(strategy, before.attributes)
        for config, kept in zip(configs, (before.train_config, before.evaluate_config), strict=False):
            if kept:
                config.clear()
                config.update(unpacker.unpack(kept))
        if self._random is not None and not self._resumed:
            set_random_state(self._random)
        if before.left_out:
            self._warn(
                f"the state of the strategy {before.strategy} lacks what could not be kept:"
                f" {', '.join(before.left_out)}; it is as the app has made it"
            )

    def config(self, kept: Any) -> Mapping[str, Any] | None:
        """Return a kept configuration; None if there is none."""
        found: Mapping[str, Any] | None = Unpacker(FlowerCodec(), self._data).unpack(kept) if kept else None
        return found

    def arrays(self, before: StartState) -> ArrayRecord:
        """Return the model of a kept state."""
        return self._store.arrays(before.arrays)

    def last_number(self) -> int:
        """Return the number of the run's latest round."""
        return self._exchange.last_number

    def save(self, recorder: "_Recorder", *, ended: bool = False) -> StartState:
        """Write the checkpoint with the present state of a strategy; return that state."""
        packer = Packer(FlowerCodec())
        part = to_record("arrays", recorder.arrays)
        file = arrays_file(part)
        self._exchange.store_file(file)
        reference = ContentFile(sha256=file.sha256, bytes=file.bytes)
        state = StartState(
            strategy=type(recorder.strategy).__name__,
            total=recorder.total,
            finished=recorder.finished,
            before=recorder.before,
            last=recorder.last_number(self._exchange.last_number),
            ended=ended,
            arrays=msgspec.structs.replace(part.record, file=reference),
            aggregated=recorder.aggregated,
            train=recorder.train,
            evaluate=recorder.evaluated,
            central=recorder.central,
            train_config=packer.pack(recorder.train_config) if recorder.train_config is not None else [],
            evaluate_config=(
                packer.pack(recorder.evaluate_config) if recorder.evaluate_config is not None else []
            ),
            attributes=[] if ended else packer.attributes(recorder.strategy),
            left_out=() if ended else tuple(packer.left_out),
        )
        for name in sorted(set(packer.left_out) - self._warned):
            self._warned.add(name)
            self._warn(
                f"the attribute {name} of the strategy {state.strategy} cannot be kept: after"
                " `fedgrass flower resume` it is as the app makes it"
            )
        checkpoint = Checkpoint(starts=(*self._done, state), random_state=random_state())
        self._store.write(checkpoint_file(checkpoint, packer.data))
        return state


class _Recorder:
    """Stands for a strategy in ``Strategy.start``: passes its calls on, and answers for finished rounds."""

    def __init__(
        self, checkpoints: Checkpoints, strategy: Any, given: Mapping[str, Any], resumed: StartState | None
    ) -> None:
        self._checkpoints, self.strategy, self._resumed = checkpoints, strategy, resumed
        self.total: int = given["num_rounds"]
        self._evaluate_fn = given.get("evaluate_fn")
        self.finished = 0
        self.before = resumed.before if resumed else checkpoints.last_number()
        self.arrays: Any = given["initial_arrays"]
        self.aggregated = False
        self.train: dict[int, dict[str, Any]] = dict(resumed.train) if resumed else {}
        self.evaluated: dict[int, dict[str, Any]] = dict(resumed.evaluate) if resumed else {}
        self.central: dict[int, dict[str, Any]] = dict(resumed.central) if resumed else {}
        self.train_config: Any = None
        self.evaluate_config: Any = None
        self._skipped = resumed.finished if resumed else 0
        self._restored = resumed is None

    def as_strategy(self) -> Any:
        """Return an object with the name of the strategy's class, so that Flower's log shows it."""
        type_ = type(type(self.strategy).__name__, (), {"__getattr__": lambda _, name: getattr(self, name)})
        return type_()

    @contextmanager
    def muted(self) -> Iterator[None]:
        """Drop Flower's log lines on the rounds that are not run."""

        def keep(_record: object) -> bool:
            return not self._skipped or self.finished >= self._skipped

        if self._skipped:
            FLOWER_LOGGER.info(
                "Rounds 1 to %s of %s were finished before, and are not run again.", self._skipped, self.total
            )
        FLOWER_LOGGER.addFilter(keep)
        try:
            yield
        finally:
            FLOWER_LOGGER.removeFilter(keep)

    def last_number(self, latest: int) -> int:
        """Return the number of the run's round with which the last finished round of the strategy ended."""
        return self._resumed.last if self._resumed and self.finished <= self._skipped else latest

    def summary(self) -> None:
        self.strategy.summary()

    def configure_train(self, server_round: int, arrays: Any, config: Any, grid: Any) -> Iterable[Any]:
        self.train_config = config
        if server_round <= self._skipped:
            return []
        if not self._restored and self._resumed:
            self._checkpoints.restore(self.strategy, self._resumed, config)
        if server_round == 1 and self._restored:
            self._checkpoints.save(self)
        self._restored = True
        return self.strategy.configure_train(server_round, arrays, config, grid)  # type: ignore[no-any-return]

    def aggregate_train(self, server_round: int, replies: Iterable[Any]) -> tuple[Any, Any]:
        if server_round <= self._skipped and self._resumed:
            is_last = server_round == self._skipped and self._resumed.aggregated
            arrays = self._checkpoints.arrays(self._resumed) if is_last else None
            metrics = _metrics(self.train.get(server_round))
        else:
            arrays, metrics = self.strategy.aggregate_train(server_round, replies)
            _keep(self.train, server_round, metrics)
        if arrays is not None:
            self.arrays, self.aggregated = arrays, True
        return arrays, metrics

    def configure_evaluate(self, server_round: int, arrays: Any, config: Any, grid: Any) -> Iterable[Any]:
        if server_round <= self._skipped:
            return []
        kept = self._resumed.evaluate_config if self._resumed and self.evaluate_config is None else []
        if (found := self._checkpoints.config(kept)) is not None:
            config.clear()
            config.update(found)
        self.evaluate_config = config
        return self.strategy.configure_evaluate(server_round, arrays, config, grid)  # type: ignore[no-any-return]

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Any]) -> Any:
        if server_round <= self._skipped:
            metrics = _metrics(self.evaluated.get(server_round))
        else:
            metrics = self.strategy.aggregate_evaluate(server_round, replies)
            _keep(self.evaluated, server_round, metrics)
        if not self._evaluate_fn:
            self._end_of_round(server_round)
        return metrics

    def evaluate(self, server_round: int, arrays: Any) -> Any:
        """Evaluate a model in the ServerApp, unless an earlier process has done it."""
        if server_round in self.central and server_round <= self._skipped:
            metrics = _metrics(self.central[server_round])
        elif server_round and server_round <= self._skipped:
            metrics = None
        else:
            metrics = self._evaluate_fn(server_round, arrays) if self._evaluate_fn else None
            _keep(self.central, server_round, metrics)
        if server_round:
            self._end_of_round(server_round)
        return metrics

    def _end_of_round(self, server_round: int) -> None:
        self.finished = server_round
        if server_round > self._skipped:
            self._checkpoints.save(self)


def _metrics(kept: Mapping[str, Any] | None) -> Any:
    return None if kept is None else MetricRecord(dict(kept))


def _keep(found: dict[int, dict[str, Any]], server_round: int, metrics: Any) -> None:
    if metrics is not None:
        found[server_round] = to_record("metrics", MetricRecord(dict(metrics))).record.values
