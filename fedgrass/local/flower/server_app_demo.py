"""``fedgrass demo --server-app``: the ServerApp drives the demo's fleet, as with ``fedgrass flower run``."""

from collections.abc import Mapping
from pathlib import Path

from rich.console import Console

from fedgrass.console.flower import server_app_run
from fedgrass.console.flower.flower_project import FlowerProject
from fedgrass.console.options import Value
from fedgrass.console.tables import styled
from fedgrass.federation.conversion import nearest
from fedgrass.federation.errors import SettingsError
from fedgrass.federation.runs import Run
from fedgrass.federation.settings import RunSettings
from fedgrass.federation.settings_parser import parse_settings
from fedgrass.local.testbed import Testbed

_DEADLINE_SECONDS = 300  # of a round, unless it is set


def server_app_settings(
    project: FlowerProject, task: str, chosen: Mapping[str, Value], *, has_rounds: bool = False
) -> RunSettings:
    """Return the settings of the run; ``training`` has the overridden values of the app's configuration.

    Args:
        project: the app.
        task: its task, ``flower:...``.
        chosen: of the command line: settings of the run, or values of the app's configuration.
        has_rounds: whether the command line has a number of rounds.

    Raises:
        SettingsError: a name is neither, a value is not allowed, or there is a number of rounds.
    """
    if has_rounds:
        message = (
            "--rounds is up to the ServerApp: set what it reads of its configuration, such as"
            " --setting num-server-rounds=3"
        )
        raise SettingsError(message)
    known = [*server_app_run.SETTINGS, *project.config]
    for name in chosen:
        if name not in known:
            message = (
                f"--setting {name} is neither a setting of a run with a ServerApp"
                f" ({', '.join(server_app_run.SETTINGS)}) nor in [tool.flwr.app.config] of the app:"
                f" {nearest(name, known)}"
            )
            raise SettingsError(message)
    overrides = {name: value for name, value in chosen.items() if name in project.config}
    of_run = {name: value for name, value in chosen.items() if name not in overrides}
    settings = {
        "task": task,
        "mode": "server_app",
        "deadline_seconds": _DEADLINE_SECONDS,
        **of_run,
    }
    # The devices get them with each message, for context.run_config.
    return parse_settings({**settings, "training": overrides} if overrides else settings)


def run_server_app(
    testbed: Testbed, project: FlowerProject, settings: RunSettings, folder: Path, console: Console
) -> Run:
    """Run the ServerApp of an app to its end.

    Args:
        testbed: with the fleet.
        project: the app.
        settings: of the run.
        folder: for the ServerApp's log; it has the name of the run.
        console: to print to.

    Returns:
        The run, SUCCEEDED or FAILED.
    """
    run = testbed.operator.start_server_app(folder.name, settings)
    config = {**project.config, **settings.training}
    try:
        server_app_run.drive(testbed.operator, run, project, config, folder, out=console, outlives=False)
    except server_app_run.ServerAppFailed as error:
        console.print(styled((str(error), "red")), soft_wrap=True)
    return testbed.operator.run(run.name)
