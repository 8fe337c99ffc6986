"""MNIST, CIFAR-10 and Beijing's air quality: reading published files and damaged ones."""

import gzip
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from torch import nn

from components.runtime.component_errors import ConfigurationError
from components.trainer.tasks import air_quality, cifar10, mnist
from components.trainer.tasks.air_quality import AirQuality
from components.trainer.tasks.cifar10 import Cifar10
from components.trainer.tasks.data_sets import Publication
from components.trainer.tasks.mnist import Mnist
from components.trainer.tasks.registry import load_task
from components.trainer.training import TorchTask
from tests.unit.device.tasks.published_files import AIR_HEAD, write_air, write_cifar10, write_mnist

Read = TypeVar("Read")
MAKERS: dict[str, Callable[[Path], object]] = {
    "mnist": write_mnist,
    "cifar10": write_cifar10,
    "air_quality": lambda folder: write_air(folder, "Tiantan"),
}


def parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def publication(folder: Path) -> Publication:
    return Publication("mnist", "MNIST", mnist.ADDRESS, str(folder))


def outcome(read: Callable[[], Read]) -> Read | str:
    """Return what was read, or the ConfigurationError; other exceptions are bugs of the reader."""
    try:
        return read()
    except ConfigurationError as error:
        return str(error)


# --- all tasks


@pytest.mark.parametrize("name", MAKERS)
def test_without_a_folder_the_error_names_where_the_files_are_published(name: str, tmp_path: Path) -> None:
    for options in ({}, {"folder": str(tmp_path)}, {"folder": str(tmp_path / "absent")}):
        with pytest.raises(
            ConfigurationError, match=f"task '{name}' .*folder.*download .* from https://|no "
        ) as info:
            load_task(name, options)
        assert "https://" in str(info.value)


@pytest.mark.parametrize("name", MAKERS)
def test_a_task_trains_on_its_published_files_and_judges_on_others(name: str, tmp_path: Path) -> None:
    MAKERS[name](tmp_path)
    task = load_task(name, {"folder": str(tmp_path)})
    assert isinstance(task, AirQuality | Mnist | Cifar10)
    weights = task.initial_weights(0)
    fit = task.fit(weights, {"epochs": 1, "batch_size": 8}, lambda _: None, lambda: False)
    assert fit.examples == task.examples() > 20
    assert task.evaluate(fit.weights).examples > 0
    assert task.evaluate_held_out(fit.weights).examples >= 20


@pytest.mark.parametrize("name", MAKERS)
def test_an_option_that_a_task_does_not_have_is_named(name: str) -> None:
    with pytest.raises(ConfigurationError, match=f"task '{name}' has no option 'foldr'; it takes: folder"):
        load_task(name, {"foldr": "/data"})


# --- MNIST


@pytest.mark.parametrize("packed", [True, False])
def test_mnists_files_are_read_packed_or_not(tmp_path: Path, packed: bool) -> None:  # noqa: FBT001 - a parameter of pytest
    write_mnist(tmp_path, packed=packed)
    images, labels = mnist.read_examples(publication(tmp_path), "train")
    assert images.shape == (60, 1, 28, 28)
    assert images.dtype == torch.uint8
    assert labels.tolist() == [place % 10 for place in range(60)]
    assert [int(image.max()) for image in images[:10]] == list(range(0, 200, 20))


def test_twenty_shares_of_mnist_hold_out_a_fifth(tmp_path: Path) -> None:
    write_mnist(tmp_path, training=600)
    device = Mnist(str(tmp_path), share=3, shares="20")
    assert (device.examples(), device.evaluate(device.initial_weights(0)).examples) == (24, 6)


def test_mnists_models_are_the_published_ones(tmp_path: Path) -> None:
    assert parameters(mnist.make_cnn()) == 21_840
    assert parameters(mnist.make_mlp()) == 109_386
    write_mnist(tmp_path)
    assert Mnist(str(tmp_path), "mlp").initial_weights(0)["2.weight"].shape == (128, 784)
    with pytest.raises(ConfigurationError, match="no model 'rnn': use cnn, mlp, linear"):
        Mnist(str(tmp_path), "rnn")


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"", "not an IDX file"),
        (b"\x00\x00\x0d\x03" + bytes(16), "not an IDX file of bytes"),
        (b"\x00\x00\x08\x03" + (2**31).to_bytes(4, "big") * 3, "has 16 bytes instead of"),
        (b"\x00\x00\x08\x01\x00\x00\x00\x02ab", "shapes"),
        (b"\x00\x00\x08\x03\x00\x00", "by its header"),
    ],
)
def test_a_damaged_idx_file_is_named_with_the_defect(tmp_path: Path, data: bytes, text: str) -> None:
    write_mnist(tmp_path)
    (tmp_path / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(data))
    with pytest.raises(ConfigurationError, match=f"train-images-idx3-ubyte.gz, .*{text}.*https://"):
        Mnist(str(tmp_path))


@pytest.mark.parametrize(
    "data", [b"not packed at all", gzip.compress(bytes(5000), mtime=0)[:-20], b"\x1f\x8b\x08" + bytes(30)]
)
def test_a_damaged_packed_file_is_named(tmp_path: Path, data: bytes) -> None:
    write_mnist(tmp_path)
    (tmp_path / "train-labels-idx1-ubyte.gz").write_bytes(data)
    with pytest.raises(ConfigurationError, match=r"train-labels-idx1-ubyte\.gz"):
        Mnist(str(tmp_path))


IDX_HEADS = st.tuples(st.sampled_from([b"", b"\0\0\x08", b"\0\0\x0d"]), st.binary(max_size=1)).map(b"".join)
SIZES = st.lists(st.sampled_from([0, 1, 2, 28, 2**31]), max_size=5).map(
    lambda sizes: b"".join(size.to_bytes(4, "big") for size in sizes)
)


@given(st.tuples(IDX_HEADS, SIZES, st.binary(max_size=60)).map(b"".join))
def test_whatever_an_idx_file_holds_it_is_read_or_refused_by_name(
    tmp_path_factory: pytest.TempPathFactory, data: bytes
) -> None:
    path = tmp_path_factory.mktemp("idx") / "some-idx3-ubyte"
    path.write_bytes(data)
    found = outcome(lambda: mnist.read_idx(publication(path.parent), path))
    if isinstance(found, str):
        assert str(path) in found
    else:
        assert data.endswith(found.numpy().tobytes())
        assert 0 < found.numel() < len(data)


CELLS = st.sampled_from(["1", "2016", "NNW", "NA", "nan", "1e999", "9" * 30, "-1", "x", '"', "\r", ""])


@given(
    st.text(max_size=50) | st.lists(CELLS, min_size=16, max_size=20).map(",".join),
    st.sampled_from([AIR_HEAD, ""]),
)
@example("1,2016,1,1,1,nan" + ",1" * 9 + ",NNW,1,X", AIR_HEAD)
@example("1,2016,1,1,1,5" + ",1" * 9 + ",NNW,1,X", AIR_HEAD)
def test_whatever_a_table_holds_it_is_read_or_refused_by_name(
    tmp_path_factory: pytest.TempPathFactory, text: str, head: str
) -> None:
    path = tmp_path_factory.mktemp("air") / "PRSA_Data_Some_20130301-20170228.csv"
    path.write_text(f"{head}\n{text}", encoding="utf-8", errors="surrogatepass", newline="")
    found = outcome(lambda: list(air_quality.read(publication(path.parent), path)))
    if isinstance(found, str):
        assert str(path) in found
    else:
        assert all(np.isfinite([*features, dust]).all() for _, features, dust in found)


# --- CIFAR-10


def test_cifars_binary_records_are_read_in_their_order_of_colours(tmp_path: Path) -> None:
    write_cifar10(tmp_path)
    images, labels = cifar10.read_examples(
        Publication("cifar10", "CIFAR-10", cifar10.ADDRESS, str(tmp_path)), cifar10.TRAINING
    )
    assert images.shape == (100, 3, 32, 32)
    assert labels.tolist() == [place % 10 for place in range(20)] * 5
    assert images[3, :, 5, 5].tolist() == [200, 60, 0]
    assert int(images[3, 1, 0, 0]) == 7


def test_cifars_files_may_lie_in_the_folder_itself(tmp_path: Path) -> None:
    write_cifar10(tmp_path)
    assert Cifar10(str(tmp_path / "cifar-10-batches-bin")).examples() == 90


def test_cifars_model_is_lenet() -> None:
    assert parameters(cifar10.make_model()) == 62_006


@pytest.mark.parametrize("data", [b"", bytes(3000), bytes((11,)) + bytes(3072)])
def test_a_damaged_cifar_file_is_named(tmp_path: Path, data: bytes) -> None:
    write_cifar10(tmp_path)
    (tmp_path / "cifar-10-batches-bin" / "data_batch_2.bin").write_bytes(data)
    with pytest.raises(ConfigurationError, match=r"data_batch_2\.bin, which has .*https://"):
        Cifar10(str(tmp_path))


def test_cifars_pickles_are_not_even_opened(tmp_path: Path) -> None:
    (tmp_path / "cifar-10-batches-py").mkdir()
    (tmp_path / "cifar-10-batches-py" / "data_batch_1").write_bytes(b"cos\nsystem\n(S'true'\ntR.")
    with pytest.raises(ConfigurationError, match=r"binary version.*cifar-10-binary\.tar\.gz"):
        Cifar10(str(tmp_path))


# --- air quality


def test_one_station_is_one_device(tmp_path: Path) -> None:
    for station in ("Tiantan", "Dongsi", "Gucheng"):
        write_air(tmp_path, station)
    by_share = AirQuality(str(tmp_path), share="1", shares="3")
    by_name = AirQuality(str(tmp_path), "Gucheng")
    assert by_share.examples() == by_name.examples()
    assert AirQuality(str(tmp_path), shares=2).examples() == 2 * by_name.examples()
    with pytest.raises(
        ConfigurationError, match="no station 'Berlin'; the folder has: Dongsi, Gucheng, Tiantan"
    ):
        AirQuality(str(tmp_path), "Berlin")
    with pytest.raises(ConfigurationError, match="only 3 values"):
        AirQuality(str(tmp_path), shares=4)


def test_rows_with_a_missing_value_are_left_out(tmp_path: Path) -> None:
    whole = AirQuality(str(write_air(tmp_path / "1", "Tiantan").parent)).examples()
    path = write_air(tmp_path / "2", "Tiantan", change=lambda text: text.replace(",300,", ",NA,", 7))
    assert AirQuality(str(path.parent)).examples() == whole - 7


def test_a_row_becomes_scaled_numbers_and_points_on_circles(tmp_path: Path) -> None:
    path = write_air(tmp_path, "Tiantan", days=1)
    ((_, features, dust),) = air_quality.read(publication(tmp_path), path)
    assert dust == 10
    assert len(features) == air_quality.FEATURES
    assert features[0] == pytest.approx((20 - 104) / 90)
    circles = np.square(np.array(features[10:])).reshape(3, 2).sum(axis=1)
    np.testing.assert_allclose(circles, 1)


@pytest.mark.parametrize(
    ("before", "after", "text"),
    [
        ('"PM2.5"', '"PM25"', r"no column 'PM2\.5'"),
        ("1024.5", "high", "line 2: could not convert"),
        ('"NNW"', '"up"', "line 2: 'up'"),
        ("2016,10,1,", "2016,13,1,", "line 2: month"),
        (',"NNW",5.7,"Tiantan"', "", "line 2"),
    ],
)
def test_a_damaged_table_is_named_with_its_line(tmp_path: Path, before: str, after: str, text: str) -> None:
    write_air(tmp_path, "Tiantan", change=lambda table: table.replace(before, after, 1))
    with pytest.raises(ConfigurationError, match=f"Tiantan_20130301-20170228.csv, .*{text}"):
        AirQuality(str(tmp_path))


def test_the_built_in_tasks_of_pytorch_need_neither_pandas_nor_scikit_learn(tmp_path: Path) -> None:
    write_mnist(tmp_path)
    assert isinstance(load_task("mnist", {"folder": str(tmp_path)}), TorchTask)
