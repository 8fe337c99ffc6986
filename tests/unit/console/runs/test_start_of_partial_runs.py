"""``fedgrass run start`` of a partial model: what is left out of the file, and whose frozen arrays it has."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from fedgrass.console.runs import fleet_operator, run_start
from fedgrass.federation import weights
from fedgrass.federation.errors import SettingsError
from fedgrass.federation.settings import RunSettings
from fedgrass.local.task_sharing import initial_model
from tests.fakes.partial_task import Marked

INITIAL = initial_model(Marked(), 0)


class Recorder:
    """Stands in for the operator's access to a stack, and records what a start uploads."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, Any]] = []

    def runs(self) -> dict[str, str]:
        return {}

    def upload_frozen(self, _name: str, data: bytes) -> None:
        self.calls.append(("frozen", data))

    def start(self, _name: str, settings: RunSettings, model: bytes) -> SimpleNamespace:
        self.calls.append(("start", (settings, model)))
        return SimpleNamespace(
            name="r", state="RUNNING", reason="", waiting_since=0, round=0, history=(), settings=settings
        )

    def rounds(self, _run: object, _first: int = 1) -> list[object]:
        return []


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> Recorder:
    found = Recorder()
    monkeypatch.setattr(fleet_operator, "open_operator", lambda _stack: found)
    return found


def start(folder: Path, *settings: str, frozen: bytes | None = None, model: bytes | None = None) -> None:
    files = {"model": INITIAL.file() if model is None else model, "frozen": frozen}
    paths: dict[str, Any] = {
        name: folder / name if data is not None else None for name, data in files.items()
    }
    for name, data in files.items():
        if data is not None:
            (folder / name).write_bytes(data)
    run_start.start("fedgrass", "text", name="r", settings=("task=marked", *settings), **paths)


def started(recorder: Recorder) -> tuple[RunSettings, dict[str, Any]]:
    settings, model = recorder.calls[-1][1]
    return settings, weights.decode(model)


def test_a_model_file_names_the_frozen_arrays_of_the_run(tmp_path: Path, recorder: Recorder) -> None:
    start(tmp_path)
    settings, model = started(recorder)
    assert settings.frozen_sha256 == INITIAL.frozen_sha256
    assert model.keys() == {"body.weight", "body.bias"}


def test_what_the_run_does_not_share_is_left_out_of_the_model(tmp_path: Path, recorder: Recorder) -> None:
    start(tmp_path, 'shared=["*.weight"]')
    settings, model = started(recorder)
    assert settings.shared == ["*.weight"]
    assert model.keys() == {"body.weight"}


def test_frozen_arrays_are_uploaded_before_the_run_starts(tmp_path: Path, recorder: Recorder) -> None:
    start(tmp_path, frozen=INITIAL.frozen_file())
    assert [kind for kind, _ in recorder.calls] == ["frozen", "start"]
    assert recorder.calls[0][1] == INITIAL.frozen_file()


OTHER = initial_model(Marked(base=2), 0)


@pytest.mark.parametrize(
    ("settings", "files", "reason"),
    [
        (['shared=["haed.*"]'], {}, "the run's `shared` pattern 'haed.*' matches none of the 2 arrays"),
        (['shared=["body.*", "x"]'], {}, "the run's `shared` pattern 'x' matches none"),
        (["shared=body"], {}, "shared is 'body': it takes a list"),
        ([f"frozen_sha256={'0' * 64}"], {}, "but the frozen arrays of --model"),
        ([], {"frozen": OTHER.frozen_file()}, "write both files at once, with `fedgrass task weights"),
        ([], {"frozen": b"no weights"}, "is not a file of arrays in safetensors format"),
        (
            [],
            {"frozen": INITIAL.frozen_file(), "model": weights.encode({"a": np.zeros(2, np.float32)})},
            "but the run's frozen_sha256 is not set",
        ),
    ],
)
def test_a_start_that_does_not_fit_is_refused_before_anything_is_uploaded(
    tmp_path: Path, recorder: Recorder, settings: list[str], files: dict[str, bytes], reason: str
) -> None:
    with pytest.raises(SettingsError) as refused:
        start(tmp_path, *settings, **files)
    assert reason in str(refused.value)
    assert recorder.calls == []
