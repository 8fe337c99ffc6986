"""Show the result of a command: drawn for people, or as JSON for programs."""

from collections.abc import Callable
from typing import Any

import msgspec

from fedgrass.console.terminal import say_json


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
