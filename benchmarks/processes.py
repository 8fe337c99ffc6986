"""The processes that a measurement has started."""

import psutil


def running(module: str) -> list[psutil.Process]:
    """Return the processes below this one that run ``module``."""
    found = []
    for process in psutil.Process().children(recursive=True):
        try:
            if process.cmdline()[1:] == ["-m", module]:
                found.append(process)
        except psutil.NoSuchProcess:
            continue
    return found
