"""``fedgrass fleet``, ``queue`` and ``costs``: the commands on a fleet's stack in AWS."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter, Token

from fedgrass.console.command_line import (
    ON_STACK,
    Account,
    Output,
    StackOptions,
    command_group,
    number_between,
    whole_number,
)
from fedgrass.console.deferred import deferred

MOST_THINGS = 100  # larger fleets use provisioning by claim

fleet = command_group("fleet", "Provision devices in AWS IoT, or remove them.")
queue = command_group("queue", "List the stack's dead letters, or send them back.")


def _names(_: type, tokens: Sequence[Token]) -> tuple[str, ...]:
    text = ",".join(token.value for token in tokens)
    names = [name.strip() for name in text.split(",")]
    if "" in names or len(set(names)) != len(names):
        message = f"{text!r} is not a list of distinct names separated by commas, such as press-1,press-2"
        raise ValueError(message)
    if len(names) > MOST_THINGS:
        message = f"{len(names)} names: provision more than {MOST_THINGS} devices by claim (docs/devices.md)"
        raise ValueError(message)
    return tuple(names)


_Things = Annotated[
    tuple[str, ...], Parameter(converter=_names, help="names of the devices", metavar="A,B,C")
]


@fleet.command
def provision(
    *,
    things: _Things,
    group: Annotated[str, Parameter(metavar="NAME")],
    out: Annotated[Path, Parameter(metavar="FOLDER")],
    nucleus: Literal["classic", "lite"] = "classic",
    nucleus_version: Annotated[str, Parameter(metavar="VERSION")] = "",
    role_alias: Annotated[str, Parameter(metavar="NAME")] = "",
    account: Account = "",
    access: StackOptions = ON_STACK,
    output: Output = "text",
) -> None:
    """Provision a few Greengrass core devices, each with its own certificate.

    Repeat the command to continue after an interruption. For many devices, see provisioning by claim in
    docs/devices.md.

    Args:
        group: thing group of the devices; created if it does not exist.
        out: folder for the files of each device.
        nucleus: nucleus of the devices.
        nucleus_version: version of the classic nucleus (latest).
        role_alias: role alias (that of the stack, or fedgrass-<fleet>).
    """
    access.use()
    deferred("fedgrass.console.provisioning.fleet_provisioning:provision_command")(
        stack_name=access.stack,
        account=account,
        things=things,
        group=group,
        folder=out,
        nucleus=nucleus,
        nucleus_version=nucleus_version,
        role_alias=role_alias,
        output=output,
    )


@fleet.command
def remove(
    *,
    things: _Things,
    out: Annotated[Path | None, Parameter(metavar="FOLDER")] = None,
    yes: bool = False,
    dry_run: bool = False,
    account: Account = "",
    access: StackOptions = ON_STACK,
    output: Output = "text",
) -> None:
    """Delete things with their certificates and policies.

    Args:
        out: also delete the devices' files in this folder.
        yes: do not ask for confirmation.
        dry_run: only print what would be deleted.
    """
    access.use()
    deferred("fedgrass.console.provisioning.fleet_provisioning:remove_command")(
        stack_name=access.stack,
        account=account,
        things=things,
        folder=out,
        confirmed=yes,
        dry_run=dry_run,
        output=output,
    )


@queue.command(name="show")
def show_queue(*, access: StackOptions = ON_STACK, output: Output = "text") -> None:
    """List the messages that could not be processed."""
    access.use()
    deferred("fedgrass.console.runs.dead_letters:show_command")(stack_name=access.stack, output=output)


@queue.command
def redrive(
    *, drop_rule_failures: bool = False, access: StackOptions = ON_STACK, output: Output = "text"
) -> None:
    """Send each message back to the queue it came from.

    Args:
        drop_rule_failures: delete messages that a topic rule could not deliver, which have no queue to return
            to.
    """
    access.use()
    deferred("fedgrass.console.runs.dead_letters:redrive_command")(
        stack_name=access.stack, drop_rule_failures=drop_rule_failures, output=output
    )


def costs(
    *,
    devices: Annotated[int, whole_number(1, 10**8, "devices of the fleet")] = 100,
    devices_per_round: Annotated[
        int, whole_number(1, 10**8, "devices asked in a round (all)", show_default=False)
    ] = 0,
    model_megabytes: Annotated[
        float, number_between(0.001, 100_000, "size of the model in float32", metavar="MB")
    ] = 20.0,
    up_megabytes: Annotated[
        float,
        number_between(
            0.001, 100_000, "size of an encoded update (the size of the model)", metavar="MB",
            show_default=False,
        ),
    ] = 0.0,
    down_megabytes: Annotated[
        float,
        number_between(
            0.001, 100_000,
            "size of the encoded model that each device downloads (the size of the model)",
            metavar="MB", show_default=False,
        ),
    ] = 0.0,
    rounds_per_month: Annotated[float, number_between(0, 10**6, "rounds per month")] = 30.0,
    heartbeat_seconds: Annotated[
        float, number_between(0.1, 86_400, "interval of heartbeats", metavar="S")
    ] = 60.0,
    tables: Annotated[bool, Parameter(help="print the tables of docs/scaling.md and costs.md")] = False,
    output: Output = "text",
) -> None:  # fmt: skip
    """Estimate what a fleet costs on AWS from published prices.

    In US dollars, at the 2025 prices of Northern Virginia, without the free tier. This is an estimate, not a
    measurement: docs/costs.md lists what is included.
    """
    if tables:
        deferred("fedgrass.console.deploy.costs:tables_command")()
        return
    deferred("fedgrass.console.deploy.costs:costs_command")(
        devices=devices,
        devices_per_round=devices_per_round,
        model_megabytes=model_megabytes,
        up_megabytes=up_megabytes,
        down_megabytes=down_megabytes,
        rounds_per_month=rounds_per_month,
        heartbeat_seconds=heartbeat_seconds,
        output=output,
    )
