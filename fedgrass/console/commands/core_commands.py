"""``fedgrass core``: a local Greengrass core for developers of components, without the cloud."""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fedgrass.console.options import LARGEST_TEXT, number_between, parse_json, read, read_text, whole_number
from fedgrass.console.terminal import fail, say, show, table
from fedgrass.federation.errors import SettingsError


def _artifact_folder(arguments: argparse.Namespace) -> Path:
    """Return the folder with the artifacts: by default that of the first recipe."""
    if arguments.artifacts is not None:
        return Path(arguments.artifacts)
    return Path(arguments.recipe[0]).parent if arguments.recipe else Path()


def _json_object(what: str, given: str) -> dict[str, Any]:
    """Return the JSON object that is given, or that lies in the file that is given.

    Raises SettingsError, which says of `what`.
    """
    # Imported here: reading a command line needs no msgspec.
    from fedgrass.federation.conversion import shown  # noqa: PLC0415

    text = given if given.lstrip().startswith("{") else read_text(Path(given), named=what)
    value = parse_json(text, f"{what} {shown(given)}")
    if not isinstance(value, dict):
        message = f"{what} {shown(given)} has to be a JSON object, not {shown(value)}"
        raise SettingsError(message)
    return value


def _secrets(given: str) -> dict[str, str]:
    """Return the secrets that are given as an object of texts. Raises SettingsError."""
    found = _json_object("--secrets", given)
    for name, secret in found.items():
        if not isinstance(secret, str):
            message = f'--secrets: {name} has to be a string, as in {{"{name}": "..."}}'
            raise SettingsError(message)
    return found


STOP_SECONDS = 60.0
DEPLOYMENT_SECONDS = 3_700.0
DEFAULT_THING = "local-core"


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the commands to the ``fedgrass`` command."""
    core = commands.add_parser("core", help="run Greengrass components on this machine, with no cloud at all")
    actions = core.add_subparsers(required=True, metavar="action")
    _add_run(actions)
    _add(actions, "list", _list, "show the cores that run on this machine")
    stop = _add(actions, "stop", _stop, "end a core, with its components")
    stop.add_argument("thing", nargs="?", help="of the core (the only one that runs)")
    _add_inject(actions)
    publish = _add(
        actions, "publish", _publish, "say something to a core's components in the place of IoT Core"
    )
    publish.add_argument("topic")
    publish.add_argument("payload", help="text, or @FILE")
    publish.add_argument("--qos", type=whole_number(0, 1), metavar="{0,1}", default=1)
    publish.add_argument("--retain", action="store_true")
    deploy = _add(
        actions, "deploy", _deploy, "deploy to a running core; a new version that fails is rolled back"
    )
    _add_components(deploy, required=False)
    deploy.add_argument(
        "--remove", action="append", default=[], metavar="COMPONENT", help="take this one away"
    )
    configure = _add(actions, "configure", _configure, "merge into the configuration of a deployed component")
    configure.add_argument("component")
    configure.add_argument("config", metavar="JSON|FILE")
    for parser in (publish, deploy, configure):
        _add_thing(parser)


def _add(
    actions: "argparse._SubParsersAction[argparse.ArgumentParser]",
    name: str,
    act: Callable[[argparse.Namespace], None],
    explanation: str,
) -> argparse.ArgumentParser:
    parser = actions.add_parser(name, allow_abbrev=False, help=explanation, description=explanation)
    parser.set_defaults(run=_told(act))
    return parser


def _add_run(actions: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    run = _add(actions, "run", _run, "start a core and run components on it until Ctrl-C")
    _add_components(run, required=True)
    run.add_argument(
        "--thing", default=DEFAULT_THING, metavar="NAME", help=f"its IoT thing ({DEFAULT_THING})"
    )
    run.add_argument(
        "--profile", choices=["classic", "lite"], default="classic", help="which nucleus to imitate (classic)"
    )
    run.add_argument(
        "--root", type=Path, metavar="FOLDER", help="the core's own folder (greengrass-core/<thing>)"
    )
    run.add_argument("--secrets", metavar="JSON|FILE", default="{}", help="what GetSecretValue knows, by id")
    run.add_argument(
        "--interpolate-component-configuration",
        action="store_true",
        dest="interpolate",
        help="the classic nucleus's setting of that name",
    )
    run.add_argument("--aws", action="store_true", help="lend the components your own AWS credentials")
    run.add_argument(
        "--once", action="store_true", help="end when all components have ended; exit code 1 if one failed"
    )


def _add_components(parser: argparse.ArgumentParser, *, required: bool) -> None:
    parser.add_argument(
        "--recipe",
        type=Path,
        action="append",
        default=[],
        required=required,
        metavar="FILE",
        help="a component's recipe; give it again for several components",
    )
    parser.add_argument(
        "--artifacts",
        type=Path,
        metavar="FOLDER",
        help="with <component>/<version>/<file>, or <file> (the first recipe's folder)",
    )
    parser.add_argument(
        "--config",
        metavar="JSON|FILE",
        default="{}",
        help="merged into the configuration; with several recipes an object by component name",
    )


def _add_inject(actions: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    inject = _add(actions, "inject", _inject, "let something go wrong on a running core")
    inject.add_argument("fault", nargs="?", help="without one, the faults there are are listed")
    inject.add_argument(
        "--amount", type=whole_number(0, 10**15), help="how much, where the fault has a measure"
    )
    inject.add_argument("--seconds", type=number_between(0.01, 1e9), help="how long (until it is cleared)")
    inject.add_argument("--clear", action="store_true", help="end the fault")
    _add_thing(inject)


def _add_thing(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--thing", metavar="NAME", help="of the core (the only one that runs)")


def _told(act: Callable[[argparse.Namespace], None]) -> Callable[[argparse.Namespace], None]:
    """Let a command's mistakes end in one line."""

    def run(arguments: argparse.Namespace) -> None:
        # Imported here, as in all commands: nothing but these needs what a laptop needs.
        from greengrass_emulator.emulator_errors import EmulatorError  # noqa: PLC0415

        try:
            act(arguments)
        except EmulatorError as error:
            fail(error)

    return run


def _run(arguments: argparse.Namespace) -> None:
    from greengrass_emulator.core.core_folders import folder_name  # noqa: PLC0415
    from greengrass_emulator.core.foreground_core import (  # noqa: PLC0415
        RunOptions,
        run,
    )

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
    sys.exit(run(options, say))


def _list(_: argparse.Namespace) -> None:
    from greengrass_emulator.control.control_client import running_cores  # noqa: PLC0415

    cores, silent = running_cores()
    for core in cores:
        say(f"{core.thing}  {core.profile}  pid {core.pid}  {core.root}")
        for component in core.components:
            say(f"    {component.name} {component.version}  {component.state}")
        for name, amount in core.faults.items():
            say(f"    fault {name}{'' if amount is None else f' {amount}'}")
    if not cores:
        say("no core is running here")
    for line in silent:
        say(line)


def _stop(arguments: argparse.Namespace) -> None:
    from greengrass_emulator.control.control_client import (  # noqa: PLC0415
        ask,
        the_core,
        wait_until_gone,
    )
    from greengrass_emulator.control.control_messages import Stop  # noqa: PLC0415

    thing = the_core(arguments.thing)
    ask(thing, Stop())
    wait_until_gone(thing, STOP_SECONDS)
    say(f"{thing} has stopped")


def _inject(arguments: argparse.Namespace) -> None:
    from greengrass_emulator.control.control_messages import (  # noqa: PLC0415
        Clear,
        Inject,
    )
    from greengrass_emulator.faults.fault_state import FAULTS  # noqa: PLC0415

    if arguments.fault is None:
        rows = [
            (
                name,
                fault.unit and f"{fault.unit}{'' if fault.default is None else f' ({fault.default})'}",
                fault.summary,
            )
            for name, fault in FAULTS.items()
        ]
        show(table("fault", "amount", "what happens", rows=rows))
    elif arguments.clear:
        _ask(arguments, Clear(fault=arguments.fault))
    else:
        _ask(arguments, Inject(fault=arguments.fault, amount=arguments.amount, seconds=arguments.seconds))


def _publish(arguments: argparse.Namespace) -> None:
    from greengrass_emulator.control.control_messages import Publish  # noqa: PLC0415

    given: str = arguments.payload
    payload = read(Path(given[1:]), LARGEST_TEXT) if given.startswith("@") else given.encode()
    _ask(
        arguments,
        Publish(topic=arguments.topic, payload=payload, qos=arguments.qos, retain=arguments.retain),
    )


def _deploy(arguments: argparse.Namespace) -> None:
    from greengrass_emulator.control.control_messages import Deploy  # noqa: PLC0415
    from greengrass_emulator.core.foreground_core import configurations  # noqa: PLC0415

    if not arguments.recipe and not arguments.remove:
        message = "there is nothing to deploy: give --recipe or --remove"
        raise SettingsError(message)
    given = _json_object("--config", arguments.config)
    chosen = configurations(arguments.recipe, given) if arguments.recipe else {}
    request = Deploy(
        recipes=[str(file.absolute()) for file in arguments.recipe],
        artifacts=str(_artifact_folder(arguments).absolute()),
        configurations={name: dict(configuration) for name, configuration in chosen.items()},
        remove=arguments.remove,
    )
    _ask(arguments, request, DEPLOYMENT_SECONDS)


def _configure(arguments: argparse.Namespace) -> None:
    from greengrass_emulator.control.control_messages import Configure  # noqa: PLC0415

    merge = _json_object("the configuration", arguments.config)
    _ask(arguments, Configure(component=arguments.component, merge=merge), DEPLOYMENT_SECONDS)


def _ask(arguments: argparse.Namespace, request: Any, seconds: float = STOP_SECONDS) -> None:
    from greengrass_emulator.control.control_client import (  # noqa: PLC0415
        ask,
        the_core,
    )

    say(ask(the_core(arguments.thing), request, seconds).said)
