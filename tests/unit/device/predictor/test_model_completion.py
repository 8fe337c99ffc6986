"""The predictor puts a model together: shared arrays of the run, private and frozen ones of the device."""

import errno
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from components.predictor import model_completion
from components.predictor.model_completion import ModelCompletion, trainer_folders
from components.runtime.array_folders import frozen_file, frozen_folder, private_file
from components.runtime.component_errors import ModelRefused
from fedgrass.federation import weights
from fedgrass.federation.messages import CarriedFile, NewModel
from fedgrass.federation.weights.array_sharing import frozen_fingerprint
from tests.fakes.partial_task import FROZEN_MARK, PRIVATE_MARK, PRIVATE_NUMBER, Marked, marked

BASE: dict[str, Any] = {"base.weight": np.full(3, 1, np.float32), "base.mark": marked(FROZEN_MARK)}
SHARED: dict[str, Any] = {"body.weight": np.full(4, 7, np.float32), "body.bias": np.zeros(2, np.float32)}


def head(value: float, size: int = 2, name: str = "head") -> dict[str, Any]:
    return {
        f"{name}.weight": np.full(size, value, np.float32),
        f"{name}.count": np.zeros((), np.int64),
        f"{name}.mark": marked(PRIVATE_MARK),
    }


def model(run: str = "run-a", number: int = 3, **partial: Any) -> NewModel:
    return NewModel(
        task="marked",
        run=run,
        round=number,
        bucket="b",
        key=f"models/{run}/{number}.safetensors",
        sha256="0" * 64,
        bytes=1,
        **{"frozen_sha256": frozen_fingerprint(BASE), **partial},
    )


def file_of(arrays: Mapping[str, Any], metadata: dict[str, str] | None = None) -> bytes:
    target = io.BytesIO()
    encoded = {
        name: weights.unencoded(array, weights.dtype_of(name, array)) for name, array in arrays.items()
    }
    weights.write(encoded, target, metadata or {})
    return target.getvalue()


def keep(folder: Path, arrays: Mapping[str, Any], run: str = "run-a", number: int = 3) -> Path:
    """Write private arrays as the trainer does."""
    path = private_file(folder, "marked", run)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(file_of(arrays, {"round": str(number)}))
    return path


def completion(folder: Path, task: Any = None) -> ModelCompletion:
    return ModelCompletion("marked", task or Marked(), [folder])


def test_shared_private_and_frozen_arrays_make_one_model(tmp_path: Path) -> None:
    keep(tmp_path, head(5), number=2)
    found = completion(tmp_path).complete(model(), SHARED)
    assert list(found.arrays) == list(Marked().initial_weights(0))
    np.testing.assert_array_equal(found.arrays["body.weight"], np.full(4, 7))
    np.testing.assert_array_equal(found.arrays["head.weight"], np.full(2, 5))
    np.testing.assert_array_equal(found.arrays["base.weight"], np.full(3, 1))
    assert found.note == "private arrays of round 2"
    assert set(found.private) == {"head.weight", "head.count", "head.mark"}


def test_a_device_that_has_not_trained_serves_initial_private_arrays_and_says_so(tmp_path: Path) -> None:
    found = completion(tmp_path / "missing").complete(model(), SHARED)
    np.testing.assert_array_equal(found.arrays["head.weight"], np.full(2, PRIVATE_NUMBER))
    assert found.note == "initial private arrays: this device has not trained in the run"
    assert found.version is None


def test_a_run_that_continues_another_begins_with_its_private_arrays(tmp_path: Path) -> None:
    keep(tmp_path, head(4), run="run-before", number=9)
    found = completion(tmp_path).complete(model(continues="run-before"), SHARED)
    np.testing.assert_array_equal(found.arrays["head.weight"], np.full(2, 4))
    keep(tmp_path, head(5))
    found = completion(tmp_path).complete(model(continues="run-before"), SHARED)
    np.testing.assert_array_equal(found.arrays["head.weight"], np.full(2, 5))


def test_arrays_that_a_run_leaves_out_of_its_model_are_private(tmp_path: Path) -> None:
    class AllShared(Marked):
        def sharing(self) -> Any:
            return msgspec.structs.replace(super().sharing(), private=())

    with pytest.raises(ModelRefused, match=r"lacks the array 'head.weight', which is shared here"):
        completion(tmp_path, AllShared()).complete(model(), SHARED)
    keep(tmp_path, head(6))
    found = completion(tmp_path, AllShared()).complete(model(shared=["body.*"]), SHARED)
    np.testing.assert_array_equal(found.arrays["head.weight"], np.full(2, 6))


def test_a_task_without_roles_is_served_as_it_is(tmp_path: Path) -> None:
    class Plain:
        def initial_weights(self, seed: int) -> Any:
            raise AssertionError(seed)  # it is not needed, and may be slow

    whole = NewModel(task="marked", run="r", round=1, bucket="b", key="k", sha256="", bytes=1)
    found = completion(tmp_path, Plain()).complete(whole, SHARED)
    assert (found.arrays, found.private, found.note) == (SHARED, {}, "")


@pytest.mark.parametrize(
    ("kept", "reason"),
    [
        (head(5, size=3), r"run-a do not fit the task: array 'head.weight' has the shape \(3,\) there and"),
        (head(5, name="tail"), "array 'head.weight' is not among them"),
        ({**head(5), "head.weight": np.zeros(2)}, "array 'head.weight' has the type F64 there and F32"),
    ],
)
def test_private_arrays_that_do_not_fit_are_refused_by_name(
    tmp_path: Path, kept: Mapping[str, Any], reason: str
) -> None:
    keep(tmp_path, kept)
    with pytest.raises(ModelRefused, match=reason):
        completion(tmp_path).complete(model(), SHARED)


def test_a_damaged_file_of_private_arrays_is_refused(tmp_path: Path) -> None:
    path = keep(tmp_path, head(5))
    data = path.read_bytes()
    for damaged in (data[:-1], data[:-1] + bytes([data[-1] ^ 1]), b""):
        path.write_bytes(damaged)
        with pytest.raises(ModelRefused, match=r"run-a.safetensors cannot be read"):
            completion(tmp_path).complete(model(), SHARED)


@pytest.mark.parametrize(
    ("shared", "reason"),
    [
        ({**SHARED, "head.weight": np.zeros(2, np.float32)}, "'head.weight', which is private here"),
        (
            {**SHARED, "trunk.weight": np.zeros(4, np.float32)},
            "'trunk.weight', which the task here",
        ),
        (
            {**SHARED, "body.weight": np.zeros(5, np.float32)},
            r"'body.weight' has the shape \(5,\)",
        ),
    ],
)
def test_a_model_with_other_shared_arrays_is_refused_by_name(
    tmp_path: Path, shared: Mapping[str, Any], reason: str
) -> None:
    with pytest.raises(ModelRefused, match=reason):
        completion(tmp_path).complete(model(), shared)


def test_a_model_of_another_frozen_base_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelRefused, match=r"this device has another version of the frozen base"):
        completion(tmp_path, Marked(base=2)).complete(model(), SHARED)


def test_a_downloaded_frozen_base_takes_the_place_of_the_tasks_own(tmp_path: Path) -> None:
    data = file_of(BASE)
    carried = CarriedFile(key="models/run-a/frozen.safetensors", sha256=weights.sha256(data), bytes=len(data))
    announced = model(frozen=carried)
    task = completion(tmp_path, Marked(base=2))
    with pytest.raises(ModelRefused, match=r"frozen arrays are not in .*the trainer downloads them"):
        task.complete(announced, SHARED)
    path = frozen_file(frozen_folder(tmp_path), carried.sha256)
    path.parent.mkdir()
    path.write_bytes(data[:-1])
    with pytest.raises(ModelRefused, match=r"cannot be read: the file .* has the SHA-256"):
        task.complete(announced, SHARED)
    path.write_bytes(data)
    np.testing.assert_array_equal(task.complete(announced, SHARED).arrays["base.weight"], np.full(3, 1))


def test_a_replaced_file_has_another_version(tmp_path: Path) -> None:
    task, announced = completion(tmp_path), model()
    assert task.version(announced) is None
    path = keep(tmp_path, head(5))
    first = task.version(announced)
    assert task.complete(announced, SHARED).version == first == task.version(announced)
    other = path.with_name("new")
    other.write_bytes(path.read_bytes())
    other.replace(path)
    assert task.version(announced) != first


def test_a_folder_of_another_user_is_named_with_the_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def deny(_: Path) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(
        model_completion, "read_private", deny
    )  # root, who may run the tests, reads all files
    with pytest.raises(ModelRefused, match="let the trainer and the predictor run as the same user"):
        completion(tmp_path).complete(model(), SHARED)


def test_the_trainers_folder_is_next_to_the_predictors_own() -> None:
    own = Path("/greengrass/v2/work/com.fedgrass.Predictor")
    assert trainer_folders("", own) == (
        Path("/greengrass/v2/work/com.fedgrass.Trainer"),
        Path("/greengrass/v2/work/com.fedgrass.TrainerLite"),
    )
    assert trainer_folders("/srv/trainer", own) == (Path("/srv/trainer"),)
