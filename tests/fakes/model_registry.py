"""An operator's access to models in memory, before the real cloud functions."""

import hashlib
from collections.abc import Callable
from typing import Any

from cloud_functions import initiator
from fedgrass.federation.errors import SettingsError
from fedgrass.federation.runs import RunState
from tests.fakes.memory_cloud import MemoryBucket
from tests.fakes.memory_operator import MemoryOperator
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


class ModelOperator(MemoryOperator):
    """The operator of a fleet in memory, which also lists and streams objects, and moves aliases."""

    def __init__(self, fleet: SmallFleet, by: str = ANN) -> None:
        super().__init__(fleet)
        self.fleet, self.by = fleet, by
        self.bucket = ModelObjectsInMemory(fleet.bucket)
        self._asked = 0

    def move_alias(self, action: str, **details: object) -> dict[str, Any]:
        self._asked += 1
        event = {"action": action, "by": self.by, "id": f"{self.by}-{id(self)}-{self._asked}", **details}
        answer = initiator._perform(self.fleet.cloud, event)
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
