"""A standalone core in the foreground, until Ctrl-C: what ``fedgrass core run`` does.

The core's log files are printed as they are written. On request the core has access to AWS, with the
developer's own credentials.
"""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Final

import boto3
from botocore.exceptions import BotoCoreError

from greengrass_emulator.core.profiles import profile_named
from greengrass_emulator.core.standalone_core import AwsAccess, StandaloneCore, StandaloneOptions
from greengrass_emulator.deployment.component_dependencies import in_order
from greengrass_emulator.deployment.deployment_records import ComponentSource
from greengrass_emulator.emulator_errors import ControlError, NoCloudError
from greengrass_emulator.recipe.recipe_reader import read_recipe

POLL_SECONDS: Final = 0.2
_PIECE_BYTES: Final = 1 << 20


class LogFollower:
    """Passes each new line of each log file of a folder on, with the file's stem before it."""

    def __init__(self, folder: Path, show: Callable[[str], None]) -> None:
        """Begin behind what is in the files now."""
        self._folder = folder
        self._show = show
        self._positions = {file: file.stat().st_size for file in folder.glob("*.log")}
        self._rests: dict[Path, bytes] = {}

    async def follow(self) -> None:
        """Go on until canceled."""
        while True:
            self.catch_up()
            await asyncio.sleep(POLL_SECONDS)

    def catch_up(self) -> None:
        """Show what has been written since the last time."""
        for file in sorted(self._folder.glob("*.log")):
            position = self._positions.get(file, 0)
            if file.stat().st_size < position:
                position = 0  # it was made shorter: begin again
            with file.open("rb") as log:
                log.seek(position)
                new = log.read(_PIECE_BYTES)
            self._positions[file] = position + len(new)
            *lines, rest = (self._rests.get(file, b"") + new).split(b"\n")
            self._rests[file] = rest
            for line in lines:
                self._show(f"{file.stem} | {line.decode(errors='replace')}")


if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

_LIFE: Final = timedelta(hours=1)
"""Boto3 does not tell when credentials end; SDKs ask again before they think that they do."""


def own_access() -> AwsAccess:
    """What boto3 finds on this machine: environment, profile, SSO. Raises NoCloudError if that is nothing."""
    session = boto3.Session()

    def credentials() -> Mapping[str, str]:
        try:
            found = session.get_credentials()
            frozen = found.get_frozen_credentials() if found else None
        except BotoCoreError as exc:
            raise NoCloudError(str(exc)) from exc
        if frozen is None or not frozen.access_key or not frozen.secret_key:
            message = "boto3 finds no AWS credentials on this machine: `aws configure`, or set AWS_PROFILE"
            raise NoCloudError(message)
        return {
            "AccessKeyId": frozen.access_key,
            "SecretAccessKey": frozen.secret_key,
            "Token": frozen.token or "",
            "Expiration": (datetime.now(UTC) + _LIFE).strftime("%Y-%m-%dT%H:%M:%SZ"),
        }

    def s3_client() -> S3Client:
        return session.client("s3")

    credentials()
    return AwsAccess(credentials, s3_client)


@dataclass(frozen=True)
class RunOptions:
    """What the command line may choose."""

    recipes: Sequence[Path]
    artifacts: Path
    thing: str
    root: Path
    profile: str
    configuration: Mapping[str, object]
    """Of the one component; with several recipes, by component name."""
    secrets: Mapping[str, str]
    interpolate: bool
    aws: bool
    once: bool


def run(options: RunOptions, say: Callable[[str], None]) -> int:
    """Run a core until Ctrl-C, SIGTERM or `fedgrass core stop`; return the exit code.

    With `once` it ends when every component has ended: 1 if one was given up. Raises a EmulatorError.
    """
    # What the core says is shown from its own log file; without this logging would say some of it again.
    logging.getLogger("greengrass_emulator").addHandler(logging.NullHandler())
    return asyncio.run(_run(options, say))


def configurations(recipes: Sequence[Path], given: Mapping[str, object]) -> dict[str, Mapping[str, object]]:
    """What is merged into each component's configuration. Raises ControlError."""
    names = {read_recipe(file, classic=True).component_name for file in recipes}
    if len(names) == 1:
        return {names.pop(): given}
    chosen: dict[str, Mapping[str, object]] = {}
    for name, configuration in given.items():
        if name not in names or not isinstance(configuration, Mapping):
            there = ", ".join(sorted(names))
            message = f"--config with several recipes is an object by component name ({there}), not {name!r}"
            raise ControlError(message)
        chosen[name] = configuration
    return chosen


async def _run(options: RunOptions, say: Callable[[str], None]) -> int:
    recipes = {file: read_recipe(file, classic=True) for file in options.recipes}
    chosen = configurations(options.recipes, options.configuration)
    sources = [
        ComponentSource(file, options.artifacts, chosen.get(recipes[file].component_name, {}))
        for file in in_order(recipes)
    ]
    core = StandaloneCore(
        StandaloneOptions(
            thing_name=options.thing,
            root=options.root,
            profile=profile_named(options.profile),
            secrets=options.secrets,
            interpolate_component_configuration=options.interpolate,
            aws=own_access() if options.aws else None,
        )
    )
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, core.stopping.set)
    follower = LogFollower(core.core.root / "logs", say)
    following = asyncio.create_task(follower.follow())
    try:
        await core.start()
        say(f"core {options.thing} ({options.profile}) runs in {core.core.root}; Ctrl-C ends it")
        await core.deploy(sources)
        return await _wait(core, once=options.once)
    finally:
        await core.stop()
        following.cancel()
        with suppress(asyncio.CancelledError):
            await following
        follower.catch_up()


async def _wait(core: StandaloneCore, *, once: bool) -> int:
    """Wait for the end; returns the exit code."""
    stopping = asyncio.create_task(core.stopping.wait())
    ended = asyncio.create_task(core.components_ended()) if once else None
    tasks: set[asyncio.Task[bool]] = {stopping, ended} if ended else {stopping}
    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in tasks:
        task.cancel()
    if ended is None or not ended.done() or ended.cancelled():
        return 0
    return 0 if ended.result() else 1
