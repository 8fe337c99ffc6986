"""The models of a fleet: those that its runs have made, and those that were imported.

Only rows of runs and rounds are read, and the small objects of aliases and imports; no model.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Protocol

from msgspec import Struct

from fedgrass.console.models.model_names import ModelName, is_model_name, parse_model_name
from fedgrass.federation import messages, object_keys
from fedgrass.federation.conversion import nearest
from fedgrass.federation.errors import SettingsError
from fedgrass.federation.messages import NewModel
from fedgrass.federation.messages.message_fields import checked_name
from fedgrass.federation.models.imported_model import LARGEST_IMPORT_RECORD, ImportedModel, decode_import
from fedgrass.federation.models.model_alias import LARGEST_RECORD, LATEST, AliasRecord, decode_record
from fedgrass.federation.rounds import Round, State, Work
from fedgrass.federation.runs import Run, RunState
from fedgrass.federation.training_settings import LOCAL_PREFIX


class ModelObjects(Protocol):
    """What the catalogue needs of the bucket; see ``StreamedBucket``."""

    def read(self, key: str, largest: int) -> bytes:
        """Return an object. Raises KeyError and UpdateRefused."""

    def keys(self, prefix: str) -> list[str]:
        """Return the keys of all objects below a prefix, sorted."""

    def folders(self, prefix: str) -> list[str]:
        """Return the names of the folders directly below a prefix, sorted."""


class ModelSource(Protocol):
    """What the catalogue needs of a stack; see ``Operator``."""

    @property
    def bucket(self) -> ModelObjects:
        """The stack's bucket."""

    def runs(self) -> Mapping[str, RunState]:
        """Return the state of every run, by name."""

    def run(self, name: str) -> Run:
        """Return a run. Raises SettingsError if it does not exist."""

    def every_run(self, names: Iterable[str]) -> list[Run]:
        """Return several runs, without those that do not exist (any more)."""

    def rounds_alone(self, run: Run, first: int = 1) -> Iterator[Round]:
        """Yield every attempt at every round of a run from ``first`` on, in order."""


class ModelEntry(Struct, frozen=True, kw_only=True):
    """One model.

    Attributes:
        model: its name, RUN/ROUND.
        run: name of the run, or of the imported model.
        round: that made it; 0: an initial model.
        task: whose model it is.
        origin: ``trained``, ``initial`` or ``imported``.
        bytes: size of its file in bytes.
        sha256: of its file.
        made_at: milliseconds since the epoch: when its round closed, its run started, or it was imported.
        metrics: means by name, as the devices measured this model in the next round or in an evaluation;
            empty: it has not been measured.
        aliases: that name it, such as ``production``; ``latest`` is the newest of its task.
    """

    model: str
    run: str
    round: int
    task: str
    origin: str
    bytes: int
    sha256: str
    made_at: int
    metrics: dict[str, float] = {}
    aliases: list[str] = []


class ModelCatalogue:
    """The models of one stack.

    Args:
        source: of the rows and objects.
    """

    def __init__(self, source: ModelSource) -> None:
        self._source = source
        self._aliases: dict[str, dict[str, AliasRecord]] = {}
        self._latest: dict[str, NewModel | None] = {}

    def entries(self, *, run: str = "", task: str = "", last: int = 0) -> list[ModelEntry]:
        """Return models, those of each run in their order, the latest run last.

        Args:
            run: only those of this run, or this imported one.
            task: only those of this task.
            last: at most this number of each run, the latest; 0: all.

        Raises:
            SettingsError: there is no such run and no such imported model.
        """
        if run:
            found = self._of_one(run, last)
        else:
            known = self._source.runs()
            runs = sorted(self._source.every_run(known), key=lambda one: one.started_at)
            found = [entry for each in runs for entry in self._of_run(each, last, task)]
            found += [self._entry_of_import(one) for one in self._imports(known)]
        return [entry for entry in found if not task or entry.task == task]

    def entry(self, name: ModelName) -> ModelEntry:
        """Return one model. Raises SettingsError if it does not exist."""
        is_known = name.run in self._source.runs()
        entries = self._of_run(self._source.run(name.run), first=name.round) if is_known else []
        for entry in entries:
            if entry.round == name.round:
                return entry
        entries = self._of_one(name.run, 0)
        if not is_known and name.round == 0:
            return entries[0]
        made = [str(entry.round) for entry in entries]
        known = ", ".join(made if len(made) <= _MOST_NAMED else ["...", *made[-_MOST_NAMED:]])
        message = f"there is no model {name}: {name.run} has the models {known}"
        raise SettingsError(message)

    def resolve(self, given: str, task: str = "") -> ModelName:
        """Return the model that ``RUN/ROUND``, or the alias of a task, names.

        Raises:
            SettingsError: an alias was given without the task, or does not exist.
        """
        if is_model_name(given):
            return parse_model_name(given)
        if not task:
            message = f"{given!r} is an alias or no model at all: name the task, --task TASK, or RUN/ROUND"
            raise SettingsError(message)
        checked_name("alias", given)
        if given == LATEST:
            latest = self.latest(task)
            if latest is None:
                message = f"no run has published a model of the task {task!r}"
                raise SettingsError(message)
            return ModelName(latest.run, latest.round)
        record = self.aliases(task).get(given)
        if record is None:
            known = sorted(self.aliases(task))
            hint = nearest(given, [*known, LATEST])
            message = f"the task {task!r} has no alias {given!r}: {hint}"
            raise SettingsError(message)
        return ModelName(record.model.run, record.model.round)

    def aliases(self, task: str) -> dict[str, AliasRecord]:
        """Return the aliases of a task by name. Raises MessageError if one is damaged."""
        if task not in self._aliases:
            keys = self._source.bucket.keys(object_keys.model_aliases(task))
            records = [decode_record(self._source.bucket.read(key, LARGEST_RECORD), key) for key in keys]
            self._aliases[task] = {record.alias: record for record in records}
        return self._aliases[task]

    def latest(self, task: str) -> NewModel | None:
        """Return the newest model of a task, or None. Raises MessageError if the pointer is damaged."""
        if task not in self._latest:
            key = object_keys.latest_model(task)
            try:
                data = self._source.bucket.read(key, messages.LARGEST_MESSAGE)
            except KeyError:
                self._latest[task] = None
            else:
                self._latest[task] = messages.decode(data, NewModel)
        return self._latest[task]

    def imported(self, name: str) -> ImportedModel | None:
        """Return the record of an imported model, or None. Raises SettingsError if it is damaged."""
        key = object_keys.imported_model(name)
        try:
            return decode_import(self._source.bucket.read(key, LARGEST_IMPORT_RECORD), key)
        except KeyError:
            return None

    def _of_one(self, name: str, last: int) -> list[ModelEntry]:
        if name not in self._source.runs() and (imported := self.imported(name)):
            return [self._entry_of_import(imported)]
        return self._of_run(self._source.run(name), last)

    def _imports(self, runs: Mapping[str, RunState]) -> Iterator[ImportedModel]:
        """Yield the imported models; one whose name a run has taken is that run's initial model."""
        for folder in self._source.bucket.folders("models/"):
            if folder not in runs and _may_name_a_run(folder) and (imported := self.imported(folder)):
                yield imported

    def _of_run(self, run: Run, last: int = 0, task: str = "", first: int = 0) -> list[ModelEntry]:
        settings = run.settings
        if settings.statistics or settings.has_server_app or (task and settings.task != task):
            return []
        if last:  # each model may be followed by a round that only evaluates it
            first = run.round - 2 * last
        rounds = [one for one in self._source.rounds_alone(run, max(1, first)) if one.state is State.CLOSED]
        metrics = measured(rounds)
        made = [self._entry(run, one, metrics) for one in rounds if one.work is Work.TRAIN]
        if first <= 0:
            made.insert(0, self._initial(run, metrics))
        return made[-last:] if last else made

    def _entry(self, run: Run, closed_round: Round, metrics: Mapping[int, dict[str, float]]) -> ModelEntry:
        return ModelEntry(
            model=f"{run.name}/{closed_round.number}",
            run=run.name,
            round=closed_round.number,
            task=run.settings.task,
            origin="trained",
            bytes=closed_round.model_bytes,
            sha256=closed_round.model_sha256,
            made_at=closed_round.closed_at,
            metrics=metrics.get(closed_round.number, {}),
            aliases=self._names(run.settings.task, run.name, closed_round.number),
        )

    def _initial(self, run: Run, metrics: Mapping[int, dict[str, float]]) -> ModelEntry:
        return ModelEntry(
            model=f"{run.name}/0",
            run=run.name,
            round=0,
            task=run.settings.task,
            origin="initial",
            bytes=run.initial_bytes,
            sha256=run.initial_sha256,
            made_at=run.started_at,
            metrics=metrics.get(0, {}),
            aliases=self._names(run.settings.task, run.name, 0),
        )

    def _entry_of_import(self, imported: ImportedModel) -> ModelEntry:
        return ModelEntry(
            model=f"{imported.name}/0",
            run=imported.name,
            round=0,
            task=imported.task,
            origin="imported",
            bytes=imported.bytes,
            sha256=imported.sha256,
            made_at=imported.imported_at,
            aliases=self._names(imported.task, imported.name, 0),
        )

    def _names(self, task: str, run: str, number: int) -> list[str]:
        """Return the aliases of a task that name a model."""
        found = sorted(
            alias
            for alias, record in self.aliases(task).items()
            if (record.model.run, record.model.round) == (run, number)
        )
        latest = self.latest(task)
        if latest and (latest.run, latest.round) == (run, number):
            found.append(LATEST)
        return found


_MOST_NAMED = 10  # models in a message
_OF_TRAINING = (LOCAL_PREFIX, "train_")  # prefixes of metrics that are not of the global model


def _may_name_a_run(folder: str) -> bool:
    try:
        checked_name("run", folder)
    except SettingsError:
        return False
    return True


def measured(rounds: list[Round]) -> dict[int, dict[str, float]]:
    """Return the metrics of models by number: those of a round are of the model that it started from.

    Those of a round that only evaluates are preferred. Metrics of local models and of training are left out.

    Args:
        rounds: closed rounds of one run.
    """
    found: dict[int, dict[str, float]] = {}
    for closed_round in sorted(rounds, key=lambda one: (one.work is Work.EVALUATE, one.number)):
        metrics = {
            name: value for name, value in closed_round.metrics.items() if not name.startswith(_OF_TRAINING)
        }
        if metrics:
            found[closed_round.base] = metrics
    return found
