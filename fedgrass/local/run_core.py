"""``fedgrass core run``: a standalone core in the foreground, until Ctrl-C."""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from fedgrass.local.aws_access import own_access
from fedgrass.local.core_errors import ControlError
from fedgrass.local.deployment_records import ComponentSource
from fedgrass.local.log_follower import LogFollower
from fedgrass.local.profiles import profile_named
from fedgrass.local.recipe import read_recipe
from fedgrass.local.recipe_folder import in_order
from fedgrass.local.standalone_core import StandaloneCore, StandaloneOptions


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

    With `once` it ends when every component has ended: 1 if one was given up. Raises a FedgrassLocalError.
    """
    # What the core says is shown from its own log file; without this logging would say some of it again.
    logging.getLogger("fedgrass.local").addHandler(logging.NullHandler())
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
