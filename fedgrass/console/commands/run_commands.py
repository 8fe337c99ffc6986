"""``fedgrass run``, ``runs``, ``repair``: their options. See runs/operator_actions.py."""

import argparse
from pathlib import Path

from fedgrass.console.deferred import deferred
from fedgrass.console.options import add_stack

_SIMPLE_ACTIONS = {
    "pause": "open no more rounds; the open round continues",
    "resume": "continue a paused run",
    "cancel": "end a run; its open round is abandoned, its models are kept",
    "retry": "retry the latest round",
    "next": "open the next round now, whatever the schedule says",
    "status": "show a run and its rounds",
}


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add ``run``, ``runs`` and ``repair``."""
    runs = commands.add_parser("runs", help="list the runs of a deployed stack")
    add_stack(runs)
    runs.set_defaults(run=deferred("fedgrass.console.runs.operator_actions:list_runs"))
    actions = commands.add_parser(
        "run", help="start, pause, resume, cancel, retry ... a run of a deployed stack"
    )
    kinds = actions.add_subparsers(required=True, metavar="action")
    start = kinds.add_parser("start", help="start a run")
    start.add_argument("name", help="name of the new run")
    start.add_argument("settings", nargs="*", metavar="setting=value", help="such as task=digits rounds=10")
    start.add_argument(
        "--settings-file", type=Path, help="a JSON object of settings; setting=value overrides it"
    )
    start.add_argument("--model", type=Path, help="file of the initial model, in safetensors format")
    start.add_argument(
        "--app",
        type=Path,
        metavar="APP_DIR",
        help="of a task flower:NAME: the folder of the Flower app, whose ServerApp brings the initial model;"
        " without it, and without --model, a device is asked",
    )
    start.add_argument(
        "--frozen", type=Path, help="file of the frozen arrays, which devices download once (with --model)"
    )
    start.add_argument("--continue-from", metavar="RUN/ROUND", help="start from a model of another run")
    add_stack(start)
    start.set_defaults(run=deferred("fedgrass.console.runs.operator_actions:start"))
    for action, explanation in _SIMPLE_ACTIONS.items():
        kind = kinds.add_parser(action, help=explanation)
        kind.add_argument("name", help="name of the run")
        add_stack(kind)
        kind.set_defaults(run=deferred("fedgrass.console.runs.operator_actions:act"), action=action)

    repair = commands.add_parser(
        "repair", help="rebuild lost rows of a run in the rounds table from the bucket"
    )
    repair.add_argument("name", metavar="run", help="name of the run")
    repair.add_argument("--dry-run", action="store_true", help="only print what would be written")
    add_stack(repair)
    repair.set_defaults(run=deferred("fedgrass.console.runs.operator_actions:repair"))
