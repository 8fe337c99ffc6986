"""Everything that is known of one device: the result of ``fedgrass devices show``."""

import difflib

from msgspec import Struct
from msgspec.structs import replace

from fedgrass.console.aws_clients import Clients
from fedgrass.console.devices.device_history import MOST_ROWS, WorkRecord, recent_work, with_fleet
from fedgrass.console.devices.device_records import DeviceRecord, device_record
from fedgrass.console.devices.device_registration import DeviceRegistration, read_registration
from fedgrass.console.devices.slow_parts import SpeedComparison, compare_speed
from fedgrass.console.runs.fleet_operator import Operator
from fedgrass.console.stack import StackError
from fedgrass.federation.errors import SettingsError
from fedgrass.federation.rounds import AT_WORK, State


class Assignment(Struct, frozen=True, kw_only=True):
    """A device's part in one of the latest rounds of a run that has not ended."""

    run: str
    round: int
    attempt: int
    round_state: str  # OPEN, AGGREGATING, CLOSED or ABANDONED
    state: str  # such as ASKED, ACCEPTED, REPLIED, DECLINED, FAILED or SILENT
    announced_at: int  # in milliseconds since the epoch
    reason: str  # of a device that declined, failed or was refused

    @property
    def is_open(self) -> bool:
        """Whether the round waits for the device."""
        return self.round_state == State.OPEN and self.state in AT_WORK


class DeviceReport(Struct, frozen=True, kw_only=True):
    """The result of ``fedgrass devices show``."""

    device: str  # thing name
    heartbeat: DeviceRecord | None  # None: not registered by a heartbeat, or forgotten since
    assignments: list[Assignment]  # in the latest rounds of runs that have not ended
    rounds: list[WorkRecord]  # what it replied in its last rounds, the latest first
    speed: SpeedComparison | None  # None: it has not replied to a round that other devices replied to
    registration: DeviceRegistration
    errors: list[str]  # what could not be read, and why


def report_on(  # noqa: PLR0913, PLR0917 - where it is read from, and what
    operator: Operator, clients: Clients, table: str, device: str, rounds: int, seen_since: int
) -> DeviceReport:
    """Return everything that is known of a device.

    Args:
        operator: of the stack.
        clients: returns the boto3 client of a service.
        table: the turnarounds table.
        device: thing name.
        rounds: number of its last replies to read.
        seen_since: devices seen before this time are missing, in milliseconds since the epoch.

    Raises:
        SettingsError: nothing is known of a device of this name.
    """
    errors: list[str] = []
    found = operator.device(device)
    work: list[WorkRecord] = []
    try:
        work = read_work(operator, clients, table, device, rounds)
    except StackError as error:  # the stack is older than the index
        errors.append(str(error))
    registration = read_registration(clients, device)
    if found is None and not work and registration.registered is not True:
        raise SettingsError(unknown_device(operator, device))
    return DeviceReport(
        device=device,
        heartbeat=device_record(found, seen_since) if found else None,
        assignments=assignments_of(operator, device),
        rounds=work,
        speed=compare_speed(work),
        registration=registration,
        errors=errors,
    )


def unknown_device(operator: Operator, device: str) -> str:
    """Return the message that the stack has no such device, with the name that was probably meant."""
    close = difflib.get_close_matches(device, [one.device for one in operator.devices()], n=1)
    hint = f"did you mean {close[0]!r}?" if close else "`fedgrass devices list --all` has all names"
    return f"there is no device {device!r} in the stack: {hint}"


def read_work(operator: Operator, clients: Clients, table: str, device: str, rounds: int) -> list[WorkRecord]:
    """Return a device's last replies, with the medians of their rounds and what the cloud made of them."""
    dynamodb = clients("dynamodb")
    found = recent_work(dynamodb, table, device, min(rounds, MOST_ROWS))
    return [_with_verdict(operator, device, with_fleet(dynamodb, table, record)) for record in found]


def _with_verdict(operator: Operator, device: str, record: WorkRecord) -> WorkRecord:
    round_ = operator.round(record.run, record.round, record.attempt)
    part = operator.participant(round_, device) if round_ else None
    if part is None:  # the device made the round up, or its rows are lost
        return record
    return replace(record, counted=part.state.value, counted_reason=part.reason)


def assignments_of(operator: Operator, device: str) -> list[Assignment]:
    """Return a device's parts in the latest rounds of all runs that have not ended."""
    return [
        Assignment(
            run=round_.run,
            round=round_.number,
            attempt=round_.attempt,
            round_state=round_.state.value,
            state=part.state.value,
            announced_at=part.announced_at,
            reason=part.reason,
        )
        for round_ in operator.latest_rounds()
        if (part := operator.participant(round_, device))
    ]
