"""Virtual devices that train nothing: their updates are tiny, and the metrics come from a learning curve.

What takes time in the simulation, the files of models and updates, has the size that it would have.
"""

import io
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np

from components.trainer.worker.worker_protocol import Failure, Result
from fedgrass.federation import encodings, weights
from fedgrass.federation.encodings import Encoding
from fedgrass.federation.messages import Announcement
from fedgrass.federation.weights import Arrays, Layout
from fedgrass.federation.weights.array_roles import auxiliary_name, update_layout
from fedgrass.simulation.clients.client_trainer import ClientUpdate, ClientWork, ReadObject
from fedgrass.simulation.clients.learning_curve import ROUND, load_curve
from fedgrass.simulation.clients.real_clients import RealClients
from fedgrass.simulation.fleets.device_conditions import DeviceConditions
from fedgrass.simulation.simulation_spec import SimulationSpec

_MODEL = {"curve": np.zeros(1, np.float32)}


class CurveClients:
    """A ``ClientTrainer`` that takes the metrics of each global model from the spec's learning curve.

    Args:
        spec: the simulation.
        devices: all of its devices.
        folder: for the process that creates the task once, to learn the size of its model.

    Raises:
        SettingsError: the learning curve or the task cannot be used.
    """

    def __init__(self, spec: SimulationSpec, devices: Sequence[DeviceConditions], folder: Path) -> None:
        self._curve = load_curve(Path(spec.learning_curve))
        whole = DeviceConditions(name=devices[0].name, share=0)
        with RealClients(spec, [whole], 1, folder) as real:
            self._model = real.initial_model(spec.seed)
            self._examples = max(1, real.examples() // len(devices))
        self._layout = weights.read_layout(data := weights.encode(self._model), len(data))
        self._sizes: dict[tuple[Encoding, tuple[str, ...]], int] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def initial_model(self, seed: int) -> Arrays:  # noqa: ARG002 - the interface
        """Return a model of one number."""
        return _MODEL

    def submit(self, work: Sequence[ClientWork], read: ReadObject) -> Sequence[Future[ClientUpdate]]:
        """Return updates of one number at once."""
        found: list[Future[ClientUpdate]] = []
        for one in work:
            future: Future[ClientUpdate] = Future()
            future.set_result(self._update(one, read))
            found.append(future)
        return found

    def timed_bytes(self, announcement: Announcement) -> tuple[int, int]:
        """Return the sizes of the task's model and of its update, in the encodings of an announcement."""
        model = self._size(self._model, self._layout, announcement.download, ())
        if announcement.work != "train":
            return model, 0
        return model, self._size(self._model, self._layout, announcement.upload, tuple(announcement.carried))

    def settle(self, work: ClientWork, *, counted: bool) -> None:
        """Keep nothing: these devices have no state."""

    def evaluate(self, weights: Arrays, *, number: int = 0, updates: int = 0) -> Mapping[str, float]:  # noqa: ARG002 - the interface
        """Return the metrics that the learning curve has for a model."""
        return self._curve.at(number, updates)

    def notes(self) -> Sequence[str]:
        """Return that nothing is trained."""
        return ["nothing is trained: the metrics are those of the learning curve"]

    def close(self) -> None:
        """Do nothing: there are no processes."""

    def _update(self, work: ClientWork, read: ReadObject) -> ClientUpdate:
        announcement, examples = work.announcement, work.device.examples or self._examples
        if announcement.work not in {"train", "evaluate"}:
            return ClientUpdate(
                Failure(f"work of the kind {announcement.work!r} needs data, which a learning curve has not")
            )
        metrics = self._curve.at(announcement.round - 1, 0) if self._curve.by == ROUND else {}
        update = b""
        if announcement.work == "train":
            given, layout = encodings.decode_model(read(announcement.model_key), announcement.download)
            update = _encoded(given, layout, announcement.upload, tuple(announcement.carried))
        result = Result(
            bytes=len(update),
            checksum=weights.checksum(update),
            examples=examples,
            examples_of_task=examples,
            metrics=metrics,
            examples_evaluated=examples if metrics else 0,
            download_seconds=0.0,
            evaluate_seconds=0.0,
        )
        return ClientUpdate(result, update)

    def _size(self, model: Arrays, layout: Layout, encoding: Encoding, carried: tuple[str, ...]) -> int:
        key = encoding, carried
        if key not in self._sizes:
            self._sizes[key] = len(_encoded(model, layout, encoding, carried))
        return self._sizes[key]


def _encoded(model: Arrays, layout: Layout, encoding: Encoding, carried: tuple[str, ...]) -> bytes:
    """Return the file of an update that changes nothing."""
    whole = update_layout(layout, carried)
    zeros = {
        auxiliary_name(kind, name): np.zeros(array.shape, np.float32)
        for kind in carried
        for name, array in layout.arrays.items()
    }
    arrays = {name: array for name, array in {**model, **zeros}.items() if name in whole.arrays}
    encoded = encodings.encode(
        arrays,
        whole,
        encoding,
        np.random.default_rng(0),
        {} if encoding.kind == "top_k" else None,
        arrays if encoding.difference else None,
    )
    file = io.BytesIO()
    weights.write(encoded, file)
    return file.getvalue()
