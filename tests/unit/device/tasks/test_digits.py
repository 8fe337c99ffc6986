"""The built-in digits task: its split, its options, and what it learns."""

import subprocess
import sys

import numpy as np
import pytest

from components.runtime.component_errors import ConfigurationError
from components.trainer.tasks.digits import Digits, read_digits
from components.trainer.tasks.registry import load_task
from tests.fakes.small_average import SmallAverage


def never() -> bool:
    return False


def test_the_digits_are_scikit_learns() -> None:
    images, labels = read_digits()
    assert images.shape == (1797, 1, 8, 8)
    assert float(images.max()) == 1.0
    assert np.bincount(labels.numpy()).tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]


@pytest.mark.slow
def test_reading_the_digits_does_not_import_scikit_learn() -> None:
    code = (
        "import sys; from components.trainer.tasks.digits import Digits; Digits();"
        "sys.exit('sklearn' in sys.modules or 'scipy' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 0


@pytest.mark.slow
@pytest.mark.parametrize("shares", [1, 6, 50])
def test_the_shares_together_are_all_but_the_held_out(shares: int) -> None:
    devices = [Digits(share=share, shares=shares) for share in range(shares)]
    weights = devices[0].initial_weights(0)
    assert devices[0].evaluate_held_out(weights).examples == 359
    used = sum(device.examples() + device.evaluate(weights).examples for device in devices)
    assert used == 1797 - 359


def test_every_share_has_images_to_evaluate_on() -> None:
    device = Digits(share=3, shares=6)
    assert device.evaluate(device.initial_weights(0)).examples == 24
    assert device.examples() == 216


def test_the_digits_can_be_dealt_one_class_per_device() -> None:
    device = Digits(share=0, shares=10, split="label")
    assert 120 < device.examples() < 140


@pytest.mark.parametrize(("share", "shares"), [(6, 6), (-1, 6), (0, 0), (0, 1000), ("one", 6)])
def test_an_impossible_share_is_refused(share: int | str, shares: int) -> None:
    with pytest.raises(ConfigurationError, match="digits"):
        Digits(share=share, shares=shares)


def test_an_unknown_option_is_refused_with_the_options_there_are() -> None:
    with pytest.raises(ConfigurationError, match="it takes: share, shares"):
        load_task("digits", {"shard": 1})


def test_options_may_be_spelled_as_strings() -> None:
    assert load_task("digits", {"share": "5", "shares": "6"}).examples() == 215


def test_the_same_seed_gives_the_same_initial_weights() -> None:
    first, second, other = (Digits().initial_weights(seed) for seed in (1, 1, 2))
    assert all(np.array_equal(first[name], second[name]) for name in first)
    assert any(not np.array_equal(first[name], other[name]) for name in first)


@pytest.mark.slow
def test_six_devices_learn_the_digits_in_five_rounds() -> None:
    devices = [Digits(share=share, shares=6) for share in range(6)]
    run = SmallAverage(devices[0].initial_weights(0))
    for number in range(5):
        fits = [device.fit(run.model, {"seed": number}, lambda _: None, never) for device in devices]
        run.round([fit.weights for fit in fits], examples=[fit.examples for fit in fits])
    judged = devices[0].evaluate_held_out(run.model)
    assert judged.examples == 359
    assert judged.metrics["accuracy"] >= 0.97
