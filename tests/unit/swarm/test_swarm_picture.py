"""The picture of a load test has its three panels, also of a test that measured little."""

from fedgrass.swarm import swarm_picture
from fedgrass.swarm.swarm_measures import CLOUD, Look
from fedgrass.swarm.swarm_run import Measured
from fedgrass.swarm.swarm_spec import Sample
from tests.documents.test_swarm_page import REPORT


def test_it_shows_turnarounds_messages_and_load() -> None:
    looks = [
        Look(at=100.0, processor={CLOUD: 1.0}, busy=0.0, queued=0),
        Look(at=102.0, processor={CLOUD: 2.0}, busy=0.0, queued=7),
    ]
    samples = [Sample(at=100.0), Sample(at=101.0, sent=5, received=3), Sample(at=500.0, sent=9)]
    figure = swarm_picture.make_figure(Measured(REPORT, samples, looks))
    turnarounds, messages, load, queue = figure.axes
    assert turnarounds.get_ylabel() == "turnaround, s"
    assert [list(line.get_ydata()) for line in messages.get_lines()] == [[3.0], [5.0]]
    assert [list(line.get_ydata()) for line in load.get_lines()] == [[0.5]]
    assert queue.get_ylabel() == "replies in the queue (shaded)"


def test_a_test_without_measures_has_a_picture() -> None:
    assert swarm_picture.draw(Measured(REPORT)).startswith(b"\x89PNG")
