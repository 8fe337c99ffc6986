"""The commands with which docs/flower.md tries an app on this machine, run as a user runs them."""

import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("flwr", reason="Flower is not installed: pip install -e '.[flower]' -c constraints.txt")
from tests.e2e.processes import command

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "flower.md").read_text()
NUMBERS = re.compile(r"\d[\d.,]*")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with the app of the tests as ``my-app``, whose project and package are called my_app."""
    shutil.copytree(ROOT / "tests" / "apps" / "numpy_mean", tmp_path / "my-app")
    (tmp_path / "my-app" / "numpy_mean").rename(tmp_path / "my-app" / "my_app")
    for file in [*(tmp_path / "my-app").rglob("*.py"), tmp_path / "my-app" / "pyproject.toml"]:
        file.write_text(file.read_text().replace("numpy_mean", "my_app"))
    return tmp_path


def shown(beginning: str) -> list[str]:
    """Return the words of a command of the page, without ``fedgrass``."""
    (line,) = [line for line in PAGE.splitlines() if line.removeprefix("$ ").startswith(beginning)]
    return shlex.split(line.removeprefix("$ "))[1:]


def test_the_check_prints_what_the_page_shows(folder: Path) -> None:
    with command(folder, *shown("fedgrass flower check my-app")) as check:
        assert check.wait() == 0, check.said()
        said = check.said()
    block = PAGE[PAGE.index("$ fedgrass flower check my-app") :].split("```")[0]
    expected = block.splitlines()[1:]
    assert [NUMBERS.sub("#", line) for line in said.splitlines()] == [
        NUMBERS.sub("#", line) for line in expected
    ]


@pytest.mark.parametrize("way", ["--devices 3", "--devices 3 --server-app"])
def test_the_demo_trains_the_app_in_both_ways(folder: Path, way: str) -> None:
    line = f"fedgrass demo --task flower: --task-path my-app {way}"
    assert f"\n{line}\n" in PAGE
    fewer = ["--setting", "num-server-rounds=2"] if "server" in way else ["--rounds", "2"]
    # Fewer rounds and devices than on the page: an option given again replaces the one before.
    words = [*shlex.split(line)[1:], *fewer, "--devices", "2"]
    with command(folder, *words) as demo:
        assert demo.wait() == 0, demo.said()
        said = demo.said()
    if "server" in way:
        assert "SUCCEEDED, 4 rounds of messages" in said
        assert np.load(folder / "final_model.npz")["mean"].shape == (6,)
    runs = list((folder / "runs").iterdir())
    assert [run.name.startswith("flower-my-app-") for run in runs] == [True]
    assert (runs[0] / "history.json").exists()
