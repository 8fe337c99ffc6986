"""The set-ups of the benchmarks of learning, and their figures."""

from pathlib import Path

import pytest

from benchmarks.bytes_to_accuracy import ENCODINGS, encoding_spec
from benchmarks.bytes_to_accuracy import figures_of as bytes_figures
from benchmarks.learning import figures_of
from benchmarks.simulated import learning_setups as setups
from benchmarks.simulated.learning_curves import Curve, Point
from benchmarks.simulated.learning_setups import mnist_folder
from benchmarks.simulated.left_out_station import root_mean_square
from fedgrass.federation.settings_parser import parse_settings
from fedgrass.simulation.simulation_spec import SimulationSpec

SETUPS = {
    "replaced": setups.REPLACED,
    "iid": setups.IID,
    "one_digit": setups.ONE_DIGIT,
    "cifar10": setups.CIFAR_10,
    **setups.STRATEGIES,
}


def curve(*accuracies: float) -> Curve:
    points = [
        Point(model=number, seconds=number, updates=number, bytes=number * 1_500_000, accuracy=accuracy)
        for number, accuracy in enumerate(accuracies, start=1)
    ]
    return Curve(points=points, weights={}, wall_seconds=1.0)


def check(spec: SimulationSpec) -> None:
    parse_settings({"task": spec.task.partition("=")[0], **spec.settings})


@pytest.mark.parametrize("name", SETUPS)
def test_the_settings_of_each_set_up_are_those_of_a_run(name: str) -> None:
    check(SETUPS[name].spec(1, None))
    check(SETUPS[name].quick(5).spec(1, None))


@pytest.mark.parametrize("name", ENCODINGS)
def test_the_settings_of_each_encoding_are_those_of_a_run(name: str) -> None:
    check(encoding_spec(name, 1, None))


def test_seeds_differ_in_their_split_and_in_all_that_is_drawn() -> None:
    first, second = (setups.IID.spec(seed, None) for seed in (1, 2))
    assert first.seed != second.seed
    assert first.task_options["split_seed"] != second.task_options["split_seed"]


def test_one_step_of_a_device_with_one_digit_is_over_all_of_its_images() -> None:
    most = 6742 / 4 * 0.8  # of the digit 1, which has the most images, split among four devices
    assert setups.ONE_DIGIT.settings["training"]["batch_size"] >= most
    assert setups.ONE_DIGIT.quick(5).settings["training"] == setups.ONE_DIGIT.settings["training"]


def test_rounds_to_each_target_and_the_last_accuracy_are_means_of_the_seeds() -> None:
    figures = figures_of(setups.IID, [curve(0.8, 0.9, 0.96), curve(0.91, 0.92, 0.94)])
    assert figures["accuracy"]["mean"] == pytest.approx(0.95)
    assert figures["rounds_to_90"] == {"mean": 1.5, "lowest": 1, "highest": 2, "missed": 0}
    assert figures["rounds_to_95"]["missed"] == 1


def test_bytes_are_counted_to_the_first_model_at_the_target() -> None:
    figures = bytes_figures([curve(0.8, 0.9, 0.95), curve(0.9)], 0.9)
    assert figures["megabytes"] == {"mean": 2.25, "lowest": 1.5, "highest": 3.0, "missed": 0}
    assert figures["rounds"]["mean"] == 1.5


def test_errors_of_parts_are_joined_by_their_squares() -> None:
    assert root_mean_square([(1, 10.0), (3, 2.0)]) == pytest.approx(((100 + 3 * 4) / 4) ** 0.5)


def test_mnist_is_found_with_and_without_its_compression_but_not_in_part(tmp_path: Path) -> None:
    folder = tmp_path / "mnist"
    folder.mkdir()
    (folder / "train-images-idx3-ubyte.gz").touch()
    (folder / "train-labels-idx1-ubyte").touch()
    (folder / "t10k-images-idx3-ubyte").touch()
    assert mnist_folder(tmp_path) is None
    (folder / "t10k-labels-idx1-ubyte.gz").touch()
    assert mnist_folder(tmp_path) == folder
