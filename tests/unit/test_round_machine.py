"""The round under any order of messages, duplicates, losses, crashes and races that hypothesis thinks of."""

from fractions import Fraction
from typing import Any

import hypothesis.strategies as st
from hypothesis import event, settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from fedgrass.federation import object_keys
from fedgrass.federation.messages import Announcement
from fedgrass.federation.rounds import TRANSITIONS, Participation, Round, State
from fedgrass.federation.runs import RunState
from fedgrass.federation.weights import decode, sha256
from tests.fakes.memory_cloud import Crash
from tests.fakes.small_fleet import RUN, SmallFleet, alarm_of, update_full_of

DEVICES = 4
LEASE_SECONDS = 60
MOST_CALLS = 3000  # of ports while one message is taken: more than any has, so that an endless loop shows
MOVES = {(source, target) for (source, _event), target in TRANSITIONS.items()}
ENDED = {State.CLOSED, State.ABANDONED}

device_numbers = st.integers(0, DEVICES - 1)
port_calls = st.integers(1, 40)


class Fleet(SmallFleet):
    """A fleet that keeps what it would send until it is delivered, and watches every move of a round."""

    def __init__(self, **settings: object) -> None:
        super().__init__(devices=DEVICES, lease_seconds=LEASE_SECONDS, **settings)
        self.sent: list[dict[str, object]] = []
        self.last_seen: dict[tuple[int, int], Round] = {}

    def deliver(self, body: Any) -> bool:
        """Keep a message that a device sends; the machine's rules deliver it when they like."""
        self.sent.append(body)
        return True

    def take(self, body: dict[str, object]) -> bool:
        return super().deliver(body)

    def stored_rounds(self) -> list[Round]:
        return list(self.rounds._rounds.values())


class RoundMachine(RuleBasedStateMachine):
    """Devices and workers do what they like; what the design promises holds after each step."""

    @initialize(
        threshold=st.sampled_from([0.5, 0.75, 1.0]),
        minimum=st.integers(1, 3),
        aggregation=st.sampled_from(["mean", "weighted_mean"]),
        on_abandoned=st.sampled_from(["retry", "retry", "fail"]),
        crash=st.none() | st.integers(1, 20),
    )
    def start(
        self, threshold: float, minimum: int, aggregation: str, on_abandoned: str, crash: int | None
    ) -> None:
        self.fleet = Fleet(
            threshold=threshold,
            minimum_replies=minimum,
            aggregation=aggregation,
            on_abandoned=on_abandoned,
            attempts=3,
            rounds=3,
        )
        if crash:
            self.fleet.counter.plan_crash(call=crash)
        try:
            self.fleet.start()
        except Crash:
            self.fleet.start()
        self.fleet.counter.forget_plans()

    # ------------------------------------------------------------ what devices do
    @rule(number=device_numbers, good=st.integers(0, 3), old=st.booleans())
    def a_device_replies(self, number: int, good: int, old: bool) -> None:  # noqa: FBT001
        """One reply in four is of an update whose checksum does not fit."""
        work = self._work(number, old=old)
        if work:
            changes = {} if good else {"checksum": "0" * 32}
            device = self.fleet.names[number]
            value = _value(number, work)
            self.fleet.reply(device, work, value=value, examples=number + 1, **changes)

    @rule(numbers=st.sets(device_numbers, min_size=2))
    def devices_reply_well_and_are_heard(self, numbers: set[int]) -> None:
        for number in sorted(numbers):
            self.a_device_replies(number, good=1, old=False)
            if self.fleet.sent and self._take(self.fleet.sent[-1]):
                self.fleet.sent.pop()

    @rule(number=device_numbers, state=st.sampled_from(["accepted", "declined", "failed"]), old=st.booleans())
    def a_device_says_how_it_goes(self, number: int, state: str, old: bool) -> None:  # noqa: FBT001
        work = self._work(number, old=old)
        if work:
            self.fleet.status(self.fleet.names[number], state, work, reason="a reason")

    def _work(self, number: int, *, old: bool) -> Round | None:
        """Return a round that the device was asked for: the newest, or the first."""
        heard = [m for m in self.fleet.heard(self.fleet.names[number]) if isinstance(m, Announcement)]
        if not heard:
            return None
        asked = heard[0] if old else heard[-1]
        return self.fleet.rounds.round(asked.run, asked.round, asked.attempt)

    # ------------------------------------------------------------ what the cloud's workers do
    @precondition(lambda self: self.fleet.sent)
    @rule(data=st.data(), again=st.booleans())
    def a_message_is_delivered(self, data: st.DataObject, again: bool) -> None:  # noqa: FBT001
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
            return  # nobody has acknowledged the message: it comes back
        finally:
            self.fleet.counter.forget_plans()

    @precondition(lambda self: self.fleet.sent)
    @rule(data=st.data(), call=port_calls, pause=st.sampled_from([0, LEASE_SECONDS + 1]))
    def two_workers_take_messages_at_once(self, data: st.DataObject, call: int, pause: int) -> None:
        """The second does all its work between two calls of the first, which may have slept on its lease."""
        first, second = self._draw(data), self._draw(data)

        def other_worker() -> None:
            self.fleet.now += pause * 1000
            self._take(second)

        self.fleet.counter.plan(other_worker, call=call)
        if self._take(first):
            self.fleet.sent.remove(first)
        self.fleet.counter.forget_plans()

    @rule(seconds=st.sampled_from([1, 10, LEASE_SECONDS + 1, 300]))
    def time_passes(self, seconds: int) -> None:
        self.fleet.now += seconds * 1000
        self.fleet.heartbeats()
        self.fleet.ring()

    @rule()
    def the_operator_starts_the_run_again(self) -> None:
        self.fleet.start()

    def _draw(self, data: st.DataObject) -> dict[str, object]:
        return data.draw(st.sampled_from(self.fleet.sent))

    def _take(self, body: dict[str, object]) -> bool:
        self.fleet.counter.most = len(self.fleet.counter.calls) + MOST_CALLS
        return self.fleet.take(body)

    # ------------------------------------------------------------ what always holds
    @invariant()
    def a_reply_counts_at_most_once(self) -> None:
        for of in self.fleet.stored_rounds():
            states = [part.state for part in self.fleet.rounds.participants(of)]
            refused = states.count(Participation.REFUSED)
            assert of.replied == states.count(Participation.REPLIED) + refused
            assert of.refused == refused
            assert of.gone == states.count(Participation.DECLINED) + states.count(Participation.FAILED)
            assert of.late == states.count(Participation.LATE)
            assert of.asked == len(states)

    @invariant()
    def a_closed_round_has_one_model_that_is_the_mean_of_the_accepted_replies(self) -> None:
        for of in self.fleet.stored_rounds():
            if of.state is State.CLOSED:
                model = self.fleet.bucket.objects[object_keys.model(RUN, of.number)]
                assert sha256(model) == of.model_sha256
                weight = decode(model)["weight"]
                assert Fraction(float(weight[0, 0])) == Fraction(float(_rounded(self._mean(of))))

    def _mean(self, of: Round) -> Fraction:
        total = weights = Fraction(0)
        for part in self.fleet.rounds.participants(of):
            if part.state is Participation.REPLIED:
                number = self.fleet.names.index(part.device)
                weight = part.examples if self.fleet.settings.aggregation == "weighted_mean" else 1
                total += weight * Fraction(_value(number, of))
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
    def a_round_at_work_has_an_alarm_or_a_message_that_will_move_it(self) -> None:
        for of in self.fleet.stored_rounds():
            if of.state not in ENDED:
                standing = [alarm.deadline_at for alarm in self.fleet.alarms.standing()]
                assert of.deadline_at in standing or alarm_of(of) in self.fleet.sent or self.fleet.sent

    # ------------------------------------------------------------ where it always ends
    def teardown(self) -> None:
        """Whatever has happened: the messages that are under way and the alarms end the run."""
        if not hasattr(self, "fleet"):
            return
        self.fleet.counter.forget_plans()
        for _ in range(30):
            self._deliver_all()
            if self.fleet.run().state is not RunState.RUNNING:
                break
            self.fleet.now += 601_000
            self.fleet.heartbeats()
            self.fleet.ring()
        self.a_reply_counts_at_most_once()
        self.a_closed_round_has_one_model_that_is_the_mean_of_the_accepted_replies()
        run = self.fleet.run()
        event(f"{run.state} after {len(self.fleet.stored_rounds())} attempts")
        assert run.state is not RunState.RUNNING
        assert run.reason
        closed = [of.number for of in self.fleet.stored_rounds() if of.state is State.CLOSED]
        assert sorted(closed) == list(range(1, len(closed) + 1))
        assert (run.state is RunState.SUCCEEDED) == (len(closed) == run.settings.rounds)

    def _deliver_all(self) -> None:
        for _ in range(3):
            for body in list(self.fleet.sent):
                if self._take(body):
                    self.fleet.sent.remove(body)
            if not self.fleet.sent:
                return
            self.fleet.now += (LEASE_SECONDS + 1) * 1000
        assert not self.fleet.sent, "messages come back although every lease has expired"


def _value(number: int, of: Round) -> int:
    """Return what a device's update is full of: a whole number, so that no product is rounded."""
    return 3 * number + 5 * of.number + of.attempt


def _rounded(mean: Fraction) -> Any:
    return update_full_of(float(mean))["weight"][0, 0]


def _reachable(source: State, target: State) -> bool:
    """Return whether ``target`` can be reached from ``source`` in any number of moves."""
    reached = {source}
    while grown := {after for before, after in MOVES if before in reached} - reached:
        reached |= grown
    return target in reached


TestRoundMachine = RoundMachine.TestCase
TestRoundMachine.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
