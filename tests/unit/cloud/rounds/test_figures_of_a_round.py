"""The figures of a round, and the report at its end."""

import msgspec
import pytest

from cloud_functions.recovery import repair
from cloud_functions.services import _figures
from fedgrass.federation import messages
from fedgrass.federation.messages import LARGEST_MESSAGE, RoundChange, RoundFigures, message_fields
from fedgrass.federation.messages.message_fields import MOST_METRICS
from fedgrass.federation.rounds import Round, State
from tests.fakes.memory_cloud import Crash
from tests.fakes.small_fleet import RUN, SmallFleet


def ends(fleet: SmallFleet) -> list[RoundChange]:
    return [change for change in fleet.told() if change.figures]


def an_eventful_round() -> SmallFleet:
    """Return a fleet whose first round has closed, with a device of each kind."""
    fleet = SmallFleet(devices=6, rounds=1, minimum_replies=1, accept_seconds=30, lease_seconds=60)
    slow = {"publish": 250}  # milliseconds per call

    def sleep(name: str) -> None:
        fleet.now += slow.get(name, 0)

    fleet.counter.before = sleep
    fleet.start()
    fleet.status("thing-0", "accepted")
    fleet.status("thing-1", "declined", reason="on battery")
    fleet.status("thing-2", "accepted")
    fleet.status("thing-2", "failed", reason="no space left")
    fleet.reply("thing-0")
    fleet.reply("thing-3", checksum="0" * 32)
    fleet.reply("thing-4")
    fleet.now = fleet.newest().deadline_at
    fleet.ring()
    return fleet


def test_everything_a_device_can_do_is_counted_apart() -> None:
    fleet = an_eventful_round()
    closed = fleet.newest()
    assert closed.state is State.CLOSED
    assert (closed.asked, closed.accepted, closed.replied, closed.refused) == (6, 4, 3, 1)
    assert (closed.declined, closed.failed, closed.silent, closed.gone, closed.late) == (1, 1, 0, 2, 0)
    size = fleet.part("thing-0").bytes
    assert (closed.bytes_up, closed.bytes_down) == (2 * size, 4 * closed.base_bytes)


def test_the_end_of_a_round_is_reported_with_its_figures_as_fields() -> None:
    fleet = an_eventful_round()
    closed = fleet.newest()
    (change,) = ends(fleet)
    assert (change.state, change.round, change.attempt) == ("CLOSED", 1, 1)
    assert change.figures == RoundFigures(
        asked=6,
        accepted=4,
        declined=1,
        failed=1,
        silent=0,
        late=0,
        refused=1,
        replied=3,
        needed=6,
        bytes_up=closed.bytes_up,
        bytes_down=closed.bytes_down,
        opening_seconds=0.5,
        averaging_seconds=closed.averaging_seconds,
        metrics={"loss": 0.25},
    )


def test_an_opening_lasts_until_the_last_announcement_was_handed_over() -> None:
    """Two calls of 250 ms: the report that the round opened, and the announcements."""
    fleet = an_eventful_round()
    assert fleet.newest().opening_seconds == 0.5


def test_an_opening_that_another_worker_finished_counts_from_the_first_ones_choice() -> None:
    fleet = SmallFleet(devices=1)
    fleet.counter.plan_crash(name="mark_announced")
    with pytest.raises(Crash):
        fleet.start()
    fleet.now += 37_000  # its lease to announce the round has ended
    fleet.remind()
    assert fleet.newest().opening_seconds == 37.0


def test_an_abandoned_round_is_reported_with_its_figures() -> None:
    fleet = SmallFleet(devices=2, minimum_replies=2, on_abandoned="fail")
    fleet.start()
    fleet.reply("thing-0")
    fleet.pass_time(600)
    fleet.ring()
    (change,) = ends(fleet)
    assert change.figures is not None
    assert (change.state, change.figures.asked, change.figures.replied) == ("ABANDONED", 2, 1)
    assert change.figures.bytes_up == fleet.part("thing-0").bytes


def test_a_reply_that_comes_too_late_is_counted_as_late_and_its_bytes_are_not() -> None:
    fleet = an_eventful_round()
    before = fleet.newest()
    fleet.reply("thing-5", before)
    after = fleet.newest()
    assert after == msgspec.structs.replace(before, late=1, accepted=5)


def test_a_repair_restores_every_figure() -> None:
    fleet = an_eventful_round()
    before = fleet.newest()
    fleet.rounds.lose(runs=True, rounds=True, participants=True)
    repair.act(fleet.cloud, {"run": RUN})
    assert fleet.newest() == before


def a_large_round(metrics: int) -> Round:
    most = message_fields.LARGEST_NUMBER
    return Round(
        run="r" * 64,
        number=most,
        attempt=most,
        state=State.ABANDONED,
        asked=most,
        needed=most,
        minimum=most,
        opened_at=most,
        deadline_at=most,
        base_sha256="f" * 64,
        base_bytes=most,
        accepted=most,
        replied=most,
        refused=most,
        declined=most,
        failed=most,
        silent=most,
        late=most,
        bytes_up=most * most,
        opening_seconds=0.12345678901234568,
        averaging_seconds=0.12345678901234568,
        metrics={f"{number:064}": -1.2345678901234567e-308 for number in range(metrics)},
    )


@pytest.mark.parametrize("character", ["x", "\x01", "€", "\U0001f600", '"'])
def test_the_largest_end_of_a_round_fits_its_message(character: str) -> None:
    fleet = SmallFleet()
    fleet.cloud.report_end(a_large_round(24), character * 10_000)
    ((_topic, text),) = fleet.publisher.published
    assert len(text) <= LARGEST_MESSAGE
    told = messages.decode(text, RoundChange)
    assert told.figures is not None
    assert (len(told.figures.metrics), told.figures.metrics_left_out) == (24, 0)
    assert told.text.startswith(character)


def test_of_more_metrics_than_fit_into_a_message_the_first_by_name_are_reported() -> None:
    """Each device reports at most 24 metrics, but not all the same."""
    figures = _figures(a_large_round(60))
    assert len(figures.metrics) == MOST_METRICS
    assert (max(figures.metrics), figures.metrics_left_out) == (f"{23:064}", 36)
