"""`fedgrass flower run` and `resume` of small apps against a fleet in memory."""

import io
import os
import signal
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("flwr")

from rich.console import Console

from fedgrass.console.flower.flower_project import FlowerProject
from fedgrass.console.flower.server_app_run import ServerAppFailed, drive
from fedgrass.federation.errors import SettingsError
from fedgrass.federation.runs import RunState
from tests.fakes.flower_fleet import FlowerFleet
from tests.fakes.small_fleet import RUN
from tests.unit.console.flower.test_fleet_grid import adding

HEAD = """
import numpy as np
from flwr.app import Array, ArrayRecord, Message, RecordDict, ConfigRecord
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

app = ServerApp()

@app.main()
def main(grid, context):
"""


class App:
    """An app of one module, and what its run has printed."""

    def __init__(self, folder: Path, fleet: FlowerFleet) -> None:
        self.folder, self.fleet = folder, fleet
        self.printed = ""
        self.outlives = True

    def run(self, main: str, *, module: str = "", resume: bool = False, **config: float) -> None:
        sys.modules.pop("server_of_test", None)
        text = module or HEAD + textwrap.indent(textwrap.dedent(main), "    ")
        (self.folder / "server_of_test.py").write_text(text, encoding="utf-8")
        project = FlowerProject(
            folder=self.folder, name="app", version="1", server_app="server_of_test:app", client_app="a:b"
        )
        out = io.StringIO()
        try:
            drive(
                self.fleet,
                self.fleet.run(RUN),
                project,
                config,
                self.folder / "log",
                resume=resume,
                out=Console(file=out, width=300),
                exchange_of=self.fleet.exchange,
                outlives=self.outlives,
            )
        finally:
            self.printed = out.getvalue()

    @property
    def log(self) -> str:
        return (self.folder / "log" / "server_app.log").read_text(encoding="utf-8")

    @property
    def state(self) -> tuple[RunState, str]:
        run = self.fleet.run(RUN)
        return run.state, run.reason


@pytest.fixture
def app(tmp_path: Path) -> Iterator[App]:
    before = list(sys.path)
    yield App(tmp_path, FlowerFleet(3, adding))
    sys.path[:] = before
    sys.modules.pop("server_of_test", None)


STARTS = """
record = ArrayRecord({"a": Array(np.zeros(6000, np.float32))})
result = FedAvg().start(grid, record, num_rounds=context.run_config["rounds"])
print(float(result.arrays["a"].numpy()[0]))
"""


def test_a_server_app_runs_to_its_end_and_its_run_succeeds(
    app: App, capsys: pytest.CaptureFixture[str]
) -> None:
    app.run(STARTS, rounds=2)
    assert app.state[0] is RunState.SUCCEEDED
    assert capsys.readouterr().out.strip().startswith("2.66")
    assert "round 1: train sent to 3 devices" in app.printed
    assert "aggregate_train: Received 3 results and 0 failures" in app.printed
    assert f"run {RUN}: SUCCEEDED, 4 rounds of messages" in app.printed


def test_an_exception_of_the_app_is_one_line_with_its_place_and_fails_the_run(app: App) -> None:
    with pytest.raises(ServerAppFailed, match=r"KeyError: 'rounds' \(server_of_test.py, line 13\)"):
        app.run(STARTS)
    state, reason = app.state
    assert state is RunState.FAILED
    assert "KeyError: 'rounds' (server_of_test.py, line 13)" in reason
    assert "Traceback" in app.log
    assert "Traceback" not in app.printed


def test_an_app_that_cannot_be_imported_fails_by_name(app: App) -> None:
    with pytest.raises(SettingsError, match="imports 'nothing', which is not installed here"):
        app.run("", module="import nothing")


def test_an_interrupted_run_waits_and_names_the_way_to_resume_it(app: App) -> None:
    with pytest.raises(KeyboardInterrupt):
        app.run("raise KeyboardInterrupt")
    assert app.state[0] is RunState.RUNNING
    assert f"fedgrass flower resume {RUN}" in app.printed


def test_an_interrupted_run_whose_cloud_ends_as_well_is_not_to_be_resumed(app: App) -> None:
    app.outlives = False
    with pytest.raises(KeyboardInterrupt):
        app.run("raise KeyboardInterrupt")
    assert f"interrupted; run {RUN} ends with its cloud" in app.printed
    assert "resume" not in app.printed


def test_an_interrupted_run_with_its_own_loop_cannot_be_resumed_which_is_printed(app: App) -> None:
    with pytest.raises(KeyboardInterrupt):
        app.run("""
        content = RecordDict({"arrays": ArrayRecord([np.zeros(2)]), "config": ConfigRecord({"lr": 1.0})})
        grid.send_and_receive([Message(content, node, "train") for node in grid.get_node_ids()])
        raise KeyboardInterrupt
        """)
    assert "cannot be resumed, since its ServerApp runs its own loop" in app.printed
    assert f"`fedgrass run cancel {RUN}` ends it" in app.printed
    assert "flower resume" not in app.printed


def test_a_run_that_is_resumed_continues_with_the_next_round(app: App) -> None:
    with pytest.raises(KeyboardInterrupt):
        app.run(
            STARTS.replace("FedAvg()", "Interrupted()"),
            module=HEAD.replace("app =", INTERRUPTED)
            + textwrap.indent(STARTS.replace("FedAvg()", "Interrupted()"), "    "),
            rounds=3,
        )
    app.run(
        STARTS,
        module=HEAD.replace(
            "app =",
            INTERRUPTED.replace(
                "KeyboardInterrupt", "ZeroDivisionError if server_round == 7 else StopIteration"
            ).replace("server_round == 2", "server_round == 8"),
        )
        + textwrap.indent(STARTS.replace("FedAvg()", "Interrupted()"), "    "),
        resume=True,
        rounds=3,
    )
    assert app.state[0] is RunState.SUCCEEDED
    assert f"run {RUN}: digits of {app.folder} is resumed" in app.printed
    assert "Rounds 1 to 1 of 3 were finished before" in app.printed
    assert [number for _, number, _ in app.fleet.answered] == [
        1,
        1,
        1,
        2,
        2,
        2,
        3,
        3,
        3,
        4,
        4,
        4,
        5,
        5,
        5,
        6,
        6,
        6,
    ]
    assert "of the earlier process" not in app.printed


INTERRUPTED = """
class Interrupted(FedAvg):
    def aggregate_train(self, server_round, replies):
        if server_round == 2:
            raise KeyboardInterrupt
        return super().aggregate_train(server_round, replies)

app ="""


def test_ctrl_c_ends_the_threads_of_an_app_of_the_former_api(
    app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses = []

    def pause(seconds: float) -> bool:
        pauses.append(seconds)
        if len(pauses) == 5:
            os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.01)
        return False

    monkeypatch.setattr(app.fleet, "pause", pause)
    module = """
from flwr.common import ndarrays_to_parameters
from flwr.server import ServerApp, ServerAppComponents, ServerConfig
from flwr.server.strategy import FedAvg
import numpy as np

def server_fn(context):
    strategy = FedAvg(initial_parameters=ndarrays_to_parameters([np.zeros(3)]))
    return ServerAppComponents(strategy=strategy, config=ServerConfig(num_rounds=1))

app = ServerApp(server_fn=server_fn)
"""
    with pytest.raises(KeyboardInterrupt):
        app.run("", module=module)
    assert app.state[0] is RunState.RUNNING
    with pytest.raises(SettingsError, match=r"server_fn, and such an app cannot be resumed"):
        app.run("", module=module, resume=True)


def test_an_app_with_a_loop_of_its_own_is_refused_by_name(app: App) -> None:
    asks = """
    node = next(iter(grid.get_node_ids()))
    record = RecordDict({"arrays": ArrayRecord({"a": Array(np.zeros(4))})})
    grid.send_and_receive([Message(record, node, "train")])
    raise KeyboardInterrupt
    """
    with pytest.raises(KeyboardInterrupt):
        app.run(asks)
    assert "flower resume" not in app.printed
    assert f"`fedgrass run cancel {RUN}` ends it" in app.printed
    with pytest.raises(SettingsError, match=r"runs its own loop .* cannot be resumed"):
        app.run(asks, resume=True)
