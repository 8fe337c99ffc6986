"""The predictor on a testbed: it serves the models that the fleet trains, through the real broker."""

import http.client
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

import package
from components.trainer.tasks.noise import Noise
from fedgrass import __version__
from fedgrass.federation import weights
from fedgrass.federation.messages import PredictorReport, decode
from fedgrass.federation.runs import RunState
from fedgrass.federation.settings_parser import parse_settings
from fedgrass.local.task_sharing import initial_model
from fedgrass.local.testbed import open_testbed
from tests.e2e.processes import wait_until
from tests.e2e.served_partial_task import Served
from tests.fakes.partial_task import PRIVATE_NUMBER
from tests.mqtt_device import Operator

NAME = "com.fedgrass.Predictor"
FLEET = "orchard"


def ask(port: int, *inputs: object, task: str = "noise") -> tuple[int, dict[str, Any]]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    try:
        connection.request("POST", f"/predict/{task}", json.dumps({"inputs": inputs}))
        response = connection.getresponse()
        return response.status, json.loads(response.read())
    finally:
        connection.close()


def test_what_a_core_and_a_plain_device_train_is_served_on_the_core(tmp_path: Path) -> None:
    trainer = {"tasks": {"noise": {"megabytes": 0.1}}, "heartbeat_seconds": 5}
    package.build_component(NAME, __version__, "tests", tmp_path / "predictor")
    things, plain = {"core-1": trainer}, {"plain-1": trainer}
    with open_testbed(tmp_path / "testbed", things, plain=plain, fleet_name=FLEET) as testbed:
        operator = Operator(testbed.cloud, FLEET)

        def reports() -> list[PredictorReport]:
            said = operator.said("clients/core-1/predictor")
            return [decode(payload, PredictorReport) for payload in said]

        def serves(model: str) -> bool:
            return bool(reports()) and reports()[-1].models == {"noise": model}

        def run(name: str) -> None:
            settings = parse_settings(
                {"task": "noise", "rounds": 2, "deadline_seconds": 60, "evaluate_last": False}
            )
            testbed.operator.start(name, settings, Noise(0.1).initial_weights(seed=1))
            wait_until(lambda: testbed.operator.run(name).state is not RunState.RUNNING, f"the end of {name}")
            assert testbed.operator.run(name).state is RunState.SUCCEEDED

        try:
            # The predictor finds an earlier model by the pointer, and a later one by its message.
            run("run-1")
            configuration = {
                "python": sys.executable,
                "fleet": FLEET,
                "bucket": testbed.stack["BucketName"],
                "tasks": {"digits": None, "noise": {"megabytes": 0.1}},
                "http_port": 0,
                "heartbeat_seconds": 1,
                "worse_by": 1000,
            }
            recipe = tmp_path / "predictor" / "recipes" / f"{NAME}.yaml"
            core = testbed.fleet.devices["core-1"].core
            testbed.fleet.call(core.deploy(recipe, tmp_path / "predictor" / "artifacts", configuration))
            wait_until(lambda: serves("run-1/2"), f"run-1/2 in {reports()}")
            run("run-2")
            wait_until(lambda: serves("run-2/2"), "run-2/2")
            bias = np.asarray(weights.decode(testbed.operator.model("run-2", 2))["bias"], dtype=np.float32)
            status, answer = ask(reports()[-1].http_port, 1)
            assert (status, answer["run"], answer["round"]) == (200, "run-2", 2)
            np.testing.assert_allclose(answer["outputs"], [1 + bias.mean()], atol=1e-6)
            replied = [
                record.participants for record in testbed.operator.rounds(testbed.operator.run("run-2"))
            ]
            assert [sorted(part.device for part in parts) for parts in replied] == [["core-1", "plain-1"]] * 2
        finally:
            operator.close()


def test_a_partial_model_is_served_with_the_arrays_that_the_trainer_keeps(tmp_path: Path) -> None:
    task = {"module": "served_partial_task:Served", "path": str(Path(__file__).parent)}
    trainer = {"tasks": {"marked": task}, "heartbeat_seconds": 5}
    package.build_component(NAME, __version__, "tests", tmp_path / "predictor")
    with open_testbed(tmp_path / "testbed", {"core-1": trainer}, fleet_name=FLEET) as testbed:
        operator = Operator(testbed.cloud, FLEET)

        def report() -> PredictorReport | None:
            said = operator.said("clients/core-1/predictor")
            return decode(said[-1], PredictorReport) if said else None

        def run(name: str) -> None:
            initial = initial_model(Served(), seed=3)
            settings = parse_settings(
                {"task": "marked", "rounds": 2, "deadline_seconds": 60, "evaluate_last": False}
            )
            testbed.operator.start(name, initial.settings(settings), initial.file())
            wait_until(lambda: testbed.operator.run(name).state is not RunState.RUNNING, f"the end of {name}")
            assert testbed.operator.run(name).state is RunState.SUCCEEDED, testbed.operator.run(name).reason

        def answers() -> object:
            found = report()
            return ask(found.http_port, 1, task="marked")[1].get("outputs") if found else None

        try:
            configuration = {
                "python": sys.executable,
                "fleet": FLEET,
                "tasks": {"digits": None, "marked": task},
                "http_port": 0,
                "heartbeat_seconds": 1,
            }
            recipe = tmp_path / "predictor" / "recipes" / f"{NAME}.yaml"
            core = testbed.fleet.devices["core-1"].core
            testbed.fleet.call(core.deploy(recipe, tmp_path / "predictor" / "artifacts", configuration))
            wait_until(lambda: report() is not None, "a report of the predictor")
            run("partial")
            # The body and the head have moved by 1 in each of 2 rounds; the base comes with the task.
            wait_until(
                lambda: answers() == [[5, PRIVATE_NUMBER + 2, 1]],
                "body, head and base of the run's last model",
            )
            found = report()
            assert found
            assert found.models == {"marked": "partial/2"}
            events = [
                decode(said, PredictorReport).event for said in operator.said("clients/core-1/predictor")
            ]
            assert any("partial/2 (loss 1" in event and "of round 2)" in event for event in events), events
        finally:
            operator.close()
