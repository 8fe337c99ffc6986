"""``fedgrass demo`` as an operator runs it: two at once, with the user's task, and with invalid options."""

import json
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from fedgrass.federation.weights import decode
from tests.e2e.processes import Command, command

pytestmark = pytest.mark.timeout(300)

SMALL = ("demo", "--devices", "2", "--rounds", "2", "--task", "noise")
OWN_TASK = """
from pathlib import Path

from components.trainer.tasks.noise import Noise

HERE = Path(__file__).parent


class Cracks(Noise):
    def fit(self, *given):
        assert HERE.parent.name == "releases", f"the code came from {HERE}"
        assert (HERE / "labels.txt").read_text() == "crack"
        return super().fit(*given)
"""
# A developer's environment that nothing of the demo may take over.
PROXY = dict.fromkeys(
    ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"), "http://127.0.0.1:9"
)
ASCII_ONLY = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
HOSTILE = {**PROXY, **ASCII_ONLY, "no_proxy": "intranet.example"}


@dataclass(frozen=True)
class Ended:
    """A demo that has ended by itself."""

    code: int
    said: str
    processes: int
    left: list[str]
    run: Path

    @property
    def history(self) -> Mapping[str, Any]:
        found: Mapping[str, Any] = json.loads((self.run / "history.json").read_text())
        return found


@pytest.fixture(scope="module")
def demos(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Ended]:
    """Two demos at the same time, by profile: each with the user's task and devices without Greengrass.

    The classic one has two of these and a hostile environment; the lite one has one, and no last evaluation.
    """
    folder = tmp_path_factory.mktemp("demos")
    source = folder / "source"
    source.mkdir()
    (source / "cracks.py").write_text(OWN_TASK)
    (source / "labels.txt").write_text("crack")
    own = ("--task", "cracks=cracks:Cracks", "--task-path", str(source), "--task-include", "labels.txt")
    small = ("demo", "--devices", "2", "--rounds", "2", *own)
    lite = ("--mqtt-devices", "1", "--profile", "lite", "--setting", "evaluate_last=false")
    with (
        command(folder / "classic", *small, "--mqtt-devices", "2", environment=HOSTILE) as first,
        command(folder / "lite", *small, *lite) as second,
    ):
        for demo in (first, second):
            demo.wait_for("opened")
            demo.look()
        return {"classic": _ended(first, folder / "classic"), "lite": _ended(second, folder / "lite")}


def _ended(demo: Command, folder: Path) -> Ended:
    code = demo.wait()
    assert code == 0, demo.said()
    (run,) = (folder / "runs").iterdir()
    return Ended(code, demo.said(), len(demo.seen), demo.left_behind(), run)


@pytest.mark.parametrize("profile", ["classic", "lite"])
def test_two_demos_side_by_side_train_and_leave_nothing_but_their_runs(
    demos: Mapping[str, Ended], profile: str
) -> None:
    demo = demos[profile]
    assert demo.left == []
    assert demo.processes, "the demo started no process: it cannot have run the fleet"
    assert sorted(path.name for path in demo.run.iterdir()) == [
        "accuracy.png",
        "history.json",
        "model.safetensors",
    ]
    assert set(decode((demo.run / "model.safetensors").read_bytes())) == {"body", "bias"}
    assert demo.history["rounds"][-1]["metrics"]["loss"] > 0
    assert demo.history["state"] == "SUCCEEDED"


def test_the_last_model_is_evaluated_too_because_no_training_round_measures_it(
    demos: Mapping[str, Ended],
) -> None:
    works = {
        name: [(line["work"], line["base"]) for line in of.history["rounds"]] for name, of in demos.items()
    }
    trained = [("train", 0), ("train", 1)]
    assert works == {"classic": [*trained, ("evaluate", 2)], "lite": trained}
    assert "model 2, evaluated by 4 devices on their own data: loss" in demos["classic"].said


def test_devices_without_greengrass_train_with_the_cores(demos: Mapping[str, Ended]) -> None:
    assert "opened: 4 devices asked" in demos["classic"].said
    assert "2 Greengrass cores (classic) run" in demos["classic"].said
    assert "2 devices without Greengrass run it with plain MQTT" in demos["classic"].said
    assert [line["replied"] for line in demos["classic"].history["rounds"]] == [4, 4, 4]


@pytest.mark.parametrize("profile", ["classic", "lite"])
def test_a_users_task_reaches_all_devices_as_a_component(demos: Mapping[str, Ended], profile: str) -> None:
    """Its `fit` fails wherever its code or its file did not come by the component."""
    replied = [line["replied"] for line in demos[profile].history["rounds"]]
    assert replied == {"classic": [4, 4, 4], "lite": [3, 3]}[profile]


def test_the_developers_proxy_and_locale_reach_no_process_of_the_demo(demos: Mapping[str, Ended]) -> None:
    assert "run SUCCEEDED" in demos["classic"].said
    assert "proxy" not in demos["classic"].said
    assert "codec" not in demos["classic"].said


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--task", "nonsense"), ["'nonsense'", "digits"]),
        (("--devices", "0"), ["--devices", "'0'", "1 to 512"]),
        (("--devices", "1000"), ["--devices", "'1000'", "1 to 512"]),
        (("--mqtt-devices", "-1"), ["--mqtt-devices", "'-1'", "0 to 512"]),
        (("--mqtt-devices", "511"), ["517 devices", "1 to 512"]),
        (("--rounds", "0"), ["rounds", "1"]),
        (("--profile", "heavy"), ["heavy", "classic", "lite"]),
    ],
)
def test_a_mistake_is_reported_in_a_line_with_the_way_out(
    tmp_path: Path, arguments: tuple[str, ...], words: list[str]
) -> None:
    with command(tmp_path, "demo", *arguments) as demo:
        assert demo.wait() == 2
        assert "Traceback" not in demo.said()
        for word in words:
            assert word in demo.said()


@pytest.mark.parametrize("option", ["--gateway-port", "--mqtt-port"])
def test_a_busy_port_is_named(tmp_path: Path, option: str) -> None:
    with socket.socket() as busy:
        busy.bind(("127.0.0.1", 0))
        busy.listen()
        port = str(busy.getsockname()[1])
        with command(tmp_path, *SMALL, option, port) as demo:
            assert demo.wait() == 2
            assert port in demo.said()
            assert "Traceback" not in demo.said()
            assert demo.left_behind() == []
