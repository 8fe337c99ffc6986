"""The errors that an IPC operation answers with.

IpcError
ServiceError                     the nucleus cannot do it now, or does not know the operation: try again later
UnauthorizedError                no policy of the component's accessControl allows it
ResourceNotFoundError            the component or the key does not exist
InvalidArgumentsError            the request breaks a rule of the operation
ConflictError                    the update contradicts the tree as it stands
FailedUpdateConditionCheckError  a later value than the update's is already there
InvalidTokenError                the token belongs to no component
"""

from __future__ import annotations


class IpcError(Exception):
    """Answers the request that was being served; its class's name is the name on the wire."""

    @property
    def model(self) -> str:
        """The shape's name in the Greengrass IPC model, such as `aws.greengrass#ServiceError`."""
        return f"aws.greengrass#{type(self).__name__}"


class ServiceError(IpcError):
    """The nucleus cannot do it now, or does not know the operation."""


class UnauthorizedError(IpcError):
    """No policy of the component's accessControl allows it."""


class ResourceNotFoundError(IpcError):
    """The component or the key does not exist."""


class InvalidArgumentsError(IpcError):
    """The request breaks a rule of the operation."""


class ConflictError(IpcError):
    """The update contradicts the tree as it stands."""


class FailedUpdateConditionCheckError(IpcError):
    """A later value than the update's is already there."""


class InvalidTokenError(IpcError):
    """The token belongs to no component."""


class ConnectionMustCloseError(Exception):
    """Nucleus Lite answers this request by closing the component's whole IPC connection."""
