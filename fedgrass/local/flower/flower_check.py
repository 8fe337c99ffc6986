"""``fedgrass flower check``: try a Flower app on this machine, and report what a device needs for it.

Two child processes, as in the field: one imports both components and runs the ServerApp until its first
message of training; the other one is the device, whose memory is measured.
"""

import json
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from msgspec import Struct

from fedgrass.console.flower.flower_component import (
    CLASS_LOCATION,
    app_pythons,
    app_requirements,
    flower_code,
)
from fedgrass.console.flower.flower_project import (
    FlowerProject,
    check_flwr,
    read_project,
    run_config_overrides,
    task_name,
)
from fedgrass.console.interruption import is_interruption
from fedgrass.console.options import Value, parse_key_values
from fedgrass.console.tasks.frozen_requirements import trainer_pins
from fedgrass.console.tasks.publishing_options import AppTrial
from fedgrass.console.tasks.task_component import TaskCode
from fedgrass.console.terminal import complain, say
from fedgrass.federation.errors import FedgrassError, SettingsError
from fedgrass.local.check_report import child_report, run_check
from fedgrass.local.flower.flower_examination import FlowerExamination
from fedgrass.local.flower.flower_initial_model import (
    ARRAYS_KEY,
    ServerOptions,
    record,
    recorded_settings,
    with_node_options,
)
from fedgrass.local.task_loading import explain, load
from fedgrass.local.task_process import run_in_child, time_limit
from fedgrass.local.task_publishing import staged

_CANNOT_BE_LOADED = 2
_MODEL, _TYPES = "model.safetensors", "types.json"


class AppCheck(Struct, frozen=True, kw_only=True):
    """What the child processes get."""

    folder: str  # with the files of the app's component
    shown: str  # the app's own folder, for messages
    results: str  # folder for what one child leaves to the other
    config: Mapping[str, Value]  # of the run
    training: Mapping[str, Value]  # settings of the training, over those that the ServerApp sends
    options: Mapping[str, Value]  # of the task
    seconds: float
    only_import: bool = False
    report_file: str = ""  # where a child process writes its report; empty: it prints it


def check_command(app: Path, *, trial: AppTrial, output: str) -> None:
    """Check an app, print the report, and exit with the code of the check."""

    def check(file: str, report: Callable[[str], None]) -> int:
        project = read_project(app)
        check_flwr()
        with tempfile.TemporaryDirectory(prefix="fedgrass-flower-") as name:
            code = flower_code(project, task_name(project), Path(name))
            result = check_app(trial, project, code, Path(name), report_file=file, report=report)
        if not result:
            for line in requirements_lines(project):
                report(line)
        return result

    try:
        result = run_check(str(app), output, check)
    except SettingsError as error:
        complain(f"fedgrass: {error}")
        result = _CANNOT_BE_LOADED
    sys.exit(result)


def check_app(  # noqa: PLR0913 - the last three are options
    trial: AppTrial,
    project: FlowerProject,
    code: TaskCode,
    folder: Path,
    *,
    only_import: bool = False,
    report_file: str = "",
    report: Callable[[str], None] = say,
) -> int:
    """Check an app in child processes; return 0, 1 if a check failed, or 2 if the app cannot be loaded.

    Args:
        trial: how it is tried.
        project: the app.
        code: the files of its component.
        folder: an empty one, for copies of the files.
        only_import: only check that the components are found.
        report_file: where the child processes write their report; empty: they print it.
        report: called with a line on how a child process ended that did not return.

    Raises:
        SettingsError: an option cannot be used.
    """
    given = parse_key_values("--option", trial.option)
    overrides = run_config_overrides(project, trial.run_config)
    results = folder / "results"
    results.mkdir()
    check = AppCheck(
        folder=str(staged(code, folder)),
        shown=str(project.folder.absolute()),
        results=str(results),
        config={**project.config, **overrides},
        training={
            **overrides,
            **parse_key_values("--setting", trial.setting),
        },
        options=with_node_options(given),
        seconds=trial.seconds,
        only_import=only_import,
        report_file=report_file,
    )
    code_of_server = run_in_child("fedgrass.local.flower.flower_check:check_server_in_child", check, report)
    if code_of_server or check.only_import:
        return code_of_server
    return run_in_child("fedgrass.local.flower.flower_check:check_device_in_child", check, report)


def requirements_lines(project: FlowerProject) -> list[str]:
    """Return what a device needs to have installed, and its version of Python; never fails."""
    try:
        wanted = app_requirements(project, check_flwr())
        own = trainer_pins()
        brought = [str(one) for one in wanted if one.name.lower() not in own]
        had = [one.name for one in wanted if one.name.lower() in own]
        lines = [
            f"      packages: {', '.join(brought)}, with what they require"
            + (f"; the trainer has {', '.join(had)}" if had else "")
        ]
        return [*lines, f"      Python: {', '.join(app_pythons(project))}"]
    except SettingsError as error:
        return [f"note  requirements: {error}"]


def check_server_in_child(options: dict[str, Any], note: Callable[[str], None]) -> int:
    """Import both components in a child process, and record the initial model; return the exit code."""
    from fedgrass.console.flower import flower_server  # noqa: PLC0415 - imports flwr, only in a child

    check = AppCheck(**options)
    report = _reporter(check)
    project = read_project(Path(check.folder))
    flower_server.quiet()
    note("import")
    limit = f"FAIL  import: the app is not imported within {check.seconds:g} s: raise --seconds"
    try:
        with time_limit(check.seconds, note, limit, report):
            types = flower_server.message_types(flower_server.load_client_app(project))
            flower_server.load_server_app(project)
    except SettingsError as error:
        report(f"FAIL  import: {error}")
        return _CANNOT_BE_LOADED
    except BaseException as error:  # the app is user code
        if is_interruption(error):
            raise
        report(f"FAIL  import: {explain(error)}")
        return _CANNOT_BE_LOADED
    report(
        f"ok    import: {project.server_app}, and {project.client_app} with {', '.join(types) or 'nothing'}"
    )
    if not types:
        report("FAIL  import: the ClientApp has no functions: register them by @app.train(), @app.evaluate()")
        return 1
    (Path(check.results) / _TYPES).write_text(json.dumps(types), encoding="utf-8")
    if check.only_import:
        return 0
    note("initial model")
    target = str(Path(check.results) / _MODEL)
    server = ServerOptions(
        folder=check.folder,
        target=target,
        config=check.config,
        arrays_key=str(check.options.get("arrays_key", ARRAYS_KEY)),
        seconds=check.seconds,
    )
    try:
        reason = record(server, note)
    except SettingsError as error:
        report(f"FAIL  initial model: {error}")
        return 1
    if reason:
        report(f"note  initial model: none, because {reason}")
    return 0


def check_device_in_child(options: dict[str, Any], note: Callable[[str], None]) -> int:
    """Call the functions of the ClientApp once in a child process, as a device does; return the exit code."""
    check = AppCheck(**options)
    report = _reporter(check)
    results = Path(check.results)
    note("device")
    limit = f"the app takes longer than {check.seconds:g} s: raise --seconds, or use less data here"
    try:
        with time_limit(check.seconds, note, f"FAIL  device: {limit}", report):
            task = load(CLASS_LOCATION, Path(check.folder), check.options)
    except SettingsError as error:
        report(f"FAIL  device: {error}")
        return _CANNOT_BE_LOADED
    types = json.loads((results / _TYPES).read_text(encoding="utf-8"))
    training = {**recorded_settings(results / _MODEL), **check.training}
    examination = FlowerExamination(task, types, results / _MODEL, training, results)
    for name, step in examination.steps().items():
        note(name)
        try:
            with time_limit(check.seconds, note, f"FAIL  {name}: {limit}", report):
                finding = step()
        except FedgrassError as error:
            report(f"FAIL  {name}: {error}")
            return 1
        except BaseException as error:  # the app is user code
            if is_interruption(error):
                raise
            report(f"FAIL  {name}: {explain(error)}")
            return 1
        report(f"{finding.kind:4}  {name}: {finding.text}")
    chosen = " ".join(f"{key}={value}" for key, value in check.options.items())
    report(examination.needs(f"with {chosen}" if chosen else ""))
    return 0


def _reporter(check: AppCheck) -> Callable[[str], None]:
    add = child_report(check.report_file)

    def report(text: str) -> None:
        for line in text.replace(check.folder, check.shown).splitlines():
            add(line)

    return report
