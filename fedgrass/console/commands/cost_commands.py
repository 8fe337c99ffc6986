"""``fedgrass costs``: options of the estimate of what a fleet costs on AWS."""

import argparse

from fedgrass.console.deferred import deferred
from fedgrass.console.options import number_between, whole_number

_MEGABYTES = number_between(0.001, 100_000)


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command to the ``fedgrass`` command."""
    costs = commands.add_parser(
        "costs",
        allow_abbrev=False,
        help="estimate what a fleet costs on AWS from published prices",
        description="In US dollars, at the 2025 prices of Northern Virginia, without the free tier. This is"
        " an estimate, not a measurement: docs/costs.md lists what is included.",
    )
    costs.add_argument(
        "--devices", type=whole_number(1, 10**8), default=100, help="devices of the fleet (100)"
    )
    costs.add_argument(
        "--devices-per-round",
        type=whole_number(1, 10**8),
        default=0,
        metavar="N",
        help="devices asked in a round (all)",
    )
    costs.add_argument(
        "--model-megabytes",
        type=_MEGABYTES,
        default=20.0,
        metavar="MB",
        help="size of the model in float32 (20)",
    )
    costs.add_argument(
        "--up-megabytes",
        type=_MEGABYTES,
        default=0.0,
        metavar="MB",
        help="size of an encoded update (the size of the model)",
    )
    costs.add_argument(
        "--down-megabytes", type=_MEGABYTES, default=0.0, metavar="MB",
        help="size of the encoded model that each device downloads (the size of the model)",
    )  # fmt: skip
    costs.add_argument(
        "--rounds-per-month",
        type=number_between(0, 10**6),
        default=30.0,
        metavar="N",
        help="rounds per month (30)",
    )
    costs.add_argument(
        "--heartbeat-seconds",
        type=number_between(0.1, 86_400),
        default=60.0,
        metavar="S",
        help="interval of heartbeats (60)",
    )
    costs.add_argument(
        "--tables", action="store_true", help="print the tables of docs/scaling.md and costs.md"
    )
    costs.set_defaults(run=deferred("fedgrass.console.deploy.costs:costs_command"))
