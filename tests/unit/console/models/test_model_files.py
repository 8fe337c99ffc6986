"""Models as files: fetched whole and checked or not at all, compared in pieces, imported once."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedgrass.console.models import model_comparison
from fedgrass.console.models.model_catalogue import ModelCatalogue
from fedgrass.console.models.model_comparison import BucketModel, FileModel, compare_models, draw_difference
from fedgrass.console.models.model_import import file_of_model, store_import
from fedgrass.console.models.model_names import ModelName
from fedgrass.console.models.model_pull import check_target, fetch_model
from fedgrass.federation import object_keys
from fedgrass.federation.errors import SettingsError
from fedgrass.federation.models.imported_model import ImportedModel
from fedgrass.federation.weights import BFLOAT16, Arrays, decode, encode, sha256
from tests.fakes.model_registry import ModelOperator, trained
from tests.fakes.small_fleet import INITIAL, RUN


@pytest.fixture
def operator() -> ModelOperator:
    return ModelOperator(trained(2))


def test_a_model_is_written_as_it_is_in_the_bucket(operator: ModelOperator, tmp_path: Path) -> None:
    entry = ModelCatalogue(operator).entry(ModelName(RUN, 2))
    seen: list[int] = []
    fetch_model(operator.bucket, entry, tmp_path / "m.safetensors", lambda done, _size: seen.append(done))
    assert (tmp_path / "m.safetensors").read_bytes() == operator.fleet.bucket.objects[
        object_keys.model(RUN, 2)
    ]
    assert seen[-1] == entry.bytes


def test_a_damaged_model_leaves_no_file_and_an_existing_one_as_it_is(
    operator: ModelOperator, tmp_path: Path
) -> None:
    entry = ModelCatalogue(operator).entry(ModelName(RUN, 2))
    operator.fleet.bucket.write(object_keys.model(RUN, 2), b"x" * entry.bytes)
    target = tmp_path / "m.safetensors"
    target.write_bytes(b"before")
    with pytest.raises(SettingsError, match=r"has the SHA-256 .* it was replaced or damaged"):
        fetch_model(operator.bucket, entry, target, lambda *_: None)
    assert [path.name for path in tmp_path.iterdir()] == ["m.safetensors"]
    assert target.read_bytes() == b"before"


def test_a_model_that_is_missing_or_cannot_be_written_is_named(
    operator: ModelOperator, tmp_path: Path
) -> None:
    entry = ModelCatalogue(operator).entry(ModelName(RUN, 1))
    with pytest.raises(SettingsError, match="cannot be written: No such file"):
        fetch_model(operator.bucket, entry, tmp_path / "none" / "m", lambda *_: None)
    del operator.fleet.bucket.objects[object_keys.model(RUN, 1)]
    with pytest.raises(SettingsError, match=f"the model {RUN}/1 is missing in the bucket"):
        fetch_model(operator.bucket, entry, tmp_path / "m", lambda *_: None)


def test_an_existing_file_is_replaced_only_by_force(tmp_path: Path) -> None:
    target = tmp_path / "m"
    check_target(target)
    target.write_bytes(b"")
    with pytest.raises(SettingsError, match="exists already: choose another --out, or replace it"):
        check_target(target)
    check_target(target, force=True)
    with pytest.raises(SettingsError, match="is a folder"):
        check_target(tmp_path, force=True)
    with pytest.raises(SettingsError, match="is no folder"):
        check_target(tmp_path / "none" / "m")


def written(folder: Path, name: str, arrays: Arrays) -> FileModel:
    (folder / name).write_bytes(encode(arrays))
    return FileModel(folder / name)


def test_the_figures_of_a_comparison_are_those_of_numpy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model_comparison, "_PIECE", 7)  # values: arrays are cut into several pieces
    rng = np.random.default_rng(3)
    before: dict[str, Any] = {
        "a": rng.normal(size=(5, 6)).astype(np.float32),
        "b": rng.normal(size=11),
        "c": np.arange(3),
    }
    after = {"a": before["a"] + np.float32(0.5), "b": before["b"].astype(np.float32), "c": before["c"]}
    found = compare_models(written(tmp_path, "1", before), written(tmp_path, "2", after), "1", "2")
    a, b, c = found.arrays
    step = after["a"].astype(float) - before["a"]
    assert a.norm_difference == pytest.approx(np.linalg.norm(step))
    assert a.largest_difference == pytest.approx(np.abs(step).max())
    products = np.vdot(before["a"].astype(float), after["a"])
    norms = np.linalg.norm(before["a"].astype(float)) * np.linalg.norm(after["a"].astype(float))
    assert a.cosine == pytest.approx(products / norms)
    assert (b.dtype_before, b.dtype_after, b.is_equal) == ("F64", "F32", False)
    assert (c.is_equal, c.norm_difference) == (True, 0.0)
    assert c.cosine == pytest.approx(1.0)
    flat = [np.concatenate([part[name].ravel().astype(float) for name in "abc"]) for part in (before, after)]
    assert found.norm_difference == pytest.approx(np.linalg.norm(flat[1] - flat[0]))


def test_arrays_that_changed_their_shape_came_or_went_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {"gone": np.zeros(1), "head": np.zeros((2, 3)), "kept": np.zeros(2)}
    after = {"new": np.zeros(1), "head": np.zeros((2, 4)), "kept": np.array([np.inf, 0.0])}
    found = compare_models(written(tmp_path, "1", before), written(tmp_path, "2", after), "1", "2")
    assert (found.removed, found.added) == (["gone"], ["new"])
    assert [(one.array, one.shape_before, one.shape_after) for one in found.reshaped] == [
        ("head", [2, 3], [2, 4])
    ]
    (kept,) = found.arrays
    assert (kept.norm_after, kept.cosine, kept.largest_difference) == (None, None, None)
    draw_difference(found)
    printed = capsys.readouterr().out
    assert "head: shape (2, 3) -> (2, 4)" in printed
    assert "gone: only in 1" in printed


def test_a_bfloat16_model_is_compared_by_its_values(tmp_path: Path) -> None:
    bits = np.array([0x3F80, 0x4000], np.uint16).view(BFLOAT16)  # 1 and 2
    first = written(tmp_path, "1", {"a": bits})
    second = written(tmp_path, "2", {"a": np.array([1, 2], np.float32)})
    (found,) = compare_models(first, second, "1", "2").arrays
    assert (found.is_equal, found.dtype_before, found.dtype_after) == (True, "BF16", "F32")


def test_models_of_the_bucket_are_compared_without_fetching_them(operator: ModelOperator) -> None:
    bucket = operator.bucket
    first, second = (BucketModel(bucket, object_keys.model(RUN, number)) for number in (0, 2))
    found = compare_models(first, second, "0", "2")
    arrays = decode(operator.fleet.bucket.objects[object_keys.model(RUN, 2)])
    expected = np.linalg.norm(arrays["weight"].astype(float) - INITIAL["weight"])
    weight = next(one for one in found.arrays if one.array == "weight")
    assert weight.norm_difference == pytest.approx(expected)


def test_what_is_no_model_is_named(tmp_path: Path) -> None:
    (tmp_path / "1").write_bytes(b"123")
    model = FileModel(tmp_path / "1")
    with pytest.raises(SettingsError, match="1 is not a model in safetensors format: the file has 3 bytes"):
        compare_models(model, model, str(tmp_path / "1"), "2")


def imported(model: bytes, name: str = "base", task: str = "digits", at: int = 5) -> ImportedModel:
    return ImportedModel(name=name, task=task, sha256=sha256(model), bytes=len(model), imported_at=at)


def test_a_model_is_imported_once_and_a_run_starts_from_it(operator: ModelOperator) -> None:
    model = encode(INITIAL)
    assert store_import(operator, imported(model), model).is_new
    again = store_import(operator, imported(model, at=9), model)
    assert (again.is_new, again.model, again.arrays) == (False, "base/0", len(INITIAL))
    run = operator.fleet.act(
        "start", "next", settings={"task": "digits"}, continue_from={"run": "base", "round": 0}
    )
    assert run.initial_sha256 == sha256(model)


def test_a_name_that_is_taken_is_not_imported_over(operator: ModelOperator) -> None:
    model = encode(INITIAL)
    with pytest.raises(SettingsError, match=f"there is a run '{RUN}': choose another --name"):
        store_import(operator, imported(model, RUN), model)
    store_import(operator, imported(model), model)
    other = encode({"a": np.zeros(1)})
    with pytest.raises(SettingsError, match=r"another model exists at models/base/0\.safetensors"):
        store_import(operator, imported(other), other)
    with pytest.raises(SettingsError, match="was imported as a model of the task 'digits'"):
        store_import(operator, imported(model, task="cracks"), model)


def test_a_file_that_is_no_model_is_not_imported(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    path.write_bytes(b"x" * 20)
    with pytest.raises(SettingsError, match="is not a model in safetensors format"):
        file_of_model(path)
    path.write_bytes(encode({"a": np.array([np.nan])}))
    with pytest.raises(SettingsError, match="'a'"):
        file_of_model(path)
