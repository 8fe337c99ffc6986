"""Messages between the trainer and its worker process: one JSON object per line.

Requests are WorkOrder, StopEarly and TokenExchange; answers are Progress, Waiting, Result and Failure. A
WorkOrder is answered by exactly one Result or Failure, unless the worker dies first.
"""

from typing import Annotated

from msgspec import Meta, Struct

from fedgrass.federation.messages import Announcement, round_id

_SHARE = 0.1  # of the whole time is reserved for everything after the training
_LONGEST_SHARE = 60.0  # seconds, the upper bound of that share
_UPLOADS = 2.0  # times the duration of the previous upload: links get slower
_MOST = 0.5  # of the whole time: at least half of it is for training
TaskOptions = dict[str, bool | int | float | str]


class StatisticsPolicy(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """What the device answers to queries of statistics, by its configuration."""

    allowed: bool = True
    minimum_examples: Annotated[int, Meta(ge=0, le=2**53)] = 10  # fewer are not answered about
    minimum_devices: Annotated[int, Meta(ge=0, le=1_000_000)] = (
        0  # queries with a smaller minimum are declined
    )
    noise: Annotated[float, Meta(ge=0, le=1000)] = (
        0.0  # epsilon of an answer: the smaller, the more noise; 0: none
    )


class WorkOrder(Struct, frozen=True, kw_only=True, tag="work"):
    """Trainer to worker: train, evaluate or compute as announced, and write the update to a file."""

    announcement: Announcement
    options: TaskOptions  # of the task, from the component's configuration
    packages: str = ""  # folder of the task's own requirements, after the trainer's; empty: none
    update: str  # path of the update file to write
    statistics: StatisticsPolicy = StatisticsPolicy()  # what the device answers to a query of statistics
    memory: str = ""  # path of the run's client state after earlier updates; the file may be missing
    private: str = ""  # path of the run's private arrays after earlier updates; the file may be missing
    private_before: str = ""  # the same of the run that this one continues
    frozen: str = ""  # folder of the frozen arrays, each file named by its SHA-256
    thing: str = ""  # the thing name of this device
    state: str = ""  # path of what the task keeps for the run; the file may be missing
    failures: str = ""  # folder for the tracebacks of failed work; empty: none are kept


class StopEarly(Struct, frozen=True, tag="finish"):
    """Trainer to worker: stop the training of this round now and return the partial result."""

    round_id: str


class TokenExchange(Struct, frozen=True, tag="token_exchange"):
    """Trainer to worker: the token exchange service, which issues credentials, has a new address."""

    address: str


class Waiting(Struct, frozen=True, tag="waiting"):
    """Worker to trainer: the work is waiting for a transient problem to pass."""

    reason: str


class Progress(Struct, frozen=True, tag="progress"):
    """Worker to trainer: the completed fraction of the training, 0 to 1."""

    fraction: float


class Result(Struct, frozen=True, kw_only=True, tag="result"):
    """Worker to trainer: the work is done. Durations are in seconds."""

    bytes: int  # size of the update file; 0 if the work was an evaluation only
    checksum: str  # xxh3-128 of the file's header, which holds the checksums of the arrays
    examples: int  # used by the work
    examples_of_task: int  # available for training, for the heartbeat
    metrics: dict[str, float]  # of evaluations
    download_seconds: float
    evaluate_seconds: float  # of the global model plus the trained one
    train_seconds: float = 0.0
    examples_evaluated: int | None = None  # None in the journal of an older version
    train_metrics: dict[str, float] = {}  # reported by the training
    unsent_metrics: str = ""  # metrics that a message cannot carry, each with the reason
    partial: bool = False  # the training was stopped; ``examples`` counts those seen until then
    answer: str = ""  # to a query of statistics, if it fits into the completion; otherwise it is in the file
    note: str = ""  # what the operator should know, such as private arrays that were dropped
    # Start and end of each part of the work, and the end of all, in seconds after the worker got the work.
    timeline: dict[str, tuple[float, float]] = {}
    worker_seconds: float = 0.0

    @property
    def reported(self) -> dict[str, float]:
        """All metrics, of evaluations and of the training."""
        return {**self.metrics, **self.train_metrics}


class Failure(Struct, frozen=True, tag="failure"):
    """Worker to trainer: the work failed, or is declined; the reason is one line."""

    reason: str
    unloadable: bool = False  # the class of the task cannot be imported, or does not take its options
    declined: bool = False  # the device cannot do it, or its configuration does not allow it


Request = WorkOrder | StopEarly | TokenExchange
Answer = Progress | Waiting | Result | Failure


def id_of(announcement: Announcement) -> str:
    """Return the round id (run, round and attempt) of an announcement."""
    return round_id(announcement.run, announcement.round, announcement.attempt)


def margin_before(seconds: float, upload_seconds: float) -> float:
    """Return how many seconds before the deadline a training has to end for its update to arrive in time.

    Args:
        seconds: from now to the deadline.
        upload_seconds: duration of the previous upload of such an update; 0 if unknown.
    """
    return min(seconds * _MOST, min(seconds * _SHARE, _LONGEST_SHARE) + _UPLOADS * upload_seconds)
