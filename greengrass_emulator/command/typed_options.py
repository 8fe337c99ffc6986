"""The command line's groups, options and mistakes, on cyclopts: a command is a typed function.

Its docstring is its help. What is wrong with a command line is one line of text, with the nearest name that
exists. Another program that offers the emulator's commands builds its command line with the same functions.
"""

import difflib
import inspect
import math
import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from cyclopts import (
    App,
    CoercionError,
    CycloptsError,
    Group,
    MissingArgumentError,
    Parameter,
    Token,
    UnknownCommandError,
    UnusedCliTokensError,
)

from greengrass_emulator.command.plain_help import PlainHelp
from greengrass_emulator.emulator_errors import EmulatorError

# Python reads other spellings too: underscores, spaces around, digits of other scripts.
_WHOLE_NUMBER = re.compile(r"-?[0-9]{1,60}", re.ASCII)
_NUMBER = re.compile(r"[-+0-9.eE]{1,60}", re.ASCII)
_LONGEST_SHOWN = 60  # characters of a refused value
_LONG_WORD = re.compile(r"\S{100,}")
_SENTENCES = {". Did you mean": ": did you mean", ". Choose": ": choose"}  # of cyclopts, as parts of one
_EMPTY: tuple[object, ...] = (None, "", False, (), [])
_ARGUMENTS, _OPTIONS = Group("Arguments", sort_key=1), Group("Options", sort_key=2)
HELP_FLAGS = ("--help", "-h")


class CommandMistakeError(EmulatorError):
    """A command line that cannot be parsed; the message is one line with the way out."""


def command_group(name: str, explanation: str) -> App:
    """Return the app of a group of commands.

    The commands are functions whose docstring is their help, and whose module imports nothing that is slow.

    Args:
        name: name of the group, such as ``run``.
        explanation: one line for the list of commands.
    """
    return App(
        name=name,
        help=explanation,
        help_format="plaintext",
        help_formatter=PlainHelp(),
        version_flags=[],
        group_arguments=_ARGUMENTS,
        group_parameters=_OPTIONS,
        default_parameter=Parameter(negative=(), allow_repeating=True, show_default=_shown_default),
    )


def _shown_default(value: Any) -> str | None:
    """Return a default value for the help; None for one that only means "not given"."""
    return None if value in _EMPTY else str(value)


class BoundCommand(NamedTuple):
    """A command with its arguments, which a call carries out."""

    function: Callable[..., Any]
    bound: inspect.BoundArguments

    def __call__(self) -> Any:
        """Carry out the command."""
        return self.function(*self.bound.args, **self.bound.kwargs)


def bind(app: App, words: Sequence[str]) -> BoundCommand:
    """Return the command that a command line calls, with its arguments.

    Raises:
        CommandMistakeError: the words are not a command line of this app.
    """
    words = list(words)
    try:
        command, bound, _ = app.parse_args(words, print_error=False, exit_on_error=False, verbose=False)
    except CycloptsError as error:
        raise CommandMistakeError(_mistake(app.name[0], error)) from error
    if words and not set(words).intersection(HELP_FLAGS) and getattr(command, "__name__", "") == "help_print":
        group = " ".join([app.name[0], *words])
        message = f"{group}: it needs a command: {', '.join(_commands(app, words))}; see `{group} --help`"
        raise CommandMistakeError(message)
    return BoundCommand(command, bound)


def call(app: App, words: Sequence[str]) -> None:
    """Carry out a command line. Raises CommandMistakeError, and what the command raises."""
    bind(app, words)()


def _mistake(program: str, error: CycloptsError) -> str:
    """Return what is wrong with a command line, as one line."""
    chain = list(error.command_chain or ())
    where = " ".join([program, *chain])
    return f"{where}: {_reason(error)}; see `{where} --help`"


def _reason(error: CycloptsError) -> str:
    unused = isinstance(error, UnknownCommandError | UnusedCliTokensError)
    if unused and error.unused_tokens and error.app:
        word, names = error.unused_tokens[0], _commands(error.app, ())
        if not names:
            return f"it takes no further argument {_shortened(word)}"
        if word.startswith("-"):  # the AWS CLI takes its options in front of the command
            return f"options such as {_shortened(word)} follow the command: {', '.join(names)}"
        close = difflib.get_close_matches(word, names, n=1)
        hint = f"did you mean {close[0]}?" if close else f"there are {', '.join(names)}"
        return f"unknown command {_shortened(word)}: {hint}"
    if type(error) is MissingArgumentError and error.argument:
        name = error.keyword or error.argument.name
        if error.keyword or error.argument.tokens:
            return f"{name} needs a value"
        options = [word for word in error.unused_tokens or () if word.startswith("--")]
        close = difflib.get_close_matches(name, options, n=1)
        return f"{name} is required" + (f": did you mean it by {_shortened(close[0])}?" if close else "")
    if isinstance(error, CoercionError) and error.msg is not None and error.argument:
        name = error.token.keyword if error.token and error.token.keyword else error.argument.name
        return f"{name}: {error.msg}"
    text = _LONG_WORD.sub(lambda word: f"{word[0][:_LONGEST_SHOWN]}...", str(error)).strip().rstrip(".")
    for sentence, part in _SENTENCES.items():
        text = text.replace(sentence, part)
    return text[:1].lower() + text[1:]


def _commands(app: App, words: Sequence[str]) -> list[str]:
    """Return the names of the commands of a group below an app."""
    for word in words:
        app = app[word]
    return [name for name in app if not name.startswith("-")]


def whole_number(least: int, most: int, explanation: str | None = None, **options: Any) -> Parameter:
    """Return the declaration of an integer from ``least`` to ``most``, in ASCII digits.

    Args:
        least: smallest value.
        most: largest value.
        explanation: help of the option, if it is not in the docstring of the command.
        options: further ones of ``cyclopts.Parameter``.
    """

    def read(_: type, tokens: Sequence[Token]) -> int:
        return parse_whole_number(tokens[0].value, least, most)

    return _parameter(read, explanation, {"metavar": "N", **options})


def number_between(least: float, most: float, explanation: str | None = None, **options: Any) -> Parameter:
    """Return the declaration of a number from ``least`` to ``most``, which excludes nan; see whole_number."""

    def read(_: type, tokens: Sequence[Token]) -> float:
        return parse_number(tokens[0].value, least, most)

    return _parameter(read, explanation, {"metavar": "NUMBER", **options})


def _parameter(
    read: Callable[[Any, Sequence[Token]], float], explanation: str | None, options: dict[str, Any]
) -> Parameter:
    if explanation is not None:  # None would hide the explanation in the docstring of the command
        options["help"] = explanation
    return Parameter(converter=read, **options)


def parse_whole_number(text: str, least: int, most: int) -> int:
    """Return an integer from ``least`` to ``most``. Raises ValueError, which names the text."""
    if not _WHOLE_NUMBER.fullmatch(text) or not least <= int(text) <= most:
        message = f"{_shortened(text)} is not a whole number from {least} to {most:,}"
        raise ValueError(message)
    return int(text)


def parse_number(text: str, least: float, most: float) -> float:
    """Return a number from ``least`` to ``most``. Raises ValueError, which names the text."""
    try:
        value = float(text) if _NUMBER.fullmatch(text) else math.nan
    except ValueError:
        value = math.nan
    if not least <= value <= most:
        message = f"{_shortened(text)} is not a number from {least} to {most:,}"
        raise ValueError(message)
    return value


def _shortened(text: str) -> str:
    return repr(text if len(text) <= _LONGEST_SHOWN else f"{text[:_LONGEST_SHOWN]}...")
