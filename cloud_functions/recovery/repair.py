"""``repair``: rebuild the rows of a run that are lost from the table, from the manifests in the bucket.

Table and bucket are compared. Missing rows are written unless they exist. If the bucket is ahead, because the
table was restored from a backup, the bucket takes precedence, since published objects never change: the row
is replaced if it has not changed since it was read. The run's own row is written last, so a repair that
crashed can be repeated.
"""

import contextlib
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from cloud_functions.aggregation.model_files import fingerprint
from cloud_functions.recovery import manifests, message_rebuilding
from cloud_functions.recovery.rebuilding import Attempt, is_behind, later_attempts, read_attempts
from cloud_functions.rounds import driver, reminders, run_actions
from cloud_functions.services import Services
from fedgrass.federation import messages, object_keys
from fedgrass.federation.errors import LostRace, MessageError, NotYet, SettingsError, UpdateRefused
from fedgrass.federation.messages import NewModel
from fedgrass.federation.round_metrics import tally
from fedgrass.federation.rounds import Event, Participant, Participation, Round, State, Work
from fedgrass.federation.runs import (
    LIVING,
    End,
    Progress,
    Run,
    RunAction,
    RunState,
    bounded_history,
    next_step,
    progress_after,
)

_LEFT_OPEN = "left open by a run that had continued without it, or had ended"
_UNENDED = frozenset({State.OPEN, State.AGGREGATING})
_TRIES = 5  # while other workers change the run's rows


@dataclass
class Plan:
    """The rows to write, and the lines that describe them to the operator."""

    lines: list[str] = field(default_factory=list)
    participants: list[tuple[Attempt, list[Participant]]] = field(default_factory=list)
    moved: list[tuple[Round, list[Participant]]] = field(default_factory=list)  # counted in later buffers
    rounds: list[Attempt] = field(default_factory=list)
    left_open: list[Round] = field(default_factory=list)  # to be abandoned: the run continues without them
    run: Run | None = None  # if its row or its entry in a list is missing or behind
    over: Run | None = None  # its row, if that is behind
    advice: list[str] = field(default_factory=list)

    @property
    def empty(self) -> bool:
        """Whether nothing has to be done."""
        return not (self.participants or self.moved or self.rounds or self.left_open or self.run)


def act(services: Services, event: Mapping[str, object]) -> dict[str, Any]:
    """Repair the run that an event names; with ``dry_run: true`` only return what would be written.

    Raises:
        SettingsError: the bucket has no manifest of the run, or lacks a model; or other workers keep changing
            the run.
    """
    name, dry_run = run_actions.named_run(event), event.get("dry_run", False)
    if not isinstance(dry_run, bool):
        message = f"dry_run is {dry_run!r}; it may be true or false"
        raise SettingsError(message)
    lines: list[str] = []
    by = run_actions.caller(event)
    for _ in range(_TRIES):
        plan = make_plan(services, name, by)
        word = "would write" if dry_run else "wrote"
        lines += [f"{word} {line}" for line in plan.lines]
        if plan.empty or dry_run:
            break
        try:
            _write(services, name, plan)
        except LostRace:  # a row has changed since it was read: compare again
            continue
        break
    else:
        message = f"other workers keep changing run {name!r}: `fedgrass run pause {name}` first"
        raise SettingsError(message)
    return {"run": name, "lines": (lines or ["nothing is missing"]) + plan.advice}


def _write(services: Services, name: str, plan: Plan) -> None:
    for attempt, participants in plan.participants:
        services.rounds.restore_participants(attempt.round, participants, over=attempt.rewritten)
    for round_, participants in plan.moved:
        services.rounds.restore_participants(round_, participants, over=True)
    for attempt in plan.rounds:
        services.rounds.restore_round(attempt.round, attempt.over)
    for round_ in plan.left_open:
        event = Event.GIVEN_UP if round_.state is State.OPEN else Event.AGGREGATION_FAILED
        services.rounds.move(round_, event, reason=_LEFT_OPEN, closed_at=services.now())
    for round_ in [attempt.round for attempt in plan.rounds] + [round_ for round_, _ in plan.moved]:
        _recount(services, round_)
    reminders.look_again_later(services, name)
    if plan.run:
        services.rounds.restore_run(plan.run, plan.over)
    with contextlib.suppress(NotYet):  # a round is being averaged: its averager advances the run
        driver.advance(services, name)


def _recount(services: Services, round_: Round) -> None:
    """Make the counters of a buffer that has ended those of its rows.

    A restored table may have counted replies from earlier rounds that the buffer's manifest does not have:
    the model was made without them.
    """
    stored = services.rounds.round(round_.run, round_.number, round_.attempt)
    if stored is None or stored.state in _UNENDED or not stored.in_flight:
        return
    parts = list(services.rounds.participants(stored))
    manifest = manifests.round_of(services, stored.run, stored.number)
    if manifest and manifest.round.attempt == stored.attempt:
        kept = {part.device for part in manifest.participants}
        parts = [part if part.device in kept else _uncounted(part) for part in parts]
        services.rounds.restore_participants(
            stored, [part for part in parts if part.device not in kept], over=True
        )
    counts = tally(parts)
    if any(getattr(stored, name) != count for name, count in counts.items()):
        services.rounds.restore_round(msgspec.structs.replace(stored, **counts), stored)


def _uncounted(part: Participant) -> Participant:
    """Return a row without its reply, which was counted in a table that has been restored since."""
    if part.state not in {Participation.REPLIED, Participation.REFUSED}:
        return part
    return msgspec.structs.replace(
        part, state=Participation.LATE, reason="counted before the table was restored"
    )


def make_plan(services: Services, name: str, by: str = "") -> Plan:
    """Compare table and bucket; return what has to be written, for ``by``. Raises as ``act`` does."""
    run, created = services.rounds.run(name), manifests.run_of(services, name)
    origin = created or run
    if origin is None:
        message = f"there is no run {name!r}, neither in the table nor as {object_keys.run_manifest(name)}"
        raise SettingsError(message)
    behind = run is not None and _is_behind(services, run)
    read = message_rebuilding.read_message_rounds if origin.settings.has_server_app else read_attempts
    attempts = read(services, origin, None if behind else run)
    plan = Plan()
    for attempt in attempts:
        _plan_attempt(plan, attempt)
    if attempts and attempts[-1].rewritten:
        _check_model(services, attempts[-1].round)
    for round_ in _left_open(services, run, attempts):
        plan.left_open.append(round_)
        plan.lines.append(f"round {round_.number} attempt {round_.attempt}: ABANDONED {_LEFT_OPEN}")
    if run is None or behind:
        rebuilt = _plan_run(services, plan, origin, run, attempts)
        performed = RunAction(at=services.now(), action="repair", by=by)
        plan.run = msgspec.structs.replace(rebuilt, **rebuilt.with_action("", performed))
    else:
        _plan_lists(services, plan, run, attempts)
    return plan


def _is_behind(services: Services, run: Run) -> bool:
    with_lists = run.settings.has_server_app
    return is_behind(services, run) or (with_lists and message_rebuilding.is_behind_its_lists(services, run))


def _left_open(services: Services, run: Run | None, attempts: Sequence[Attempt]) -> Iterator[Round]:
    """Yield the attempts that have not ended although the run has, or has continued without them."""
    for attempt in attempts:
        # Of a run with a ServerApp, several rounds may be open.
        newest = attempt is attempts[-1] or attempt.round.work is Work.MESSAGE
        if attempt.round.state in _UNENDED and (not newest or (run and run.state not in LIVING)):
            yield attempt.round
        if attempt.round.state is State.CLOSED and attempt.round.work is not Work.MESSAGE:
            yield from later_attempts(services, attempt.round)


def _plan_run(services: Services, plan: Plan, origin: Run, run: Run | None, attempts: list[Attempt]) -> Run:
    """Plan the row of a run, if it is missing or in place of ``run``, which is behind; return the row."""
    rebuilt = _rebuilt(services, origin, attempts)
    if run and run.state is RunState.CANCELLED:
        rebuilt = msgspec.structs.replace(rebuilt, state=run.state, reason=run.reason, ended_at=run.ended_at)
    if run:  # the manifest may be of before its latest actions, and the row of before those of the manifest
        rebuilt = msgspec.structs.replace(rebuilt, history=bounded_history((*rebuilt.history, *run.history)))
    plan.run, plan.over = rebuilt, run
    plan.lines.append(f"the run: {rebuilt.state} {rebuilt.reason}".rstrip())
    if rebuilt.state is RunState.PAUSED:
        plan.advice.append(f"`fedgrass run resume {rebuilt.name}` continues the run, `cancel` ends it")
    return rebuilt


def _plan_lists(services: Services, plan: Plan, run: Run, attempts: Sequence[Attempt]) -> None:
    """Plan the entries in the lists of runs, if they are missing."""
    name = run.name
    abandoned = attempts and attempts[-1].lost and attempts[-1].round.state is State.ABANDONED
    if abandoned and not run.settings.has_server_app:
        plan.advice.append(f"if the run has no attempts left, `fedgrass run retry {name}` grants it more")
    if name not in services.rounds.runs() or (run.state in LIVING and name not in services.rounds.living()):
        plan.run = run
        plan.lines.append(f"the run's entry in the list of runs: {run.state}")


def _plan_attempt(plan: Plan, attempt: Attempt) -> None:
    round_ = attempt.round
    where = f"round {round_.number} attempt {round_.attempt}"
    if attempt.rewritten:
        plan.rounds.append(attempt)
        instead = f" in place of {attempt.over.state}" if attempt.over else ""
        plan.lines.append(f"{where}: {round_.state}{instead} {round_.reason}".rstrip())
    if attempt.participants:
        plan.participants.append((attempt, attempt.participants))
        plan.lines.append(f"{where}: {_participants(len(attempt.participants))}")
    if attempt.moved:
        plan.moved.append((round_, list(attempt.moved)))
        plan.lines.append(f"{where}: {_participants(len(attempt.moved))} as counted in later buffers")
    if attempt.unknown:
        may_retry = round_.state in _UNENDED and round_.work is not Work.MESSAGE
        more = "; `fedgrass run retry` retries it" if may_retry else ""
        plan.advice.append(f"{where}: {_participants(attempt.unknown)} cannot be rebuilt{more}")


def _participants(count: int) -> str:
    return f"{count} participant{'s' if count > 1 else ''}"


def _check_model(services: Services, newest: Round) -> None:
    """Check that the bucket has the model that the run continues from, unchanged. Raises SettingsError."""
    if newest.work is Work.MESSAGE:
        return
    if newest.work is Work.STATISTICS:  # its file is kept, or reported as lost, when the run continues
        return
    made = newest.state is State.CLOSED and newest.work is Work.TRAIN
    number = newest.number if made else newest.base
    expected = newest.model_sha256 if newest.state is State.CLOSED else newest.base_sha256
    key = object_keys.model(newest.run, number)
    try:
        found = fingerprint(services.bucket, key).sha256
    except KeyError as error:
        message = f"the model {key} is missing in the bucket: put it back, then repair again"
        raise SettingsError(message) from error
    except UpdateRefused as error:
        message = f"the model {key} is damaged ({error}): restore the right object, then repair again"
        raise SettingsError(message) from error
    if found != expected:
        message = (
            f"the SHA-256 of {key} is {found}, but should be {expected}: restore the right object, then"
            " repair again"
        )
        raise SettingsError(message)


def _rebuilt(services: Services, created: Run, attempts: list[Attempt]) -> Run:
    """Return a run whose row was lost, as it is after its newest round.

    Whether it had been paused or cancelled since is not known, so it waits for the operator unless it has
    reached its end.
    """
    if created.settings.has_server_app:
        return message_rebuilding.rebuilt_run(services, created, attempts)
    run, progress = created, Progress()
    closed = [attempt for attempt in attempts if attempt.round.state is State.CLOSED]
    for attempt, later in itertools.pairwise(
        attempts
    ):  # the newest round is counted when the next one is opened
        if later.round.number > attempt.round.number:
            progress = progress_after(msgspec.structs.replace(created, progress=progress), attempt.round)
    manifest = manifests.round_of(services, created.name, closed[-1].round.number) if closed else None
    if manifest:
        run = manifest.run
    newest = attempts[-1].round if attempts else None
    run = msgspec.structs.replace(
        run,
        state=RunState.RUNNING,
        reason="",
        ended_at=0,
        round=newest.number if newest else 0,
        attempt=newest.attempt if newest else 0,
        progress=progress,
        published=_published(services, run, closed[-1].round) if closed else 0,
    )
    if newest and attempts[-1].lost and newest.state is State.ABANDONED:
        # It may have been open when its row was lost: this must not cost the run an attempt.
        run = msgspec.structs.replace(run, granted_round=newest.number, granted_attempts=newest.attempt)
    step = next_step(run, newest, services.now())
    if isinstance(step, End):
        ended = newest.closed_at if newest else 0
        return msgspec.structs.replace(run, state=step.state, reason=step.reason, ended_at=ended)
    return msgspec.structs.replace(run, state=RunState.PAUSED)


def _published(services: Services, run: Run, closed: Round) -> int:
    """Return the newest round whose model does not have to be published as its task's latest any more."""
    if closed.work is Work.STATISTICS:
        return closed.number - 1
    try:
        payload = services.bucket.read(object_keys.latest_model(run.settings.task), messages.LARGEST_MESSAGE)
    except KeyError:
        return closed.number - 1
    try:
        latest = messages.decode(payload, NewModel)
    except MessageError:  # the pointer is damaged: it is written again when the run continues
        return closed.number - 1
    # Another run of the task may have a newer model: the pointer must not move backwards.
    return closed.number - 1 if latest.run == run.name and latest.round < closed.number else closed.number
