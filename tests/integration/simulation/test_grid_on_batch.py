"""Grids on AWS Batch: as far as the embedded cloud has it, otherwise against botocore's description of it.

The embedded cloud stores compute environments, queues, definitions and jobs, and calls every job successful
at once: it starts no container, has no array jobs (neither children nor their states), and cannot end a job.
Here each container is played by its entry point, when the job is submitted.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.stub import Stubber

from fedgrass.console import stack
from fedgrass.federation.errors import SettingsError
from fedgrass.local.aws.embedded_cloud import EmbeddedCloud
from fedgrass.simulation.grids import batch_worker
from fedgrass.simulation.grids.executors.batch_executor import BatchExecutor
from fedgrass.simulation.grids.executors.batch_jobs import ArrayJob, S3Folder
from fedgrass.simulation.grids.executors.cell_executor import WorkerLost
from fedgrass.simulation.grids.grid_action import run_grid
from fedgrass.simulation.grids.grid_file import BatchPlace
from fedgrass.simulation.simulation_spec import SimulationSpec
from tests.cloud_credentials import act_as_owner
from tests.fakes.memory_batch import MemoryS3
from tests.fakes.simulated_cells import fake_run_cell

BUCKET = "grids-of-simulations"
PLACE = BatchPlace(queue="grids", definition="fedgrass", folder=f"s3://{BUCKET}/mine")


@pytest.fixture
def batch(embedded_cloud: EmbeddedCloud, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The client of AWS Batch of the embedded cloud, with a bucket, a queue and a definition."""
    act_as_owner(monkeypatch, embedded_cloud)
    stack.client.cache_clear()
    found, s3 = stack.client("batch"), stack.client("s3")
    if not found.describe_job_queues(jobQueues=["grids"])["jobQueues"]:
        s3.create_bucket(Bucket=BUCKET)
        found.create_job_queue(jobQueueName="grids", priority=1, computeEnvironmentOrder=[])
        container = {"image": "fedgrass", "vcpus": 1, "memory": 2048}
        found.register_job_definition(
            jobDefinitionName="fedgrass", type="container", containerProperties=container
        )
    yield found
    stack.client.cache_clear()


def play_containers(monkeypatch: pytest.MonkeyPatch, batch: Any, submitted: list[dict[str, Any]]) -> None:
    """Run the entry point of each child when a job is submitted."""

    def play(params: dict[str, Any], **_: object) -> None:
        submitted.append(params)
        command = params["containerOverrides"]["command"]
        assert command[:3] == ["python", "-m", "fedgrass.simulation.grids.batch_worker"]
        size = params.get("arrayProperties", {}).get("size")
        for index in range(size or 1):
            if size:
                monkeypatch.setenv("AWS_BATCH_JOB_ARRAY_INDEX", str(index))
            else:
                monkeypatch.delenv("AWS_BATCH_JOB_ARRAY_INDEX", raising=False)
            assert batch_worker.main(command[3:], fake_run_cell) == 0

    batch.meta.events.register("provide-client-params.batch.SubmitJob", play)


def test_a_grid_is_one_array_job_with_works_and_results_in_s3(
    batch: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    submitted: list[dict[str, Any]] = []
    play_containers(monkeypatch, batch, submitted)
    grid = tmp_path / "grid.toml"
    grid.write_text(
        f"""
        rounds = [2, 3]
        [batch]
        queue = "{PLACE.queue}"
        definition = "{PLACE.definition}:1"
        folder = "{PLACE.folder}"
        """
    )
    options: dict[str, Any] = {"executor": "batch", "out": tmp_path}
    assert run_grid(grid, SimulationSpec(devices=5), seeds=2, **options) == 0
    (job,) = submitted
    assert (job["arrayProperties"], job["jobQueue"]) == ({"size": 4}, "grids")
    result = json.loads((tmp_path / "grid" / "grid.json").read_bytes())
    assert (result["done"], result["failed"]) == (4, 0)

    grid.write_text(grid.read_text().replace("[2, 3]", "[2, 3, 4]"))
    assert run_grid(grid, SimulationSpec(devices=5, seed=1), seeds=1, **options) == 0
    assert "arrayProperties" not in submitted[1]  # a single simulation is no array
    assert json.loads((tmp_path / "grid" / "grid.json").read_bytes())["kept"] == 2


def test_a_job_that_ends_without_a_result_has_lost_its_works(batch: Any) -> None:
    s3 = stack.client("s3")
    with BatchExecutor(PLACE, batch, s3, gather_seconds=0.01, first_poll=0.01) as executor:
        futures = [executor.submit(b"{}"), executor.submit(b"{}")]
        for future in futures:
            with pytest.raises(WorkerLost, match="its job succeeded without a result: Stub job completed"):
                future.result(60)


def test_a_job_that_cannot_be_ended_is_named(batch: Any) -> None:
    lines: list[str] = []
    executor = BatchExecutor(
        PLACE, batch, stack.client("s3"), gather_seconds=0.01, first_poll=1000, warn=lines.append
    )
    future = executor.submit(b"{}")
    while not executor._active:
        assert not future.done()
    executor.abandon()
    assert isinstance(future.exception(60), WorkerLost)
    (line,) = lines
    assert f"the job {executor._active[0].job.id} of AWS Batch could not be ended" in line


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"queue": "grid"}, r"\[batch\] queue is 'grid': AWS Batch has no such job queue"),
        ({"definition": "fedgras"}, r"\[batch\] definition is 'fedgras': AWS Batch has no such active"),
        ({"definition": "fedgrass:9"}, r"\[batch\] definition is 'fedgrass:9': AWS Batch has no such active"),
    ],
)
def test_a_queue_or_a_definition_that_does_not_exist_is_named(
    batch: Any, changed: dict[str, str], named: str
) -> None:
    del batch
    given = {"queue": PLACE.queue, "definition": PLACE.definition, "folder": PLACE.folder}
    with pytest.raises(SettingsError, match=named):
        BatchExecutor.connected(BatchPlace(**{**given, **changed}))


def test_the_requests_and_answers_are_those_of_aws() -> None:
    """Stubber checks both against botocore's description of AWS Batch."""
    keys: Any = {"aws_access_key_id": "a", "aws_secret_access_key": "b"}
    client: Any = boto3.client("batch", region_name="eu-central-1", **keys)
    s3 = MemoryS3()
    folder = S3Folder(s3, "s3://bucket/grids/one")
    counts = {"SUCCEEDED": 1, "FAILED": 1, "RUNNING": 1}
    common = {"jobName": "one", "jobQueue": "grids", "jobDefinition": "fedgrass:1", "startedAt": 1}
    running = {**common, "jobId": "j", "status": "PENDING", "arrayProperties": {"statusSummary": counts}}
    ended = {**running, "status": "FAILED", "statusReason": "Array Child Job failed"}
    killed = {
        "jobId": "j:1",
        "jobName": "one",
        "statusReason": "Essential container in task exited",
        "container": {"exitCode": 137, "reason": "OutOfMemoryError: Container killed"},
        "arrayProperties": {"index": 1},
    }
    with Stubber(client) as stubber:
        stubber.add_response("submit_job", {"jobName": "one", "jobId": "j"})
        stubber.add_response("describe_jobs", {"jobs": [running]}, {"jobs": ["j"]})
        failed = {"arrayJobId": "j", "jobStatus": "FAILED"}
        stubber.add_response("list_jobs", {"jobSummaryList": [killed]}, failed)
        stubber.add_response("describe_jobs", {"jobs": [ended]}, {"jobs": ["j"]})
        stubber.add_response("list_jobs", {"jobSummaryList": [killed]}, failed)
        stubber.add_response("terminate_job", {}, {"jobId": "j", "reason": "the grid was stopped"})
        job = ArrayJob(client, folder, [b"0", b"1", b"2"])
        job.submit("one", "grids", "fedgrass:1")
        assert sorted(folder.names("works")) == ["0.json", "1.json", "2.json"]
        folder.write("results/0.json", b"zero")
        results, failures, has_ended = job.poll()
        assert (results, has_ended) == ({0: b"zero"}, False)
        reason = "Essential container in task exited; OutOfMemoryError: Container killed; exit code 137"
        assert failures == {1: f"its job of AWS Batch failed: {reason}"}
        results, failures, has_ended = job.poll()
        assert (results, has_ended) == ({}, True)
        assert failures == {2: "its job failed without a result: Array Child Job failed"}
        job.terminate()
        stubber.assert_no_pending_responses()
