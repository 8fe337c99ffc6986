"""Three devices train digits as in the demo; the test recomputes every figure from stored data."""

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil
import pytest
import safetensors.numpy
import safetensors.torch
import torch

from components.trainer.tasks.digits import Digits
from fedgrass.console.runs import history
from fedgrass.console.runs.fleet_operator import RoundRecord
from fedgrass.federation.messages.trace_context import parse_timeline
from fedgrass.federation.runs import Run, RunState
from fedgrass.federation.settings_parser import parse_settings
from fedgrass.local.testbed import Testbed, open_testbed, thing_names
from tests.deployed import fedgrass
from tests.e2e.processes import listening_ports, wait_until

DEVICES, ROUNDS = 3, 2
CLOCK_READ_TWICE_MS = 1_000


@dataclass
class Trained:
    """A finished run on a testbed that is still running."""

    testbed: Testbed
    run: Run
    records: list[RoundRecord]


@pytest.fixture(scope="module")
def trained() -> Iterator[Trained]:
    before = set(psutil.Process().children(recursive=True))
    with tempfile.TemporaryDirectory() as folder:
        things = {
            thing: {"tasks": {"digits": {"share": share, "shares": DEVICES}}}
            for share, thing in enumerate(thing_names(DEVICES))
        }
        with open_testbed(Path(folder), things, profile="lite") as testbed:
            settings = parse_settings(
                {
                    "task": "digits",
                    "rounds": ROUNDS,
                    "deadline_seconds": 120,
                    "evaluate_last": False,
                    "trace": True,
                }
            )
            testbed.operator.start("run-1", settings, Digits().initial_weights(seed=3))
            wait_until(
                lambda: testbed.operator.run("run-1").state is not RunState.RUNNING, "the run's end", 120
            )
            run = testbed.operator.run("run-1")
            yield Trained(testbed, run, list(testbed.operator.rounds(run)))
            started = set(psutil.Process().children(recursive=True)) - before
            ports = {port for process in [*started, psutil.Process()] for port in listening_ports(process)}
    wait_until(
        lambda: not [process for process in started if process.is_running()], "every process to end", 10
    )
    assert ports, "the testbed listened nowhere: this test looks in the wrong place"
    assert not ports & set(listening_ports(psutil.Process())), "a port outlived the testbed"
    assert not Path(folder).exists()


def test_every_round_closes_with_every_device(trained: Trained) -> None:
    assert trained.run.state is RunState.SUCCEEDED
    counts = [
        (r.round.number, r.round.attempt, r.round.asked, r.round.replied, r.round.late)
        for r in trained.records
    ]
    assert counts == [(1, 1, 3, 3, 0), (2, 1, 3, 3, 0)]


def test_every_device_returns_the_timeline_of_its_work(trained: Trained) -> None:
    parts = [part for record in trained.records for part in record.participants]
    assert len(parts) == DEVICES * ROUNDS
    for part in parts:
        timeline = parse_timeline(part.timeline)
        assert timeline is not None
        assert list(timeline) == [
            *("start", "prepare", "download", "evaluate", "train", "evaluate_local"),
            *("upload", "total"),
        ]
        assert timeline["total"][1] <= part.turnaround_seconds * 1000 + CLOCK_READ_TWICE_MS
        first, last = timeline["train"]
        assert (last - first) / 1000 == pytest.approx(part.train_seconds, abs=0.002)


@pytest.mark.parametrize("number", range(1, ROUNDS + 1))
def test_a_published_model_is_the_weighted_mean_of_the_uploaded_updates(
    trained: Trained, number: int
) -> None:
    s3 = trained.testbed.cloud.client("s3")
    bucket = trained.testbed.stack["BucketName"]
    totals: dict[str, np.ndarray] = {}
    examples = 0
    for reply in trained.records[number - 1].participants:
        key = f"updates/{reply.device}/run-1/{number}-1.safetensors"
        update = safetensors.numpy.load(s3.get_object(Bucket=bucket, Key=key)["Body"].read())
        for name, array in update.items():
            totals[name] = totals.get(name, 0) + array.astype(np.float64) * reply.examples
        examples += reply.examples
    published = s3.get_object(Bucket=bucket, Key=f"models/run-1/{number}.safetensors")["Body"].read()
    model = safetensors.numpy.load(published)
    assert set(model) == set(totals)
    for name, array in model.items():
        np.testing.assert_allclose(array, totals[name] / examples, rtol=0, atol=1e-6)


def test_the_devices_trained_on_disjoint_shares_of_all_but_the_held_out_digits(trained: Trained) -> None:
    replies = trained.records[0].participants
    # 1,797 images, a fifth held out; a tenth of each share is for evaluation on the device.
    assert 1290 <= sum(reply.examples for reply in replies) <= 1297
    assert all(reply.metrics["loss"] > 0 for reply in replies)


def test_each_device_measured_the_global_model_and_its_own_on_the_same_examples(trained: Trained) -> None:
    for record in trained.records:
        for reply in record.participants:
            assert {"loss", "accuracy", "local_loss", "local_accuracy"} == reply.metrics.keys()
            assert "train_loss" in reply.train_metrics
            # A tenth of its share of about 432 digits.
            assert reply.examples_evaluated is not None
            assert 30 <= reply.examples_evaluated <= 60
        of_all = record.round.metrics
        if record.round.number == 1:  # later rounds leave little to learn for a single device
            assert of_all["local_loss"] < of_all["loss"]
        weights = [reply.examples_evaluated or 0 for reply in record.participants]
        measured = [reply.metrics["local_accuracy"] for reply in record.participants]
        mean = sum(w * m for w, m in zip(weights, measured, strict=True)) / sum(weights)
        assert of_all["local_accuracy"] == pytest.approx(mean)


def test_the_turnarounds_table_has_a_row_per_device_and_round_between_two_times_of_the_cloud(
    trained: Trained,
) -> None:
    client = trained.testbed.cloud.client("dynamodb")
    rows = client.scan(TableName=trained.testbed.stack["TurnaroundsTableName"])["Items"]
    found = {(row["round_id"]["S"], row["device"]["S"]): row for row in rows}
    expected = {
        (f"run-1/{record.round.number}/1", reply.device): (record.round, reply)
        for record in trained.records
        for reply in record.participants
    }
    assert found.keys() == expected.keys()
    for key, row in found.items():
        opened, reply = expected[key]
        turnaround = int(row["turnaround_ms"]["N"])
        assert int(row["announced_at"]["N"]) == opened.opened_at
        # The rule has timestamp() twice, and a rules engine may evaluate each separately.
        assert 0 <= turnaround - (int(row["received_at"]["N"]) - opened.opened_at) < CLOCK_READ_TWICE_MS
        assert 0 < turnaround <= opened.closed_at - opened.opened_at
        assert int(row["examples"]["N"]) == reply.examples


def test_the_devices_are_listed_and_shown_with_their_rounds_and_certificates(
    trained: Trained, tmp_path: Path
) -> None:
    cloud = trained.testbed.cloud
    code, listed = fedgrass(cloud, tmp_path, "devices", "list", "--task", "digits", "--output", "json")
    assert code == 0, listed
    names = thing_names(DEVICES)
    assert [device["device"] for device in json.loads(listed)["devices"]] == names
    code, shown = fedgrass(cloud, tmp_path, "devices", "show", names[0], "--output", "json")
    assert code == 0, shown
    report = json.loads(shown)
    assert [record["round"] for record in report["rounds"]] == list(range(ROUNDS, 0, -1))
    assert {record["counted"] for record in report["rounds"]} == {"REPLIED"}
    assert {record["fleet_devices"] for record in report["rounds"]} == {DEVICES}
    assert (report["speed"]["rounds"], report["errors"]) == (ROUNDS, [])
    (certificate,) = report["registration"]["certificates"]
    assert (certificate["status"], certificate["expires_at"] > report["heartbeat"]["last_seen_at"]) == (
        "ACTIVE",
        True,
    )


def test_the_run_knows_who_started_it(trained: Trained) -> None:
    (started,) = trained.run.history
    caller = trained.testbed.cloud.client("sts").get_caller_identity()["Arn"]
    assert (started.action, started.by, started.at) == ("start", caller, trained.run.started_at)


def test_the_model_loads_in_plain_torch_and_knows_digits_that_no_device_had(trained: Trained) -> None:
    weights = safetensors.torch.load(trained.testbed.operator.model("run-1", ROUNDS))
    assert all(isinstance(tensor, torch.Tensor) for tensor in weights.values())
    judged = Digits().evaluate_held_out(
        safetensors.numpy.load(trained.testbed.operator.model("run-1", ROUNDS))
    )
    assert judged.metrics["accuracy"] > 0.8


def test_the_history_tells_what_the_tables_hold(trained: Trained, tmp_path: Path) -> None:
    summaries = [history.summarize(record, {1: {"accuracy": 0.5}}) for record in trained.records]
    model = trained.testbed.operator.model("run-1", ROUNDS)
    history.write(tmp_path / "run-1", trained.run, summaries, model, {})
    assert summaries[0]["bytes_down"] == 3 * len(trained.testbed.operator.model("run-1", 0))
    assert summaries[0]["held_out"] == {"accuracy": 0.5}
    assert (tmp_path / "run-1" / "accuracy.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "run-1" / "model.safetensors").read_bytes() == model


def test_nothing_waits_in_the_dead_letter_queue(trained: Trained) -> None:
    sqs = trained.testbed.cloud.client("sqs")
    queue = trained.testbed.stack["DeadLettersQueueUrl"]
    attributes = sqs.get_queue_attributes(QueueUrl=queue, AttributeNames=["ApproximateNumberOfMessages"])
    assert attributes["Attributes"]["ApproximateNumberOfMessages"] == "0"


def test_no_alarm_is_left_of_a_closed_round(trained: Trained) -> None:
    schedules = trained.testbed.cloud.client("scheduler").list_schedules()["Schedules"]
    of_the_stack = ("-Sweep-", "-Census-")
    assert [s["Name"] for s in schedules if not any(name in s["Name"] for name in of_the_stack)] == []


def test_the_finished_run_is_shown_downloaded_reported_and_compared_by_commands(
    trained: Trained, tmp_path: Path
) -> None:
    cloud = trained.testbed.cloud
    code, shown = fedgrass(cloud, tmp_path, "run", "show", "run-1", "--output", "json")
    assert code == 0, shown
    found = json.loads(shown)
    assert (found["state"], found["round"], found["troubles_count"]) == ("SUCCEEDED", ROUNDS, 0)
    assert found["started_by"] == trained.run.history[0].by
    code, waited = fedgrass(cloud, tmp_path, "run", "wait", "run-1")
    assert (code, waited) == (0, f"run run-1: SUCCEEDED {trained.run.reason}\n")
    code, written = fedgrass(cloud, tmp_path, "run", "download", "run-1")
    assert code == 0, written
    model = (tmp_path / "runs" / "run-1" / "model.safetensors").read_bytes()
    assert model == trained.testbed.operator.model("run-1", ROUNDS)
    code, reported = fedgrass(cloud, tmp_path, "report", "run-1")
    assert code == 0, reported
    page = (tmp_path / "runs" / "run-1" / "report.html").read_text()
    assert all(f"<td>{name}</td>" in page for name in thing_names(DEVICES))
    assert "have expired" not in page, "the parts of the turnarounds are not those of the table"
    code, foretold = fedgrass(
        cloud, tmp_path, *("run", "start", "run-2", "task=digits", "rounds=4", "--dry-run"),
        *("--continue-from", f"run-1/{ROUNDS}", "--output", "json"),
    )  # fmt: skip
    assert code == 0, foretold
    assert json.loads(foretold)["devices"] == thing_names(DEVICES)
    assert json.loads(foretold)["model_bytes"] == len(model)
    code, refused = fedgrass(cloud, tmp_path, "run", "pause", "run-1")
    assert code == 1
    assert refused == "fedgrass: run 'run-1' is SUCCEEDED; this action requires RUNNING\n"
    assert trained.testbed.operator.runs() == {"run-1": RunState.SUCCEEDED}


def test_a_simulation_of_the_same_run_makes_the_same_models(trained: Trained, tmp_path: Path) -> None:
    """Real cores and virtual devices train with the same settings, which seed the order of the examples.

    Without momentum: it makes of the last bit, which a training of several clients at once rounds otherwise,
    another model after a hundred steps.
    """
    training = {"seed": 5, "epochs": 2, "momentum": 0.0}
    settings = {"rounds": ROUNDS, "evaluate_last": False, "training": training}
    operator = trained.testbed.operator
    operator.start("seeded", parse_settings({"task": "digits", **settings}), Digits().initial_weights(seed=3))
    for vectorize in ("auto", "never"):
        options = (
            f"--devices {DEVICES} --rounds {ROUNDS} --seed 3 --vectorize {vectorize} --workers 1".split()
        )
        chosen = ["--setting", "evaluate_last=false", "--setting", f"training={json.dumps(training)}"]
        command = [sys.executable, "-m", "fedgrass.console.main", "simulate", *options, *chosen]
        subprocess.run([*command, "--out", str(tmp_path / vectorize)], check=True, capture_output=True)
    wait_until(lambda: operator.run("seeded").state is not RunState.RUNNING, "the run's end", 120)
    run = operator.run("seeded")
    assert run.state is RunState.SUCCEEDED
    real = safetensors.numpy.load(operator.model("seeded", ROUNDS))
    for vectorize in ("auto", "never"):
        folder = tmp_path / vectorize / "digits-simulated-3"
        simulated = safetensors.numpy.load_file(folder / "model.safetensors")
        assert real.keys() == simulated.keys()
        for name, array in real.items():
            np.testing.assert_allclose(simulated[name], array, rtol=0, atol=1e-6)
        rounds = json.loads((folder / "history.json").read_text())["rounds"]
        for record, expected in zip(operator.rounds(run), rounds, strict=True):
            for part, virtual in zip(record.participants, expected["devices"], strict=True):
                assert part.examples == virtual["examples"]
                assert part.metrics == pytest.approx(virtual["metrics"], abs=1e-5)
