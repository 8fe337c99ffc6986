"""``fedgrass run``, ``runs``, ``devices``, ``repair``: their options. See runs/operator_actions.py."""

import argparse
from collections.abc import Callable
from pathlib import Path

from fedgrass.console.options import add_stack, whole_number

SIMPLE_ACTIONS = {
    "pause": "open no more rounds; the open one goes on",
    "resume": "go on with a paused run",
    "cancel": "end a run; its open round is abandoned, its models stay",
    "retry": "try the newest round again",
    "next": "open the next round now, whatever the schedule says",
    "status": "show a run and its rounds",
}


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the commands to the ``fedgrass`` command."""
    runs = commands.add_parser("runs", help="list the runs of a deployed stack")
    add_stack(runs)
    runs.set_defaults(run=_doing("list_runs"))
    devices = commands.add_parser("devices", help="list the devices of a stack, and which are missing")
    devices.add_argument("--task", default="", help="only those that have this task")
    devices.add_argument("--missing", action="store_true", help="only those that were not seen lately")
    devices.add_argument(
        "--within-seconds",
        type=whole_number(1, 10**9),
        default=300,
        help="how late is lately, as a run's seen_within_seconds (300)",
    )
    add_stack(devices)
    devices.set_defaults(run=_doing("list_devices"))
    actions = commands.add_parser(
        "run", help="start, pause, resume, cancel, retry ... a run of a deployed stack"
    )
    kinds = actions.add_subparsers(required=True, metavar="action")
    start = kinds.add_parser("start", help="start a run")
    start.add_argument("name", help="of the new run")
    start.add_argument("settings", nargs="*", metavar="setting=value", help="such as task=digits rounds=10")
    start.add_argument(
        "--settings-file", type=Path, help="a JSON object of settings; setting=value goes over it"
    )
    start.add_argument("--model", type=Path, help="the initial model, a safetensors file")
    start.add_argument("--continue-from", metavar="RUN/ROUND", help="start from a model of another run")
    add_stack(start)
    start.set_defaults(run=_doing("start"))
    for action, explanation in SIMPLE_ACTIONS.items():
        kind = kinds.add_parser(action, help=explanation)
        kind.add_argument("name", help="of the run")
        add_stack(kind)
        kind.set_defaults(run=_doing("act"), action=action)

    repair = commands.add_parser(
        "repair", help="rebuild the rows of a run that the rounds table has lost, from the bucket"
    )
    repair.add_argument("name", metavar="run", help="of the run")
    repair.add_argument("--dry-run", action="store_true", help="only say what would be written")
    add_stack(repair)
    repair.set_defaults(run=_doing("repair"))


def _doing(name: str) -> Callable[[argparse.Namespace], None]:
    """Return the action ``name``, with what AWS refuses told in one line."""

    def told(arguments: argparse.Namespace) -> None:
        # Imported here: boto3 takes a third of a second, which nothing but these commands needs.
        from fedgrass.console import stack  # noqa: PLC0415
        from fedgrass.console.runs import operator_actions  # noqa: PLC0415

        with stack.refusals():
            operator_actions.ACTIONS[name](arguments)

    return told
