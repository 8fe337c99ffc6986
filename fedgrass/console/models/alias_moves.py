"""Promote a model to an alias of its task, and roll the alias back."""

from typing import Any, Protocol

from msgspec import Struct

from fedgrass.console import stack
from fedgrass.console.models.model_catalogue import ModelCatalogue, ModelSource
from fedgrass.console.models.model_names import ModelName
from fedgrass.console.results import show_result
from fedgrass.console.runs.fleet_operator import open_operator
from fedgrass.console.terminal import say
from fedgrass.federation.messages.message_fields import checked_name
from fedgrass.federation.models.model_alias import checked_alias


class AliasSource(ModelSource, Protocol):
    """What moving an alias needs of a stack; see ``Operator``."""

    def move_alias(self, action: str, **details: object) -> dict[str, Any]:
        """Ask the initiator to ``promote`` or ``rollback`` an alias; return its answer."""


class MovedAlias(Struct, frozen=True, kw_only=True):
    """An alias after a promotion or a rollback.

    Attributes:
        alias: its name.
        task: of the models.
        model: that it names now, RUN/ROUND.
        before: that it named before, RUN/ROUND; empty: it was new.
        serial: how often it was moved.
        changed: whether this command moved it; false: it named that model already.
    """

    alias: str
    task: str
    model: str
    before: str
    serial: int
    changed: bool


@stack.refusals()
def promote(stack_name: str, output: str, *, given: str, alias: str, task: str) -> None:
    """Let an alias name a model, and show it.

    Args:
        stack_name: the stack.
        output: ``text`` or ``json``.
        given: RUN/ROUND, or another alias of the task.
        alias: to move.
        task: of the model; may be empty with RUN/ROUND.
    """
    show_result(promote_model(open_operator(stack_name), given, alias, task), output, draw_moved)


@stack.refusals()
def rollback(stack_name: str, output: str, *, alias: str, task: str) -> None:
    """Let an alias name the model before the last promotion again, and show it."""
    show_result(roll_back(open_operator(stack_name), alias, task), output, draw_moved)


def promote_model(source: AliasSource, given: str, alias: str, task: str = "") -> MovedAlias:
    """Let an alias name a model.

    Args:
        source: the stack.
        given: RUN/ROUND, or another alias of the task.
        alias: to move.
        task: of the model; may be empty with RUN/ROUND.

    Raises:
        SettingsError: the model does not exist or is of another task, or another operator moved the alias.
    """
    checked_alias(alias)
    catalogue = ModelCatalogue(source)
    name: ModelName = catalogue.resolve(given, task)
    task = task or catalogue.entry(name).task
    record = catalogue.aliases(task).get(alias)
    answer = source.move_alias(
        "promote",
        run=name.run,
        round=name.round,
        task=task,
        alias=alias,
        serial=record.serial if record else 0,
    )
    return _moved(answer, f"{record.model.run}/{record.model.round}" if record else "")


def roll_back(source: AliasSource, alias: str, task: str) -> MovedAlias:
    """Let an alias of a task name the model before its last promotion. Raises SettingsError."""
    checked_alias(alias)
    record = ModelCatalogue(source).aliases(checked_name("task", task)).get(alias)
    answer = source.move_alias("rollback", task=task, alias=alias, serial=record.serial if record else 0)
    return _moved(answer, f"{record.model.run}/{record.model.round}" if record else "")


def _moved(answer: dict[str, Any], before: str) -> MovedAlias:
    return MovedAlias(
        alias=answer["alias"],
        task=answer["task"],
        model=f"{answer['run']}/{answer['round']}",
        before=before,
        serial=answer["serial"],
        changed=answer["changed"],
    )


def draw_moved(found: MovedAlias) -> None:
    """Print which model an alias names now."""
    if not found.changed:
        say(f"{found.alias} of the task {found.task} names {found.model} already")
        return
    before = f", before {found.before}" if found.before else ""
    say(f"{found.alias} of the task {found.task} names {found.model} now{before}")
