"""A worker that is killed (SIGKILL) just before or after it renames one of its files.

``python -m tests.integration.device.dying_worker NUMBER before|after``: reads a WorkOrder and the path
of a model as lines.
"""

import os
import signal
import sys
from pathlib import Path

import msgspec

from components.trainer.worker.work_runner import WorkRunner
from components.trainer.worker.worker_protocol import WorkOrder


def die() -> None:
    """End like a process killed by the kernel for lack of memory."""
    os.kill(os.getpid(), signal.SIGKILL)


def main() -> None:
    """Perform the assignment and die at the given renaming; print a line if it is never reached."""
    deadly, when = int(sys.argv[1]), sys.argv[2]
    work = msgspec.json.decode(sys.stdin.readline(), type=WorkOrder)
    model = Path(sys.stdin.readline().strip()).read_bytes()
    rename, number = os.replace, 0

    def replace(source: Path, target: Path) -> None:
        nonlocal number
        number += 1
        if number == deadly and when == "before":
            die()
        rename(source, target)
        if number == deadly:
            die()

    os.replace = replace  # type: ignore[assignment] # pathlib's replace calls it too
    WorkRunner(lambda *_: model).perform(work, lambda _: None, lambda: False)
    sys.stdout.write(f"not killed: there were {number} renamings")


if __name__ == "__main__":
    main()
