"""The entry point of a container of AWS Batch: run one simulation of a grid.

``python -m fedgrass.simulation.grids.batch_worker s3://BUCKET/FOLDER`` reads ``works/<index>.json``, where
the index is AWS_BATCH_JOB_ARRAY_INDEX, and writes ``results/<index>.json``. A simulation that fails has a
result too, so that only a lost container is tried again.
"""

import os
import re
import sys
from collections.abc import Callable, Sequence

import msgspec

from fedgrass.console import stack
from fedgrass.console.terminal import complain
from fedgrass.federation.errors import FedgrassError
from fedgrass.simulation.grids.cell_work import CellWork, run_cell
from fedgrass.simulation.grids.executors.batch_jobs import S3Folder

_INDEX = "AWS_BATCH_JOB_ARRAY_INDEX"  # a job with a single simulation is not an array, and has none
_USAGE = "it takes one argument, s3://BUCKET/FOLDER of the job"


def main(arguments: Sequence[str], function: Callable[[bytes], bytes] | None = None) -> int:
    """Run one simulation; return the exit code.

    Args:
        arguments: the folder of the job.
        function: what runs it in the place of ``run_cell``.
    """
    index = os.environ.get(_INDEX, "0")
    if len(arguments) != 1 or not re.match(r"^s3://[^/]+/.+", arguments[0]):
        complain(f"batch_worker: {_USAGE}, and not {' '.join(arguments) or 'nothing'}")
        return 2
    if not index.isdecimal():
        complain(f"batch_worker: {_INDEX} is {index!r}; it takes a whole number")
        return 2
    try:
        with stack.refusals():
            folder = S3Folder(stack.client("s3"), arguments[0])
            work = folder.read(f"works/{index}.json")
        result = (function or _run_on_all_cores)(work)
        with stack.refusals():
            folder.write(f"results/{index}.json", result)
    except FedgrassError as error:
        complain(f"batch_worker: {arguments[0]}, index {index}: {error}")
        return 1
    return 0


def _run_on_all_cores(work: bytes) -> bytes:
    cell = msgspec.json.decode(work, type=CellWork)
    cores = len(os.sched_getaffinity(0))
    return run_cell(msgspec.json.encode(msgspec.structs.replace(cell, workers=cores)))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
