"""No buffer of a buffered run waits for a slow device, whose update counts in a later one."""

from collections.abc import Callable
from pathlib import Path

from components.trainer.tasks.noise import Noise
from fedgrass.console.runs.fleet_operator import RoundRecord
from fedgrass.federation.rounds import Participant, Participation, State, staleness_of
from fedgrass.federation.runs import RunState
from fedgrass.federation.settings_parser import parse_settings
from tests.e2e.conftest import Watched
from tests.e2e.processes import wait_until

DEVICES, MEGABYTES = 3, 0.1
SLOW = f"device-{DEVICES}"


def test_buffers_close_without_a_slow_device_whose_update_counts_once_when_it_comes(
    make_site: Callable[..., Watched], tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    gated = {
        "module": "gated_task:GatedOne",
        "path": str(Path(__file__).parent),
        "gate": str(gate),
        "megabytes": MEGABYTES,
        "held": SLOW,
    }
    watched = make_site(DEVICES, tasks={"gated": gated})
    settings = parse_settings(
        {
            "task": "gated",
            "mode": "buffered",
            "buffer_size": 2,
            "in_flight": DEVICES,
            "max_staleness": 500,
            "rounds": 500,
            "deadline_seconds": 600,
        }
    )
    watched.testbed.operator.start("own-pace", settings, Noise(MEGABYTES).initial_weights(seed=1))
    watched.wait_for_line("own-pace", "closed: models/own-pace/2.safetensors")  # without the slow device
    gate.touch()

    def counted() -> list[tuple[RoundRecord, Participant]]:
        return [
            (record, part)
            for record in watched.rounds("own-pace")
            for part in record.participants
            if part.device == SLOW and part.from_round
        ]

    wait_until(counted, "the slow device's reply to be counted", 60)
    watched.testbed.operator.act("cancel", "own-pace")
    assert watched.ended("own-pace").state is RunState.CANCELLED

    ((record, part),) = counted()
    assert (part.from_round, part.from_attempt, part.base) == (1, 1, 0)
    assert staleness_of(record.round, part) == record.round.number - 1 >= 2
    first, second, *_ = watched.rounds("own-pace")
    (left,) = [part for part in first.participants if part.device == SLOW]
    assert (left.state, left.to_round) == (Participation.CARRIED, record.round.number)
    for early in (first, second):
        assert (early.round.state, early.round.good) == (State.CLOSED, 2)
    if record.round.state is State.CLOSED:  # its update was in the average
        assert part.state is Participation.REPLIED
