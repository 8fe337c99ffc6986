"""The processes that a benchmark has started."""

import psutil


def running(module: str) -> list[psutil.Process]:
    """Return the descendants of this process that run ``python -m module``."""
    found = []
    for process in psutil.Process().children(recursive=True):
        try:
            if process.cmdline()[1:] == ["-m", module]:
                found.append(process)
        except psutil.NoSuchProcess:
            continue
    return found
