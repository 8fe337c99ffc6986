"""The requirements of a task, pinned for each platform and Python next to the trainer's packages."""

from pathlib import Path

import pytest
from packaging.requirements import Requirement

from fedgrass.console.tasks.frozen_requirements import (
    PYTHONS,
    Target,
    download,
    frozen,
    read_requirements,
    resolve,
    trainer_pins,
)
from fedgrass.console.tasks.task_component import PLATFORMS
from fedgrass.federation.errors import SettingsError
from tests.fakes.wheels import write_wheel

ALL: list[Target] = [(platform, python) for platform in PLATFORMS for python in PYTHONS]
ONE: list[Target] = [("amd64", "3.12")]
PIN = "{} \\\n    --hash=sha256:0"


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An index of wheels in a folder; no other is asked."""
    folder = tmp_path / "index"
    folder.mkdir()
    for tool in ("UV", "PIP"):
        monkeypatch.setenv(f"{tool}_FIND_LINKS", str(folder))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    nothing = tmp_path / "simple"  # uv has no variable for --no-index
    nothing.mkdir()
    monkeypatch.setenv("UV_DEFAULT_INDEX", nothing.as_uri())
    for name in ("UV_INDEX", "UV_EXTRA_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_CONSTRAINT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    return folder


def requirements(tmp_path: Path, text: str) -> list[Requirement]:
    file = tmp_path / "requirements.txt"
    file.write_text(text)
    return read_requirements(file)


def names(text: str) -> list[str]:
    return [line.split(" ")[0] for line in text.splitlines() if "==" in line.split(" ")[0]]


def test_every_package_is_pinned_with_hashes_and_those_that_it_requires(tmp_path: Path, index: Path) -> None:
    write_wheel(index, "cracklib", "1.1", requires=["edges>=2"])
    write_wheel(index, "cracklib", "1.0")
    write_wheel(index, "edges", "2.5")
    text = frozen(resolve(requirements(tmp_path, "cracklib >= 1  # found\n\n# no\n"), ONE))
    assert names(text) == ["cracklib==1.1", "edges==2.5"]
    assert text.count("--hash=sha256:") == 2


def test_what_the_trainer_has_is_not_installed_again(tmp_path: Path, index: Path) -> None:
    numpy = trainer_pins()["numpy"]
    write_wheel(index, "numpy", numpy)
    write_wheel(index, "cracklib", requires=["numpy"])
    assert names(frozen(resolve(requirements(tmp_path, "cracklib\nnumpy"), ONE))) == ["cracklib==1.0"]


def test_another_version_of_a_package_of_the_trainer_is_refused_by_name(tmp_path: Path) -> None:
    numpy = trainer_pins()["numpy"]
    with pytest.raises(
        SettingsError,
        match=rf"requirements\.txt:2: 'NumPy<2' conflicts with the trainer, which has NumPy {numpy}",
    ):
        requirements(tmp_path, "cracklib\nNumPy<2\n")


def test_a_package_that_needs_another_version_is_refused_with_both_names(tmp_path: Path, index: Path) -> None:
    write_wheel(index, "numpy", trainer_pins()["numpy"])
    write_wheel(index, "numpy", "1.26.4")
    write_wheel(index, "cracklib", requires=["numpy<2"])
    with pytest.raises(
        SettingsError, match=r"cannot be met on amd64 with Python 3\.12: Because .*cracklib.*numpy"
    ):
        resolve(requirements(tmp_path, "cracklib"), ONE)


def test_a_package_without_a_wheel_for_a_platform_is_refused_with_the_platform(
    tmp_path: Path, index: Path
) -> None:
    write_wheel(index, "cracklib", tag="py3-none-manylinux_2_17_x86_64")
    wanted = requirements(tmp_path, "cracklib")
    assert names(frozen(resolve(wanted, [("amd64", "3.12")]))) == ["cracklib==1.0"]
    with pytest.raises(SettingsError, match=r"on aarch64 with Python 3\.12: .*cracklib"):
        resolve(wanted, [("amd64", "3.12"), ("aarch64", "3.12")])


def test_a_package_that_does_not_exist_is_named(tmp_path: Path, index: Path) -> None:
    assert index.is_dir()
    with pytest.raises(SettingsError, match="cracklib"):
        resolve(requirements(tmp_path, "cracklib"), ONE)


def test_bundled_files_are_those_of_all_platforms(tmp_path: Path, index: Path) -> None:
    for machine in ("x86_64", "aarch64"):
        write_wheel(index, "cracklib", tag=f"py3-none-manylinux_2_17_{machine}")
    resolved = resolve(requirements(tmp_path, "cracklib"), [("amd64", "3.12"), ("aarch64", "3.12")])
    bundle = tmp_path / "bundle"
    bundle.mkdir()
    assert [path.name for path in download(resolved, bundle)] == [
        "cracklib-1.0-py3-none-manylinux_2_17_aarch64.whl",
        "cracklib-1.0-py3-none-manylinux_2_17_x86_64.whl",
    ]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("-r other.txt", "is not a requirement"),
        ("--index-url https://example.org", "is not a requirement"),
        ("-e .", "is not a requirement"),
        ("./wheels/cracklib.whl", "is not a requirement"),
        ("cracklib @ https://example.org/cracklib.whl", "is installed from an address"),
        ("cracklib @ git+https://example.org/cracklib", "is installed from an address"),
        ("cracklib; rm -rf /", "is not a requirement"),
        ("=1", "is not a requirement"),
    ],
)
def test_what_cannot_be_pinned_is_refused_with_its_line(tmp_path: Path, line: str, words: str) -> None:
    with pytest.raises(SettingsError, match=rf"requirements\.txt:1: .* {words}"):
        requirements(tmp_path, line)


def test_a_package_that_is_the_same_everywhere_has_no_marker() -> None:
    resolved = {target: {"one": PIN.format("one==1")} for target in ALL}
    assert frozen(resolved) == "one==1 \\\n    --hash=sha256:0\n"


def test_versions_that_differ_have_markers_that_select_one_on_each_target() -> None:
    resolved = {
        (platform, python): {
            "old": PIN.format("old==1" if python == "3.11" else "old==2"),
            **({"only": PIN.format("only==1")} if platform == "amd64" else {}),
            **(
                {"odd": PIN.format("odd==1")}
                if (platform, python) in {("amd64", "3.11"), ("aarch64", "3.12")}
                else {}
            ),
        }
        for platform, python in ALL
    }
    lines = [line.removesuffix(" \\") for line in frozen(resolved).splitlines() if "==" in line.split(" ")[0]]
    for (platform, python), pins in resolved.items():
        environment = {"platform_machine": PLATFORMS[platform], "python_version": python}
        wanted = [Requirement(line) for line in lines]
        chosen = {
            str(one.name) + str(one.specifier)
            for one in wanted
            if not one.marker or one.marker.evaluate(environment)
        }
        assert chosen == {pin.split(" ")[0] for pin in pins.values()}
    assert 'only==1 ; platform_machine == "x86_64"' in lines
    assert 'old==1 ; python_version == "3.11"' in lines


def test_the_pins_are_those_of_the_trainers_install_step() -> None:
    pins = trainer_pins()
    assert {"torch", "numpy", "msgspec", "awsiotsdk", "safetensors"} <= set(pins)
