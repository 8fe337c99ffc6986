"""Start a run: from a model file, a model of another run, a Flower app, or what is in the bucket."""

from pathlib import Path
from typing import Any

import msgspec

from fedgrass.console import stack
from fedgrass.console.deferred import deferred
from fedgrass.console.flower.flower_project import TASK_PREFIX
from fedgrass.console.runs import fleet_operator, run_display
from fedgrass.console.runs.fleet_operator import Operator
from fedgrass.console.runs.given_settings import given_settings, parse_run_and_round
from fedgrass.console.runs.initial_model_file import read_frozen, read_model, with_frozen
from fedgrass.console.terminal import complain
from fedgrass.federation import object_keys
from fedgrass.federation.conversion import nearest
from fedgrass.federation.errors import SettingsError
from fedgrass.federation.runs import Run
from fedgrass.federation.settings import RunSettings
from fedgrass.federation.settings_parser import parse_settings
from fedgrass.federation.weights import check_finite, encode

# Imported when needed: the one runs Flower in a child process, the other exchanges messages.
_SERVERS_MODEL = deferred("fedgrass.local.flower.flower_initial_model:servers_model")
_ASK_FOR_PARAMETERS = deferred("fedgrass.console.flower.device_parameters:ask_for_parameters")
_SHOW_FORECAST = deferred("fedgrass.console.runs.run_forecast:show_forecast")


class StartRequest(msgspec.Struct, frozen=True, kw_only=True):
    """What the operator gives to start a run."""

    name: str
    settings: tuple[str, ...] = ()  # setting=value
    settings_file: Path | None = None
    model: Path | None = None  # the initial model
    app: Path | None = None  # the folder of a Flower app, whose ServerApp brings the initial model
    frozen: Path | None = None  # the frozen arrays that devices download
    continue_from: str = ""  # RUN/ROUND


@stack.refusals()
def start(stack_name: str, output: str, *, dry_run: bool = False, **given: Any) -> None:
    """Start a run, or only foretell it.

    Args:
        stack_name: the stack of the fleet.
        output: ``text`` or ``json``.
        dry_run: whether only to show what the run would do.
        given: the fields of a ``StartRequest``.

    Raises:
        SettingsError: the request cannot be carried out; nothing was started.
    """
    request = StartRequest(**given)
    chosen = given_settings(request.settings, request.settings_file)
    settings = parse_settings(chosen)
    _check(request, settings)
    operator = fleet_operator.open_operator(stack_name)
    if dry_run:
        _SHOW_FORECAST(operator, request, settings, output)
        return
    known = request.name in operator.runs()
    run = _start(operator, request, settings, chosen, known=known)
    if known:  # starting is idempotent: an operator who means a second run must know
        complain(
            f"run {run.name} already exists, with the same settings; choose another name for another run"
        )
    run_display.present_run(operator, run, output)


def _check(request: StartRequest, settings: RunSettings) -> None:
    """Check that the parts of a request do not contradict each other. Raises SettingsError."""
    message = ""
    if settings.has_server_app and request.model:
        message = "a run with a ServerApp takes its model from there: leave --model out"
    elif request.app and (request.model or request.continue_from or request.frozen):
        message = (
            "--app excludes --model, --frozen and --continue-from: its ServerApp brings the initial model"
        )
    elif request.frozen and not request.model:
        message = "--frozen belongs to a --model: a run that continues another has its frozen arrays"
    if message:
        raise SettingsError(message)


def _start(
    operator: Operator, request: StartRequest, settings: RunSettings, chosen: dict[str, Any], *, known: bool
) -> Run:
    """Start the run from its source."""
    source = parse_run_and_round(request.continue_from) if request.continue_from else None
    is_flower = settings.task.startswith(TASK_PREFIX)
    if request.model:
        model = read_model(request.model, settings.shared, in_order=is_flower)
        settings = with_frozen(settings, request.model)
        if request.frozen:
            operator.upload_frozen(request.name, read_frozen(request.frozen, settings))
        return operator.start(request.name, settings, model)
    if request.app or (is_flower and not (known or source)):
        return _start_flower(operator, request, settings)
    continued = {"continue_from": source} if source else {}
    return operator.act("start", request.name, settings=chosen, **continued)


def _start_flower(operator: Operator, request: StartRequest, settings: RunSettings) -> Run:
    """Start a run of a Flower app from the model of its ServerApp, of the bucket or of a device.

    Raises:
        SettingsError: the task is not a Flower app, or there is no initial model.
    """
    if not settings.task.startswith(TASK_PREFIX) or settings.mode == "server_app":
        message = f"--app is for tasks flower:NAME, and the run's task is {settings.task!r}"
        if settings.mode == "server_app":
            message = "a run with mode=server_app has no initial model: use `fedgrass flower run APP_DIR`"
        raise SettingsError(message)
    if request.app:
        _check_task(operator, settings.task)
        found = _SERVERS_MODEL(request.app)
        if found is not None:
            training = {**found.settings, **settings.training}
            # Parsed again: the announcements of the run carry them.
            settings = parse_settings({**msgspec.to_builtins(settings), "training": training})
            return operator.start(request.name, settings, found.model)
        complain("the ServerApp passes no initial model")
    elif operator.bucket.exists(key := object_keys.model(request.name, 0)):
        complain(f"the run starts from the model that is in the bucket already, {key}")
        return operator.act("start", request.name, settings=msgspec.to_builtins(settings))
    model = _ASK_FOR_PARAMETERS(operator, request.name, settings, complain)
    check_finite(model)
    return operator.start(request.name, settings, encode(model, in_order=True))


def _check_task(operator: Operator, task: str) -> None:
    """Refuse a task that no device has ever had, before a model is uploaded under the run's name.

    Raises:
        SettingsError: no device has the task; the text has the tasks that they have.
    """
    found = sorted({name for device in operator.devices() for name in device.tasks})
    if task not in found:
        message = (
            f"no device has the task {task!r}: deploy it by `fedgrass deploy devices --group GROUP"
            f" --task {task}`, or name one that they have: {nearest(task, found)}"
        )
        raise SettingsError(message)
