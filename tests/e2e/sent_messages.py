"""A ServerApp's side of a run without Flower: put messages into the stack's bucket, request the actions."""

import time
from collections.abc import Sequence

from fedgrass.console.runs.fleet_operator import RoundRecord
from fedgrass.federation import object_keys, weights
from fedgrass.federation.rounds import State
from fedgrass.federation.settings_parser import parse_settings
from fedgrass.federation.task_messages.message_content import Record
from fedgrass.federation.task_messages.round_messages import MessageGroup, RoundMessages, encode_messages
from tests.e2e.conftest import Watched
from tests.e2e.processes import wait_until
from tests.fakes.message_tasks import MODULE, array_record, file_of, header


def doubling_task(root: str) -> dict[str, object]:
    """Return the configuration of a task that answers each array doubled."""
    return {"module": f"{MODULE}:Doubling", "path": root}


class SentMessages:
    """One run and the messages that it sends."""

    def __init__(self, watched: Watched, name: str, **settings: object) -> None:
        self._watched = watched
        self._operator = watched.testbed.operator
        self._bucket = watched.testbed.stack["BucketName"]
        self._s3 = watched.testbed.cloud.client("s3")
        self.name = name
        chosen = parse_settings(
            {"task": "doubling", "mode": "server_app", "deadline_seconds": 60, **settings}
        )
        self._operator.start_server_app(name, chosen)

    def devices(self) -> list[str]:
        return self._operator.message_devices(self.name)

    def send(self, number: int, devices: Sequence[str], *values: float, ttl: float = 60.0) -> str:
        """Send an array of ``values`` to devices; return the SHA-256 of the list."""
        record, data = array_record(x=values)
        config = Record(name="config", kind="config", values={"server-round": number})
        content = file_of([record, config], data)
        sha256 = weights.sha256(content)
        self._put(object_keys.content(self.name, sha256), content)
        group = MessageGroup(
            header=header(group=str(number), ttl=ttl, created_at=time.time()),
            sha256=sha256,
            bytes=len(content),
            holds=len(content),
            devices=tuple(devices),
        )
        listed = encode_messages(RoundMessages(groups=(group,)))
        self._put(object_keys.messages(self.name, number), listed)
        self._operator.send_messages(self.name, number, weights.sha256(listed))
        return weights.sha256(listed)

    def _put(self, key: str, data: bytes) -> None:
        self._s3.put_object(Bucket=self._bucket, Key=key, Body=data)

    def round(self, number: int) -> RoundRecord:
        (found,) = [each for each in self._watched.rounds(self.name) if each.round.number == number]
        return found

    def ended(self, number: int) -> RoundRecord:
        """Return a round once it has ended."""
        states = {State.CLOSED, State.ABANDONED}
        wait_until(
            lambda: self.round(number).round.state in states, f"the end of round {number} of {self.name}"
        )
        return self.round(number)

    def finish(self) -> None:
        self._operator.finish(self.name)
