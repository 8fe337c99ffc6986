"""Actions of devices, workers and time on a run, in any order; the run always ends."""

import contextlib

import hypothesis.strategies as st
from hypothesis import event
from hypothesis.stateful import precondition, rule

from cloud_functions.rounds import hellos
from fedgrass.federation.errors import SettingsError
from fedgrass.federation.rounds import State, Work
from fedgrass.federation.runs import LIVING, RunState
from tests.fakes.memory_cloud import Crash
from tests.fakes.small_fleet import message_of
from tests.unit.cloud.rounds.state_machine.round_laws import (
    DEVICES,
    ENDED,
    LEASE_SECONDS,
    Body,
    Laws,
    rounds_of,
    skipped_evaluations,
    value_of,
)

IGNORED = "messages within 60 s that changed nothing"  # of DeviceLimits.reason
device_numbers = st.integers(0, DEVICES - 1)
port_calls = st.integers(1, 40)


class Rules(Laws):
    """Devices and workers act in any order and crash; subclasses add the start of the run."""

    may_cancel = False

    # ------------------------------------------------------------ what devices do
    @rule(number=device_numbers, good=st.integers(0, 3), old=st.booleans())
    def a_device_replies(self, number: int, good: int, old: bool) -> None:  # noqa: FBT001 - drawn
        """One reply in four has an update with a wrong checksum."""
        work = self.fleet.work_of(number, old=old)
        if work:
            changes = {} if good else {"checksum": "0" * 32}
            device = self.fleet.names[number]
            value = value_of(number, work)
            self.fleet.reply(device, work, value=value, examples=number + 1, **changes)

    @rule(numbers=st.sets(device_numbers, min_size=2))
    def devices_reply_well_and_are_heard(self, numbers: set[int]) -> None:
        for number in sorted(numbers):
            self.a_device_replies(number, good=1, old=False)
            self._take_newest()

    @rule()
    def the_whole_cohort_replies_well_and_is_heard(self) -> None:
        run = self.fleet.run()
        newest = self.fleet.rounds.round(run.name, run.round, run.attempt)
        cohort = self.fleet.parts(newest) if newest else {}
        for device in cohort:
            self.a_device_replies(self.fleet.names.index(device), good=1, old=False)
            self._take_newest()

    @rule(number=device_numbers, state=st.sampled_from(["accepted", "declined", "failed"]), old=st.booleans())
    def a_device_says_how_it_goes(self, number: int, state: str, old: bool) -> None:  # noqa: FBT001 - drawn
        work = self.fleet.work_of(number, old=old)
        if work:
            self.fleet.status(self.fleet.names[number], state, work, reason="a reason")

    @rule(number=device_numbers)
    def a_device_says_hello(self, number: int) -> None:
        hellos.answer_hello(self.fleet.cloud, self.fleet.names[number])

    # ------------------------------------------------------------ what the cloud's workers do
    @precondition(lambda self: self.fleet.sent)
    @rule(data=st.data(), again=st.booleans())
    def a_message_is_delivered(self, data: st.DataObject, again: bool) -> None:  # noqa: FBT001 - drawn
        body = self._draw(data)
        if self._take(body) and not again:
            self.fleet.sent.remove(body)

    @precondition(lambda self: self.fleet.sent)
    @rule(data=st.data(), call=port_calls)
    def the_worker_dies_at_a_message(self, data: st.DataObject, call: int) -> None:
        body = self._draw(data)
        self.fleet.counter.plan_crash(call=call)
        try:
            if self._take(body) and body in self.fleet.sent:
                self.fleet.sent.remove(body)
        except Crash:
            return  # the message was not acknowledged: it is delivered again
        finally:
            self.fleet.counter.forget_plans()

    @precondition(lambda self: self.fleet.sent)
    @rule(data=st.data(), call=port_calls, pause=st.sampled_from([0, LEASE_SECONDS + 1]))
    def two_workers_take_messages_at_once(self, data: st.DataObject, call: int, pause: int) -> None:
        """The second worker acts between two calls of the first, whose lease may have expired."""
        first, second = self._draw(data), self._draw(data)

        def other_worker() -> None:
            self.fleet.now += pause * 1000
            self._take(second)

        self.fleet.counter.plan(other_worker, call=call)
        if self._take(first):
            self.fleet.sent.remove(first)
        self.fleet.counter.forget_plans()

    # ------------------------------------------------------------ time, alarms and reminders
    @rule(seconds=st.sampled_from([1, 10, LEASE_SECONDS + 1, 300]))
    def time_passes(self, seconds: int) -> None:
        self.fleet.pass_time(seconds)
        self.fleet.ring()

    @rule(seconds=st.sampled_from([10, 400, 700]))
    def no_device_is_seen_for_a_while(self, seconds: int) -> None:
        self.fleet.now += seconds * 1000
        self.fleet.ring()

    @precondition(lambda self: self.fleet.alarms.reminders)
    @rule(data=st.data())
    def a_reminder_comes(self, data: st.DataObject) -> None:
        self.fleet.send_reminder(data.draw(st.sampled_from(self.fleet.reminders_under_way())))

    @rule()
    def all_reminders_come_and_are_heard(self) -> None:
        for reminder in dict.fromkeys(self.fleet.reminders_under_way()):
            self.fleet.send_reminder(reminder)
            self._take_newest()

    @precondition(lambda self: self.fleet.alarms.reminders)
    @rule(data=st.data())
    def a_reminder_is_lost(self, data: st.DataObject) -> None:
        lost = data.draw(st.sampled_from(self.fleet.alarms.reminders))
        self.fleet.alarms.reminders.remove(lost)
        self.fleet.lost |= not lost[0].round

    @rule()
    def an_alarm_to_open_a_round_is_lost_or_comes_early(self) -> None:
        for alarm in self.fleet.alarms.standing():
            if alarm.kind == "open":
                self.fleet.alarms.cancel(alarm)
                if alarm.at - self.fleet.now <= 1000 * LEASE_SECONDS:
                    self.fleet.deliver(message_of(alarm))

    def _ask(self, action: str) -> None:
        if action == "cancel" and not self.may_cancel:
            return
        self.fleet.watch_for_endless_loops()
        with contextlib.suppress(SettingsError):  # refused, since the run's state does not allow it
            self.fleet.act(action)

    def _draw(self, data: st.DataObject) -> Body:
        return data.draw(st.sampled_from(self.fleet.sent))

    def _take(self, body: Body) -> bool:
        taken = self.fleet.take(body)
        if taken:
            self.a_cancelled_run_has_no_open_round_after(body)
        return taken

    def _take_newest(self) -> None:
        if self.fleet.sent and self._take(self.fleet.sent[-1]):
            self.fleet.sent.pop()

    # ------------------------------------------------------------ where it always ends
    def teardown(self) -> None:
        """After any sequence of events, the pending messages and the alarms complete the run."""
        if not hasattr(self, "fleet"):
            return
        self.fleet.counter.forget_plans()
        for _ in range(80):
            self._deliver_all()
            if self.fleet.run().state not in LIVING:
                break
            self.fleet.pass_time(601)
            self.fleet.ring()
            self._ask("resume")
            if self.fleet.settings.schedule == "by_hand":
                self._ask("next")
            if self.fleet.lost:  # then any message of the run drives it on
                hellos.answer_hello(self.fleet.cloud, self.fleet.names[0])
        self._deliver_all()
        self.a_reply_counts_at_most_once_and_every_loss_is_counted()
        self.a_closed_round_has_one_model_that_is_the_mean_of_the_accepted_replies()
        self.the_newest_model_of_the_task_is_that_of_the_last_round_that_closed()
        self._check_the_end()

    def _check_the_end(self) -> None:
        run, rounds = self.fleet.run(), self.fleet.stored_rounds()
        event(f"{run.state} after {len(rounds)} attempts")
        assert run.state not in LIVING
        assert run.reason
        assert all(of.state in ENDED for of in rounds)
        event(f"{self.fleet.rounds_made_in_parts()} rounds were made in parts")
        closed, left_out = rounds_of(rounds, State.CLOSED), skipped_evaluations(rounds)
        assert sorted(closed + left_out) == list(range(1, len(closed) + len(left_out) + 1))
        trained = sum(of.state is State.CLOSED and of.work is Work.TRAIN for of in rounds)
        # All devices measure the same loss.
        enough = len(closed) == 2 if run.settings.patience else trained == run.settings.rounds
        if run.state is not RunState.CANCELLED:
            assert (run.state is RunState.SUCCEEDED) == enough

    def _deliver(self, body: Body) -> bool:
        taken = self._take(body)
        if taken:
            self.fleet.sent.remove(body)
        return taken

    def _deliver_all(self) -> None:
        for reminder in dict.fromkeys(self.fleet.reminders_under_way()):
            self.fleet.send_reminder(reminder)
        for _ in range(3):
            if self._deliver_until_none_is_taken():
                return
            self.fleet.now += (LEASE_SECONDS + 1) * 1000
        # The message at which a worker died is dropped if its device has sent too many useless ones since:
        # then the others wait until an alarm or the sweep has continued the round.
        assert any(IGNORED in line for line in self.fleet.log), "messages come back after every lease"

    def _deliver_until_none_is_taken(self) -> bool:
        """Deliver all messages, again while one is taken; return whether none is left."""
        while sum(self._deliver(body) for body in list(self.fleet.sent)):
            continue  # processing a message may have sent more, such as the jobs of a round's parts
        return not self.fleet.sent
