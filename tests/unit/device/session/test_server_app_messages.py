"""A session takes messages of ServerApps as it takes any work, and keeps what the task knows of its run."""

from pathlib import Path

import msgspec
import pytest

from components.trainer.session.eligibility import HostMetrics
from components.trainer.session.run_files import MOST_RUNS, TaskStates, pending_state
from components.trainer.session.task_readiness import attribute_of
from components.trainer.worker.worker_protocol import Failure, Progress
from fedgrass.federation.messages import Announcement, Heartbeat, decode, encode, message_types
from fedgrass.federation.task_messages.round_messages import BUSY
from tests.fakes.memory_device import Device, announcement, result, verdict
from tests.fakes.message_tasks import header

MEGABYTE = 1_000_000


def message(number: int = 1, **other: object) -> Announcement:
    values: dict[str, object] = {"work": "message", "message": header(), "message_bytes": 8, **other}
    return announcement(number, **values)  # type: ignore[arg-type]


def answers(device: Device, *, size: int = 0, state: bytes = b"") -> None:
    """Let the worker answer: in the result, or with a file of ``size`` bytes; and leave a state."""
    update = Path(device.bench.works[-1].update)
    update.parent.mkdir(exist_ok=True)
    if size:
        update.write_bytes(b"x" * size)
    if state:
        pending_state(update).write_bytes(state)
    device.bench.says(msgspec.structs.replace(result(size), answer="" if size else "AAAA"))
    device.settle()


def states(folder: Path) -> dict[str, bytes]:
    found = (folder / "task_state").glob("*/*.state")
    return {f"{file.parent.name}/{file.stem}": file.read_bytes() for file in found}


def test_a_message_is_accepted_answered_and_completed(tmp_path: Path) -> None:
    device = Device(tmp_path)
    device.hears(message())
    assert device.states == ["accepted"]
    answers(device)
    (completion,) = device.completions
    assert (completion.answer, completion.bytes) == ("AAAA", 0)
    assert device.bucket.tries == 0


def test_a_large_reply_is_uploaded_as_an_update_is(tmp_path: Path) -> None:
    device = Device(tmp_path)
    device.hears(message())
    answers(device, size=8)
    assert device.bucket.objects == {"fleet-bucket/updates/press-1/run-a/1-1.safetensors": b"x" * 8}
    assert [completion.bytes for completion in device.completions] == [8]


def test_progress_is_published_as_of_a_training(tmp_path: Path) -> None:
    device = Device(tmp_path)
    device.hears(message())
    device.passes(6)
    device.bench.says(Progress(0.5))
    assert [(status.state, status.progress) for status in device.statuses] == [
        ("accepted", 0.0),
        ("progress", 0.5),
    ]


def test_a_doubled_announcement_is_answered_once(tmp_path: Path) -> None:
    device = Device(tmp_path)
    device.hears(message())
    device.hears(message())
    answers(device)
    device.hears(message())  # its reply is known: it is published again
    assert len(device.bench.works) == 1
    assert {completion.round_id for completion in device.completions} == {"run-a/1/1"}


def test_a_later_message_of_the_run_replaces_the_one_in_progress(tmp_path: Path) -> None:
    device = Device(tmp_path)
    device.hears(message(1))
    device.hears(message(2))
    device.hears(message(1))  # late: the run has moved on
    answers(device)
    assert [work.announcement.round for work in device.bench.works] == [1, 2]
    assert [completion.round_id for completion in device.completions] == ["run-a/2/1"]


def test_the_deadline_ends_an_answer_and_the_worker(tmp_path: Path) -> None:
    device = Device(tmp_path)
    device.hears(message(deadline_seconds=10.0))
    device.passes(11)
    assert device.states == ["accepted", "failed"]
    assert device.statuses[-1].reason == "deadline: the work was still answering after 10 s"
    assert device.bench.stops == 1
    assert device.bench.to_finish == []  # an app returns no part of its reply


# ------------------------------------------------------------------ what is declined


def test_a_device_that_works_for_another_run_says_that_it_is_busy(tmp_path: Path) -> None:
    device = Device(tmp_path)
    device.hears(announcement(run="run-b"))
    device.hears(message())
    assert device.states == ["accepted", "declined"]
    assert device.statuses[-1].reason == f"{BUSY}run-b/1/1"


@pytest.mark.parametrize(("size", "state"), [(49, "accepted"), (51, "declined")])
def test_content_above_the_devices_memory_is_declined_before_the_worker_starts(
    tmp_path: Path, size: int, state: str
) -> None:
    """The serialised arrays and those that the app makes of them: twice the content."""
    device = Device(tmp_path, memory_megabytes=100)
    device.hears(message(message_bytes=size * MEGABYTE))
    assert device.states == [state]
    if state == "declined":
        reason = "the work needs at least 102.0 MB of memory, and memory_megabytes is 100"
        assert device.statuses[-1].reason == reason
        assert device.bench.works == []


@pytest.mark.parametrize(
    ("kind", "state"), [("train", "declined"), ("train.slowly", "declined"), ("query", "accepted")]
)
def test_a_full_disk_declines_a_message_whose_reply_may_be_a_model(
    tmp_path: Path, kind: str, state: str
) -> None:
    device = Device(tmp_path)
    device.host_metrics = HostMetrics(time=device.host_metrics.time, free_disk=MEGABYTE)
    device.hears(message(message=header(kind), message_bytes=2 * MEGABYTE))
    assert device.states == [state]


def test_an_announcement_without_its_header_is_measured_by_its_content(tmp_path: Path) -> None:
    device = Device(tmp_path, memory_megabytes=100)
    device.hears(message(message=msgspec.UNSET, message_bytes=msgspec.UNSET, model_bytes=51 * MEGABYTE))
    assert device.states == ["declined"]


def test_the_conditions_of_training_hold_for_messages(tmp_path: Path) -> None:
    device = Device(tmp_path, train_when={"hours": "01:00-02:00"})
    device.hears(message())
    assert device.states == ["declined"]
    assert "train_when.hours is 01:00-02:00" in device.statuses[-1].reason


def test_a_task_without_answers_declines_after_it_was_accepted(tmp_path: Path) -> None:
    device = Device(tmp_path)
    device.hears(message())
    device.bench.says(Failure("task 'digits' has no method answer()", declined=True))
    device.settle()
    assert device.states == ["accepted", "declined"]


def test_heartbeats_name_the_kinds_of_work_that_the_device_knows(tmp_path: Path) -> None:
    (heartbeat, *_) = Device(tmp_path).said("heartbeat")
    assert isinstance(heartbeat, Heartbeat)
    assert heartbeat.works == message_types.known_work() == "train,evaluate,statistics,message,logs"


def test_a_heartbeat_may_name_the_task_of_an_app_and_its_version() -> None:
    heartbeat = Heartbeat(
        state="idle",
        tasks="flower:wind-power",
        examples=0,
        component_version="1",
        uptime_seconds=1,
        attributes={attribute_of("flower:wind-power"): "1.0.0"},
    )
    assert decode(encode(heartbeat), Heartbeat) == heartbeat


# ------------------------------------------------------------------ the state of the task


def test_the_worker_gets_what_a_round_needs(tmp_path: Path) -> None:
    device = Device(tmp_path)
    for number, work in enumerate(("train", "evaluate", "statistics", "message"), 1):
        device.hears(message(number, work=work))
        order = device.bench.works[-1]
        assert order.thing == "press-1"
        assert order.state == str(tmp_path / "task_state" / "digits" / "run-a.state")
        assert order.failures == str(tmp_path / "failures")


@pytest.mark.parametrize("size", [0, 8], ids=["in the completion", "uploaded"])
def test_a_state_is_adopted_once_the_reply_is_out(tmp_path: Path, size: int) -> None:
    device = Device(tmp_path)
    device.hold_uploads = True
    device.hears(message())
    answers(device, size=size, state=b"one")
    if size:
        assert states(tmp_path) == {}
        device.waiting.pop()()
        device.settle()
    assert states(tmp_path) == {"digits/run-a": b"one"}
    assert list((tmp_path / "updates").iterdir()) == []


@pytest.mark.parametrize("size", [0, 8])
def test_the_state_of_a_refused_reply_is_rolled_back(tmp_path: Path, size: int) -> None:
    device = Device(tmp_path)
    for number, state in enumerate([b"one", b"two"], 1):
        device.hears(message(number))
        answers(device, size=size, state=state)
    for _ in range(2):
        device.hears(verdict(2, counted=False, reason="it is late"))
    assert states(tmp_path) == {"digits/run-a": b"one"}
    device.hears(verdict(1, counted=False))  # late: a later reply has changed it
    assert states(tmp_path) == {"digits/run-a": b"one"}


def test_a_counted_reply_keeps_its_state(tmp_path: Path) -> None:
    device = Device(tmp_path)
    device.hears(message())
    answers(device, state=b"one")
    device.hears(verdict())
    assert states(tmp_path) == {"digits/run-a": b"one"}


def test_the_state_of_a_failed_message_is_dropped(tmp_path: Path) -> None:
    device = Device(tmp_path)
    device.hears(message())
    update = Path(device.bench.works[-1].update)
    update.parent.mkdir(exist_ok=True)
    pending_state(update).write_bytes(b"half")
    device.bench.says(Failure("it raised"))
    device.settle()
    assert states(tmp_path) == {}
    assert list(update.parent.iterdir()) == []


def test_the_state_of_a_replaced_message_is_dropped(tmp_path: Path) -> None:
    device = Device(tmp_path)
    device.hears(message(1))
    update = Path(device.bench.works[-1].update)
    update.parent.mkdir(exist_ok=True)
    pending_state(update).write_bytes(b"half")
    device.hears(message(2))
    answers(device)
    assert states(tmp_path) == {}


def test_each_run_and_task_has_its_own_state(tmp_path: Path) -> None:
    device = Device(tmp_path)
    for run, task in (("run-a", "digits"), ("run-b", "digits"), ("run-c", "noise")):
        device.hears(message(run=run, task=task))
        answers(device, state=run.encode())
    expected = {"digits/run-a": b"run-a", "digits/run-b": b"run-b", "noise/run-c": b"run-c"}
    assert states(tmp_path) == expected


def test_states_of_the_latest_runs_are_kept(tmp_path: Path) -> None:
    device = Device(tmp_path)
    for number in range(MOST_RUNS + 2):
        device.hears(message(run=f"run-{number}"))
        answers(device, state=b"x")
    device.context.sweep()
    assert len(states(tmp_path)) == MOST_RUNS


def test_an_app_has_a_folder_of_its_own(tmp_path: Path) -> None:
    assert TaskStates(tmp_path).path("flower:app", "run-a").parent.name == "flower:app"


# ------------------------------------------------------------------ restarts


@pytest.mark.parametrize("work", ["message", "evaluate", "statistics"])
def test_a_reply_without_a_file_survives_a_restart_once_it_is_in_the_journal(
    tmp_path: Path, work: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process dies between the journal and the completion: the work is not done twice."""
    first = Device(tmp_path)
    first.hears(message(work=work))
    monkeypatch.setattr(type(first.context), "adopt", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        answers(first, state=b"one")
    assert first.completions == []
    monkeypatch.undo()
    again = Device(tmp_path)
    assert again.bench.works == []
    assert [completion.round_id for completion in again.completions] == ["run-a/1/1"]
    assert states(tmp_path) == {"digits/run-a": b"one"}
    again.hears(message(work=work))  # as the cloud does after a hello
    assert again.bench.works == []


def test_a_written_reply_is_uploaded_after_a_restart_with_its_state(tmp_path: Path) -> None:
    first = Device(tmp_path)
    first.hold_uploads = True
    first.hears(message())
    answers(first, size=8, state=b"one")
    again = Device(tmp_path)
    assert len(again.bucket.objects) == 1
    assert states(tmp_path) == {"digits/run-a": b"one"}


def test_an_interrupted_message_waits_for_its_announcement_and_starts_from_the_state_before(
    tmp_path: Path,
) -> None:
    first = Device(tmp_path)
    first.hears(message(1))
    answers(first, state=b"one")
    first.hears(message(2))
    pending_state(Path(first.bench.works[-1].update)).write_bytes(b"half of two")
    again = Device(tmp_path)
    assert again.bench.works == []
    assert states(tmp_path) == {"digits/run-a": b"one"}
    again.hears(message(2))
    answers(again, state=b"two")
    assert states(tmp_path) == {"digits/run-a": b"two"}
