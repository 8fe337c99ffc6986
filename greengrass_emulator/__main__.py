"""``greengrass-emulator``, or ``python -m greengrass_emulator``: an emulated core from the command line."""

import os
import sys
from collections.abc import Sequence

from greengrass_emulator.command.core_actions import core_commands
from greengrass_emulator.command.terminal_output import (
    Output,
    accept_all_characters,
    print_json,
    print_line,
    show_columns,
)
from greengrass_emulator.command.typed_options import CommandMistakeError, call
from greengrass_emulator.emulator_errors import EmulatorError

PROGRAM = "greengrass-emulator"
_INTERRUPTED = 130  # the exit code of a shell's command that Ctrl-C has ended


def main(words: Sequence[str] | None = None) -> None:
    """Run the command line, by default that of this process.

    Exit codes: 0 on success, 1 on a refusal or failure (one line on standard error), 2 for arguments that
    cannot be parsed, 130 after Ctrl-C.
    """
    accept_all_characters()
    explanation = "Run AWS IoT Greengrass V2 components on this machine, without a cloud."
    app = core_commands(PROGRAM, explanation, Output(print_line, show_columns, print_json))
    try:
        call(app, sys.argv[1:] if words is None else words)
    except CommandMistakeError as error:
        print_line(error, sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(_INTERRUPTED)
    except BrokenPipeError:  # the reader of standard output (``| head``) has closed it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except EmulatorError as error:
        print_line(f"{PROGRAM}: {error}", sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
