"""The zip of an app: what is written is read, and nothing leaves the folder."""

import io
import zipfile
from pathlib import Path

import pytest

from fedgrass.console.flower import app_archive
from fedgrass.console.flower.app_archive import pack, unpack
from fedgrass.federation.errors import SettingsError


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    for name, text in {"pyproject.toml": "[project]", "mean/server_app.py": "app = 1"}.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    return {name: tmp_path / name for name in ("pyproject.toml", "mean/server_app.py")}


def zipped(**entries: str) -> bytes:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as archive:
        for name, text in entries.items():
            archive.writestr(name, text)
    return target.getvalue()


def test_an_app_and_its_command_line_arrive_as_they_were(files: dict[str, Path], tmp_path: Path) -> None:
    words = ["--name", "first", "count=3", "--run-config", "lr=0.1 é"]
    target = tmp_path / "there"
    assert unpack(pack(files, words), target) == words
    found = {
        path.relative_to(target).as_posix(): path.read_bytes() for path in target.rglob("*") if path.is_file()
    }
    assert found == {name: path.read_bytes() for name, path in files.items()}


def test_the_same_app_gives_the_same_bytes_in_any_order(files: dict[str, Path]) -> None:
    assert pack(files, ["a"]) == pack(dict(reversed(files.items())), ["a"])
    assert pack(files, ["a"]) != pack(files, ["b"])


@pytest.mark.parametrize(
    "name", ["app/../../outside.py", "/app/absolute.py", "outside.py", "app/", "call.json/x"]
)
def test_a_file_outside_the_app_is_refused_before_anything_is_written(name: str, tmp_path: Path) -> None:
    data = zipped(**{"app/first.py": "1", "call.json": '{"words": []}', name: "2"})
    with pytest.raises(SettingsError, match=f"{name!r}, which does not belong to it"):
        unpack(data, tmp_path / "there")
    assert not (tmp_path / "there").exists()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"PK\x03\x04 no zip",
        zipped(**{"app/first.py": "1"}),
        zipped(**{"call.json": '{"words": "--all"}'}),
        zipped(**{"call.json": "["}),
    ],
)
def test_an_archive_that_is_none_of_ours_is_refused_in_a_line(data: bytes, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="the archive of the app cannot be read"):
        unpack(data, tmp_path / "there")


def test_a_damaged_file_is_refused(files: dict[str, Path], tmp_path: Path) -> None:
    data = bytearray(pack(files, []))
    place = data.index(b"pyproject.toml") + len("pyproject.toml") + 2
    data[place] ^= 0xFF
    with pytest.raises(SettingsError, match="cannot be read"):
        unpack(bytes(data), tmp_path / "there")


def test_too_many_bytes_are_refused_packed_and_unpacked(
    files: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = pack(files, [])
    monkeypatch.setattr(app_archive, "LARGEST_APP", 10)
    with pytest.raises(SettingsError, match="unpacks to more than 10 bytes"):
        unpack(data, tmp_path / "there")
    monkeypatch.setattr(app_archive, "LARGEST_ARCHIVE", 10)
    with pytest.raises(SettingsError, match=r"the largest .*pyproject.toml, and at most 10 are sent"):
        pack(files, [])
