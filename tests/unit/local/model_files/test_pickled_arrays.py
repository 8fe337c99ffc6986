"""Arrays are taken out of pickles; everything else in them is refused by name before it runs."""

import os
import pickle
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fedgrass.federation.errors import SettingsError
from fedgrass.local.model_files.pickled_arrays import ArrayUnpickler, read_pickle

exploded: list[str] = []


class Bomb:
    """What runs a function when it is unpickled."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


def pickled(folder: Path, value: object, protocol: int = pickle.DEFAULT_PROTOCOL) -> Path:
    path = folder / "model.pkl"
    path.write_bytes(pickle.dumps(value, protocol))
    return path


ARRAYS = {
    "weight": np.arange(6, dtype=np.float32).reshape(2, 3),
    "transposed": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    "big_endian": np.arange(3, dtype=">i4"),
    "half": np.ones(2, np.float16),
    "flag": np.array(1, bool),
    "empty": np.zeros((0, 4), np.int64),
}


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("wrap", [dict, OrderedDict, lambda arrays: {"epoch": 3, "state_dict": dict(arrays)}])
def test_the_arrays_of_a_pickle_come_back(tmp_path: Path, protocol: int, wrap: Any) -> None:
    found, reader = read_pickle(pickled(tmp_path, wrap(ARRAYS), protocol))
    assert list(found) == list(ARRAYS)
    for name, array in ARRAYS.items():
        np.testing.assert_array_equal(found[name], array)
        assert found[name].dtype == array.dtype.newbyteorder("<")
    assert reader == "the unpickler for arrays"


def test_a_number_of_numpy_becomes_an_array_without_dimensions(tmp_path: Path) -> None:
    found, _ = read_pickle(pickled(tmp_path, {"a": np.float32(1.5)}))
    assert (found["a"].shape, float(found["a"])) == ((), 1.5)


def test_a_file_of_pytorch_is_read_with_weights_only(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    for new_format in (True, False):
        torch.save({"model": {"a": torch.arange(3)}}, path, _use_new_zipfile_serialization=new_format)
        found, reader = read_pickle(path)
        assert (found["a"].tolist(), reader) == ([0, 1, 2], "torch.load with weights only")


@pytest.mark.parametrize(
    ("value", "named"),
    [
        (Bomb(exploded.append, "boom"), "builtins.getattr"),
        (Bomb(os.system, "touch exploded"), "posix.system"),
        (Bomb(eval, "1"), "builtins.eval"),
        (Bomb(np.load, "x"), "numpy.load"),
        (Bomb(pickle.loads, b""), "_pickle.loads"),
        (torch.nn.Linear(1, 1), "torch.nn.modules.linear.Linear"),
        ({"a": np.array([object()])}, "the type 'O8'"),
        ({"a": np.array(["text"])}, "the type 'U4'"),
        ({"a": np.zeros(1, [("x", "f4")])}, "the type 'V4'"),
        ({"a": np.ma.masked_array([1.0])}, "numpy.ma"),
        ({"a": 5}, "the entry 'a' is int"),
        ({5: np.zeros(1)}, "the entry 5 is"),
        ([np.zeros(1)], "holds list and no state_dict"),
        ({}, "holds dict and no state_dict"),
    ],
)
def test_what_is_no_array_is_refused_by_name_before_it_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: object, named: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SettingsError) as refused:
        read_pickle(pickled(tmp_path, value))
    assert named in str(refused.value)
    assert exploded == []
    assert [path.name for path in tmp_path.iterdir()] == ["model.pkl"]


# Programs of the pickle machine that no class writes: they call what the table offers with other arguments.
_BEGIN = b"(Va\ncnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntVb\ntR"
_CHANGED_TYPE = b"cnumpy\ndtype\n(Vf4\ntR(I3\nV!\nNNNI-1\nI-1\nI63\ntb."
CRAFTED = {
    "the class of arrays cannot be called": (
        b"cnumpy\nndarray\n(I1000000000\ntR.",
        "'object' object is not callable",
    ),
    "another class is not taken for that of arrays": (
        b"(Va\ncnumpy.core.multiarray\n_reconstruct\n(ccollections\nOrderedDict\n(I0\ntVb\ntRd.",
        "an array of another class",
    ),
    "a type cannot be one of objects": (b"cnumpy\ndtype\n(VO8\ntR.", "the type 'O8'"),
    "a type takes no other state than its byte order": (_CHANGED_TYPE, "a type of numbers with the state"),
    "an array cannot be longer than its bytes": (
        _BEGIN + b"(I1\n(I1000000\ntcnumpy\ndtype\n(Vf8\ntRI00\nC\x08\0\0\0\0\0\0\0\0tbd.",
        "an array of the shape (1000000,) in 8 bytes",
    ),
    "an array cannot have a negative length": (
        _BEGIN + b"(I1\n(I-1\ntcnumpy\ndtype\n(Vf8\ntRI00\nC\x08\0\0\0\0\0\0\0\0tbd.",
        "an array of the shape (-1,) in 8 bytes",
    ),
    "an array cannot hold other objects": (
        _BEGIN + b"(I1\n(I1\ntcnumpy\ndtype\n(Vf8\ntRI00\n(I1\nltbd.",
        "an array of an unknown form",
    ),
    "codecs other than latin1 are not used": (
        _BEGIN + b"(I1\n(I1\ntcnumpy\ndtype\n(Vu1\ntRI00\nc_codecs\nencode\n(Va\nVzip\ntRtbd.",
        "bytes in the encoding 'zip'",
    ),
    "other files are not opened": (b"Vfile\nQ.", "refers to another object, 'file'"),
    "extensions are not looked up": (b"\x82\x01.", "unregistered extension code 1"),
    "a truncated one is refused": (
        b"cnumpy\ndty",
        "can be read neither as a file of PyTorch nor",
    ),
    "it is not a pickle at all": (b"hello", "can be read neither as a file of PyTorch nor"),
}


@pytest.mark.parametrize(("program", "words"), CRAFTED.values(), ids=list(CRAFTED))
def test_a_crafted_program_is_refused(tmp_path: Path, program: bytes, words: str) -> None:
    path = tmp_path / "crafted.pkl"
    path.write_bytes(program)
    with pytest.raises(SettingsError) as refused:
        read_pickle(path)
    assert words in str(refused.value)


def test_the_flags_of_numpys_own_types_are_never_changed() -> None:
    with pytest.raises(SettingsError, match="a type of numbers with the state"):
        ArrayUnpickler(_CHANGED_TYPE).load()
    assert not np.dtype("f4").hasobject
