"""The lineage of a model: its run and round, the model before it, and the replies that made it."""

from collections.abc import Iterator
from typing import Any, Protocol

import msgspec
from msgspec import Struct

from fedgrass.console.models.model_catalogue import ModelCatalogue, ModelEntry, ModelSource
from fedgrass.console.models.model_names import ModelName, parse_model_name
from fedgrass.console.runs.run_display import differing_settings
from fedgrass.federation import object_keys
from fedgrass.federation.errors import SettingsError
from fedgrass.federation.models.model_alias import AliasChange
from fedgrass.federation.rounds import Participant, Participation, Round, State, started_from
from fedgrass.federation.runs import Run

_MOST_ANCESTORS = 100  # runs that continue one another


class LineageSource(ModelSource, Protocol):
    """What a lineage needs of a stack; see ``Operator``."""

    def participants(self, round_: Round) -> list[Participant]:
        """Return the participants of a round."""


class LineageReply(Struct, frozen=True, kw_only=True):
    """The reply of one device that entered the model.

    Attributes:
        device: thing name.
        checksum: xxh3-128 of the header of its update, 32 hexadecimal digits.
        examples: that it trained on.
        bytes: size of its update in bytes.
        started_from: the model that it trained, RUN/ROUND.
        code: versions of the code that trained it; empty: an older device, which states none.
        received_at: milliseconds since the epoch.
    """

    device: str
    checksum: str
    examples: int
    bytes: int
    started_from: str
    code: str = ""
    received_at: int = 0


class ModelLineage(Struct, frozen=True, kw_only=True):
    """Where a model is from.

    Attributes:
        model: the model itself, with its metrics and aliases.
        key: of its object in the bucket.
        parent: the model that it was made from, RUN/ROUND; empty: none.
        ancestors: the models with which this run and the runs that it continues began, the latest first.
        attempt: of the round that made it; 0: an initial model.
        strategy: how the replies were aggregated, such as ``fedavg``; empty: they were not.
        selection: how the devices were selected.
        settings: of the run, without those that have their default.
        needs: training settings that the strategy requires.
        code: versions of the code that aggregated it; empty: from before they were recorded.
        replies: that entered it, by device.
        refused: devices whose reply was refused, with the reason.
        source: of an imported model: the name of its file; empty for others.
        imported_by: ARN of the caller who imported it.
        history: of the aliases that name it now: their changes, by alias.
    """

    model: ModelEntry
    key: str
    parent: str = ""
    ancestors: list[str] = []
    attempt: int = 0
    strategy: str = ""
    selection: str = ""
    settings: dict[str, Any] = {}
    needs: dict[str, Any] = {}
    code: str = ""
    replies: list[LineageReply] = []
    refused: dict[str, str] = {}
    source: str = ""
    imported_by: str = ""
    history: dict[str, list[AliasChange]] = {}


def lineage(source: LineageSource, catalogue: ModelCatalogue, name: ModelName) -> ModelLineage:
    """Return the lineage of a model.

    Raises:
        SettingsError: there is no such model.
    """
    entry = catalogue.entry(name)
    records = catalogue.aliases(entry.task)
    history = {alias: list(records[alias].history) for alias in entry.aliases if alias in records}
    key = object_keys.model(name.run, name.round)
    imported = catalogue.imported(name.run)
    if entry.origin == "imported" and imported:
        return ModelLineage(
            model=entry, key=key, source=imported.source, imported_by=imported.by, history=history
        )
    run = source.run(name.run)
    made = ModelLineage(
        model=entry,
        key=key,
        ancestors=list(_ancestors(source, run)),
        settings=differing_settings(run.settings),
        needs=dict(run.needs),
        history=history,
    )
    if entry.origin == "initial":
        parent = _name_of_key(run.continued_from) if run.continued_from else ""
        return msgspec.structs.replace(
            made,
            parent=parent,
            source=imported.source if imported else "",
            imported_by=imported.by if imported else "",
        )
    round_ = _closed(source, run, name.round)
    participants = source.participants(round_)
    return msgspec.structs.replace(
        made,
        parent=f"{run.name}/{round_.base}",
        attempt=round_.attempt,
        strategy=run.settings.aggregation,
        selection=run.settings.selection,
        code=round_.code,
        replies=[_reply(round_, one) for one in participants if one.state is Participation.REPLIED],
        refused={one.device: one.reason for one in participants if one.state is Participation.REFUSED},
    )


def _closed(source: LineageSource, run: Run, number: int) -> Round:
    for round_ in source.rounds_alone(run, number):
        if round_.number == number and round_.state is State.CLOSED:
            return round_
    message = f"round {number} of run {run.name!r} has not closed"  # its entry was read before
    raise SettingsError(message)


def _reply(round_: Round, participant: Participant) -> LineageReply:
    return LineageReply(
        device=participant.device,
        checksum=participant.checksum,
        examples=participant.examples,
        bytes=participant.bytes,
        started_from=f"{round_.run}/{started_from(round_, participant)}",
        code=participant.code,
        received_at=participant.received_at,
    )


def _ancestors(source: LineageSource, run: Run) -> Iterator[str]:
    """Yield the initial models of a run and of the runs before it, the latest first."""
    for _ in range(_MOST_ANCESTORS):
        yield f"{run.name}/0"
        if not run.continued_from:
            return
        before = parse_model_name(_name_of_key(run.continued_from))
        yield str(before)
        if before.round == 0 and before.run not in source.runs():  # an imported one
            return
        try:
            run = source.run(before.run)
        except SettingsError:  # its rows are lost
            return


def _name_of_key(key: str) -> str:
    """Return RUN/ROUND of the key of a model."""
    return key.removeprefix("models/").removesuffix(".safetensors")
