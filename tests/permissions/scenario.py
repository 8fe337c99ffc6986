"""A testbed with enforced policies, and a scenario that uses every feature of it."""

import json
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import psutil

import package
from cloud_functions.aws.dynamodb_table import marshal, unmarshal
from components.trainer.tasks.noise import Noise
from fedgrass import __version__
from fedgrass.console.devices.device_logs import fetch_logs
from fedgrass.federation import messages, object_keys, weights
from fedgrass.federation.messages import Heartbeat
from fedgrass.federation.rounds import State
from fedgrass.federation.runs import RunState
from fedgrass.federation.settings_parser import parse_settings
from fedgrass.local.testbed import open_testbed
from tests.e2e.conftest import FLEET, Watched
from tests.e2e.handmade import HandmadeDevice
from tests.e2e.processes import wait_until
from tests.e2e.sent_messages import SentMessages, doubling_task
from tests.permissions.recorder.sitecustomize import FOLDER

CORES, PLAIN = ("device-1", "device-2"), "plain-1"
THINGS = (*CORES, PLAIN)
MEGABYTES, LARGE_MEGABYTES = 0.1, 30  # shards of 12 MB and uploads of 30 MB: both are multipart
BAD_PLACE = 2_900_000  # in the second part of the first shard, after the first part was sent
UPLOAD_BYTES_PER_SECOND = 6_000_000  # so that an upload can be interrupted
PARAMETERS = {"ShardedMegabytes": "24"}
PREDICTOR = "com.fedgrass.Predictor"
GROUP = "garden"


@contextmanager
def opened_testbed(folder: Path) -> Iterator[Watched]:
    """Start a testbed with two cores and a device without Greengrass, with enforced policies."""
    gate = folder / "gate"
    root = str(package.ROOT)
    tasks = {
        "noise": {"megabytes": MEGABYTES},
        "gated": {"module": "tests.e2e.gated_task:Gated", "path": root, "gate": str(gate)},
        "doubling": doubling_task(root),
        "large": {
            "module": "components.trainer.tasks.noise:Noise", "path": root, "megabytes": LARGE_MEGABYTES
        },
    }  # fmt: skip
    trainer = {"tasks": tasks, "heartbeat_seconds": 2}
    with ExitStack() as stack:
        testbed = stack.enter_context(
            open_testbed(
                folder,
                {thing: {**trainer, "python": str(_recorded_python(folder))} for thing in CORES},
                plain={PLAIN: {**trainer, "upload_bytes_per_second": UPLOAD_BYTES_PER_SECOND}},
                fleet_name=FLEET,
                parameters=PARAMETERS,
                enforces=True,
            )
        )
        watched = Watched(testbed)
        stack.enter_context(watched.watcher())
        yield watched


def _recorded_python(folder: Path) -> Path:
    """Return an interpreter with the recorder for components, which do not inherit the environment."""
    recorder = Path(__file__).parent / "recorder"
    calls = os.environ.get(FOLDER, "")
    script = folder / "recorded-python"
    script.write_text(
        f'#!/bin/sh\nPYTHONPATH="$PYTHONPATH:{recorder}" {FOLDER}="{calls}" exec "{sys.executable}" "$@"\n',
        encoding="utf-8",
    )
    script.chmod(0o755)
    return script


def do_everything(watched: Watched, folder: Path) -> None:
    """Use all features, one after the other."""
    _train_and_evaluate(watched)
    _move_an_alias(watched)
    _pause_and_cancel(watched)
    _ask_a_sample_of_a_group(watched)
    _go_on_from_another_run(watched)
    _say_hello_in_a_round(watched)
    _send_messages(watched)
    _fetch_log_lines(watched)
    _wait_for_devices(watched)
    with HandmadeDevice(watched.testbed, "handmade-1", folder / "handmade-1", FLEET) as handmade:
        _let_a_deadline_pass(watched, handmade)
        _average_in_shards_with_a_bad_update(watched, handmade)
        _send_useless_messages(watched, handmade)
    _forget_a_device(watched)
    _fail_in_each_queue(watched)
    _repair(watched)
    _predict(watched, folder)


def _fetch_log_lines(watched: Watched) -> None:
    operator = watched.testbed.operator
    for thing in THINGS:
        found = fetch_logs(operator, thing, lines=1000, wait_seconds=60, note=print)
        assert any("accepted: train noise" in line.text for line in found.lines)


def _train_and_evaluate(watched: Watched) -> None:
    options = {
        "held_out": ["device-2"],
        "aggregation": "fedavgm",
        "evaluate_every": 1,
        "download_encoding": "float16",
    }
    watched.start("first", rounds=2, **options)
    assert watched.ended("first").state is RunState.SUCCEEDED


def _move_an_alias(watched: Watched) -> None:
    """An operator lets an alias name one model, then another, and takes that back."""
    move = watched.testbed.operator.move_alias
    for serial, number in enumerate((1, 3)):  # round 2 evaluated
        move("promote", task="noise", alias="production", run="first", round=number, serial=serial)
    assert move("rollback", task="noise", alias="production", serial=2)["round"] == 1


def _pause_and_cancel(watched: Watched) -> None:
    operator = watched.testbed.operator
    watched.start("stopped", rounds=3, schedule="by_hand")
    watched.wait_for_line("stopped", "closed: models/stopped/1.safetensors")
    assert operator.act("pause", "stopped").state is RunState.PAUSED
    operator.act("resume", "stopped")
    operator.act("next", "stopped")
    watched.wait_for_line("stopped", "closed: models/stopped/2.safetensors")
    operator.act("status", "stopped")
    assert operator.act("cancel", "stopped").state is RunState.CANCELLED
    # A run with an open round is cancelled too, which deletes its deadline.
    watched.start("open", task="gated")
    for thing in THINGS:
        watched.announcement(thing, "open")
    _count_the_devices(watched)
    assert operator.act("cancel", "open").state is RunState.CANCELLED
    (watched.testbed.folder / "gate").touch()
    for thing in THINGS:
        watched.wait_for_line("open", thing, "late: this attempt is ABANDONED")


def _count_the_devices(watched: Watched) -> None:
    """Send the hourly event of the template, and wait until the devices were counted."""
    cloud = watched.testbed.cloud
    queue = watched.testbed.stack["AlarmsQueueUrl"]
    cloud.client("sqs").send_message(QueueUrl=queue, MessageBody='{"census": true}')
    wait_until(lambda: len(censuses(cloud.log)) > 0, "the devices were not counted")


def censuses(log: Path) -> list[list[float]]:
    """Return the log lines about devices that were counted without a run."""
    whole, _, _being_written = log.read_text(encoding="utf-8").rpartition("\n")
    found = [json.loads(line) for line in whole.splitlines() if line.startswith("{")]
    return [line["DevicesSeen"] for line in found if "DevicesSeen" in line and not line["run"]]


def _ask_a_sample_of_a_group(watched: Watched) -> None:
    iot = watched.testbed.cloud.client("iot")
    iot.create_thing_group(thingGroupName=GROUP)
    for thing in THINGS:
        iot.add_thing_to_thing_group(thingGroupName=GROUP, thingName=thing)
    # Another writer has stored a cohort for the second round before: that one is used.
    chosen = {"devices": ["device-1"], "wanted": 1, "work": "train"}
    key, bucket = object_keys.cohort("sampled", 2, 1), watched.testbed.stack["BucketName"]
    watched.testbed.cloud.client("s3").put_object(Bucket=bucket, Key=key, Body=json.dumps(chosen).encode())
    watched.start("sampled", rounds=2, count=1, selection="random", thing_group=GROUP)
    assert watched.ended("sampled").state is RunState.SUCCEEDED


def _go_on_from_another_run(watched: Watched) -> None:
    settings = {"task": "noise", "rounds": 1, "deadline_seconds": 60}
    source = {"run": "first", "round": 1}
    watched.testbed.operator.act("start", "continued", settings=settings, continue_from=source)
    assert watched.ended("continued").state is RunState.SUCCEEDED


def _say_hello_in_a_round(watched: Watched) -> None:
    """A restarted trainer publishes a hello and receives its open work again."""
    gate = watched.testbed.folder / "gate"
    gate.unlink(missing_ok=True)
    watched.start("hello", task="gated")
    core = watched.testbed.fleet.devices["device-1"].core
    watched.announcement("device-1", "hello")
    watched.testbed.fleet.call(core.close_ipc_streams("com.fedgrass.Trainer"))
    watched.wait_for_line("hello", "device-1", "announced again after its hello")
    gate.touch()
    assert watched.ended("hello").state is RunState.SUCCEEDED


def _send_messages(watched: Watched) -> None:
    """A ServerApp sends messages in two open rounds; one is left open, and its run ends."""
    run = SentMessages(watched, "app", accept_seconds=5)
    assert run.devices() == sorted(THINGS)
    sha256 = run.send(1, ["device-1", PLAIN], 1.0)
    run.send(2, ["device-2"], *range(1000))  # its reply is uploaded
    for number in (1, 2):
        assert run.ended(number).round.state is State.CLOSED
    watched.testbed.operator.send_messages("app", 1, sha256)
    run.send(3, ["nobody"], 1.0)
    run.finish()
    assert run.round(3).round.state is State.ABANDONED


def _wait_for_devices(watched: Watched) -> None:
    """A run with an empty group waits until a device in it publishes a hello."""
    iot, operator = watched.testbed.cloud.client("iot"), watched.testbed.operator
    watched.start("waiting", rounds=2, schedule="by_hand", thing_group=GROUP)
    watched.wait_for_line("waiting", "closed: models/waiting/1.safetensors")
    for thing in THINGS:
        iot.remove_thing_from_thing_group(thingGroupName=GROUP, thingName=thing)
    operator.act("next", "waiting")
    watched.wait_for_line("waiting", "waits up to")
    iot.add_thing_to_thing_group(thingGroupName=GROUP, thingName="device-1")
    core = watched.testbed.fleet.devices["device-1"].core
    watched.testbed.fleet.call(core.close_ipc_streams("com.fedgrass.Trainer"))
    assert watched.ended("waiting").state is RunState.SUCCEEDED


def _let_a_deadline_pass(watched: Watched, handmade: HandmadeDevice) -> None:
    """A device does not reply: the deadline expires, the operator retries, and it replies."""
    _appear(watched, handmade, "silent,large")
    watched.start("late", task="silent", deadline_seconds=8, on_abandoned="fail")
    assert watched.ended("late").state is RunState.FAILED
    watched.testbed.operator.act("retry", "late")
    wait_until(lambda: watched.announcement("handmade-1", "late")["attempt"] == 2, "the second attempt")
    _reply(watched, handmade, "late", weights.encode(Noise().initial_weights(seed=2)))
    assert watched.ended("late").state is RunState.SUCCEEDED


def _average_in_shards_with_a_bad_update(watched: Watched, handmade: HandmadeDevice) -> None:
    """An update has a value that is not finite, which the averager finds after most of a shard."""
    initial = Noise(LARGE_MEGABYTES).initial_weights(seed=1)
    settings = {
        "task": "large",
        "rounds": 1,
        "deadline_seconds": 45,
        "threshold_count": 3,
        "evaluate_last": False,
    }
    watched.testbed.operator.start("large", parse_settings(settings), initial)
    _break_an_upload_off(watched)
    bad = {name: np.array(array) for name, array in initial.items()}
    bad["body"][BAD_PLACE] = np.nan
    _reply(watched, handmade, "large", weights.encode(bad))
    watched.wait_for_line("large", "handmade-1", "update refused")
    wait_until(
        lambda: watched.testbed.operator.run("large").state is not RunState.RUNNING, "the end of large", 150
    )
    assert watched.testbed.operator.run("large").state is RunState.SUCCEEDED


def _send_useless_messages(watched: Watched, handmade: HandmadeDevice) -> None:
    """Send more messages than two averagers accept from one device before they ignore it."""
    for _ in range(100):
        handmade.say("complete", b"garbage")
    log = watched.testbed.cloud.log
    wait_until(lambda: "MessagesIgnored" in log.read_text(encoding="utf-8"), "an ignored message")


def _forget_a_device(watched: Watched) -> None:
    found = watched.testbed.operator.device("handmade-1")
    assert found is not None
    assert watched.testbed.operator.forget("handmade-1", found.last_seen)


def _fail_in_each_queue(watched: Watched) -> None:
    """Put an invalid message into each queue of the averager, which postpones it."""
    sqs, log = watched.testbed.cloud.client("sqs"), watched.testbed.cloud.log
    failed = log.read_text(encoding="utf-8").count("failed: ValidationError")
    for url in sqs.list_queues()["QueueUrls"]:
        if any(name in url for name in ("Alarms", "Jobs", "Replies")):
            sqs.send_message(QueueUrl=url, MessageBody='{"job": {}}')
    wait_until(
        lambda: log.read_text(encoding="utf-8").count("failed: ValidationError") >= failed + 3,
        "a failure in each queue",
    )


def _break_an_upload_off(watched: Watched) -> None:
    """Kill the trainer without Greengrass during an upload; after a restart it lists the uploaded parts."""
    client, bucket = watched.testbed.cloud.client("s3"), watched.testbed.stack["BucketName"]
    prefix = f"updates/{PLAIN}/"

    def has_parts() -> bool:
        uploads = client.list_multipart_uploads(Bucket=bucket, Prefix=prefix).get("Uploads", [])
        return any(
            client.list_parts(Bucket=bucket, Key=one["Key"], UploadId=one["UploadId"]).get("Parts")
            for one in uploads
        )

    wait_until(has_parts, "the first part of an update")
    described = str(watched.testbed.fleet.plain.devices[PLAIN].file)
    for process in psutil.Process().children(recursive=True):
        command = _command_of(process)
        if described in command and "components.trainer" in command:
            process.kill()


def _command_of(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.NoSuchProcess:  # it has just ended
        return []


def _repair(watched: Watched) -> None:
    client, table = watched.testbed.cloud.client("dynamodb"), watched.testbed.stack["RoundsTableName"]
    for item in client.scan(TableName=table, ConsistentRead=True)["Items"]:
        row = unmarshal(item)
        client.delete_item(TableName=table, Key=marshal({"run": row["run"], "item": row["item"]}))
    operator = watched.testbed.operator
    assert operator.repair("first", dry_run=True)
    assert operator.repair("first")
    assert operator.run("first").round


def _predict(watched: Watched, folder: Path) -> None:
    """The predictor fetches the latest model and publishes which one it serves."""
    package.build_component(PREDICTOR, __version__, "tests", folder / "predictor")
    configuration = {
        "python": str(_recorded_python(folder)),
        "fleet": FLEET,
        "bucket": watched.testbed.stack["BucketName"],
        "tasks": {"noise": {"megabytes": MEGABYTES}},
        "http_port": 0,
        "heartbeat_seconds": 1,
        "worse_by": 1000,
    }
    recipe = folder / "predictor" / "recipes" / f"{PREDICTOR}.yaml"
    core = watched.testbed.fleet.devices["device-1"].core
    watched.testbed.fleet.call(core.deploy(recipe, folder / "predictor" / "artifacts", configuration))
    topic = f"fedgrass/{FLEET}/clients/device-1/predictor"

    def serves() -> bool:
        said = [json.loads(payload) for on, payload in watched.heard if on == topic]
        return bool(said and said[-1]["models"])

    wait_until(serves, "a model to be served")


def _appear(watched: Watched, handmade: HandmadeDevice, tasks: str) -> None:
    said = Heartbeat(state="idle", tasks=tasks, examples=100, component_version="0", uptime_seconds=1.0)
    handmade.say("heartbeat", messages.encode(said))

    def is_there() -> bool:
        return any(device.device == handmade.thing for device in watched.testbed.operator.devices())

    wait_until(is_there, "the handmade device to be registered")


def _reply(watched: Watched, handmade: HandmadeDevice, run: str, update: bytes) -> None:
    work = watched.announcement(handmade.thing, run)
    handmade.upload(update, work)
    handmade.say("complete", handmade.completion(update, work))


def statements_of(document: str) -> list[Mapping[str, Any]]:
    """Return the statements of a policy document in JSON."""
    found: list[Mapping[str, Any]] = json.loads(document)["Statement"]
    return found


def with_name(statements: list[Mapping[str, Any]], thing: str) -> list[Mapping[str, Any]]:
    """Return the statements for one thing."""
    text = json.dumps(statements)
    for variable in ("${credentials-iot:ThingName}", "${iot:Connection.Thing.ThingName}"):
        text = text.replace(variable, thing)
    found: list[Mapping[str, Any]] = json.loads(text)
    return found
