"""MLflow's client against a real MLflow server, and TensorBoard's files against its own reader.

Both are in a separate environment, which ``make test-tracking`` makes.
"""

import contextlib
import json
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest

from fedgrass.console import stack
from fedgrass.console.tracking.mlflow_sink import MlflowSink
from fedgrass.console.tracking.tensorboard_events import TensorBoardEvents
from fedgrass.federation.runs import RunState
from tests.fakes.model_registry import ModelOperator
from tests.fakes.small_fleet import RUN
from tests.fakes.tracked_fleet import TrackedFleet

SERVERS = Path(__file__).parents[3] / ".venv-tracking" / "bin"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(600),  # the server takes half a minute to start where others work on the machine
    pytest.mark.skipif(
        not (SERVERS / "mlflow").exists(), reason="there is no .venv-tracking: make test-tracking makes it"
    ),
]
READ_EVENTS = """
import json, sys
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
found = EventAccumulator(sys.argv[1], size_guidance={"scalars": 0}).Reload()
tags = found.Tags()
scalars = {tag: [(e.step, e.value, e.wall_time) for e in found.Scalars(tag)] for tag in tags["scalars"]}
print(json.dumps({"scalars": scalars, "tensors": tags["tensors"]}))
"""


@contextlib.contextmanager
def server(folder: Path, port: int) -> Iterator[str]:
    """Run an MLflow server in a separate process."""
    url = f"http://127.0.0.1:{port}"
    command = [
        str(SERVERS / "mlflow"),
        "server",
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
        "--workers",
        "1",
    ]
    store = ["--backend-store-uri", f"sqlite:///{folder}/mlflow.db", "--artifacts-destination", str(folder)]
    environment = {
        "PATH": f"{SERVERS}:/usr/bin:/bin",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "HOME": str(folder),
    }
    with (folder / "server.log").open("ab") as log:
        process = subprocess.Popen([*command, *store], cwd=folder, env=environment, stdout=log, stderr=log)
    try:
        until = time.monotonic() + 200
        while not healthy(url):
            assert process.poll() is None, (folder / "server.log").read_text()
            assert time.monotonic() < until
            time.sleep(0.2)
        yield url
    finally:
        process.terminate()
        process.wait()


def healthy(url: str) -> bool:
    try:
        with urlopen(f"{url}/health", timeout=5) as response:  # noqa: S310 - the server above
            return bool(response.status == 200)
    except OSError:
        return False


def free_port() -> int:
    with socket.socket() as opened:
        opened.bind(("127.0.0.1", 0))
        port: int = opened.getsockname()[1]
        return port


def client(url: str) -> Any:
    from mlflow import MlflowClient  # noqa: PLC0415 - the sink sets its environment first

    return MlflowClient(url, registry_uri=url)


def only_run(url: str) -> Any:
    experiment = client(url).get_experiment_by_name("fedgrass")
    (found,) = client(url).search_runs([experiment.experiment_id])
    return found


def test_a_run_is_one_run_of_mlflow_with_its_settings_figures_and_models(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    fleet = TrackedFleet(devices=2, rounds=3, training={"epochs": 2})
    fleet.start()
    port = free_port()
    with server(tmp_path, port) as url:
        fleet.train(2)
        fleet.track(MlflowSink(url, stack.client))
        assert only_run(url).info.status == "RUNNING"
        assert only_run(url).info.run_name == RUN
        assert only_run(url).data.params == {
            "task": "digits",
            "rounds": "3",
            "training.epochs": "2",
            "evaluate_last": "false",
        }
    warnings: list[str] = []
    gone = fleet.track(MlflowSink(url, stack.client), warnings=warnings)
    assert len(warnings) == 1
    assert gone.sinks[0].error
    fleet.train()
    assert fleet.run().state is RunState.SUCCEEDED
    with server(tmp_path, port) as url:
        reports = [fleet.track(MlflowSink(url, stack.client)).sinks[0] for _ in range(2)]
        assert [(each.rounds, each.models, each.recorded) for each in reports] == [(1, 1, 2), (0, 0, 3)]
        found = only_run(url)
        assert found.info.status == "FINISHED"
        assert found.data.tags["fedgrass.reason"] == "all 3 rounds closed"
        for metric in ("loss", "round/replied", "round/seconds"):
            history = client(url).get_metric_history(found.info.run_id, metric)
            assert [point.step for point in history] == [1, 2, 3]
        (version,) = client(url).search_model_versions("name = 'garden-digits'")
        assert version.source == "s3://bucket/models/run-1/3.safetensors"
        assert version.run_id == found.info.run_id
        assert version.tags["fedgrass.parent"] == "run-1/2"
        assert version.tags["fedgrass.sha256"] == fleet.newest().model_sha256
        ModelOperator(fleet).move_alias("promote", run=RUN, round=2, alias="production")
        ModelOperator(fleet).move_alias(
            "promote", run=RUN, round=1, alias="v1"
        )  # which MLflow keeps for itself
        fleet.track(MlflowSink(url, stack.client), models="all")
        report = fleet.track(MlflowSink(url, stack.client), models="all").sinks[0]
        assert (report.models, report.error) == (0, "")
        promoted = client(url).get_model_version_by_alias("garden-digits", "production")
        assert promoted.tags["fedgrass.round"] == "2"
        versions = client(url).search_model_versions("name = 'garden-digits'")
        assert sorted(each.tags["fedgrass.round"] for each in versions) == ["1", "2", "3"]
    assert capfd.readouterr().out == ""  # which is for the command's JSON


def test_tensorboard_reads_what_is_written_once_over_several_files(tmp_path: Path) -> None:
    fleet = TrackedFleet(devices=2, rounds=3)
    fleet.start()
    for _ in range(3):
        fleet.train()
        fleet.track(TensorBoardEvents(str(tmp_path), stack.client))
    fleet.track(TensorBoardEvents(str(tmp_path), stack.client))
    folder = tmp_path / "garden" / RUN
    done = subprocess.run(
        [SERVERS / "python", "-c", READ_EVENTS, folder], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    rounds = [fleet.rounds.round(RUN, number, 1) for number in (1, 2, 3)]
    assert found["scalars"]["loss"] == [
        [each.number, 0.25, each.closed_at / 1000] for each in rounds if each is not None
    ]
    assert [step for step, _, _ in found["scalars"]["round/attempt"]] == [1, 2, 3]
    assert found["tensors"] == ["settings/text_summary"]
