"""Show the models of a fleet and where they are from."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

from msgspec import Struct

from fedgrass.console import stack
from fedgrass.console.models.model_catalogue import ModelCatalogue, ModelEntry
from fedgrass.console.models.model_lineage import ModelLineage, lineage
from fedgrass.console.results import show_result
from fedgrass.console.runs.fleet_operator import open_operator
from fedgrass.console.tables import show, table
from fedgrass.console.terminal import LONGEST_TEXT, printable, say
from fedgrass.federation.messages.message_fields import checked_name
from fedgrass.federation.models.model_alias import AliasChange

_MOST_METRICS = 3  # in a line
_MOST_REPLIES = 20  # in the text; the JSON form has all


class ModelList(Struct, frozen=True, kw_only=True):
    """The models of a fleet.

    Attributes:
        models: of each run in their order, the latest run last.
        count: how many these are.
    """

    models: list[ModelEntry]
    count: int


@stack.refusals()
def list_models(stack_name: str, output: str, *, run: str, task: str, last: int) -> None:
    """Show the models of a run, of a task, or all.

    Args:
        stack_name: the stack.
        output: ``text`` or ``json``.
        run: only those of this run.
        task: only those of this task.
        last: at most this number of each run, the latest; 0: all.
    """
    if task:
        checked_name("task", task)
    entries = ModelCatalogue(open_operator(stack_name)).entries(run=run, task=task, last=last)
    show_result(ModelList(models=entries, count=len(entries)), output, draw_list)


@stack.refusals()
def show_model(stack_name: str, output: str, *, given: str, task: str) -> None:
    """Show where a model is from.

    Args:
        stack_name: the stack.
        output: ``text`` or ``json``.
        given: RUN/ROUND, or an alias of the task.
        task: of the alias.
    """
    operator = open_operator(stack_name)
    catalogue = ModelCatalogue(operator)
    found = lineage(operator, catalogue, catalogue.resolve(given, task))
    show_result(found, output, draw_lineage)


def draw_list(found: ModelList) -> None:
    """Print a row per model."""
    if not found.models:
        say("no models")
        return
    rows = [
        (
            entry.model,
            entry.task,
            f"{entry.bytes:,}",
            when(entry.made_at),
            metrics_text(entry.metrics),
            ", ".join(entry.aliases),
        )
        for entry in found.models
    ]
    show(table("model", "task", "bytes", "made at (UTC)", "metrics", "aliases", rows=rows))


def draw_lineage(found: ModelLineage) -> None:
    """Print a model and what made it."""
    model = found.model
    for label, text in _facts(found):
        if text:
            say(f"{label:<12}{printable(text, LONGEST_TEXT)}")
    if found.replies:
        rows = [
            (
                reply.device,
                reply.examples,
                f"{reply.bytes:,}",
                reply.started_from,
                reply.checksum,
                reply.code or "not stated",
            )
            for reply in found.replies[:_MOST_REPLIES]
        ]
        show(table("device", "examples", "bytes", "started from", "checksum", "code", rows=rows))
    if len(found.replies) > _MOST_REPLIES:
        more = len(found.replies) - _MOST_REPLIES
        say(f"and {more} more: `fedgrass model show {model.model} --output json`")
    for device, reason in found.refused.items():
        say(f"refused: {device}: {printable(reason, LONGEST_TEXT)}")
    for alias, changes in found.history.items():
        draw_changes(alias, changes)


def draw_changes(alias: str, changes: Sequence[AliasChange]) -> None:
    """Print who moved an alias, the latest change last."""
    for change in changes:
        before = f" from {change.from_run}/{change.from_round}" if change.from_run else ""
        by = printable(change.by or "an unknown caller", LONGEST_TEXT)
        say(f"{alias}: {when(change.at)} {change.action}{before} to {change.run}/{change.round} by {by}")


def _facts(found: ModelLineage) -> list[tuple[str, str]]:
    model = found.model
    origin = {
        "trained": f"round {model.round} of run {model.run}, attempt {found.attempt}",
        "initial": f"the initial model of run {model.run}",
        "imported": "imported",
    }[model.origin]
    return [
        ("model", model.model),
        ("task", model.task),
        ("origin", origin),
        ("made at", f"{when(model.made_at)} UTC"),
        ("file", f"{found.key} ({model.bytes:,} bytes)"),
        ("sha256", model.sha256),
        ("aliases", ", ".join(model.aliases)),
        ("metrics", metrics_text(model.metrics, len(model.metrics))),
        ("source", found.source),
        ("imported by", found.imported_by),
        ("parent", found.parent),
        ("ancestors", " <- ".join(found.ancestors)),
        ("strategy", found.strategy),
        ("selection", found.selection),
        ("settings", _pairs(found.settings)),
        ("needs", _pairs(found.needs)),
        ("code", found.code),
    ]


def _pairs(values: Mapping[str, object]) -> str:
    return " ".join(f"{name}={value}" for name, value in values.items())


def metrics_text(metrics: Mapping[str, float], most: int = _MOST_METRICS) -> str:
    """Return the first metrics, such as ``accuracy 0.951, loss 0.16``."""
    return ", ".join(f"{name} {value:.4g}" for name, value in list(metrics.items())[:most])


def when(at: int) -> str:
    """Return a time in milliseconds since the epoch as date and time of UTC."""
    return f"{datetime.fromtimestamp(at / 1000, tz=UTC):%Y-%m-%d %H:%M:%S}"
