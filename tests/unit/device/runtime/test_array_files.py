"""Files of private and frozen arrays: read whole, or refused; never half."""

import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.runtime.array_files import (
    FROZEN_FILE,
    ROUND,
    completed,
    frozen_file_of,
    mismatch,
    read_frozen,
    read_private,
)
from components.runtime.array_folders import frozen_file, private_file
from fedgrass.federation import weights
from fedgrass.federation.errors import SettingsError, UpdateRefused

ARRAYS = {
    "head.weight": np.arange(6, dtype=np.float32).reshape(2, 3),
    "head.half": np.arange(4, dtype=np.uint16).view(weights.BFLOAT16),
    "head.count": np.array(7, np.int64),
}
FILE = weights.encode(ARRAYS, metadata={ROUND: "12", FROZEN_FILE: "f" * 64})
DATA = len(FILE) - sum(array.nbytes for array in ARRAYS.values())  # where the values begin


def test_a_file_comes_back_with_its_round_and_its_frozen_arrays(tmp_path: Path) -> None:
    path = private_file(tmp_path, "digits", "run-a")
    assert read_private(path) is None
    path.parent.mkdir(parents=True)
    path.write_bytes(FILE)
    found = read_private(path)
    assert found
    assert (found.round, found.frozen_file, frozen_file_of(path)) == (12, "f" * 64, "f" * 64)
    assert not mismatch(found.arrays, ARRAYS)
    for name, array in ARRAYS.items():
        assert found.arrays[name].tobytes() == array.tobytes()


def test_names_of_tasks_and_runs_cannot_leave_the_folder(tmp_path: Path) -> None:
    with pytest.raises(SettingsError):
        private_file(tmp_path, "../x", "run-a")
    with pytest.raises(SettingsError):
        private_file(tmp_path, "digits", "../run-a")


@given(st.integers(0, len(FILE) - 1), st.integers(1, 255), st.integers(0, len(FILE)))
def test_a_damaged_file_is_refused_or_has_the_right_values(place: int, flipped: int, length: int) -> None:
    damaged = bytearray(FILE)
    damaged[place] ^= flipped
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "run.safetensors"
        for data in (bytes(damaged), FILE[:length], bytes(damaged[place:])):
            path.write_bytes(data)
            try:
                found = read_private(path)
                frozen_file_of(path)
            except UpdateRefused:
                continue
            assert found
            if not mismatch(found.arrays, ARRAYS):
                assert place < DATA or data == FILE
                for name, array in ARRAYS.items():
                    assert found.arrays[name].tobytes() == array.tobytes()


@given(st.binary(max_size=200))
def test_any_bytes_are_refused(data: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "run.safetensors"
        path.write_bytes(data)
        with pytest.raises(UpdateRefused):
            read_private(path)


def test_frozen_arrays_are_those_of_the_name_of_their_file(tmp_path: Path) -> None:
    path = frozen_file(tmp_path, weights.sha256(FILE))
    assert read_frozen(path) is None
    path.write_bytes(FILE)
    assert read_frozen(path)
    path.rename(frozen_file(tmp_path, "0" * 64))
    with pytest.raises(UpdateRefused, match="has the SHA-256"):
        read_frozen(frozen_file(tmp_path, "0" * 64))


def test_a_model_is_completed_in_the_order_of_the_task_and_in_its_types() -> None:
    shared = {"head.count": np.array(8, np.int64)}
    found = completed(ARRAYS, shared)
    assert list(found) == list(ARRAYS)
    assert found["head.count"] == 8
    assert found["head.half"].dtype == np.float32
