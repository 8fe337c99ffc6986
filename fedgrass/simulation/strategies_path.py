"""Custom aggregation strategies of a simulation: checked as for Lambda, then importable in this process."""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from fedgrass.console.strategies.custom_strategies import read_strategy, write_files
from fedgrass.console.strategies.strategy_check import checked


@contextmanager
def importable(paths: Sequence[str], folder: Path) -> Iterator[None]:
    """Make custom strategies importable within the context, as the functions' zip does.

    Args:
        paths: files and package folders, as ``fedgrass deploy cloud --strategy`` takes them.
        folder: an empty folder for copies of them.

    Raises:
        SettingsError: one cannot be read, or the averager would refuse it; the message names it.
    """
    found = {one.module: one for one in checked([read_strategy(Path(path)) for path in paths])}
    write_files(found, folder)
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))
        for name in [name for name in sys.modules if name.partition(".")[0] in found]:
            del sys.modules[name]  # another simulation may have another module of that name
