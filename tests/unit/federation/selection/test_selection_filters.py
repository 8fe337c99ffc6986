"""The filters that decide which devices are candidates."""

from typing import Any

import hypothesis.strategies as st
from hypothesis import given

from fedgrass.federation.selection import Candidate
from fedgrass.federation.selection.attribute_conditions import parse_expression
from fedgrass.federation.selection.filters import Requirements, rested


def device(name: str, **fields: Any) -> Candidate:
    defaults = {"last_seen": 1000, "tasks": frozenset({"digits"}), "examples": 50}
    return Candidate(name, **{**defaults, **fields})


def left(requirements: Requirements, *found: Candidate, cohort: int = 1) -> list[str]:
    """Return the devices that may be asked, filtered as for the choice of a cohort."""
    suitable = list(filter(requirements.suits, found))
    return [candidate.device for candidate in rested(suitable, requirements.cool_down_rounds, cohort)]


def test_only_devices_that_were_seen_in_the_window_are_candidates() -> None:
    found = device("early", last_seen=999), device("just", last_seen=1000)
    assert left(Requirements(task="digits", seen_at_earliest=1000), *found) == ["just"]


def test_only_devices_that_have_the_task_are_candidates() -> None:
    found = device("one", tasks=frozenset({"digits", "noise"})), device("other", tasks=frozenset({"digit"}))
    assert left(Requirements(task="digits"), *found) == ["one"]


def test_a_row_whose_name_no_thing_can_have_does_not_hold_a_run_up() -> None:
    found = device("one"), device("<img src=x>"), device("a/b"), device("a\x1b[2J"), device("n" * 129)
    assert left(Requirements(task="digits"), *found) == ["one"]
    assert "1 of them have the name of a thing" in Requirements(task="digits").explain(found)


def test_only_devices_with_enough_examples_are_candidates() -> None:
    found = device("few", examples=49), device("enough", examples=50)
    assert left(Requirements(task="digits", minimum_examples=50), *found) == ["enough"]


def test_only_devices_of_the_thing_group_are_candidates() -> None:
    found = device("member"), device("stranger")
    assert left(Requirements(task="digits", things=frozenset({"member", "gone"})), *found) == ["member"]
    assert left(Requirements(task="digits", things=frozenset()), *found) == []


def test_only_devices_that_the_expression_means_are_candidates() -> None:
    where = parse_expression("battery >= 30 and examples > 40")
    found = (
        device("full", attributes={"battery": 90.0}),
        device("empty", attributes={"battery": 5.0}),
        device("unknown"),
        device("idle", attributes={"battery": 90.0}, examples=40),
    )
    assert left(Requirements(task="digits", where=where), *found) == ["full"]


def test_an_attribute_that_no_device_reports_is_named_in_the_refusal() -> None:
    where = parse_expression("batery >= 30 and battery > 0")
    found = [device("a", attributes={"battery": 90.0}), device("b", attributes={"mains": True})]
    text = Requirements(task="digits", where=where).explain(found)
    assert text.endswith("no device reports batery; they report: battery, examples, mains")
    assert "0 of them match `batery >= 30 and battery > 0`" in text


def test_the_refusal_counts_who_is_left_after_each_filter() -> None:
    requirements = Requirements(task="cifar", seen_at_earliest=1000, minimum_examples=60)
    found = [device("early", last_seen=5), device("a"), device("b", tasks=frozenset({"noise"}))]
    assert requirements.explain(found) == (
        "3 devices were read; 2 were seen recently enough; 0 of them have the task 'cifar'; "
        "they have the tasks: digits, noise"
    )
    assert requirements.explain([]) == "0 devices were read; 0 were seen recently enough"
    text = Requirements(task="digits", minimum_examples=60, things=frozenset()).explain(found)
    assert text.endswith("2 of them have the task 'digits'; 0 of them have 60 examples or more")


def test_a_device_that_was_asked_lately_rests() -> None:
    found = (
        device("last-round", rounds_since_asked=1),
        device("before", rounds_since_asked=3),
        device("never"),
    )
    assert left(Requirements(task="digits", cool_down_rounds=2), *found, cohort=2) == ["before", "never"]
    assert left(Requirements(task="digits"), *found) == ["last-round", "before", "never"]


def test_if_too_few_are_rested_those_come_that_rested_longest() -> None:
    found = [device(f"asked-{ago}-ago", rounds_since_asked=ago) for ago in (1, 2, 3)]
    names = [candidate.device for candidate in rested([*found, device("never")], 5, 3)]
    assert names == ["never", "asked-3-ago", "asked-2-ago"]


def test_a_sample_is_so_large_that_enough_are_rested_even_if_all_that_rest_are_in_it() -> None:
    requirements = Requirements(task="digits", cool_down_rounds=2)
    resting = [device(f"resting-{number}", rounds_since_asked=1 + number % 2) for number in range(20)]
    fresh = [device(f"fresh-{number}") for number in range(requirements.to_read(30, 10) - 20)]
    assert len(left(requirements, *resting, *fresh, cohort=10)) == 30
    assert Requirements(task="digits").to_read(30, 10) == 30


@given(
    agos=st.lists(st.none() | st.integers(1, 9), max_size=12),
    rounds=st.integers(0, 9),
    wanted=st.integers(1, 15),
)
def test_resting_never_leaves_fewer_than_are_wanted_if_there_are_enough(
    agos: list[int | None], rounds: int, wanted: int
) -> None:
    found = [device(f"thing-{number}", rounds_since_asked=ago) for number, ago in enumerate(agos)]
    names = [candidate.device for candidate in rested(found, rounds, wanted)]
    assert len(names) == len(set(names)) >= min(wanted, len(found))


@given(order=st.permutations(range(6)))
def test_who_rests_does_not_depend_on_the_order(order: list[int]) -> None:
    found = [device(f"thing-{number}", rounds_since_asked=1 + number % 3) for number in order]
    assert {c.device for c in rested(found, 4, 3)} == {"thing-2", "thing-5", "thing-1"}


def test_what_suits_is_what_the_filters_leave_except_for_the_cool_down() -> None:
    requirements = Requirements(task="digits", minimum_examples=50, cool_down_rounds=3)
    found = [device("a", rounds_since_asked=1), device("b", examples=3), device("c", tasks=frozenset())]
    assert [candidate.device for candidate in found if requirements.suits(candidate)] == ["a"]
