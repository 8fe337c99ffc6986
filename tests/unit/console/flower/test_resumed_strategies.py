"""A ServerApp that dies at any step, and is resumed: the result is the one of an undisturbed run."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

pytest.importorskip("flwr")

from flwr.serverapp.strategy import FedAdam, FedAvg, FedAvgM

from fedgrass.console.flower.fleet_grid import FleetGrid
from fedgrass.console.flower.flower_api import identify
from fedgrass.console.flower.strategy_checkpoint import Checkpoints, CheckpointStore
from tests.fakes.flower_fleet import FlowerFleet
from tests.fakes.memory_cloud import Crash
from tests.fakes.small_fleet import RUN
from tests.unit.console.flower.test_fleet_grid import adding, model


def run(fleet: FlowerFleet, strategy: Any, *, resume: bool = False, rounds: int = 3, **options: Any) -> Any:
    """Run a strategy as `fedgrass flower run` or `resume` does."""
    identify(RUN)
    exchange = fleet.exchange()
    store = CheckpointStore(fleet.bucket, RUN)
    found = store.read() if resume else None
    warned: list[str] = []
    if resume:
        counted = {number for numbers in (found[0].counted() if found else ()) for number in numbers}
        exchange.adopt(set(range(1, exchange.last_number + 1)) - counted)
    grid = FleetGrid(exchange, RUN, clock=fleet.clock)
    with Checkpoints(exchange, store, warned.append, found).installed():
        return strategy.start(grid, model(), num_rounds=rounds, **options)


def close(found: Any, expected: Any) -> bool:
    """Return whether metrics by round are equal but for the order in which replies were added."""
    return bool(found.keys() == expected.keys()) and all(
        dict(found[number]) == pytest.approx(dict(expected[number])) for number in expected
    )


@pytest.mark.parametrize("make", [FedAvg, FedAvgM, FedAdam])
def test_a_strategy_that_is_resumed_after_any_call_gives_the_same_result(make: Callable[..., Any]) -> None:
    undisturbed = FlowerFleet(3, adding)
    expected = run(undisturbed, make())
    for call in range(1, 400):
        fleet = FlowerFleet(3, adding)
        fleet.crash_at(call)
        try:
            run(fleet, make())
            break
        except Crash:
            result = run(fleet, make(), resume=True)
        assert np.allclose(result.arrays["a"].numpy(), expected.arrays["a"].numpy()), call
        assert close(result.train_metrics_clientapp, expected.train_metrics_clientapp), call
        assert close(result.evaluate_metrics_clientapp, expected.evaluate_metrics_clientapp), call
        trained = [(device, number) for device, number, _ in fleet.answered]
        assert len(trained) == len(set(trained)) == len(undisturbed.answered), call
    assert call > 20
