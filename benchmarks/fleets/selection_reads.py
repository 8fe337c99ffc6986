"""The rows of the devices table that the cloud functions read to choose the devices of a round."""

import random
from bisect import bisect_left
from collections.abc import Callable, Iterator
from typing import Any, cast

from cloud_functions.aws.powertools_log import PowertoolsLog
from cloud_functions.selection import cohorts
from cloud_functions.services import Services
from fedgrass.federation.ports import DeviceDirectory
from fedgrass.federation.rounds import Round, State, Work
from fedgrass.federation.runs import Open, Run, RunState
from fedgrass.federation.selection import Candidate
from fedgrass.federation.selection.sampling import anyone, sample_segments
from fedgrass.federation.settings_parser import parse_settings

NOW = 1_700_000_000_000
_LOST = 5  # devices to replace
_TASKS = frozenset({"digits"})


class HashedTable:
    """A devices table in memory whose segments are ranges of hashes; nine of ten devices are live."""

    def __init__(self, devices: int) -> None:
        rng = random.Random(devices)  # noqa: S311 - repeatable figures, not a secret
        self._hashes = sorted(rng.random() for _ in range(devices))
        self.read: list[int] = []  # rows of each request

    def seen_since(self, earliest: int) -> Iterator[Candidate]:  # noqa: ARG002 - the port's signature
        """Yield the live devices."""
        return self._segment(0, 1)

    def sample(
        self,
        earliest: int,  # noqa: ARG002 - the port's signature
        wanted: int,
        rng: random.Random,
        suits: Callable[[Candidate], bool] = anyone,
    ) -> list[Candidate]:
        """Return a sample of the live devices; see ``DeviceDirectory``."""
        return sample_segments(self._segment, wanted, rng, suits)

    def count(self, earliest: int) -> int:
        """Return the number of live devices."""
        return sum(1 for _ in self.seen_since(earliest))

    def find(self, device: str) -> Candidate | None:
        """Return one device."""
        self.read.append(1)
        return Candidate(device, NOW, _TASKS)

    def forget(self, device: str, last_seen: int) -> None:
        """Remove nothing; the measured code never forgets a device."""

    def _segment(self, number: int, segments: int) -> Iterator[Candidate]:
        first, last = (bisect_left(self._hashes, edge / segments) for edge in (number, number + 1))
        self.read.append(last - first)
        return (Candidate(f"device-{at:07}", NOW, _TASKS) for at in range(first, last) if at % 10)


def reads(directory: DeviceDirectory, read: list[int], cohort: int) -> dict[str, dict[str, int]]:
    """Return the rows and requests for each kind of choice.

    Args:
        directory: the devices.
        read: the list to which the directory appends the rows of each request.
        cohort: number of devices that a round asks, if not all.
    """
    held_out = [f"device-{number:07}" for number in range(1, cohort + 1)]
    evaluates = Open(2, 1, Work.EVALUATE)
    chosen: dict[str, Callable[[random.Random], int]] = {
        "train_count": _round(directory, Open(1, 1), selection="random", count=cohort),
        "train_fraction": _round(directory, Open(1, 1), selection="random", fraction=0.01),
        "train_all": _round(directory, Open(1, 1)),
        "evaluate_count": _round(directory, evaluates, evaluate_every=1, evaluate_count=cohort),
        "evaluate_held_out": _round(directory, evaluates, evaluate_every=1, held_out=held_out),
        "evaluate_all": _round(directory, evaluates, evaluate_every=1),
        "replace": _replacements(directory, set(held_out), selection="random", count=cohort),
    }
    figures = {}
    for name, choose in chosen.items():
        read.clear()
        assert choose(random.Random(7)) > 0  # noqa: S101, S311 - an empty choice measures nothing
        figures[name] = {"rows": sum(read), "requests": len(read)}
    return figures


def _round(directory: DeviceDirectory, step: Open, **settings: object) -> Callable[[random.Random], int]:
    services, run = _services(directory), _run(**settings)
    choose = cohorts._evaluators if step.work is Work.EVALUATE else cohorts._trainers  # noqa: SLF001 - without storing
    return lambda rng: len(choose(services, run, rng).devices)


def _replacements(
    directory: DeviceDirectory, known: set[str], **settings: object
) -> Callable[[random.Random], int]:
    services, run = _services(directory), _run(**settings)
    round_ = Round(
        run=run.name,
        number=1,
        attempt=1,
        state=State.OPEN,
        asked=len(known),
        needed=len(known),
        minimum=1,
        opened_at=NOW,
        deadline_at=NOW,
        base_sha256="",
        base_bytes=0,
    )
    return lambda _rng: len(cohorts.choose_others(services, run, round_, known, _LOST))


def _run(**settings: object) -> Run:
    return Run(
        name="bench",
        state=RunState.RUNNING,
        settings=parse_settings({"task": "digits", **settings}),
        started_at=NOW,
        initial_sha256="",
        initial_bytes=0,
    )


def _services(directory: DeviceDirectory) -> Services:
    unused = cast("Any", None)  # a choice reads only the devices
    return Services(
        fleet="bench",
        rounds=unused,
        devices=directory,
        thing_groups=unused,
        bucket=unused,
        publisher=unused,
        alarms=unused,
        now=lambda: NOW,
        log=PowertoolsLog("bench"),
        lease_seconds=60,
    )
