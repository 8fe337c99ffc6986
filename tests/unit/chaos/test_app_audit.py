"""The audit of ServerApps in the campaign: nothing is found in a correct run, and each defect is."""

import base64
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from fedgrass.console.runs.fleet_operator import RoundRecord
from fedgrass.federation.rounds import Participant, Participation, Round, State, Work
from fedgrass.federation.runs import Run, RunState
from fedgrass.federation.settings_parser import parse_settings
from fedgrass.federation.task_messages.message_content import ArrayEntry, Record
from tests.chaos import app_audit, evidence
from tests.chaos.app_audit import STEPS, AppFindings, audit_app
from tests.fakes.flower_fleet import file_of

DEVICES = {"press-1": (1, 0.0), "press-2": (3, 1.0)}  # examples and value of each reply
MEAN = 0.75


def reply(nonce: int, step: int, examples: int, value: float) -> bytes:
    file = io.BytesIO()
    np.save(file, np.full(4, value, np.float32))
    entry = ArrayEntry(
        name="body", dtype="float32", shape=(4,), stype="numpy.ndarray", bytes=len(file.getvalue())
    )
    values = {"num-examples": examples, "nonce": nonce, "step": step}
    records = [
        Record(name="arrays", kind="arrays", arrays=(entry,)),
        Record(name="metrics", kind="metrics", values=values),
    ]
    return file_of(records, [file.getvalue()])


class Story:
    """A run of three steps, each in one round, and the folder of its ServerApp; tests spoil it."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        self.state = RunState.SUCCEEDED
        self.lines = [
            {"step": step, "nonces": [10 * step, 10 * step + 1], "errors": []} for step in range(1, STEPS + 1)
        ]
        self.models = dict.fromkeys(range(1, STEPS + 1), MEAN)
        self.replies = {
            step: [reply(10 * step + place, step, *DEVICES[device]) for place, device in enumerate(DEVICES)]
            for step in range(1, STEPS + 1)
        }
        self.changes: Mapping[str, Any] = {}
        monkeypatch.setattr(evidence, "_BETWEEN_SECONDS", 0.0)

    def findings(self) -> AppFindings:
        (self.folder / "journal.jsonl").write_text("\n".join(map(json.dumps, self.lines)) + "\n")
        for step, value in self.models.items():
            np.savez(self.folder / f"model-{step}.npz", body=np.full(4, value, np.float32))
        records = [self._record(step) for step in self.replies]
        operator = SimpleNamespace(rounds=lambda _: records)
        settings = parse_settings({"task": "flower:chaos", "mode": "server_app"})
        run = Run(
            name="app",
            settings=settings,
            state=self.state,
            round=STEPS,
            attempt=1,
            started_at=1,
            initial_sha256="0" * 64,
            initial_bytes=0,
            reason="said",
        )
        found = AppFindings()
        audit_app(SimpleNamespace(operator=operator), run, self.folder, found)  # type: ignore[arg-type]
        return found

    def _record(self, step: int) -> RoundRecord:
        parts: Sequence[Participant] = [
            Participant(
                device=device,
                state=Participation.REPLIED,
                announced_at=1,
                accepted=True,
                answer=base64.b64encode(data).decode(),
            )
            for device, data in zip(DEVICES, self.replies[step], strict=True)
        ]
        round_ = Round(
            run="app", number=step, attempt=1, work=Work.MESSAGE, state=State.CLOSED, asked=2, needed=2,
            minimum=1, opened_at=1, deadline_at=2, base_sha256="0" * 64, base_bytes=1, accepted=2, replied=2,
            **self.changes,
        )  # fmt: skip
        return RoundRecord(round_, list(parts))


@pytest.fixture
def story(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Story:
    return Story(tmp_path, monkeypatch)


def test_nothing_is_found_in_a_correct_run(story: Story) -> None:
    found = story.findings()
    assert (found.runs, found.rounds, found.replies, found.used) == (1, STEPS, 2 * STEPS, 2 * STEPS)
    assert (found.double_counted, found.wrong_models, found.stuck) == ([], [], [])


def test_a_step_that_was_repeated_after_a_kill_counts_as_it_was_repeated(story: Story) -> None:
    story.lines.insert(1, {"step": 2, "nonces": [20], "errors": ["late: killed"]})
    assert (story.findings().wrong_models, story.findings().double_counted) == ([], [])


def test_a_model_that_is_not_the_mean_of_the_replies_is_found(story: Story) -> None:
    story.models[2] = MEAN + 0.001
    assert "app step 2 differs from the mean by 0.001" in story.findings().wrong_models[0]


def test_a_reply_that_was_used_and_not_counted_is_found(story: Story) -> None:
    story.lines[0]["nonces"] = [10, 99]
    assert story.findings().wrong_models == ["app step 1 uses 1 replies that no round counted"]


def test_a_reply_of_another_step_and_a_reply_that_is_used_twice_are_found(story: Story) -> None:
    story.lines[1]["nonces"] = [20, 11]
    found = story.findings()
    assert found.double_counted == ["app: the reply app/1 of press-2 is used 2 times"]
    assert "uses the reply of app/1 of press-2, which is of step 1" in found.wrong_models[0]


def test_one_reply_under_two_rounds_is_found(story: Story) -> None:
    story.replies[2] = story.replies[1]
    assert "the reply of app/2 of press-1 is that of app/1 of press-1" in story.findings().double_counted


def test_wrong_counters_of_a_round_are_found(story: Story) -> None:
    story.changes = {"declined": 1}
    assert "app/1: declined is 1, but 0 participants are" in story.findings().double_counted


def test_a_step_that_is_missing_and_an_error_without_a_reason_are_found(story: Story) -> None:
    story.lines[2]["errors"] = [""]
    del story.lines[1]
    assert sorted(story.findings().wrong_models) == [
        "app has SUCCEEDED with the steps [1, 3]",
        "app: an error without a reason",
    ]


def test_a_run_that_has_failed_is_stuck(story: Story) -> None:
    story.state = RunState.FAILED
    assert story.findings().stuck == ["app is FAILED: said"]


def test_the_audit_knows_the_steps_of_the_app() -> None:
    pyproject = (Path(app_audit.__file__).parent / "server_app" / "pyproject.toml").read_text()
    assert f"num-server-rounds = {STEPS}" in pyproject
