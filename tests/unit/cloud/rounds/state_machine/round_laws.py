"""The invariants of a run, checked after each step of devices, workers and the operator."""

from collections.abc import Iterable
from fractions import Fraction
from typing import Any

import msgspec
from hypothesis.stateful import RuleBasedStateMachine, invariant

from cloud_functions.aggregation.new_model import draft
from cloud_functions.rounds.open_round import deadline_of
from cloud_functions.services import Services
from fedgrass.federation import object_keys
from fedgrass.federation.aggregation.sharding_plan import Job, Scale
from fedgrass.federation.messages import Announcement, NewModel
from fedgrass.federation.messages import decode as decode_message
from fedgrass.federation.messages.alarms import Reminder
from fedgrass.federation.rounds import TRANSITIONS, Participant, Participation, Round, State, Work
from fedgrass.federation.runs import Run, RunState, skipped
from fedgrass.federation.weights import decode, sha256
from tests.fakes.memory_cloud import MemoryAlarms
from tests.fakes.small_fleet import RUN, SmallFleet, message_of, update_full_of

DEVICES = 5
LEASE_SECONDS = 60
MOST_CALLS = 3000  # of ports for one message: more than any message needs, to detect endless loops
MOVES = {(source, target) for (source, _event), target in TRANSITIONS.items()}
ENDED = {State.CLOSED, State.ABANDONED}
AT_WORK = (Participation.ASKED, Participation.ACCEPTED)
TOOK_THE_WORK = {
    Participation.ACCEPTED,
    Participation.REPLIED,
    Participation.REFUSED,
    Participation.LATE,
}
NEVER_ACCEPTED = {Participation.ASKED, Participation.SILENT}
Body = dict[str, object]
# Rounds of this small fleet are divided like large ones: groups of two replies, a shard for each type.
IN_GROUPS, IN_SHARDS = Scale(group=2, grouped_bytes=0), Scale(sharded_bytes=0)


class JobsAmongMessages(MemoryAlarms):
    """The ``Alarms`` of a fleet that keeps its messages, including jobs."""

    def __init__(self, sent: list[Body]) -> None:
        super().__init__()
        self._sent = sent

    def hand_over(self, job: Job) -> None:
        self._sent.append({"job": msgspec.to_builtins(job)})


class Fleet(SmallFleet):
    """A fleet that holds messages until they are delivered, and checks every move of a round."""

    def __init__(self, scale: Scale | None = None, **settings: Any) -> None:
        self.sent: list[Body] = []
        super().__init__(devices=DEVICES, lease_seconds=LEASE_SECONDS, scale=scale, **settings)
        self.last_seen: dict[tuple[int, int], Round] = {}
        self.last_run: Run | None = None
        self.lost = False  # a message without which no worker may drive the run on

    def _worker(self) -> Services:
        self.alarms = JobsAmongMessages(self.sent)
        return super()._worker()

    def rounds_made_in_parts(self) -> int:
        """Return the number of rounds of which a partial sum or a shard was written."""
        parts = (key.partition("/parts/") for key in self.bucket.objects)
        return len({attempt for attempt, found, _ in parts if found})

    def deliver(self, body: Any) -> bool:
        """Hold an incoming message; the machine's rules deliver it at any time."""
        self.sent.append(body)
        return True

    def take(self, body: Body) -> bool:
        self.watch_for_endless_loops()
        return super().deliver(body)

    def watch_for_endless_loops(self) -> None:
        self.counter.most = len(self.counter.calls) + MOST_CALLS

    def stored_rounds(self) -> list[Round]:
        return list(self.rounds._rounds.values())

    def reminders_under_way(self) -> list[Reminder]:
        return [reminder for reminder, _seconds in self.alarms.reminders]

    def send_reminder(self, reminder: Reminder) -> None:
        """Deliver a reminder at any time: it may be early, late or duplicated."""
        self.alarms.reminders = [one for one in self.alarms.reminders if one[0] != reminder]
        self.deliver(message_of(reminder))

    def work_of(self, number: int, *, old: bool) -> Round | None:
        """Return a round that a device was asked for: the newest, or the first."""
        heard = [m for m in self.heard(self.names[number]) if isinstance(m, Announcement)]
        if not heard:
            return None
        asked = heard[0] if old else heard[-1]
        return self.rounds.round(asked.run, asked.round, asked.attempt)


class Laws(RuleBasedStateMachine):
    """The invariants; subclasses add the rules that try to break them."""

    fleet: Fleet

    @invariant()
    def a_reply_counts_at_most_once_and_every_loss_is_counted(self) -> None:
        for of in self.fleet.stored_rounds():
            parts = list(self.fleet.rounds.participants(of))
            states = [part.state for part in parts]
            refused = states.count(Participation.REFUSED)
            assert of.replied == states.count(Participation.REPLIED) + refused
            assert of.refused == refused
            assert of.declined == states.count(Participation.DECLINED)
            assert of.failed == states.count(Participation.FAILED)
            assert of.silent == states.count(Participation.SILENT)
            assert of.late == states.count(Participation.LATE)
            assert of.asked == len(states)
            assert of.accepted == sum(_accepted(part) for part in parts)
            assert of.bytes_up == sum(p.bytes for p in parts if p.state is Participation.REPLIED)
            assert of.outstanding == sum(states.count(s) for s in AT_WORK)

    @invariant()
    def whoever_was_asked_later_hears_of_its_own_time_alone(self) -> None:
        for of in self.fleet.stored_rounds():
            parts = list(self.fleet.rounds.participants(of))
            assert {part.batch for part in parts} == set(range(1, of.batches + 1)) or not parts
            for part in parts:
                if part.batch <= of.announced_batches and of.number == self.fleet.run().round:
                    assert self._heard(of, part.device) == {max(part.announced_at, of.opened_at)}
            others = [part for part in parts if part.batch > 1]
            assert of.replaced >= len(others)

    def _heard(self, of: Round, device: str) -> set[int]:
        """Return the times in a device's announcements of a round."""
        heard = self.fleet.announced(device)
        return {m.announced_at for m in heard if (m.round, m.attempt) == (of.number, of.attempt)}

    @invariant()
    def the_end_of_a_round_is_told_once_with_its_figures(self) -> None:
        told = [change for change in self.fleet.told() if change.figures]
        assert len({(change.round, change.attempt) for change in told}) == len(told)
        for change in told:
            of, figures = self.fleet.rounds.round(RUN, change.round, change.attempt), change.figures
            assert of is not None
            assert figures is not None
            assert (of.state, figures.metrics) == (change.state, of.metrics)
            for name in ("asked", "needed", "replied", "refused", "declined", "failed", "bytes_up"):
                assert getattr(figures, name) == getattr(of, name)
            # Only late replies change them afterwards.
            assert figures.late <= of.late
            assert (figures.accepted <= of.accepted, figures.silent >= of.silent) == (True, True)

    @invariant()
    def whoever_was_given_up_as_silent_had_heard_of_the_work(self) -> None:
        for of in self.fleet.stored_rounds():
            for part in self.fleet.rounds.participants(of):
                if part.state is Participation.SILENT:
                    heard = [(work.round, work.attempt) for work in self.fleet.announced(part.device)]
                    assert (of.number, of.attempt) in heard

    @invariant()
    def a_closed_round_has_one_model_that_is_the_mean_of_the_accepted_replies(self) -> None:
        for of in self.fleet.stored_rounds():
            if of.state is State.CLOSED and of.work is Work.EVALUATE:
                assert of.model_sha256 == of.base_sha256
            elif of.state is State.CLOSED:
                objects = self.fleet.bucket.objects
                model = objects[draft(of, "model")]
                assert sha256(model) == of.model_sha256
                # A worker may have crashed between closing and publishing.
                assert objects.get(object_keys.model(RUN, of.number), model) == model
                weight = decode(model)["weight"]
                assert Fraction(float(weight[0, 0])) == Fraction(float(_rounded(self._mean(of))))
                assert of.good >= min(of.minimum, of.needed)

    def _mean(self, of: Round) -> Fraction:
        total = weights = Fraction(0)
        for part in self.fleet.rounds.participants(of):
            if part.state is Participation.REPLIED:
                number = self.fleet.names.index(part.device)
                counted = min(part.examples, of.example_cap)  # the cap stored in the round
                weight = counted if self.fleet.settings.aggregation == "weighted_mean" else 1
                total += weight * Fraction(value_of(number, of))
                weights += weight
        return total / weights

    @invariant()
    def a_round_moves_only_as_the_table_says(self) -> None:
        for of in self.fleet.stored_rounds():
            before = self.fleet.last_seen.get((of.number, of.attempt))
            if before:
                assert _reachable(before.state, of.state)
                assert of.fence >= before.fence
                if before.state in ENDED:
                    assert (of.state, of.model_sha256, of.reason) == (
                        before.state,
                        before.model_sha256,
                        before.reason,
                    )
            self.fleet.last_seen[of.number, of.attempt] = of

    @invariant()
    def at_most_one_round_is_at_work_and_it_is_the_newest(self) -> None:
        run = self.fleet.run()
        at_work = [of for of in self.fleet.stored_rounds() if of.state not in ENDED]
        assert len(at_work) <= 1
        assert all((of.number, of.attempt) == (run.round, run.attempt) for of in at_work)

    @invariant()
    def a_run_that_is_paused_or_has_ended_opens_no_round(self) -> None:
        run, before = self.fleet.run(), self.fleet.last_run
        if before and before.state is run.state is not RunState.RUNNING:
            assert (run.round, run.attempt) == (before.round, before.attempt)
        if before and before.state in {RunState.CANCELLED, RunState.SUCCEEDED}:
            assert run == msgspec.structs.replace(before, published=run.published)
            assert run.published >= before.published
        self.fleet.last_run = run

    @invariant()
    def a_round_at_work_has_an_alarm_or_a_message_that_will_move_it(self) -> None:
        for of in self.fleet.stored_rounds():
            if of.state not in ENDED:
                assert deadline_of(of) in self.fleet.alarms.standing() or self._something_comes()

    @invariant()
    def a_run_between_two_rounds_has_an_alarm_or_a_message_that_will_move_it(self) -> None:
        run = self.fleet.run()
        newest = self.fleet.rounds.round(RUN, run.round, run.attempt) if run.round else None
        if run.state is not RunState.RUNNING or (newest and newest.state not in ENDED):
            return
        # A skipped evaluation is followed by the next round of training, like a closed one.
        over = newest and (newest.state is State.CLOSED or skipped(run, newest))
        if not (over and run.settings.schedule == "by_hand" and run.wanted <= run.round):
            opens = [alarm for alarm in self.fleet.alarms.standing() if alarm.kind == "open"]
            assert opens or self._something_comes()

    def _something_comes(self) -> bool:
        return bool(self.fleet.sent or self.fleet.alarms.reminders or self.fleet.lost)

    def the_newest_model_of_the_task_is_that_of_the_last_round_that_closed(self) -> None:
        """Check the invariants after all pending messages were delivered."""
        made = [of.number for of in self.fleet.stored_rounds() if _made_a_model(of)]
        stored = self.fleet.bucket.objects.get(object_keys.latest_model("digits"))
        assert (stored is None) == (not made)
        if stored:
            assert decode_message(stored, NewModel).round == max(made)

    def a_cancelled_run_has_no_open_round_after(self, body: Body) -> None:
        """Check the invariants after an alarm or a reminder was processed and acknowledged.

        A model that is made in shards is completed first, by the jobs that were handed over.
        """
        if body.keys() & {"alarm", "reminder"} and self.fleet.run().state is RunState.CANCELLED:
            left = [of.state for of in self.fleet.stored_rounds() if of.state not in ENDED]
            in_shards = any("job" in under_way for under_way in self.fleet.sent)
            assert not left or (in_shards and left == [State.AGGREGATING])


def _accepted(part: Participant) -> bool:
    """Return whether a participant accepted the work: by its state, unless it declined or failed."""
    if part.state in TOOK_THE_WORK | NEVER_ACCEPTED:
        assert part.accepted == (part.state in TOOK_THE_WORK)
    return part.accepted


def _made_a_model(of: Round) -> bool:
    return of.state is State.CLOSED and of.work is Work.TRAIN


def value_of(number: int, of: Round) -> int:
    """Return the value of a device's update: a whole number, so that no product is rounded."""
    return 3 * number + 5 * of.number + of.attempt


def rounds_of(states: Iterable[Round], state: State) -> list[int]:
    return sorted(of.number for of in states if of.state is state)


def skipped_evaluations(rounds: Iterable[Round]) -> list[int]:
    """Return the abandoned rounds of evaluation that were followed by others, or were the last."""
    of_evaluation = {of.number for of in rounds if of.work is Work.EVALUATE}
    return sorted(of_evaluation - set(rounds_of(rounds, State.CLOSED)))


def _rounded(mean: Fraction) -> Any:
    return update_full_of(float(mean))["weight"][0, 0]


def _reachable(source: State, target: State) -> bool:
    """Return whether ``target`` can be reached from ``source`` in any number of moves."""
    reached = {source}
    while grown := {after for before, after in MOVES if before in reached} - reached:
        reached |= grown
    return target in reached
