"""``greengrass-emulator``, or ``python -m greengrass_emulator``: an emulated core from the command line."""

import argparse
import os
import sys
from collections.abc import Sequence

from greengrass_emulator.command.core_actions import add_actions
from greengrass_emulator.command.terminal_output import (
    Output,
    accept_all_characters,
    print_line,
    show_columns,
)
from greengrass_emulator.emulator_errors import EmulatorError

PROGRAM = "greengrass-emulator"
_INTERRUPTED = 130  # the exit code of a shell's command that Ctrl-C has ended


def main(words: Sequence[str] | None = None) -> None:
    """Run the command line, by default that of this process.

    Exit codes: 0 on success, 1 on a refusal or failure (one line on standard error), 2 for arguments that
    cannot be parsed, 130 after Ctrl-C.
    """
    accept_all_characters()
    arguments = _parser().parse_args(words)
    try:
        arguments.run(arguments)
    except KeyboardInterrupt:
        sys.exit(_INTERRUPTED)
    except BrokenPipeError:  # the reader of standard output (``| head``) has closed it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except EmulatorError as error:
        print_line(f"{PROGRAM}: {error}", sys.stderr)
        sys.exit(1)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        PROGRAM,
        allow_abbrev=False,
        description="Run AWS IoT Greengrass V2 components on this machine, without a cloud.",
    )
    add_actions(parser.add_subparsers(required=True, metavar="action"), Output(print_line, show_columns))
    return parser


if __name__ == "__main__":
    main()
