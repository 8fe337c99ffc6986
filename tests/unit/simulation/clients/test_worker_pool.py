"""The pool of worker processes, as far as it needs no process."""

import os

import pytest

from fedgrass.simulation.clients.job_calls import warm_up
from fedgrass.simulation.clients.worker_pool import WorkerDied, WorkerPool


def test_a_job_for_a_closed_pool_fails_as_one_whose_worker_has_died() -> None:
    pool = WorkerPool(1, warm_up)
    pool.close()
    with pytest.raises(WorkerDied, match="it was ended with the simulation"):
        pool.submit(os.getpid).result(timeout=1)
