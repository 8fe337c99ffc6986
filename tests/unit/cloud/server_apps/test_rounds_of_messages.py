"""A round of messages: opened by the ServerApp, announced, counted, closed."""

from fedgrass.federation import object_keys
from fedgrass.federation.messages import MessageHeader
from fedgrass.federation.rounds import Participation, State, Work
from fedgrass.federation.runs import RunState
from tests.fakes.message_fleet import started
from tests.fakes.small_fleet import RUN


def test_a_round_of_messages_is_opened_announced_counted_and_closed() -> None:
    fleet = started()
    assert fleet.push(group="1") == {"run": RUN, "state": RunState.RUNNING, "round": 1, "reason": ""}
    opened = fleet.newest()
    assert (opened.state, opened.work, opened.asked, opened.aim) == (State.OPEN, Work.MESSAGE, 3, "train 1")
    for device in fleet.names:
        (work,) = fleet.announced(device)
        assert (work.work, work.round, work.model_bytes, work.message_bytes) == ("message", 1, 2_000, 50_000)
        assert work.model_key == object_keys.content(RUN, work.model_sha256)
        assert isinstance(work.message, MessageHeader)
        assert (work.message.type, work.message.group) == ("train", "1")
        fleet.status(device, "accepted")
        fleet.answers(device)
    closed = fleet.sent(1)
    assert (closed.state, closed.replied, closed.metrics) == (State.CLOSED, 3, {"train_loss": 0.5})
    assert set(fleet.parts(closed).values()) == {Participation.REPLIED}
    assert (fleet.run().published, fleet.run().state) == (1, RunState.RUNNING)
    assert [verdict.counted for verdict in fleet.verdicts("thing-0")] == [True]
    fleet.request("finish")
    assert (fleet.run().state, fleet.run().reason) == (RunState.SUCCEEDED, "the ServerApp has ended")
