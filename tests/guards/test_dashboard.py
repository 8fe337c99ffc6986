"""The dashboard and the alarms use metrics that are written, and resources that the stack has."""

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from fedgrass.console.deploy import costs as count_costs
from tests.guards.cloud_files import PROJECT, template

# Metrics that the functions write to the namespace fedgrass, each with the single dimension Fleet.
WRITTEN = {
    "RoundsClosed", "RoundsAbandoned", "RoundSeconds", "TurnaroundSeconds", "UpdatesAccepted",
    "UpdatesRefused", "UpdatesLate", "MessagesIgnored", "DevicesAsked", "DevicesFailed", "DevicesSeen",
    "Accuracy", "Loss", "AveragingSeconds", "ModelsCollapsed",
    "BytesUploaded", "BytesDownloaded", "UpdatesStale", "Staleness",
}  # fmt: skip


def dashboard() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(source())
    return found


def source() -> str:
    text: str = yaml.safe_load((PROJECT / "dashboard.yaml").read_text())["Fn::Sub"]
    return text


def metrics() -> Iterator[list[Any]]:
    for widget in dashboard()["widgets"]:
        yield from widget["properties"].get("metrics", [])


def test_every_name_in_the_dashboard_is_a_parameter_or_a_resource_of_the_stack() -> None:
    known = {*template()["Parameters"], *template()["Resources"], "AWS::Region"}
    used = {name.partition(".")[0] for name in re.findall(r"\$\{([^}]+)\}", source())}
    assert len(used) > 10
    assert used <= known


def test_the_six_figures_of_the_replaced_systems_are_there_and_percentiles_of_turnarounds() -> None:
    shown = {(name, dict(*last).get("stat")) for _, name, _, _, *last in own()}
    names = {name for name, _ in shown}
    # Clients, successes, failures, run time, accuracy, loss.
    six = {"DevicesAsked", "UpdatesAccepted", "DevicesFailed", "RoundSeconds", "Accuracy", "Loss"}
    assert six <= names <= WRITTEN
    assert {("TurnaroundSeconds", stat) for stat in ("p50", "p90", "p99")} <= shown


def test_the_functions_own_figures_are_those_of_this_fleet_alone() -> None:
    for metric in own():
        assert metric[2:4] == ["Fleet", "${FleetName}"], metric


def own() -> list[list[Any]]:
    return [metric for metric in metrics() if metric[0] == "fedgrass"]


def test_the_cost_estimate_adds_up_figures_that_it_has() -> None:
    parts = [metric for metric in metrics() if isinstance(metric[0], dict)]
    named = {metric[-1]["id"] for metric in metrics() if isinstance(metric[-1], dict) and "id" in metric[-1]}
    for (part,) in parts:
        words = set(re.findall(r"\b[a-z]\w*", part["expression"]))
        assert words
        assert words <= named, part["label"]
    used = {word for (part,) in parts for word in re.findall(r"\b[a-z]\w*", part["expression"])}
    assert named - used == {"c7"}, "each part is in the sum, and each figure in a part"


def test_the_cost_estimate_takes_the_prices_by_which_the_pages_are_counted() -> None:
    price = count_costs.PRICES
    # A row of the devices table is one heartbeat and its echo; one of the turnarounds is a device's round.
    heartbeat = 2 * price["iot_message"] + 2 * price["iot_rule"]
    rules = count_costs.TRIGGERS + count_costs.RULES
    replied = count_costs.MESSAGES * price["iot_message"] + rules * price["iot_rule"]
    wanted = {
        "functions": {price["lambda_gigabyte_second"], price["lambda_request"], 1000, 1024, 1769},
        "tables": {price["dynamodb_write"], price["dynamodb_read"], 2},  # a turnaround is indexed
        "queues": {price["sqs_request"], 3},
        "heartbeats and rounds (IoT Core)": {heartbeat, replied},
        "models that devices download": {count_costs.EGRESS[0][1], 1e9},
        "what the bucket holds": {price["s3_gigabyte_month"], 30, 1e9},
    }
    parts = {one[0]["label"]: one[0]["expression"] for one in metrics() if isinstance(one[0], dict)}
    assert parts.keys() == {*wanted, "together"}
    for label, numbers in wanted.items():
        expression = parts[label].replace(",0)", ")")
        found = {float(number) for number in re.findall(r"(?<![\w$.])[\d.]+", expression)}
        assert sorted(found) == pytest.approx(sorted(numbers)), label


def test_the_initiator_is_charged_for_the_memory_that_it_has() -> None:
    assert template()["Resources"]["Initiator"]["Properties"]["MemorySize"] == 1769


def test_no_widget_overlaps_another() -> None:
    taken: set[tuple[int, int]] = set()
    for widget in dashboard()["widgets"]:
        x, y, width, height = (widget[side] for side in ("x", "y", "width", "height"))
        cells = {(column, row) for column in range(x, x + width) for row in range(y, y + height)}
        assert x + width <= 24
        assert not taken & cells
        taken |= cells


def alarms() -> dict[str, Any]:
    resources = template()["Resources"]
    return {
        name: resource["Properties"]
        for name, resource in resources.items()
        if resource["Type"] == "AWS::CloudWatch::Alarm"
    }


def test_an_alarm_looks_at_a_figure_that_is_written_and_is_sent_to_the_address() -> None:
    sent = {"Fn::If": ["HasAlarmEmail", [{"Ref": "AlarmTopic"}], {"Ref": "AWS::NoValue"}]}
    for name, alarm in alarms().items():
        assert alarm["AlarmActions"] == sent, name
        if alarm["Namespace"] == "fedgrass":
            assert alarm["MetricName"] in WRITTEN, name
            assert alarm["Dimensions"] == [{"Name": "Fleet", "Value": {"Ref": "FleetName"}}], name


def test_there_are_alarms_for_what_an_operator_has_to_know() -> None:
    watched = {alarm["MetricName"] for alarm in alarms().values()}
    assert watched == {
        "RoundsClosed",
        "DevicesSeen",
        "UpdatesRefused",
        "ModelsCollapsed",
        "ApproximateNumberOfMessagesVisible",
        "ApproximateAgeOfOldestMessage",
        "Errors",
    }
