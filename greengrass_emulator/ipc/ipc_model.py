"""The requests and the errors of the IPC operations, as the Greengrass IPC model defines them."""

from typing import Literal, TypeVar, cast

import msgspec


class IpcError(Exception):
    """The error response to a request; the name of its class is the name on the wire."""

    @property
    def model(self) -> str:
        """The shape's name in the Greengrass IPC model, such as `aws.greengrass#ServiceError`."""
        return f"aws.greengrass#{type(self).__name__}"


class ServiceError(IpcError):
    """The nucleus cannot carry out the operation now, or does not support it."""


class UnauthorizedError(IpcError):
    """No policy of the component's accessControl allows the operation."""


class ResourceNotFoundError(IpcError):
    """The component or the key does not exist."""


class InvalidArgumentsError(IpcError):
    """The request breaks a rule of the operation."""


class FailedUpdateConditionCheckError(IpcError):
    """The current value is later than the update."""


class InvalidTokenError(IpcError):
    """The token belongs to no component."""


class ConnectionMustCloseError(Exception):
    """Nucleus Lite answers this request by closing the component's whole IPC connection."""


class Request(msgspec.Struct, rename="camel", frozen=True, kw_only=True):
    """Base of all requests. Fields that a newer SDK adds are ignored, as by the nucleus."""


class PublishToIoTCoreRequest(Request, frozen=True):
    """A message for IoT Core."""

    topic_name: str
    qos: str = "0"
    payload: bytes = b""
    retain: bool | None = None


class SubscribeToIoTCoreRequest(Request, frozen=True):
    """A topic filter of IoT Core."""

    topic_name: str
    qos: str = "0"


class GetConfigurationRequest(Request, frozen=True):
    """A place in a component's configuration; SubscribeToConfigurationUpdate has the same fields."""

    component_name: str | None = None
    key_path: list[str] | None = None


class UpdateConfigurationRequest(Request, frozen=True):
    """A change of the component's own configuration."""

    timestamp: float
    """Seconds since 1970."""
    value_to_merge: object
    key_path: list[str] | None = None


class JsonMessage(Request, frozen=True):
    """A local message as JSON."""

    message: object


class BinaryMessage(Request, frozen=True):
    """A local message as bytes."""

    message: bytes


class PublishMessage(Request, frozen=True):
    """A local message: one of the two kinds."""

    json_message: JsonMessage | None = None
    binary_message: BinaryMessage | None = None


class PublishToTopicRequest(Request, frozen=True):
    """A message for the other components of the core."""

    topic: str
    publish_message: PublishMessage


class SubscribeToTopicRequest(Request, frozen=True):
    """A local topic."""

    topic: str
    receive_mode: Literal["RECEIVE_ALL_MESSAGES", "RECEIVE_MESSAGES_FROM_OTHERS"] | None = None


class UpdateStateRequest(Request, frozen=True):
    """The state that a component reports."""

    state: Literal["RUNNING", "ERRORED"]


class DeferComponentUpdateRequest(Request, frozen=True):
    """How long a component wants a deployment to wait."""

    deployment_id: str | None = None
    message: str | None = None
    recheck_after_ms: int | None = None


class ValidateAuthorizationTokenRequest(Request, frozen=True):
    """A token that a client has presented to Stream Manager."""

    token: str


class ComponentRequest(Request, frozen=True):
    """A deployed component: RestartComponent, StopComponent, GetComponentDetails."""

    component_name: str


class GetSecretValueRequest(Request, frozen=True):
    """A secret, in its current version if none is named."""

    secret_id: str
    version_id: str | None = None
    version_stage: str | None = None


class CreateLocalDeploymentRequest(Request, frozen=True):
    """Components to add, in which version and with what configuration, and components to remove."""

    recipe_directory_path: str | None = None
    artifacts_directory_path: str | None = None
    root_component_versions_to_add: dict[str, str] | None = None
    root_components_to_remove: list[str] | None = None
    component_to_configuration: dict[str, dict[str, object]] | None = None


class GetLocalDeploymentStatusRequest(Request, frozen=True):
    """A deployment that was made on this core."""

    deployment_id: str


RequestT = TypeVar("RequestT", bound=Request)


# Built at import, not by the first request: msgspec 0.22 crashes the process if several threads, here the
# event loops of several cores, are the first to use a Struct.
_DECODERS = {kind: msgspec.json.Decoder(kind) for kind in Request.__subclasses__()}


def parse(kind: type[RequestT], body: bytes) -> RequestT:
    """Return the request in ``body``. Raises InvalidArgumentsError, which names the invalid field."""
    try:
        return cast("RequestT", _DECODERS[kind].decode(body))
    except (msgspec.DecodeError, RecursionError) as error:
        message = f"{kind.__name__}: {error}"
        raise InvalidArgumentsError(message) from error
