"""Write docs/commands.md from the command line's own help.

python docs/write_commands.py
"""

import io
from collections.abc import Iterator
from pathlib import Path

from cyclopts import App
from rich.console import Console

from fedgrass.console import main

PAGE = Path(__file__).with_name("commands.md")
_WIDTH = 100  # columns of the help
_BEGIN = "<!-- written by docs/write_commands.py -->\n"


def commands(app: App, words: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], App]]:
    """Yield every command and every group of commands, each with its words."""
    if words:
        yield words, app
    for name in app:
        if not name.startswith("-"):
            inner = main.load(name) if not words else app[name]
            yield from commands(inner, (*words, name))


def help_of(words: tuple[str, ...]) -> str:
    """Return the help of a command as text."""
    out = io.StringIO()
    main.app().help_print(list(words), console=Console(file=out, width=_WIDTH, color_system=None))
    return "\n".join(line.rstrip() for line in out.getvalue().strip().splitlines())


def written(page: str) -> str:
    """Return the page with the current help below its introduction."""
    found = list(commands(main.app()))  # all are loaded: their own explanations are in the lists
    parts = [f"## fedgrass\n\n```text\n{help_of(())}\n```\n"]
    for words, _ in found:
        marks = "#" * (len(words) + 1)
        parts.append(f"{marks} fedgrass {' '.join(words)}\n\n```text\n{help_of(words)}\n```\n")
    return page.partition(_BEGIN)[0] + _BEGIN + "\n" + "\n".join(parts)


if __name__ == "__main__":
    PAGE.write_text(written(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
