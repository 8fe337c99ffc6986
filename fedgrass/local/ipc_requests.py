"""The requests of the IPC operations, as the Greengrass IPC model spells them. Payloads are base64 on the wire."""

from __future__ import annotations

from typing import Literal, TypeVar

import msgspec

from fedgrass.local.ipc_errors import InvalidArgumentsError


class Request(msgspec.Struct, rename="camel", frozen=True, kw_only=True):
    """Base of all requests. Fields that a newer SDK adds are passed over, as the nucleus does."""


class PublishToIoTCoreRequest(Request, frozen=True):
    topic_name: str
    qos: Literal["0", "1"] = "0"
    payload: bytes = b""
    retain: bool | None = None


class SubscribeToIoTCoreRequest(Request, frozen=True):
    topic_name: str
    qos: Literal["0", "1"] = "0"


class GetConfigurationRequest(Request, frozen=True):
    component_name: str | None = None
    key_path: list[str] | None = None


class UpdateConfigurationRequest(Request, frozen=True):
    timestamp: float
    """Seconds of the epoch."""
    value_to_merge: object
    key_path: list[str] | None = None


class JsonMessage(Request, frozen=True):
    message: object


class BinaryMessage(Request, frozen=True):
    message: bytes


class PublishMessage(Request, frozen=True):
    json_message: JsonMessage | None = None
    binary_message: BinaryMessage | None = None


class PublishToTopicRequest(Request, frozen=True):
    topic: str
    publish_message: PublishMessage


class SubscribeToTopicRequest(Request, frozen=True):
    topic: str
    receive_mode: Literal["RECEIVE_ALL_MESSAGES", "RECEIVE_MESSAGES_FROM_OTHERS"] | None = None


class UpdateStateRequest(Request, frozen=True):
    state: Literal["RUNNING", "ERRORED"]


class ValidateAuthorizationTokenRequest(Request, frozen=True):
    token: str


class RestartComponentRequest(Request, frozen=True):
    component_name: str


RequestT = TypeVar("RequestT", bound=Request)


def parse(kind: type[RequestT], body: bytes) -> RequestT:
    """The request in `body`. Raises InvalidArgumentsError, which names the field that is wrong."""
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.DecodeError, RecursionError) as exc:
        raise InvalidArgumentsError(f"{kind.__name__}: {exc}") from exc
