"""The requests to a running core over its control socket, and the replies: one line of JSON each."""

from typing import Annotated, cast

import msgspec
from msgspec import Meta

from greengrass_emulator.emulator_errors import ControlError

LONGEST_LINE_BYTES = 4 * 1024 * 1024


class ControlRequest(msgspec.Struct, tag_field="do", forbid_unknown_fields=True, frozen=True, kw_only=True):
    """Base of all requests."""


class Describe(ControlRequest, tag="describe", frozen=True):
    """Describe the core, its components and its faults."""


class Stop(ControlRequest, tag="stop", frozen=True):
    """Stop the core and its components."""


class Inject(ControlRequest, tag="inject", frozen=True):
    """Inject a fault."""

    fault: str
    amount: int | None = None
    seconds: Annotated[float, Meta(gt=0, le=1e9)] | None = None


class Clear(ControlRequest, tag="clear", frozen=True):
    """End a fault."""

    fault: str


class Publish(ControlRequest, tag="publish", frozen=True):
    """Publish a message as IoT Core would."""

    topic: str
    payload: bytes
    qos: Annotated[int, Meta(ge=0, le=1)] = 1
    retain: bool = False


class Deploy(ControlRequest, tag="deploy", frozen=True):
    """Deploy components in this order, and wait for the outcome. Paths are absolute."""

    recipes: list[str]
    artifacts: str
    configurations: dict[str, dict[str, object]] = {}
    remove: list[str] = []


class Configure(ControlRequest, tag="configure", frozen=True):
    """Merge into a component's configuration, and wait for the outcome."""

    component: str
    merge: dict[str, object]


AnyRequest = Describe | Stop | Inject | Clear | Publish | Deploy | Configure


class ComponentDescription(msgspec.Struct, frozen=True, kw_only=True):
    """One component of a core."""

    name: str
    version: str
    state: str


class CoreDescription(msgspec.Struct, frozen=True, kw_only=True):
    """One running core."""

    thing: str
    """Its name on this machine: that of its thing, with a number if another core already has that name."""
    pid: int
    profile: str
    root: str
    components: list[ComponentDescription]
    faults: dict[str, int | None]


class Reply(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The reply to a request: an error, or the result."""

    error: str | None = None
    core: CoreDescription | None = None
    said: str = ""


# Built at import: msgspec 0.22 crashes if several threads are the first to use a Struct.
_REQUESTS = msgspec.json.Decoder(AnyRequest)
_REPLIES = msgspec.json.Decoder(Reply)


def parse_request(line: bytes) -> AnyRequest:
    """Return the request in a line. Raises ControlError, which names the invalid field."""
    try:
        return cast("AnyRequest", _REQUESTS.decode(line))
    except (msgspec.DecodeError, RecursionError) as error:
        message = f"this is not a valid request: {error}"
        raise ControlError(message) from error


def parse_reply(line: bytes) -> Reply:
    """Return the reply in a line. Raises ControlError."""
    try:
        return _REPLIES.decode(line)
    except (msgspec.DecodeError, RecursionError) as error:
        message = f"the core's reply is not valid: {error}; is it another version of the emulator?"
        raise ControlError(message) from error
