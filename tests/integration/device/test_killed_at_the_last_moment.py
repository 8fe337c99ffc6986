"""A worker killed between the update's last byte and its answer: the update counts once it is renamed.

The kill is real, at each renaming of the worker; the trainer's session is the real one, on disk.
"""

import signal
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

import package
from components.trainer.tasks.noise import Noise
from components.trainer.worker.worker_protocol import Failure, WorkOrder
from fedgrass.federation import weights
from fedgrass.federation.messages import Announcement
from fedgrass.federation.messages.message_types import Encoding
from tests.fakes.memory_device import Device, announcement, verdict
from tests.fakes.message_tasks import MODULE, RUN, announced, array_record, file_of

MODEL = weights.encode(Noise(0.01).initial_weights(0))
KILLS = [(number, when) for number in (1, 2, 3) for when in ("before", "after")]
TOP_K = Encoding(kind="top_k", difference=True, fraction=0.1)  # has a residual to keep: a third file
OPTIONS = {"megabytes": 0.01, "device": "press-1"}


def asked(upload: Encoding) -> Announcement:
    digest = weights.sha256(MODEL)
    return announcement(task="noise", model_sha256=digest, model_bytes=len(MODEL), upload=upload)


def dies(folder: Path, work: WorkOrder, number: int, when: str, content: bytes = MODEL) -> None:
    """Perform an assignment in a process that dies at a renaming."""
    model = folder / "model.safetensors"
    model.write_bytes(content)
    ended = subprocess.run(
        [sys.executable, "-m", "tests.integration.device.dying_worker", str(number), when],
        input=msgspec.json.encode(work).decode() + f"\n{model}\n",
        cwd=package.ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == -signal.SIGKILL, (ended.stdout, ended.stderr)


def is_whole(device: Device) -> bool:
    """Return whether the update has its final name."""
    return (device.folder / "updates" / "run-a-1-1.safetensors").exists()


def check(device: Device, *, whole: bool) -> None:
    """Check that an update with its final name was uploaded and reported once; otherwise nothing was."""
    stored = list(device.bucket.objects.values())
    sent = device.completions[:1]
    assert all(other == sent[0] for other in device.completions)  # a reply is repeated until the verdict
    assert len(stored) == len(sent) == (1 if whole else 0)
    for data, completion in zip(stored, sent, strict=True):
        weights.check_data(data)
        assert (len(data), weights.checksum(data)) == (completion.bytes, completion.checksum)
        assert completion.examples == 100


@pytest.mark.parametrize("upload", [Encoding(), TOP_K], ids=["whole", "top_k"])
@pytest.mark.parametrize(("number", "when"), KILLS)
def test_trainer_and_worker_are_killed(tmp_path: Path, number: int, when: str, upload: Encoding) -> None:
    last = 3 if upload == TOP_K else 2
    if number > last:
        pytest.skip("there is no third file")
    first = Device(tmp_path, tasks={"noise": OPTIONS})
    first.hears(asked(upload))
    dies(tmp_path, first.bench.works[0], number, when)
    whole = is_whole(first)
    assert whole == ((number, when) == (last, "after"))

    again = Device(tmp_path, tasks={"noise": OPTIONS})
    again.hears(asked(upload))  # as the cloud does after a hello
    assert len(again.bench.works) == (0 if whole else 1)
    check(again, whole=whole)
    assert again.context.journal.state.examples == ({"noise": 100} if whole else {})


@pytest.mark.parametrize(("number", "when"), KILLS[:4])
def test_the_worker_alone_is_killed(tmp_path: Path, number: int, when: str) -> None:
    device = Device(tmp_path, tasks={"noise": OPTIONS})
    device.hears(asked(Encoding()))
    dies(tmp_path, device.bench.works[0], number, when)
    whole = is_whole(device)
    device.bench.says(Failure("the worker was killed (SIGKILL)"))
    device.settle()
    assert device.states == ["accepted"] + ([] if whole else ["failed"])
    check(device, whole=whole)


RECORD, DATA = array_record(w=[float(number) for number in range(3000)])
CONTENT = file_of([RECORD], DATA)  # its reply is as large: it is uploaded


@pytest.mark.parametrize(("number", "when"), KILLS[:4])
def test_a_message_whose_worker_and_trainer_are_killed_is_answered_once_from_one_state(
    tmp_path: Path, number: int, when: str
) -> None:
    tasks = {"app": {"module": f"{MODULE}:Doubling"}}
    message = announced(CONTENT, "fleet-bucket")
    first = Device(tmp_path, tasks=tasks)
    first.hears(message)
    dies(tmp_path, first.bench.works[0], number, when, CONTENT)
    whole = (number, when) == (2, "after")  # the result file, and then the reply

    again = Device(tmp_path, tasks=tasks)
    again.hears(message)  # as the cloud does after a hello
    assert len(again.bench.works) == (0 if whole else 1)
    assert len(again.bucket.objects) == (1 if whole else 0)
    state = tmp_path / "task_state" / "app" / f"{RUN}.state"
    assert state.exists() is whole
    if whole:
        assert state.read_text() == "1"
        again.hears(msgspec.structs.replace(verdict(counted=False), run=RUN))
        assert not state.exists()


def test_an_update_of_another_announcement_of_that_name_is_not_taken(tmp_path: Path) -> None:
    """A deleted run may be created again with the same name and another model."""
    first = Device(tmp_path, tasks={"noise": OPTIONS})
    first.hears(asked(Encoding()))
    dies(tmp_path, first.bench.works[0], 2, "after")
    journal = first.context.journal
    assert journal.state.work
    other = msgspec.structs.replace(journal.state.work.announcement, model_key="models/other.safetensors")
    journal.take(msgspec.structs.replace(journal.state.work, announcement=other))
    again = Device(tmp_path, tasks={"noise": OPTIONS})
    assert again.bucket.objects == {}
    assert not is_whole(again)


def test_a_result_that_cannot_be_read_costs_the_training_and_nothing_else(tmp_path: Path) -> None:
    first = Device(tmp_path, tasks={"noise": OPTIONS})
    first.hears(asked(Encoding()))
    dies(tmp_path, first.bench.works[0], 2, "after")
    (beside,) = (tmp_path / "updates").glob("*.result")
    beside.write_bytes(b"\xff{")
    again = Device(tmp_path, tasks={"noise": OPTIONS})
    again.hears(asked(Encoding()))
    assert len(again.bench.works) == 1
