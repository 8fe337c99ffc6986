"""A buffer judges the one model that most of its devices started from, by their metrics only."""

from fedgrass.federation.rounds import State
from tests.fakes.small_fleet import SmallFleet
from tests.unit.cloud.buffers.buffered_fleet import buffer, buffered, training

GOOD = {"accuracy": 0.1, "local_accuracy": 0.8}
COLLAPSED = {"accuracy": 0.1, "local_accuracy": 0.8}
LEARNED = {"accuracy": 0.75, "local_accuracy": 0.8}


def with_one_behind() -> tuple[SmallFleet, str, list[str]]:
    """Return a fleet in its second buffer, the device that still trains from model 0, and the others."""
    fleet = buffered(devices=4, buffer_size=3, in_flight=4)
    first = fleet.newest()
    slow, *fast = training(fleet)
    for device in fast:
        fleet.reply(device, first, metrics=GOOD)
    assert fleet.newest().number == 2
    return fleet, slow, fast


def test_a_stale_reply_hides_no_collapsed_model() -> None:
    fleet, slow, fast = with_one_behind()
    fleet.reply(slow, buffer(fleet, 1), metrics={"accuracy": 0.9})
    for device in fast[:2]:
        fleet.reply(device, metrics=COLLAPSED)
    closed = buffer(fleet, 2)
    assert (closed.state, closed.staleness_max) == (State.CLOSED, 1)
    assert closed.collapse.startswith("model 1 is far worse than the local models that it was made of")
    assert "accuracy 0.1, where these had 0.8" in closed.collapse


def test_replies_that_started_from_older_models_collapse_no_model() -> None:
    fleet = buffered(devices=6, buffer_size=3, in_flight=6)
    first = fleet.newest()
    *slow, one, two, three = training(fleet)
    for device in (one, two, three):
        fleet.reply(device, first, metrics=GOOD)
    for device in slow[:2]:  # of model 0, as bad as it is
        fleet.reply(device, first, metrics=GOOD | {"accuracy": 0.0})
    fleet.reply(one, metrics={"accuracy": 0.2})
    assert (buffer(fleet, 2).state, buffer(fleet, 2).collapse) == (State.CLOSED, "")


def test_one_device_of_a_buffer_judges_no_model() -> None:
    fleet = buffered(devices=3)
    first = fleet.newest()
    slow, *fast = training(fleet)
    for device in fast:
        fleet.reply(device, first, metrics=GOOD)
    fleet.reply(slow, first, metrics=GOOD)
    fleet.reply(fast[0], metrics={"accuracy": 0.0})
    assert (buffer(fleet, 2).state, buffer(fleet, 2).collapse) == (State.CLOSED, "")


def test_a_model_that_its_devices_measure_two_buffers_later_is_judged() -> None:
    fleet = buffered(devices=6, buffer_size=2, in_flight=6)
    first = fleet.newest()
    one, two, *others = training(fleet)
    for device in (one, two):
        fleet.reply(device, first, metrics=GOOD)
    second = fleet.newest()
    for device in others[:2]:  # make model 2 of model 0's
        fleet.reply(device, first, metrics=GOOD)
    assert (fleet.newest().number, fleet.newest().base) == (3, 2)
    for device in (one, two):
        fleet.reply(device, second, metrics=COLLAPSED)
    assert buffer(fleet, 3).collapse.startswith("model 1 is far worse")


def test_a_model_that_learned_is_not_reported() -> None:
    fleet, slow, fast = with_one_behind()
    fleet.reply(slow, buffer(fleet, 1), metrics=GOOD)
    for device in fast[:2]:
        fleet.reply(device, metrics=LEARNED)
    assert (buffer(fleet, 2).state, buffer(fleet, 2).collapse) == (State.CLOSED, "")
