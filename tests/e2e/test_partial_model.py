"""Devices train a model of which only the shared arrays travel; private and frozen ones stay on them."""

from pathlib import Path

import numpy as np
import safetensors.numpy

from fedgrass.federation.runs import RunState
from fedgrass.federation.settings_parser import parse_settings
from fedgrass.local.task_sharing import initial_model
from fedgrass.local.testbed import open_testbed, thing_names
from tests.e2e.processes import wait_until
from tests.fakes.partial_task import Marked

TASK = {"module": "tests.fakes.partial_task:Marked", "path": str(Path(__file__).parents[2])}


def test_a_run_of_a_partial_model_has_only_its_shared_arrays(tmp_path: Path) -> None:
    devices = thing_names(2)
    things = {thing: {"tasks": {"marked": TASK}, "heartbeat_seconds": 5} for thing in devices}
    with open_testbed(tmp_path, things) as testbed:
        initial = initial_model(Marked(), seed=3)
        settings = initial.settings(
            parse_settings({"task": "marked", "rounds": 2, "deadline_seconds": 60, "evaluate_last": True})
        )
        testbed.operator.start("partial", settings, initial.file())
        wait_until(lambda: testbed.operator.run("partial").state is not RunState.RUNNING, "the run's end", 90)
        run = testbed.operator.run("partial")
        assert run.state is RunState.SUCCEEDED, run.reason
        model = safetensors.numpy.load(testbed.operator.model("partial", 2))
        records = list(testbed.operator.rounds(run))
    assert model.keys() == {"body.weight", "body.bias"}
    np.testing.assert_array_equal(model["body.weight"], np.full(4, 5, np.float32))
    heads = [[reply.metrics["head"] for reply in record.participants] for record in records]
    assert heads == [[0, 0], [1, 1], [2, 2]]
