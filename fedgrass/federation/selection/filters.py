"""Which devices are candidates at all: filters, which are pure functions, and ``Requirements`` over them."""

import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import partial
from typing import NamedTuple

from msgspec import Struct

from fedgrass.federation.messages import message_types
from fedgrass.federation.messages.message_fields import THING_NAME
from fedgrass.federation.rounds import Work
from fedgrass.federation.selection.attribute_conditions import Expression, Value
from fedgrass.federation.selection.selection_strategy import Candidate

_THING = re.compile(THING_NAME)

Holds = Callable[[Candidate], bool]
Hint = Callable[[Collection[str]], str]


def _no_hint(noted: Collection[str]) -> str:  # noqa: ARG001 - the signature of a Hint
    return ""


def _nothing(candidate: Candidate) -> Iterable[str]:  # noqa: ARG001 - the signature of ``note``
    return ()


class _Step(NamedTuple):
    """One filter: a description, its condition, and a hint for when no candidate passes it.

    The hint is built from what ``note`` returns for the candidates that reach the filter.
    """

    words: str
    holds: Holds
    note: Callable[[Candidate], Iterable[str]] = _nothing
    hint: Hint = _no_hint
    quiet: bool = False  # mentioned only if it removes a candidate


class Requirements(Struct, frozen=True, kw_only=True):
    """What a run requires of a device before a strategy chooses; by default only the task."""

    task: str
    seen_at_earliest: int = 0  # milliseconds, by the cloud's clock
    minimum_examples: int = 0
    where: Expression | None = None
    things: frozenset[str] | None = None  # members of the thing group; None: no restriction
    held_out: frozenset[str] = frozenset()  # devices reserved for evaluation
    cool_down_rounds: int = 0  # rounds for which an asked device is left alone
    messages: bool = False  # whether its trainer component has to know messages of ServerApps

    def suits(self, candidate: Candidate) -> bool:
        """Return whether a device may be asked at all, regardless of its cool-down."""
        return all(step.holds(candidate) for step in self._steps())

    def to_read(self, pool: int, cohort: int) -> int:
        """Return how many suitable devices to sample so that ``pool`` of them are past their cool-down."""
        return pool + self.cool_down_rounds * cohort

    def explain(self, found: Iterable[Candidate]) -> str:
        """Return a text: how many candidates are left after each filter, and why none are left, if so.

        The candidates are read one by one, and none is kept.
        """
        steps, read = self._steps(), 0
        left = [0] * len(steps)
        noted: list[set[str]] = [set() for _ in steps]
        for candidate in found:
            read += 1
            for place, step in enumerate(steps):
                noted[place].update(step.note(candidate))
                if not step.holds(candidate):
                    break
                left[place] += 1
        words, before = [f"{read} devices were read"], read
        for step, count, names in zip(steps, left, noted, strict=True):
            if step.quiet and count == before:
                continue
            before = count
            words.append(f"{count} {step.words}")
            if not count:
                words.append(step.hint(names) if names else "")
                break
        return "; ".join(filter(None, words))

    def _steps(self) -> list[_Step]:
        """Return the configured filters."""
        steps = [
            _Step("were seen recently enough", seen_since(self.seen_at_earliest)),
            _Step(f"of them have the task {self.task!r}", has_task(self.task), _tasks_of, _their_tasks),
            _Step(
                f"of them speak messages of version {message_types.spoken()}",
                understands,
                _versions_of,
                _their_versions,
                quiet=True,
            ),
            _Step("of them have the name of a thing", is_named, quiet=True),
        ]
        if self.messages:
            words = "of them have a trainer component that knows messages of ServerApps"
            steps.append(_Step(words, knows_messages, _components_of, _their_components, quiet=True))
        if self.minimum_examples:
            words = f"of them have {self.minimum_examples} examples or more"
            steps.append(_Step(words, has_examples(self.minimum_examples)))
        if self.things is not None:
            steps.append(_Step("of them are in the thing group", is_member(self.things)))
        if self.held_out:
            steps.append(_Step("of them are not held out", is_not_among(self.held_out)))
        if self.where is not None:
            words = f"of them match `{self.where.text}`"
            steps.append(_Step(words, is_described(self.where), described, partial(_unknown, self.where)))
        return steps


def seen_since(earliest: int) -> Holds:
    """Return a filter: last seen at ``earliest`` (milliseconds, by the cloud's clock) or later."""
    return lambda candidate: candidate.last_seen >= earliest


def has_task(task: str) -> Holds:
    """Return a filter: the device has a task."""
    return lambda candidate: task in candidate.tasks


def understands(candidate: Candidate) -> bool:
    """Return whether the device and the cloud have a message version in common."""
    return message_types.newest_common(candidate.speaks) is not None


def is_named(candidate: Candidate) -> bool:
    """Return whether the device's name can be that of a thing: no message reaches any other."""
    return _THING.match(candidate.device) is not None


def knows_messages(candidate: Candidate) -> bool:
    """Return whether the device's trainer component knows messages of ServerApps."""
    return Work.MESSAGE in candidate.works


def has_examples(fewest: int) -> Holds:
    """Return a filter: the device has at least ``fewest`` examples."""
    return lambda candidate: candidate.examples >= fewest


def is_member(things: frozenset[str]) -> Holds:
    """Return a filter: the device is one of ``things``."""
    return lambda candidate: candidate.device in things


def is_not_among(things: frozenset[str]) -> Holds:
    """Return a filter: the device is not one of ``things``."""
    return lambda candidate: candidate.device not in things


def is_described(where: Expression) -> Holds:
    """Return a filter: a ``where`` expression is true for the device."""
    return lambda candidate: where.holds(described(candidate))


def described(candidate: Candidate) -> Mapping[str, Value]:
    """Return the attributes that a ``where`` may use: those of the heartbeat, and ``examples``."""
    return {**candidate.attributes, "examples": candidate.examples}


def _unknown(where: Expression, reported: Collection[str]) -> str:
    """Return a text on the attributes that an expression uses and no candidate reports."""
    unknown = ", ".join(sorted(where.attributes - set(reported)))
    return f"no device reports {unknown}; they report: {', '.join(sorted(reported))}" if unknown else ""


def _tasks_of(candidate: Candidate) -> Iterable[str]:
    return candidate.tasks or ("none",)


def _their_tasks(tasks: Collection[str]) -> str:
    return f"they have the tasks: {', '.join(sorted(tasks))}"


def _versions_of(candidate: Candidate) -> Iterable[str]:
    return map(str, candidate.speaks)


def _their_versions(noted: Collection[str]) -> str:
    theirs = sorted(map(int, noted))
    way_out = "the stack" if theirs[0] > max(message_types.SPOKEN) else "the trainer component"
    versions = ", ".join(map(str, theirs))
    return f"the others speak version {versions}: deploy a newer version of {way_out}"


def _components_of(candidate: Candidate) -> Iterable[str]:
    return (str(candidate.attributes.get("version", "unknown")),)


def _their_components(noted: Collection[str]) -> str:
    return f"they have the version {', '.join(sorted(noted))}: deploy com.fedgrass.Trainer of this release"


def rested(candidates: Sequence[Candidate], rounds: int, wanted: int) -> list[Candidate]:
    """Return the candidates that were not asked in the last ``rounds`` rounds.

    If these are fewer than ``wanted``, those asked longest ago are added until there are enough, so that a
    small fleet can continue.
    """
    fresh = [c for c in candidates if c.rounds_since_asked is None or c.rounds_since_asked > rounds]
    if len(fresh) >= wanted or len(fresh) == len(candidates):
        return fresh
    chosen = {candidate.device for candidate in fresh}
    tired = [candidate for candidate in candidates if candidate.device not in chosen]
    tired.sort(key=lambda c: (-(c.rounds_since_asked or 0), c.times_asked, c.device))
    return fresh + tired[: wanted - len(fresh)]
