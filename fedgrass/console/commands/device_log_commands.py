"""``fedgrass devices logs``: its options. See devices/device_logs.py."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from fedgrass.console.command_line import ON_STACK, Output, StackOptions, number_between, whole_number
from fedgrass.console.deferred import deferred

_MOST_LINES = 1_000  # that a device keeps
_SHOW_LOGS = deferred("fedgrass.console.devices.device_logs:show_logs")


def logs(
    thing: str,
    /,
    *,
    lines: Annotated[int, whole_number(1, _MOST_LINES)] = _MOST_LINES,
    out: Annotated[Path | None, Parameter(metavar="FILE")] = None,
    wait_seconds: Annotated[float, number_between(1, 900, metavar="SECONDS")] = 60.0,
    last: bool = False,
    access: StackOptions = ON_STACK,
    output: Output = "text",
) -> None:
    """Show the last log lines of a device, which uploads them on request.

    The lines are those of the trainer and of its worker, also while it trains. They stay in the stack's
    bucket for 30 days.

    Args:
        thing: thing name of the device.
        lines: how many of the last 1,000 lines.
        out: write the lines to this file instead.
        wait_seconds: how long to wait for the device, from 1 to 900.
        last: show the lines that it sent last instead, without asking it.
    """
    access.use()
    _SHOW_LOGS(
        thing,
        lines=lines,
        out=out,
        wait_seconds=wait_seconds,
        last=last,
        stack_name=access.stack,
        output=output,
    )
