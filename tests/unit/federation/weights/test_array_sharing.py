"""Roles of arrays: each array has exactly one, and patterns that do nothing are refused by name."""

import re

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedgrass.federation.errors import SettingsError
from fedgrass.federation.weights import BFLOAT16
from fedgrass.federation.weights.array_sharing import (
    Role,
    Sharing,
    check_shared,
    frozen_fingerprint,
    roles_of,
    split_mismatch,
)

NAMES = ("body.0.weight", "body.1.bn.running_mean", "head.weight", "head.bias")
parts = st.sampled_from(["body", "head", "bn", "0", "weight", "bias"])
names_of = st.lists(parts, min_size=1, max_size=3).map(".".join)
name_sets = st.lists(names_of, min_size=1, max_size=8, unique=True)
patterns = st.lists(names_of | st.sampled_from(["*", "head.*", "*.bn.*", "b*"]), max_size=3).map(tuple)


def roles(sharing: Sharing, narrowed: tuple[str, ...] = ()) -> dict[str, str]:
    return {name: str(role) for name, role in roles_of(NAMES, sharing, narrowed).of.items()}


def test_by_default_every_array_is_shared() -> None:
    assert set(roles(Sharing()).values()) == {"shared"}


def test_arrays_that_no_pattern_matches_are_shared_unless_patterns_say_what_is() -> None:
    assert roles(Sharing(private=("*.bn.*",)))["head.weight"] == "shared"
    assert roles(Sharing(shared=("head.*",)))["body.0.weight"] == "private"
    assert roles(Sharing(shared=("head.*",), frozen=("body.0.*",)))["body.1.bn.running_mean"] == "private"


def test_private_wins_over_shared_and_shared_over_frozen() -> None:
    chosen = roles(Sharing(shared=("head.*",), private=("*.bias",), frozen=("*",)))
    assert chosen == {
        "body.0.weight": "frozen",
        "body.1.bn.running_mean": "frozen",
        "head.weight": "shared",
        "head.bias": "private",
    }


def test_a_run_narrows_what_the_task_shares() -> None:
    chosen = roles(Sharing(private=("*.bn.*",)), ("body.*",))
    assert [name for name, role in chosen.items() if role == "shared"] == ["body.0.weight"]
    assert chosen["head.weight"] == "private"


@pytest.mark.parametrize(
    ("sharing", "narrowed", "reason"),
    [
        (
            Sharing(shared=("haed.*",)),
            (),
            "shared pattern 'haed.*' matches none of the 4 arrays: the nearest",
        ),
        (Sharing(private=("heads.weight",)), (), "the nearest are 'head.weight'"),
        (Sharing(frozen=("x.*",)), (), "the task's frozen pattern 'x.*' matches none"),
        (Sharing(private=("*",)), (), "the task shares no array"),
        (Sharing(frozen=("*",)), (), "the task shares no array"),
        (Sharing(private=("head.*",), frozen=("head.bias",)), (), "'head.bias' has no effect: its 1 arrays"),
        (Sharing(), ("haed.*",), "the run's `shared` pattern 'haed.*' matches none of the 4 arrays"),
        (
            Sharing(private=("head.*",)),
            ("head.*",),
            "the run's `shared` pattern 'head.*' matches none of the 2",
        ),
        (
            Sharing(private=("head.bias",), tied=(("head.weight", "head.bias"),)),
            (),
            "'head.weight' and 'head.bias' are tied (they share their memory), but the first is shared",
        ),
        (Sharing(tied=(("body.0.weight", "head.weight"),)), ("body.*",), "are tied"),
    ],
)
def test_a_choice_that_cannot_be_meant_is_refused_by_name(
    sharing: Sharing, narrowed: tuple[str, ...], reason: str
) -> None:
    with pytest.raises(SettingsError, match=re.escape(reason)):
        roles(sharing, narrowed)


@pytest.mark.parametrize("wrong", ["head.*", ["head.*"], (1,), ("",)])
def test_patterns_are_a_tuple_of_texts(wrong: object) -> None:
    with pytest.raises(SettingsError, match=r"it takes a tuple of patterns"):
        Sharing(private=wrong)  # type: ignore[arg-type]


@given(name_sets, patterns, patterns, patterns, patterns)
def test_each_array_has_one_role_and_something_is_shared(
    names: list[str],
    shared: tuple[str, ...],
    private: tuple[str, ...],
    frozen: tuple[str, ...],
    narrowed: tuple[str, ...],
) -> None:
    sharing = Sharing(shared, private, frozen)
    try:
        whole, found = roles_of(names, sharing), roles_of(names, sharing, narrowed)
    except SettingsError:
        return
    assert list(found.of) == names
    chosen = [set(found.names(role)) for role in Role]
    assert sum(map(len, chosen)) == len(names)
    assert chosen[0]
    assert chosen[0] <= set(whole.names(Role.SHARED)), "a run never shares more than the task"
    assert chosen[2] == set(whole.names(Role.FROZEN)), "a run does not freeze"
    model = found.names(Role.SHARED)
    assert not split_mismatch(model, found)
    assert split_mismatch(model[1:], found)
    for name in [*found.names(Role.PRIVATE), *found.names(Role.FROZEN)]:
        assert name in split_mismatch([*model, name], found)


def test_a_mismatch_of_model_and_task_names_the_array() -> None:
    found = roles_of(NAMES, Sharing(private=("head.*",)))
    shared = found.names(Role.SHARED)
    assert "has the array 'head.bias', which is private here" in split_mismatch(NAMES, found)
    assert "lacks the array 'body.0.weight', which is shared here" in split_mismatch(shared[1:], found)
    assert "has the array 'body.0.wieght'" in split_mismatch([*shared, "body.0.wieght"], found)
    assert "the nearest are 'body.0.weight'" in split_mismatch([*shared, "body.0.wieght"], found)


def test_a_runs_model_has_exactly_the_arrays_that_the_run_names() -> None:
    check_shared(NAMES, ())
    check_shared(("head.weight", "head.bias"), ("head.*",))
    with pytest.raises(SettingsError, match=r"'body.0.weight', which the run's `shared` leaves private"):
        check_shared(NAMES, ("head.*",))
    with pytest.raises(SettingsError, match="matches none"):
        check_shared(NAMES, ("*", "tail.*"))


values = st.lists(st.floats(width=32, allow_nan=False), max_size=5).map(lambda v: np.array(v, np.float32))


@given(st.dictionaries(names_of, values, min_size=1, max_size=4))
def test_the_fingerprint_depends_on_names_and_bits_but_not_on_the_order(
    arrays: dict[str, np.ndarray],
) -> None:
    found = frozen_fingerprint(arrays)
    assert re.fullmatch("[0-9a-f]{64}", found)
    assert frozen_fingerprint(dict(reversed(arrays.items()))) == found
    for name, array in arrays.items():
        rest = {other: value for other, value in arrays.items() if other != name}
        others = [rest, {**rest, f"{name}x": array}, {**rest, name: array.astype(np.float64)}]
        others += [{**rest, name: array[None]}]
        if array.size:
            changed = array.copy().view(np.uint8)
            changed[0] ^= 1
            others.append({**rest, name: changed.view(np.float32)})
        assert found not in map(frozen_fingerprint, others)


def test_the_fingerprint_tells_bfloat16_from_whole_numbers_and_has_nothing_to_say_of_nothing() -> None:
    bits = np.arange(4, dtype=np.uint16)
    assert frozen_fingerprint({}) == ""
    assert frozen_fingerprint({"a": bits.view(BFLOAT16)}) != frozen_fingerprint({"a": bits.astype(np.int16)})
    strided = np.arange(6, dtype=np.float32).reshape(2, 3)
    assert frozen_fingerprint({"a": strided.T}) == frozen_fingerprint({"a": np.ascontiguousarray(strided.T)})


def test_a_sharing_is_plain_data() -> None:
    sharing = Sharing(private=("head.*",), tied=(("a", "b"),))
    assert msgspec.json.decode(msgspec.json.encode(sharing), type=Sharing) == sharing
