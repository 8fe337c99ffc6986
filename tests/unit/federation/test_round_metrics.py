"""Devices' metrics are bounded, and no single device can end a run as a success."""

import json
import math
from typing import Any

import pytest

from fedgrass.federation.errors import SettingsError
from fedgrass.federation.messages.message_fields import MOST_METRICS
from fedgrass.federation.round_metrics import Report, TargetBy, bounded, bounded_reply, is_share, judged
from fedgrass.federation.rounds import Participation
from fedgrass.federation.runs import RunState
from fedgrass.federation.settings_parser import parse_settings
from fedgrass.federation.topics import Kind
from tests.fakes.small_fleet import SmallFleet

HUGE = 2**53


@pytest.mark.parametrize(
    "name",
    [
        "accuracy",
        "local_accuracy",
        "val_acc",
        "top5/accuracy",
        "F1",
        "f1_macro",
        "roc auc",
        "IoU",
        "recall@5",
    ],
)
def test_shares_are_known_by_their_names(name: str) -> None:
    assert is_share(name)


@pytest.mark.parametrize("name", ["loss", "train_loss", "acceleration", "perplexity", "mean_iousness", "r2"])
def test_other_metrics_are_not_taken_for_shares(name: str) -> None:
    assert not is_share(name)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("accuracy", 1.7),
        ("accuracy", -0.2),
        ("local_accuracy", 97.0),
        ("f1", 1e300),
        ("loss", 1e300),
        ("loss", -1e300),
        ("accuracy", math.nan),
        ("loss", math.inf),
    ],
)
def test_a_metric_that_cannot_be_true_is_left_out_by_name(name: str, value: float) -> None:
    kept, (text,) = bounded({name: value, "other": 1.0})
    assert kept == {"other": 1.0}
    assert text.startswith(f"{name} ")


def test_a_share_may_leave_its_range_by_a_rounding_and_minus_zero_is_zero() -> None:
    kept, left_out = bounded({"accuracy": 1.0000001, "recall": -1e-9, "loss": -0.0})
    assert (kept, left_out) == ({"accuracy": 1.0, "recall": 0.0, "loss": 0.0}, [])
    assert math.copysign(1, kept["loss"]) == 1


def test_a_loss_may_be_negative() -> None:
    assert bounded({"loss": -3.5}) == ({"loss": -3.5}, [])


def test_a_name_that_evaluation_and_training_both_have_is_the_evaluations() -> None:
    kept, trained, left_out = bounded_reply({"accuracy": 0.2}, {"accuracy": 1.0, "train_loss": 0.5})
    assert (kept, trained) == ({"accuracy": 0.2}, {"train_loss": 0.5})
    assert left_out == ["accuracy of the training"]


def test_both_kinds_together_are_bounded_in_number() -> None:
    some = {f"m{number:02}": 1.0 for number in range(MOST_METRICS)}
    kept, trained, left_out = bounded_reply(some, {"train_loss": 0.5})
    assert (kept, trained) == (some, {})
    assert left_out == [f"train_loss, beyond {MOST_METRICS} metrics"]


def reports(*values: float, examples: float = 10) -> list[Report]:
    return [Report(value, examples) for value in values]


@pytest.mark.parametrize(
    ("by", "values", "lower", "expected"),
    [
        ("trimmed_mean", [0.1, 0.2, 0.3, 1.0], False, 0.25),
        ("trimmed_mean", [0.1, 0.3, 1.0], False, 0.3),
        ("trimmed_mean", [0.3, 1.0], False, 0.3),
        ("trimmed_mean", [0.3, 1.0], True, 1.0),
        ("trimmed_mean", [0.7], False, 0.7),
        ("trimmed_mean", [float(number) for number in range(20)], False, 9.5),
        ("median", [0.1, 0.2, 1.0], False, 0.2),
        ("median", [0.1, 0.2, 0.4, 1.0], False, 0.2),
        ("median", [0.1, 0.2, 0.4, 1.0], True, 0.4),
        ("mean", [0.0, 1.0], False, 0.5),
    ],
)
def test_a_metric_is_judged_so(by: TargetBy, values: list[float], lower: bool, expected: float) -> None:  # noqa: FBT001 - a parametrized case
    assert judged(reports(*values), by, lower_is_better=lower) == pytest.approx(expected)


def test_reports_of_no_examples_are_not_judged() -> None:
    some = [*reports(0.2, 0.3), *reports(1.0, 1.0, examples=0)]
    assert judged(some, "trimmed_mean", lower_is_better=False) == 0.2
    assert judged(reports(1.0, examples=0), "median", lower_is_better=False) is None
    assert judged([], "mean", lower_is_better=False) is None


def play(lie: dict[str, Any], devices: int = 5, **settings: Any) -> SmallFleet:
    """Return a fleet whose last device reports false metrics in round 1, while the others report 0.1."""
    chosen: dict[str, Any] = {"target_metric": "accuracy", "target_value": 0.3}
    fleet = SmallFleet(devices, rounds=3, **{**chosen, **settings})
    fleet.start()
    opened = fleet.newest()
    for device in fleet.names[:-1]:
        fleet.reply(device, opened, metrics={"accuracy": 0.1, "loss": 2.0})
    fleet.reply(fleet.names[-1], opened, **lie)
    return fleet


LIES: list[dict[str, Any]] = [
    {"metrics": {"accuracy": 1.0, "loss": 0.0}, "examples": HUGE},
    {"metrics": {"accuracy": 1.0}, "examples_evaluated": HUGE},
    {"metrics": {"accuracy": 1e300}},
    {"metrics": {}, "train_metrics": {"accuracy": 1.0}, "examples": HUGE},
    {"metrics": {"accuracy": 0.1, "loss": -1e300}},
]


@pytest.mark.parametrize("by", ["trimmed_mean", "median"])
@pytest.mark.parametrize("devices", [2, 3, 5, 12])
@pytest.mark.parametrize("lie", LIES)
def test_one_device_does_not_end_a_run_as_a_success(lie: dict[str, Any], devices: int, by: str) -> None:
    fleet = play(lie, devices, target_by=by)
    assert (fleet.run().state, fleet.run().round) == (RunState.RUNNING, 2)


@pytest.mark.parametrize("devices", [2, 3, 5])
def test_one_device_with_a_loss_below_all_does_not_either(devices: int) -> None:
    lie = {"metrics": {"loss": -1e11}, "examples": HUGE}
    settings = {"target_metric": "loss", "target_value": 0.5, "lower_is_better": True}
    fleet = play(lie, devices, **settings)
    assert (fleet.run().state, fleet.run().round) == (RunState.RUNNING, 2)


def test_by_the_mean_one_device_of_few_can() -> None:
    lie = {"metrics": {"accuracy": 1.0}, "examples": HUGE}
    assert play(lie, 3, target_by="mean").run().state is RunState.SUCCEEDED


@pytest.mark.parametrize("lie", [1.0, 0.0])
def test_one_device_does_not_use_up_the_patience_of_a_run(lie: float) -> None:
    fleet = SmallFleet(5, rounds=9, target_metric="accuracy", patience=2)
    fleet.start()
    for number in range(1, 6):
        opened = fleet.newest()
        for device in fleet.names[:-1]:
            fleet.reply(device, opened, metrics={"accuracy": number / 10})
        # In the first round it reports the best possible value, then a value like the others' or worse.
        value = (1.0 if number == 1 else 0.0) if lie else (0.1 if number == 1 else 0.0)
        fleet.reply(fleet.names[-1], opened, metrics={"accuracy": value}, examples=HUGE)
    assert (fleet.run().state, fleet.run().round) == (RunState.RUNNING, 6)


def test_what_most_devices_report_still_ends_a_run() -> None:
    fleet = SmallFleet(5, rounds=9, target_metric="accuracy", target_value=0.9)
    fleet.start()
    opened = fleet.newest()
    for device in fleet.names:
        fleet.reply(device, opened, metrics={"accuracy": 0.0 if device == "thing-0" else 0.95})
    assert fleet.run().state is RunState.SUCCEEDED
    assert fleet.run().reason == "model 0 reached the target: accuracy 0.95"


def test_devices_that_are_held_out_decide_alone() -> None:
    fleet = SmallFleet(
        4, rounds=3, evaluate_every=1, held_out=["thing-3"], target_metric="accuracy", target_value=0.9
    )
    fleet.start()
    opened = fleet.newest()
    for device in fleet.names[:-1]:
        fleet.reply(device, opened, metrics={"accuracy": 1.0})
    assert fleet.run().state is RunState.RUNNING
    evaluation = fleet.newest()
    assert fleet.parts() == {"thing-3": Participation.ASKED}
    fleet.reply("thing-3", evaluation, metrics={"accuracy": 0.95})
    assert fleet.run().state is RunState.SUCCEEDED


def test_a_metric_that_is_left_out_costs_no_training_and_is_reported() -> None:
    fleet = play({"metrics": {"accuracy": 97.0, "loss": 0.5}})
    opened = fleet.rounds.round("run-1", 1, 1)
    assert opened is not None
    part = fleet.part("thing-4", opened)
    assert (part.state, part.metrics) == (Participation.REPLIED, {"loss": 0.5})
    assert part.unsent_metrics == "accuracy 97, which is not from 0 to 1"
    assert "metrics left out: accuracy 97, which is not from 0 to 1" in fleet.told_of("thing-4")


@pytest.mark.parametrize("text", ['"NaN"', "NaN", "1e999", "null", "[0.5]", "true"])
def test_what_is_not_a_number_of_json_is_refused_by_name_and_ends_nothing(text: str) -> None:
    fleet = SmallFleet(2, rounds=2)
    fleet.start()
    opened = fleet.newest()
    data = fleet.upload("thing-0", opened, b"")
    said = json.loads(fleet.completion(opened, data, "thing-0", metrics={"accuracy": 7}))
    payload = json.dumps(said).replace('"metrics": {"accuracy": 7}', f'"metrics": {{"accuracy": {text}}}')
    assert text in payload
    fleet.say("thing-0", Kind.COMPLETE, payload.encode())
    assert fleet.part("thing-0", opened).state is Participation.ASKED
    assert any("complete refused" in line for line in fleet.told_of("thing-0"))
    assert fleet.run().state is RunState.RUNNING


@pytest.mark.parametrize("value", ["mode", "", 3, None])
def test_another_way_to_judge_is_refused(value: Any) -> None:
    with pytest.raises(SettingsError, match="target_by"):
        parse_settings({"task": "digits", "target_metric": "accuracy", "target_by": value})


def test_a_way_to_judge_without_a_metric_is_refused() -> None:
    with pytest.raises(SettingsError, match="target_by is median: name the metric"):
        parse_settings({"task": "digits", "target_by": "median"})
