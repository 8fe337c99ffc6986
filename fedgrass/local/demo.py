"""``fedgrass demo``: start a cloud and a fleet on this machine, train a model, and remove everything again.

Read ``_demo`` first: it starts the testbed, follows the run, and writes its history to ``runs/<run>``.
"""

import difflib
import json
import shlex
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from components.runtime.component_errors import ComponentError
from fedgrass.console.interruption import ended_by_signals
from fedgrass.console.options import Value, parse_key_values
from fedgrass.console.run_folder import run_folder
from fedgrass.console.runs import history
from fedgrass.console.runs.live_view import LiveView, Watcher
from fedgrass.console.tables import console as plain_console
from fedgrass.console.tables import show, styled
from fedgrass.federation.errors import FedgrassError, SettingsError
from fedgrass.federation.rounds import State, Work
from fedgrass.federation.runs import Run, RunState
from fedgrass.federation.settings import RunSettings
from fedgrass.federation.settings_parser import parse_settings
from fedgrass.federation.weights.array_sharing import Role
from fedgrass.local.flower.flower_demo import FlowerDemoTask, is_flower
from fedgrass.local.flower.server_app_demo import run_server_app, server_app_settings
from fedgrass.local.local_errors import FedgrassLocalError
from fedgrass.local.local_fleet import ComponentBuild
from fedgrass.local.task_loading import DemoTask
from fedgrass.local.task_sharing import InitialModel, initial_model
from fedgrass.local.testbed import Testbed, open_testbed, thing_names
from greengrass_emulator.emulator_errors import EmulatorError
from greengrass_emulator.temporary_folder import temporary_folder

_FLEET = "demo"
_TARGET_ACCURACY = 0.95  # of the default settings
_DEFAULT_DEVICES, _DEFAULT_ROUNDS, _DEFAULT_TASK = 6, 5, "digits"
_LEAST_FREE_BYTES = 200_000_000
_RUN_SECONDS = 3600.0
_SIMILAR = 0.8  # of difflib: above that of any setting of the training to one of the run
_POLL_SECONDS = 0.2


@dataclass(frozen=True)
class DemoOptions:
    """The options of ``fedgrass demo``."""

    devices: int = _DEFAULT_DEVICES
    mqtt_devices: int = 0
    rounds: int = _DEFAULT_ROUNDS
    task: str = _DEFAULT_TASK
    task_path: Path | None = None
    task_options: Sequence[str] = ()
    task_include: Sequence[str] = ()
    server_app: bool = False
    run_settings: Sequence[str] = ()
    strategies: Sequence[Path] = ()
    profile: str = "classic"
    keep: bool = False
    gateway_port: int = 0
    mqtt_port: int = 0
    output: Path = Path("runs")


def run_demo(options: DemoOptions, console: Console) -> int:
    """Train a model on a fleet of local cores; return the exit code.

    0: every round closed and, with the default settings, the model reaches 95 % accuracy on held-out data; 1:
    the run failed; 2: invalid options or an environment problem, printed in one line; 130: interrupted. In
    each case only ``runs/<run>`` remains.
    """
    try:
        with (
            ended_by_signals(),
            temporary_folder(_LEAST_FREE_BYTES, _speaker(console), "fedgrass-") as folder,
        ):
            return _demo(options, console, folder)
    except (FedgrassError, FedgrassLocalError, EmulatorError, ComponentError) as error:
        console.print(styled(("fedgrass demo: ", "red"), str(error)), soft_wrap=True)
        return 2
    except KeyboardInterrupt:
        console.print("stopped", highlight=False)
        return 130


def _demo(options: DemoOptions, console: Console, folder: Path) -> int:
    things = thing_names(options.devices)
    plain = thing_names(options.mqtt_devices, "plain") if options.mqtt_devices else []
    count = len(thing_names(len(things) + len(plain)))  # refuses too many in total
    task = _task(options, count)
    settings = _settings_for(options, task)
    configurations = {
        thing: {"tasks": task.configuration(index), "heartbeat_seconds": 10}
        for index, thing in enumerate([*things, *plain])
    }
    started, report = time.monotonic(), _speaker(console)
    for warning in filter(None, [task.shared_data_warning(), *_misspelt(settings.training)]):
        report(f"note: {warning}")
    components = _task_components(task, folder / "task")
    with (
        run_folder(options.output, _run_name(task.name)) as output,
        open_testbed(
            folder,
            {thing: configurations[thing] for thing in things},
            plain={thing: configurations[thing] for thing in plain},
            tasks=components,
            fleet_name=_FLEET,
            profile=options.profile,
            ports=(options.gateway_port, options.mqtt_port),
            strategies=options.strategies,
            report=report,
            enforces=True,
            check=task.raise_if_failed,
        ) as testbed,
        _stop_announced(report),
    ):
        if options.keep:
            _print_how_to_watch(testbed, console)
        if isinstance(task, FlowerDemoTask) and options.server_app:
            run = run_server_app(testbed, task.project, settings, output, console)
            evaluations: dict[int, Mapping[str, float]] = {}
        else:
            run, evaluations = _watch_run(testbed, output.name, settings, task, console)
        summaries = [history.summarize(record, evaluations) for record in testbed.operator.rounds(run)]
        trained = [number for number in evaluations if number]
        model = testbed.operator.model(run.name, max(trained)) if trained else None
        show(history.table(summaries))
        if run.state is not RunState.SUCCEEDED:
            for line in history.reasons(summaries):
                report(line)
        for line in [*history.unsent_metrics(summaries), *history.collapse(summaries)]:
            report(line)
        history.write(output, run, summaries, model, evaluations)
        if line := history.last_evaluation(summaries):
            report(line)
        code = _verdict(options, run, evaluations, console)
        files = ", ".join(sorted(path.name for path in output.iterdir()))
        report(f"{output}/ has {files}")
        console.print(f"total time {time.monotonic() - started:.1f} s", highlight=False)
        if options.keep:
            console.print("the cloud and the fleet keep running until Ctrl-C", highlight=False)
            _wait_for_interrupt()
        return code


def _task(options: DemoOptions, devices: int) -> DemoTask | FlowerDemoTask:
    chosen = parse_key_values("--task-option", options.task_options)
    if is_flower(options.task):
        return FlowerDemoTask(
            options.task, options.task_path, devices, chosen, has_server_app=options.server_app
        )
    if options.server_app:
        message = (
            f"--server-app is for Flower apps, --task flower: --task-path APP_DIR; --task is {options.task}"
        )
        raise SettingsError(message)
    return DemoTask(options.task, options.task_path, devices, chosen, options.task_include)


def _task_components(task: DemoTask | FlowerDemoTask, folder: Path) -> list[ComponentBuild]:
    """Build the component of a user's task, which the cores get by a deployment."""
    name = task.build_component(folder)
    return [ComponentBuild(name, folder / "recipes" / f"{name}.yaml", folder / "artifacts")] if name else []


def _misspelt(training: Iterable[str]) -> Iterator[str]:
    """Yield a line per setting of the training that resembles a setting of the run.

    It is not refused, because a task may have any settings of its training.
    """
    for name in training:
        if close := difflib.get_close_matches(name, RunSettings.__struct_fields__, n=1, cutoff=_SIMILAR):
            yield f"--setting {name} is passed on as a setting of the training: did you mean {close[0]}?"


def _settings_for(options: DemoOptions, task: DemoTask | FlowerDemoTask) -> RunSettings:
    """Return the settings of the run of a task, or of its ServerApp. Raises SettingsError."""
    if not isinstance(task, FlowerDemoTask):
        return _settings(options, task.name)
    if options.server_app:
        has_rounds = options.rounds != _DEFAULT_ROUNDS
        return server_app_settings(task.project, task.name, _chosen(options), has_rounds=has_rounds)
    return _settings(options, task.name, task.training)


def _settings(options: DemoOptions, task: str, default: Mapping[str, Value] | None = None) -> RunSettings:
    """Return the settings of the run; a ``--setting`` that is not one of the run is one of its training.

    Raises:
        SettingsError: a setting is invalid, or has a separate option.
    """
    chosen = _chosen(options)
    for name, option in {"task": "--task", "rounds": "--rounds"}.items():
        if name in chosen:
            message = f"--setting {name} is not allowed: use {option} instead"
            raise SettingsError(message)
    run_settings = {
        name: _parsed(value) for name, value in chosen.items() if name in RunSettings.__struct_fields__
    }
    others = {name: value for name, value in chosen.items() if name not in run_settings}
    training = {**(default or {}), **others}
    base = {"task": task, "rounds": options.rounds, "deadline_seconds": 300}
    return parse_settings({**base, "training": training, **run_settings})


def _chosen(options: DemoOptions) -> dict[str, Value]:
    return parse_key_values("--setting", options.run_settings)


def _parsed(value: Value) -> object:
    """Return a value of the command line; a JSON list or object as such, as `fedgrass run start` reads it."""
    if isinstance(value, str) and value.startswith(("[", "{")):
        with suppress(ValueError, RecursionError):
            return json.loads(value)
    return value


def _run_name(task: str) -> str:
    """Return the name of the run; it has neither underscore nor colon."""
    return f"{task.replace('_', '-').replace(':', '-')}-{time.strftime('%Y%m%d-%H%M%S')}"


def _watch_run(
    testbed: Testbed, name: str, settings: RunSettings, task: DemoTask | FlowerDemoTask, console: Console
) -> tuple[Run, dict[int, Mapping[str, float]]]:
    """Start a run and show it until it ends; return it with the metrics of its global models by number."""
    initial = initial_model(task.get(), 0, settings.shared)
    model = initial.file()
    evaluations = {0: _evaluation(task, initial, model)}
    view = LiveView(console, name, settings.rounds)
    watcher = Watcher(_FLEET, testbed.observer, view.receive)
    deadline, latest = time.monotonic() + _RUN_SECONDS, 0
    with view, watcher:
        run = testbed.operator.start(name, initial.settings(settings), model)
        while True:
            run = testbed.operator.run(name)
            ended = run.state is not RunState.RUNNING
            for number in _new_models(testbed, run, latest, ended=ended):
                latest = number
                model = testbed.operator.model(name, number)
                evaluations[number] = _evaluation(task, initial, model)
                accuracy = evaluations[number].get("accuracy")
                view.round_closed(number, "" if accuracy is None else f"accuracy {accuracy:.1%}")
            if ended:
                return run, evaluations
            if time.monotonic() > deadline:
                message = f"run {name} did not end within {_RUN_SECONDS:.0f} s"
                raise FedgrassError(message)
            time.sleep(_POLL_SECONDS)


def _evaluation(task: DemoTask | FlowerDemoTask, initial: InitialModel, model: bytes) -> Mapping[str, float]:
    """Return the metrics of a global model, by the demo itself; empty if only devices can complete it."""
    if initial.roles.names(Role.PRIVATE):
        return {}
    return task.evaluate(initial.complete(model))


def _new_models(testbed: Testbed, run: Run, latest: int, *, ended: bool) -> list[int]:
    """Return the numbers of the models that the run has published since model ``latest``.

    Training round n makes model n; an evaluation round makes none. The model of a closed round is published
    once the run has opened the next round or has succeeded.
    """
    if run.round <= latest + 1 and not ended:  # the round after model ``latest`` is still open
        return []
    rounds = [record.round for record in testbed.operator.rounds(run)]
    published = run.round if run.state is RunState.SUCCEEDED else run.round - 1
    return [
        round_.number
        for round_ in rounds
        if latest < round_.number <= published and round_.state is State.CLOSED and round_.work is Work.TRAIN
    ]


def _verdict(
    options: DemoOptions, run: Run, evaluations: Mapping[int, Mapping[str, float]], console: Console
) -> int:
    if run.state is not RunState.SUCCEEDED:
        console.print(styled((f"the run is {run.state}: ", "red"), run.reason), soft_wrap=True)
        return 1
    accuracy = evaluations[max(evaluations)].get("accuracy") if evaluations else None
    if accuracy is None:
        return 0
    chosen = (options.devices, options.mqtt_devices, options.rounds, options.task)
    defaults = chosen == (_DEFAULT_DEVICES, 0, _DEFAULT_ROUNDS, _DEFAULT_TASK) and not options.run_settings
    console.print(styled("accuracy of the global model on held-out data: ", (f"{accuracy:.1%}", "bold")))
    if defaults and accuracy < _TARGET_ACCURACY:
        console.print(styled((f"below the {_TARGET_ACCURACY:.0%} expected with the default settings", "red")))
        return 1
    return 0


def _speaker(console: Console) -> Callable[[str], None]:
    """Return a function that prints a line literally: names of folders may have brackets."""
    return lambda line: console.print(styled(line), soft_wrap=True)


def _print_how_to_watch(testbed: Testbed, console: Console) -> None:
    cloud, observer, report = testbed.cloud, testbed.observer, _speaker(console)
    environment = sorted(cloud.environment().items())
    files = {"cafile": observer.root_ca, "cert": observer.certificate, "key": observer.private_key}
    credentials = " ".join(f"--{option} {shlex.quote(str(file))}" for option, file in files.items())
    broker = f"-h {observer.host} -p {observer.port} {credentials} -I {observer.client_prefix}"
    lines = [
        "",
        "Watch the fleet's topics with any MQTT client:",
        f"  mosquitto_sub {broker} -t 'fedgrass/{_FLEET}/#' -v",
        "Use the cloud with the AWS command line or `fedgrass run`:",
        "  export " + " ".join(f"{name}={shlex.quote(value)}" for name, value in environment),
        "Folders of the cores, with a log per component:",
        f"  {testbed.folder / 'cores'}",
        *_how_to_inject_a_fault(testbed),
        *(
            ["Folders of the devices without Greengrass:", f"  {testbed.folder / 'plain-devices'}"]
            if testbed.fleet.plain.devices
            else []
        ),
        "",
    ]
    for line in lines:
        report(line)


def _how_to_inject_a_fault(testbed: Testbed) -> list[str]:
    names = [device.presence.name for device in testbed.fleet.devices.values() if device.presence.name]
    if not names:
        return []
    return [
        "Cut the connection of a core (`fedgrass core inject` lists the faults):",
        f"  fedgrass core inject broker-cut --seconds 30 --thing {min(names)}",
    ]


@contextmanager
def _stop_announced(report: Callable[[str], None]) -> Iterator[None]:
    """Print a line when the demo is interrupted: stopping the devices and the cloud takes seconds."""
    try:
        yield
    except KeyboardInterrupt:
        report("stopping the devices and the cloud ...")
        raise


def _wait_for_interrupt() -> None:
    while True:
        time.sleep(3600)


def main(**options: Any) -> None:
    """Run the demo with the options of DemoOptions, and exit with its code."""
    sys.exit(run_demo(DemoOptions(**options), plain_console()))
