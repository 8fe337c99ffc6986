"""Control a running core from another process: its messages, and the client that sends them."""

import socket
import time
from pathlib import Path
from typing import Annotated, cast

import msgspec
from msgspec import Meta

from greengrass_emulator.core.core_folders import remove_stale, socket_of, sockets
from greengrass_emulator.emulator_errors import ControlError

LONGEST_LINE_BYTES = 4 * 1024 * 1024

_ANSWER_SECONDS = 30.0
_POLL_SECONDS = 0.05


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


def ask(thing_name: str, request: ControlRequest, seconds: float = _ANSWER_SECONDS) -> Reply:
    """Send a request to the core of that name and return its reply.

    Raises:
        ControlError: no such core is running, it does not answer, or it refuses; the message is the reason.
    """
    path = socket_of(thing_name)
    try:
        return _ask(path, request, seconds)
    except (FileNotFoundError, ConnectionRefusedError) as error:
        if path.exists():
            remove_stale(path)
        running = ", ".join(core.thing for core in running_cores()[0]) or "none"
        message = f"no core {thing_name} is running here: there are {running}"
        raise ControlError(message) from error


def running_cores() -> tuple[list[CoreDescription], list[str]]:
    """Return all running cores, and a line about each that does not answer.

    The sockets of cores that were killed are removed.
    """
    found: list[CoreDescription] = []
    silent: list[str] = []
    for path in sockets():
        try:
            core = _ask(path, Describe(), _ANSWER_SECONDS).core
        except (FileNotFoundError, ConnectionRefusedError):
            if remove_stale(path):
                silent.append(f"{path.stem}: was killed; its socket has been removed")
        except ControlError as error:
            silent.append(f"{path.stem}: {error}")
        else:
            found.extend([core] if core else [])
    return found, silent


def chosen_core(thing_name: str | None) -> str:
    """Return the given name or, without one, the name of the only running core.

    Raises:
        ControlError: no name is given, and no core or several are running.
    """
    if thing_name is not None:
        return thing_name
    names = [core.thing for core in running_cores()[0]]
    if len(names) == 1:
        return names[0]
    message = (
        f"several cores are running, choose one with --thing: {', '.join(names)}"
        if names
        else "no core is running here: start one with the action `run`"
    )
    raise ControlError(message)


def wait_until_gone(thing_name: str, seconds: float) -> None:
    """Wait until a core that was asked to stop has released its name, the last thing that it does.

    Raises:
        ControlError: it has not done so after ``seconds``.
    """
    path, deadline = socket_of(thing_name), time.monotonic() + seconds
    while time.monotonic() < deadline:
        if remove_stale(path):
            return
        time.sleep(_POLL_SECONDS)
    message = f"core {thing_name} is still stopping after {seconds:g} s"
    raise ControlError(message)


def _ask(path: Path, request: ControlRequest, seconds: float) -> Reply:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(seconds)
        try:
            connection.connect(str(path))
            connection.sendall(msgspec.json.encode(request) + b"\n")
            answer = b""
            while not answer.endswith(b"\n"):
                piece = connection.recv(65_536)
                if not piece:
                    message = (
                        "the core closed the connection early: it is stopping, or the request exceeds 4 MiB"
                    )
                    raise ControlError(message)
                answer += piece
        except TimeoutError as error:
            message = f"the core did not answer within {seconds:g} s"
            raise ControlError(message) from error
        except (BrokenPipeError, ConnectionResetError) as error:
            message = "the core closed the connection: it is stopping, or the request exceeds 4 MiB"
            raise ControlError(message) from error
    reply = parse_reply(answer)
    if reply.error is not None:
        raise ControlError(reply.error)
    return reply
