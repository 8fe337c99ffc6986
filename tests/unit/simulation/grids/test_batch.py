"""AWS Batch: what is submitted together is one job; refusals end the grid, disturbances do not."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fedgrass.console import stack
from fedgrass.console.stack import StackError
from fedgrass.simulation.grids import batch_worker
from fedgrass.simulation.grids.executors.batch_executor import BatchExecutor
from fedgrass.simulation.grids.executors.cell_executor import WorkerLost
from fedgrass.simulation.grids.grid_file import BatchPlace
from tests.fakes.executor_works import perform
from tests.fakes.memory_batch import MemoryBatch, MemoryS3, refusal
from tests.fakes.thread_executor import LOST, ThreadExecutor

PLACE = BatchPlace(queue="grids", definition="fedgrass", folder="s3://bucket/grids")
SECONDS = 60


class Cloud:
    def __init__(self) -> None:
        self.s3 = MemoryS3()
        self.compute = ThreadExecutor(2, self._perform)
        self.batch = MemoryBatch(self.s3, self.compute)

    @staticmethod
    def _perform(work: bytes) -> bytes:
        if work == b"die":
            raise RuntimeError(LOST)
        return perform(work)

    def executor(self, gather_seconds: float = 1000, **options: Any) -> BatchExecutor:
        given = {"first_poll": 0.001, **options}
        return BatchExecutor(PLACE, self.batch, self.s3, gather_seconds=gather_seconds, **given)


@pytest.fixture
def cloud() -> Cloud:
    return Cloud()


def test_what_is_submitted_together_is_one_array_job(cloud: Cloud) -> None:
    with cloud.executor() as executor:
        futures = [executor.submit(f"echo {number}".encode()) for number in range(7)]
    assert [future.result() for future in futures] == [f"done: echo {n}".encode() for n in range(7)]
    (request,) = cloud.batch.submitted
    assert request["arrayProperties"] == {"size": 7}
    assert request["retryStrategy"]["evaluateOnExit"][0] == {"onStatusReason": "Host EC2*", "action": "RETRY"}


def test_a_single_work_is_no_array(cloud: Cloud) -> None:
    with cloud.executor() as executor:
        future = executor.submit(b"die")
    assert "exit code 137" in str(future.exception())
    assert "arrayProperties" not in cloud.batch.submitted[0]


def test_a_child_that_fails_is_known_before_the_job_ends(cloud: Cloud, tmp_path: Path) -> None:
    executor = cloud.executor(gather_seconds=0.2)
    slow, killed = executor.submit(f"wait {tmp_path / 'gate'}".encode()), executor.submit(b"die")
    reason = str(killed.exception(SECONDS))
    assert reason == ("its job of AWS Batch failed: OutOfMemoryError: Container killed; exit code 137")
    assert not slow.done()
    (tmp_path / "gate").touch()
    assert slow.result(SECONDS)
    executor.shutdown()


def test_a_disturbance_is_waited_for(cloud: Cloud) -> None:
    cloud.batch.refusals = {
        "submit_job": [refusal("TooManyRequestsException", "SubmitJob", 429)],
        "describe_jobs": [refusal("ServiceUnavailable", "DescribeJobs", 503)],
    }
    with cloud.executor() as executor:
        futures = [executor.submit(b"echo 1"), executor.submit(b"echo 2")]
    assert [future.result() for future in futures] == [b"done: echo 1", b"done: echo 2"]
    assert cloud.batch.refusals == {"submit_job": [], "describe_jobs": []}


@pytest.mark.parametrize("operation", ["submit_job", "describe_jobs"])
def test_a_refusal_is_the_error_of_every_future(cloud: Cloud, operation: str) -> None:
    cloud.batch.refusals = {operation: [refusal("AccessDeniedException", operation, 403)]}
    with cloud.executor() as executor:
        futures = [executor.submit(b"echo 1"), executor.submit(b"echo 2")]
    for future in futures:
        with pytest.raises(StackError, match="AccessDeniedException"):
            future.result()
    with pytest.raises(RuntimeError):
        executor.submit(b"echo 3")


def test_an_abandoned_grid_ends_its_jobs(cloud: Cloud, tmp_path: Path) -> None:
    executor = cloud.executor(gather_seconds=0.01)
    futures = [executor.submit(f"touch {tmp_path / 'begun'} wait {tmp_path / 'never'}".encode())]
    while not (tmp_path / "begun").exists():
        assert not futures[0].done()
    executor.abandon()
    assert isinstance(futures[0].exception(), WorkerLost)
    assert cloud.batch.terminated == list(cloud.batch.jobs)
    (tmp_path / "never").touch()


@pytest.fixture
def no_credentials(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE", "AWS_ENDPOINT_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_REGION", "eu-central-1")
    stack.client.cache_clear()
    yield
    stack.client.cache_clear()


@pytest.mark.usefixtures("no_credentials")
def test_without_credentials_it_is_said_how_to_give_some() -> None:
    with pytest.raises(StackError, match="it needs credentials: set AWS_PROFILE"):
        BatchExecutor.connected(PLACE)


@pytest.mark.usefixtures("no_credentials")
def test_a_container_without_credentials_ends_with_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert batch_worker.main(["s3://bucket/grids/one"]) == 1
    error = capsys.readouterr().err
    assert error.startswith("batch_worker: s3://bucket/grids/one, index 0: ")
    assert error.count("\n") == 1


@pytest.mark.parametrize("words", [[], ["/folder"], ["s3://bucket/a", "s3://bucket/b"]])
def test_a_container_with_another_argument_than_a_folder_says_so(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert batch_worker.main(words) == 2
    assert "it takes one argument, s3://BUCKET/FOLDER of the job" in capsys.readouterr().err


def test_a_container_with_an_index_that_is_no_number_says_so(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_BATCH_JOB_ARRAY_INDEX", "../1")
    assert batch_worker.main(["s3://bucket/grids/one"]) == 2
    assert "AWS_BATCH_JOB_ARRAY_INDEX is '../1'" in capsys.readouterr().err
