"""The deployed averager sums replies in groups while the last device is still training."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy

from components.trainer.tasks.noise import Noise
from fedgrass.federation.rounds import Participation, State
from fedgrass.federation.settings_parser import parse_settings
from tests.e2e.conftest import Watched
from tests.e2e.processes import wait_until

DEVICES, SIZE, MEGABYTES = 5, 2, 0.4


def test_a_round_summed_in_groups_is_the_mean_of_the_updates(
    make_site: Callable[..., Watched], tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    gated = {
        "module": "gated_task:GatedOne",
        "path": str(Path(__file__).parent),
        "gate": str(gate),
        "megabytes": MEGABYTES,
        "held": f"device-{DEVICES}",
    }
    parameters = {"GroupSize": str(SIZE), "GroupedMegabytes": "1"}
    watched = make_site(DEVICES, tasks={"gated": gated}, parameters=parameters)
    settings = parse_settings({"task": "gated", "rounds": 1, "deadline_seconds": 120, "evaluate_last": False})
    watched.testbed.operator.start("many", settings, Noise(MEGABYTES).initial_weights(seed=1))
    bucket, client = watched.testbed.stack["BucketName"], watched.testbed.cloud.client("s3")

    def manifests() -> list[str]:
        listed = client.list_objects_v2(Bucket=bucket, Prefix="drafts/many/1-1/parts/")
        return [entry["Key"] for entry in listed.get("Contents", []) if "/group-" in entry["Key"]]

    watched.wait_for_line("many", "group 2:")
    wait_until(lambda: len(manifests()) == (DEVICES - 1) // SIZE, "the sums of two groups")
    gate.touch()
    assert watched.ended("many").reason == "all 1 rounds closed"
    watched.wait_for_line("many", "updates were summed in 2 groups")

    def read(key: str) -> dict[str, np.ndarray[tuple[int, ...], Any]]:
        return safetensors.numpy.load(client.get_object(Bucket=bucket, Key=key)["Body"].read())

    (record,) = watched.rounds("many")
    assert (record.round.state, record.round.group_size, record.round.groups) == (State.CLOSED, SIZE, 2)
    assert {part.state for part in record.participants} == {Participation.REPLIED}
    assert {part.group for part in record.participants} == {
        1,
        2,
        3,
    }  # two replies that arrive together may share one
    updates = [read(f"updates/{part.device}/many/1-1.safetensors") for part in record.participants]
    for name, array in read("models/many/1.safetensors").items():
        mean = np.mean([update[name].astype(np.float64) for update in updates], axis=0)
        np.testing.assert_allclose(array, mean, rtol=1e-6, atol=1e-7)
