"""The process of a ServerApp is killed while it runs over local cores, and resumed: the same model."""

import signal
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("flwr")

from fedgrass.federation.rounds import Participation
from fedgrass.federation.runs import RunState
from fedgrass.local.flower.flower_demo import FlowerDemoTask
from fedgrass.local.local_fleet import ComponentBuild
from fedgrass.local.testbed import Testbed, open_testbed, thing_names
from tests.apps.in_process import run_in_process
from tests.e2e.processes import command, wait_until

APP = Path(__file__).parents[1] / "apps" / "numpy_mean"
DEVICES, ROUNDS = 2, 6
pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def testbed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Testbed]:
    folder = tmp_path_factory.mktemp("flower")
    task = FlowerDemoTask("flower:", APP, DEVICES, {})
    name = task.build_component(folder / "task")
    build = ComponentBuild(name, folder / "task" / "recipes" / f"{name}.yaml", folder / "task" / "artifacts")
    things = {
        thing: {"tasks": task.configuration(share), "heartbeat_seconds": 5}
        for share, thing in enumerate(thing_names(DEVICES))
    }
    with open_testbed(folder / "testbed", things, tasks=[build]) as opened:
        wait_until(
            lambda: all(task.name in device.tasks for device in opened.operator.devices()), "the app's task"
        )
        yield opened


def test_a_killed_server_app_is_resumed_and_ends_with_the_same_model(
    testbed: Testbed, tmp_path: Path
) -> None:
    environment = testbed.cloud.environment()
    words = ["flower", "run", str(APP), "--name", "killed", "--run-config", f"num-server-rounds={ROUNDS}"]
    with command(tmp_path, *words, environment=environment) as first:
        first.wait_for("round 5: ")
        first.interrupt(signal.SIGKILL)
        first.wait()
    run = testbed.operator.run("killed")
    assert run.state is RunState.RUNNING
    before = run.round
    time.sleep(1)  # devices may still answer
    with command(tmp_path, "flower", "resume", "killed", environment=environment) as second:
        second.wait_for("run killed: SUCCEEDED")
        assert f"of {ROUNDS} were finished before" in second.said()
    run = testbed.operator.run("killed")
    assert (run.state, run.round) == (RunState.SUCCEEDED, 2 * ROUNDS)
    assert before >= 5
    for record in testbed.operator.rounds(run):
        assert {part.state for part in record.participants} == {Participation.REPLIED}
    expected = tmp_path / "expected"
    expected.mkdir()
    run_in_process(APP, DEVICES, expected, {"num-server-rounds": ROUNDS})
    with np.load(tmp_path / "final_model.npz") as found, np.load(expected / "final_model.npz") as reference:
        for name in reference:
            assert np.allclose(found[name], reference[name], atol=1e-6)


def test_ctrl_c_leaves_a_run_that_can_be_resumed(testbed: Testbed, tmp_path: Path) -> None:
    words = ["flower", "run", str(APP), "--name", "interrupted", "--run-config", "num-server-rounds=50"]
    with command(tmp_path, *words, environment=testbed.cloud.environment()) as started:
        started.wait_for("round 2: ")
        started.interrupt(signal.SIGINT)
        assert started.wait() == 130
        assert "`fedgrass flower resume interrupted` continues it" in started.said()
    assert testbed.operator.run("interrupted").state is RunState.RUNNING
    testbed.operator.act("cancel", "interrupted")
    with command(
        tmp_path, "flower", "resume", "interrupted", environment=testbed.cloud.environment()
    ) as again:
        again.wait_for("run 'interrupted' is CANCELLED")
