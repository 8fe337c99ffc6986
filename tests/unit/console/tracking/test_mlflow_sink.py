"""MLflow's own client over its own store in files; make test-tracking has a server."""

from pathlib import Path
from typing import Any

import pytest

from fedgrass.console import stack
from tests.fakes.small_fleet import RUN
from tests.fakes.tracked_fleet import TrackedFleet

pytest.importorskip("mlflow", reason="the extra mlflow is not installed")

from fedgrass.console.tracking.mlflow_sink import MlflowSink


def client(url: str) -> Any:
    from mlflow import MlflowClient  # noqa: PLC0415 - takes two seconds

    return MlflowClient(url, registry_uri=url)


@pytest.mark.slow
def test_rounds_are_logged_once_in_one_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")  # old, but needs no database and no server
    monkeypatch.chdir(tmp_path)  # the client creates an empty mlflow.db in the current folder
    url = (tmp_path / "store").as_uri()
    fleet = TrackedFleet(devices=2, rounds=3)
    fleet.start()
    for _ in range(3):
        fleet.train()
        fleet.track(MlflowSink(url, stack.client))
        fleet.track(MlflowSink(url, stack.client))
    experiment = client(url).get_experiment_by_name("fedgrass")
    (run,) = client(url).search_runs([experiment.experiment_id])
    assert (run.info.run_name, run.info.status) == (RUN, "FINISHED")
    history = client(url).get_metric_history(run.info.run_id, "loss")
    assert [point.step for point in history] == [1, 2, 3]
    (version,) = client(url).search_model_versions("name = 'garden-digits'")
    assert version.source == f"s3://bucket/models/{RUN}/3.safetensors"
