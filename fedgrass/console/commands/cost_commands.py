"""``fedgrass costs``: what a fleet of given numbers costs on AWS, before there is one."""

import argparse

from fedgrass.console.options import number_between, whole_number
from fedgrass.console.terminal import say, show, table

_MEGABYTES = number_between(0.001, 100_000)


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command to the ``fedgrass`` command."""
    costs = commands.add_parser(
        "costs",
        allow_abbrev=False,
        help="count what a fleet costs on AWS, from published prices",
        description="In US dollars, by Northern Virginia's prices of 2025, without the free tier. Nothing is"
        " measured: docs/costs.md says what is counted, and what is not.",
    )
    costs.add_argument("--devices", type=whole_number(1, 10**8), default=100, help="of the fleet (100)")
    costs.add_argument(
        "--devices-per-round",
        type=whole_number(1, 10**8),
        default=0,
        metavar="N",
        help="that a round asks (all)",
    )
    costs.add_argument(
        "--model-megabytes", type=_MEGABYTES, default=20.0, metavar="MB", help="of the model in float32 (20)"
    )
    costs.add_argument(
        "--up-megabytes",
        type=_MEGABYTES,
        default=0.0,
        metavar="MB",
        help="of an update, as encoded (the model)",
    )
    costs.add_argument(
        "--down-megabytes", type=_MEGABYTES, default=0.0, metavar="MB",
        help="that each device downloads, as encoded (the model)",
    )  # fmt: skip
    costs.add_argument(
        "--rounds-per-month", type=number_between(0, 10**6), default=30.0, metavar="N", help="(30)"
    )
    costs.add_argument(
        "--heartbeat-seconds", type=number_between(0.1, 86_400), default=60.0, metavar="S", help="(60)"
    )
    costs.add_argument(
        "--tables", action="store_true", help="print the tables of docs/scaling.md and costs.md"
    )
    costs.set_defaults(run=_costs)


def _costs(arguments: argparse.Namespace) -> None:
    # Imported here: counting needs numpy and msgspec.
    from fedgrass.console.deploy import costs  # noqa: PLC0415

    if arguments.tables:
        for line in [*costs.table().splitlines(), "", *costs.standing_table().splitlines()]:
            say(line)
        return
    fleet = costs.Fleet(**{name: getattr(arguments, name) for name in costs.Fleet.__struct_fields__})
    found = costs.month(fleet)
    rows = [(name, costs.dollars(once) if once else "-", costs.dollars(month)) for name, once, month in found]
    once, month = sum(cost for _, cost, _ in found), sum(cost for _, _, cost in found)
    show(
        table(
            "US dollars", "a round", "a month",
            rows=[*rows, ("together", costs.dollars(once), costs.dollars(month))],
        )
    )  # fmt: skip
    say("without alarms, dashboard, logs and stored models: docs/costs.md has them, a few dollars a month")
