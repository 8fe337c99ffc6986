"""The answer to work that raised an exception: a failure with its reason in one line."""

from components.runtime.component_errors import WorkDeclined
from components.trainer.worker.failure_log import keep_traceback
from components.trainer.worker.resource_limits import describe_memory_error, is_memory_error
from components.trainer.worker.work_runner import describe
from components.trainer.worker.worker_protocol import Failure, WorkOrder
from fedgrass.federation.errors import FedgrassError
from fedgrass.federation.messages.message_fields import LONGEST_REASON, shorten


def failure_of(work: WorkOrder, error: BaseException, *, unloadable: bool) -> Failure:
    """Return the failure of an assignment.

    Args:
        work: the assignment.
        error: what it raised; the user's task may raise anything.
        unloadable: whether the class of the task could not be imported or given its options.
    """
    if is_memory_error(error):
        return Failure(describe_memory_error())
    reason = str(error) if isinstance(error, FedgrassError) else _reason_of(work, error)
    return Failure(encodable(reason), unloadable=unloadable, declined=isinstance(error, WorkDeclined))


def encodable(reason: str) -> str:
    """Return a reason that a message can carry: a file name may contain bytes that are not valid Unicode."""
    return shorten(reason.encode(errors="backslashreplace").decode())


def _reason_of(work: WorkOrder, error: BaseException) -> str:
    """Return the failure of the user's code in one line, with the file of its traceback if that fits."""
    reason = f"task {work.announcement.task!r} failed: {describe(error)}"
    file = keep_traceback(work, error)
    noted = f"{reason}; traceback: {file.parent.name}/{file.name}" if file else reason
    return noted if len(noted) <= LONGEST_REASON else reason
