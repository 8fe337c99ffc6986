"""``fedgrass devices``: its options. See devices/registered_devices.py, which carries the commands out."""

from typing import Annotated

from cyclopts import Parameter

from fedgrass.console.command_line import ON_STACK, Output, StackOptions, command_group, whole_number
from fedgrass.console.deferred import deferred

_list = deferred("fedgrass.console.devices.registered_devices:list_devices")
_show = deferred("fedgrass.console.devices.registered_devices:show_device")
_forget = deferred("fedgrass.console.devices.registered_devices:forget_device")


app = command_group("devices", "List devices, show what one of them did and logged, or forget it.")
app.command(
    "fedgrass.console.commands.device_log_commands:logs",
    name="logs",
    help="Show the last log lines of a device, which uploads them on request.",
)


@app.default
@app.command(name="list")
def list_devices(
    *,
    where: tuple[str, ...] = (),
    task: str = "",
    missing: bool = False,
    version: str = "",
    state: str = "",
    group: str = "",
    within_seconds: Annotated[int, whole_number(1, 10**9)] = 300,
    all_: Annotated[bool, Parameter(name="--all")] = False,
    limit: Annotated[int, whole_number(0, 10**6)] = 0,
    after: str = "",
    access: StackOptions = ON_STACK,
    output: Output = "text",
) -> None:
    """Summarize the devices of a stack: how many have each version, state, task and attribute value.

    With a filter, --all, --limit or --after, and of at most 20 devices, a row of each follows.

    Args:
        where: only devices with this attribute=value, or for which this expression of a run's `where` holds;
            repeat it for several conditions that all have to hold.
        task: only devices that have this task.
        missing: only devices that were not seen recently.
        version: only devices with this version of the trainer component.
        state: only devices in this state, idle or working.
        group: only devices of this thing group of AWS IoT and its subgroups.
        within_seconds: age of a heartbeat that counts as recent, like a run's seen_within_seconds.
        all_: a row of every device.
        limit: number of rows; 0 is 50 for people, and all of them in JSON.
        after: only rows of devices whose name comes after this one.
    """
    access.use()
    _list(
        where=where,
        task=task,
        missing=missing,
        version=version,
        state=state,
        group=group,
        within_seconds=within_seconds,
        every=all_,
        limit=limit,
        after=after,
        stack_name=access.stack,
        output=output,
    )


@app.command
def show(
    device: str,
    /,
    *,
    rounds: Annotated[int, whole_number(1, 100)] = 10,
    within_seconds: Annotated[int, whole_number(1, 10**9)] = 300,
    access: StackOptions = ON_STACK,
    output: Output = "text",
) -> None:
    """Show what is known of a device: heartbeat, certificate, last replies, and why it is slow or failing.

    Args:
        device: thing name.
        rounds: number of its last replies.
        within_seconds: age of a heartbeat that counts as recent, like a run's seen_within_seconds.
    """
    access.use()
    _show(device=device, rounds=rounds, within_seconds=within_seconds, stack_name=access.stack, output=output)


@app.command
def forget(
    device: str,
    /,
    *,
    yes: bool = False,
    dry_run: bool = False,
    access: StackOptions = ON_STACK,
    output: Output = "text",
) -> None:
    """Remove a device from the devices table, so that no round asks it.

    A device that is still alive is registered again by its next heartbeat. Its models, logs and past replies
    are kept. A device that takes part in an open round is not removed.

    Args:
        device: thing name.
        yes: do not ask for confirmation.
        dry_run: only print what would be done.
    """
    access.use()
    _forget(device=device, yes=yes, dry_run=dry_run, stack_name=access.stack, output=output)
