"""The claim on a core's name: one holder at a time, and nothing left behind."""

import os
from pathlib import Path
from typing import Any

import pytest

from fedgrass.local.core_errors import ControlError
from fedgrass.local.runtime_folder import Claim, remove_stale


def test_a_claim_leaves_nothing_behind(tmp_path: Path) -> None:
    claim = Claim(tmp_path / "core.socket")
    assert [path.name for path in tmp_path.iterdir()] == ["core.lock"]
    claim.close()
    claim.close()
    assert list(tmp_path.iterdir()) == []


def test_who_is_refused_takes_nothing_away(tmp_path: Path) -> None:
    socket = tmp_path / "core.socket"
    socket.touch()
    with Claim(socket):
        with pytest.raises(ControlError, match="running already"):
            Claim(socket)
        assert not remove_stale(socket)
        assert sorted(path.name for path in tmp_path.iterdir()) == ["core.lock", "core.socket"]
    assert remove_stale(socket)
    assert list(tmp_path.iterdir()) == []


def test_a_lock_on_a_file_that_its_holder_took_away_meanwhile_holds_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    socket = tmp_path / "core.socket"
    before, really_open = Claim(socket), os.open

    def open_and_be_overtaken(*arguments: Any) -> int:
        descriptor = really_open(*arguments)
        before.close()
        return descriptor

    monkeypatch.setattr(os, "open", open_and_be_overtaken)
    with Claim(socket), pytest.raises(ControlError):
        Claim(socket)
