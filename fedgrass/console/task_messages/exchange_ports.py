"""What a ``MessageExchange`` needs of its surroundings, and how it ends."""

from collections.abc import Sequence
from typing import Protocol

from fedgrass.console.runs.streamed_bucket import StreamedObjects
from fedgrass.console.task_messages.message_outcomes import Outcome
from fedgrass.console.task_messages.message_queue import Letter
from fedgrass.federation.errors import FedgrassError
from fedgrass.federation.rounds import Participant, Round
from fedgrass.federation.runs import Run


class ExchangeFailed(FedgrassError):
    """The run takes no more messages: it was ended, or another ServerApp drives it."""


class ExchangeClosed(FedgrassError):
    """The exchange was closed by this process, such as at an interruption."""


class FleetRun(Protocol):
    """What an exchange needs of the operator's access to a fleet; see ``Operator``."""

    @property
    def bucket(self) -> StreamedObjects:
        """The fleet's bucket."""

    def run(self, name: str) -> Run:
        """Return a run. Raises SettingsError if it does not exist."""

    def message_devices(self, name: str) -> list[str]:
        """Return the thing names of the devices to which a run may send messages."""

    def send_messages(self, name: str, number: int, list_sha256: str) -> None:
        """Open a round for a list of messages. Raises SettingsError if the initiator refuses."""

    def round(self, name: str, number: int, attempt: int = 1) -> Round | None:
        """Return one attempt at a round, or None."""

    def participants(self, round_: Round) -> Sequence[Participant]:
        """Return the participants of a round."""


class Observer(Protocol):
    """Receives what happens to the messages; called by the threads that push and collect."""

    def sent(self, number: int, letters: Sequence[Letter], *, adopted: bool) -> None:
        """Messages were sent in a round, or those of an earlier process were adopted."""

    def stored(self, size: int) -> None:
        """A file of this many bytes was uploaded."""

    def seen(self, round_: Round) -> None:
        """A round was read from the table."""

    def collected(self, number: int, device: str, outcome: Outcome) -> None:
        """The outcome of a message is known."""

    def postponed(self, device: str, reason: str) -> None:
        """A device declined because it is busy; its message is sent again later."""

    def held_up(self, reason: str) -> None:
        """The run takes no messages at the moment; the reason is the initiator's."""


class SilentObserver:
    """An observer that shows nothing."""

    def sent(self, number: int, letters: Sequence[Letter], *, adopted: bool) -> None:
        """Show nothing."""

    def stored(self, size: int) -> None:
        """Show nothing."""

    def seen(self, round_: Round) -> None:
        """Show nothing."""

    def collected(self, number: int, device: str, outcome: Outcome) -> None:
        """Show nothing."""

    def postponed(self, device: str, reason: str) -> None:
        """Show nothing."""

    def held_up(self, reason: str) -> None:
        """Show nothing."""
