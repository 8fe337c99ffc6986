"""Carry out the actions on a run that ``fedgrass run`` takes."""

import msgspec

from fedgrass.console import stack
from fedgrass.console.results import show_result
from fedgrass.console.runs import fleet_operator, run_display
from fedgrass.console.terminal import say


class Repaired(msgspec.Struct, frozen=True, kw_only=True):
    """What a repair wrote, or would write."""

    run: str
    dry_run: bool  # whether nothing was written
    lines: list[str]  # one for each row of the rounds table
    count: int  # rows that were, or would be, written


@stack.refusals()
def act(stack_name: str, action: str, name: str, output: str) -> None:
    """Pause, resume, cancel, retry or advance a run, and show it.

    Raises:
        SettingsError: the action is not possible now; another operator may have come first.
    """
    operator = fleet_operator.open_operator(stack_name)
    run_display.present_run(operator, operator.act(action, name), output)


@stack.refusals()
def repair(stack_name: str, name: str, output: str, *, dry_run: bool) -> None:
    """Rebuild the lost rows of a run, and print a line per row."""
    lines = fleet_operator.open_operator(stack_name).repair(name, dry_run=dry_run)
    count = sum("write" in line or "wrote" in line for line in lines)
    found = Repaired(run=name, dry_run=dry_run, lines=lines, count=count)

    def draw(repaired: Repaired) -> None:
        for line in repaired.lines:
            say(line)

    show_result(found, output, draw)
