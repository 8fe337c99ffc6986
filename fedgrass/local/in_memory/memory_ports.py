"""The ports next to table and bucket in memory: what others fill, or take from them, in place of AWS."""

from collections.abc import Callable, Iterable, Iterator
from random import Random

from fedgrass.federation.aggregation.sharding_plan import Job
from fedgrass.federation.errors import LostRace
from fedgrass.federation.messages.alarms import Alarm, Reminder
from fedgrass.federation.rounds import Work
from fedgrass.federation.selection import Candidate
from fedgrass.federation.selection.sampling import anyone


class MemoryDevices:
    """The ``DeviceDirectory`` as a dictionary, which a test fills in place of the heartbeat rule."""

    def __init__(self) -> None:
        self.seen: dict[str, Candidate] = {}
        self.works: frozenset[str] = frozenset(Work)  # that the devices' trainer components know

    def heartbeat(
        self,
        device: str,
        at: int,
        tasks: str = "digits",
        examples: int = 0,
        metrics: str = "",
        **attributes: str | float | bool,
    ) -> None:
        self.seen[device] = Candidate(
            device,
            at,
            _names(tasks),
            examples,
            attributes,
            metrics=_names(metrics),
            works=self.works,
        )

    def seen_since(self, earliest: int) -> Iterator[Candidate]:
        return iter([candidate for candidate in self.seen.values() if candidate.last_seen >= earliest])

    def sample(
        self, earliest: int, wanted: int, rng: Random, suits: Callable[[Candidate], bool] = anyone
    ) -> list[Candidate]:
        found: list[Candidate] = []
        for name in rng.sample(sorted(self.seen), len(self.seen)):
            candidate = self.seen[name]
            if len(found) >= wanted:
                break
            if candidate.last_seen >= earliest and suits(candidate):
                found.append(candidate)
        return found

    def count(self, earliest: int) -> int:
        return sum(1 for _ in self.seen_since(earliest))

    def find(self, device: str) -> Candidate | None:
        return self.seen.get(device)

    def forget(self, device: str, last_seen: int) -> None:
        found = self.seen.get(device)
        if found is None or found.last_seen != last_seen:
            raise LostRace(device)
        del self.seen[device]


def _names(text: str) -> frozenset[str]:
    return frozenset(filter(None, text.split(",")))


class MemoryThingGroups:
    """The ``ThingGroups`` as a dictionary, which a test fills in place of an operator."""

    def __init__(self) -> None:
        self.groups: dict[str, set[str]] = {}

    def members(self, group: str) -> frozenset[str]:
        return frozenset(self.groups[group])


class MemoryPublisher:
    """The ``Publisher`` that records what was published, by topic."""

    def __init__(self) -> None:
        self.published: list[tuple[str, bytes]] = []

    def publish(self, messages: Iterable[tuple[str, bytes]]) -> None:
        self.published += list(messages)

    def on(self, topic: str) -> list[bytes]:
        return [payload for published_to, payload in self.published if published_to == topic]


class MemoryAlarms:
    """The ``Alarms`` in memory; a test takes due alarms, reminders and jobs from it and delivers them."""

    def __init__(self) -> None:
        self._set: dict[Alarm, None] = {}
        self.reminders: list[tuple[Reminder, int]] = []
        self.jobs: list[Job] = []

    def set(self, alarm: Alarm) -> None:
        self._set.setdefault(alarm)

    def cancel(self, alarm: Alarm) -> None:
        self._set.pop(alarm, None)

    def hand_over(self, job: Job) -> None:
        self.jobs.append(job)

    def remind(self, reminder: Reminder, seconds: int) -> None:
        self.reminders.append((reminder, seconds))

    def standing(self) -> list[Alarm]:
        return list(self._set)

    def ring(self, now: int) -> list[Alarm]:
        """Remove and return the alarms that are due."""
        rung = [alarm for alarm in self._set if alarm.at <= now]
        for alarm in rung:
            self.cancel(alarm)
        return rung
