"""The worker puts a partial model together and takes it apart; what does not fit is declined by name."""

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from components.runtime.array_files import read_private
from components.runtime.atomic_file import write_atomically
from components.runtime.component_errors import WorkDeclined, WorkFailed
from components.trainer.session.run_files import PrivateStore
from components.trainer.tasks.noise import Noise
from components.trainer.tasks.task import Evaluation
from components.trainer.worker.work_runner import WorkRunner
from components.trainer.worker.worker_protocol import Result, StatisticsPolicy, WorkOrder
from fedgrass.federation import weights
from fedgrass.federation.messages import Announcement, CarriedFile
from fedgrass.federation.messages.message_types import Encoding
from fedgrass.federation.weights import Arrays
from fedgrass.federation.weights.array_sharing import Role, Sharing, frozen_fingerprint, roles_of
from fedgrass.local.task_sharing import initial_model
from tests.fakes.memory_device import announcement
from tests.fakes.partial_task import FROZEN_MARK, PRIVATE_MARK, Marked

INITIAL = initial_model(Marked(), 0)
FROZEN = INITIAL.frozen_sha256
FROZEN_FILE = INITIAL.frozen_file()
MARKED = {"module": "tests.fakes.partial_task:Marked"}


class Desk:
    """A device's worker; its objects are those of the bucket."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.objects: dict[str, bytes] = {}
        self.fetched: list[str] = []
        self.options: dict[str, Any] = {}
        self.start_again()

    def start_again(self) -> None:
        """Replace the worker by a new one: a restart, or an upgrade."""
        self._runner = WorkRunner(self._fetch)

    def _fetch(self, _bucket: str, key: str, size: int) -> bytes:
        self.fetched.append(key)
        assert len(self.objects[key]) == size
        return self.objects[key]

    def announced(
        self, number: int = 1, model: Arrays | None = None, run: str = "run-a", **other: object
    ) -> Announcement:
        data = weights.encode(INITIAL.shared if model is None else model)
        key = f"models/{run}/{number - 1}.safetensors"
        self.objects[key] = data
        words: dict[str, Any] = {"frozen_sha256": FROZEN, **other}
        return announcement(
            number, run=run, task="marked", model_sha256=weights.sha256(data), model_bytes=len(data), **words
        )

    def perform(self, asked: Announcement, *, uploaded: bool = True) -> Result:
        store = PrivateStore(self.folder)
        update = self.folder / "updates" / f"{asked.run}-{asked.round}-1.safetensors"
        work = WorkOrder(
            announcement=asked,
            options={**MARKED, **self.options},
            update=str(update),
            memory=str(self.folder / "memory.safetensors"),
            statistics=StatisticsPolicy(),
            **store.order(asked),
        )
        work = msgspec.json.decode(msgspec.json.encode(work), type=WorkOrder)  # as it reaches the worker
        result = self._runner.perform(work, lambda _: None, lambda: False)
        if uploaded:
            store.adopt(update, asked.task, asked.run)
        return result

    def update(self, number: int = 1, run: str = "run-a") -> dict[str, Any]:
        return weights.decode((self.folder / "updates" / f"{run}-{number}-1.safetensors").read_bytes())

    def private(self, run: str = "run-a") -> dict[str, Any]:
        kept = read_private(self.folder / "private" / "marked" / f"{run}.safetensors")
        assert kept
        return kept.arrays


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


def test_the_task_gets_all_arrays_and_the_update_has_the_shared_ones(desk: Desk) -> None:
    result = desk.perform(desk.announced())
    update = desk.update()
    assert update.keys() == {"body.weight", "body.bias"}
    np.testing.assert_array_equal(update["body.weight"], np.ones(4, np.float32))
    assert desk.private().keys() == {"head.weight", "head.count", "head.mark"}
    assert desk.private()["head.count"] == 1
    assert desk.private()["head.mark"].tobytes() == PRIVATE_MARK
    assert result.metrics["head"] == 0
    assert result.metrics["local_head"] == 1
    assert result.note == ""


def test_a_training_may_leave_the_frozen_arrays_out(desk: Desk) -> None:
    desk.options = {"lean": True}
    result = desk.perform(desk.announced())
    assert (result.metrics["local_head"], result.metrics["local_base"]) == (1, 1)
    assert desk.update().keys() == {"body.weight", "body.bias"}


@pytest.mark.parametrize("carried", [{}, {"control": None}], ids=["plain", "scaffold"])
def test_nothing_of_an_update_names_or_holds_a_private_array(desk: Desk, carried: dict[str, None]) -> None:
    desk.perform(desk.announced(carried=carried))
    data = (desk.folder / "updates" / "run-a-1-1.safetensors").read_bytes()
    assert b"body.weight" in data
    for hidden in (b"head", b"base", PRIVATE_MARK, FROZEN_MARK):
        assert hidden not in data


def test_private_arrays_continue_in_the_next_round_and_after_a_restart(desk: Desk) -> None:
    for number in (1, 2, 3):
        desk.start_again()
        assert desk.perform(desk.announced(number)).metrics["head"] == number - 1
    kept = read_private(desk.folder / "private" / "marked" / "run-a.safetensors")
    assert kept
    assert kept.round == 3


def test_an_update_that_is_not_uploaded_leaves_them_as_they_were(desk: Desk) -> None:
    desk.perform(desk.announced(1))
    desk.perform(desk.announced(2), uploaded=False)
    assert desk.perform(desk.announced(3)).metrics["head"] == 1


def test_an_evaluation_measures_the_model_with_this_devices_private_arrays(desk: Desk) -> None:
    desk.perform(desk.announced(1))
    evaluated = desk.perform(desk.announced(2, work="evaluate"))
    assert evaluated.metrics["head"] == 1
    assert desk.private()["head.count"] == 1


def test_another_run_starts_from_initial_private_arrays_unless_it_continues_the_run(desk: Desk) -> None:
    desk.perform(desk.announced())
    assert desk.perform(desk.announced(run="run-b")).metrics["head"] == 0
    assert desk.perform(desk.announced(run="run-c", continues="run-a")).metrics["head"] == 1
    assert desk.private("run-c")["head.count"] == 2
    assert desk.private("run-a")["head.count"] == 1


def test_an_upgrade_that_renames_layers_drops_private_arrays_once_with_the_reason(desk: Desk) -> None:
    desk.perform(desk.announced())
    desk.options = {"head": "classifier"}
    desk.start_again()
    result = desk.perform(desk.announced(2))
    assert result.note == (
        "dropped the private arrays of run run-a, starting from initial ones: array 'classifier.weight' is"
        " not among them"
    )
    again = desk.perform(desk.announced(3))
    assert (again.note, again.metrics["head"]) == ("", 1)
    assert (desk.folder / "private" / "marked" / "run-a.dropped").exists()


@pytest.mark.parametrize(
    ("left", "reason"),
    [
        (b"no file of arrays", "the header claims"),
        (None, "has the checksum"),
        (
            weights.encode({"head.weight": np.zeros(3, np.float32)}),
            "array 'head.weight' has the shape (3,) there",
        ),
        (
            weights.encode({"head.weight": np.zeros(2)}),
            "array 'head.weight' has the type F64 there and F32 in",
        ),
    ],
)
def test_private_arrays_that_are_damaged_or_of_another_shape_are_dropped(
    desk: Desk, left: bytes | None, reason: str
) -> None:
    desk.perform(desk.announced())
    file = desk.folder / "private" / "marked" / "run-a.safetensors"
    data = file.read_bytes()
    write_atomically(file, data[:-1] + bytes([data[-1] ^ 1]) if left is None else left)
    result = desk.perform(desk.announced(2))
    assert reason in result.note
    assert result.metrics["head"] == 0


def test_a_private_array_that_is_not_finite_fails_the_work_and_is_not_kept(desk: Desk) -> None:
    desk.options = {"spoils": True}
    with pytest.raises(
        WorkFailed, match=r"a private array that cannot be kept: array 'head.weight' has 2 values"
    ):
        desk.perform(desk.announced())
    assert not (desk.folder / "private").exists()


def test_a_run_narrows_what_the_task_shares(desk: Desk) -> None:
    model = {"body.weight": INITIAL.arrays["body.weight"]}
    desk.perform(desk.announced(1, model, shared=["*.weight"]))
    assert desk.update().keys() == {"body.weight"}
    assert "body.bias" in desk.private()


@pytest.mark.parametrize("kind", ["int8", "float16", "top_k"])
def test_encodings_have_the_shared_arrays_only(desk: Desk, kind: str) -> None:
    encoding = msgspec.convert({"kind": kind, "difference": True, "fraction": 0.5}, Encoding)
    for number in (1, 2):
        desk.perform(desk.announced(number, upload=encoding))
        assert {name.partition(":")[0] for name in desk.update(number)} == {"body.weight", "body.bias"}
    left = desk.folder / "updates" / "run-a-2-1.safetensors.memory"
    if kind == "top_k":
        assert weights.decode(left.read_bytes()).keys() == {"residual:body.weight"}


def test_scaffold_corrects_and_sends_the_shared_arrays_only(desk: Desk) -> None:
    desk.perform(desk.announced(carried={"control": None}))
    assert desk.update().keys() == {
        "body.weight",
        "body.bias",
        "control:body.weight",
        "control:body.bias",
    }
    assert desk.private()["head.count"] == 1


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        (
            lambda m: {**m, "head.weight": np.zeros(2, np.float32)},
            "the array 'head.weight', which is private here",
        ),
        (lambda m: {**m, "base.mark": np.zeros(2, np.uint8)}, "the array 'base.mark', which is frozen here"),
        (lambda m: {"body.weight": m["body.weight"]}, "lacks the array 'body.bias', which is shared here"),
        (lambda m: {**m, "tail.bias": m["body.bias"]}, "the array 'tail.bias', which the task here does not"),
        (lambda m: {**m, "body.bias": np.zeros(3, np.float32)}, "array 'body.bias' has the shape (3,)"),
    ],
)
def test_a_model_with_other_arrays_than_the_task_shares_is_declined_by_name(
    desk: Desk, changed: Callable[[Arrays], Arrays], reason: str
) -> None:
    with pytest.raises(WorkDeclined, match=re.escape(reason)):
        desk.perform(desk.announced(1, changed(INITIAL.shared)))


@pytest.mark.parametrize(
    ("announced", "options", "reason"),
    [
        ({}, {"base": 2}, "this device has another version of the frozen base"),
        (
            {"frozen_sha256": msgspec.UNSET},
            {},
            "it has 2 frozen arrays, such as 'base.weight', but the run has no",
        ),
        ({"shared": ["tail.*"]}, {}, "the run's `shared` pattern 'tail.*' matches none of the 2 arrays"),
    ],
)
def test_a_run_that_does_not_fit_the_device_is_declined_by_name(
    desk: Desk, announced: dict[str, object], options: dict[str, object], reason: str
) -> None:
    desk.options = options
    with pytest.raises(WorkDeclined, match=re.escape(reason)):
        desk.perform(desk.announced(**announced))  # type: ignore[arg-type]


def test_a_device_whose_task_has_no_frozen_arrays_declines_a_run_that_has(desk: Desk) -> None:
    model = Noise(0.001).initial_weights(0)
    asked = msgspec.structs.replace(desk.announced(1, model), task="noise")
    work = WorkOrder(announcement=asked, options={"megabytes": 0.001}, update=str(desk.folder / "u"))
    runner = WorkRunner(lambda _bucket, key, _size: desk.objects[key])
    with pytest.raises(WorkDeclined, match=r"the run has frozen arrays .* but the task here has none"):
        runner.perform(work, lambda _: None, lambda: False)


def frozen_object(desk: Desk, data: bytes = FROZEN_FILE) -> CarriedFile:
    key = "models/run-a/frozen.safetensors"
    desk.objects[key] = data
    return CarriedFile(key=key, sha256=weights.sha256(data), bytes=len(data))


def test_frozen_arrays_in_the_bucket_are_downloaded_once_for_all_rounds_and_restarts(desk: Desk) -> None:
    desk.options = {"base": 7}  # the component has no usable base
    file = frozen_object(desk)
    for number in (1, 2, 3):
        desk.start_again()
        result = desk.perform(desk.announced(number, frozen=file))
        assert result.metrics["base"] == 1
    assert desk.fetched.count(file.key) == 1
    kept = read_private(desk.folder / "private" / "marked" / "run-a.safetensors")
    assert kept
    assert kept.frozen_file == file.sha256


def test_frozen_arrays_that_were_damaged_on_the_disk_are_downloaded_again(desk: Desk) -> None:
    file = frozen_object(desk)
    desk.perform(desk.announced(1, frozen=file))
    stored = desk.folder / "frozen" / f"{file.sha256}.safetensors"
    stored.write_bytes(b"x" + stored.read_bytes()[1:])
    desk.perform(desk.announced(2, frozen=file))
    assert desk.fetched.count(file.key) == 2
    assert stored.read_bytes() == FROZEN_FILE


def test_a_file_of_other_frozen_arrays_is_declined(desk: Desk) -> None:
    other = initial_model(Marked(base=3), 0).frozen_file()
    with pytest.raises(WorkDeclined, match="another version of the frozen base"):
        desk.perform(desk.announced(frozen=frozen_object(desk, other)))
    lacking = weights.encode({"base.weight": np.ones(3, np.float32)})
    with pytest.raises(
        WorkDeclined, match=r"in the file .*frozen.safetensors of frozen arrays, array 'base.mark'"
    ):
        desk.perform(desk.announced(frozen=frozen_object(desk, lacking)))


def test_frozen_arrays_that_no_run_uses_are_removed_when_others_arrive(desk: Desk) -> None:
    folder = desk.folder / "frozen"
    folder.mkdir()
    for name, age in {"1" * 64: 2 * 24 * 3600, "2" * 64: 60}.items():
        (folder / f"{name}.safetensors").write_bytes(b"x")
        stamp = (folder / f"{name}.safetensors").stat().st_mtime - age
        os.utime(folder / f"{name}.safetensors", (stamp, stamp))
    file = frozen_object(desk)
    desk.perform(desk.announced(frozen=file))
    assert {one.stem for one in folder.iterdir()} == {"2" * 64, file.sha256}


def test_frozen_arrays_that_a_run_uses_are_kept_when_others_arrive(desk: Desk) -> None:
    first = frozen_object(desk)
    desk.perform(desk.announced(frozen=first))
    stored = desk.folder / "frozen" / f"{first.sha256}.safetensors"
    os.utime(stored, (0, 0))
    other = initial_model(Marked(base=3), 0)
    second = frozen_object(desk, other.frozen_file())
    asked = desk.announced(run="run-b", frozen=second, frozen_sha256=other.frozen_sha256)
    desk.perform(asked)
    assert stored.exists()
    (desk.folder / "private" / "marked" / "run-a.safetensors").unlink()
    (desk.folder / "frozen" / f"{second.sha256}.safetensors").unlink()
    desk.perform(asked)
    assert not stored.exists()


def test_a_task_that_shares_everything_is_not_asked_for_its_initial_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Marked, "sharing", lambda _self: Sharing())
    model = dict(Marked().initial_weights(0))
    monkeypatch.setattr(Marked, "initial_weights", lambda *_: pytest.fail("it is not needed"))
    monkeypatch.setattr(Marked, "evaluate", lambda *_: Evaluation(1, {}))
    desk = Desk(tmp_path)
    desk.perform(desk.announced(1, model, frozen_sha256=msgspec.UNSET))
    assert desk.update().keys() == model.keys()
    assert not (tmp_path / "private").exists()


def test_half_and_whole_number_arrays_come_back_bit_for_bit(tmp_path: Path) -> None:
    arrays: dict[str, Any] = {
        "half": np.arange(3, dtype=np.float16),
        "double": np.arange(3, dtype=np.float64) / 3,
        "brain": np.arange(16256, 16259, dtype=np.uint16).view(weights.BFLOAT16),
        "count": np.array(2**62, np.int64),
        "flag": np.array([True, False]),
    }
    path = tmp_path / "a.safetensors"
    path.write_bytes(weights.encode(arrays, metadata={"round": "3"}))
    kept = read_private(path)
    assert kept
    assert kept.round == 3
    for name, array in arrays.items():
        assert kept.arrays[name].dtype == array.dtype
        assert kept.arrays[name].tobytes() == array.tobytes()


def test_the_roles_of_the_fake_are_those_of_the_issue() -> None:
    roles = roles_of(list(INITIAL.arrays), Marked().sharing())
    assert frozen_fingerprint(roles.select(INITIAL.arrays, Role.FROZEN)) == FROZEN
