"""The actions of the command line: run, list, stop, deploy, configure, publish, inject.

``greengrass-emulator`` consists of them, and another program can offer them as well. Modules
that need third-party packages are imported by the action that uses them: parsing a command line needs none.
"""

import argparse
import json
import math
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from greengrass_emulator.command.terminal_output import Output, printable
from greengrass_emulator.emulator_errors import CommandLineError

if TYPE_CHECKING:
    from greengrass_emulator.control.control_client import ControlRequest

_STOP_SECONDS = 60.0
_DEPLOYMENT_SECONDS = 3_700.0  # longer than the core itself waits for a deployment
_DEFAULT_THING = "local-core"
_LARGEST_FILE_BYTES = 4 * 1024**2  # of a configuration or a payload; one request may not be larger either
_LONGEST_SHOWN = 60  # characters of an argument in an error

# Python reads other spellings too: underscores, spaces around, digits of other scripts.
_NUMBER = re.compile(r"[-+0-9.eE]+", re.ASCII)

_Actions = Any  # argparse's own type of subparsers is private


def add_actions(actions: _Actions, output: Output) -> None:
    """Add the actions to a parser's subparsers.

    Each sets ``run``, a function of the parsed arguments, which raises EmulatorError.

    Args:
        actions: what ``ArgumentParser.add_subparsers`` has returned.
        output: how the actions print.
    """
    _Parsers(actions, _Handlers(output)).add()


@dataclass(frozen=True)
class _Parsers:
    """Declares the arguments of each action."""

    actions: _Actions
    handlers: "_Handlers"

    def add(self) -> None:
        self._add_run()
        self._parser("list", self.handlers.list_cores, "show the cores that run on this machine")
        stop = self._parser("stop", self.handlers.stop, "stop a core and its components")
        stop.add_argument("thing", nargs="?", help="thing name of the core (default: the only one running)")
        stop.add_argument("--thing", dest="named", metavar="NAME", help="the same")
        self._add_inject()
        publish = self._parser(
            "publish", self.handlers.publish, "publish a message to a core's components as IoT Core would"
        )
        publish.add_argument("topic")
        publish.add_argument("payload", help="text, or @FILE")
        publish.add_argument("--qos", type=_number(int, 0, 1), metavar="{0,1}", default=1)
        publish.add_argument("--retain", action="store_true")
        deploy = self._parser("deploy", self.handlers.deploy, "deploy components to a running core")
        _add_components(deploy, required=False)
        deploy.add_argument(
            "--remove", action="append", default=[], metavar="COMPONENT", help="remove this component"
        )
        configure = self._parser(
            "configure", self.handlers.configure, "merge into the configuration of a deployed component"
        )
        configure.add_argument("component")
        configure.add_argument("config", metavar="JSON|FILE")
        for parser in (publish, deploy, configure):
            _add_thing(parser)

    def _parser(
        self, name: str, run: Callable[[argparse.Namespace], None], explanation: str
    ) -> argparse.ArgumentParser:
        parser: argparse.ArgumentParser = self.actions.add_parser(
            name, allow_abbrev=False, help=explanation, description=explanation
        )
        parser.set_defaults(run=run)
        return parser

    def _add_run(self) -> None:
        run = self._parser("run", self.handlers.run, "start a core and run components on it until Ctrl-C")
        _add_components(run, required=True)
        run.add_argument(
            "--thing", default=_DEFAULT_THING, metavar="NAME", help=f"its IoT thing name ({_DEFAULT_THING})"
        )
        run.add_argument(
            "--profile",
            choices=["classic", "lite"],
            default="classic",
            help="which nucleus to emulate (classic)",
        )
        run.add_argument(
            "--root", type=Path, metavar="FOLDER", help="the core's folder (greengrass-core/<thing>)"
        )
        run.add_argument(
            "--secrets", metavar="JSON|FILE", default="{}", help="secrets that GetSecretValue returns, by id"
        )
        run.add_argument(
            "--interpolate-component-configuration",
            action="store_true",
            dest="interpolate",
            help="the classic nucleus's setting of that name",
        )
        run.add_argument(
            "--aws", action="store_true", help="give the components access to AWS with your own credentials"
        )
        run.add_argument(
            "--once",
            action="store_true",
            help="exit when all components have ended; exit code 1 if one of them failed",
        )

    def _add_inject(self) -> None:
        inject = self._parser("inject", self.handlers.inject, "inject a fault into a running core")
        inject.add_argument("fault", nargs="?", help="without one, the available faults are listed")
        inject.add_argument(
            "--amount", type=_number(int, 0, 10**15), help="how much, for faults that have a measure"
        )
        inject.add_argument(
            "--seconds", type=_number(float, 0.01, 1e9), help="how long (default: until it is cleared)"
        )
        inject.add_argument("--clear", action="store_true", help="end the fault")
        _add_thing(inject)


def _add_components(parser: argparse.ArgumentParser, *, required: bool) -> None:
    parser.add_argument(
        "--recipe",
        type=Path,
        action="append",
        default=[],
        required=required,
        metavar="FILE",
        help="a component's recipe; repeat the option for several components",
    )
    parser.add_argument(
        "--artifacts",
        type=Path,
        metavar="FOLDER",
        help="contains <component>/<version>/<file>, or <file> (default: the first recipe's folder)",
    )
    parser.add_argument(
        "--config",
        metavar="JSON|FILE",
        default="{}",
        help="merged into the configuration; with several recipes an object by component name",
    )


def _add_thing(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--thing", metavar="NAME", help="thing name of the core (default: the only one)")


class _Handlers:
    """Carries out the actions."""

    def __init__(self, output: Output) -> None:
        self._output = output

    def run(self, arguments: argparse.Namespace) -> None:
        # boto3, msgspec and asyncio take half a second to import: see the module's docstring.
        from greengrass_emulator.command.foreground_core import RunOptions, run  # noqa: PLC0415 - as above
        from greengrass_emulator.core.core_folders import folder_name  # noqa: PLC0415 - as above

        options = RunOptions(
            recipes=arguments.recipe,
            artifacts=_artifact_folder(arguments),
            thing=arguments.thing,
            root=arguments.root or Path("greengrass-core") / folder_name(arguments.thing),
            profile=arguments.profile,
            configuration=_json_object("--config", arguments.config),
            secrets=_secrets(arguments.secrets),
            interpolate=arguments.interpolate,
            aws=arguments.aws,
            once=arguments.once,
        )
        sys.exit(run(options, self._output.print_line))

    def list_cores(self, _: argparse.Namespace) -> None:
        from greengrass_emulator.control import control_client  # noqa: PLC0415 - needs msgspec

        print_line = self._output.print_line
        cores, silent = control_client.running_cores()
        for core in cores:
            print_line(f"{core.thing}  {core.profile}  pid {core.pid}  {core.root}")
            for component in core.components:
                print_line(f"    {component.name} {component.version}  {component.state}")
            for name, amount in core.faults.items():
                print_line(f"    fault {name}{'' if amount is None else f' {amount}'}")
        if not cores:
            print_line("no core is running here")
        for line in silent:
            print_line(line)

    def stop(self, arguments: argparse.Namespace) -> None:
        from greengrass_emulator.control import control_client  # noqa: PLC0415 - needs msgspec
        from greengrass_emulator.control.control_client import Stop  # noqa: PLC0415 - needs msgspec

        thing = control_client.chosen_core(arguments.named or arguments.thing)
        control_client.ask(thing, Stop())
        control_client.wait_until_gone(thing, _STOP_SECONDS)
        self._output.print_line(f"{thing} has stopped")

    def inject(self, arguments: argparse.Namespace) -> None:
        from greengrass_emulator.control.control_client import (  # noqa: PLC0415 - needs msgspec
            Clear,
            Inject,
        )
        from greengrass_emulator.faults.fault_state import FAULTS  # noqa: PLC0415 - only this action

        options = (arguments.clear or None, arguments.amount, arguments.seconds)
        if arguments.fault is None and any(option is not None for option in options):
            message = "--clear, --amount and --seconds need a fault: `list` shows those that are injected"
            raise CommandLineError(message)
        if arguments.fault is None:
            rows = [
                (
                    name,
                    fault.unit and f"{fault.unit}{'' if fault.default is None else f' ({fault.default})'}",
                    fault.summary,
                )
                for name, fault in FAULTS.items()
            ]
            self._output.show_table(("fault", "amount", "what happens"), rows)
        elif arguments.clear:
            self._ask(arguments, Clear(fault=arguments.fault))
        else:
            self._ask(
                arguments,
                Inject(fault=arguments.fault, amount=arguments.amount, seconds=arguments.seconds),
            )

    def publish(self, arguments: argparse.Namespace) -> None:
        from greengrass_emulator.control.control_client import Publish  # noqa: PLC0415 - needs msgspec

        given: str = arguments.payload
        payload = _content("the payload", Path(given[1:])) if given.startswith("@") else given.encode()
        self._ask(
            arguments,
            Publish(topic=arguments.topic, payload=payload, qos=arguments.qos, retain=arguments.retain),
        )

    def deploy(self, arguments: argparse.Namespace) -> None:
        from greengrass_emulator.command.foreground_core import configurations  # noqa: PLC0415 - needs boto3
        from greengrass_emulator.control.control_client import Deploy  # noqa: PLC0415 - needs msgspec

        if not arguments.recipe and not arguments.remove:
            message = "there is nothing to deploy: give --recipe or --remove"
            raise CommandLineError(message)
        given = _json_object("--config", arguments.config)
        chosen = configurations(arguments.recipe, given) if arguments.recipe else {}
        request = Deploy(
            recipes=[str(file.absolute()) for file in arguments.recipe],
            artifacts=str(_artifact_folder(arguments).absolute()),
            configurations={name: dict(configuration) for name, configuration in chosen.items()},
            remove=arguments.remove,
        )
        self._ask(arguments, request, _DEPLOYMENT_SECONDS)

    def configure(self, arguments: argparse.Namespace) -> None:
        from greengrass_emulator.control.control_client import Configure  # noqa: PLC0415 - needs msgspec

        merge = _json_object("the configuration", arguments.config)
        self._ask(arguments, Configure(component=arguments.component, merge=merge), _DEPLOYMENT_SECONDS)

    def _ask(
        self, arguments: argparse.Namespace, request: "ControlRequest", seconds: float = _STOP_SECONDS
    ) -> None:
        from greengrass_emulator.control import control_client  # noqa: PLC0415 - needs msgspec

        thing = control_client.chosen_core(arguments.thing)
        self._output.print_line(control_client.ask(thing, request, seconds).said)


def _artifact_folder(arguments: argparse.Namespace) -> Path:
    """Return the folder with the artifacts: by default that of the first recipe."""
    if arguments.artifacts is not None:
        return Path(arguments.artifacts)
    return Path(arguments.recipe[0]).parent if arguments.recipe else Path()


def _json_object(what: str, given: str) -> dict[str, Any]:
    """Return a JSON object that is given as text or as the path of a file.

    Args:
        what: names the argument in errors.
        given: the text or the path.

    Raises:
        CommandLineError: the file cannot be read, or it is not a JSON object.
    """
    text: str | bytes = given if given.lstrip().startswith("{") else _content(what, Path(given))
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        message = f"{what} {_shortened(given)} is not valid JSON: {error}"
        raise CommandLineError(message) from error
    if not isinstance(value, dict):
        message = f"{what} {_shortened(given)} must be a JSON object, not {_shortened(value)}"
        raise CommandLineError(message)
    return value


def _secrets(given: str) -> dict[str, str]:
    """Return the secrets by id, from a JSON object of strings. Raises CommandLineError."""
    found = _json_object("--secrets", given)
    for name, secret in found.items():
        if not isinstance(secret, str):
            message = f'--secrets: {name} must be a string, as in {{"{name}": "..."}}'
            raise CommandLineError(message)
    return found


def _content(what: str, path: Path) -> bytes:
    """Return the content of a file of at most 4 MiB; a pipe will do. Raises CommandLineError."""
    try:
        with path.open("rb") as file:
            content = file.read(_LARGEST_FILE_BYTES + 1)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        reason = error.strerror if isinstance(error, OSError) else str(error)
        message = f"{what} {printable(path)} cannot be read: {reason}"
        raise CommandLineError(message) from error
    if len(content) > _LARGEST_FILE_BYTES:
        message = f"{what} {printable(path)} is larger than {_LARGEST_FILE_BYTES:,} bytes"
        raise CommandLineError(message)
    return content


def _number(kind: type[int] | type[float], least: float, most: float) -> Callable[[str], float]:
    """Return argparse's reader of a number of this kind between two bounds, in ASCII digits."""

    def read(text: str) -> float:
        try:
            value = kind(text) if _NUMBER.fullmatch(text) else math.nan
        except ValueError:
            value = math.nan
        if not least <= value <= most:  # nan is not
            name = "whole number" if kind is int else "number"
            message = f"{_shortened(text)} is not a {name} from {least} to {most:,}"
            raise argparse.ArgumentTypeError(message)
        return value

    return read


def _shortened(value: object) -> str:
    shown = repr(value)
    return shown if len(shown) <= _LONGEST_SHOWN else f"{shown[:_LONGEST_SHOWN]}..."
