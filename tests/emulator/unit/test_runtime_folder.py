"""The claim on a core's name: one holder at a time, and no files left behind."""

import os
from pathlib import Path
from typing import Any

import pytest

from greengrass_emulator.core.core_folders import Claim, remove_stale
from greengrass_emulator.emulator_errors import ControlError


def test_a_claim_leaves_nothing_behind(tmp_path: Path) -> None:
    folder = tmp_path / "greengrass-emulator"
    claim = Claim(folder / "core.socket")
    assert folder.stat().st_mode & 0o777 == 0o700
    assert [path.name for path in folder.iterdir()] == ["core.lock"]
    claim.close()
    claim.close()
    assert list(tmp_path.iterdir()) == []


def test_a_refused_claim_removes_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "greengrass-emulator"
    folder.mkdir(mode=0o700)
    socket = folder / "core.socket"
    socket.touch()
    with Claim(socket):
        with pytest.raises(ControlError, match="already running"):
            Claim(socket)
        assert not remove_stale(socket)
        assert sorted(path.name for path in folder.iterdir()) == ["core.lock", "core.socket"]
    assert remove_stale(socket)
    assert list(tmp_path.iterdir()) == []


def test_a_lock_on_a_file_that_its_holder_took_away_meanwhile_holds_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    socket = tmp_path / "greengrass-emulator" / "core.socket"
    before, really_open = Claim(socket), os.open

    def open_and_be_overtaken(*arguments: Any) -> int:
        descriptor = really_open(*arguments)
        before.close()
        return descriptor

    monkeypatch.setattr(os, "open", open_and_be_overtaken)
    with Claim(socket), pytest.raises(ControlError):
        Claim(socket)


def test_a_folder_that_the_last_core_took_away_meanwhile_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    socket = tmp_path / "greengrass-emulator" / "core.socket"
    really_open = os.open

    def be_overtaken_once_and_open(*arguments: Any) -> int:
        monkeypatch.setattr(os, "open", really_open)
        socket.parent.rmdir()
        return really_open(*arguments)

    monkeypatch.setattr(os, "open", be_overtaken_once_and_open)
    with Claim(socket), pytest.raises(ControlError, match="already running"):
        Claim(socket)


def test_a_folder_that_others_can_open_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "greengrass-emulator"
    folder.mkdir()
    folder.chmod(0o755)
    with pytest.raises(ControlError, match="not a folder that only you can open"):
        Claim(folder / "core.socket")


def test_a_folder_that_cannot_be_created_is_reported(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ControlError, match="cannot be created: Not a directory; set XDG_RUNTIME_DIR"):
        Claim(tmp_path / "file" / "greengrass-emulator" / "core.socket")
