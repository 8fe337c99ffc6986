"""``fedgrass task check`` and ``task weights`` of partial models."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedgrass.federation import weights
from fedgrass.federation.encodings.array_types import read_arrays
from fedgrass.federation.errors import SettingsError
from fedgrass.federation.weights.array_sharing import FROZEN_SHA256, Sharing, frozen_fingerprint
from fedgrass.local.task_check import CheckOptions, check_task
from fedgrass.local.task_sharing import array_lines, check_frozen, describe_roles, initial_model
from fedgrass.local.task_weights import write_weights
from tests.fakes.partial_task import Marked

TASK = "tests.fakes.partial_task:Marked"


class Learning(Marked):
    """Its loss falls."""

    def evaluate(self, weights: Mapping[str, Any]) -> Any:
        found = super().evaluate(weights)
        loss = 1 / (1 + float(weights["body.weight"][0]))
        return type(found)(found.examples, {**found.metrics, "loss": loss})


class Moving(Learning):
    """Its training changes the frozen base."""

    def fit(self, weights: Mapping[str, Any], *others: Any) -> Any:
        found = super().fit(weights, *others)
        return type(found)({**found.weights, "base.weight": np.zeros(3, np.float32)}, found.examples)


class WithoutFrozen(Learning):
    """Its training leaves the frozen arrays out."""

    def fit(self, weights: Mapping[str, Any], *others: Any) -> Any:
        found = super().fit(weights, *others)
        kept = {name: array for name, array in found.weights.items() if not name.startswith("base")}
        return type(found)(kept, found.examples)


class Misspelled(Learning):
    def sharing(self) -> Sharing:
        return Sharing(private=("haed.*",))


class Drawn(Learning):
    """Its frozen base depends on the seed."""

    def initial_weights(self, seed: int) -> Any:
        return {**super().initial_weights(seed), "base.weight": np.full(3, seed, np.float32)}


def check(kind: type) -> tuple[int, list[str]]:
    lines: list[str] = []
    options = CheckOptions(name=f"{__name__}:{kind.__name__}", path=Path("/no/such/folder"))
    return check_task(options, lines.append), lines


def test_the_check_prints_each_array_with_its_role_and_the_sums() -> None:
    code, lines = check(Learning)
    assert code == 0, lines
    sums = "shared: 2 arrays of 24 bytes, private: 3 arrays of 49 bytes, frozen: 2 arrays of 38 bytes"
    start = lines.index(f"ok    roles: {sums}")
    assert [line.split() for line in lines[start + 1 : start + 4]] == [
        ["shared", "F32", "(4,)", "16", "bytes", "body.weight"],
        ["shared", "F32", "(2,)", "8", "bytes", "body.bias"],
        ["private", "F32", "(2,)", "8", "bytes", "head.weight"],
    ]
    needs = next(line for line in lines if "per round" in line)
    shared = len(weights.encode(initial_model(Learning(), 0).shared))
    assert f"per round: {shared} bytes up" in needs


def test_a_training_that_leaves_frozen_arrays_out_passes() -> None:
    assert check(WithoutFrozen)[0] == 0


def test_a_training_that_changes_a_frozen_array_is_noted() -> None:
    code, lines = check(Moving)
    assert code == 0
    assert any("note  training" in one and "changes the frozen array 'base.weight'" in one for one in lines)


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        (
            Misspelled,
            "FAIL  roles: the task's private pattern 'haed.*' matches none of the 7 arrays: the nearest",
        ),
        (Drawn, "FAIL  roles: the frozen array 'base.weight' depends on the seed"),
    ],
)
def test_roles_that_do_not_fit_fail_the_check_by_name(kind: type, reason: str) -> None:
    code, lines = check(kind)
    assert code == 1
    assert any(line.startswith(reason) for line in lines), lines


def test_the_initial_model_has_the_shared_arrays_and_names_the_frozen_ones(tmp_path: Path) -> None:
    model, frozen = tmp_path / "0.safetensors", tmp_path / "base.safetensors"
    found = write_weights(TASK, tmp_path, {"base": 3}, 5, model, frozen)
    data = model.read_bytes()
    assert weights.decode(data).keys() == {"body.weight", "body.bias"}
    _, metadata = weights.read_layout_and_metadata(data, len(data))
    assert metadata[FROZEN_SHA256] == found.frozen_sha256
    assert frozen_fingerprint(read_arrays(frozen.read_bytes())) == found.frozen_sha256


def test_a_task_without_frozen_arrays_has_no_file_of_them(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="task 'noise' has no frozen arrays"):
        write_weights("noise", Path(), {}, 0, tmp_path / "a", tmp_path / "b")
    assert list(tmp_path.iterdir()) == []


def test_a_model_file_of_a_task_that_shares_everything_is_as_before(tmp_path: Path) -> None:
    path = tmp_path / "0.safetensors"
    found = write_weights("noise", Path(), {"megabytes": 0.001}, 0, path)
    assert path.read_bytes() == weights.encode(found.arrays)


def test_a_demo_evaluates_the_model_with_the_other_initial_arrays() -> None:
    initial = initial_model(Marked(), 0, ["*.weight"])
    assert initial.shared.keys() == {"body.weight"}
    complete = initial.complete(weights.encode({"body.weight": np.full(4, 9, np.float32)}))
    assert list(complete) == list(initial.arrays)
    assert complete["body.weight"][0] == 9
    assert describe_roles(initial).startswith("shared: 1 array of 16 bytes, private: 4 arrays")
    assert len(array_lines(initial)) == 7
    check_frozen(Marked(), initial.arrays)
