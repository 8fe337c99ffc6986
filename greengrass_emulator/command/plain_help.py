"""The help of a command as plain text in two columns, without boxes and colours."""

import textwrap
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cyclopts.help import HelpEntry, HelpPanel
    from rich.console import Console, ConsoleOptions

_LARGEST_WIDTH = 110  # columns
_LABEL_WIDTH = 30  # columns; the explanation of a longer label begins on the next line


class PlainHelp:
    """Formats help for ``cyclopts.App(help_formatter=...)``."""

    def __call__(self, console: "Console", options: "ConsoleOptions", panel: "HelpPanel") -> None:
        """Print a list of commands or options."""
        if not panel.entries:
            return
        width = min(options.max_width, _LARGEST_WIDTH)
        labels = [_label(entry) for entry in panel.entries]
        column = min(_LABEL_WIDTH, max(map(len, labels))) + 4
        lines = [f"{panel.title}:"]
        for label, entry in zip(labels, panel.entries, strict=True):
            lines += _entry(label, _explanation(entry), column, width)
        _print(console, [*lines, ""])

    def render_usage(self, console: "Console", options: "ConsoleOptions", usage: Any) -> None:
        """Print the line with the usage."""
        del options
        if usage:
            text = _plain(usage).strip()
            _print(console, [text if text.startswith("Usage:") else f"Usage: {text}", ""])

    def render_description(self, console: "Console", options: "ConsoleOptions", description: Any) -> None:
        """Print the description, in paragraphs."""
        width = min(options.max_width, _LARGEST_WIDTH)
        for paragraph in _plain(description).split("\n\n"):
            if text := " ".join(paragraph.split()):
                _print(console, [*textwrap.wrap(text, width, break_on_hyphens=False), ""])


def _label(entry: "HelpEntry") -> str:
    """Return what names an entry: ``--output text|json``, ``NAME``, or a command."""
    named = entry.positive_names if _is_command(entry) else entry.positive_names[:1]
    names = ", ".join([*filter(None, [entry.positional_label]), *named, *entry.positive_shorts])
    if entry.choices:
        return f"{names} {'|'.join(entry.choices)}"
    return f"{names} {entry.metavar}" if entry.metavar and names.startswith("-") else names


def _is_command(entry: "HelpEntry") -> bool:
    """Return whether an entry is a command, whose other names are shown; those of an option are not."""
    return not entry.positive_names or not entry.positive_names[0].startswith("-")


def _explanation(entry: "HelpEntry") -> str:
    text = " ".join(_plain(entry.description).split()).rstrip(".")
    notes = [f"default: {entry.default}"] if entry.default else []
    notes += ["required"] if entry.required else []
    return f"{text} [{'; '.join(notes)}]" if notes else text


def _entry(label: str, explanation: str, column: int, width: int) -> Iterable[str]:
    lines = textwrap.wrap(explanation, max(20, width - column), break_on_hyphens=False)
    head = f"  {label}"
    if len(head) + 2 > column:
        yield head
    elif lines:
        yield f"{head:{column}}{lines.pop(0)}"
    else:
        yield head
    for line in lines:
        yield f"{'':{column}}{line}"


def _plain(text: Any) -> str:
    """Return the characters of a text, or of what cyclopts would have rendered."""
    if text is None:
        return ""
    plain = getattr(text, "plain", None)
    if plain is not None:
        return str(plain)
    primary = getattr(text, "primary_renderable", None)
    return _plain(primary) if primary is not None else str(text)


def _print(console: "Console", lines: Iterable[str]) -> None:
    for line in lines:
        console.print(line, highlight=False, markup=False, emoji=False, soft_wrap=True)
