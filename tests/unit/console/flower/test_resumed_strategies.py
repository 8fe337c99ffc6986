"""A ServerApp that dies at any step, and is resumed: the result is the one of an undisturbed run."""

import random
from collections.abc import Callable, Iterable
from typing import Any

import msgspec
import numpy as np
import pytest

pytest.importorskip("flwr")

from flwr.app import ArrayRecord, ConfigRecord, MetricRecord
from flwr.serverapp.strategy import DifferentialPrivacyServerSideFixedClipping, FedAdam, FedAvg, FedAvgM

from fedgrass.console.flower.checkpoint_file import checkpoint_file
from fedgrass.console.flower.fleet_grid import FleetGrid
from fedgrass.console.flower.flower_api import identify
from fedgrass.console.flower.strategy_checkpoint import Checkpoints, CheckpointStore
from fedgrass.console.task_messages.exchange_ports import ExchangeFailed
from fedgrass.console.task_messages.message_exchange import MessageExchange
from fedgrass.federation.errors import SettingsError
from tests.fakes.flower_fleet import FlowerFleet
from tests.fakes.memory_cloud import Crash
from tests.fakes.small_fleet import RUN
from tests.unit.console.flower.test_fleet_grid import adding, adding_one_more, model


def process(
    fleet: FlowerFleet, warned: list[str], *, resume: bool
) -> tuple[MessageExchange, Checkpoints, FleetGrid]:
    """Return what a process of `fedgrass flower run` or `resume` works with."""
    identify(RUN)
    exchange = fleet.exchange()
    store = CheckpointStore(fleet.bucket, RUN)
    found = store.read() if resume else None
    if resume:
        counted = {number for numbers in (found[0].counted() if found else ()) for number in numbers}
        exchange.adopt(set(range(1, exchange.last_number + 1)) - counted)
    grid = FleetGrid(exchange, RUN, clock=fleet.clock)
    return exchange, Checkpoints(exchange, store, warned.append, found), grid


def run(  # noqa: PLR0913 - as `start` has them
    fleet: FlowerFleet,
    strategy: Any,
    *,
    resume: bool = False,
    rounds: int = 3,
    initial: ArrayRecord | None = None,
    warned: list[str] | None = None,
    **options: Any,
) -> Any:
    """Run a strategy as `fedgrass flower run` or `resume` does."""
    _, checkpoints, grid = process(fleet, [] if warned is None else warned, resume=resume)
    with checkpoints.installed():
        return strategy.start(grid, initial or model(), num_rounds=rounds, **options)


def private() -> Any:
    """Return a strategy around another one, which adds noise; the same one in each process."""
    np.random.seed(3)  # noqa: NPY002 - the generator that Flower uses
    return DifferentialPrivacyServerSideFixedClipping(FedAvgM(), 0.01, 1.0, 3)


def close(found: Any, expected: Any) -> bool:
    """Return whether metrics by round are equal except for the order in which replies were added."""
    return bool(found.keys() == expected.keys()) and all(
        dict(found[number]) == pytest.approx(dict(expected[number])) for number in expected
    )


def interrupted_at(call: int, make: Callable[[], Any], rounds: int) -> tuple[FlowerFleet, Any]:
    """Return a fleet and the result of a strategy whose process dies at a call and is resumed, if it dies."""
    fleet = FlowerFleet(3, adding_one_more)
    fleet.crash_at(call)
    try:
        run(fleet, make(), rounds=rounds)
    except Crash:
        return fleet, run(fleet, make(), resume=True, rounds=rounds)
    return fleet, None


def check_each(make: Callable[[], Any], calls: Iterable[int], rounds: int) -> int:
    """Check the result after a death at each of some calls; return the first one that is not reached."""
    undisturbed = FlowerFleet(3, adding_one_more)
    expected = run(undisturbed, make(), rounds=rounds)
    for call in calls:
        fleet, result = interrupted_at(call, make, rounds)
        if result is None:
            return call
        assert np.allclose(result.arrays["a"].numpy(), expected.arrays["a"].numpy()), call
        assert close(result.train_metrics_clientapp, expected.train_metrics_clientapp), call
        assert close(result.evaluate_metrics_clientapp, expected.evaluate_metrics_clientapp), call
        trained = [(device, number) for device, number, _ in fleet.answered]
        assert len(trained) == len(set(trained)) == len(undisturbed.answered), call
    return 0


def test_a_strategy_resumed_after_any_use_of_the_fleet_gives_the_same_result() -> None:
    assert check_each(FedAvg, range(1, 400), rounds=2) > 40


@pytest.mark.slow
@pytest.mark.parametrize("make", [FedAvgM, FedAdam, private], ids=["FedAvgM", "FedAdam", "DP"])
def test_a_strategy_with_a_state_gives_the_same_result(make: Callable[[], Any]) -> None:
    assert check_each(make, range(5, 400, 3), rounds=3) > 40


def test_a_sample_of_the_nodes_is_drawn_again_and_its_messages_are_adopted() -> None:
    def make() -> Any:
        return FedAvg(fraction_train=0.5, min_train_nodes=1, fraction_evaluate=0.0, min_available_nodes=1)

    fleet = FlowerFleet(8, adding)
    sampled = Half(make, fails_at=2)
    with pytest.raises(Crash):
        run(fleet, sampled, rounds=4)
    asked = [device for device, number, _ in fleet.answered if number == 2]
    random.seed(99)  # a new process draws other numbers
    run(fleet, make(), resume=True, rounds=4)
    assert len(asked) == 4
    assert [device for device, number, _ in fleet.answered if number == 2] == asked
    assert {number for _, number, _ in fleet.answered} == {1, 2, 3, 4}


def Half(make: Callable[[], Any], fails_at: int) -> Any:  # noqa: N802 - makes a strategy
    """Return a strategy whose process dies when it has the replies of a round."""
    strategy = make()
    aggregate = strategy.aggregate_train

    def dying(number: int, replies: Any) -> Any:
        if number == fails_at:
            raise Crash
        return aggregate(number, replies)

    strategy.aggregate_train = dying
    return strategy


def test_a_run_that_died_before_its_first_round_starts_from_the_same_arrays() -> None:
    fleet = FlowerFleet(3, adding)
    with pytest.raises(Crash):
        run(fleet, Half(FedAvg, fails_at=1), rounds=1)
    identify(RUN)
    result = run(fleet, FedAvg(), resume=True, rounds=1, initial=model(value=100.0))
    assert np.allclose(result.arrays["a"].numpy(), 8 / 6)
    assert fleet.fleet.run().round == 2


def test_the_servers_own_evaluations_of_finished_rounds_are_kept() -> None:
    fleet = FlowerFleet(3, adding)
    evaluated: list[int] = []

    def evaluate(number: int, arrays: ArrayRecord) -> MetricRecord:
        evaluated.append(number)
        return MetricRecord({"first": float(arrays["a"].numpy()[0])})

    with pytest.raises(Crash):
        run(fleet, Half(FedAvg, fails_at=2), rounds=2, evaluate_fn=evaluate)
    result = run(fleet, FedAvg(), resume=True, rounds=2, evaluate_fn=evaluate)
    assert evaluated == [0, 1, 2]
    assert [round(each["first"], 3) for each in result.evaluate_metrics_serverapp.values()] == [
        0,
        1.333,
        2.667,
    ]


def test_a_config_that_the_strategy_changes_is_kept() -> None:
    class Halving(FedAvg):  # type: ignore[misc]  # flwr is not type-checked
        def configure_train(self, number: int, arrays: Any, config: Any, grid: Any) -> Any:
            config["lr"] *= 0.5
            if number == 3 and not resumed:
                raise Crash
            seen.append(config["lr"])
            return super().configure_train(number, arrays, config, grid)

    seen: list[float] = []
    resumed: list[bool] = []
    fleet = FlowerFleet(3, adding)
    with pytest.raises(Crash):
        run(fleet, Halving(), train_config=ConfigRecord({"lr": 1.0}))
    resumed.append(True)
    run(fleet, Halving(), resume=True, train_config=ConfigRecord({"lr": 1.0}))
    assert seen == [0.5, 0.25, 0.125]


def test_what_cannot_be_kept_is_named_once() -> None:
    strategy = FedAvg()
    strategy.handle = object()
    warned: list[str] = []
    run(FlowerFleet(3, adding), strategy, warned=warned)
    assert len(warned) == 1
    assert "the attribute handle (object) of the strategy FedAvg cannot be kept" in warned[0]


def test_another_strategy_or_fewer_rounds_cannot_continue_a_run() -> None:
    fleet = FlowerFleet(3, adding)
    with pytest.raises(Crash):
        run(fleet, Half(FedAvg, fails_at=3))
    with pytest.raises(
        SettingsError, match=r"with the strategy FedAvg for 3 rounds, of which 2 are finished"
    ):
        run(fleet, FedAdam(), resume=True)
    with pytest.raises(SettingsError, match="the app now starts FedAvg for 1"):
        run(fleet, FedAvg(), resume=True, rounds=1)


def test_a_second_process_that_keeps_its_state_is_told_of_the_first() -> None:
    fleet = FlowerFleet(3, adding)
    store = CheckpointStore(fleet.bucket, RUN)

    class Overtaken(FedAvg):  # type: ignore[misc]  # as above
        def aggregate_train(self, number: int, replies: Any) -> Any:
            found = store.read()
            assert found
            other = msgspec.structs.replace(found[0], random_state=[number])
            store.write(checkpoint_file(other, found[1]))
            return super().aggregate_train(number, replies)

    with pytest.raises(ExchangeFailed, match="was replaced: another ServerApp drives this run"):
        run(fleet, Overtaken())


def test_two_strategies_one_after_the_other_are_both_resumed() -> None:
    fleet = FlowerFleet(3, adding)

    def both(second: Any, *, resume: bool) -> Any:
        exchange, checkpoints, grid = process(fleet, [], resume=resume)
        with checkpoints.installed():
            first = FedAvg().start(grid, model(), num_rounds=2)
            assert exchange.last_number >= 4
            return second.start(grid, first.arrays, num_rounds=2)

    with pytest.raises(Crash):
        both(Half(FedAvgM, fails_at=2), resume=False)
    result = both(FedAvgM(), resume=True)
    assert np.allclose(result.arrays["a"].numpy(), 4 * 8 / 6)
    assert fleet.fleet.run().round == 8
    assert len(fleet.answered) == 24
