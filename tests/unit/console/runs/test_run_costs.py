"""The cost of a run: that of its rounds, by the prices of docs/costs.md."""

from typing import NamedTuple

import pytest

from fedgrass.console.deploy import costs
from fedgrass.console.runs.run_costs import RunCost, run_cost
from fedgrass.federation.runs import Run, RunState
from fedgrass.federation.settings import RunSettings

RUN = Run(
    name="r",
    state=RunState.RUNNING,
    settings=RunSettings(task="digits"),
    started_at=1,
    initial_sha256="",
    initial_bytes=20_000_000,
)


class Priced(NamedTuple):
    asked: int
    bytes_up: int
    bytes_down: int


def rounds(count: int, asked: int = 100, megabytes: float = 20) -> list[Priced]:
    total = round(asked * megabytes * 1e6)
    return [Priced(asked, total, total)] * count


def test_a_round_costs_what_the_page_of_costs_says() -> None:
    found = run_cost(rounds(1), RUN)
    expected = costs.count(100, 20, 20)
    assert found.dollars == pytest.approx(sum(expected.values()))
    assert found.egress == pytest.approx(expected["egress"])
    assert found.functions == pytest.approx(expected["lambda"])


def test_the_rounds_add_up() -> None:
    found = run_cost(rounds(7), RUN)
    assert sum(found.by_round) == pytest.approx(found.dollars)
    parts = (found.egress, found.s3, found.messages, found.dynamodb, found.functions)
    assert sum(parts) == pytest.approx(found.dollars)


def test_the_price_of_a_gigabyte_falls_with_those_sent_before() -> None:
    found = run_cost(rounds(2, asked=100_000, megabytes=200), RUN)  # 20 TB down each
    assert found.by_round[1] < found.by_round[0]
    assert found.egress == pytest.approx(costs.egress(40_000))


def test_a_round_that_asked_no_device_and_a_run_without_rounds_cost_nothing() -> None:
    nothing = RunCost(
        dollars=0.0, egress=0.0, s3=0.0, messages=0.0, dynamodb=0.0, functions=0.0, by_round=(0.0,)
    )
    assert run_cost(rounds(1, asked=0), RUN) == nothing
    assert run_cost([], RUN).by_round == ()


def test_a_device_that_was_asked_and_downloaded_nothing_costs_its_messages() -> None:
    found = run_cost([Priced(10, 0, 0)], RUN)
    assert found.egress == 0
    assert found.messages > 0
