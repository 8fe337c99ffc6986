"""The wheel suffices to deploy and to run the demo, without a checkout."""

import os
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest

import package

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A new environment with the wheel and the libraries of this environment, without the checkout."""
    folder = tmp_path_factory.mktemp("wheel")
    isolation: list[str] = ["--no-build-isolation"] if find_spec("hatchling") else []
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", *isolation]
    subprocess.run([*build, "--wheel-dir", folder, package.ROOT], check=True, timeout=280)
    venv.create(folder / "venv", with_pip=True)
    python = folder / "venv" / "bin" / "python"
    (wheel,) = folder.glob("*.whl")
    subprocess.run([python, "-m", "pip", "install", "--quiet", "--no-deps", wheel], check=True, timeout=120)
    (packages,) = (folder / "venv" / "lib").glob("python*/site-packages")
    # Paths in a .pth file are searched, but .pth files in them are ignored, so the checkout stays unknown.
    (packages / "libraries.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return folder / "venv" / "bin"


@pytest.fixture
def run(installed: Path, tmp_path: Path) -> Run:
    """Run a program of the environment in an empty folder."""
    own = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "PYTHON"))}

    def run(program: str, *words: str, timeout: float = 120) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [installed / program, *words], cwd=tmp_path, env=own, timeout=timeout,
            check=False, capture_output=True, text=True,
        )  # fmt: skip

    return run


def test_nothing_is_imported_from_the_checkout(run: Run) -> None:
    code = "import fedgrass.console, fedgrass, components, cloud_functions, package; " + ";".join(
        f"print({name}.__file__)" for name in ("fedgrass", "components", "cloud_functions", "package")
    )
    said = run("python", "-c", code)
    assert said.returncode == 0, said.stderr
    assert len(said.stdout.splitlines()) == 4
    assert str(package.ROOT) + "/" not in said.stdout


def test_both_packages_are_typed(run: Run) -> None:
    code = "import fedgrass, greengrass_emulator as emulator, pathlib; " + ";".join(
        f"assert pathlib.Path({name}.__file__).with_name('py.typed').is_file()"
        for name in ("fedgrass", "emulator")
    )
    said = run("python", "-c", code)
    assert said.returncode == 0, said.stderr


def test_the_command_has_its_help_in_a_folder_with_nothing_in_it(run: Run) -> None:
    assert "deploy" in run("fedgrass", "--help").stdout
    for words in (("deploy", "cloud"), ("demo",), ("run", "start"), ("core", "run"), ("costs",)):
        said = run("fedgrass", *words, "--help")
        assert said.returncode == 0, said.stderr


def test_the_emulator_has_a_program_too(run: Run) -> None:
    said = run("greengrass-emulator", "--help")
    assert (said.returncode, "inject" in said.stdout) == (0, True), said.stderr


def test_what_it_builds_is_what_a_checkout_builds_byte_for_byte(run: Run, tmp_path: Path) -> None:
    code = (
        "import fedgrass.console, package, pathlib\n"
        "built = pathlib.Path('built')\n"
        "for name in package.COMPONENTS: package.build_component(name, '1.0.0', 'me', built)\n"
        "package.build_functions(built / 'functions.zip')"
    )
    said = run("python", "-c", code)
    assert said.returncode == 0, said.stderr
    here = tmp_path / "here"
    for name in package.COMPONENTS:
        package.build_component(name, "1.0.0", "me", here)
    package.build_functions(here / "functions.zip")
    files = [path.relative_to(here) for path in here.rglob("*") if path.is_file()]
    assert len(files) == 2 * len(package.COMPONENTS) + 1
    for file in files:
        assert (here / file).read_bytes() == (tmp_path / "built" / file).read_bytes(), file


def test_the_template_and_all_that_it_includes_are_there(run: Run) -> None:
    code = (
        "from fedgrass.console.deploy.deploy_package import packaged\n"
        "import fedgrass.console, package, pathlib\n"
        "pathlib.Path('code.zip').write_bytes(b'')\n"
        "packaged(package.ROOT / 'template.yaml', pathlib.Path('code.zip'), lambda body, ending: 's3://b/k')\n"
        "print((package.ROOT / 'provisioning' / 'fleet.yaml').is_file())"
    )
    said = run("python", "-c", code)
    assert (said.returncode, said.stdout) == (0, "True\n"), said.stderr


def test_the_demo_trains_a_model(run: Run, tmp_path: Path) -> None:
    said = run("fedgrass", "demo", "--devices", "1", "--rounds", "1", "--task", "noise", timeout=280)
    assert said.returncode == 0, said.stdout + said.stderr
    assert list(tmp_path.glob("runs/*/model.safetensors"))


def test_a_task_of_one_s_own_is_written_and_its_weights_are_drawn(run: Run, tmp_path: Path) -> None:
    assert run("fedgrass", "task", "new", "cracks").returncode == 0
    assert (tmp_path / "cracks.py").is_file()
    weights = run("fedgrass", "task", "weights", "noise", "--out", "0.safetensors")
    assert weights.returncode == 0, weights.stdout + weights.stderr
