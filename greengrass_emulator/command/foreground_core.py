"""The action ``run``: a standalone core in the foreground, until Ctrl-C.

The core's log files are printed as they are written. On request the core has access to AWS, with the
developer's own credentials.
"""

import asyncio
import logging
import signal
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import boto3
from botocore.exceptions import BotoCoreError

from greengrass_emulator.core.profiles import profile_named
from greengrass_emulator.core.standalone_core import AwsAccess, StandaloneCore, StandaloneOptions
from greengrass_emulator.deployment.component_dependencies import in_order
from greengrass_emulator.deployment.deployment_records import ComponentSource
from greengrass_emulator.emulator_errors import CommandLineError, NoCloudError
from greengrass_emulator.recipe.recipe_reader import read_recipe

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

_POLL_SECONDS = 0.2
_PIECE_BYTES = 1 << 20

_LIFE = timedelta(hours=1)
"""Boto3 does not disclose when credentials expire. SDKs ask again before the time that they are given."""


class LogFollower:
    """Follows the log files of a folder and shows each new line, prefixed with the file's stem."""

    def __init__(self, folder: Path, show: Callable[[str], None]) -> None:
        """Start at the current end of each file."""
        self._folder = folder
        self._show = show
        self._positions = {file: file.stat().st_size for file in folder.glob("*.log")}
        self._rests: dict[Path, bytes] = {}

    async def follow(self) -> None:
        """Poll the files until cancelled."""
        while True:
            self.catch_up()
            await asyncio.sleep(_POLL_SECONDS)

    def catch_up(self) -> None:
        """Show what was written since the last call."""
        for file in sorted(self._folder.glob("*.log")):
            position = self._positions.get(file, 0)
            if file.stat().st_size < position:
                position = 0  # it was truncated: start at its beginning
            with file.open("rb") as log:
                log.seek(position)
                new = log.read(_PIECE_BYTES)
            self._positions[file] = position + len(new)
            *lines, rest = (self._rests.get(file, b"") + new).split(b"\n")
            self._rests[file] = rest
            for line in lines:
                self._show(f"{file.stem} | {line.decode(errors='replace')}")


def own_access() -> AwsAccess:
    """Return access to AWS with what boto3 finds on this machine: environment, profile, SSO.

    Raises:
        NoCloudError: boto3 finds no credentials.
    """
    session = boto3.Session()

    def credentials() -> Mapping[str, str]:
        try:
            found = session.get_credentials()
            frozen = found.get_frozen_credentials() if found else None
        except BotoCoreError as error:
            raise NoCloudError(str(error)) from error
        if frozen is None or not frozen.access_key or not frozen.secret_key:
            message = "boto3 finds no AWS credentials on this machine: `aws configure`, or set AWS_PROFILE"
            raise NoCloudError(message)
        return {
            "AccessKeyId": frozen.access_key,
            "SecretAccessKey": frozen.secret_key,
            "Token": frozen.token or "",
            "Expiration": (datetime.now(UTC) + _LIFE).strftime("%Y-%m-%dT%H:%M:%SZ"),
        }

    def s3_client() -> "S3Client":
        return session.client("s3")

    credentials()
    return AwsAccess(credentials, s3_client)


@dataclass(frozen=True)
class RunOptions:
    """The options of the action ``run``."""

    recipes: Sequence[Path]
    artifacts: Path
    thing: str
    root: Path
    profile: str
    configuration: Mapping[str, object]
    """Merged into that of the component; with several recipes, by component name."""
    secrets: Mapping[str, str]
    interpolate: bool
    aws: bool
    once: bool


def run(options: RunOptions, print_line: Callable[[str], None]) -> int:
    """Run a core until Ctrl-C, SIGTERM or the action ``stop``.

    With ``once`` it stops when every component has ended.

    Args:
        options: those of the command line.
        print_line: prints a line.

    Returns:
        The exit code: 1 if, with ``once``, a component is BROKEN.

    Raises:
        EmulatorError: the core cannot be started, or a component cannot be deployed.
    """
    # The core's log is shown from its file; without a handler, logging would print its warnings twice.
    logging.getLogger("greengrass_emulator").addHandler(logging.NullHandler())
    return asyncio.run(_run(options, print_line))


def configurations(recipes: Sequence[Path], given: Mapping[str, object]) -> dict[str, Mapping[str, object]]:
    """Return what is merged into each component's configuration, by component name.

    Raises:
        CommandLineError: with several recipes, ``given`` is not an object by component name.
    """
    names = {read_recipe(file, classic=True).component_name for file in recipes}
    if len(names) == 1:
        return {names.pop(): given}
    chosen: dict[str, Mapping[str, object]] = {}
    for name, configuration in given.items():
        if name not in names or not isinstance(configuration, Mapping):
            known = ", ".join(sorted(names))
            message = f"--config with several recipes is an object by component name ({known}), not {name!r}"
            raise CommandLineError(message)
        chosen[name] = configuration
    return chosen


async def _run(options: RunOptions, print_line: Callable[[str], None]) -> int:
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
    follower = LogFollower(core.core.root / "logs", print_line)
    following = asyncio.create_task(follower.follow())
    try:
        await core.start()
        print_line(
            f"core {options.thing} ({options.profile}) is running in {core.core.root};"
            " press Ctrl-C to stop it"
        )
        await core.deploy(sources)
        return await _wait(core, once=options.once)
    finally:
        await core.stop()
        following.cancel()
        with suppress(asyncio.CancelledError):
            await following
        follower.catch_up()


async def _wait(core: StandaloneCore, *, once: bool) -> int:
    """Wait for the core's end; return the exit code."""
    stopping = asyncio.create_task(core.stopping.wait())
    ended = asyncio.create_task(core.components_ended()) if once else None
    tasks: set[asyncio.Task[bool]] = {stopping, ended} if ended else {stopping}
    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in tasks:
        task.cancel()
    if ended is None or not ended.done() or ended.cancelled():
        return 0
    return 0 if ended.result() else 1
