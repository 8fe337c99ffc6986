"""``fedgrass run``: what an operator asks of the runs of a deployed stack."""

import argparse
import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from fedgrass.console import history
from fedgrass.console.operator import Operator
from fedgrass.federation.conversion import shown
from fedgrass.federation.errors import SettingsError, UpdateRefused
from fedgrass.federation.runs import Run
from fedgrass.federation.settings import parse_settings
from fedgrass.federation.weights import Arrays, decode

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
    _add_stack(runs)
    runs.set_defaults(run=_telling(_list))
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
    _add_stack(start)
    start.set_defaults(run=_telling(_start))
    for action, explanation in SIMPLE_ACTIONS.items():
        kind = kinds.add_parser(action, help=explanation)
        kind.add_argument("name", help="of the run")
        _add_stack(kind)
        kind.set_defaults(run=_telling(_act), action=action)

    repair = commands.add_parser(
        "repair", help="rebuild the rows of a run that the rounds table has lost, from the bucket"
    )
    repair.add_argument("name", metavar="run", help="of the run")
    repair.add_argument("--dry-run", action="store_true", help="only say what would be written")
    _add_stack(repair)
    repair.set_defaults(run=_telling(_repair))


def _add_stack(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--stack", default="fedgrass", help="the CloudFormation stack of the fleet (fedgrass)"
    )


def _telling(do: Callable[[argparse.Namespace], None]) -> Callable[[argparse.Namespace], None]:
    """Return ``do``, with what AWS refuses told in one line."""

    def told(arguments: argparse.Namespace) -> None:
        from fedgrass.console import stack  # noqa: PLC0415  # as below

        with stack.refusals():
            do(arguments)

    return told


def _operator(arguments: argparse.Namespace) -> Operator:
    # Imported here: boto3 takes a third of a second, which nothing but these commands needs.
    from fedgrass.console import stack  # noqa: PLC0415

    return Operator(stack.client, stack.outputs(arguments.stack))


def _list(arguments: argparse.Namespace) -> None:
    lines = Table("run", "state")
    for name, state in sorted(_operator(arguments).runs().items()):
        lines.add_row(name, state)
    Console().print(lines)


def _start(arguments: argparse.Namespace) -> None:
    settings = parse_settings(_settings(arguments))
    details: dict[str, Any] = {}
    operator = _operator(arguments)
    if arguments.continue_from:
        old, _, number = arguments.continue_from.rpartition("/")
        if not old or not number.isdigit():
            message = (
                f"--continue-from is {arguments.continue_from!r}; it takes RUN/ROUND, such as digits-1/5"
            )
            raise SettingsError(message)
        details["continue_from"] = {"run": old, "round": int(number)}
    if arguments.model:
        run = operator.start(arguments.name, settings, _model(arguments.model))
    else:
        run = operator.act("start", arguments.name, settings=_settings(arguments), **details)
    _show(operator, run)


def _settings(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the settings of the file with those of the command line over them; values are JSON or words."""
    settings: dict[str, Any] = {}
    if arguments.settings_file:
        try:
            settings = json.loads(_read(arguments.settings_file))
        except ValueError as error:
            message = f"{arguments.settings_file} is no JSON: {error}"
            raise SettingsError(message) from error
        if not isinstance(settings, dict):
            message = f"{arguments.settings_file} holds {shown(settings)}; it takes an object of settings"
            raise SettingsError(message)
    for pair in arguments.settings:
        name, equals, value = pair.partition("=")
        if not equals:
            message = f"{pair!r} is no setting; they are given as setting=value, such as rounds=10"
            raise SettingsError(message)
        try:
            settings[name] = json.loads(value)
        except ValueError:
            settings[name] = value
    return settings


def _model(path: Path) -> Arrays:
    try:
        return decode(_read(path))
    except UpdateRefused as error:
        message = f"--model {path} is no model: {error}"
        raise SettingsError(message) from error


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        message = f"{path} cannot be read: {error.strerror}"
        raise SettingsError(message) from error


def _act(arguments: argparse.Namespace) -> None:
    operator = _operator(arguments)
    _show(operator, operator.act(arguments.action, arguments.name))


def _repair(arguments: argparse.Namespace) -> None:
    for line in _operator(arguments).repair(arguments.name, dry_run=arguments.dry_run):
        print(line)  # noqa: T201  # what the command is for


def _show(operator: Operator, run: Run) -> None:
    console = Console()
    console.print(f"run {run.name}: {run.state} {run.reason}".rstrip(), highlight=False, soft_wrap=True)
    if run.waiting_since:
        since = datetime.fromtimestamp(run.waiting_since / 1000, tz=UTC)
        console.print(f"it waits for a device that it can ask, since {since:%H:%M:%S} UTC", highlight=False)
    summaries = [history.summarize(record, {}) for record in operator.rounds(run)]
    if summaries:
        console.print(history.table(summaries))
