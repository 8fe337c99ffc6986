"""The site on which the commands of the pages are run: three devices, and the files of an author."""

import contextlib
import io
import pickle
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
import torch

import package
from components.trainer.tasks.digits import Digits
from fedgrass.console import main, stack
from fedgrass.federation.errors import FedgrassError
from fedgrass.local.testbed import Testbed, open_testbed
from tests.e2e.processes import wait_until

_GROUPS = ("presses", "greenhouses")
_PUMPS = """
import numpy as np
from components.trainer.trees import XGBoostTask

class Pumps(XGBoostTask):
    def __init__(self) -> None:
        table = np.random.default_rng(0).random((60, 3))
        data = (table, (table[:, 0] > 0.5).astype(float))
        super().__init__(training=data, held_out=data, objective="binary:logistic")
"""


@dataclass(frozen=True)
class Done:
    """A command that has ended."""

    code: int
    out: str
    err: str


@dataclass(frozen=True)
class Site:
    """A running testbed, and a folder with the files that the pages' commands name."""

    testbed: Testbed
    files: Path


def run(*words: str) -> Done:
    """Carry out a ``fedgrass`` command in this process, as its entry point does, without a terminal."""
    out, err = io.StringIO(), io.StringIO()
    code: object = 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["fedgrass", *words])
        patch.setattr(sys, "stdin", io.StringIO())
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                main.command()
            except SystemExit as ended:
                code = ended.code or 0
    if isinstance(code, str):
        return Done(1, out.getvalue(), f"{err.getvalue()}{code}\n")
    assert isinstance(code, int)
    return Done(code, out.getvalue(), err.getvalue())


def block_of(page: str, after: str, language: str = "") -> str:
    """Return the first code block of a page after a text."""
    text = (package.ROOT / "docs" / page).read_text(encoding="utf-8")
    found = re.search(rf"```{language}\n(.*?)```", text[text.index(after) :], re.DOTALL)
    assert found, (page, after)
    return found[1]


def write_files(folder: Path) -> None:
    """Write the files that the pages' commands read, where a page has their content as it has it."""
    with contextlib.chdir(folder):
        assert run("task", "new", "cracks").code == 0
    cracks = (folder / "cracks.py").read_text()
    partial = cracks.replace("defaults=", 'shared="2.*",\n            frozen="*",\n            defaults=')
    fixed = "nn.init.ones_(frozen.weight)\n    nn.init.ones_(frozen.bias)"  # equal on all devices
    layers = "    return nn.Sequential(nn.Linear(2, 32)"
    assert layers in partial
    partial = partial.replace(
        layers, f"    frozen = nn.Linear(2, 32)\n    {fixed}\n    return nn.Sequential(frozen"
    )
    (folder / "words.py").write_text(partial.replace("Cracks", "Words"))
    (folder / "pumps.py").write_text(_PUMPS)
    (folder / "tasks").mkdir()
    shutil.copyfile(folder / "cracks.py", folder / "tasks" / "cracks.py")
    shutil.copytree(package.ROOT / "tests" / "apps" / "numpy_mean", folder / "my-app")
    strategy = block_of("aggregation.md", "$ fedgrass deploy cloud --strategy", "python")
    (folder / "cautious.py").write_text(strategy)
    (folder / "my_module.py").write_text(strategy)
    (folder / "settings.toml").write_text(block_of("runs.md", "`settings.toml`:", "toml"))
    (folder / "devices.csv").write_text(block_of("devices.md", "`devices.csv` is a CSV file"))
    (folder / "presses.yaml").write_text("trainer:\n  tasks:\n    digits: {}\n")
    safetensors.numpy.save_file(dict(Digits().initial_weights(seed=0)), folder / "0.safetensors")
    layer = torch.nn.Sequential(torch.nn.Linear(2, 32), torch.nn.ReLU(), torch.nn.Linear(32, 2))
    torch.save(layer.state_dict(), folder / "resnet.pt")
    safetensors.numpy.save_file({"other": np.ones(3, np.float32)}, folder / "unfit.safetensors")
    (folder / "old.pkl").write_bytes(pickle.dumps({"weight": np.ones((2, 2), np.float32)}))


@contextmanager
def open_site() -> Iterator[Site]:
    """Start the site, and make it the one that commands of this process use."""
    with tempfile.TemporaryDirectory() as name, pytest.MonkeyPatch.context() as patch:
        folder = Path(name)
        things = {
            f"press-{number}": {
                "tasks": {"digits": {"share": share, "shares": 3}, "noise": {}},
                "attributes": {"site": "berlin", "network": "wifi", "battery": battery},
            }
            for share, (number, battery) in enumerate([(1, 80), (2, 80), (7, 10)])
        }
        frequent = {"heartbeat_seconds": 5}
        with open_testbed(folder, {thing: one | frequent for thing, one in things.items()}) as testbed:
            for variable, value in testbed.cloud.environment().items():
                patch.setenv(variable, value)
            stack.client.cache_clear()
            iot = testbed.cloud.client("iot")
            for group in _GROUPS:
                iot.create_thing_group(thingGroupName=group)
                for thing in things:
                    iot.add_thing_to_thing_group(thingGroupName=group, thingName=thing)
            files = folder / "files"
            files.mkdir()
            write_files(files)
            yield Site(testbed, files)
            stack.client.cache_clear()


def train(site: Site, name: str) -> None:
    """Run a run of three rounds to its end."""
    with contextlib.chdir(site.files):
        words = (name, "task=digits", "rounds=3", 'training={"epochs": 1}', "--model", "0.safetensors")
        started = run("run", "start", *words)
    assert started.code == 0, started
    await_state(site, name, "SUCCEEDED")


def await_state(site: Site, name: str, state: str) -> None:
    """Wait until a run is in a state."""
    wait_until(lambda: site.testbed.operator.run(name).state == state, f"{name} to be {state}", 120)


def free_name(site: Site, name: str) -> str:
    """Return a name for a new run: this one, or with a number if there is such a run."""
    taken = site.testbed.operator.runs()
    names = (f"{name}-again-{number}" if number else name for number in range(1000))
    return next(one for one in names if one not in taken)


def cancel_runs(site: Site) -> None:
    """Cancel all runs that have not ended."""
    for name, state in site.testbed.operator.runs().items():
        if state in {"RUNNING", "PAUSED"}:
            with contextlib.suppress(FedgrassError):  # it has ended meanwhile
                site.testbed.operator.act("cancel", name)


def run_for(site: Site, action: str) -> str:
    """Return the name of a new run on which an action is possible."""
    name = free_name(site, "live")
    model = "unfit.safetensors" if action == "retry" else "0.safetensors"
    by_hand = [] if action == "retry" else ["schedule=by_hand"]
    with contextlib.chdir(site.files):
        started = run("run", "start", name, "task=digits", *by_hand, "--model", model)
    assert started.code == 0, started
    if action == "retry":
        await_state(site, name, "FAILED")
    if action == "resume":
        site.testbed.operator.act("pause", name)
    return name
