"""Which task the demo gives to which device."""

from pathlib import Path

import pytest

from components.trainer.errors import ConfigurationError
from fedgrass.console.key_values import parse_key_values
from fedgrass.federation.errors import SettingsError
from fedgrass.local.demo_task import DemoTask
from tests.unit.published_files import write_mnist


def test_each_device_gets_its_share_of_a_task_that_deals(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_mnist(tmp_path / "mnist")
    monkeypatch.chdir(tmp_path)
    task = DemoTask("mnist", None, 6, {"folder": "mnist", "model": "mlp"})
    own = {"folder": str(tmp_path / "mnist"), "model": "mlp"}
    assert task.configuration(4) == {"mnist": {**own, "share": 4, "shares": 6}, "digits": {"enabled": False}}
    assert task.get().examples() == 8


def test_a_task_of_ones_own_deals_for_itself(tmp_path: Path) -> None:
    task = DemoTask("cracks=cracks:Cracks", tmp_path, 6, {"points": 3})
    options = {"module": "cracks:Cracks", "path": str(tmp_path), "points": 3}
    assert task.configuration(4)["cracks"] == options


def test_a_task_that_cannot_be_made_is_told_as_soon_as_it_is_known(tmp_path: Path) -> None:
    task = DemoTask("cracks=nowhere_at_all:Cracks", tmp_path, 6)
    with pytest.raises(ConfigurationError, match="nowhere_at_all"):
        task.get()
    with pytest.raises(ConfigurationError, match="nowhere_at_all"):
        task.raise_if_failed()


def test_values_are_read_as_in_a_configuration() -> None:
    pairs = ["share=3", "alpha=0.5", "fast=true", "folder=/a=b", "name=null", "list=[1]", "empty="]
    assert parse_key_values("--option", pairs) == {
        "share": 3,
        "alpha": 0.5,
        "fast": True,
        "folder": "/a=b",
        "name": "null",
        "list": "[1]",
        "empty": "",
    }


@pytest.mark.parametrize("pair", ["folder", "=x", ""])
def test_a_pair_that_is_none_is_named(pair: str) -> None:
    with pytest.raises(SettingsError, match=f"--option '{pair}' is none"):
        parse_key_values("--option", [pair])
