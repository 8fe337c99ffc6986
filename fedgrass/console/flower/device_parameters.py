"""Ask one device for the initial model of a Flower app, where its ServerApp passes none.

As Flower's server does: the ClientApp of the former API has ``get_parameters``. The question is a
separate run with one round, ``<run>-model-<random>``, which ends with the answer.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import Any, Protocol
from uuid import uuid4

from numpy.typing import NDArray

from components.trainer.flower.serialised_arrays import array_in
from fedgrass.console.task_messages.content_files import MessagePart
from fedgrass.console.task_messages.exchange_ports import FleetRun
from fedgrass.console.task_messages.message_exchange import MessageExchange
from fedgrass.console.task_messages.message_outcomes import Failure, Outcome, Reply
from fedgrass.federation.errors import FedgrassError, SettingsError, UpdateRefused
from fedgrass.federation.runs import Run
from fedgrass.federation.settings import RunSettings
from fedgrass.federation.task_messages.message_content import Record

SECONDS = 600.0  # within which a device must answer
_MOST_ASKED = 3  # devices, one after the other
_TYPE = "get_parameters"
# Flower's names: flwr.compat.common.recorddict_compat.
_REQUEST, _STATUS, _EMPTY = "getparametersins.config", "getparametersres.status", "_empty"
_LONGEST_STEM = 45  # characters of a run's name, with room for the rest
WAY_OUT = (
    "give the model by --model FILE, or by --app APP_DIR the folder of the Flower app, whose ServerApp may"
    " pass it"
)
Model = dict[str, NDArray[Any]]


class Fleet(FleetRun, Protocol):
    """What is needed of the operator's access to a fleet; see ``Operator``."""

    def start_server_app(self, name: str, settings: RunSettings) -> Run:
        """Start a run that waits for messages. Raises SettingsError if the initiator refuses."""

    def finish(self, name: str, failed: str = "") -> None:
        """End such a run."""


def ask_for_parameters(  # noqa: PLR0913, PLR0917 - the last three are for tests
    fleet: Fleet,
    run: str,
    settings: RunSettings,
    report: Callable[[str], None],
    seconds: float = SECONDS,
    connect: Callable[[Fleet, str], MessageExchange] = MessageExchange,
    clock: Callable[[], float] = time.time,
) -> Model:
    """Return the parameters that a device starts with: arrays named ``0``, ``1``, ... in the app's order.

    Args:
        fleet: the operator's access to the fleet.
        run: name of the run that is to start from them.
        settings: of that run, which bound the devices.
        report: called with a line per device that is asked.
        seconds: within which a device must answer.
        connect: returns the exchange of messages of a run.
        clock: returns the seconds since the epoch.

    Raises:
        SettingsError: no device is there, or none of those asked has an initial model; with the reasons.
    """
    name = f"{run[:_LONGEST_STEM]}-model-{uuid4().hex[:6]}"
    asking = RunSettings(
        task=settings.task,
        mode="server_app",
        where=settings.where,
        thing_group=settings.thing_group,
        seen_within_seconds=settings.seen_within_seconds,
        accept_seconds=settings.accept_seconds,
        deadline_seconds=max(5, round(seconds)),
    )
    fleet.start_server_app(name, asking)
    reasons: list[str] = []
    try:
        exchange = connect(fleet, name)
        devices = exchange.devices()
        for device in devices[:_MOST_ASKED]:
            report(f"asking {device} for the initial model (run {name})")
            outcome = _answer(exchange, device, seconds, clock())
            found = outcome if isinstance(outcome, Failure) else _parameters(outcome)
            if isinstance(found, dict):
                fleet.finish(name)
                return found
            reasons.append(f"{device}: {found}")
    except BaseException:
        with suppress(FedgrassError):  # the error that is on its way counts
            fleet.finish(name, "the question for an initial model was interrupted")
        raise
    if not devices:
        reasons = [f"no device with the task was seen within {settings.seen_within_seconds} s"]
    reason = "; ".join(reasons)
    fleet.finish(name, reason)
    message = f"there is no initial model for {settings.task}: {reason}; {WAY_OUT}"
    raise SettingsError(message)


def _answer(exchange: MessageExchange, device: str, seconds: float, now: float) -> Outcome:
    content = exchange.store([MessagePart(Record(name=_REQUEST, kind="config"))])
    letter = exchange.push(device, content, type=_TYPE, group="0", ttl=seconds, created_at=now)
    exchange.flush()
    while True:
        for _, outcome in exchange.collect([letter]):
            return outcome
        exchange.wait()


def _parameters(reply: Reply) -> Model | Failure:
    """Return the arrays of a reply, or why it has none."""
    try:
        found = dict(_arrays(reply.records, reply.data))
    except UpdateRefused as error:
        return Failure("refused", str(error))
    if found:
        return {str(number): array for number, array in enumerate(found.values())}
    status = next((record.values for record in reply.records if record.name == _STATUS), {})
    return Failure("refused", str(status.get("message") or "its ClientApp has no get_parameters"))


def _arrays(records: Sequence[Record], data: Sequence[bytes]) -> Iterator[tuple[str, NDArray[Any]]]:
    """Yield the arrays of all records by name."""
    entries = [entry for record in records for entry in record.arrays]
    for entry, content in zip(entries, data, strict=True):
        if entry.name != _EMPTY:
            yield entry.name, array_in(content, entry.name)
