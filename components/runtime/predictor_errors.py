"""What can go wrong in the predictor, and whose fault it is.

    FedgrassError
    └── PredictorError
        ├── ConfigurationError  the operator's: a value of the component's configuration
        ├── RequestRefused      the application's: a request that cannot be answered, with its HTTP status
        ├── ModelRefused        the model's: it is damaged, does not fit, or is worse; the old one stays
        ├── NotNow              nobody's: the nucleus or S3 could not be reached; try again later
        ├── Forbidden           the operator's: access control does not allow a topic
        └── ConnectionLost      the nucleus closed the connection: only a new process gets a new one

Whatever text one of these carries is shown to people as it is, in one line.
"""

from http import HTTPStatus

from fedgrass.federation.errors import FedgrassError


class PredictorError(FedgrassError):
    """The root of the errors that the predictor raises on purpose."""


class ConfigurationError(PredictorError):
    """A value of the component's configuration cannot be used."""


class RequestRefused(PredictorError):
    """A request cannot be answered."""

    def __init__(self, reason: str, status: HTTPStatus = HTTPStatus.BAD_REQUEST) -> None:
        super().__init__(reason)
        self.status = status


class ModelRefused(PredictorError):
    """A new model is not taken; the text says why."""


class NotNow(PredictorError):
    """Something could not be reached now."""


class Forbidden(PredictorError):
    """The nucleus's access control does not allow a topic to this component."""


class ConnectionLost(PredictorError):
    """The nucleus closed the connection; this process cannot get a new one."""
