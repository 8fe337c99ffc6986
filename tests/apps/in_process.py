"""Flower's own run of an app in this process: the reference for both ways in which fedgrass runs it.

Flower's simulation engine does everything (nodes, contexts, the in-memory grid, the ServerApp's thread) but
two things. Where it would hand each message to an actor of Ray, which is not installed, ``_Backend`` calls
the ClientApp on a copy of the message. And the ServerApp begins once all nodes are registered.
"""

import copy
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

os.environ["FLWR_TELEMETRY_ENABLED"] = "0"  # before flwr is imported

from flwr.app import Context, RecordDict
from flwr.common.config import get_fused_config_from_dir, get_project_config
from flwr.server.superlink.fleet.vce.backend import Backend
from flwr.serverapp import Grid
from flwr.serverapp.server_app import LoadServerAppError
from flwr.simulation.run_simulation import _run_simulation
from flwr.supercore.constant import NOOP_FEDERATION_ID
from flwr.supercore.object_ref import load_app
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity
from flwr.supercore.telemetry import EventType

_RAY = "flwr.server.superlink.fleet.vce.backend.raybackend"
_RUN_ID, _TASK_ID = 4711, 1


def run_in_process(
    app: Path, nodes: int, folder: Path, config: Mapping[str, bool | float | str] | None = None
) -> None:
    """Run an app to its end, with ``partition-id`` 0 to ``nodes`` - 1 and ``num-partitions`` ``nodes``.

    Args:
        app: folder of the app's ``pyproject.toml``.
        nodes: number of simulated nodes.
        folder: the current folder of the run, to which a ServerApp saves its files.
        config: overrides of the app's configuration.

    Raises:
        Exception: what the ServerApp has raised. A ClientApp's exception is an error reply, as usual.
    """
    components = get_project_config(app)["tool"]["flwr"]["app"]["components"]
    run = Run.create_empty(run_id=_RUN_ID)
    run.primary_task_id, run.federation_id, run.override_config = (
        _TASK_ID,
        NOOP_FEDERATION_ID,
        dict(config or {}),
    )
    context = Context(
        run_id=_RUN_ID,
        node_id=1,
        node_config={},
        state=RecordDict(),
        run_config=get_fused_config_from_dir(app, run.override_config),
    )
    TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = _RUN_ID, 1, _TASK_ID
    with _without_ray(), _current_folder(folder):
        _run_simulation(
            num_supernodes=nodes,
            exit_event=EventType.PYTHON_API_RUN_SIMULATION_LEAVE,
            backend_name="in-process",
            client_app_attr=components["clientapp"],
            server_app=_after_the_nodes(app, components["serverapp"], nodes),
            server_app_context=context,
            app_dir=str(app),
            run=run,
            is_app=True,
        )


def _after_the_nodes(app: Path, reference: str, nodes: int) -> Callable[..., None]:
    """Return a function that calls a ServerApp once all nodes are there.

    Flower starts the ServerApp's thread before it registers the nodes, so that a strategy may select some of
    them in its first round.
    """
    server_app = load_app(reference, LoadServerAppError, app)

    def call(grid: Grid, context: Context) -> None:
        while len(list(grid.get_node_ids())) < nodes:
            time.sleep(0.01)
        server_app(grid=grid, context=context)

    return call


class _Backend(Backend):  # type: ignore[misc]  # flwr is not followed by mypy
    """Call the ClientApp in this process, one message after the other."""

    num_workers = 1

    def build(self, app_fn: Callable[[], Any]) -> None:
        self._app = app_fn()

    def is_worker_idle(self) -> bool:
        return True

    def terminate(self) -> None:
        del self._app

    def process_message(self, message: Any, context: Any) -> tuple[Any, Any]:
        """Return the reply and the context, as an actor of Ray does: neither is shared with the server."""
        context = copy.deepcopy(context)
        return self._app(copy.deepcopy(message), context), context


@contextmanager
def _without_ray() -> Iterator[None]:
    """Put ``_Backend`` where Flower imports its backend with Ray."""
    module = ModuleType(_RAY)
    module.RayBackend = _Backend  # type: ignore[attr-defined]
    before = sys.modules.get(_RAY)
    sys.modules[_RAY] = module
    try:
        yield
    finally:
        del sys.modules[_RAY]
        if before is not None:
            sys.modules[_RAY] = before


@contextmanager
def _current_folder(folder: Path) -> Iterator[None]:
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)
