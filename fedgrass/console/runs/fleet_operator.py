"""The operator's access to a deployed fleet: start and control runs, read their rounds, fetch a model."""

import difflib
import json
import time
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from typing import Any
from uuid import uuid4

import msgspec
from botocore.exceptions import BotoCoreError, ClientError

from cloud_functions.aws.device_directory import DynamoDevices, IotThingGroups
from cloud_functions.aws.dynamodb_rounds import DynamoRounds
from fedgrass.console import stack as deployed
from fedgrass.console.aws_clients import Clients
from fedgrass.console.reports.turnaround_rows import Turnaround, read_turnarounds
from fedgrass.console.runs.streamed_bucket import StreamedBucket
from fedgrass.federation import object_keys
from fedgrass.federation.errors import FedgrassError, SettingsError
from fedgrass.federation.messages.message_fields import LONGEST_CALLER
from fedgrass.federation.rounds import Participant, Round
from fedgrass.federation.runs import Run, RunState
from fedgrass.federation.selection import Candidate
from fedgrass.federation.settings import RunSettings
from fedgrass.federation.weights import Arrays, encode

LARGEST_MODEL = 4 * 1024**3  # bytes
_PARALLEL_READS = 8  # of rows; botocore keeps ten connections
_LONGEST_SHOWN = 100  # bytes of an unusable response
_LATEST_ROUNDS = 3  # of a run
_READING = frozenset({"devices", "status"})  # actions that change nothing


class RoundRecord(msgspec.Struct, frozen=True):
    """One attempt at a round, with its participants."""

    round: Round
    participants: list[Participant]


class LogTicket(msgspec.Struct, frozen=True):
    """A request for the log lines of a device. Times are in milliseconds, by the cloud's clock."""

    device: str
    id: str
    key: str  # to which the device uploads them
    requested_at: int
    expires_at: int  # after which the device drops the request
    last_seen: int  # when its last heartbeat came


class Operator:
    """The operator's view of one deployed stack.

    Args:
        clients: returns the boto3 client of a service.
        stack: the outputs of the stack.
    """

    def __init__(self, clients: Clients, stack: Mapping[str, str]) -> None:
        self._clients, self._stack = clients, stack
        self._lambda = clients("lambda")
        self._initiator = stack["InitiatorName"]
        self._rounds = DynamoRounds(clients("dynamodb"), stack["RoundsTableName"], time.sleep)
        self._devices = DynamoDevices(clients("dynamodb"), stack["DevicesTableName"])
        self._bucket = StreamedBucket(clients("s3"), stack["BucketName"])

    def devices(self) -> list[Candidate]:
        """Return every device that has ever sent a heartbeat."""
        return list(self._devices.seen_since(0))

    def device(self, name: str) -> Candidate | None:
        """Return a device as its last heartbeat describes it, or None."""
        return self._devices.find(name)

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

    def request_logs(self, device: str) -> LogTicket:
        """Ask a device to upload its last log lines. Raises as ``act`` does."""
        found = self._ask("logs", "", device=device)
        try:
            return msgspec.convert(found, LogTicket)
        except msgspec.ValidationError as error:
            message = f"the initiator's answer is not understood: {error}; `fedgrass deploy cloud` updates it"
            raise FedgrassError(message) from error

    def last_log(self, device: str) -> str | None:
        """Return the key of the log lines that a device sent last, or None."""
        return self._bucket.newest(object_keys.device_log_prefix(device))

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

    def forget(self, device: str, last_seen: int) -> bool:
        """Remove a device from the devices table, if it was last seen at ``last_seen`` (milliseconds).

        Returns:
            Whether it was there.

        Raises:
            SettingsError: it takes part in an open round, or has sent a heartbeat since.
            FedgrassError: the initiator failed.
        """
        return bool(self._ask("forget", "", device=device, last_seen=last_seen)["forgotten"])

    @cached_property
    def _caller(self) -> str:
        """The ARN of the operator's credentials, for the histories of runs; empty without access to STS."""
        try:
            arn: str = self._clients("sts").get_caller_identity()["Arn"]
        except (BotoCoreError, ClientError):  # in a network that only reaches the services that it needs
            return ""
        return arn[:LONGEST_CALLER]

    def move_alias(self, action: str, **details: object) -> dict[str, Any]:
        """Ask the initiator to ``promote`` or ``rollback`` an alias; return its answer. Raises as ``act``."""
        return self._ask(action, str(details.pop("run", "")), **details)

    def _ask(self, action: str, name: str, **details: object) -> dict[str, Any]:
        # botocore repeats a request whose response was lost: the id lets the initiator recognise the action.
        event: dict[str, object] = {"action": action, "run": name, "id": uuid4().hex, **details}
        if action not in _READING:
            event["by"] = self._caller
        response = self._lambda.invoke(FunctionName=self._initiator, Payload=json.dumps(event).encode())
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
            close = difflib.get_close_matches(name, list(self.runs()), n=1)
            hint = f"did you mean {close[0]!r}?" if close else "list the runs with `fedgrass run list`"
            message = f"there is no run {name!r}: {hint}"
            raise SettingsError(message)
        return run

    def every_run(self, names: Iterable[str]) -> list[Run]:
        """Return several runs, read in parallel; without those that do not exist (any more)."""
        with ThreadPoolExecutor(_PARALLEL_READS, thread_name_prefix="runs") as pool:
            return [run for run in pool.map(self._rounds.run, names) if run]

    @property
    def bucket(self) -> StreamedBucket:
        """The stack's bucket."""
        return self._bucket

    def round(self, name: str, number: int, attempt: int = 1) -> Round | None:
        """Return one attempt at a round of a run, or None."""
        return self._rounds.round(name, number, attempt)

    def participant(self, round_: Round, device: str) -> Participant | None:
        """Return one device's part in a round, or None."""
        return self._rounds.participant(round_, device)

    def latest_rounds(self) -> Iterator[Round]:
        """Yield the last attempts at rounds of all runs that have not ended."""
        for name in self._rounds.living():
            if run := self._rounds.run(name):
                yield from self._rounds.rounds_from(name, max(1, run.round - _LATEST_ROUNDS + 1), run.round)

    def participants(self, round_: Round) -> list[Participant]:
        """Return the participants of a round."""
        return list(self._rounds.participants(round_))

    def rounds(self, run: Run, first: int = 1) -> Iterator[RoundRecord]:
        """Yield every attempt at every round of a run so far, from round ``first`` on, in order."""
        for found in self.rounds_alone(run, first):
            yield RoundRecord(found, list(self._rounds.participants(found)))

    def rounds_alone(self, run: Run, first: int = 1) -> Iterator[Round]:
        """Yield the attempts that ``rounds`` yields, without reading their participants."""
        return self._rounds.rounds_from(run.name, first, run.round)

    def turnarounds(self, round_: Round) -> dict[str, Turnaround]:
        """Return the turnarounds of a round's devices that have not expired, by device."""
        table = self._stack["TurnaroundsTableName"]
        return read_turnarounds(self._clients("dynamodb"), table, round_)

    def candidate_ports(self) -> tuple[DynamoRounds, DynamoDevices, IotThingGroups, StreamedBucket]:
        """Return what a selection of devices reads: rounds, devices, thing groups and the bucket."""
        return self._rounds, self._devices, IotThingGroups(lambda: self._clients("iot")), self._bucket

    def read(self, key: str, largest: int) -> bytes:
        """Return an object of at most ``largest`` bytes. Raises KeyError if it does not exist."""
        return self._bucket.read(key, largest)

    def model(self, name: str, number: int) -> bytes:
        """Return global model ``number``, which the round of that number made, as a safetensors file."""
        return self._bucket.read(object_keys.model(name, number), LARGEST_MODEL)


def open_operator(stack_name: str) -> Operator:
    """Return the operator of a deployed stack, with the credentials of the environment.

    Raises:
        StackError: the stack does not exist in this region, or AWS cannot be reached or refuses.
    """
    return Operator(deployed.client, deployed.outputs(stack_name))


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
