"""Partition of one data set among several devices."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.runtime.component_errors import ConfigurationError
from components.trainer.tasks.partition import Partition, parse_partition, shuffled

TEN_CLASSES = [place * 7 % 10 for place in range(1000)]


def dealt(values: list[int], shares: int, **options: object) -> list[list[int]]:
    return [Partition(share=share, shares=shares, **options).places(values) for share in range(shares)]  # type: ignore[arg-type]


def spread(values: list[int], parts: list[list[int]]) -> float:
    """Return the mean fraction of a device's examples that are of its most frequent class."""
    return sum(max(Counter(values[place] for place in part).values()) / len(part) for part in parts) / len(
        parts
    )


@given(
    st.lists(st.integers(0, 4), min_size=8, max_size=80),
    st.integers(1, 8),
    st.sampled_from(["iid", "dirichlet"]),
    st.floats(1e-6, 1e6),
)
def test_every_example_is_in_exactly_one_share_of_equal_size(
    values: list[int], shares: int, split: str, alpha: float
) -> None:
    parts = dealt(values, shares, split=split, alpha=alpha)
    assert sorted(place for part in parts for place in part) == list(range(len(values)))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


@given(st.integers(1, 30), st.integers(1, 10))
def test_by_label_a_device_has_so_many_labels_and_shares_nothing(shares: int, each: int) -> None:
    parts = dealt(TEN_CLASSES, shares, split="label", labels_per_device=each)
    assert all(len({TEN_CLASSES[place] for place in part}) == each for part in parts)
    places = [place for part in parts for place in part]
    assert len(set(places)) == len(places)
    if shares * each >= 10:
        assert len(places) == 1000


def test_one_digit_per_device_gives_each_digit_to_four_of_forty() -> None:
    parts = dealt(TEN_CLASSES, 40, split="label")
    assert Counter(TEN_CLASSES[part[0]] for part in parts) == dict.fromkeys(range(10), 4)
    assert {len(part) for part in parts} == {25}


def test_dirichlet_goes_from_one_class_per_device_to_an_even_mixture() -> None:
    one_class, mixed, even = (
        spread(TEN_CLASSES, dealt(TEN_CLASSES, 10, split="dirichlet", alpha=alpha))
        for alpha in (1e-3, 1.0, 1e4)
    )
    assert one_class > 0.6
    assert even < 0.22
    assert even < mixed < one_class


@given(st.integers(1, 5))
def test_by_column_a_value_is_never_divided(shares: int) -> None:
    column = [f"station {place % 5}" for place in range(50)]
    partitions = [Partition(share=share, shares=shares, split="column") for share in range(shares)]
    parts = [partition.places(column) for partition in partitions]
    assert sorted(place for part in parts for place in part) == list(range(50))
    held = [{column[place] for place in part} for part in parts]
    assert sum(len(stations) for stations in held) == 5


def test_another_seed_deals_otherwise() -> None:
    first, again, other = (Partition(shares=4, split_seed=seed).places(TEN_CLASSES) for seed in (1, 1, 2))
    assert first == again
    assert set(first) != set(other)


def test_the_order_is_the_one_that_every_machine_has() -> None:
    """Recorded values: the devices of a fleet may run different versions of Python."""
    assert shuffled(range(10), 1) == ORDER
    assert Partition(share=3, shares=100, split="dirichlet", alpha=0.3).places(TEN_CLASSES) == DIRICHLET


ORDER = [8, 0, 3, 4, 5, 2, 9, 6, 7, 1]
DIRICHLET = [44, 364, 704, 414, 694, 764, 684, 354, 730, 274]


def test_options_may_be_spelled_as_strings() -> None:
    options: dict[str, int | float | str | bool] = {
        "share": "2",
        "shares": "4",
        "alpha": "0.1",
        "split": "dirichlet",
    }
    assert parse_partition("mnist", options) == Partition(share=2, shares=4, alpha=0.1, split="dirichlet")


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"share": 6, "shares": 6}, "no share 6 of 6: they are numbered from 0 to 5"),
        ({"share": -1}, "share"),
        ({"shares": "many"}, "shares"),
        ({"shares": 0}, "shares"),
        ({"split": "by hand"}, "split"),
        ({"alpha": 0}, "alpha"),
        ({"alpha": "nan"}, "alpha"),
        ({"labels_per_device": 0}, "labels_per_device"),
    ],
)
def test_an_option_that_cannot_be_used_is_named_with_the_task(
    options: dict[str, int | float | str | bool], text: str
) -> None:
    with pytest.raises(ConfigurationError, match=f"'mnist'.*{text}"):
        parse_partition("mnist", options)


@pytest.mark.parametrize(
    ("partition", "text"),
    [
        (Partition(share=5, shares=6), "gets none of the 3 examples"),
        (Partition(split="label", labels_per_device=4), "only 3 labels"),
        (Partition(shares=4, split="column"), "only 3 values"),
        (Partition(share=5, shares=6, split="dirichlet"), "gets none of the 3 examples"),
    ],
)
def test_a_split_that_leaves_nothing_is_refused(partition: Partition, text: str) -> None:
    with pytest.raises(ConfigurationError, match=text):
        partition.places(["a", "b", "c"])
