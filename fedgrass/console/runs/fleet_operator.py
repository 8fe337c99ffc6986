"""What an operator does with a fleet: start a run, read how it went, fetch its model."""

import json
import time
from collections.abc import Iterator, Mapping
from typing import Any
from uuid import uuid4

import msgspec

from cloud_functions.aws.device_directory import DynamoDevices
from cloud_functions.aws.dynamodb_rounds import DynamoRounds
from cloud_functions.aws.s3 import S3Bucket
from fedgrass.federation import object_keys
from fedgrass.federation.errors import FedgrassError, SettingsError
from fedgrass.federation.rounds import Participant, Round
from fedgrass.federation.runs import Run, RunState
from fedgrass.federation.selection import Candidate
from fedgrass.federation.settings import RunSettings
from fedgrass.federation.weights import Arrays, encode

LARGEST_MODEL = 4 * 1024**3
LONGEST_SHOWN = 100  # bytes of an answer that cannot be used


class RoundRecord(msgspec.Struct, frozen=True):
    """One attempt at a round, with everybody's part in it."""

    round: Round
    participants: list[Participant]


class Operator:
    """The operator's view of one deployed stack.

    Args:
        clients: gives the boto3 client of a service: ``clients("s3")``.
        stack: the outputs of the stack.
    """

    def __init__(self, clients: Any, stack: Mapping[str, str]) -> None:
        self._lambda = clients("lambda")
        self._initiator = stack["InitiatorName"]
        self._rounds = DynamoRounds(clients("dynamodb"), stack["RoundsTableName"], time.sleep)
        self._devices = DynamoDevices(clients("dynamodb"), stack["DevicesTableName"])
        self._bucket = S3Bucket(clients("s3"), stack["BucketName"])

    def devices(self) -> list[Candidate]:
        """Return every device that ever sent a heartbeat."""
        return list(self._devices.seen_since(0))

    def start(self, name: str, settings: RunSettings, initial: Arrays | bytes) -> Run:
        """Upload the initial model, arrays or a file, and start a run.

        Raises as ``act`` does, and if there is another model at its place.
        """
        key, model = object_keys.model(name, 0), initial if isinstance(initial, bytes) else encode(initial)
        if self._bucket.write_once(key, model) != model:
            message = f"there is another model at {key} already: choose another name for the run"
            raise SettingsError(message)
        return self.act("start", name, settings=msgspec.to_builtins(settings))

    def act(self, action: str, name: str, **details: object) -> Run:
        """Ask the initiator for an action on a run: start, pause, resume, cancel, retry, next, status.

        Raises:
            SettingsError: the initiator refuses; the text is its reason.
            FedgrassError: the initiator itself failed.
        """
        self._ask(action, name, **details)
        return self.run(name)

    def repair(self, name: str, *, dry_run: bool = False) -> list[str]:
        """Have the lost rows of a run rebuilt; return what was, or would be. Raises as ``act`` does."""
        lines: list[str] = self._ask("repair", name, dry_run=dry_run)["lines"]
        return lines

    def _ask(self, action: str, name: str, **details: object) -> dict[str, Any]:
        # botocore repeats a request whose answer was lost: the initiator knows the action by its id.
        event = json.dumps({"action": action, "run": name, "id": uuid4().hex, **details}).encode()
        answer = self._lambda.invoke(FunctionName=self._initiator, Payload=event)
        said = _object(answer["Payload"].read())
        if "FunctionError" in answer:
            message = f"the initiator failed: {said.get('errorMessage', said)}"
            raise FedgrassError(message)
        if "refused" in said:
            raise SettingsError(said["refused"])
        return said

    def runs(self) -> Mapping[str, RunState]:
        """Return the state of every run, by name."""
        return self._rounds.runs()

    def run(self, name: str) -> Run:
        """Return a run. Raises SettingsError if there is none of that name."""
        run = self._rounds.run(name)
        if run is None:
            message = f"there is no run {name!r}"
            raise SettingsError(message)
        return run

    def rounds(self, run: Run) -> Iterator[RoundRecord]:
        """Return every attempt at every round of a run so far, in order."""
        for number in range(1, run.round + 1):
            attempt = 1
            while found := self._rounds.round(run.name, number, attempt):
                yield RoundRecord(found, list(self._rounds.participants(found)))
                attempt += 1

    def model(self, name: str, number: int) -> bytes:
        """Return the global model that round ``number`` made, as a safetensors file."""
        return self._bucket.read(object_keys.model(name, number), LARGEST_MODEL)


def _object(payload: bytes) -> dict[str, Any]:
    """Return the object that the initiator answers with. Raises FedgrassError if it is something else."""
    try:
        found = json.loads(payload)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        message = f"the initiator answered with {payload[:LONGEST_SHOWN]!r} instead of an object"
        raise FedgrassError(message)
    return found
