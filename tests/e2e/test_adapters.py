"""The documented example of adapters in the embedded cloud: what devices download and upload, to the byte."""

import subprocess
import sys
from pathlib import Path

from components.trainer.tasks.registry import load_task
from fedgrass.federation import object_keys, weights
from fedgrass.federation.runs import RunState
from fedgrass.federation.settings_parser import parse_settings
from fedgrass.local.task_sharing import initial_model
from fedgrass.local.testbed import open_testbed, thing_names
from tests.e2e.processes import wait_until

EXAMPLE = Path(__file__).parents[2] / "docs" / "examples" / "lora"
DEVICES = thing_names(2)


def header_bytes(file: bytes) -> int:
    """Return the size of a safetensors file's header."""
    return 8 + int.from_bytes(file[:8], "little")


def test_devices_exchange_adapters_only(tmp_path: Path) -> None:
    base = tmp_path / "base.safetensors"
    script = [sys.executable, str(EXAMPLE / "pretrain_base.py"), "--out", str(base), "--steps", "5"]
    subprocess.run(script, check=True, timeout=100)
    task: dict[str, bool | int | float | str] = {
        "module": "vibration_task:Vibration",
        "path": str(EXAMPLE),
        "base": str(base),
        "windows": 20,
    }
    things = {thing: {"tasks": {"vibration": {**task, "share": n}}} for n, thing in enumerate(DEVICES)}
    with open_testbed(tmp_path / "testbed", things) as testbed:
        initial = initial_model(load_task("vibration", task), seed=1)
        settings = parse_settings({"task": "vibration", "rounds": 1, "deadline_seconds": 100})
        testbed.operator.start("adapters", initial.settings(settings), initial.file())
        wait_until(lambda: testbed.operator.run("adapters").state is not RunState.RUNNING, "its end", 110)
        run = testbed.operator.run("adapters")
        assert run.state is RunState.SUCCEEDED, run.reason
        s3, bucket = testbed.cloud.client("s3"), testbed.stack["BucketName"]
        found = s3.list_objects_v2(Bucket=bucket)["Contents"]
        objects = {one["Key"]: s3.get_object(Bucket=bucket, Key=one["Key"])["Body"].read() for one in found}
    arrays = sum(array.nbytes for array in initial.shared.values())
    models = [object_keys.model("adapters", number) for number in (0, 1)]
    updates = [object_keys.update(thing, "adapters", 1, 1) for thing in DEVICES]
    assert {key for key in objects if key.startswith(("models/adapters/", "updates/"))} == {*models, *updates}
    for key in (*models, *updates):
        assert len(objects[key]) == header_bytes(objects[key]) + arrays
        assert weights.decode(objects[key]).keys() == initial.shared.keys()
        assert len(objects[key]) <= 0.02 * base.stat().st_size
