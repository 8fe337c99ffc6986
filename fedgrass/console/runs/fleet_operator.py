"""The operator's access to a deployed fleet: start and control runs, read their rounds, fetch a model."""

import json
import time
from collections.abc import Iterator, Mapping
from typing import Any
from uuid import uuid4

import msgspec

from cloud_functions.aws.device_directory import DynamoDevices
from cloud_functions.aws.dynamodb_rounds import DynamoRounds
from fedgrass.console.aws_clients import Clients
from fedgrass.console.runs.streamed_bucket import StreamedBucket
from fedgrass.federation import object_keys
from fedgrass.federation.errors import FedgrassError, SettingsError
from fedgrass.federation.rounds import ENDED, Participant, Round
from fedgrass.federation.runs import LIVING, Run, RunState
from fedgrass.federation.selection import Candidate
from fedgrass.federation.settings import RunSettings
from fedgrass.federation.weights import Arrays, encode

LARGEST_MODEL = 4 * 1024**3  # bytes
_LONGEST_SHOWN = 100  # bytes of an unusable response


class RoundRecord(msgspec.Struct, frozen=True):
    """One attempt at a round, with its participants."""

    round: Round
    participants: list[Participant]


class Operator:
    """The operator's view of one deployed stack.

    Args:
        clients: returns the boto3 client of a service.
        stack: the outputs of the stack.
    """

    def __init__(self, clients: Clients, stack: Mapping[str, str]) -> None:
        self._lambda = clients("lambda")
        self._initiator = stack["InitiatorName"]
        self._rounds = DynamoRounds(clients("dynamodb"), stack["RoundsTableName"], time.sleep)
        self._devices = DynamoDevices(clients("dynamodb"), stack["DevicesTableName"])
        self._bucket = StreamedBucket(clients("s3"), stack["BucketName"])

    def devices(self) -> list[Candidate]:
        """Return every device that has ever sent a heartbeat."""
        return list(self._devices.seen_since(0))

    def start(self, name: str, settings: RunSettings, initial: Arrays | bytes) -> Run:
        """Upload the initial model and start a run.

        Args:
            name: name of the new run.
            settings: its settings.
            initial: the model, as arrays by name or as the bytes of a safetensors file.

        Raises:
            SettingsError: the initiator refused, or another model exists under the run's name.
            FedgrassError: the initiator failed.
        """
        key, model = object_keys.model(name, 0), initial if isinstance(initial, bytes) else encode(initial)
        if self._bucket.write_once(key, model) != model:
            message = f"another model exists at {key}: choose another name for the run"
            raise SettingsError(message)
        return self.act("start", name, settings=msgspec.to_builtins(settings))

    def upload_frozen(self, name: str, frozen: bytes) -> None:
        """Upload the file with the frozen arrays of a new run.

        Raises:
            SettingsError: another file exists under the run's name.
        """
        key = object_keys.frozen(name)
        if self._bucket.write_once(key, frozen) != frozen:
            message = f"other frozen arrays exist at {key}: choose another name for the run"
            raise SettingsError(message)

    def act(self, action: str, name: str, **details: object) -> Run:
        """Ask the initiator for an action on a run: start, pause, resume, cancel, retry, next, status.

        Raises:
            SettingsError: the initiator refused; the message is its reason.
            FedgrassError: the initiator failed.
        """
        self._ask(action, name, **details)
        return self.run(name)

    def repair(self, name: str, *, dry_run: bool = False) -> list[str]:
        """Rebuild the lost rows of a run; return a line per row that was, or would be, written.

        Raises as ``act`` does.
        """
        lines: list[str] = self._ask("repair", name, dry_run=dry_run)["lines"]
        return lines

    def start_server_app(self, name: str, settings: RunSettings) -> Run:
        """Start a run that waits for the messages of a ServerApp. Raises as ``act`` does."""
        return self.act("start", name, settings=msgspec.to_builtins(settings))

    def message_devices(self, name: str) -> list[str]:
        """Return the thing names of the devices to which a run may send messages. Raises as ``act`` does."""
        devices: list[str] = self._ask("devices", name)["devices"]
        return devices

    def send_messages(self, name: str, number: int, list_sha256: str) -> None:
        """Open round ``number`` of a run for a list of messages in the bucket. Raises as ``act`` does."""
        self._ask("send", name, number=number, sha256=list_sha256)

    def finish(self, name: str, failed: str = "") -> None:
        """End a run with a ServerApp; ``failed`` is why it FAILED. Raises as ``act`` does."""
        self._ask("finish", name, **({"failed": failed} if failed else {}))

    def _ask(self, action: str, name: str, **details: object) -> dict[str, Any]:
        # botocore repeats a request whose response was lost: the id lets the initiator recognise the action.
        event = json.dumps({"action": action, "run": name, "id": uuid4().hex, **details}).encode()
        response = self._lambda.invoke(FunctionName=self._initiator, Payload=event)
        result = _object(response["Payload"].read())
        if "FunctionError" in response:
            message = f"the initiator failed: {result.get('errorMessage', result)}"
            raise FedgrassError(message)
        if "refused" in result:
            raise SettingsError(result["refused"])
        return result

    def runs(self) -> Mapping[str, RunState]:
        """Return the state of every run, by name."""
        return self._rounds.runs()

    def run(self, name: str) -> Run:
        """Return a run. Raises SettingsError if it does not exist."""
        run = self._rounds.run(name)
        if run is None:
            message = f"there is no run {name!r}: list the runs with `fedgrass runs`"
            raise SettingsError(message)
        return run

    @property
    def bucket(self) -> StreamedBucket:
        """The stack's bucket."""
        return self._bucket

    def round(self, name: str, number: int, attempt: int = 1) -> Round | None:
        """Return one attempt at a round of a run, or None."""
        return self._rounds.round(name, number, attempt)

    def participants(self, round_: Round) -> list[Participant]:
        """Return the participants of a round."""
        return list(self._rounds.participants(round_))

    def rounds(self, run: Run) -> Iterator[RoundRecord]:
        """Yield every attempt at every round of a run so far, in order."""
        for found in self._rounds.rounds_from(run.name, 1, run.round):
            yield RoundRecord(found, list(self._rounds.participants(found)))

    def ended_rounds(self, run: Run, first: int = 1) -> Iterator[RoundRecord]:
        """Yield the attempts at rounds from ``first`` on that have ended and whose result is published.

        The participants of other attempts are not read: while a round is open that would be most of the rows.
        """
        for found in self._rounds.rounds_from(run.name, first, run.round):
            published = found.number <= run.published or run.state not in LIVING
            if found.state in ENDED and published:
                yield RoundRecord(found, list(self._rounds.participants(found)))

    def read(self, key: str, largest: int) -> bytes:
        """Return an object of at most ``largest`` bytes. Raises KeyError if it does not exist."""
        return self._bucket.read(key, largest)

    def model(self, name: str, number: int) -> bytes:
        """Return global model ``number``, which the round of that number made, as a safetensors file."""
        return self._bucket.read(object_keys.model(name, number), LARGEST_MODEL)


def _object(payload: bytes) -> dict[str, Any]:
    """Return the JSON object that the initiator returned. Raises FedgrassError if it is not one."""
    try:
        found = json.loads(payload)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        message = f"the initiator returned {payload[:_LONGEST_SHOWN]!r} instead of a JSON object"
        raise FedgrassError(message)
    return found
