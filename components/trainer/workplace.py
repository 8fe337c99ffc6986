"""Everything that works are done with, and the files that they leave."""

import random
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from components.trainer.events import Call, EventLoop
from components.trainer.exits import ExitBudget
from components.trainer.finished_work import result_beside
from components.trainer.journal import Journal
from components.trainer.memory import Memory, beside
from components.trainer.ports import Uploader, Worker
from components.trainer.surroundings import Surroundings, look_around
from components.trainer.trouble import WorkTrouble
from fedgrass.federation.messages import Announcement, WorkMessage

Background = Callable[[Call], None]


def in_thread(call: Call) -> None:
    """Run ``call`` on a thread that does not keep the process alive."""
    threading.Thread(target=call, daemon=True, name="upload").start()


@dataclass(frozen=True, kw_only=True)
class Workplace:
    """Everything that works are done with; the same for all works of a device."""

    thing: str
    folder: Path  # of the updates
    loop: EventLoop
    journal: Journal
    worker: Worker
    exits: ExitBudget
    uploader: Callable[[], Uploader]  # the one that the configuration names now
    rng: random.Random
    background: Background = in_thread
    measure: Callable[[], Mapping[str, float | bool]] = dict  # what the device can tell of itself now
    surroundings: Callable[[Path], Surroundings] = look_around
    trouble: WorkTrouble = field(default_factory=WorkTrouble)

    def update_path(self, work: WorkMessage) -> Path:
        """Return where the update of a work is written."""
        name = f"{work.run}-{work.round}-{work.attempt}.safetensors"
        return self.folder / name

    @property
    def memory(self) -> Memory:
        """What is remembered of former updates, beside the folder of the updates."""
        return Memory(self.folder.parent / "memory")

    def sweep(self, keep: Path | None = None) -> None:
        """Remove what former works left: a worker that is killed may leave a file half written, or whole."""
        kept = {keep, beside(keep), result_beside(keep)} if keep else set()
        if self.folder.exists():
            for file in self.folder.iterdir():
                if file not in kept:
                    file.unlink(missing_ok=True)
        self.memory.sweep()

    def discard(self, announcement: Announcement) -> None:
        """Remove the update of a work that is out of hand, with what would be remembered of it."""
        path = self.update_path(announcement)
        for file in (path, beside(path), result_beside(path)):
            file.unlink(missing_ok=True)
