"""``fedgrass flower initial-model``: write the model with which a Flower app's ServerApp starts.

The ServerApp runs in a child process, until it sends its first message of training. If it passes no model, a
ClientApp of the former API may have one (``get_parameters``).
"""

import json
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from msgspec import Struct

from components.runtime.component_errors import ComponentError
from fedgrass.console.flower.flower_component import CLASS_LOCATION, flower_code
from fedgrass.console.flower.flower_project import (
    check_flwr,
    read_project,
    run_config_overrides,
    task_name,
)
from fedgrass.console.interruption import is_interruption
from fedgrass.console.options import Value, parse_key_values
from fedgrass.console.tasks.publishing_options import AppTrial
from fedgrass.console.terminal import say
from fedgrass.federation.errors import FedgrassError, SettingsError
from fedgrass.federation.weights import check_finite, encode, read_layout
from fedgrass.local.task_loading import explain, load
from fedgrass.local.task_process import run_in_child, time_limit
from fedgrass.local.task_publishing import staged
from fedgrass.local.task_weights import check_new_file, write_new_file

WAYS_OUT = (
    "start the run with --model FILE, or without a model while a device with the task is online: it is asked"
    " if the ClientApp has get_parameters"
)
SETTINGS, _REASON = ".json", ".reason"  # added to the name of the model's file
ARRAYS_KEY = "arrays"
# Nearly all apps read them; a device gets its own by `fedgrass deploy devices --options-table`.
NODE_OPTIONS: Mapping[str, Value] = {"node-partition-id": 0, "node-num-partitions": 1}
_NONE = 3  # exit code: the ServerApp passes no model
SECONDS = 300  # within which a ServerApp must send its first message


class ServerOptions(Struct, frozen=True, kw_only=True):
    """What the child process gets that runs the ServerApp."""

    folder: str  # of the app
    target: str  # file for the model
    config: Mapping[str, Value]
    arrays_key: str = ARRAYS_KEY
    seconds: float = SECONDS


class ClientOptions(Struct, frozen=True, kw_only=True):
    """What the child process gets that asks the ClientApp."""

    folder: str  # with the files of the app's component
    shown: str  # the app's own folder, for messages
    target: str  # file for the model
    options: Mapping[str, Value]  # of the task
    seconds: float


class ServersModel(Struct, frozen=True, kw_only=True):
    """What a ServerApp begins with."""

    model: bytes  # a safetensors file
    settings: Mapping[str, Value]  # of the training, that it sends with the model


class NoInitialModel(SettingsError):
    """Neither the ServerApp nor, if it was asked, the ClientApp brings an initial model."""


def initial_model_command(app: Path, *, out: Path, trial: AppTrial) -> None:
    """Write the initial model of an app to the file ``out``."""
    check_new_file(out)
    options = parse_key_values("--option", trial.option)
    found = initial_model_of(app, trial.run_config, trial.seconds, options)
    write_new_file(out, found.model)
    task = task_name(read_project(app))
    say(f"wrote {out} ({len(found.model):,} bytes): the initial model of {task}")
    if found.settings:
        training = json.dumps(found.settings)
        say(f"the ServerApp sends settings with it, for the run: training='{training}'")


def initial_model_of(
    folder: Path,
    run_config: Sequence[str] = (),
    seconds: float = SECONDS,
    options: Mapping[str, Value] | None = None,
) -> ServersModel:
    """Return the initial model of an app.

    Args:
        folder: of the app.
        run_config: what overrides the app's configuration; see ``run_config_overrides``.
        seconds: time limit of the ServerApp.
        options: of the task, with which the ClientApp is asked on this machine if the ServerApp passes no
            model; None: it is not asked.

    Raises:
        NoInitialModel: there is none.
        SettingsError: the app or a pair cannot be used, the app fails, or flwr is not installed.
        SystemExit: the app takes too long or crashes its process, which was reported.
    """
    project = read_project(folder)
    check_flwr()
    config = {**project.config, **run_config_overrides(project, run_config)}
    with tempfile.TemporaryDirectory(prefix="fedgrass-flower-") as name:
        target = Path(name) / "model.safetensors"
        server = ServerOptions(
            folder=str(folder.absolute()),
            target=str(target),
            config=config,
            arrays_key=str((options or {}).get("arrays_key", ARRAYS_KEY)),
            seconds=seconds,
        )
        code = run_in_child("fedgrass.local.flower.flower_initial_model:record_in_child", server, say)
        if code == _NONE and options is not None:
            release = staged(flower_code(project, task_name(project), Path(name)), Path(name))
            client = ClientOptions(
                folder=str(release),
                shown=server.folder,
                target=str(target),
                options=with_node_options(options),
                seconds=seconds,
            )
            code = run_in_child("fedgrass.local.flower.flower_initial_model:ask_in_child", client, say)
        if not code:
            return ServersModel(model=_with_values(target.read_bytes()), settings=recorded_settings(target))
        reason = target.with_name(target.name + _REASON)
        if not reason.is_file():
            sys.exit(code)
        if code == _NONE:
            message = f"there is no initial model, because {reason.read_text(encoding='utf-8')}; {WAYS_OUT}"
            raise NoInitialModel(message)
        raise SettingsError(reason.read_text(encoding="utf-8"))


def _with_values(model: bytes) -> bytes:
    """Return a model. Raises SettingsError if it has no values, as that of an XGBoost app before round 1."""
    if not read_layout(model, len(model)).data_bytes:
        message = (
            "the app's initial model has no values, as its replies bring the first ones: such an app needs"
            " its own strategy, `fedgrass flower run`, or in the demo --server-app"
        )
        raise SettingsError(message)
    return model


def with_node_options(options: Mapping[str, Value]) -> dict[str, Value]:
    """Return options of a task with the partition 0 of 1, unless they name a partition."""
    return {**({} if NODE_OPTIONS.keys() & options.keys() else NODE_OPTIONS), **options}


def servers_model(folder: Path) -> ServersModel | None:
    """Return the initial model that an app's ServerApp passes; None if it passes none.

    Raises as ``initial_model_of``.
    """
    try:
        return initial_model_of(folder)
    except NoInitialModel:
        return None


def recorded_settings(target: Path) -> dict[str, Value]:
    """Return the settings that ``record`` wrote next to the model; empty if it wrote none."""
    file = target.with_name(target.name + SETTINGS)
    found: dict[str, Value] = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    return found


def record_in_child(options: dict[str, Any], note: Callable[[str], None]) -> int:
    """Run the ServerApp in the child process, and write its initial model; return the exit code."""
    note("ServerApp")
    server = ServerOptions(**options)
    try:
        reason, code = record(server, note), _NONE
    except SettingsError as error:
        reason, code = str(error), 1
    return _explained(server.target, reason, code) if reason else 0


def ask_in_child(options: dict[str, Any], note: Callable[[str], None]) -> int:
    """Ask the ClientApp in the child process for its parameters, and write them; return the exit code."""
    note("ClientApp")
    client = ClientOptions(**options)
    late = f"FAIL  initial model: the ClientApp takes longer than {client.seconds:g} s: raise --seconds"
    with time_limit(client.seconds, note, late):
        try:
            task = load(CLASS_LOCATION, Path(client.folder), client.options)
            found = task.initial_weights(0)
            check_finite(found)
            Path(client.target).write_bytes(encode(found, in_order=True))
        except ComponentError:
            reason = "the ServerApp passes none, and the ClientApp has no get_parameters"
        except FedgrassError as error:
            reason = str(error)
        except BaseException as error:  # the app is user code
            if is_interruption(error):
                raise
            reason = explain(error)
        else:
            return 0
    return _explained(client.target, reason.replace(client.folder, client.shown), _NONE)


def _explained(target: str, reason: str, code: int) -> int:
    """Leave a reason to the parent process; return the exit code."""
    Path(f"{target}{_REASON}").write_text(reason, encoding="utf-8")
    return code


def record(options: ServerOptions, note: Callable[[str], None]) -> str:
    """Write the initial model that a ServerApp passes; return why there is none, empty if there is.

    Raises:
        SettingsError: the ServerApp cannot be imported, raises, or its model cannot be a run's.
    """
    from fedgrass.console.flower import flower_server  # noqa: PLC0415 - imports flwr, only in a child

    flower_server.quiet()
    late = (
        f"FAIL  initial model: the ServerApp has sent no message of training within {options.seconds:g} s:"
        " raise --seconds, or give the model by --model FILE"
    )
    project = read_project(Path(options.folder))
    try:
        with time_limit(options.seconds, note, late):
            app = flower_server.load_server_app(project)
            found = flower_server.initial_arrays(app, options.config, options.arrays_key)
    except SettingsError:
        raise
    except BaseException as error:  # the app is user code
        if is_interruption(error):
            raise
        message = f"the ServerApp {project.server_app} fails: {explain(error)}"
        raise SettingsError(message) from error
    if found.arrays is None:
        return found.reason
    target = Path(options.target)
    target.with_name(target.name + SETTINGS).write_text(json.dumps(found.settings), encoding="utf-8")
    try:
        check_finite(found.arrays)
        target.write_bytes(encode(found.arrays, in_order=True))
    except FedgrassError as error:
        message = f"the initial model of the ServerApp cannot be a run's: {error}"
        raise SettingsError(message) from error
    return ""
