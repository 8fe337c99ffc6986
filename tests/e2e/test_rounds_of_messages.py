"""Rounds of messages over processes, MQTT, rules and functions: two open at once, answered by two cores."""

import base64
from collections.abc import Callable

import pytest

import package
from fedgrass.console.runs import history
from fedgrass.federation.rounds import Participation, State
from fedgrass.federation.runs import RunState
from tests.e2e.conftest import Watched
from tests.e2e.processes import wait_until
from tests.e2e.sent_messages import SentMessages, doubling_task
from tests.fakes.message_tasks import array_record

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def site(make_site: Callable[..., Watched]) -> Watched:
    watched = make_site(2, tasks={"doubling": doubling_task(str(package.ROOT))}, heartbeat_seconds=1)
    wait_until(lambda: len(watched.testbed.operator.devices()) == 2, "the heartbeats of both cores")
    return watched


def test_messages_of_two_open_rounds_are_answered_and_each_reply_counts_in_its_own(site: Watched) -> None:
    run = SentMessages(site, "several", accept_seconds=5)
    first, second = run.devices()
    sha256 = run.send(1, [first], 1.0, 2.0)
    run.send(2, [second], 3.0)
    for number, devices in ((1, [first]), (2, [second]), (3, [first, second])):
        if number == 3:  # a device has one message at a time
            run.send(3, devices, 4.0)
        ended = run.ended(number)
        assert (ended.round.state, ended.round.aim) == (State.CLOSED, f"train {number}")
        assert {part.device: part.state for part in ended.participants} == dict.fromkeys(
            devices, Participation.REPLIED
        )
    (_, (doubled,)) = array_record(x=[6.0])
    (part,) = run.ended(2).participants
    assert doubled in base64.b64decode(part.answer)
    site.testbed.operator.send_messages("several", 1, sha256)  # repeated: nothing changes
    wait_until(lambda: site.testbed.operator.run("several").published == 3, "all rounds to be noted")
    run.finish()
    assert site.testbed.operator.run("several").state is RunState.SUCCEEDED
    summary = history.summarize(run.round(3), {})
    assert (summary["aim"], summary["replied"], summary["metrics"]) == ("train 3", 2, {"messages": 2.0})
    site.wait_for_line("several", "closed: 2 of 2 devices answered train 3")


def test_a_device_without_the_task_that_is_not_there_is_given_up_and_the_round_closes(site: Watched) -> None:
    run = SentMessages(site, "absent", accept_seconds=1)
    run.send(1, [run.devices()[0], "nobody"], 1.0)
    ended = run.ended(1)
    states = {part.device: part.state for part in ended.participants}
    assert (ended.round.state, states["nobody"]) == (State.CLOSED, Participation.SILENT)
    run.finish()
