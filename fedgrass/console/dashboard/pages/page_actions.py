"""What an operator may do from the page: checked here, whatever buttons the page shows."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from msgspec import Struct

from fedgrass.console import stack
from fedgrass.console.dashboard.pages.settings_form import settings_fields, settings_of
from fedgrass.federation.conversion import shown
from fedgrass.federation.errors import FedgrassError, SettingsError
from fedgrass.federation.messages.message_fields import checked_name
from fedgrass.federation.runs import LIVING
from fedgrass.federation.settings_parser import parse_settings

_LONGEST_NUMBER = 6  # digits of a round


class ReadOnly(FedgrassError):
    """The dashboard was started with --read-only."""


class RunAction(Struct, frozen=True, kw_only=True):
    """An action on a run."""

    name: str
    label: str  # of its button
    question: str  # asked before it is done; ``{run}`` is the run's name
    states: frozenset[str]  # of the run, in which it is offered
    is_final: bool = False


RUN_ACTIONS = (
    RunAction(
        name="pause",
        label="Pause",
        question="Pause {run}? The open round continues; no further one is opened until you resume the run.",
        states=frozenset({"RUNNING"}),
    ),
    RunAction(
        name="resume",
        label="Resume",
        question="Resume {run}? Its next round is opened as scheduled.",
        states=frozenset({"PAUSED"}),
    ),
    RunAction(
        name="next",
        label="Next round",
        question="Open the next round of {run} now, whatever its schedule is?",
        states=frozenset({"RUNNING"}),
    ),
    RunAction(
        name="retry",
        label="Retry",
        question="Give up the open round of {run} and ask devices again? A failed run continues.",
        states=frozenset({"RUNNING", "FAILED"}),
    ),
    RunAction(
        name="cancel",
        label="Cancel run",
        question="Cancel {run}? This cannot be undone. The models of its closed rounds are kept.",
        states=LIVING,
        is_final=True,
    ),
)


class FleetActions(Protocol):
    """What carries actions out; ``Operator`` does. Raises SettingsError for what is refused."""

    def act(self, action: str, name: str, **details: object) -> Any:
        """Ask for an action on a run."""

    def forget(self, device: str, last_seen: int) -> bool:
        """Remove a device that was last seen then; return whether it was there."""


class AliasLine(Struct, frozen=True, kw_only=True):
    """An alias of a task, or what it should become."""

    task: str
    alias: str
    run: str  # of the model that it names
    number: int
    serial: int = 0  # how often it was moved; 0: it is new


class ModelActions(Protocol):
    """What reads and moves aliases of models; raises FedgrassError, SettingsError for what is refused."""

    def aliases(self, tasks: Sequence[str]) -> list[AliasLine]:
        """Return the aliases of these tasks."""

    def promote(self, line: AliasLine) -> None:
        """Let an alias name a model; refused if it was moved since it had the line's serial."""

    def rollback(self, line: AliasLine) -> None:
        """Let an alias name its former model again; refused if it was moved since."""


class Actions:
    """The actions on one stack. All of them block, and raise FedgrassError with one line for people.

    Args:
        operator: returns what carries them out, once per action: credentials may have been renewed.
        models: carries out those on models.
        read_only: refuse all of them.
    """

    def __init__(
        self,
        operator: Callable[[], FleetActions],
        models: ModelActions,
        *,
        read_only: bool = False,
    ) -> None:
        self._operator = operator
        self._models = models
        self.read_only = read_only

    def on_run(self, action: str, run: str) -> str:
        """Pause, resume, retry, cancel or advance a run; return what happened."""
        known = {one.name: one for one in RUN_ACTIONS}
        if action not in known:
            message = f"the page has no action {action!r}: it may be one of {', '.join(known)}"
            raise SettingsError(message)
        with self._allowed():
            self._operator().act(action, checked_name("run", run))
        return f"{known[action].label}: done for {run}."

    def start(self, run: str, given: Mapping[str, object], continue_from: str = "") -> str:
        """Start a run.

        Args:
            run: its name.
            given: texts and flags of the form, by setting.
            continue_from: ``RUN/ROUND``, whose model is the initial one; empty: the model that was uploaded
                under the name of the new run.
        """
        with self._allowed():
            settings = settings_of(settings_fields(), given)
            parse_settings(settings)
            source = {"continue_from": _source(continue_from)} if continue_from.strip() else {}
            self._operator().act("start", checked_name("run", run), settings=settings, **source)
        return f"Started {run}."

    def forget(self, device: str, last_seen: int) -> str:
        """Remove a device from the fleet's list, unless it was seen since ``last_seen`` (milliseconds)."""
        with self._allowed():
            found = self._operator().forget(checked_name("thing", device), last_seen)
        if not found:
            return f"{device} was forgotten before."
        return f"{device} is forgotten. It appears again with its next heartbeat."

    def aliases(self, tasks: Sequence[str]) -> list[AliasLine]:
        """Return the aliases of these tasks, which a read-only page shows too."""
        return self._models.aliases(tasks)

    def promote(self, line: AliasLine) -> str:
        """Let an alias of a task name a model; another operator who moved it since wins."""
        with self._allowed():
            self._models.promote(line)
        return f"{line.alias} of {line.task} is now {line.run}/{line.number}."

    def rollback(self, line: AliasLine) -> str:
        """Let an alias name its former model again; another operator who moved it since wins."""
        with self._allowed():
            self._models.rollback(line)
        return f"{line.alias} of {line.task} names its former model again."

    def _allowed(self) -> Any:
        if self.read_only:
            message = "this dashboard is read-only: start it without --read-only to act"
            raise ReadOnly(message)
        return stack.refusals()


def offered(state: str) -> list[RunAction]:
    """Return the actions that make sense for a run in a state."""
    return [action for action in RUN_ACTIONS if state in action.states]


def _source(text: str) -> dict[str, object]:
    """Return the run and the round that ``RUN/ROUND`` names."""
    run, _, number = text.strip().rpartition("/")
    if not (run and number.isdecimal() and len(number) <= _LONGEST_NUMBER):
        message = f"continue from is {shown(text.strip())}: it takes RUN/ROUND, such as digits-1/12"
        raise SettingsError(message)
    return {"run": checked_name("run", run), "round": int(number)}
