"""Show the result of a command: drawn for people, or as JSON for programs."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import msgspec

from fedgrass.console.terminal import diverted_lines, say_json


def show_result(result: object, output: str, draw: Callable[[Any], None]) -> None:
    """Show a result on standard output.

    Args:
        result: a msgspec struct, or a list or dict of such, whose fields docs/json.md documents.
        output: ``text`` or ``json``.
        draw: prints the result as text.
    """
    if output == "json":
        say_json(msgspec.to_builtins(result))
    else:
        draw(result)


class Steps(msgspec.Struct, frozen=True, kw_only=True):
    """What a command that changes something did, or would do: the JSON of such commands."""

    dry_run: bool  # nothing was changed
    steps: tuple[str, ...]  # a line per step or change, as the text form prints it
    count: int  # of steps


@contextmanager
def reported_steps(output: str, *, dry_run: bool = False) -> Iterator[None]:
    """Print the lines of the block: as they come, or as Steps when it has ended without an error.

    Args:
        output: ``text`` or ``json``.
        dry_run: whether the block changes nothing.
    """
    if output != "json":
        yield
        return
    with diverted_lines() as lines:
        yield
    say_json(msgspec.to_builtins(Steps(dry_run=dry_run, steps=tuple(lines), count=len(lines))))
