"""Talks to running cores over their control sockets."""

from __future__ import annotations

import socket
import time
from pathlib import Path
from typing import Final

import msgspec

from greengrass_emulator.control.control_messages import (
    ControlRequest,
    CoreDescription,
    Describe,
    Reply,
    parse_reply,
)
from greengrass_emulator.core.core_folders import remove_stale, socket_of, sockets
from greengrass_emulator.emulator_errors import ControlError

ANSWER_SECONDS: Final = 30.0
_POLL_SECONDS: Final = 0.05


def ask(thing_name: str, request: ControlRequest, seconds: float = ANSWER_SECONDS) -> Reply:
    """Ask the core of that name. Raises ControlError if there is none, or with the reason why it refuses."""
    path = socket_of(thing_name)
    try:
        return _ask(path, request, seconds)
    except (FileNotFoundError, ConnectionRefusedError) as exc:
        if path.exists():
            remove_stale(path)
        there = ", ".join(core.thing for core in running_cores()[0]) or "none"
        message = f"no core {thing_name} is running here: there are {there}"
        raise ControlError(message) from exc


def running_cores() -> tuple[list[CoreDescription], list[str]]:
    """All running cores, and a line about each that does not answer. The sockets of dead ones are removed."""
    found: list[CoreDescription] = []
    silent: list[str] = []
    for path in sockets():
        try:
            core = _ask(path, Describe(), ANSWER_SECONDS).core
        except (FileNotFoundError, ConnectionRefusedError):
            if remove_stale(path):
                silent.append(f"{path.stem}: was killed; its socket has been removed")
        except ControlError as exc:
            silent.append(f"{path.stem}: {exc}")
        else:
            found.extend([core] if core else [])
    return found, silent


def the_core(thing_name: str | None) -> str:
    """The name of the core that is meant: with none given, the one that runs. Raises ControlError."""
    if thing_name is not None:
        return thing_name
    names = [core.thing for core in running_cores()[0]]
    if len(names) == 1:
        return names[0]
    message = (
        f"several cores are running, say which with --thing: {', '.join(names)}"
        if names
        else "no core is running here: start one with `fedgrass core run`"
    )
    raise ControlError(message)


def wait_until_gone(thing_name: str, seconds: float) -> None:
    """Wait until a core that was asked to stop has let go of its name, which it does last of all.

    Raises ControlError if it has not done so after `seconds`.
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
                        "the core hung up before it had answered: it stops, or the request was over 4 MiB"
                    )
                    raise ControlError(message)
                answer += piece
        except TimeoutError as exc:
            message = f"the core did not answer within {seconds:g} s"
            raise ControlError(message) from exc
        except (BrokenPipeError, ConnectionResetError) as exc:
            message = "the core hung up: it stops, or the request was over 4 MiB"
            raise ControlError(message) from exc
    reply = parse_reply(answer)
    if reply.error is not None:
        raise ControlError(reply.error)
    return reply
