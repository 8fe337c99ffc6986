"""A worker that is killed (SIGKILL) just before or after one of its files gets its name.

``python -m tests.integration.device.dying_worker NUMBER before|after``: reads a Work and a model's path as
lines.
"""

import os
import signal
import sys
from pathlib import Path

import msgspec

from components.trainer.worker.work_runner import WorkRunner
from components.trainer.worker.worker_protocol import Work


def die() -> None:
    """End as the kernel ends a process that is out of memory."""
    os.kill(os.getpid(), signal.SIGKILL)


def main() -> None:
    """Do the work, and die at the renaming that the command line names; say so if it never came."""
    deadly, when = int(sys.argv[1]), sys.argv[2]
    work = msgspec.json.decode(sys.stdin.readline(), type=Work)
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

    os.replace = replace  # type: ignore[assignment] # pathlib's replace ends here too
    WorkRunner(lambda *_: model).perform(work, lambda _: None, lambda: False)
    sys.stdout.write(f"not killed: there were {number} renamings")


if __name__ == "__main__":
    main()
