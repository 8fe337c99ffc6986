"""The actions of the command line: run, list, stop, deploy, configure, publish, inject.

``greengrass-emulator`` consists of them, and another program can offer them as well. Modules that import
boto3, msgspec or asyncio are imported by the action that uses them: parsing a command line needs none.
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import App, Parameter

from greengrass_emulator.command.terminal_output import Output, printable
from greengrass_emulator.command.typed_options import command_group, number_between, whole_number
from greengrass_emulator.emulator_errors import CommandLineError

if TYPE_CHECKING:
    from greengrass_emulator.control.control_client import ControlRequest, CoreDescription

_STOP_SECONDS = 60.0
_DEPLOYMENT_SECONDS = 3_700.0  # longer than the core itself waits for a deployment
_LARGEST_FILE_BYTES = 4 * 1024**2  # of a configuration or a payload; one request may not be larger either
_LONGEST_SHOWN = 60  # characters of an argument in an error

_Thing = Annotated[
    str, Parameter(help="thing name of the core (by default the only one running)", metavar="NAME")
]
_Recipes = Annotated[
    tuple[Path, ...],
    Parameter(help="a component's recipe; repeat the option for several components", metavar="FILE"),
]
_Artifacts = Annotated[
    Path | None,
    Parameter(
        help="contains <component>/<version>/<file>, or <file> (by default the first recipe's folder)",
        metavar="FOLDER",
    ),
]
_Config = Annotated[
    str,
    Parameter(
        help="merged into the configuration; with several recipes an object by component name",
        metavar="JSON|FILE",
    ),
]


def core_commands(name: str, explanation: str, output: Output) -> App:
    """Return the group of the actions, whose functions raise EmulatorError.

    Args:
        name: of the group, or of the program.
        explanation: its help.
        output: how the actions print.
    """
    group, actions = command_group(name, explanation), _Actions(output)
    for action in (
        *(actions.run, actions.list_cores, actions.stop, actions.inject, actions.publish),
        *(actions.deploy, actions.configure),
    ):
        group.command(action, name=action.__name__.removesuffix("_cores"))
    return group


class _Actions:
    """The functions of the commands, whose docstrings are their help."""

    def __init__(self, output: Output) -> None:
        self._output = output

    def run(  # noqa: PLR0913 - the options of the command
        self,
        *,
        recipe: _Recipes,
        artifacts: _Artifacts = None,
        config: _Config = "{}",
        thing: Annotated[str, Parameter(help="its IoT thing name", metavar="NAME")] = "local-core",
        profile: Annotated[
            Literal["classic", "lite"], Parameter(help="which nucleus to emulate")
        ] = "classic",
        root: Annotated[
            Path | None,
            Parameter(help="the core's folder (greengrass-core/<thing>)", metavar="FOLDER"),
        ] = None,
        secrets: Annotated[
            str, Parameter(help="secrets that GetSecretValue returns, by id", metavar="JSON|FILE")
        ] = "{}",
        interpolate: Annotated[
            bool,
            Parameter(
                name="--interpolate-component-configuration",
                help="the classic nucleus's setting of that name",
            ),
        ] = False,
        aws: Annotated[
            bool, Parameter(help="give the components access to AWS with your own credentials")
        ] = False,
        once: Annotated[
            bool,
            Parameter(help="exit when all components have ended; exit code 1 if one of them failed"),
        ] = False,
    ) -> None:
        """Start a core and run components on it until Ctrl-C."""
        # boto3, msgspec and asyncio take half a second to import: see the module's docstring.
        from greengrass_emulator.command.foreground_core import RunOptions, run  # noqa: PLC0415 - as above
        from greengrass_emulator.core.core_folders import folder_name  # noqa: PLC0415 - as above

        options = RunOptions(
            recipes=list(recipe),
            artifacts=_artifact_folder(artifacts, recipe),
            thing=thing,
            root=root or Path("greengrass-core") / folder_name(thing),
            profile=profile,
            configuration=_json_object("--config", config),
            secrets=_secrets(secrets),
            interpolate=interpolate,
            aws=aws,
            once=once,
        )
        sys.exit(run(options, self._output.print_line))

    def list_cores(
        self,
        *,
        output: Annotated[
            Literal["text", "json"], Parameter(help="text for people, or json for programs")
        ] = "text",
    ) -> None:
        """Show the cores that run on this machine."""
        from greengrass_emulator.control import control_client  # noqa: PLC0415 - needs msgspec

        cores, silent = control_client.running_cores()
        if output == "json":
            self._output.print_json(
                {"cores": list(map(_core_fields, cores)), "count": len(cores), "silent": silent}
            )
            return
        print_line = self._output.print_line
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

    def stop(
        self,
        core: Annotated[str, Parameter(help="thing name of the core", name="THING")] = "",
        /,
        *,
        thing: _Thing = "",
    ) -> None:
        """Stop a core and its components."""
        from greengrass_emulator.control import control_client  # noqa: PLC0415 - needs msgspec
        from greengrass_emulator.control.control_client import Stop  # noqa: PLC0415 - needs msgspec

        chosen = control_client.chosen_core(thing or core or None)
        control_client.ask(chosen, Stop())
        control_client.wait_until_gone(chosen, _STOP_SECONDS)
        self._output.print_line(f"{chosen} has stopped")

    def inject(
        self,
        fault: Annotated[str | None, Parameter(help="without one, the available faults are listed")] = None,
        /,
        *,
        amount: Annotated[
            int | None, whole_number(0, 10**15, "how much, for faults that have a measure")
        ] = None,
        seconds: Annotated[
            float | None, number_between(0.01, 1e9, "how long (by default until it is cleared)")
        ] = None,
        clear: Annotated[bool, Parameter(help="end the fault")] = False,
        thing: _Thing = "",
    ) -> None:
        """Inject a fault into a running core."""
        from greengrass_emulator.control.control_client import (  # noqa: PLC0415 - needs msgspec
            Clear,
            Inject,
        )
        from greengrass_emulator.faults.fault_state import FAULTS  # noqa: PLC0415 - only this action

        options = (clear or None, amount, seconds)
        if fault is None and any(option is not None for option in options):
            message = "--clear, --amount and --seconds need a fault: `list` shows those that are injected"
            raise CommandLineError(message)
        if fault is None:
            rows = [
                (
                    name,
                    one.unit and f"{one.unit}{'' if one.default is None else f' ({one.default})'}",
                    one.summary,
                )
                for name, one in FAULTS.items()
            ]
            self._output.show_table(("fault", "amount", "what happens"), rows)
        elif clear:
            self._ask(thing, Clear(fault=fault))
        else:
            self._ask(thing, Inject(fault=fault, amount=amount, seconds=seconds))

    def publish(
        self,
        topic: str,
        payload: Annotated[str, Parameter(help="text, or @FILE")],
        /,
        *,
        qos: Annotated[int, whole_number(0, 1, "quality of service of MQTT")] = 1,
        retain: Annotated[bool, Parameter(help="have the broker keep it")] = False,
        thing: _Thing = "",
    ) -> None:
        """Publish a message to a core's components as IoT Core would."""
        from greengrass_emulator.control.control_client import Publish  # noqa: PLC0415 - needs msgspec

        content = _content("the payload", Path(payload[1:])) if payload.startswith("@") else payload.encode()
        self._ask(thing, Publish(topic=topic, payload=content, qos=qos, retain=retain))

    def deploy(
        self,
        *,
        recipe: _Recipes = (),
        artifacts: _Artifacts = None,
        config: _Config = "{}",
        remove: Annotated[
            tuple[str, ...], Parameter(help="remove this component; may be repeated", metavar="COMPONENT")
        ] = (),
        thing: _Thing = "",
    ) -> None:
        """Deploy components to a running core."""
        from greengrass_emulator.command.foreground_core import configurations  # noqa: PLC0415 - needs boto3
        from greengrass_emulator.control.control_client import Deploy  # noqa: PLC0415 - needs msgspec

        if not recipe and not remove:
            message = "there is nothing to deploy: give --recipe or --remove"
            raise CommandLineError(message)
        given = _json_object("--config", config)
        chosen = configurations(list(recipe), given) if recipe else {}
        request = Deploy(
            recipes=[str(file.absolute()) for file in recipe],
            artifacts=str(_artifact_folder(artifacts, recipe).absolute()),
            configurations={name: dict(configuration) for name, configuration in chosen.items()},
            remove=list(remove),
        )
        self._ask(thing, request, _DEPLOYMENT_SECONDS)

    def configure(
        self,
        component: str,
        config: Annotated[str, Parameter(help="a JSON object, or a file with one")],
        /,
        *,
        thing: _Thing = "",
    ) -> None:
        """Merge into the configuration of a deployed component."""
        from greengrass_emulator.control.control_client import Configure  # noqa: PLC0415 - needs msgspec

        merge = _json_object("the configuration", config)
        self._ask(thing, Configure(component=component, merge=merge), _DEPLOYMENT_SECONDS)

    def _ask(self, thing: str, request: "ControlRequest", seconds: float = _STOP_SECONDS) -> None:
        from greengrass_emulator.control import control_client  # noqa: PLC0415 - needs msgspec

        chosen = control_client.chosen_core(thing or None)
        self._output.print_line(control_client.ask(chosen, request, seconds).said)


def _core_fields(core: "CoreDescription") -> dict[str, object]:
    """Return what `list --output json` prints of a core."""
    return {
        "thing": core.thing,
        "profile": core.profile,
        "pid": core.pid,
        "root": core.root,
        "components": [
            {"name": one.name, "version": one.version, "state": one.state} for one in core.components
        ],
        "faults": [{"name": name, "amount": amount} for name, amount in core.faults.items()],
    }


def _artifact_folder(artifacts: Path | None, recipes: Sequence[Path]) -> Path:
    """Return the folder with the artifacts: by default that of the first recipe."""
    if artifacts is not None:
        return artifacts
    return recipes[0].parent if recipes else Path()


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


def _shortened(value: object) -> str:
    shown = repr(value)
    return shown if len(shown) <= _LONGEST_SHOWN else f"{shown[:_LONGEST_SHOWN]}..."
