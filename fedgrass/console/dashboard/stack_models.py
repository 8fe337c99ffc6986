"""The aliases of a stack's models, as the page shows and moves them."""

from collections.abc import Callable, Sequence

from fedgrass.console import stack
from fedgrass.console.dashboard.pages.page_actions import AliasLine
from fedgrass.console.models.model_catalogue import ModelCatalogue
from fedgrass.console.runs.fleet_operator import Operator
from fedgrass.federation.messages.message_fields import checked_name
from fedgrass.federation.models.model_alias import checked_alias


class StackModels:
    """The aliases of one stack's tasks. All methods block.

    Args:
        operator: returns the stack's operator.
    """

    def __init__(self, operator: Callable[[], Operator]) -> None:
        self._operator = operator

    def aliases(self, tasks: Sequence[str]) -> list[AliasLine]:
        """Return the aliases of these tasks. Raises FedgrassError."""
        with stack.refusals():
            catalogue = ModelCatalogue(self._operator())
            return [
                AliasLine(
                    task=task,
                    alias=name,
                    run=record.model.run,
                    number=record.model.round,
                    serial=record.serial,
                )
                for task in tasks
                for name, record in sorted(catalogue.aliases(task).items())
            ]

    def promote(self, line: AliasLine) -> None:
        """Let an alias name a model; refused if it was moved since it had the line's serial."""
        self._operator().move_alias(
            "promote",
            task=checked_name("task", line.task),
            alias=checked_alias(line.alias),
            run=checked_name("run", line.run),
            round=line.number,
            serial=line.serial,
        )

    def rollback(self, line: AliasLine) -> None:
        """Let an alias name its former model again; refused if it was moved since."""
        self._operator().move_alias(
            "rollback",
            task=checked_name("task", line.task),
            alias=checked_alias(line.alias),
            serial=line.serial,
        )
