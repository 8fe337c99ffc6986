"""The run: a series of rounds, and what is to be done next in it."""

from enum import StrEnum

from msgspec import Struct

from fedgrass.federation.rounds import Round, State
from fedgrass.federation.settings import RunSettings


class RunState(StrEnum):
    """Where a run is."""

    RUNNING = "RUNNING"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"


class Run(Struct, frozen=True, kw_only=True):
    """A run and its newest round. ``round`` is 0 until the first one is opened."""

    name: str
    state: RunState
    settings: RunSettings
    started_at: int
    initial_sha256: str
    initial_bytes: int
    round: int = 0
    attempt: int = 0
    ended_at: int = 0
    reason: str = ""


class Open(Struct, frozen=True):
    """Open this attempt at this round."""

    number: int
    attempt: int


class End(Struct, frozen=True):
    """End the run, in this state and for this reason."""

    state: RunState
    reason: str


def next_step(run: Run, newest: Round | None) -> Open | End | None:
    """Return what a run does once its newest round has ended; None while that goes on.

    A closed round is followed by the next, an abandoned one by another attempt or by the run's end, as the
    settings say.
    """
    if run.state is not RunState.RUNNING:
        return None
    if newest is None:
        return Open(1, 1)
    if newest.state is State.CLOSED:
        if newest.number >= run.settings.rounds:
            return End(RunState.SUCCEEDED, f"all {run.settings.rounds} rounds closed")
        return Open(newest.number + 1, 1)
    if newest.state is State.ABANDONED:
        if run.settings.on_abandoned == "retry" and newest.attempt < run.settings.attempts:
            return Open(newest.number, newest.attempt + 1)
        reason = f"round {newest.number} was abandoned at attempt {newest.attempt}: {newest.reason}"
        return End(RunState.FAILED, reason)
    return None
