"""`deploy cloud --strategy`: a custom strategy, from its file to a round in the embedded cloud."""

import io
import urllib.request
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from components.trainer.tasks.noise import Noise
from fedgrass.console.deploy.deploy_cloud import CloudOptions, deploy_cloud
from fedgrass.federation import object_keys
from fedgrass.federation.errors import SettingsError
from fedgrass.federation.runs import RunState
from fedgrass.federation.settings_parser import parse_settings
from fedgrass.federation.weights import decode
from fedgrass.local.testbed import Testbed, open_testbed, thing_names
from tests.deployed import fedgrass
from tests.e2e.processes import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

HALF_STEP = """
from fedgrass.federation.aggregation import Strategy


class HalfStep(Strategy, frozen=True):
    def step(self, model, change, state, turn):
        return model + {rate} * change
"""
HALF = "half_step:HalfStep"


@pytest.fixture(scope="module")
def strategy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("strategies") / "half_step.py"
    file.write_text(HALF_STEP.format(rate=0.5))
    return file


@pytest.fixture(scope="module")
def testbed(tmp_path_factory: pytest.TempPathFactory, strategy: Path) -> Iterator[Testbed]:
    """A testbed of two devices, whose functions have the strategy."""
    things = {name: {"tasks": {"noise": {}}, "heartbeat_seconds": 5} for name in thing_names(2)}
    with open_testbed(tmp_path_factory.mktemp("testbed"), things, strategies=[strategy]) as opened:
        yield opened


def deploy(testbed: Testbed, *, strategies: Sequence[Path] = (), without: Sequence[str] = ()) -> list[str]:
    said: list[str] = []
    options = CloudOptions(strategies=strategies, without_strategies=without, poll_seconds=0.05, timeout=60)
    deploy_cloud(testbed.cloud.client, options, said.append)
    return said


def start(testbed: Testbed, name: str, **settings: object) -> None:
    chosen = {
        "task": "noise",
        "aggregation": HALF,
        "evaluate_last": False,
        "deadline_seconds": 60,
        **settings,
    }
    testbed.operator.start(name, parse_settings(chosen), Noise().initial_weights(seed=1))


def files_of(testbed: Testbed, function: str) -> dict[str, bytes]:
    found = testbed.cloud.client("lambda").get_function(FunctionName=testbed.stack[function])
    with urllib.request.urlopen(found["Code"]["Location"]) as answer:  # noqa: S310 - of the embedded cloud
        archive = zipfile.ZipFile(io.BytesIO(answer.read()))
    return {name: archive.read(name) for name in archive.namelist()}


def step_of(testbed: Testbed, run: str) -> float:
    """Return by what part of the devices' mean change the first round moved the model."""
    s3, bucket = testbed.cloud.client("s3"), testbed.stack["BucketName"]
    record = next(iter(testbed.operator.rounds(testbed.operator.run(run))))
    keys = [
        object_keys.update(participant.device, run, 1, record.round.attempt)
        for participant in record.participants
    ]
    updates = [body_of(s3.get_object(Bucket=bucket, Key=key)["Body"].read()) for key in keys]
    before, after = (body_of(testbed.operator.model(run, number)) for number in (0, 1))
    return float(np.mean(after - before) / np.mean(np.mean(updates, axis=0) - before))


def body_of(model: bytes) -> NDArray[np.float64]:
    return np.asarray(decode(model)["body"], np.float64)


def test_a_run_with_the_operators_own_strategy_makes_its_models(testbed: Testbed, strategy: Path) -> None:
    start(testbed, "half", rounds=1)
    wait_until(lambda: testbed.operator.run("half").state is not RunState.RUNNING, "the end of the run")
    assert testbed.operator.run("half").state is RunState.SUCCEEDED
    assert step_of(testbed, "half") == pytest.approx(0.5, rel=1e-3)
    for function in ("InitiatorName", "AveragerName"):
        assert files_of(testbed, function)["half_step.py"] == strategy.read_bytes()


def test_a_strategy_that_is_not_deployed_is_refused_with_the_command_for_it(
    testbed: Testbed,
) -> None:
    with pytest.raises(SettingsError, match=r"fedgrass deploy cloud --strategy mine\.py") as refused:
        start(testbed, "never", aggregation="mine:Mine", rounds=1)
    assert "'mine:Mine' cannot be loaded" in str(refused.value)


def test_strategies_stay_until_they_are_removed_and_never_under_a_living_run(
    testbed: Testbed, strategy: Path, tmp_path: Path
) -> None:
    said = deploy(testbed)
    assert f"keeping the strategy half_step: {HALF}" in said
    assert said[-1].endswith("is unchanged"), "the same bytes"

    start(testbed, "living", rounds=1000)
    testbed.operator.act("pause", "living")
    with pytest.raises(SettingsError, match="would lose their strategy: 'living' uses half_step:HalfStep"):
        deploy(testbed, without=["half_step"])
    other = tmp_path / "half_step.py"
    other.write_text(HALF_STEP.format(rate=0.25).replace("class HalfStep", "class QuarterStep"))
    with pytest.raises(SettingsError, match="would lose their strategy: 'living' uses half_step:HalfStep"):
        deploy(testbed, strategies=[other])
    assert files_of(testbed, "AveragerName")["half_step.py"] == strategy.read_bytes()

    other.write_text(HALF_STEP.format(rate=0.25))
    second = tmp_path / "steps" / "__init__.py"
    second.parent.mkdir()
    second.write_text("from steps.whole import Whole\n")
    second.with_name("whole.py").write_text(HALF_STEP.format(rate=1).replace("class HalfStep", "class Whole"))
    said = deploy(testbed, strategies=[other, second.parent])
    assert f"replacing the strategy half_step: {HALF}" in said
    assert "adding the strategy steps: steps.whole:Whole" in said
    start(testbed, "quarter", rounds=1)
    wait_until(lambda: testbed.operator.run("quarter").state is not RunState.RUNNING, "the end of the run")
    assert step_of(testbed, "quarter") == pytest.approx(0.25, rel=1e-3)

    testbed.operator.act("cancel", "living")
    said = deploy(testbed, without=["half_step"])
    assert f"removing the strategy half_step: {HALF}" in said
    assert "keeping the strategy steps: steps.whole:Whole" in said
    assert "half_step.py" not in files_of(testbed, "AveragerName")
    assert {"steps/__init__.py", "steps/whole.py"} <= files_of(testbed, "AveragerName").keys()


def test_the_command_refuses_a_strategy_in_one_line_and_changes_nothing(
    testbed: Testbed, tmp_path: Path
) -> None:
    before = files_of(testbed, "AveragerName")
    (tmp_path / "needs_torch.py").write_text("import torch\n")
    code, said = fedgrass(testbed.cloud, tmp_path, "deploy", "cloud", "--strategy", "needs_torch.py")
    assert (code, len(said.splitlines())) == (1, 1)
    assert said.startswith("fedgrass: --strategy: needs_torch imports 'torch', which is not there")
    code, said = fedgrass(testbed.cloud, tmp_path, "deploy", "cloud", "--without-strategy", "stepz")
    assert (code, len(said.splitlines())) == (1, 1)
    assert "--without-strategy 'stepz' is not deployed" in said
    assert files_of(testbed, "AveragerName") == before
