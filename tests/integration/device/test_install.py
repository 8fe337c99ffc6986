"""The install step, run as the nucleus runs it: in the work folder, again and again."""

import ast
import hashlib
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from components.trainer import install

SCRIPT = Path(install.__file__)


def run(folder: Path, python: str, script: Path = SCRIPT) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, str(script), "--python", python],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )


def test_an_interpreter_that_has_everything_is_taken(tmp_path: Path) -> None:
    for _ in range(2):
        assert run(tmp_path, sys.executable).returncode == 0
        assert (tmp_path / "interpreter").read_text() == f"{sys.executable}\n"
    assert [path.name for path in tmp_path.iterdir()] == ["interpreter"]


@pytest.mark.parametrize("python", ["python3", "/no/such/python", "/etc"])
def test_what_is_no_interpreter_is_refused_by_name(tmp_path: Path, python: str) -> None:
    done = run(tmp_path, python)
    assert done.returncode == 1
    assert done.stderr.startswith(f"the configuration's python is '{python}'; it must be")
    assert not (tmp_path / "interpreter").exists()


def test_an_environment_is_made_once_and_found_again(tmp_path: Path) -> None:
    copy = tmp_path / "install.py"
    copy.write_bytes(SCRIPT.read_bytes())
    requirements, torch = (tmp_path / f"requirements{ending}.txt" for ending in ("", "-torch"))
    requirements.write_text("# nothing, so that this test needs no network\n")
    torch.write_text("# nothing either\n")
    work = tmp_path / "work"
    work.mkdir()
    assert run(work, "", copy).returncode == 0
    python = work / "venv" / "bin" / "python"
    assert (work / "interpreter").read_text() == f"{python}\n"
    marker = work / "venv" / "requirements.sha256"
    assert marker.read_text() == hashlib.sha256(requirements.read_bytes() + torch.read_bytes()).hexdigest()
    made = marker.stat().st_mtime_ns
    assert run(work, "", copy).returncode == 0
    assert marker.stat().st_mtime_ns == made
    requirements.write_text("# changed\n")
    assert run(work, "", copy).returncode == 0
    assert marker.stat().st_mtime_ns != made
    missing = run(work, str(python), copy)
    assert missing.returncode == 1
    assert "it does not have: awsiot, boto3" in missing.stderr
    assert "cannot run the trainer" in missing.stderr
    assert "Traceback" not in missing.stderr


@pytest.fixture
def commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """What would be run, and is not: this test needs no network."""
    ran: list[list[str]] = []

    def note(command: list[str], _seconds: float, _failure: str) -> None:
        ran.append(command)
        install.ENVIRONMENT.mkdir(exist_ok=True)
        if "--index-url" in command and "unreachable" in (tmp_path / "network").read_text():
            message = "PyTorch's own index has none"
            raise install.InstallError(message)

    (tmp_path / "network").write_text("")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(install, "_run", note)
    return ran


def test_pytorch_comes_without_its_parts_for_gpus_unless_they_are_asked_for(
    commands: list[list[str]],
) -> None:
    install.environment()
    making, torch, others = commands
    assert making[1:4] == ["-I", "-m", "venv"]
    assert torch[-5:-1] == ["--index-url", install.CPU_INDEX, "--retries", "1"]
    assert torch[-1].startswith("torch==")
    assert others[-3:] == ["--require-hashes", "-r", str(install.REQUIREMENTS)]
    assert "--index-url" not in others
    commands.clear()
    install.environment("gpu")
    # pip does not distinguish the two kinds: the environment is created again.
    assert "--clear" in commands[0]
    assert [command[-1] for command in commands[1:]] == [
        str(install.TORCH_REQUIREMENTS),
        str(install.REQUIREMENTS),
    ]


def test_where_pytorchs_own_index_is_not_reached_pips_own_is_asked(
    commands: list[list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "network").write_text("unreachable")
    install.environment()
    assert commands[-2][-3:] == ["--require-hashes", "-r", str(install.TORCH_REQUIREMENTS)]
    assert commands[-1][-1] == str(install.REQUIREMENTS)
    assert "which may be 2 GB larger" in capsys.readouterr().err


def test_nothing_around_the_step_decides_what_is_installed(commands: list[list[str]]) -> None:
    install.environment("cpu")
    install.environment("gpu")
    for command in commands:
        assert command[1] == "-I"  # neither PYTHONPATH nor the user's packages
        if "pip" in command:
            assert command[command.index("pip") + 1] == "--isolated"  # no PIP_ variable, no user's pip.conf
            assert {"--no-deps", "--only-binary"} <= set(command)
            assert "--require-hashes" in command or command[-1].startswith("torch==")


@pytest.mark.parametrize("version", [(3, 7), (3, 9), (3, 10)])
def test_a_python_that_is_too_old_is_refused_before_anything_is_made(
    version: tuple[int, int], commands: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "version_info", (*version, 1, "final", 0))
    with pytest.raises(install.InstallError, match=rf"is Python 3\.{version[1]} here.*needs 3\.11 or newer"):
        install.environment()
    assert commands == []


def test_the_step_itself_runs_on_an_older_python() -> None:
    """It has to start to report this: it uses nothing newer than Python 3.7."""
    tree = ast.parse(SCRIPT.read_text(), feature_version=(3, 7))
    built_in = {"list", "dict", "tuple", "set", "type"}
    subscripts = [node.value for node in ast.walk(tree) if isinstance(node, ast.Subscript)]
    assert not [node for node in subscripts if isinstance(node, ast.Name) and node.id in built_in]
    called = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    assert not called & {"removeprefix", "removesuffix", "is_relative_to", "readlink", "walk"}
    keywords = {node.arg for node in ast.walk(tree) if isinstance(node, ast.keyword)}
    assert not keywords & {"missing_ok", "process_group"}


def test_a_configured_interpreter_may_be_a_version_older() -> None:
    """JetPack's PyTorch is for Python 3.10."""
    assert install.OLDEST_CONFIGURED == (3, 10)
    for version, refused in (("(3, 9, 2)", True), ("(3, 10, 12)", False)):
        program = install.CHECK.replace("sys.version_info", version).replace(repr(install.MODULES), "()")
        done = subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=60
        )
        assert ("Python 3.10 or newer is required" in done.stderr) == refused == (done.returncode == 1)


@pytest.mark.parametrize("module", ["json", "no_such_torch"])
def test_a_configured_interpreter_without_pytorch_is_taken_with_a_line_in_the_log(
    module: str,
) -> None:
    program = install.CHECK.replace("'torch'", repr(module))
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0
    assert ("has no PyTorch: only tasks that do not use it can be trained" in done.stderr) == (
        module != "json"
    )


@pytest.mark.parametrize("given", ["", sys.executable])
def test_the_configured_python_may_come_as_input(given: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-I", str(SCRIPT), "--python", "-"],
        cwd=tmp_path,
        input=f"{given}\n" if given else "relative/python\n",
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )
    if given:
        assert (tmp_path / "interpreter").read_text() == f"{given}\n"
    else:
        assert done.stderr.startswith("the configuration's python is 'relative/python'; it must be")


@pytest.mark.parametrize("value", ["/usr/bin/python3; id", "/usr/bin/$(id)", "/usr/bin/python3\nid", "/a'b"])
def test_what_is_no_path_is_refused_without_being_run(value: str) -> None:
    with pytest.raises(install.InstallError, match="it must be the absolute path"):
        install.checked(value)


def older_pythons() -> list[Path]:
    """Return the interpreters of this machine that are too old, of pyenv or on the PATH."""
    found = sorted(Path.home().glob(".pyenv/versions/3.*/bin/python3"))
    found += [Path(path) for minor in range(6, 11) if (path := shutil.which(f"python3.{minor}"))]
    old = re.compile(r"3\.([6-9]|10)\b")
    found = [path for path in found if "shims" not in path.parts]  # of pyenv, which only start another one
    return [path for path in found if old.search(str(path.resolve())) or old.search(str(path))]


@pytest.mark.skipif(not older_pythons(), reason="there is no older Python on this machine")
def test_a_real_python_that_is_too_old_says_so_and_makes_nothing(tmp_path: Path) -> None:
    for python in older_pythons():
        done = subprocess.run(
            [python, "-I", str(SCRIPT), "--python", "-"],
            cwd=tmp_path,
            input="\n",
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert done.returncode == 1
        assert "needs 3.11 or newer; nothing was downloaded" in done.stderr
    assert list(tmp_path.iterdir()) == []
