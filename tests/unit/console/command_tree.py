"""All commands of the command line, with the least words that each of them takes."""

from collections.abc import Iterator
from typing import Any, Literal, get_args, get_origin

from cyclopts import App

from fedgrass.console import main
from greengrass_emulator.command.typed_options import bind


def commands(app: App | None = None, words: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], App]]:
    """Yield the words of every command with its app."""
    app = app or main.app()
    names = [name for name in app if not name.startswith("-")]
    for name in names:
        inner = app[name] if words else main.load(name)
        yield from commands(inner, (*words, name))
    if not names:
        yield words, app


def least_words(words: tuple[str, ...], app: App) -> list[str]:
    """Return a command line with all required arguments of a command."""
    found = list(words)
    for argument in app.assemble_argument_collection():
        if argument.required and argument.parse:
            kind = argument.hint
            value = str(get_args(kind)[0]) if get_origin(kind) is Literal else "x"
            found += [value] if argument.field_info.is_positional_only else [argument.name, value]
    return found


def arguments(words: list[str]) -> dict[str, Any]:
    """Return what a command line gives its command."""
    return bind(main.app(), words).bound.arguments
