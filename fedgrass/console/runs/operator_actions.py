"""Carry out ``fedgrass run``, ``runs`` and ``repair`` on a deployed stack."""

import argparse
import json
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from fedgrass.console import stack
from fedgrass.console.deferred import deferred
from fedgrass.console.flower.flower_project import TASK_PREFIX
from fedgrass.console.options import parse_json, read, read_text, whole_number
from fedgrass.console.runs import history
from fedgrass.console.runs.fleet_operator import LARGEST_MODEL, Operator
from fedgrass.console.tables import show, table
from fedgrass.console.terminal import say
from fedgrass.federation import object_keys
from fedgrass.federation.conversion import nearest, shown
from fedgrass.federation.encodings.array_types import read_arrays
from fedgrass.federation.errors import SettingsError, UpdateRefused
from fedgrass.federation.messages.message_fields import checked_name
from fedgrass.federation.rounds import State
from fedgrass.federation.runs import LIVING, Run
from fedgrass.federation.settings import RunSettings
from fedgrass.federation.settings_parser import parse_settings
from fedgrass.federation.weights import (
    PREFIX,
    check_finite,
    encode,
    read_layout,
    read_layout_and_metadata,
    views,
)
from fedgrass.federation.weights.array_sharing import (
    FROZEN_SHA256,
    check_shared,
    frozen_fingerprint,
    is_named,
)

# Imported when needed: the one runs Flower in a child process, the other exchanges messages.
_SERVERS_MODEL = deferred("fedgrass.local.flower.flower_initial_model:servers_model")
_ASK_FOR_PARAMETERS = deferred("fedgrass.console.flower.device_parameters:ask_for_parameters")
_MOST_ROUNDS = 100_000  # of a run


@stack.refusals()
def list_runs(arguments: argparse.Namespace) -> None:
    """Print the runs of a stack with their states."""
    show(table("run", "state", rows=sorted(_operator(arguments).runs().items())))


@stack.refusals()
def start(arguments: argparse.Namespace) -> None:
    """Start a run from a model file, a model of another run, or the initial model in the bucket."""
    given = _settings(arguments)
    settings = parse_settings(given)
    if settings.has_server_app and arguments.model:
        message = "a run with a ServerApp takes its model from there: leave --model out"
        raise SettingsError(message)
    operator = _operator(arguments)
    source = _parse_run_and_round(arguments.continue_from) if arguments.continue_from else None
    known = arguments.name in operator.runs()
    if arguments.app and (arguments.model or source or arguments.frozen):
        message = (
            "--app excludes --model, --frozen and --continue-from: its ServerApp brings the initial model"
        )
        raise SettingsError(message)
    if arguments.model:
        is_flower = settings.task.startswith(TASK_PREFIX)
        model = _model(arguments.model, settings.shared, in_order=is_flower)
        settings = _with_frozen(settings, arguments.model)
        if arguments.frozen:
            operator.upload_frozen(arguments.name, _frozen(arguments.frozen, settings))
        run = operator.start(arguments.name, settings, model)
    elif arguments.app or (settings.task.startswith(TASK_PREFIX) and not (known or source)):
        run = _start_flower(operator, arguments, settings)
    else:
        if arguments.frozen:
            message = "--frozen belongs to a --model: a run that continues another has its frozen arrays"
            raise SettingsError(message)
        continued = {"continue_from": source} if source else {}
        run = operator.act("start", arguments.name, settings=given, **continued)
    if known:  # starting is idempotent: an operator who means a second run must know
        say(f"run {run.name} already exists, with the same settings; choose another name for another run")
    show_run(operator, run)


def _start_flower(operator: Operator, arguments: argparse.Namespace, settings: RunSettings) -> Run:
    """Start a run of a Flower app from the model of its ServerApp, of the bucket or of a device.

    Raises:
        SettingsError: the task is not a Flower app, or there is no initial model.
    """
    if not settings.task.startswith(TASK_PREFIX) or settings.mode == "server_app":
        message = f"--app is for tasks flower:NAME, and the run's task is {settings.task!r}"
        if settings.mode == "server_app":
            message = "a run with mode=server_app has no initial model: use `fedgrass flower run APP_DIR`"
        raise SettingsError(message)
    if arguments.app:
        _check_task(operator, settings.task)
        found = _SERVERS_MODEL(arguments.app)
        if found is not None:
            training = {**found.settings, **settings.training}
            # Parsed again: the announcements of the run carry them.
            settings = parse_settings({**msgspec.to_builtins(settings), "training": training})
            return operator.start(arguments.name, settings, found.model)
        say("the ServerApp passes no initial model")
    elif operator.bucket.exists(key := object_keys.model(arguments.name, 0)):
        say(f"the run starts from the model that is in the bucket already, {key}")
        return operator.act("start", arguments.name, settings=msgspec.to_builtins(settings))
    model = _ASK_FOR_PARAMETERS(operator, arguments.name, settings, say)
    check_finite(model)
    return operator.start(arguments.name, settings, encode(model, in_order=True))


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


def _settings(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the settings of the file, overridden by those of the command line (JSON values or text)."""
    settings: dict[str, Any] = {}
    if arguments.settings_file:
        text = read_text(arguments.settings_file)
        settings = parse_json(text, str(arguments.settings_file))
        if not isinstance(settings, dict):
            message = (
                f"{arguments.settings_file} contains {shown(settings)} instead of a JSON object of settings"
            )
            raise SettingsError(message)
    return {**settings, **parse_pairs(arguments.settings)}


def parse_pairs(pairs: Iterable[str]) -> dict[str, Any]:
    """Return settings given as ``setting=value``: JSON values or text. Raises SettingsError."""
    settings: dict[str, Any] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals:
            message = f"{pair!r} is not a setting; it takes setting=value, such as rounds=10"
            raise SettingsError(message)
        try:
            settings[name] = json.loads(value)
        except (ValueError, RecursionError):
            settings[name] = value
    return settings


def _parse_run_and_round(given: str) -> dict[str, str | int]:
    """Return the run and the round that ``RUN/ROUND`` names. Raises SettingsError for anything else."""
    old, _, number = given.rpartition("/")
    try:
        return {"run": checked_name("run", old), "round": whole_number(0, _MOST_ROUNDS)(number)}
    except argparse.ArgumentTypeError as error:
        message = f"--continue-from is {shown(given)}; it takes RUN/ROUND, such as digits-1/5: {error}"
        raise SettingsError(message) from error


def _model(path: Path, shared: Sequence[str] = (), *, in_order: bool = False) -> bytes:
    """Return a model file as runs store it: canonical encoding, each array in its own data type.

    Args:
        path: of the file.
        shared: patterns of the arrays that the run shares, to which the model is reduced; empty: all.
        in_order: whether to keep the order of the arrays, which matters to Flower apps.

    Raises:
        SettingsError: the file cannot be read, is not a safetensors file, has values that are not finite, or
            a pattern matches none of its arrays.
    """
    data = read(path, LARGEST_MODEL, named="--model")
    try:
        layout = read_layout(data, len(data))
        arrays = views(data, layout)
        check_finite(arrays)
        if shared:
            arrays = {name: array for name, array in arrays.items() if is_named(name, shared)}
            check_shared(arrays or layout.arrays, shared)
        return encode(arrays, layout, in_order=in_order)
    except UpdateRefused as error:
        message = f"--model {path} is not a model in safetensors format: {error}"
        raise SettingsError(message) from error


def _with_frozen(settings: RunSettings, path: Path) -> RunSettings:
    """Return the settings with the fingerprint of the frozen arrays that a model file names."""
    with path.open("rb") as file:  # only the header: the file was read and checked before
        prefix = file.read(PREFIX)
        head = prefix + file.read(int.from_bytes(prefix, "little"))
    _, metadata = read_layout_and_metadata(head, path.stat().st_size)
    found, chosen = metadata.get(FROZEN_SHA256), settings.frozen_sha256
    if found and chosen and chosen != found:
        message = f"the run's frozen_sha256 is {chosen}, but the frozen arrays of --model {path} have {found}"
        raise SettingsError(message)
    return msgspec.structs.replace(settings, frozen_sha256=chosen or found)


def _frozen(path: Path, settings: RunSettings) -> bytes:
    """Return a file of frozen arrays, checked against the run's fingerprint. Raises SettingsError."""
    data = read(path, LARGEST_MODEL, named="--frozen")
    try:
        arrays = read_arrays(data)
        check_finite(arrays)
        found = frozen_fingerprint(arrays)
    except UpdateRefused as error:
        message = f"--frozen {path} is not a file of arrays in safetensors format: {error}"
        raise SettingsError(message) from error
    if found != settings.frozen_sha256:
        expected = f"is {settings.frozen_sha256}" if settings.frozen_sha256 else "is not set"
        message = (
            f"--frozen {path} has the fingerprint {found}, but the run's frozen_sha256 {expected}: write both"
            " files at once, with `fedgrass task weights --out FILE --frozen-out FILE`"
        )
        raise SettingsError(message)
    return data


@stack.refusals()
def act(arguments: argparse.Namespace) -> None:
    """Pause, resume, cancel, retry or advance a run, or only show it."""
    operator = _operator(arguments)
    show_run(operator, operator.act(arguments.action, arguments.name))


@stack.refusals()
def repair(arguments: argparse.Namespace) -> None:
    """Rebuild the lost rows of a run, and print a line per row."""
    for line in _operator(arguments).repair(arguments.name, dry_run=arguments.dry_run):
        say(line)


def show_run(operator: Operator, run: Run) -> None:
    """Print the state of a run and a table of its rounds."""
    say(f"run {run.name}: {run.state} {run.reason}".rstrip())
    if run.waiting_since:
        since = datetime.fromtimestamp(run.waiting_since / 1000, tz=UTC)
        say(f"waiting for an eligible device since {since:%H:%M:%S} UTC")
    summaries = [history.summarize(record, {}) for record in operator.rounds(run)]
    if run.settings.has_server_app and run.state in LIVING:
        count = sum(line["state"] in {State.OPEN, State.AGGREGATING} for line in summaries)
        say(f"{count} open rounds of its ServerApp's messages" if count else "waiting for its ServerApp")
    if summaries:
        show(history.table(summaries))
    for line in [
        *history.reasons(summaries),
        *history.unsent_metrics(summaries),
        *history.collapse(summaries),
    ]:
        say(line)


def _operator(arguments: argparse.Namespace) -> Operator:
    return Operator(stack.client, stack.outputs(arguments.stack))
