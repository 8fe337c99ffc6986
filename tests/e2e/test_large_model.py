"""The deployed averager averages a large model in shards, through its queue of jobs."""

from collections.abc import Callable
from typing import Any

import numpy as np
import safetensors.numpy

from components.trainer.tasks.noise import Noise
from fedgrass.federation.rounds import State
from fedgrass.federation.settings_parser import parse_settings
from tests.e2e.conftest import Watched

MEGABYTES, ROUNDS = 3, 2


def test_a_model_made_in_shards_is_the_mean_of_the_updates(make_site: Callable[..., Watched]) -> None:
    watched = make_site(2, tasks={"noise": {"megabytes": MEGABYTES}}, parameters={"ShardedMegabytes": "2"})
    settings = parse_settings(
        {
            "task": "noise",
            "rounds": ROUNDS,
            "evaluate_last": False,
            "deadline_seconds": 60,
            "aggregation": "fedavgm",
            "aggregation_options": {"momentum": 0.0},
        }
    )
    watched.testbed.operator.start("large", settings, Noise(MEGABYTES).initial_weights(seed=1))
    assert watched.ended("large").reason == f"all {ROUNDS} rounds closed"
    assert sum("shards of" in line for line in watched.lines("large")) == ROUNDS
    client, bucket = watched.testbed.cloud.client("s3"), watched.testbed.stack["BucketName"]

    def read(key: str) -> dict[str, np.ndarray[tuple[int, ...], Any]]:
        return safetensors.numpy.load(client.get_object(Bucket=bucket, Key=key)["Body"].read())

    for record in watched.rounds("large"):
        number = record.round.number
        assert record.round.state is State.CLOSED
        model = read(f"models/large/{number}.safetensors")
        updates = [read(f"updates/{p.device}/large/{number}-1.safetensors") for p in record.participants]
        for name, array in model.items():
            mean = np.mean([update[name].astype(np.float64) for update in updates], axis=0)
            np.testing.assert_allclose(array, mean, rtol=1e-5, atol=1e-6)
        assert set(read(f"models/large/{number}.momentum.safetensors")) == set(model)
