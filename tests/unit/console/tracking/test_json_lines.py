"""The sink of JSON lines: each figure once in the file, whatever happened to the process before."""

import json
from pathlib import Path
from typing import Any

import pytest

from fedgrass.console import stack
from fedgrass.console.tracking.json_lines import JsonLines
from fedgrass.console.tracking.run_tracking import Place, track_run
from tests.fakes.small_fleet import RUN
from tests.fakes.tracked_fleet import PLACE, TrackedFleet


def trained(rounds: int = 2) -> TrackedFleet:
    fleet = TrackedFleet(devices=2, rounds=2)
    fleet.start()
    fleet.train(rounds)
    return fleet


def sink(path: Path) -> JsonLines:
    return JsonLines(str(path), stack.client)


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_run_becomes_a_line_of_settings_a_line_per_round_the_model_and_the_end(tmp_path: Path) -> None:
    fleet, path = trained(), tmp_path / "new" / "runs.jsonl"
    fleet.track(sink(path))
    run, first, second, model, state = lines(path)
    assert {line["id"] for line in lines(path)} == {f"bucket/{RUN}/{fleet.run().started_at}"}
    assert run | {"id": ""} == {
        "id": "",
        "type": "run",
        "fleet": "garden",
        "stack": "fedgrass",
        "run": RUN,
        "started_at": fleet.run().started_at,
        "settings": {"task": "digits", "rounds": "2", "evaluate_last": "false"},
    }
    assert [(line["round"], line["metrics"], line["replied"]) for line in (first, second)] == [
        (1, {"loss": 0.25}, 2),
        (2, {"loss": 0.25}, 2),
    ]
    assert "devices" not in first
    assert (model["round"], model["parent"], model["uri"], model["replies"]) == (
        2,
        1,
        f"s3://bucket/models/{RUN}/2.safetensors",
        2,
    )
    assert model["sha256"] == fleet.newest().model_sha256
    assert (state["type"], state["state"]) == ("state", "SUCCEEDED")


def test_a_repeated_command_adds_no_line(tmp_path: Path) -> None:
    fleet, path = trained(), tmp_path / "runs.jsonl"
    fleet.track(sink(path))
    before = path.read_bytes()
    fleet.track(sink(path))
    assert path.read_bytes() == before


@pytest.mark.parametrize("cut", [1, 40, 700, 1_400])
def test_a_file_whose_writer_was_killed_in_a_line_is_continued(tmp_path: Path, cut: int) -> None:
    fleet, path = trained(), tmp_path / "runs.jsonl"
    fleet.track(sink(path))
    whole = path.read_bytes()
    path.write_bytes(whole[:-cut])
    fleet.track(sink(path))
    assert path.read_bytes() == whole


def test_two_runs_and_two_stacks_share_a_file(tmp_path: Path) -> None:
    path = tmp_path / "runs.jsonl"
    for place in (PLACE, Place(fleet="field", stack="other", bucket="other-bucket")):
        track_run(trained().operator(), place, RUN, [sink(path)], warn=pytest.fail)
    assert [line["fleet"] for line in lines(path) if line["type"] == "run"] == ["garden", "field"]
    assert len([line for line in lines(path) if line["type"] == "round"]) == 4


@pytest.mark.parametrize(
    "content", [b"a,b\n1,2\n", b"{}\n", b'{"type": "run"}\n', b"\x00\xff", b"[1]", b"1\n"]
)
def test_a_file_of_something_else_is_left_as_it_is(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "data.csv"
    path.write_bytes(content)
    report = trained().track(sink(path))
    assert "was not written by `fedgrass run track`: name another file" in report.sinks[0].error
    assert path.read_bytes() == content


def test_a_second_process_is_refused_while_the_first_one_writes(tmp_path: Path) -> None:
    fleet, path = trained(1), tmp_path / "runs.jsonl"
    warnings: list[str] = []
    fleet.track(sink(path), sink(path), warnings=warnings)
    assert warnings == [f"jsonl:{path}: {path} is being written by another process"]


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    report = trained().track(sink(tmp_path / "file" / "runs.jsonl"))
    assert "file" in report.sinks[0].error
    assert "\n" not in report.sinks[0].error
