"""A buffered run under any order of messages, losses, crashes, races and requests."""

import contextlib
from collections import Counter
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import event, settings
from hypothesis.stateful import initialize, invariant, precondition, rule

from cloud_functions.aggregation.new_model import draft
from fedgrass.federation import round_metrics
from fedgrass.federation.rounds import (
    IN_FLIGHT,
    Participation,
    State,
    Work,
    staleness_of,
    update_of,
)
from fedgrass.federation.weights import sha256
from tests.fakes.memory_cloud import Crash
from tests.fakes.small_fleet import RUN
from tests.unit.cloud.rounds.state_machine.round_laws import Fleet, value_of
from tests.unit.cloud.rounds.state_machine.round_rules import Rules, port_calls

actions = st.sampled_from(["pause", "resume", "resume", "retry", "next", "next", "pause", "cancel"])
COUNTED = {Participation.REPLIED, Participation.REFUSED}
# buffer_size, in_flight, max_staleness
sizes = st.sampled_from(
    [(1, 2, 1), (2, 2, 0), (2, 3, 1), (2, 3, 10), (2, 5, 2), (3, 4, 1), (3, 5, 10), (1, 5, 10)]
)
others = st.fixed_dictionaries(
    {
        "minimum_replies": st.just(1),
        "aggregation": st.sampled_from(["mean", "weighted_mean"]),
        "on_abandoned": st.sampled_from(["retry", "retry", "fail"]),
        "accept_seconds": st.sampled_from([0, 30, 30]),
        "deadline_seconds": st.sampled_from([20, 600]),
        "evaluate_last": st.booleans(),
        "schedule": st.sampled_from(["at_once", "at_once", "by_hand"]),
        "cool_down_rounds": st.sampled_from([0, 0, 1]),
    }
)


class BufferedMachine(Rules):
    """Devices train at their own pace; their messages come in any order, late, twice or never."""

    @initialize(
        chosen=sizes,
        more=others,
        crash=st.none() | st.integers(1, 20),
        may_cancel=st.sampled_from([False, False, False, True]),
    )
    def start(
        self,
        chosen: tuple[int, int, int],
        more: dict[str, Any],
        crash: int | None,
        may_cancel: bool,  # noqa: FBT001 - drawn
    ) -> None:
        self.may_cancel = may_cancel
        buffer_size, in_flight, max_staleness = chosen
        self.fleet = Fleet(
            None,
            mode="buffered",
            buffer_size=buffer_size,
            in_flight=in_flight,
            max_staleness=max_staleness,
            rounds=4,
            attempts=3,
            **more,
        )
        if crash:
            self.fleet.counter.plan_crash(call=crash)
        try:
            self.fleet.start()
        except Crash:
            if self.fleet.rounds.run(RUN) is None:
                self.fleet.start()
        self.fleet.counter.forget_plans()

    @rule(action=actions)
    def the_operator_asks_something(self, action: str) -> None:
        self._ask(action)

    @rule(action=actions, call=port_calls)
    def who_does_what_the_operator_asks_dies(self, action: str, call: int) -> None:
        self.fleet.counter.plan_crash(call=call)
        with contextlib.suppress(Crash):
            self._ask(action)
        self.fleet.counter.forget_plans()

    @precondition(lambda self: self.fleet.sent)
    @rule(data=st.data(), call=port_calls, action=actions)
    def the_operator_asks_something_while_a_worker_works(
        self, data: st.DataObject, call: int, action: str
    ) -> None:
        body = self._draw(data)
        self.fleet.counter.plan(lambda: self._ask(action), call=call)
        if self._take(body):
            self.fleet.sent.remove(body)
        self.fleet.counter.forget_plans()

    # ------------------------------------------------------------ the laws that differ from other runs
    @invariant()
    def a_reply_counts_at_most_once_and_every_loss_is_counted(self) -> None:
        counted: Counter[tuple[object, ...]] = Counter()
        for of in self.fleet.stored_rounds():
            parts = list(self.fleet.rounds.participants(of))
            for name, value in round_metrics.tally(parts).items():
                assert getattr(of, name) == value, (name, of, parts)
            if of.in_flight:
                assert of.asked == sum(not part.from_round for part in parts)
            counted.update((p.device, *update_of(of, p)) for p in parts if p.state in COUNTED)
        assert not [who for who, times in counted.items() if times > 1]

    @invariant()
    def a_row_that_was_carried_over_names_the_buffer_that_has_it(self) -> None:
        for of in self.fleet.stored_rounds():
            for part in self.fleet.rounds.participants(of):
                if part.state is Participation.CARRIED:
                    buffer = self.fleet.rounds.round(RUN, part.to_round, part.to_attempt)
                    assert buffer
                    assert update_of(buffer, self.fleet.part(part.device, buffer)) == update_of(of, part)

    @invariant()
    def a_counted_model_is_not_too_old(self) -> None:
        for of in self.fleet.stored_rounds():
            for part in self.fleet.rounds.participants(of):
                if part.state in COUNTED and of.in_flight:
                    assert 0 <= staleness_of(of, part) <= self.fleet.settings.max_staleness

    @invariant()
    def no_more_devices_train_than_may(self) -> None:
        training = [
            part
            for of in self.fleet.stored_rounds()
            for part in self.fleet.rounds.participants(of)
            if of.in_flight and part.state in IN_FLIGHT and part.state is not Participation.HELD
        ]
        assert len(training) <= self.fleet.settings.most_in_flight
        assert max(Counter(part.device for part in training).values(), default=0) <= 1

    @invariant()
    def an_open_buffer_knows_how_many_devices_train(self) -> None:
        for buffer in self.fleet.stored_rounds():
            if buffer.state is State.OPEN and buffer.in_flight:
                training = [
                    part
                    for of in self.fleet.stored_rounds()
                    for part in self.fleet.rounds.participants(of)
                    if part.state in IN_FLIGHT
                    and buffer.number - of.number <= self.fleet.settings.max_staleness + 1
                ]
                assert buffer.outstanding == len(training)

    @invariant()
    def whoever_was_asked_later_hears_of_its_own_time_alone(self) -> None:
        for of in self.fleet.stored_rounds():
            for part in self.fleet.rounds.participants(of):
                if part.from_round or not of.in_flight:
                    continue
                if part.batch <= of.announced_batches:
                    heard = self._heard(of, part.device)
                    # Its deadline may have passed before a worker took the place of one that had crashed.
                    too_late = not heard and part.state in {Participation.OVERDUE, Participation.CARRIED}
                    assert heard == {part.announced_at} or too_late

    @invariant()
    def the_end_of_a_round_is_told_once_with_its_figures(self) -> None:
        told = [change for change in self.fleet.told() if change.figures]
        assert len({(change.round, change.attempt) for change in told}) == len(told)
        for change in told:
            of, figures = self.fleet.rounds.round(RUN, change.round, change.attempt), change.figures
            assert of is not None
            assert figures is not None
            for name in ("asked", "needed", "replied", "refused", "bytes_up"):
                assert getattr(figures, name) == getattr(of, name)

    @invariant()
    def whoever_was_given_up_as_silent_had_heard_of_the_work(self) -> None:
        for of in self.fleet.stored_rounds():
            for part in self.fleet.rounds.participants(of):
                if part.state is Participation.SILENT:
                    heard = [(work.round, work.attempt) for work in self.fleet.announced(part.device)]
                    assert update_of(of, part) in heard

    @invariant()
    def a_closed_round_has_one_model_that_is_the_mean_of_the_accepted_replies(self) -> None:
        """Check what does not depend on the weights of stale replies; the chaos campaign computes those."""
        for of in self.fleet.stored_rounds():
            if of.state is State.CLOSED and of.work is Work.TRAIN:
                assert sha256(self.fleet.bucket.objects[draft(of, "model")]) == of.model_sha256
                assert of.good >= min(of.minimum, of.needed)

    def _check_the_end(self) -> None:
        super()._check_the_end()
        stale = [of for of in self.fleet.stored_rounds() if of.staleness_max]
        event(f"{len(stale)} buffers counted stale replies")
        self._check_the_verdicts()

    def _check_the_verdicts(self) -> None:
        """Every device whose reply was counted knows that, at the latest once it repeats the reply."""
        counted = [
            (part.device, update_of(of, part))
            for of in self.fleet.stored_rounds()
            for part in self.fleet.rounds.participants(of)
            if part.state is Participation.REPLIED
        ]
        for device, answered in counted:
            if answered not in self._told(device):
                work = self.fleet.rounds.round(RUN, *answered)
                assert work
                number = self.fleet.names.index(device)
                self.fleet.reply(device, work, value=value_of(number, work), examples=number + 1)
                self._take_newest()
                assert answered in self._told(device)

    def _told(self, device: str) -> set[tuple[int, int]]:
        """Return which of its replies a device knows to be counted."""
        return {(v.round, v.attempt) for v in self.fleet.verdicts(device) if v.counted}


TestBufferedMachine = pytest.mark.slow(BufferedMachine.TestCase)
TestBufferedMachine.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
