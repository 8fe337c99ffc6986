"""``fedgrass demo``: one command from nothing to a model that a fleet has trained."""

import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from components.trainer.errors import TrainerError
from components.trainer.tasks.registry import BUILT_IN, load_task
from fedgrass.console import history
from fedgrass.console.live import LiveView
from fedgrass.console.watcher import Watcher
from fedgrass.federation.errors import FedgrassError, SettingsError
from fedgrass.federation.rounds import State
from fedgrass.federation.runs import Run, RunState
from fedgrass.federation.settings import RunSettings, parse_settings
from fedgrass.federation.weights import decode
from fedgrass.local.errors import FedgrassLocalError
from fedgrass.local.site import Site, open_site, thing_names

FLEET = "fedgrass"
TARGET_ACCURACY = 0.95
DEFAULT_DEVICES, DEFAULT_ROUNDS, DEFAULT_TASK = 6, 5, "digits"
_RUN_SECONDS = 3600.0
_POLL_SECONDS = 0.2


@dataclass(frozen=True)
class DemoOptions:
    """What the demo's command line may choose."""

    devices: int = DEFAULT_DEVICES
    rounds: int = DEFAULT_ROUNDS
    task: str = DEFAULT_TASK
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
        with _ended_by_signals(), _temporary_folder() as folder:
            return _demo(options, console, folder)
    except (FedgrassError, FedgrassLocalError, TrainerError) as error:
        console.print(Text.assemble(("fedgrass demo: ", "red"), str(error)), soft_wrap=True)
        return 2
    except KeyboardInterrupt:
        console.print("stopped", highlight=False)
        return 130


def _demo(options: DemoOptions, console: Console, folder: Path) -> int:
    task = _Task(options.task, options.devices)
    settings = parse_settings({"task": options.task, "rounds": options.rounds, "deadline_seconds": 300})
    configurations = {
        thing: {"tasks": {options.task: task.options(index)}, "heartbeat_seconds": 10}
        for index, thing in enumerate(thing_names(options.devices))
    }
    started = time.monotonic()
    with open_site(
        folder,
        configurations,
        fleet_name=FLEET,
        profile=options.profile,
        ports=(options.gateway_port, options.mqtt_port),
        say=lambda line: console.print(line, highlight=False, soft_wrap=True),
    ) as site:
        name = f"{options.task}-{time.strftime('%Y%m%d-%H%M%S')}"
        run, evaluations = _watch_run(site, name, settings, task, console)
        summaries = [history.summarize(record, evaluations) for record in site.operator.rounds(run)]
        closed = [line["round"] for line in summaries if line["state"] == State.CLOSED]
        model = site.operator.model(name, closed[-1]) if closed else None
        target = options.output / name
        history.write(target, run, summaries, model)
        console.print(history.table(summaries))
        code = _verdict(options, run, evaluations, console)
        console.print(f"{target}/ has model.safetensors, history.json and accuracy.png", highlight=False)
        console.print(f"all of it took {time.monotonic() - started:.1f} s", highlight=False)
        if options.keep:
            _keep(site, console)
        return code


class _Task:
    """The demo's own copy of the task: for the initial model, and to judge the global one."""

    def __init__(self, name: str, devices: int) -> None:
        if name not in BUILT_IN:
            message = f"there is no task {name!r}; built in are: {', '.join(BUILT_IN)}"
            raise SettingsError(message)
        self._shares = devices if name == "digits" else 0
        # Importing torch takes seconds, in which the cloud and the cores can start.
        self._loaded: list[Any] = []
        self._failed: list[Exception] = []
        self._thread = threading.Thread(target=self._load, args=(name,), daemon=True)
        self._thread.start()
        thing_names(devices)

    def _load(self, name: str) -> None:
        try:
            self._loaded.append(load_task(name, self.options(0)))
        except Exception as error:  # noqa: BLE001  # told to the person by get(), in the thread that asks
            self._failed.append(error)

    def options(self, share: int) -> dict[str, int]:
        """Return the options of the device that gets share number ``share``."""
        return {"share": share, "shares": self._shares} if self._shares else {}

    def get(self) -> Any:
        """Return the task once it is loaded."""
        self._thread.join(timeout=120)
        if self._failed:
            raise self._failed[0]
        return self._loaded[0]

    def judge(self, model: bytes) -> Mapping[str, float]:
        """Measure a global model on data that no device has; tasks without such data measure nothing."""
        task = self.get()
        if not hasattr(task, "evaluate_held_out"):
            return {}
        metrics: Mapping[str, float] = task.evaluate_held_out(decode(model)).metrics
        return metrics


def _watch_run(
    site: Site, name: str, settings: RunSettings, task: _Task, console: Console
) -> tuple[Run, dict[int, Mapping[str, float]]]:
    """Start a run and show it until it has ended; return it with the measures of its global models."""
    initial = task.get().initial_weights(seed=0)
    evaluations: dict[int, Mapping[str, float]] = {}
    view = LiveView(console, name, settings.rounds)
    watcher = Watcher(FLEET, site.cloud.iot_endpoint, site.cloud.mqtt_port, site.cloud.root_ca, view.hear)
    deadline = time.monotonic() + _RUN_SECONDS
    with view, watcher:
        run = site.operator.start(name, settings, initial)
        while True:
            run = site.operator.run(name)
            ended = run.state is not RunState.RUNNING
            newest = settings.rounds if run.state is RunState.SUCCEEDED else run.round - 1
            for number in range(len(evaluations) + 1, newest + 1):
                evaluations[number] = task.judge(site.operator.model(name, number))
                accuracy = evaluations[number].get("accuracy")
                view.round_closed(number, "" if accuracy is None else f"accuracy {accuracy:.1%}")
            if ended:
                return run, evaluations
            if time.monotonic() > deadline:
                message = f"run {name} did not end within {_RUN_SECONDS:.0f} s"
                raise FedgrassError(message)
            time.sleep(_POLL_SECONDS)


def _verdict(
    options: DemoOptions, run: Run, evaluations: Mapping[int, Mapping[str, float]], console: Console
) -> int:
    if run.state is not RunState.SUCCEEDED:
        console.print(Text.assemble((f"the run {run.state}: ", "red"), run.reason), soft_wrap=True)
        return 1
    accuracy = evaluations[options.rounds].get("accuracy")
    if accuracy is None:
        return 0
    defaults = (options.devices, options.rounds, options.task) == (
        DEFAULT_DEVICES,
        DEFAULT_ROUNDS,
        DEFAULT_TASK,
    )
    console.print(f"accuracy of the global model on held-out data: [bold]{accuracy:.1%}[/]", highlight=False)
    if defaults and accuracy < TARGET_ACCURACY:
        console.print(f"[red]less than the {TARGET_ACCURACY:.0%} that the default settings reach[/]")
        return 1
    return 0


def _keep(site: Site, console: Console) -> None:
    """Leave the site up until Ctrl-C, and say how to look at it."""
    cloud = site.cloud
    broker = f"-h {cloud.iot_endpoint} -p {cloud.mqtt_port} --cafile {cloud.root_ca}"
    lines = [
        "",
        "The cloud and the fleet stay up until Ctrl-C. Watch the fleet's topics with any MQTT client:",
        "",
        f"  mosquitto_sub {broker} -t 'fedgrass/{FLEET}/#' -v",
        "",
        "Use the AWS command line on the embedded cloud:",
        "",
        "  export " + " ".join(f"{name}={value}" for name, value in sorted(cloud.environment().items())),
        f"  aws dynamodb scan --table-name {site.stack['DevicesTableName']}",
        "",
        f"The cores' folders, with a log per component: {site.folder / 'cores'}",
    ]
    for line in lines:
        console.print(line, highlight=False, soft_wrap=True)
    while True:
        time.sleep(3600)


@contextmanager
def _temporary_folder() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="fedgrass-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _ended_by_signals() -> Iterator[None]:
    """Make SIGTERM and SIGHUP end the demo as Ctrl-C does, with everything taken down."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    previous = {number: signal.signal(number, interrupt) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def main(options: DemoOptions) -> None:
    """Run the demo and exit with its code."""
    sys.exit(run_demo(options, Console()))
