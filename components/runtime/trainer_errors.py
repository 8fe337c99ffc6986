"""What can go wrong on the device, and whose fault it is.

    FedgrassError
    └── TrainerError
        ├── ConfigurationError  the operator's: a value of the component's configuration
        ├── WorkFailed          the work cannot be done; the text is what the cloud is told
        │   └── UploadFailed    ... because the update could not be brought to S3
        ├── NotSent             nobody's: the nucleus could not take a message now; try again later
        ├── Forbidden           the operator's: access control does not allow a topic
        └── ConnectionLost      the nucleus closed the connection: only a new process gets a new one

Whatever text one of these carries is shown to people as it is, in one line.
"""

from fedgrass.federation.errors import FedgrassError


class TrainerError(FedgrassError):
    """The root of the errors that the trainer raises on purpose."""


class ConfigurationError(TrainerError):
    """A value of the component's configuration cannot be used."""


class WorkFailed(TrainerError):
    """The work cannot be done; the text says why, in one line for the cloud and the log."""


class UploadFailed(WorkFailed):
    """The update could not be brought to S3 this time.

    If that is ``transient``, it is worth trying until the work's deadline.
    """

    def __init__(self, reason: str, *, transient: bool = False) -> None:
        super().__init__(reason)
        self.transient = transient


class NotSent(TrainerError):
    """The nucleus did not take a message or a subscription now: offline, spool full, too much in flight."""


class Forbidden(TrainerError):
    """The nucleus's access control does not allow a topic to this component."""


class ConnectionLost(TrainerError):
    """The nucleus closed the connection; this process cannot get a new one."""
