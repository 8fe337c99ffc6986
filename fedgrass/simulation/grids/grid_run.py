"""Run the simulations of a grid: keep what is done, retry what was lost, and go on after failures."""

from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError, Future
from queue import SimpleQueue

import msgspec
from msgspec import Struct

from fedgrass.simulation.grids.cell_work import CellOutcome, CellWork, decode_outcome
from fedgrass.simulation.grids.executors.cell_executor import CellExecutor, WorkCrashed, WorkerLost

_ATTEMPTS = 2  # at a simulation whose worker is lost


class _Attempt(Struct, frozen=True):
    work: CellWork
    number: int


Keep = Callable[[CellOutcome], None]


def run_works(
    works: Sequence[CellWork],
    executor: CellExecutor,
    *,
    keep: Keep,
    retried: Callable[[CellWork, str], None],
) -> None:
    """Run simulations; return when each has an outcome.

    Args:
        works: the simulations.
        executor: where they run; it is left as it is.
        keep: stores an outcome; called in the order in which they end, and after
            an interruption perhaps twice with the same one.
        retried: notes that a simulation whose worker was lost is tried once more, with the reason.

    Raises:
        KeyboardInterrupt: everything that had ended by then was kept.
    """
    waiting: dict[Future[bytes], _Attempt] = {}
    # ``wait`` of concurrent.futures looks at every future each time: ten thousand of them take minutes.
    ended: SimpleQueue[Future[bytes]] = SimpleQueue()

    def submit(attempt: _Attempt) -> None:
        future = executor.submit(msgspec.json.encode(attempt.work))
        waiting[future] = attempt
        future.add_done_callback(ended.put)

    try:
        for work in works:
            submit(_Attempt(work, 1))
        while waiting:
            future = ended.get()
            attempt = waiting[future]
            outcome = _outcome(future, attempt)
            if isinstance(outcome, WorkerLost):
                retried(attempt.work, str(outcome))
                submit(_Attempt(attempt.work, attempt.number + 1))
            else:
                keep(outcome)
            del waiting[future]  # only now: an interruption keeps what was not kept yet
    except KeyboardInterrupt:
        _keep_finished(waiting, keep)
        raise


def _outcome(future: Future[bytes], attempt: _Attempt) -> CellOutcome | WorkerLost:
    """Return what became of an attempt, or that it is to be repeated."""
    work = attempt.work
    try:
        return decode_outcome(future.result(), work)
    except WorkerLost as error:
        if attempt.number < _ATTEMPTS:
            return error
        reason = f"{error} ({attempt.number} times): run fewer at a time with --workers, or make it smaller"
        return CellOutcome(id=work.id, spec=work.spec, error=reason)
    except WorkCrashed as error:
        lines = str(error).strip().splitlines() or [""]
        return CellOutcome(
            id=work.id,
            spec=work.spec,
            error=f"internal error, please report it: {lines[-1]}",
            detail=str(error),
        )
    except (ValueError, CancelledError) as error:
        return CellOutcome(id=work.id, spec=work.spec, error=str(error) or "it was cancelled")


def _keep_finished(waiting: dict[Future[bytes], _Attempt], keep: Keep) -> None:
    """Keep what had ended when the grid was interrupted."""
    for future, attempt in waiting.items():
        if future.done() and not future.cancelled() and not future.exception():
            outcome = _outcome(future, attempt)
            if isinstance(outcome, CellOutcome):
                keep(outcome)
