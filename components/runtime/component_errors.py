"""Errors that the components raise on purpose, and whose fault each of them is.

    FedgrassError
    └── ComponentError
        ├── ConfigurationError  the operator's: a value of the component's configuration
        ├── Unavailable         transient: the nucleus, the broker or S3 did not answer; retry later
        ├── Forbidden           the operator's: access control does not allow a topic
        ├── ConnectionLost      transient: the nucleus closed the connection; only a new process gets another
        ├── WorkFailed          trainer: the assignment failed; the cloud receives the text
        │   ├── UploadFailed    ... because the update could not be uploaded to S3
        │   └── WorkDeclined    ... because the device cannot do it, so another one should be asked
        ├── RequestRefused      predictor: a request that cannot be answered, with its HTTP status
        └── ModelRefused        predictor: a model that is damaged, does not fit or is worse

The text of each is one line, shown to people unchanged.
"""

from http import HTTPStatus

from fedgrass.federation.errors import FedgrassError


class ComponentError(FedgrassError):
    """The root of the errors that a component raises on purpose."""


class ConfigurationError(ComponentError):
    """A value of the component's configuration cannot be used."""


class Unavailable(ComponentError):
    """A service did not answer or did not accept a call; the same call may succeed later.

    Reasons are a lost connection, a full spool or too many messages in flight.
    """


class Forbidden(ComponentError):
    """Access control does not allow this component to use a topic."""


class ConnectionLost(ComponentError):
    """The nucleus closed the connection; this process cannot get a new one."""


class WorkFailed(ComponentError):
    """An assignment failed; the text is the reason that the log and the cloud get."""


class UploadFailed(WorkFailed):
    """The update could not be uploaded to S3 this time.

    A ``transient`` failure is worth retrying until the deadline of the assignment.
    """

    def __init__(self, reason: str, *, transient: bool = False) -> None:
        super().__init__(reason)
        self.transient = transient


class WorkDeclined(WorkFailed):
    """The device cannot do the assignment: its model is not the run's."""


class RequestRefused(ComponentError):
    """A prediction request cannot be answered; ``status`` is its HTTP status."""

    def __init__(self, reason: str, status: HTTPStatus = HTTPStatus.BAD_REQUEST) -> None:
        super().__init__(reason)
        self.status = status


class ModelRefused(ComponentError):
    """A new model is refused; the previous one stays in use."""
