"""``fedgrass costs``: the costs of a fleet, computed like the tables of the documentation."""

import math

import pytest

from fedgrass.console.deploy import costs
from fedgrass.console.deploy.costs import Fleet, month
from fedgrass.console.main import parse


def total(fleet: Fleet) -> float:
    return sum(cost for _, _, cost in month(fleet))


def of(fleet: Fleet, name: str) -> tuple[float, float]:
    return next((once, in_a_month) for found, once, in_a_month in month(fleet) if found == name)


def test_a_round_costs_what_the_page_s_table_has() -> None:
    found = {name: once for name, once, _ in month(Fleet(devices=10_000, model_megabytes=20))}
    expected = costs.count(10_000, 20, 20)
    assert math.isclose(sum(found.values()), sum(expected.values()))
    assert costs.dollars(sum(expected.values())) in costs.table()


def test_heartbeats_are_of_all_devices_and_rounds_of_those_that_are_asked() -> None:
    few = Fleet(devices=1_000, devices_per_round=10, model_megabytes=1)
    everybody = Fleet(devices=1_000, model_megabytes=1)
    assert of(few, "heartbeats") == of(everybody, "heartbeats")
    assert math.isclose(of(everybody, "messages")[0], 100 * of(few, "messages")[0])


def test_a_fleet_without_rounds_costs_its_heartbeats() -> None:
    fleet = Fleet(devices=100, model_megabytes=20, rounds_per_month=0, heartbeat_seconds=300)
    assert math.isclose(total(fleet), costs.standing(100, 300))


def test_a_smaller_encoding_costs_less_each_way() -> None:
    whole = Fleet(devices=100, model_megabytes=20)
    down = Fleet(devices=100, model_megabytes=20, down_megabytes=5)
    up = Fleet(devices=100, model_megabytes=20, up_megabytes=5)
    assert math.isclose(of(down, "egress")[1], of(whole, "egress")[1] / 4)
    assert of(up, "S3")[1] < of(whole, "S3")[1]
    assert of(up, "egress") == of(whole, "egress")


def test_many_rounds_reach_the_cheaper_steps_of_egress_together() -> None:
    once, in_a_month = of(Fleet(devices=1_000, model_megabytes=500, rounds_per_month=100), "egress")
    assert in_a_month < 100 * once


def test_the_command_prints_a_table_with_its_sums(capsys: pytest.CaptureFixture[str]) -> None:
    parse(["costs", "--devices", "50", "--model-megabytes", "5"])()
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[1:8]] == [
        "egress", "S3", "messages", "DynamoDB", "Lambda", "heartbeats", "total",
    ]  # fmt: skip
    assert lines[7].split()[-1] == costs.dollars(total(Fleet(devices=50, model_megabytes=5)))


def test_the_command_prints_the_tables_of_the_pages(capsys: pytest.CaptureFixture[str]) -> None:
    parse(["costs", "--tables"])()
    said = capsys.readouterr().out
    assert costs.table() in said
    assert costs.standing_table() in said


@pytest.mark.parametrize(
    "flag", ["--devices", "--devices-per-round", "--model-megabytes", "--heartbeat-seconds"]
)
@pytest.mark.parametrize("value", ["0", "-1", "nan", "many", "9" * 5_000])
def test_a_number_that_is_none_is_refused(flag: str, value: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse(["costs", flag, value])
    assert f"fedgrass costs: {flag}: " in capsys.readouterr().err
