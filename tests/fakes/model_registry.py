"""An operator's access to models in memory, before the real cloud functions."""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from cloud_functions import initiator
from cloud_functions.services import Services
from fedgrass.federation.errors import SettingsError
from fedgrass.federation.rounds import Participant, Round
from fedgrass.federation.runs import Run, RunState
from tests.fakes.memory_cloud import MemoryBucket
from tests.fakes.small_fleet import RUN, SmallFleet

ANN, BOB = "arn:aws:iam::1:user/ann", "arn:aws:iam::1:user/bob"


class ModelObjectsInMemory:
    """The bucket of an operator over one in memory."""

    def __init__(self, bucket: MemoryBucket) -> None:
        self._bucket = bucket

    def __getattr__(self, name: str) -> Any:
        return getattr(self._bucket, name)

    def keys(self, prefix: str) -> list[str]:
        return sorted(key for key in self._bucket.objects if key.startswith(prefix))

    def folders(self, prefix: str) -> list[str]:
        below = (key.removeprefix(prefix) for key in self.keys(prefix))
        return sorted({rest.partition("/")[0] for rest in below if "/" in rest})

    def stream(self, key: str) -> tuple[int, Callable[[int], bytes], str]:
        data = self._bucket.read(key, 2**40)
        position = 0

        def read(count: int) -> bytes:
            nonlocal position
            position += count
            return data[position - count : position]

        return len(data), read, hashlib.md5(data).hexdigest()  # noqa: S324 - an ETag


class ModelOperator:
    """The part of ``Operator`` that the commands on models use, over a fleet in memory."""

    def __init__(self, fleet: SmallFleet, by: str = ANN) -> None:
        self.fleet, self.by = fleet, by
        self._asked = 0

    @property
    def bucket(self) -> ModelObjectsInMemory:
        return ModelObjectsInMemory(self.fleet.bucket)

    @property
    def _services(self) -> Services:
        return self.fleet.cloud

    def runs(self) -> Mapping[str, RunState]:
        return self.fleet.rounds.runs()

    def run(self, name: str) -> Run:
        run = self.fleet.rounds.run(name)
        if run is None:
            message = f"there is no run {name!r}"
            raise SettingsError(message)
        return run

    def every_run(self, names: Iterable[str]) -> list[Run]:
        return [self.run(name) for name in names]

    def rounds_alone(self, run: Run, first: int = 1) -> Iterator[Round]:
        return self.fleet.rounds.rounds_from(run.name, first, run.round)

    def participants(self, round_: Round) -> list[Participant]:
        return list(self.fleet.rounds.participants(round_))

    def move_alias(self, action: str, **details: object) -> dict[str, Any]:
        self._asked += 1
        event = {"action": action, "by": self.by, "id": f"{self.by}-{id(self)}-{self._asked}", **details}
        answer = initiator._perform(self._services, event)
        if "refused" in answer:
            raise SettingsError(answer["refused"])
        return answer


def trained(rounds: int = 3, **settings: Any) -> SmallFleet:
    """Return a fleet whose run has ended."""
    fleet = SmallFleet(rounds=rounds, **settings)
    fleet.start()
    while fleet.run(RUN).state is RunState.RUNNING:
        for device in fleet.parts():
            fleet.reply(device, fleet.newest())
    return fleet
