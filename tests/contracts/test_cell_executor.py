"""What every executor of a grid does: threads (the fake), processes, AWS Batch in memory, and Ray.

Ray is in an environment of its own: ``make test-ray`` runs this file there.
"""

import importlib.util
import time
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, CancelledError, Future, as_completed, wait
from pathlib import Path
from typing import Any

import pytest

from fedgrass.simulation.grids.executors.batch_executor import BatchExecutor
from fedgrass.simulation.grids.executors.cell_executor import CellExecutor, WorkCrashed, WorkerLost
from fedgrass.simulation.grids.executors.process_executor import ProcessExecutor
from fedgrass.simulation.grids.executors.ray_executor import RayExecutor
from fedgrass.simulation.grids.grid_file import BatchPlace
from tests.fakes.executor_works import perform
from tests.fakes.memory_batch import MemoryBatch, MemoryS3
from tests.fakes.thread_executor import LOST, ThreadExecutor

ray: Any = importlib.import_module("ray") if importlib.util.find_spec("ray") else None
PLACE = BatchPlace(queue="grids", definition="fedgrass", folder="s3://bucket/grids")
SECONDS = 60  # after which a test gives up
Open = Callable[[], CellExecutor]


def perform_in_thread(work: bytes) -> bytes:
    if work == b"die":
        raise RuntimeError(LOST)
    return perform(work)


def open_batch() -> BatchExecutor:
    s3 = MemoryS3()
    batch = MemoryBatch(s3, ThreadExecutor(2, perform_in_thread))
    return BatchExecutor(PLACE, batch, s3, gather_seconds=0.05, first_poll=0.01)


def open_ray() -> CellExecutor:
    if not ray.is_initialized():  # takes seconds: once for all tests, which share it
        RayExecutor("", 2, perform)
    return RayExecutor("", 2, perform)


NO_RAY = pytest.mark.skipif(ray is None, reason="Ray is not in this environment: make test-ray")
OPENERS: dict[str, Open] = {
    "threads": lambda: ThreadExecutor(2, perform_in_thread),
    "processes": lambda: ProcessExecutor(2, perform),
    "batch": open_batch,
    "ray": open_ray,
}


@pytest.fixture(params=[pytest.param(name, marks=[NO_RAY] if name == "ray" else []) for name in OPENERS])
def executor(request: pytest.FixtureRequest) -> Iterator[CellExecutor]:
    """An executor with room for two works at a time."""
    made = OPENERS[request.param]()
    yield made
    made.abandon()
    made.shutdown()


def await_file(path: Path) -> None:
    until = time.monotonic() + SECONDS
    while not path.exists():
        assert time.monotonic() < until, f"{path.name} was not begun"
        time.sleep(0.005)


def test_each_future_has_the_result_of_its_work(executor: CellExecutor) -> None:
    futures = {executor.submit(f"echo {number}".encode()): number for number in range(7)}
    for future in as_completed(futures, timeout=SECONDS):
        assert future.result() == f"done: echo {futures[future]}".encode()


def test_an_error_of_a_work_is_the_error_of_its_future_alone(executor: CellExecutor) -> None:
    first, broken, last = (executor.submit(work) for work in (b"echo 1", b"fail", b"echo 2"))
    assert isinstance(broken.exception(SECONDS), WorkCrashed | WorkerLost)
    assert (first.result(SECONDS), last.result(SECONDS)) == (b"done: echo 1", b"done: echo 2")


def test_a_worker_that_is_killed_fails_its_own_work_and_others_go_on(
    executor: CellExecutor, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    beside = executor.submit(f"wait {gate}".encode())
    killed = executor.submit(b"die")
    assert isinstance(killed.exception(SECONDS), WorkerLost)
    gate.touch()
    assert beside.result(SECONDS).startswith(b"done")
    assert executor.submit(b"echo after").result(SECONDS) == b"done: echo after"


def test_two_works_run_at_the_same_time(executor: CellExecutor, tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    # Each waits until the other one has begun.
    futures = [
        executor.submit(f"touch {one} wait {other}".encode()),
        executor.submit(f"touch {other} wait {one}".encode()),
    ]
    assert not wait(futures, SECONDS).not_done


def test_a_cancelled_work_that_has_not_begun_never_runs(executor: CellExecutor, tmp_path: Path) -> None:
    gate, trace = tmp_path / "gate", tmp_path / "trace"
    if isinstance(executor, BatchExecutor):
        executor._gather_seconds = 1000  # until the shutdown
    busy = [executor.submit(f"wait {gate}".encode()) for _ in range(2)]
    waiting = executor.submit(f"touch {trace}".encode())
    assert waiting.cancel()
    gate.touch()
    executor.shutdown()
    assert all(future.done() for future in busy)
    assert waiting.cancelled()
    assert not trace.exists()


def test_a_shutdown_waits_for_what_runs_and_may_cancel_the_rest(
    executor: CellExecutor, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    begun = [tmp_path / f"begun-{number}" for number in range(2)]
    running = [executor.submit(f"touch {each} wait {gate}".encode()) for each in begun]
    for each in begun:
        await_file(each)
    executor.shutdown(wait=False)
    assert not any(future.done() for future in running)
    gate.touch()
    executor.shutdown(cancel_futures=True)
    assert [future.done() for future in running] == [True, True]
    executor.shutdown()  # twice is allowed


def test_a_shutdown_without_cancellation_completes_everything(executor: CellExecutor) -> None:
    futures = [executor.submit(f"echo {number}".encode()) for number in range(5)]
    executor.shutdown()
    assert all(future.done() and future.result().startswith(b"done") for future in futures)


def test_nothing_is_accepted_after_a_shutdown(executor: CellExecutor) -> None:
    executor.shutdown()
    with pytest.raises(RuntimeError, match="cannot schedule new futures"):
        executor.submit(b"echo")


def test_what_is_abandoned_ends_at_once(executor: CellExecutor, tmp_path: Path) -> None:
    begun = tmp_path / "begun"
    running = executor.submit(f"touch {begun} wait {tmp_path / 'never'}".encode())
    await_file(begun)
    queued = [executor.submit(f"wait {tmp_path / 'never'}".encode()) for _ in range(4)]
    executor.abandon()
    assert isinstance(running.exception(SECONDS), WorkerLost)
    for future in queued:
        with pytest.raises((CancelledError, WorkerLost)):
            future.result(SECONDS)


def test_a_context_that_an_error_leaves_abandons_its_works(executor: CellExecutor, tmp_path: Path) -> None:
    begun = tmp_path / "begun"
    executor.__enter__()
    future = executor.submit(f"touch {begun} wait {tmp_path / 'never'}".encode())
    await_file(begun)
    executor.__exit__(KeyboardInterrupt, KeyboardInterrupt(), None)
    assert isinstance(future.exception(SECONDS), WorkerLost)


def test_a_context_waits_for_all_works(executor: CellExecutor) -> None:
    with executor:
        futures = [executor.submit(f"echo {number}".encode()) for number in range(5)]
    assert all(future.done() and future.result() for future in futures)


def test_callbacks_are_called_and_a_first_completion_is_seen(executor: CellExecutor, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    called: list[Future[bytes]] = []
    slow, fast = executor.submit(f"wait {gate}".encode()), executor.submit(b"echo")
    fast.add_done_callback(called.append)
    done, not_done = wait([slow, fast], SECONDS, FIRST_COMPLETED)
    assert (done, not_done) == ({fast}, {slow})
    gate.touch()
    assert slow.result(SECONDS)
    assert called == [fast]
