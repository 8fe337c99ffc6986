"""An app whose initial model has no values, as Flower's quickstart of XGBoost, cannot be a task."""

from pathlib import Path

import pytest

from fedgrass.federation.errors import SettingsError
from fedgrass.local.flower.flower_initial_model import initial_model_of
from tests.fakes.flower_apps import SERVER, write_app

pytestmark = pytest.mark.slow


def test_a_model_without_values_is_refused_with_the_way_out(tmp_path: Path) -> None:
    pytest.importorskip("flwr")
    assert initial_model_of(write_app(tmp_path / "whole")).model
    empty = SERVER.replace("np.ones(3,", "np.ones(0,").replace("np.zeros(()", "np.zeros(0")
    assert empty.count("(0") == 2
    with pytest.raises(SettingsError, match=r"has no values.*fedgrass flower run"):
        initial_model_of(write_app(tmp_path / "empty", server=empty))
