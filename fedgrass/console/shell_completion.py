"""``fedgrass --install-completion``: have a shell complete commands, options and choices."""

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter
from cyclopts.completion import ShellDetectionError

from fedgrass.console.deferred import deferred
from fedgrass.console.terminal import say
from fedgrass.federation.errors import SettingsError

Shell = Literal["bash", "zsh", "fish", "powershell"]
_app = deferred("fedgrass.console.main:app")  # which offers this command


def install_completion(
    *,
    shell: Annotated[Shell | None, Parameter(help="the shell (that which runs the command)")] = None,
    out: Annotated[
        Path | None,
        Parameter(
            help="file to write the script to, without a change of the shell's start file", metavar="FILE"
        ),
    ] = None,
) -> None:
    """Install the completion of commands, options and choices for a shell."""
    try:
        script = _app().install_completion(shell=shell, output=out, add_to_startup=out is None)
    except ShellDetectionError as error:
        message = "the shell is not known: name it, as in `fedgrass --install-completion --shell bash`"
        raise SettingsError(message) from error
    say(f"wrote {script}")
    say(f"load it by `source {script}`" if out else "restart the shell, and it completes `fedgrass`")
