"""A ``ClientTrainer`` of a few numpy operations: each device pulls the model towards another point."""

from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Self

import numpy as np

from components.trainer.worker.worker_protocol import Failure, Result
from fedgrass.federation.messages import Announcement
from fedgrass.federation.weights import Arrays, checksum, decode, encode
from fedgrass.simulation.clients.client_trainer import ClientUpdate, ClientWork, ReadObject


class NumpyClients:
    """Trains the model ``{"weight": (size,)}``.

    Args:
        size: of the model.
        workers: threads that train; 0: the caller trains, at once.
        examples: of each device.
        failing: names of devices whose work fails.
    """

    def __init__(
        self, size: int = 4, workers: int = 0, examples: int = 10, failing: Sequence[str] = ()
    ) -> None:
        self.batches: list[list[ClientWork]] = []  # the work of each call of ``submit``
        self.settled: list[tuple[str, int, int, bool]] = []  # device, round, attempt, counted
        self._size = size
        self._pool = ThreadPoolExecutor(workers) if workers else None
        self._examples = examples
        self._failing = frozenset(failing)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def initial_model(self, seed: int) -> Arrays:
        return {"weight": np.full(self._size, seed % 7, np.float32)}

    def submit(self, work: Sequence[ClientWork], read: ReadObject) -> Sequence[Future[ClientUpdate]]:
        self.batches.append(list(work))
        files = {each.announcement.model_key: read(each.announcement.model_key) for each in work}
        return [self._begin(each, files[each.announcement.model_key]) for each in work]

    def _begin(self, work: ClientWork, model: bytes) -> "Future[ClientUpdate]":
        if self._pool:
            return self._pool.submit(self._train, work, model)
        future: Future[ClientUpdate] = Future()
        future.set_result(self._train(work, model))
        return future

    def _train(self, work: ClientWork, model: bytes) -> ClientUpdate:
        if work.device.name in self._failing:
            return ClientUpdate(Failure(reason="ValueError: no data"))
        weight = np.asarray(decode(model)["weight"], np.float32)
        target = np.float32(work.device.share + work.seed % 100 / 1000)
        loss = float(np.abs(weight - target).mean())
        trains = work.announcement.work == "train"
        update = encode({"weight": weight + np.float32(0.5) * (target - weight)}) if trains else b""
        return ClientUpdate(
            Result(
                bytes=len(update),
                checksum=checksum(update),
                examples=work.device.examples or self._examples,
                examples_of_task=self._examples,
                metrics={"loss": loss},
                examples_evaluated=self._examples,
                download_seconds=0.0,
                evaluate_seconds=0.0,
            ),
            update,
        )

    def settle(self, work: ClientWork, *, counted: bool) -> None:
        announcement = work.announcement
        self.settled.append((work.device.name, announcement.round, announcement.attempt, counted))

    def timed_bytes(self, announcement: Announcement) -> None:
        pass

    def evaluate(self, weights: Arrays, **_of_model: int) -> Mapping[str, float]:
        return {"loss": float(np.abs(np.asarray(weights["weight"])).mean())}

    def notes(self) -> Sequence[str]:
        return []

    def close(self) -> None:
        if self._pool:
            self._pool.shutdown()
