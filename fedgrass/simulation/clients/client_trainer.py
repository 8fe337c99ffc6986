"""The interface through which a simulation has the updates of its virtual devices made."""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from types import TracebackType
from typing import Protocol, Self

from msgspec import Struct

from components.trainer.worker.worker_protocol import Failure, Result
from fedgrass.federation.messages import Announcement
from fedgrass.federation.weights import Arrays
from fedgrass.simulation.fleets.device_conditions import DeviceConditions

ReadObject = Callable[[str], bytes]  # takes the key of an object of the bucket; raises KeyError


class ClientWork(Struct, frozen=True):
    """An assignment of a virtual device.

    Attributes:
        device: which device.
        announcement: as the device received it.
        seed: of the order of examples and of dropout, unless the run's training sets one.
    """

    device: DeviceConditions
    announcement: Announcement
    seed: int


class ClientUpdate(Struct, frozen=True):
    """What a virtual device has made of an assignment.

    Attributes:
        result: as the worker of a real trainer reports it; a ``Failure`` if the task failed.
        update: the content of the update file; empty after a failure or an evaluation.
    """

    result: Result | Failure
    update: bytes = b""


class ClientTrainer(Protocol):
    """Makes the updates of virtual devices.

    The results depend on the work alone: neither on the number of worker processes nor on their timing.
    """

    def __enter__(self) -> Self:
        """Return these clients."""

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close them."""

    def initial_model(self, seed: int) -> Arrays:
        """Return the weights with which the run starts."""

    def submit(self, work: Sequence[ClientWork], read: ReadObject) -> Sequence[Future[ClientUpdate]]:
        """Begin assignments that were announced at the same time; return a future of each, in order."""

    def settle(self, work: ClientWork, *, counted: bool) -> None:
        """Note the verdict on an update: what the device keeps of it for later rounds stays or is undone."""

    def timed_bytes(self, announcement: Announcement) -> tuple[int, int] | None:
        """Return the sizes of model and update by which transfers are timed; None: those of the files.

        Clients without training have tiny files, whose transfer takes as long as that of real ones.
        """

    def evaluate(self, weights: Arrays, *, number: int = 0, updates: int = 0) -> Mapping[str, float]:
        """Return the metrics of a global model on examples that no device trains on, if there are any.

        Args:
            weights: of the model.
            number: of the model in its run; 0: the initial one.
            updates: that all models up to it have counted.
        """

    def notes(self) -> Sequence[str]:
        """Return what the user should know, such as why clients are not trained together."""

    def close(self) -> None:
        """End the worker processes. May be called twice."""
