"""What the trainer and its worker process say to each other: one JSON object per line."""

from msgspec import Struct

from fedgrass.federation.messages import Announcement, round_id

TaskOptions = dict[str, bool | int | float | str]


class Work(Struct, frozen=True, kw_only=True, tag="work"):
    """Trainer to worker: what to do, with which task, and where the update goes."""

    announcement: Announcement
    options: TaskOptions  # of the task, from the component's configuration
    update: str  # path of the file to write
    memory: str = ""  # path of what is remembered of former updates of the run; there may be no such file


class Finish(Struct, frozen=True, tag="finish"):
    """Trainer to worker: end the training now and give what it has; other work is not meant."""

    round_id: str


class TokenExchange(Struct, frozen=True, tag="token_exchange"):
    """Trainer to worker: the token exchange service, which gives credentials, is at another address now."""

    address: str


class Waiting(Struct, frozen=True, tag="waiting"):
    """Worker to trainer: the work waits for something that is transient, and what."""

    reason: str


class Progress(Struct, frozen=True, tag="progress"):
    """Worker to trainer: so much of the training is done, 0 to 1."""

    fraction: float


class Result(Struct, frozen=True, kw_only=True, tag="result"):
    """Worker to trainer: the work is done. Durations are in seconds."""

    bytes: int  # of the update file; 0 if the work was to evaluate only
    checksum: str  # of the file: the xxh3-128 of its header, which vouches for the rest
    examples: int  # that the work used
    examples_of_task: int  # that the task has for training, for the heartbeat
    metrics: dict[str, float]  # of evaluations
    download_seconds: float
    evaluate_seconds: float  # of the global model, and of the trained one
    train_seconds: float = 0.0
    examples_evaluated: int | None = None  # None: a former version wrote this to the journal
    train_metrics: dict[str, float] = {}  # that the training reports
    unsent_metrics: str = ""  # that the task reported and no message takes, each with the reason
    partial: bool = False  # the training was stopped; ``examples`` are those really seen by then

    @property
    def reported(self) -> dict[str, float]:
        """All metrics, of evaluations and of the training."""
        return {**self.metrics, **self.train_metrics}


class Failure(Struct, frozen=True, tag="failure"):
    """Worker to trainer: the work cannot be done, and why, in one line."""

    reason: str


Request = Work | Finish | TokenExchange
Answer = Progress | Waiting | Result | Failure


def id_of(announcement: Announcement) -> str:
    """Return the word for the attempt at a round that an announcement is about."""
    return round_id(announcement.run, announcement.round, announcement.attempt)
