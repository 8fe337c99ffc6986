"""Each built-in task is trained briefly on its real data."""

import os
from collections.abc import Sequence
from pathlib import Path

import pytest

from components.trainer.tasks.air_quality import AirQuality
from components.trainer.tasks.cifar10 import Cifar10
from components.trainer.tasks.mnist import Mnist
from components.trainer.training import TorchTask
from fedgrass.federation.weights import Arrays
from tests.fakes.small_average import SmallAverage

FOLDER = Path(os.environ.get("FEDGRASS_DATA") or Path(__file__).parents[4] / "shared" / "data")


def real_data(name: str) -> Path:
    """Return the folder of a data set; the test is skipped if it is missing."""
    folder = FOLDER / name
    if not folder.is_dir():
        pytest.skip(f"there is no {folder}: name the folder of the data sets in FEDGRASS_DATA")
    return folder


def trained(devices: Sequence[TorchTask], rounds: int, **settings: float) -> Arrays:
    run = SmallAverage(devices[0].initial_weights(0))
    for number in range(rounds):
        chosen = {"seed": number, **settings}
        fits = [device.fit(run.model, chosen, lambda _: None, lambda: False) for device in devices]
        run.round([fit.weights for fit in fits], examples=[fit.examples for fit in fits])
    return run.model


def test_mnists_network_learns_from_two_devices_of_twenty() -> None:
    folder = str(real_data("mnist"))
    devices = [Mnist(folder, share=share, shares=20) for share in range(2)]
    assert [device.examples() for device in devices] == [2400, 2400]
    weights = trained(devices, rounds=1, epochs=5, learning_rate=0.05)
    judged = devices[0].evaluate_held_out(weights)
    assert judged.examples == 10_000
    assert judged.metrics["accuracy"] > 0.85


def test_mnists_linear_layers_learn_from_devices_with_two_digits_each() -> None:
    folder = str(real_data("mnist"))
    devices = [
        Mnist(folder, "mlp", share=share, shares=20, split="label", labels_per_device=2) for share in range(5)
    ]
    weights = trained(devices, rounds=8, epochs=1, learning_rate=0.01)
    judged = devices[0].evaluate_held_out(weights).metrics["accuracy"]
    assert judged > 0.3
    # A device with only two of the digits can recognize at most two in ten.
    alone = devices[0].evaluate_held_out(trained(devices[:1], rounds=8, epochs=1, learning_rate=0.01))
    assert alone.metrics["accuracy"] < 0.25


def test_the_air_of_two_stations_is_predicted_better_than_by_its_mean() -> None:
    folder = str(real_data("beijing_air"))
    devices = [AirQuality(folder, station) for station in ("Huairou", "Wanliu")]
    assert all(25_000 < device.examples() < 30_000 for device in devices)
    weights = trained(devices, rounds=2, epochs=1)
    for device in devices:
        metrics = device.evaluate(weights).metrics
        assert metrics["rmse"] < 40  # ug/m3; the mean alone is 70 to 80 off
        assert metrics["mae"] < metrics["rmse"]


def test_cifars_lenet_learns_something_in_one_round() -> None:
    device = Cifar10(str(real_data("cifar10")), shares=10)
    weights = trained([device], rounds=1, epochs=2, learning_rate=0.01)
    assert device.evaluate_held_out(weights).metrics["accuracy"] > 0.2
