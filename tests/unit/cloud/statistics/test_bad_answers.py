"""Answers that contradict themselves or the query are refused; the round continues without them."""

from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
import pytest

from fedgrass.federation import object_keys
from fedgrass.federation.errors import SettingsError
from fedgrass.federation.rounds import Participation, State
from fedgrass.federation.runs import RunState
from fedgrass.federation.statistics import exact_sums
from fedgrass.federation.statistics.data_summary import Batch
from fedgrass.federation.statistics.exact_sums import ExactSum
from fedgrass.federation.statistics.quantile_sketches import QuantileSketch
from fedgrass.federation.statistics.statistics_answer import (
    LARGEST_ANSWER,
    FeatureAnswer,
    LabelCounts,
    StatisticsAnswer,
    encode_answer,
)
from fedgrass.federation.topics import Kind
from tests.fakes.small_fleet import RUN
from tests.fakes.statistics_fleet import StatisticsFleet

QUERY = {"features": ["x", "labels"], "edges": {"x": [0, 5, 10], "labels": [0, 1]}, "most_labels": 3}
BAD = "thing-0"
ONE = FeatureAnswer(count=1)
replace = msgspec.structs.replace


def data(number: int) -> list[Batch]:
    return [{"x": np.arange(10.0) + number / 10, "labels": np.arange(10) % 3}]


def fleet(**settings: Any) -> StatisticsFleet:
    made = StatisticsFleet(data, 6, QUERY, **settings)
    made.start()
    return made


def changed(made: StatisticsFleet, **changes: Any) -> StatisticsAnswer:
    """Return the answer of a device with changes to its feature ``x``."""
    answer = made.answer_of(BAD)
    return replace(answer, features={**answer.features, "x": replace(answer.features["x"], **changes)})


def sketch_of(values: list[float]) -> bytes:
    sketch = QuantileSketch(200)
    sketch.add(np.array(values))
    return sketch.serialize()


def labelled(made: StatisticsFleet, counts: dict[str, int], rest: int = 0) -> StatisticsAnswer:
    answer = made.answer_of(BAD)
    labels = replace(answer.features["labels"], labels=LabelCounts(counts, rest))
    return replace(answer, features={**answer.features, "labels": labels})


BAD_ANSWERS: list[tuple[str, Callable[[StatisticsFleet], Any]]] = [
    ("has a negative count: -1", lambda f: changed(f, count=-1)),
    ("has a negative missing: -4", lambda f: changed(f, missing=-4)),
    ("has a negative histogram: -3", lambda f: changed(f, histogram=[0, 13, -3, 0])),
    ("has 10 values, and its histogram 11", lambda f: changed(f, histogram=[0, 5, 6, 0])),
    ("has 3 counts of a histogram that the query does not", lambda f: changed(f, histogram=[5, 5, 0])),
    ("has 11 values, and its histogram 10", lambda f: changed(f, count=11)),
    ("has a mean below its minimum", lambda f: changed(f, total=exact_sums.pack(-1), squares=None)),
    ("has a mean above its maximum", lambda f: changed(f, total=exact_sums.pack(2**1090), squares=None)),
    ("has sums that contradict each other", lambda f: changed(f, squares=ExactSum(b"\x01", -2148))),
    ("has sums that contradict each other", lambda f: changed(f, squares=ExactSum(b"\xff", 0))),
    ("variance that its extremes exclude", lambda f: changed(f, squares=ExactSum(b"\x01", 200))),
    ("has an infinite sum", lambda f: changed(f, total=ExactSum(b"\x01", 1030), squares=None)),
    ("a sum that no finite values have", lambda f: changed(f, total=ExactSum(b"\x01", 10**6))),
    ("a sum that no finite values have", lambda f: changed(f, total=ExactSum(b"\x01" * 601, 0))),
    ("has the extreme nan of 10 values", lambda f: changed(f, smallest=float("nan"))),
    ("has the minimum 9.5 above the maximum 9", lambda f: changed(f, smallest=9.5)),
    ("has a damaged sketch: it has 7 bytes", lambda f: changed(f, sketch=b"damaged")),
    ("has 10 values, and its sketch 2", lambda f: changed(f, sketch=sketch_of([0.0, 9.0]))),
    ("the extreme 0, and its sketch 0.5", lambda f: changed(f, sketch=sketch_of([0.5, *range(1, 10)]))),
    ("has a negative labels: -2", lambda f: labelled(f, {"0": 12, "1": -2})),
    ("10 labels, and their counts add up to 12", lambda f: labelled(f, {"0": 10, "1": 1}, 1)),
    ("has 4 labels; at most 3", lambda f: labelled(f, dict.fromkeys("abcd", 1), 6)),
    ("'y' of the answer was not asked for", lambda _: StatisticsAnswer(features={"y": ONE})),
    ("cannot be decoded", lambda _: b"\xc1 no msgpack"),
    ("cannot be decoded", lambda f: changed(f, count=2**60)),
    ("statistics that cannot have any", lambda f: replace(changed(f), noise_scale=1.0)),
]  # fmt: skip


@pytest.mark.parametrize(("reason", "make"), BAD_ANSWERS)
def test_an_answer_is_refused_by_what_is_wrong_and_the_others_are_merged(
    reason: str, make: Callable[[StatisticsFleet], Any]
) -> None:
    made = fleet()
    made.answers(BAD, make(made))
    for device in made.names[1:]:
        made.answers(device)
    part = made.part(BAD)
    assert part.state is Participation.REFUSED
    assert reason in part.reason
    assert made.run().state is RunState.SUCCEEDED
    found = made.result(1).features["x"]
    assert (found.devices, found.count) == (5, 50)
    assert found.histogram is not None
    assert sum(found.histogram.counts) + found.histogram.above == 50


def test_a_huge_answer_is_refused_without_being_read() -> None:
    made = fleet()
    data = encode_answer(made.answer_of(BAD))
    made.answers(BAD, data, bytes=LARGEST_ANSWER + 1, answer="")
    for device in made.names[1:]:
        made.answers(device)
    assert "33,554,432 are allowed" in made.part(BAD).reason
    assert made.result(1).devices == 5


def test_an_object_that_is_larger_than_the_completion_says_is_refused() -> None:
    made = fleet()
    key = object_keys.update(BAD, RUN, 1, 1)
    made.bucket.write(key, b"x" * (LARGEST_ANSWER + 1))
    made.answers(BAD, made.answer_of(BAD), bytes=5, answer="")
    for device in made.names[1:]:
        made.answers(device)
    assert made.part(BAD).state is Participation.REFUSED
    assert "has 33554433 bytes; 5 is the most it may have" in made.part(BAD).reason


def test_an_answer_that_is_missing_or_altered_is_refused() -> None:
    made = fleet()
    made.answers(BAD, made.answer_of(BAD), bytes=5, answer="")
    made.answers("thing-1", made.answer_of("thing-1"), checksum="0" * 32)
    for device in made.names[2:]:
        made.answers(device)
    first = made.rounds.round(RUN, 1, 1)
    assert first is not None
    assert "there is no object updates/thing-0/" in made.part(BAD, first).reason
    assert "that in the completion is 0000" in made.part("thing-1", first).reason
    # Four answers are left of the five that the query needs.
    assert (first.state, made.newest().attempt) == (State.ABANDONED, 2)


def test_edges_of_the_query_that_do_not_ascend_are_refused_before_the_run() -> None:
    with pytest.raises(SettingsError, match="the edges of 'x' are not ascending: 5 follows 5"):
        StatisticsFleet(data, 6, {"features": ["x"], "edges": {"x": [0, 5, 5]}})
    with pytest.raises(SettingsError, match="the edges of 'x' have inf at place 2"):
        StatisticsFleet(data, 6, {"features": ["x"], "edges": {"x": [0, float("inf")]}})


def test_a_run_of_fewer_devices_than_its_minimum_is_refused_at_the_start() -> None:
    with pytest.raises(SettingsError, match=r"statistics\.minimum_devices is 5, but a round would ask 4"):
        StatisticsFleet(data, 4, QUERY).start()
    with pytest.raises(SettingsError, match="whole number from 3"):
        StatisticsFleet(data, 4, {"minimum_devices": 2})


def test_a_run_that_too_few_devices_answer_has_no_result() -> None:
    made = fleet(attempts=1)
    for device in made.names[:4]:
        made.answers(device)
    for device in made.names[4:]:
        made.status(device, "declined", reason="this device answers no statistics")
    assert made.newest().state is State.ABANDONED
    assert made.run().state is RunState.FAILED
    assert object_keys.statistics(RUN, 1) not in made.bucket.objects


def test_a_feature_or_a_label_of_too_few_devices_is_withheld() -> None:
    def own(number: int) -> list[Batch]:
        more: Batch = {"rare": np.arange(20.0)} if number < 2 else {}
        labels = np.array(["all"] * 9 + (["two"] if number < 2 else ["all"]))
        return [{"x": np.arange(10.0), "labels": labels, **{name: a[:10] for name, a in more.items()}}]

    made = StatisticsFleet(own, 6, {"statistics": ["mean", "max", "labels"]})
    made.start()
    made.all_answer()
    found = made.result(1).features
    rare, labels = found["rare"], found["labels"].labels
    assert (rare.devices, rare.count, rare.mean, rare.largest) == (2, None, None, None)
    assert rare.withheld["mean"] == "2 devices answered; at least 5 are needed"
    assert labels is not None
    assert [(count.label, count.count) for count in labels.counts] == [("all", 58)]
    assert labels.rest == 2


def test_a_sketch_that_was_not_asked_for_is_refused() -> None:
    made = StatisticsFleet(data, 6, {"statistics": ["mean"]})
    made.start()
    made.answers(BAD, changed(made, sketch=sketch_of(list(range(10)))))
    for device in made.names[1:]:
        made.answers(device)
    assert "has a sketch that was not asked for" in made.part(BAD).reason


@pytest.mark.parametrize(("change", "reason"), [(b"{}", "the SHA-256 of the query"), (None, "is missing")])
def test_a_query_that_was_altered_or_removed_abandons_the_round_by_name(
    change: bytes | None, reason: str
) -> None:
    made = fleet(attempts=1)
    answers = {device: made.answer_of(device) for device in made.names}
    key = object_keys.query(RUN, 0)
    if change is None:
        del made.bucket.objects[key]
    else:
        made.bucket.write(key, change)
    for device, answer in answers.items():
        made.answers(device, answer)
    assert made.run().state is RunState.FAILED
    assert reason in made.newest().reason


def test_a_run_of_statistics_continues_from_no_model() -> None:
    made = StatisticsFleet(data, 6, QUERY)
    with pytest.raises(SettingsError, match="has no model: leave continue_from out"):
        made.act(
            "start",
            settings=msgspec.to_builtins(made.settings),
            continue_from={"run": "other", "round": 1},
        )


def test_a_run_of_statistics_has_no_model_to_continue_from() -> None:
    made = fleet()
    for device in made.names:
        made.answers(device)
    settings = {"task": made.settings.task}
    with pytest.raises(SettingsError, match=f"run '{RUN}' is one of statistics, which makes no model"):
        made.act("start", "next", settings=settings, continue_from={"run": RUN, "round": 1})


def test_a_copy_of_an_answer_counts_once() -> None:
    made = fleet()
    for device in made.names:
        of = made.newest()
        made.answers(device)
        made.answers(device)
        assert made.newest() is of or made.newest().replied == made.names.index(device) + 1
    assert made.result(1).features["x"].count == 60


def test_labels_beyond_the_most_frequent_are_a_rest_and_what_may_be_incomplete_is_marked() -> None:
    def own(number: int) -> list[Batch]:
        return [{"labels": np.repeat([f"own-{number}", "a", "b", "c"], [number, 40, 30, 20])}]

    made = StatisticsFleet(own, 50, {"statistics": ["labels"], "most_labels": 3})
    made.start()
    made.all_answer()
    labels = made.result(1).features["labels"].labels
    assert labels is not None
    assert [(count.label, count.exact) for count in labels.counts] == [("a", True), ("b", True), ("c", False)]
    assert labels.counts[0].count == 50 * 40
    total = sum(count.count for count in labels.counts) + labels.rest
    assert total == made.result(1).features["labels"].count


def test_no_answer_of_a_single_device_is_kept_once_it_was_merged() -> None:
    made = fleet()
    made.answers(BAD)
    answer = made.part(BAD).answer.encode()
    assert len(answer) > 100
    for device in made.names[1:]:
        made.answers(device)
    assert [made.part(device).answer for device in made.names] == [""] * 6
    assert set(made.parts().values()) == {Participation.REPLIED}
    assert [key for key, data in made.bucket.objects.items() if answer in data] == []


def test_a_negative_count_is_only_possible_with_noise_and_within_it() -> None:
    for count, state in ((-40, Participation.REPLIED), (-60, Participation.REFUSED)):
        made = StatisticsFleet(data, 6, {**QUERY, "statistics": ["histogram"]})
        made.start()
        answer = FeatureAnswer(count=10, histogram=[count, 5, 5, 0])
        made.answers(BAD, StatisticsAnswer(features={"x": answer}, noise_scale=1.0))
        for device in made.names[1:]:
            made.answers(device)
        assert made.part(BAD).state is state


def test_an_answer_that_is_not_base64_is_refused_with_its_message() -> None:
    made = fleet()
    data = encode_answer(made.answer_of(BAD))
    made.say(BAD, Kind.COMPLETE, made.completion(made.newest(), data, BAD, bytes=0, answer="(*)", metrics={}))
    assert made.part(BAD).state is Participation.ASKED
