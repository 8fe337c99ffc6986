"""When a virtual device is on."""

from hypothesis import given
from hypothesis import strategies as st

from fedgrass.simulation.fleets.device_conditions import DeviceConditions

NIGHTLY = DeviceConditions(name="press-1", share=0, on=((0, 4), (20, 24)), period=24)
ONCE = DeviceConditions(name="press-2", share=1, on=((10, 20),))


def test_a_device_without_intervals_is_always_on() -> None:
    device = DeviceConditions(name="press-3", share=2)
    assert (device.is_on(10**9), device.last_on(7), device.next_change(7)) == (True, 7, None)


def test_intervals_repeat() -> None:
    assert [NIGHTLY.is_on(at) for at in (0, 3, 4, 19, 20, 24, 27, 28)] == [
        True,
        True,
        False,
        False,
        True,
        True,
        True,
        False,
    ]
    assert NIGHTLY.last_on(34) == 28
    assert NIGHTLY.next_change(34) == 44


def test_a_device_whose_intervals_do_not_repeat_stays_off() -> None:
    assert (ONCE.last_on(5), ONCE.next_change(5)) == (None, 10)
    assert (ONCE.last_on(30), ONCE.next_change(30)) == (20, None)


def test_a_device_that_starts_off_was_on_at_the_end_of_the_period_before() -> None:
    evening = DeviceConditions(name="press-4", share=3, on=((10, 20),), period=24)
    assert (evening.last_on(5), evening.last_on(30)) == (None, 20)


@given(st.integers(0, 1000), st.integers(1, 100), st.data())
def test_nothing_changes_between_two_changes(at: int, period: int, data: st.DataObject) -> None:
    edges = sorted({data.draw(st.integers(0, period)) for _ in range(4)})
    on = tuple(zip(edges[::2], edges[1::2], strict=False))
    device = DeviceConditions(name="press-5", share=4, on=on, period=period)
    change = device.next_change(at)
    if not on or change is None:
        return
    assert change > at
    assert {device.is_on(between) for between in range(at, change)} == {device.is_on(at)}
