"""What can be asked of a running core over its control socket: one line of JSON there, one back."""

from __future__ import annotations

from typing import Annotated, cast

import msgspec
from msgspec import Meta

from greengrass_emulator.emulator_errors import ControlError

LONGEST_LINE_BYTES = 4 * 1024 * 1024


class ControlRequest(msgspec.Struct, tag_field="do", forbid_unknown_fields=True, frozen=True, kw_only=True):
    """Base of all requests."""


class Describe(ControlRequest, tag="describe", frozen=True):
    """Say what you are."""


class Stop(ControlRequest, tag="stop", frozen=True):
    """End, with all components."""


class Inject(ControlRequest, tag="inject", frozen=True):
    """Let a fault begin."""

    fault: str
    amount: int | None = None
    seconds: Annotated[float, Meta(gt=0, le=1e9)] | None = None


class Clear(ControlRequest, tag="clear", frozen=True):
    """End a fault."""

    fault: str


class Publish(ControlRequest, tag="publish", frozen=True):
    """Say something in the place of IoT Core."""

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
    """What it is called on this machine: its thing, and a number if another core had that name before."""
    pid: int
    profile: str
    root: str
    components: list[ComponentDescription]
    faults: dict[str, int | None]


class Reply(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The answer: an error, or what was asked for."""

    error: str | None = None
    core: CoreDescription | None = None
    said: str = ""


# Made at once: msgspec 0.22 crashes if several threads are the first to use a Struct.
_REQUESTS = msgspec.json.Decoder(AnyRequest)
_REPLIES = msgspec.json.Decoder(Reply)


def parse_request(line: bytes) -> AnyRequest:
    """The request in a line. Raises ControlError, which names what is wrong."""
    try:
        return cast("AnyRequest", _REQUESTS.decode(line))
    except (msgspec.DecodeError, RecursionError) as exc:
        message = f"this is no request: {exc}"
        raise ControlError(message) from exc


def parse_reply(line: bytes) -> Reply:
    """The answer in a line. Raises ControlError."""
    try:
        return _REPLIES.decode(line)
    except (msgspec.DecodeError, RecursionError) as exc:
        message = f"the core's answer cannot be understood: {exc}; is it another version of fedgrass?"
        raise ControlError(message) from exc
