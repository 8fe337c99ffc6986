"""``fedgrass demo``: one command from nothing to a model that a fleet has trained."""

import argparse
import shlex
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from components.runtime.trainer_errors import TrainerError
from fedgrass.console.interruption import ended_by_signals
from fedgrass.console.options import parse_key_values
from fedgrass.console.runs import history
from fedgrass.console.runs.live_view import LiveView, Watcher
from fedgrass.console.tables import console as plain_console
from fedgrass.console.tables import show, styled
from fedgrass.federation.errors import FedgrassError, SettingsError
from fedgrass.federation.rounds import State, Work
from fedgrass.federation.runs import Run, RunState
from fedgrass.federation.settings import RunSettings, parse_settings
from fedgrass.federation.weights import encode
from fedgrass.local.demo_task import DemoTask
from fedgrass.local.local_errors import FedgrassLocalError
from fedgrass.local.testbed import Testbed, open_testbed, thing_names
from greengrass_emulator.emulator_errors import EmulatorError
from greengrass_emulator.temporary_folder import temporary_folder

FLEET = "demo"
TARGET_ACCURACY = 0.95
DEFAULT_DEVICES, DEFAULT_ROUNDS, DEFAULT_TASK = 6, 5, "digits"
LEAST_FREE_BYTES = 200_000_000
_RUN_SECONDS = 3600.0
_POLL_SECONDS = 0.2


@dataclass(frozen=True)
class DemoOptions:
    """What the demo's command line may choose."""

    devices: int = DEFAULT_DEVICES
    mqtt_devices: int = 0
    rounds: int = DEFAULT_ROUNDS
    task: str = DEFAULT_TASK
    task_path: Path | None = None
    task_options: Sequence[str] = ()
    run_settings: Sequence[str] = ()
    profile: str = "classic"
    keep: bool = False
    gateway_port: int = 0
    mqtt_port: int = 0
    output: Path = Path("runs")


def run_demo(options: DemoOptions, console: Console) -> int:
    """Train a model over a fleet of local cores; return the exit code.

    0 only if every round closed and, with the default settings, the model knows 95 % of the held-out digits.
    Mistakes of the person are told in one line. However it ends, nothing of it is left but ``runs/<run>``.
    """
    try:
        with ended_by_signals(), temporary_folder(LEAST_FREE_BYTES, _speaker(console)) as folder:
            return _demo(options, console, folder)
    except (FedgrassError, FedgrassLocalError, EmulatorError, TrainerError) as error:
        console.print(styled(("fedgrass demo: ", "red"), str(error)), soft_wrap=True)
        return 2
    except KeyboardInterrupt:
        console.print("stopped", highlight=False)
        return 130


def _demo(options: DemoOptions, console: Console, folder: Path) -> int:
    things = thing_names(options.devices)
    plain = thing_names(options.mqtt_devices, "plain") if options.mqtt_devices else []
    everybody = thing_names(len(things) + len(plain))  # refuses too many of both
    task = DemoTask(
        options.task,
        options.task_path,
        len(everybody),
        parse_key_values("--task-option", options.task_options),
    )
    settings = _settings(options, task.name)
    configurations = {
        thing: {"tasks": task.configuration(index), "heartbeat_seconds": 10}
        for index, thing in enumerate([*things, *plain])
    }
    started, say = time.monotonic(), _speaker(console)
    if warning := task.data_of_devices():
        say(f"note: {warning}")
    with (
        _output_folder(options.output, task.name) as output,
        open_testbed(
            folder,
            {thing: configurations[thing] for thing in things},
            plain={thing: configurations[thing] for thing in plain},
            fleet_name=FLEET,
            profile=options.profile,
            ports=(options.gateway_port, options.mqtt_port),
            say=say,
            enforces=True,
            check=task.raise_if_failed,
        ) as site,
        _stop_announced(say),
    ):
        if options.keep:
            _say_how_to_watch(site, console)
        run, evaluations = _watch_run(site, output.name, settings, task, console)
        summaries = [history.summarize(record, evaluations) for record in site.operator.rounds(run)]
        made = [number for number in evaluations if number]
        model = site.operator.model(run.name, max(made)) if made else None
        show(history.table(summaries))
        if run.state is not RunState.SUCCEEDED:
            for line in history.reasons(summaries):
                say(line)
        for line in history.unsent_metrics(summaries):
            say(line)
        history.write(output, run, summaries, model, evaluations)
        if line := history.last_evaluation(summaries):
            say(line)
        code = _verdict(options, run, evaluations, console)
        files = ", ".join(sorted(path.name for path in output.iterdir()))
        say(f"{output}/ has {files}")
        console.print(f"all of it took {time.monotonic() - started:.1f} s", highlight=False)
        if options.keep:
            console.print("the cloud and the fleet stay up until Ctrl-C", highlight=False)
            _wait_for_ever()
        return code


def _settings(options: DemoOptions, task: str) -> RunSettings:
    """Return the settings of the run: a ``--setting`` of the run by its name, any other is of the training.

    Raises:
        SettingsError: one of them cannot be used, or has an option of its own.
    """
    chosen = parse_key_values("--setting", options.run_settings)
    for name, option in {"task": "--task", "rounds": "--rounds"}.items():
        if name in chosen:
            message = f"--setting {name}=...: use {option}"
            raise SettingsError(message)
    of_run = {name: value for name, value in chosen.items() if name in RunSettings.__struct_fields__}
    training = {name: value for name, value in chosen.items() if name not in of_run}
    base = {"task": task, "rounds": options.rounds, "deadline_seconds": 300}
    return parse_settings({**base, "training": training, **of_run})


@contextmanager
def _output_folder(parent: Path, task: str) -> Iterator[Path]:
    """Make the folder that names the run, before anything else is done; it goes again if nothing comes in."""
    # A run's name has no underscore.
    stem = f"{task.replace('_', '-')}-{time.strftime('%Y%m%d-%H%M%S')}"
    for name in (stem, *(f"{stem}-{number}" for number in range(2, 100))):
        try:
            (parent / name).mkdir(parents=True)
        except FileExistsError:
            if not parent.is_dir():
                message = f"--output {parent} is a file: name a folder"
                raise SettingsError(message) from None
            continue
        except OSError as error:
            message = f"nothing can be written to --output {parent}: {error.strerror}"
            raise SettingsError(message) from error
        break
    try:
        yield parent / name
    finally:
        if not any((parent / name).iterdir()):
            (parent / name).rmdir()


def _watch_run(
    site: Testbed, name: str, settings: RunSettings, task: DemoTask, console: Console
) -> tuple[Run, dict[int, Mapping[str, float]]]:
    """Start a run and show it until it has ended; return it with the measures of its global models."""
    initial = task.get().initial_weights(seed=0)
    evaluations = {0: task.judge(encode(initial))}
    view = LiveView(console, name, settings.rounds)
    watcher = Watcher(FLEET, site.observer, view.receive)
    deadline, newest = time.monotonic() + _RUN_SECONDS, 0
    with view, watcher:
        run = site.operator.start(name, settings, initial)
        while True:
            run = site.operator.run(name)
            ended = run.state is not RunState.RUNNING
            for number in _models(site, run, newest, ended=ended):
                newest = number
                evaluations[number] = task.judge(site.operator.model(name, number))
                accuracy = evaluations[number].get("accuracy")
                view.round_closed(number, "" if accuracy is None else f"accuracy {accuracy:.1%}")
            if ended:
                return run, evaluations
            if time.monotonic() > deadline:
                message = f"run {name} did not end within {_RUN_SECONDS:.0f} s"
                raise FedgrassError(message)
            time.sleep(_POLL_SECONDS)


def _models(site: Testbed, run: Run, newest: int, *, ended: bool) -> list[int]:
    """Return the numbers of the models that the run has published since model ``newest``.

    Round n makes model n, but a round of evaluation makes none. A closed round's model is published once the
    run has gone on to the next round, or has succeeded.
    """
    if run.round <= newest + 1 and not ended:  # the round that follows model ``newest`` is still open
        return []
    rounds = [record.round for record in site.operator.rounds(run)]
    published = run.round if run.state is RunState.SUCCEEDED else run.round - 1
    return [
        closed.number
        for closed in rounds
        if newest < closed.number <= published and closed.state is State.CLOSED and closed.work is Work.TRAIN
    ]


def _verdict(
    options: DemoOptions, run: Run, evaluations: Mapping[int, Mapping[str, float]], console: Console
) -> int:
    if run.state is not RunState.SUCCEEDED:
        console.print(styled((f"the run {run.state}: ", "red"), run.reason), soft_wrap=True)
        return 1
    accuracy = evaluations[max(evaluations)].get("accuracy")
    if accuracy is None:
        return 0
    chosen = (options.devices, options.mqtt_devices, options.rounds, options.task)
    defaults = chosen == (DEFAULT_DEVICES, 0, DEFAULT_ROUNDS, DEFAULT_TASK) and not options.run_settings
    console.print(styled("accuracy of the global model on held-out data: ", (f"{accuracy:.1%}", "bold")))
    if defaults and accuracy < TARGET_ACCURACY:
        console.print(styled((f"less than the {TARGET_ACCURACY:.0%} that the default settings reach", "red")))
        return 1
    return 0


def _speaker(console: Console) -> Callable[[str], None]:
    """Return a function that prints a line as it is: folders may have names with brackets."""
    return lambda line: console.print(styled(line), soft_wrap=True)


def _say_how_to_watch(site: Testbed, console: Console) -> None:
    cloud, observer, say = site.cloud, site.observer, _speaker(console)
    environment = sorted(cloud.environment().items())
    files = {"cafile": observer.root_ca, "cert": observer.certificate, "key": observer.private_key}
    credentials = " ".join(f"--{option} {shlex.quote(str(file))}" for option, file in files.items())
    broker = f"-h {observer.host} -p {observer.port} {credentials} -I {observer.client_prefix}"
    lines = [
        "",
        "Watch the fleet's topics with any MQTT client:",
        f"  mosquitto_sub {broker} -t 'fedgrass/{FLEET}/#' -v",
        "The cloud, for the AWS command line and for `fedgrass run`:",
        "  export " + " ".join(f"{name}={shlex.quote(value)}" for name, value in environment),
        "The cores, with a log per component:",
        f"  {site.folder / 'cores'}",
        *_how_to_disturb(site),
        *(
            ["The devices without Greengrass:", f"  {site.folder / 'plain-devices'}"]
            if site.fleet.plain.devices
            else []
        ),
        "",
    ]
    for line in lines:
        say(line)


def _how_to_disturb(site: Testbed) -> list[str]:
    names = [device.presence.name for device in site.fleet.devices.values() if device.presence.name]
    if not names:
        return []
    return [
        "What a core does when its link breaks (`fedgrass core inject` lists the faults):",
        f"  fedgrass core inject broker-cut --seconds 30 --thing {min(names)}",
    ]


@contextmanager
def _stop_announced(say: Callable[[str], None]) -> Iterator[None]:
    """Print at once that the demo is stopping: ending the devices and the cloud takes seconds."""
    try:
        yield
    except KeyboardInterrupt:
        say("stopping the devices and the cloud ...")
        raise


def _wait_for_ever() -> None:
    while True:
        time.sleep(3600)


def main(arguments: argparse.Namespace) -> None:
    """Run the demo and exit with its code."""
    options = {name: getattr(arguments, name) for name in DemoOptions.__dataclass_fields__}
    sys.exit(run_demo(DemoOptions(**options), plain_console()))
