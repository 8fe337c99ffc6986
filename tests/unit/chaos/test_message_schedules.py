"""Schedules of ServerApps in memory, and proof that their judge finds the defects that it looks for."""

from collections.abc import Collection, Iterable, Iterator
from typing import Any

import pytest

from cloud_functions.server_apps import message_list
from cloud_functions.services import Services
from fedgrass.console.task_messages import open_rounds
from fedgrass.console.task_messages.message_exchange import MessageExchange
from fedgrass.console.task_messages.message_outcomes import Outcome, Reply, read_reply
from fedgrass.federation.rounds import Participant, Round
from fedgrass.federation.runs import Run
from tests.chaos.in_memory import server_app_model
from tests.chaos.in_memory.disturbed_ports import Chances
from tests.chaos.in_memory.message_schedules import draw, play
from tests.chaos.in_memory.message_simulation import CountingRounds, MessageSimulation
from tests.chaos.in_memory.simulation import Disturbances
from tests.fakes.memory_cloud import MemoryRounds

pytestmark = pytest.mark.slow


def found(seeds: Iterable[int]) -> set[str]:
    return {problem.partition(":")[0] for seed in seeds for problem in play(seed).problems}


@pytest.mark.parametrize("first", [0, 20, 40, 60])
def test_every_message_ends_in_its_own_reply_or_an_error_and_nothing_is_counted_twice(first: int) -> None:
    played = [play(seed) for seed in range(first, first + 20)]
    assert [f"seed {one.seed}: {problem}" for one in played for problem in one.problems] == []


def test_a_seed_repeats_its_schedule() -> None:
    assert play(7) == play(7)


def test_the_schedules_have_all_that_they_should_have() -> None:
    played = [play(seed) for seed in range(60)]
    happened = {what for one in played for what in one.happened}
    of_calls = set(Chances.__struct_fields__) - {"object_lost"}
    assert of_calls <= happened
    assert {"app killed_before", "app killed_after", "app error", "app answer_lost"} <= happened
    assert sum(one.adopted for one in played)  # a process died between the list and its action
    assert {state for one in played for state in one.states} == {"SUCCEEDED", "CANCELLED"}
    worlds = [draw(seed) for seed in range(20)]
    for world in worlds:
        world.play()
    errors = " ".join(
        str(outcome)
        for world in worlds
        for app in world.apps
        for of in app.outcomes.values()
        for _, outcome in of.values()
    )
    assert sum(
        app.postponed for world in worlds for app in world.apps
    )  # a device was busy with the other run
    for words in ("failed: a reason", "damaged: its file has the checksum", "late: it"):
        assert words in errors
    refusals = " ".join(reason for world in worlds for reason in world.refusals)
    assert "is PAUSED" in refusals
    ended = " ".join(reason for world in worlds for app in world.apps for reason in app.failures)
    assert "another ServerApp drives this run" in ended


def test_without_faults_every_device_answers_every_message(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_app_model, "TTLS", (3600.0,))
    calm = MessageSimulation(1, Disturbances(), {}, runs=1)
    calm.play()
    (app,) = calm.apps
    assert (calm.problems, app.over, app.lives) == ([], "SUCCEEDED: the ServerApp has ended", 1)
    outcomes = [outcome for _, outcome in app.outcomes[1].values()]
    assert len(outcomes) >= 3 * 5
    assert {type(outcome) for outcome in outcomes} == {Reply}


# ---------------------------------------------------------------- defects introduced on purpose
def test_a_reply_to_another_message_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    last = list[Outcome]()

    def another(*arguments: Any) -> Outcome:
        last.append(read_reply(*arguments))
        return last[-2] if len(last) > 1 else last[-1]

    monkeypatch.setattr(open_rounds, "read_reply", another)
    assert "wrong" in found(range(3))


def test_a_reply_that_is_used_in_two_steps_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    # A resumed process that adopts also what an earlier one has used in a finished step.
    adopt = MessageExchange.adopt
    monkeypatch.setattr(
        MessageExchange, "adopt", lambda exchange, _: adopt(exchange, range(1, exchange.last_number + 1))
    )
    assert "twice" in found(range(40))


def test_a_reply_that_is_counted_twice_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    count = MemoryRounds.count_reply

    def again(rounds: MemoryRounds, round_: Round, part: Participant, *rest: Any) -> None:
        count(rounds, round_, part, *rest)
        rounds._change(round_, replied=rounds._rounds[round_.run, round_.number, 1].replied + 1)

    monkeypatch.setattr(MemoryRounds, "count_reply", again)
    assert "twice" in found(range(5))


def test_an_outcome_that_is_never_handed_over_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    collect = MessageExchange.collect

    def forgetful(exchange: MessageExchange, ids: Collection[str]) -> Iterator[tuple[str, Outcome]]:
        yield from list(collect(exchange, ids))[1:]

    monkeypatch.setattr(MessageExchange, "collect", forgetful)
    world = MessageSimulation(1, Disturbances(), {}, runs=1)
    world.play()
    assert {problem.partition(":")[0] for problem in world.problems} == {"lost", "stuck"}


def test_an_announcement_with_the_content_of_another_group_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    real = message_list.announcer

    def mixed(services: Services, run: Run, open_round: Round, *rest: Any) -> Any:
        listed = message_list.read_messages(services, run.name, open_round.number, open_round.base_sha256)
        make, first = real(services, run, open_round, *rest), min(listed.by_device())
        return lambda _device, at, version: make(first, at, version)

    monkeypatch.setattr(message_list, "announcer", mixed)
    assert "wrong" in found(range(6))


def test_a_reply_that_vanishes_after_it_was_counted_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    count = CountingRounds.count_reply

    def vanishing(rounds: CountingRounds, round_: Round, part: Participant, *rest: Any) -> None:
        count(rounds, round_, part, *rest)
        world = worlds[-1]
        for key in [key for key in world.bucket.objects if key.startswith(f"updates/{part.device}/")]:
            del world.bucket.objects[key]

    worlds: list[MessageSimulation] = []
    monkeypatch.setattr(CountingRounds, "count_reply", vanishing)
    worlds.append(MessageSimulation(1, Disturbances(), {}, runs=1))
    worlds[-1].play()
    assert {problem.partition(":")[0] for problem in worlds[-1].problems} == {"lost"}
