"""The folder that a run on this machine writes its files to, of real processes or of virtual devices."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fedgrass.federation.errors import SettingsError

_MOST_FOLDERS = 1000  # of one run's name


@contextmanager
def run_folder(parent: Path, name: str) -> Iterator[Path]:
    """Make the folder of a run, ``<name>`` or ``<name>-2``; remove it again if it stays empty.

    Raises:
        SettingsError: it cannot be made.
    """
    for number in range(1, _MOST_FOLDERS + 1):
        folder = parent / (name if number == 1 else f"{name}-{number}")
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            if not parent.is_dir():
                message = f"--out {parent} is a file: choose a folder"
                raise SettingsError(message) from None
            continue
        except OSError as error:
            message = f"--out {parent} cannot be written to: {error.strerror}; choose another folder"
            raise SettingsError(message) from error
        break
    else:
        message = f"--out {parent} has {_MOST_FOLDERS} folders {name}-<number>: choose another folder"
        raise SettingsError(message)
    try:
        yield folder
    finally:
        if not any(folder.iterdir()):
            folder.rmdir()
