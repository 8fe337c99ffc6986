"""A run with a ServerApp under any order of messages, losses, crashes, races and requests."""

import contextlib
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import event, settings
from hypothesis.stateful import initialize, invariant, precondition, rule

from cloud_functions.initiator import _perform
from fedgrass.federation import object_keys
from fedgrass.federation.messages import Announcement
from fedgrass.federation.rounds import Round, State, Work
from fedgrass.federation.runs import LIVING, RunState
from fedgrass.federation.task_messages.round_messages import (
    MessageGroup,
    RoundMessages,
    decode_messages,
    encode_messages,
)
from fedgrass.federation.weights import sha256
from tests.fakes.memory_cloud import Crash
from tests.fakes.message_fleet import message_to
from tests.fakes.small_fleet import RUN
from tests.unit.cloud.rounds.state_machine.round_laws import DEVICES, ENDED, Fleet
from tests.unit.cloud.rounds.state_machine.round_rules import Rules, device_numbers, port_calls

actions = st.sampled_from(["pause", "resume", "resume", "retry", "next", "finish", "cancel"])
some_devices = st.sets(device_numbers, min_size=1)
times_to_live = st.sampled_from([5.0, 30.0, 3600.0])
MOST_OPEN = 4  # rounds that the app sends before it waits for replies


class MessagingFleet(Fleet):
    """A fleet whose ServerApp is the machine."""

    def __init__(self, **chosen: Any) -> None:
        super().__init__(None, rounds=5, evaluate_last=True, mode="server_app", **chosen)

    def invoke(self, action: str, **details: object) -> dict[str, Any]:
        """Invoke the initiator; the response has ``refused`` if it has refused the action."""
        self.watch_for_endless_loops()
        return _perform(self.cloud, {"action": action, "run": RUN, **details})

    def put(self, number: int, groups: tuple[MessageGroup, ...]) -> str:
        """Write the list of a round unless there is one; return the SHA-256 of the one that is there."""
        data = encode_messages(RoundMessages(groups=groups))
        return sha256(self.bucket.write_once(object_keys.messages(RUN, number), data))

    def listed(self, number: int) -> RoundMessages:
        return decode_messages(self.bucket.objects[object_keys.messages(RUN, number)])

    def open_rounds(self) -> list[Round]:
        return [of for of in self.stored_rounds() if of.state not in ENDED]


class MessageMachine(Rules):
    """The ServerApp sends at any time; messages come in any order, late, twice or never."""

    fleet: MessagingFleet

    @initialize(
        accept_seconds=st.sampled_from([0, 30, 30]),
        deadline_seconds=st.sampled_from([20, 600]),
        crash=st.none() | st.integers(1, 20),
        may_cancel=st.sampled_from([False, False, False, True]),
    )
    def start(
        self,
        accept_seconds: int,
        deadline_seconds: int,
        crash: int | None,
        may_cancel: bool,  # noqa: FBT001 - drawn
    ) -> None:
        self.may_cancel = may_cancel
        self.fleet = MessagingFleet(accept_seconds=accept_seconds, deadline_seconds=deadline_seconds)
        if crash:
            self.fleet.counter.plan_crash(call=crash)
        try:
            self.fleet.start()
        except Crash:
            if self.fleet.rounds.run(RUN) is None:
                self.fleet.start()
        self.fleet.counter.forget_plans()
        self.sending: tuple[int, str] = (0, "")  # the last round that was sent, and its list

    # ------------------------------------------------------------ what the ServerApp does
    @precondition(lambda self: len(self.fleet.open_rounds()) < MOST_OPEN)
    @rule(first=some_devices, second=some_devices, ttl=times_to_live)
    def it_sends_messages(self, first: set[int], second: set[int], ttl: float) -> None:
        self._send(first, second, ttl)

    @precondition(lambda self: len(self.fleet.open_rounds()) < MOST_OPEN)
    @rule(first=some_devices, ttl=times_to_live, call=port_calls)
    def the_initiator_dies_as_it_sends(self, first: set[int], ttl: float, call: int) -> None:
        self.fleet.counter.plan_crash(call=call)
        with contextlib.suppress(Crash):
            self._send(first, set(), ttl)
        self.fleet.counter.forget_plans()

    @precondition(lambda self: self.sending[0])
    @rule()
    def it_sends_the_same_again_and_nothing_is_opened(self) -> None:
        number, digest = self.sending
        before = self.fleet.run()
        answer = self.fleet.invoke("send", number=number, sha256=digest)
        assert self.fleet.run().round == max(before.round, number) or "refused" in answer
        assert sum(of.number == number for of in self.fleet.stored_rounds()) <= 1

    @precondition(lambda self: self.fleet.run().round)
    @rule(number=st.integers(1, 3))
    def another_server_app_sends_under_a_number_that_is_taken(self, number: int) -> None:
        before = self.fleet.stored_rounds()
        if number <= self.fleet.run().round:
            answer = self.fleet.invoke("send", number=number, sha256="f" * 64)
            assert "another ServerApp drives this run" in answer["refused"]
            assert self.fleet.stored_rounds() == before

    def _send(self, first: set[int], second: set[int], ttl: float) -> None:
        number = self.fleet.run().round + 1
        groups = tuple(
            message_to([self.fleet.names[device] for device in sorted(some)], ttl=ttl, content=content)
            for some, content in ((first, "a"), (second - first, "b"))
            if some
        )
        self.sending = number, self.fleet.put(number, groups)
        answer = self.fleet.invoke("send", number=number, sha256=self.sending[1])
        run = self.fleet.run()
        assert ("refused" not in answer) == (run.round == number)
        assert run.state is RunState.RUNNING or "refused" in answer

    @rule(number=device_numbers, place=st.integers(0, 50))
    def a_device_replies_to_any_message(self, number: int, place: int) -> None:
        device = self.fleet.names[number]
        heard = [m for m in self.fleet.heard(device) if isinstance(m, Announcement)]
        if heard:
            work = heard[place % len(heard)]
            of = self.fleet.rounds.round(RUN, work.round, work.attempt)
            assert of is not None
            self.fleet.reply(device, of, value=1.0)

    # ------------------------------------------------------------ the operator
    @rule(action=actions)
    def the_operator_asks_something(self, action: str) -> None:
        self._ask(action)

    @rule(action=actions, call=port_calls)
    def who_does_what_the_operator_asks_dies(self, action: str, call: int) -> None:
        self.fleet.counter.plan_crash(call=call)
        with contextlib.suppress(Crash):
            self._ask(action)
        self.fleet.counter.forget_plans()

    def _ask(self, action: str) -> None:
        if action == "finish" and not self.may_cancel:
            return
        super()._ask(action)

    # ------------------------------------------------------------ the laws that differ from other runs
    @invariant()
    def at_most_one_round_is_at_work_and_it_is_the_newest(self) -> None:
        """Several may be open; those up to ``published`` have ended, and each number is opened once."""
        run, rounds = self.fleet.run(), self.fleet.stored_rounds()
        assert sorted(of.number for of in rounds) == list(range(1, run.round + 1))
        assert all(of.attempt == 1 and of.work is Work.MESSAGE for of in rounds)
        assert all(of.state in ENDED for of in rounds if of.number <= run.published)

    @invariant()
    def a_round_has_the_devices_of_its_list_and_each_hears_its_own_message(self) -> None:
        for of in self.fleet.stored_rounds():
            groups = self.fleet.listed(of.number).by_device()
            assert {part.device for part in self.fleet.rounds.participants(of)} == set(groups)
            for device, group in groups.items():
                heard = [m for m in self.fleet.announced(device) if m.round == of.number]
                assert {(m.model_sha256, m.message) for m in heard} <= {(group.sha256, group.header)}
        for device in self.fleet.names:
            for work in self.fleet.announced(device):
                assert device in self.fleet.listed(work.round).by_device()

    @invariant()
    def a_closed_round_has_one_model_that_is_the_mean_of_the_accepted_replies(self) -> None:
        """No round makes a model; a closed one has a reply."""
        for of in self.fleet.stored_rounds():
            assert not of.model_sha256
            assert of.state is not State.CLOSED or of.good >= 1
        assert not [key for key in self.fleet.bucket.objects if key == object_keys.model(RUN, 1)]

    @invariant()
    def a_run_between_two_rounds_has_an_alarm_or_a_message_that_will_move_it(self) -> None:
        """It waits for its ServerApp, and for nothing else."""

    @invariant()
    def whoever_was_asked_later_hears_of_its_own_time_alone(self) -> None:
        for of in self.fleet.stored_rounds():
            for part in self.fleet.rounds.participants(of):
                if of.announced_batches:
                    assert self._heard(of, part.device) <= {max(part.announced_at, of.opened_at)}

    # ------------------------------------------------------------ where it always ends
    def teardown(self) -> None:
        """After any sequence of events, each round ends, and the run once its ServerApp has ended."""
        if not hasattr(self, "fleet"):
            return
        self.fleet.counter.forget_plans()
        for _ in range(80):
            self._deliver_all()
            if not self.fleet.open_rounds():
                break
            self.fleet.pass_time(601)
            self.fleet.ring()
        assert not self.fleet.open_rounds()
        if self.fleet.run().state in LIVING:
            self.fleet.invoke("finish")
        self._deliver_all()
        run, rounds = self.fleet.run(), self.fleet.stored_rounds()
        assert run.state not in LIVING
        assert run.reason
        self.a_reply_counts_at_most_once_and_every_loss_is_counted()
        event(f"{run.state} after {len(rounds)} rounds")
        event(f"{sum(of.state is State.CLOSED for of in rounds)} rounds closed")


TestMessageMachine = pytest.mark.slow(MessageMachine.TestCase)
TestMessageMachine.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
assert DEVICES > 1  # two groups of messages in a round
