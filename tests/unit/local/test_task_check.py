"""``fedgrass task new``, ``check`` and ``weights``: what an operator sees of a custom task."""

import itertools
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest

from fedgrass.federation.errors import SettingsError
from fedgrass.federation.weights import decode
from fedgrass.local.new_task import class_of, write_task
from fedgrass.local.task_check import CheckOptions, check_task

NUMBERS = itertools.count()
HEAD = """
import numpy as np
import torch
from torch import nn
from torch.utils.data import TensorDataset
from components.trainer.tasks.task import Evaluation, Fit
from components.trainer.training import TorchTask, TrainingSettings

INPUTS = torch.randn(400, 4, generator=torch.Generator().manual_seed(0))
DATA = TensorDataset(INPUTS, (INPUTS[:, 0] > 0).long())
"""
SOUND = """
class Own(TorchTask):
    def __init__(self):
        super().__init__(lambda: nn.Linear(4, 2), DATA, DATA)
"""
LINE = '''
class Own:
    """Halves its weight each time; what is changed is changed below it."""
    def examples(self):
        return 10
    def initial_weights(self, seed):
        return {"w": np.ones(3, np.float32)}
    def evaluate(self, weights):
        return Evaluation(5, {"loss": float(weights["w"].sum())})
    def fit(self, weights, settings, report, stop):
        report(1.0)
        return Fit({"w": weights["w"] / np.float32(2)}, 10, partial=stop())
'''


def check(folder: Path, text: str, **options: object) -> tuple[int, str]:
    """Write a task and check it; return the exit code and the output."""
    module = f"checked_task_{next(NUMBERS)}"  # a unique name: Python caches imported modules
    (folder / f"{module}.py").write_text(text)
    said: list[str] = []
    code = check_task(CheckOptions(name=f"{module}:Own", path=folder, **options), said.append)  # type: ignore[arg-type]
    return code, "\n".join(said)


def line_of(text: str, part: str) -> int:
    return next(number for number, line in enumerate(text.splitlines(), 1) if part in line)


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "fedgrass.console.main", "task", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=100, check=False)


# --- task new


@pytest.mark.slow
def test_a_new_task_passes_its_check_and_its_own_test(tmp_path: Path) -> None:
    made = run(tmp_path, "new", "wind-power")
    assert made.returncode == 0, made.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["test_wind_power.py", "wind_power.py"]
    command = made.stdout.splitlines()[1].split()
    assert command == ["fedgrass", "task", "check", "wind_power:WindPower"]
    checked = run(tmp_path, *command[2:])
    assert checked.returncode == 0, checked.stdout
    assert "FAIL" not in checked.stdout
    tests = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-o", "addopts=", "."]
    tested = subprocess.run(tests, cwd=tmp_path, capture_output=True, text=True, timeout=100, check=False)
    assert "5 passed" in tested.stdout, tested.stdout


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / "test_cracks.py").write_text("mine")
    with pytest.raises(SettingsError, match=r"test_cracks\.py exists already"):
        write_task("cracks", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["test_cracks.py"]
    assert (tmp_path / "test_cracks.py").read_text() == "mine"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("Cracks", "cannot name a task"),
        ("../cracks", "cannot name a task"),
        ("class", "is a keyword of Python"),
        ("json", "the Python module 'json' exists already"),
        ("digits", "built-in task"),
    ],
)
def test_a_name_that_cannot_be_used_is_refused_with_the_reason(tmp_path: Path, name: str, text: str) -> None:
    with pytest.raises(SettingsError, match=text):
        write_task(name, tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = run(tmp_path, "new", "cracks", "--folder", "file/inside")
    assert done.returncode != 0
    assert re.search(r"fedgrass: .*file.*: (Not a directory|File exists)", done.stderr)
    assert "Traceback" not in done.stderr


def test_the_class_is_named_as_classes_are() -> None:
    assert (class_of("cracks"), class_of("wind-power_2")) == ("Cracks", "WindPower2")


# --- task check: sound tasks


def test_a_sound_torch_task_is_checked_and_priced(tmp_path: Path) -> None:
    code, said = check(tmp_path, HEAD + SOUND, examples=64)
    assert code == 0, said
    for part in (
        "400 to train on, 64 of them used",
        "2 arrays, 10 values",
        "finite for all 2 parameters",
        "accuracy",
        "the loss fell from",
        "stopped 0.",
        "memory: ",
        "per round: ",
    ):
        assert part in said


def test_a_sound_numpy_task_is_checked_without_gradients(tmp_path: Path) -> None:
    code, said = check(tmp_path, HEAD + LINE)
    assert code == 0, said
    assert "the loss fell from 3 to 1.5 in 1 fit" in said
    assert "gradients" not in said


def test_options_and_settings_reach_the_task(tmp_path: Path) -> None:
    text = HEAD + LINE.replace(
        "def examples", "def __init__(self, many, folder):\n        self._many = many\n    def examples"
    )
    text = text.replace("return 10\n", "return self._many\n").replace("/ np", "/ settings['by'] / np")
    code, said = check(tmp_path, text, options={"many": 77, "folder": "/d"}, settings={"by": 2})
    assert code == 0, said
    assert "77 to train on" in said
    assert "from 3 to 0.75" in said


@pytest.mark.slow
def test_a_built_in_task_is_checked_by_its_name(tmp_path: Path) -> None:
    done = run(tmp_path, "check", "digits", "--option", "share=1", "--option", "shares=6", "--examples", "64")
    assert done.returncode == 0, done.stdout
    assert "216 to train on, 64 of them used here" in done.stdout


def test_a_task_that_learns_nothing_fails_its_check(tmp_path: Path) -> None:
    code, said = check(tmp_path, HEAD + LINE.replace("/ np.float32(2)", "* 1"))
    assert code == 1
    assert "FAIL  training: the loss did not fall in 10 fits: 3 before, 3 after" in said


# --- task check: mistakes


@pytest.mark.parametrize(
    ("text", "place", "said"),
    [
        ("def broken(:\n", "def broken", "SyntaxError"),
        ("import no_such_library\n", "import no_such", "No module named 'no_such_library'"),
        (
            "class Own:\n    def __init__(self):\n        open('/no/such/file')\n",
            "open(",
            "FileNotFoundError: .*No such file",
        ),
        (HEAD + LINE.replace("return 10\n", "return 10 / zero\n"), "zero", "NameError: name 'zero'"),
        (HEAD + LINE.replace("/ np", "@ np.ones(7) / np"), "np.ones(7)", "ValueError: matmul"),
        (
            HEAD + LINE.replace("report(1.0)", 'weights["w"][0] = 1'),
            'weights["w"][0] = 1',
            "read-only",
        ),
        (HEAD + LINE.replace("return 10\n", "raise SystemExit(3)\n"), "SystemExit", "SystemExit: 3"),
    ],
)
def test_a_mistake_is_reported_with_its_file_and_line(
    tmp_path: Path, text: str, place: str, said: str
) -> None:
    code, told = check(tmp_path, text)
    assert code > 0
    last = told.splitlines()[-1]
    assert re.search(rf"checked_task_\d+\.py:{line_of(text, place)}: .*{said}", last), told
    assert "Traceback" not in told


def torch_task(make_model: str = "nn.Linear(4, 2)", training: str = "DATA", more: str = "") -> str:
    return HEAD + textwrap.dedent(f"""
        class Own(TorchTask):
            def __init__(self):
                super().__init__(lambda: {make_model}, {training}, DATA{more})
        """)


@pytest.mark.parametrize(
    ("text", "code", "said"),
    [
        (torch_task("nn.Linear(5, 2)"), 1, r"gradients: .*mat1 and mat2.*inputs torch.float32 \(32, 4\)"),
        (torch_task("nn.Linear(4, 1)"), 1, r"gradients: .*targets torch.int64 \(32,\)"),
        (torch_task(training="TensorDataset(INPUTS[:0], INPUTS[:0])"), 1, r"examples\(\) returns 0"),
        (torch_task(training="TensorDataset(INPUTS / 0, DATA.tensors[1])"), 1, "gradient that is not finite"),
        (
            torch_task(more=", defaults=TrainingSettings(learning_rate=1e-30)"),
            1,
            "did not fall in 10 epochs.*learning rate",
        ),
        (
            torch_task(more=", loss=lambda outputs, targets: torch.zeros((), requires_grad=True)"),
            1,
            "no parameter",
        ),
        (torch_task("nn.Linear(4, 2).to(torch.float8_e5m2)"), 1, "torch.float8_e5m2"),
        (torch_task("nn.Linear(4, 2).bfloat16()"), 0, "the loss fell from"),
        (HEAD + LINE.replace("np.ones(3, np.float32)", "[1, 2]"), 1, "'w' as a list; it takes numpy arrays"),
        (
            HEAD + LINE.replace("np.ones(3, np.float32)", "np.random.rand(3)"),
            1,
            r"returns different values for the same seed",
        ),
        (HEAD + LINE.replace("np.ones(3, np.float32)", "np.full(3, np.nan)"), 1, "not finite"),
        (HEAD + LINE.replace("np.ones(3, np.float32)", "np.ones(3, np.complex64)"), 1, "weights: "),
        (HEAD + LINE.replace('"w": weights["w"]', '"v": weights["w"]'), 1, "array 'v' is not in the model"),
        (HEAD + LINE.replace("np.float32(2)}", "2.0 * np.ones(1)}"), 1, "array 'w' has the type F64"),
        (HEAD + LINE.replace("Fit({", "({").replace(", partial=stop()", ""), 1, r"fit\(\) returns a tuple"),
        (HEAD + LINE.replace("return Evaluation(5, {", "return (5, {"), 1, r"evaluate\(\) returns a tuple"),
        (HEAD + LINE.replace('float(weights["w"].sum())', '"low"'), 1, "cannot be sent"),
        (HEAD + LINE.replace('float(weights["w"].sum())', 'float("inf")'), 1, "'loss' is inf"),
        (HEAD + LINE.replace("report(1.0)", "report(100)"), 1, r"report\(\) was called with 100"),
        (
            HEAD + LINE.replace("def evaluate", "def evaluation"),
            2,
            "no method 'evaluate'; a task needs initial_weights",
        ),
        (
            HEAD + LINE.replace("class Own", "class Other"),
            2,
            r"has no attribute 'Own' \(the module is .*\.py\)",
        ),
        (HEAD + LINE.replace("class Own", "class Owner"), 2, r"'Own'; did you mean 'Owner'\? \(the module"),
        (
            HEAD + "class Own:\n    def __init__(self, file):\n        pass\n",
            2,
            "missing a required argument: 'file'",
        ),
    ],
)
def test_a_task_that_a_fleet_cannot_use_is_explained(tmp_path: Path, text: str, code: int, said: str) -> None:
    found, told = check(tmp_path, text)
    assert re.search(said, told), told
    assert found == code
    assert "Traceback" not in told


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (HEAD + LINE.replace(", partial=stop()", ""), "note  stopping: the training ignores stop"),
        (HEAD + LINE.replace("report(1.0)", "assert not stop()"), "ok    stopping: the training ends by"),
        (HEAD + LINE.replace('"loss"', '"error"'), "note  evaluation: error 3, but none is called 'loss'"),
        (HEAD + LINE.replace("Evaluation(5", "Evaluation(0"), "note  evaluation: no held-out examples"),
        (
            torch_task("nn.ModuleList([nn.Linear(4, 2), nn.Linear(4, 2)])")
            .replace(
                "class Own",
                "class Half(nn.Module):\n    def __init__(self):\n        super().__init__()\n"
                "        self.used, self.idle = nn.Linear(4, 2), nn.Linear(4, 2)\n"
                "    def forward(self, x):\n        return self.used(x)\n\nclass Own",
            )
            .replace("nn.ModuleList([nn.Linear(4, 2), nn.Linear(4, 2)])", "Half()"),
            "note  gradients: finite, but these do not contribute to the loss: idle.weight, idle.bias",
        ),
        (
            torch_task(
                "nn.Linear(4, 1)", "TensorDataset(INPUTS, INPUTS[:, 0])", ", loss=nn.functional.mse_loss"
            ).replace(", DATA, ", ", TensorDataset(INPUTS, INPUTS[:, 0]), "),
            "note  warning of a library: Using a target size",
        ),
    ],
)
def test_what_a_person_has_to_judge_is_a_note(tmp_path: Path, text: str, said: str) -> None:
    code, told = check(tmp_path, text)
    assert said in told
    assert code == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["check", "cracks"], "there is no task 'cracks': built-in tasks are digits"),
        (["check", "no-module:Own"], "spelled package.module:ClassName"),
        (["check", "absent:Own"], "No module named 'absent'"),
        (["check", "mnist"], "download MNIST from https://"),
        (["check", "digits", "--option", "share"], "--option is 'share'; it takes KEY=VALUE"),
        (["check", "digits", "--examples", "none"], "'none' is not a whole number"),
    ],
)
def test_a_mistake_on_the_command_line_is_one_sentence(
    tmp_path: Path, arguments: list[str], said: str
) -> None:
    done = run(tmp_path, *arguments)
    assert done.returncode in (1, 2)
    assert said in done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr


# --- task weights


@pytest.mark.slow
def test_the_initial_model_is_written_as_the_task_draws_it_from_the_seed(tmp_path: Path) -> None:
    (tmp_path / "drawn_task.py").write_text(
        HEAD
        + LINE.replace(
            'return {"w": np.ones(3, np.float32)}',
            'return {"w": np.random.default_rng(seed).normal(size=3).astype(np.float32)}',
        )
    )
    for seed, out in (("0", "a"), ("0", "b"), ("7", "c")):
        done = run(tmp_path, "weights", "drawn_task:Own", "--seed", seed, "--out", out)
        assert done.returncode == 0, done.stderr
    one, same, other = (decode((tmp_path / out).read_bytes())["w"] for out in "abc")
    assert one.tolist() == same.tolist() == np.random.default_rng(0).normal(size=3).astype("f4").tolist()
    assert other.tolist() != one.tolist()


@pytest.mark.slow
def test_options_reach_the_task_whose_initial_model_is_written(tmp_path: Path) -> None:
    out = tmp_path / "0.safetensors"
    done = run(tmp_path, "weights", "noise", "--option", "megabytes=0.001", "--out", str(out))
    assert done.stdout == f"wrote {out} ({out.stat().st_size:,} bytes): the initial model of noise\n"
    assert sum(array.size for array in decode(out.read_bytes()).values()) == 250


@pytest.mark.slow
def test_a_file_that_is_there_is_not_overwritten_by_an_initial_model(tmp_path: Path) -> None:
    out = tmp_path / "0.safetensors"
    out.write_bytes(b"mine")
    done = run(tmp_path, "weights", "noise", "--out", str(out))
    assert done.returncode == 1
    assert done.stderr == (
        f"fedgrass: {out} exists already and is not overwritten: choose another --out, or remove it first\n"
    )
    assert out.read_bytes() == b"mine"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["cracks"], "there is no task 'cracks': built-in tasks are digits"),
        (["absent:Own"], "No module named 'absent'"),
        (["noise", "--option", "size=3"], "it takes: "),
        (["noise", "--seed", "-1"], "'-1' is not a whole number from 0"),
        (["noise", "--out", "nowhere/0.safetensors"], "there is no folder nowhere"),
        (["failing_task:Own"], "failing_task.py:17: ZeroDivisionError"),
        (["unsteady_task:Own"], "returns different values for the same seed"),
    ],
)
def test_an_initial_model_that_cannot_be_drawn_is_explained_in_one_sentence(
    tmp_path: Path, words: list[str], said: str
) -> None:
    line = 'return {"w": np.ones(3, np.float32)}'
    for name, body in (("failing", "return 1 / 0"), ("unsteady", 'return {"w": np.random.rand(3)}')):
        (tmp_path / f"{name}_task.py").write_text(HEAD + LINE.replace(line, body))
    done = run(tmp_path, "weights", "--out", "0.safetensors", *words)
    assert done.returncode in (1, 2)
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "0.safetensors").exists()
