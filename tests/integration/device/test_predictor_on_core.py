"""The predictor as built and deployed: its recipe on a local core, unmodified SDKs, real HTTP."""

import http.client
import json
import os
import runpy
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import awsiot.greengrasscoreipc as greengrass
import msgspec
import numpy as np
import pytest
from awsiot.greengrasscoreipc import model as ipc
from awsiot.greengrasscoreipc.clientv2 import GreengrassCoreIPCClientV2

from components.trainer.tasks.digits import Digits, read_digits
from fedgrass.console.tasks.task_component import TaskCode, build_task, component_name
from fedgrass.federation import messages, object_keys, topics, weights
from fedgrass.federation.messages import ModelAlias, NewModel, PredictorReport
from fedgrass.federation.models.model_alias import AliasRecord, encode_record
from fedgrass.local.aws.embedded_cloud import EmbeddedCloud
from greengrass_emulator.core.nucleus import GreengrassCore
from greengrass_emulator.core.profiles import CLASSIC, LITE, Profile
from package import build_component
from tests.cloud_credentials import temporary_credentials
from tests.emulator.local_core import CoreInThread, eventually, recipe, settings, write_recipe
from tests.integration.device.conftest import ON_CLASSIC
from tests.integration.device.noise_work import without_default_tasks

EXAMPLE = Path(__file__).parents[3] / "docs" / "examples" / "ask_predictor.py"
NAME = "com.fedgrass.Predictor"
ASKER = "com.example.Asker"
TOPIC = "fedgrass/plant/clients/device-1/predictor"
BUCKET = "predictor-on-core"
PATIENCE = 40.0  # seconds
CONFIGURATION: dict[str, object] = {
    "python": sys.executable,
    "fleet": "plant",
    "heartbeat_seconds": "0.5",  # the nucleus may pass strings
    "http_port": "0",
    "tasks": {"noise": {}},
}
ASKERS_ACCESS = {
    "aws.greengrass.ipc.pubsub": {
        f"{ASKER}:pubsub:1": {"operations": ["*"], "resources": ["fedgrass/predict/*"]}
    }
}


def documented_client(client: GreengrassCoreIPCClientV2) -> Any:
    """Return the program that docs/predictor.md shows for requests, for the task ``noise``."""
    return runpy.run_path(str(EXAMPLE))["Predictor"](client, "noise", "example")


def biased(by: float) -> bytes:
    """Return a model of the noise task that adds ``by`` to a number; its loss is ``by`` squared."""
    return weights.encode({"body": np.zeros(2475, np.float32), "bias": np.full(25, by, np.float32)})


@dataclass
class Site:
    """A core with the built predictor, the cloud's side of its topics, and its bucket."""

    running: CoreInThread
    build: Path
    root: Path
    s3: Any
    stack: ExitStack
    heard: list[ipc.SubscriptionResponseMessage] = field(default_factory=list)

    def deploy(self, **configuration: object) -> None:
        self.running.run(
            self.running.core.deploy(
                self.build / "recipes" / f"{NAME}.yaml",
                self.build / "artifacts",
                {**CONFIGURATION, **configuration},
            )
        )

    def configure(self, **configuration: object) -> None:
        """Merge values into the configuration, as a deployment does."""
        self.running.run(self.running.core.update_configuration(NAME, configuration))

    def put(self, number: int, data: bytes, *, run: str = "run-a", task: str = "noise") -> NewModel:
        """Put a model into the bucket; return its announcement."""
        key = f"models/{run}/{number}.safetensors"
        self.s3.put_object(Bucket=BUCKET, Key=key, Body=data)
        return NewModel(
            task=task,
            run=run,
            round=number,
            bucket=BUCKET,
            key=key,
            sha256=weights.sha256(data),
            bytes=len(data),
            closed_at=number,
        )

    def announce(self, model: NewModel) -> None:
        self.running.from_cloud(f"fedgrass/plant/models/{model.task}", messages.encode(model))

    def point_to(self, model: NewModel | None) -> None:
        key = f"models/{model.task if model else 'noise'}/latest.json"
        if model:
            self.s3.put_object(Bucket=BUCKET, Key=key, Body=messages.encode(model))
        else:
            self.s3.delete_object(Bucket=BUCKET, Key=key)

    def reports(self) -> list[PredictorReport]:
        received = self.running.broker.received
        return [messages.decode(said.payload, PredictorReport) for said in received if said.topic == TOPIC]

    def events(self) -> list[str]:
        return [report.event for report in self.reports() if report.event]

    def waits_for_event(self, words: str) -> str:
        def found() -> list[str]:
            return [event for event in self.events() if words in event]

        return eventually(found, PATIENCE)[0]

    def serves(self, model: str, task: str = "noise") -> None:
        """Wait until a report of the running process names this model as the served one."""
        eventually(lambda: self.reports() and self.reports()[-1].models.get(task) == model, PATIENCE)

    def hears_of_models(self, task: str = "noise") -> None:
        """Wait until the predictor has subscribed."""
        topic = f"fedgrass/plant/models/{task}"
        eventually(lambda: topic in self.running.connection.filters, PATIENCE)

    @property
    def port(self) -> int:
        eventually(self.reports, PATIENCE)
        return self.reports()[-1].http_port

    def ask(self, method: str, path: str, body: bytes | str = b"", **headers: str) -> tuple[int, Any]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        try:
            connection.request(method, path, body or None, headers)
            response = connection.getresponse()
            return response.status, json.loads(response.read())
        finally:
            connection.close()

    def predict(self, *inputs: object, task: str = "noise") -> tuple[int, Any]:
        return self.ask("POST", f"/predict/{task}", json.dumps({"inputs": inputs}))

    @property
    def log(self) -> str:
        return (self.root / "logs" / f"{NAME}.log").read_text()

    @property
    def process(self) -> int:
        work = self.root / "work" / NAME
        (found,) = [int(entry.name) for entry in Path("/proc").glob("[0-9]*") if _is_predictor(entry, work)]
        return found

    @property
    def model_folder(self) -> Path:
        return self.root / "work" / NAME / "models" / "noise"

    def other_component(self) -> GreengrassCoreIPCClientV2:
        """Deploy a third-party component; return its IPC client."""
        folder = self.root.parent / "asker"
        folder.mkdir()
        content = recipe("sleep 1000", name=ASKER, configuration={"accessControl": ASKERS_ACCESS})
        self.running.run(self.running.core.deploy(write_recipe(folder, content), folder))
        self.running.run(self.running.core.wait_for(ASKER, "RUNNING", PATIENCE))
        environment = self.running.core.component_environment(ASKER)
        connected = greengrass.connect(
            ipc_socket=environment["AWS_GG_NUCLEUS_DOMAIN_SOCKET_FILEPATH_FOR_COMPONENT"],
            authtoken=environment["SVCUID"],
        )
        client = GreengrassCoreIPCClientV2(client=connected, executor=ThreadPoolExecutor(1))
        self.stack.callback(lambda: client.close().exception(10))
        client.subscribe_to_topic(
            topic="fedgrass/predict/noise/replies/me",
            on_stream_event=self.heard.append,
            on_stream_error=lambda _: False,
        )
        return client


def _is_predictor(process: Path, work: Path) -> bool:
    try:
        program = (process / "cmdline").read_bytes().split(b"\0")
        return (process / "cwd").resolve() == work and b"components.predictor" in program
    except OSError:
        return False  # it has just ended


@contextmanager
def site_on(folder: Path, cloud: EmbeddedCloud, profile: Profile) -> Iterator[Site]:
    s3 = cloud.client("s3")
    s3.create_bucket(Bucket=BUCKET)
    build_component(NAME, "1.2.3", "tests", folder / "build")
    without_default_tasks(folder / "build" / "recipes" / f"{NAME}.yaml")
    with ExitStack() as stack:
        root = folder / "core"
        running = CoreInThread(root, profile)
        stack.callback(running.close)
        variables = {"AWS_ENDPOINT_URL": cloud.endpoint_url}
        running.core = GreengrassCore(
            settings(root, profile, credentials=lambda: temporary_credentials(cloud), environment=variables),
            lambda: running.connection,
        )
        running.run(running.core.start())
        site = Site(running, folder / "build", root, s3, stack)
        site.point_to(None)
        yield site


@pytest.fixture
def site(tmp_path: Path, embedded_cloud: EmbeddedCloud, profile: Profile) -> Iterator[Site]:
    with site_on(tmp_path, embedded_cloud, profile) as site:
        yield site


@pytest.mark.parametrize("profile", [CLASSIC, LITE], ids=["classic", "lite"])
def test_a_new_model_is_served_over_http_and_local_topics(
    tmp_path: Path, embedded_cloud: EmbeddedCloud, profile: Profile
) -> None:
    with site_on(tmp_path, embedded_cloud, profile) as site:
        site.deploy()
        site.hears_of_models()
        status, answer = site.predict(1)
        assert (status, answer["error"]) == (
            503,
            "no model of the task 'noise' has arrived yet; try again later",
        )
        site.announce(site.put(1, biased(0.5)))
        assert site.waits_for_event("noise: serves run-a/1") == "noise: serves run-a/1 (loss 0.25)"
        assert site.predict(1, 2.5) == (
            200,
            {"task": "noise", "run": "run-a", "round": 1, "outputs": [1.5, 3.0]},
        )
        other = site.other_component()
        asked = {"inputs": [1], "reply": "fedgrass/predict/noise/replies/me", "id": 7}
        other.publish_to_topic(
            topic="fedgrass/predict/noise",
            publish_message=ipc.PublishMessage(json_message=ipc.JsonMessage(message=asked)),
        )
        other.publish_to_topic(
            topic="fedgrass/predict/noise",
            publish_message=ipc.PublishMessage(
                binary_message=ipc.BinaryMessage(message=json.dumps({**asked, "inputs": ["one"]}).encode())
            ),
        )
        eventually(lambda: len(site.heard) == 2, PATIENCE)
        assert site.heard[0].json_message.message == {
            "id": 7,
            "task": "noise",
            "run": "run-a",
            "round": 1,
            "outputs": [1.5],
        }
        refused = json.loads(site.heard[1].binary_message.message)
        assert refused == {"id": 7, "error": "inputs[0] is 'one'; the task takes numbers"}
        eventually(lambda: site.reports()[-1].requests == 4, PATIENCE)
        report = site.reports()[-1]
        assert (report.failures, report.component_version) == (2, "1.2.3")
        assert 0 < report.p50_ms <= report.p99_ms
        status, health = site.ask("GET", "/health")
        assert (status, health["status"], health["models"]) == (200, "ok", {"noise": "run-a/1"})


def test_a_worse_model_is_not_taken_and_a_better_one_is(site: Site) -> None:
    site.deploy()
    site.hears_of_models()
    site.announce(site.put(1, biased(0.5)))
    site.serves("run-a/1")
    site.announce(site.put(2, biased(0.9)))
    assert site.waits_for_event("run-a/2") == (
        "noise: keeps run-a/1: run-a/2 is not taken: its loss is 0.81, the served model's 0.25: worse by more"
        " than 0.02"
    )
    assert site.predict(1)[1]["outputs"] == [1.5]
    site.announce(site.put(3, biased(0.25)))
    assert site.waits_for_event("run-a/3") == "noise: serves run-a/3 (loss 0.0625, before loss 0.25)"
    assert site.predict(1)[1]["round"] == 3


def test_an_alias_is_followed_back_to_an_older_model_and_then_the_newest_is_served_again(site: Site) -> None:
    first, second = site.put(1, biased(0.5)), site.put(2, biased(0.25))
    site.point_to(second)
    key = object_keys.model_alias("noise", "production")
    moves = [
        ModelAlias(alias="production", serial=n + 1, model=m) for n, m in enumerate((first, second, first))
    ]
    record = AliasRecord(alias="production", serial=1, model=first)
    site.s3.put_object(Bucket=BUCKET, Key=key, Body=encode_record(record))
    site.deploy(alias="production", bucket=BUCKET)
    site.serves("run-a/1")  # by the object, before any message
    topic = topics.of_alias("plant", "noise", "production")
    eventually(lambda: topic in site.running.connection.filters, PATIENCE)
    for move in moves[1:]:
        site.running.from_cloud(topic, messages.encode(move))
        site.serves(f"run-a/{move.model.round}")
    assert site.predict(1)[1]["outputs"] == [1.5]
    assert site.ask("GET", "/health")[1]["alias"] == "production"
    site.configure(alias="")
    site.serves("run-a/2")


def test_a_message_that_comes_twice_late_or_out_of_order_changes_nothing(site: Site) -> None:
    site.deploy()
    site.hears_of_models()
    first, second = site.put(1, biased(0.5)), site.put(2, biased(0.5))
    for model in (second, first, second):
        site.announce(model)
    other = site.put(3, biased(0.25))
    site.serves("run-a/2")
    site.announce(other)
    site.serves("run-a/3")
    assert [event.split(" (")[0] for event in site.events()] == [
        "noise: serves run-a/2",
        "noise: serves run-a/3",
    ]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"sha256": "0" * 64}, "has a different SHA-256 than announced"),
        ({"key": "updates/evil/1.safetensors"}, "which is not the place of a model"),
        ({"round": 9, "key": "models/run-a/9.safetensors"}, "cannot be downloaded"),
    ],
)
def test_a_model_that_is_not_what_was_announced_is_not_taken(
    site: Site, change: dict[str, Any], words: str
) -> None:
    site.deploy()
    site.hears_of_models()
    site.announce(site.put(1, biased(0.5)))
    site.serves("run-a/1")
    site.announce(msgspec.structs.replace(site.put(2, biased(0.25)), **change))
    eventually(lambda: words in site.log, PATIENCE)
    assert site.predict(1)[1]["round"] == 1
    # ... and it does not block the next one.
    site.announce(site.put(10, biased(0.25)))
    site.serves("run-a/10")
    assert "Traceback" not in site.log


def test_a_model_that_the_task_cannot_use_is_not_taken(site: Site) -> None:
    site.deploy()
    site.hears_of_models()
    site.announce(site.put(1, weights.encode({"other": np.zeros(3, np.float32)})))
    words = "noise: has no model yet: run-a/1 is not taken: the task cannot use it: KeyError"
    assert words in site.waits_for_event("noise")
    site.announce(site.put(2, biased(float("nan"))))
    assert "run-a/2 is not taken: it is not a model: array 'bias' has" in site.waits_for_event("not finite")
    site.announce(site.put(3, b"no model at all"))
    assert "it is not a model" in site.waits_for_event("run-a/3")
    assert site.predict(1)[0] == 503


def test_the_newest_model_is_asked_for_at_the_start(site: Site) -> None:
    site.point_to(site.put(4, biased(0.5)))
    site.deploy(bucket=BUCKET)
    site.serves("run-a/4")


def test_a_message_that_was_lost_is_made_good_by_the_pointer(site: Site) -> None:
    site.deploy(bucket=BUCKET, check_seconds=1)
    site.hears_of_models()
    site.point_to(site.put(5, biased(0.5)))
    site.serves("run-a/5")


def test_a_restarted_predictor_serves_from_disk_though_nothing_can_be_reached(site: Site) -> None:
    site.deploy()
    site.hears_of_models()
    for number in range(1, 6):
        site.announce(site.put(number, biased(0.5)))
        site.serves(f"run-a/{number}")
    assert len(list(site.model_folder.glob("*.safetensors"))) == 3
    former = site.process
    site.running.run(site.running.core.cut_mqtt())
    for number in range(1, 6):
        site.s3.delete_object(Bucket=BUCKET, Key=f"models/run-a/{number}.safetensors")
    os.kill(former, signal.SIGKILL)
    eventually(lambda: site.log.count("predictions at http://") == 2, PATIENCE)
    port = int(site.log.rpartition("predictions at http://127.0.0.1:")[2].partition("/")[0])
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
    connection.request("POST", "/predict/noise", '{"inputs": [1]}')
    assert json.loads(connection.getresponse().read())["round"] == 5
    connection.close()


def test_a_kill_in_the_middle_of_a_swap_costs_nothing(site: Site) -> None:
    options = {"module": "slow_noise:SlowNoise", "path": str(Path(__file__).parent)}
    site.deploy(bucket=BUCKET, tasks={"noise": {**options, "entered": str(site.root / "entered")}})
    site.hears_of_models()
    site.announce(site.put(1, biased(0.5)))
    site.serves("run-a/1")
    # The task blocks the second evaluation of a process until it is killed.
    second = site.put(2, biased(0.25))
    site.point_to(second)
    site.announce(second)
    eventually((site.root / "entered").exists, PATIENCE)
    assert site.predict(1)[1]["round"] == 1  # still served
    os.kill(site.process, signal.SIGKILL)
    site.serves("run-a/2")
    assert site.predict(1)[1]["outputs"] == [1.25]


def test_requests_are_answered_by_one_model_or_the_other_while_models_change(site: Site) -> None:
    site.deploy()
    site.hears_of_models()
    site.announce(site.put(1, biased(1.0)))
    site.serves("run-a/1")
    answers: list[tuple[int, Any]] = []
    done = threading.Event()

    def keep_asking() -> None:
        while not done.is_set():
            answers.append(site.predict(0))

    asking = [threading.Thread(target=keep_asking) for _ in range(3)]
    for thread in asking:
        thread.start()
    try:
        for number in range(2, 6):
            site.announce(site.put(number, biased(1 / number)))
            site.serves(f"run-a/{number}")
    finally:
        done.set()
        for thread in asking:
            thread.join(PATIENCE)
    assert {status for status, _ in answers} == {200}
    for _, answer in answers:
        assert answer["outputs"] == [pytest.approx(1 / answer["round"], abs=1e-6)]
    assert len({answer["round"] for _, answer in answers}) > 1


def test_the_digits_are_classified(site: Site) -> None:
    task = Digits()
    trained = task.fit(task.initial_weights(0), {"epochs": 5, "seed": 1}, lambda _: None, lambda: False)
    site.deploy(tasks={"digits": {}})
    site.hears_of_models("digits")
    site.announce(site.put(1, weights.encode(trained.weights), task="digits"))
    site.serves("run-a/1", "digits")
    images, labels = read_digits()
    status, answer = site.predict(*images[:50].tolist(), task="digits")
    assert status == 200
    guessed = np.asarray(answer["outputs"]).argmax(axis=1)
    assert (guessed == labels[:50].numpy()).mean() > 0.8
    status, answer = site.predict([[0.0]], task="digits")
    assert (status, answer["error"]) == (
        400,
        "inputs[0] has the shape (1, 1); the model takes (1, 8, 8)",
    )
    assert "(accuracy " in site.waits_for_event("digits: serves")


@ON_CLASSIC
@pytest.mark.parametrize(
    ("configuration", "words"),
    [
        ({"tasks": {"faces": {}}}, "there is no task 'faces'; built in are digits"),
        ({"tasks": {"digits": None}}, "the configuration has 0 tasks; a predictor serves 1 to 16"),
        ({"worse_by": "much"}, "the configuration's worse_by is 'much'"),
        (
            {"tasks": {"noise": {"module": "slow_noise:NoPredictor"}}},
            "the task 'noise' cannot predict: its class needs a method predictor(weights)",
        ),
    ],
)
def test_a_configuration_that_cannot_be_used_is_reported_in_one_line(
    site: Site, configuration: dict[str, Any], words: str
) -> None:
    if configuration.get("tasks", {}).get("noise"):
        configuration["tasks"]["noise"]["path"] = str(Path(__file__).parent)
    site.deploy(**configuration)
    eventually(lambda: site.running.core.component_state(NAME) == "BROKEN", PATIENCE)
    assert words in site.log
    assert "Traceback" not in site.log


@ON_CLASSIC
def test_a_changed_bound_lets_a_model_in_that_was_too_bad_before(site: Site) -> None:
    site.deploy(worse_by=0.5, check_seconds=1)
    site.hears_of_models()
    site.announce(site.put(1, biased(0.0)))
    site.serves("run-a/1")
    process = site.process
    worse = site.put(2, biased(1.0))
    site.point_to(worse)
    site.announce(worse)
    site.waits_for_event("run-a/2 is not taken")
    site.configure(worse_by="10")
    site.serves("run-a/2")
    assert "took up a changed configuration" in site.log
    assert site.process == process


@ON_CLASSIC
def test_tasks_come_and_go_with_no_restart(site: Site) -> None:
    site.deploy()
    site.hears_of_models()
    site.announce(site.put(1, biased(2.0)))
    site.serves("run-a/1")
    process = site.process
    site.configure(tasks={"digits": {"share": 0}, "noise": None})
    site.hears_of_models("digits")
    eventually(lambda: site.reports()[-1].models == {}, PATIENCE)
    assert site.predict(1)[0] == 404
    digits = weights.encode(Digits().initial_weights(0))
    site.announce(site.put(1, digits, run="run-d", task="digits"))
    site.serves("run-d/1", "digits")
    site.configure(tasks={"noise": {"megabytes": 0.01}})
    site.serves("run-a/1")  # from disk
    assert site.predict(1) == (200, {"task": "noise", "run": "run-a", "round": 1, "outputs": [3.0]})
    assert site.process == process


@ON_CLASSIC
def test_fleet_and_port_change_with_no_restart(site: Site) -> None:
    site.deploy()
    site.hears_of_models()
    before, process = site.port, site.process
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    site.configure(fleet="mill", http_port=port)
    other = "fedgrass/mill/clients/device-1/predictor"
    eventually(lambda: any(said.topic == other for said in site.running.broker.received), PATIENCE)
    eventually(lambda: "fedgrass/mill/models/noise" in site.running.connection.filters, PATIENCE)
    site.announce(site.put(1, biased(0.0)))  # in its former fleet
    model = site.put(2, biased(0.0))
    site.running.from_cloud("fedgrass/mill/models/noise", messages.encode(model))

    def answered() -> Any:
        with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)) as connection:
            connection.request("GET", "/health")
            return json.loads(connection.getresponse().read())["models"].get("noise")

    eventually(lambda: answered() == "run-a/2", PATIENCE)
    with pytest.raises(ConnectionRefusedError), closing(socket.socket()) as gone:
        gone.connect(("127.0.0.1", before))
    assert site.process == process


@ON_CLASSIC
@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"worse_by": -1}, "worse_by"),
        ({"tasks": {"nonsense": {}}}, "'nonsense'"),
        ({"tasks": {"noise": {"megabytes": "many"}}}, "takes numbers for megabytes"),
        ({"http_port": "TAKEN"}, "http_port"),
    ],
)
def test_a_changed_configuration_that_cannot_be_used_changes_nothing_and_is_reported(
    site: Site, changed: dict[str, Any], reason: str
) -> None:
    site.deploy()
    site.hears_of_models()
    site.announce(site.put(1, biased(0.0)))
    site.serves("run-a/1")
    process, port = site.process, site.port
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        busy = taken.getsockname()[1]
        site.configure(**{name: busy if value == "TAKEN" else value for name, value in changed.items()})
        eventually(lambda: reason in site.reports()[-1].configuration_error, PATIENCE)
    assert "the configuration stays as it was" in site.log
    assert (site.process, site.port) == (process, port)
    assert site.predict(1)[0] == 200
    site.configure(worse_by=0.1, http_port=0, tasks={"nonsense": None, "noise": {"megabytes": 0.01}})
    eventually(lambda: not site.reports()[-1].configuration_error, PATIENCE)


def test_a_predictor_that_is_restarted_with_a_wrong_value_works_by_the_last_configuration(
    tmp_path: Path, embedded_cloud: EmbeddedCloud
) -> None:
    """The real Lite restarts the component and does not roll back."""
    with site_on(tmp_path, embedded_cloud, CLASSIC) as site:
        site.deploy()
        eventually(site.reports, PATIENCE)  # by then it watches its configuration
        site.configure(tasks={"nonsense": {}})
        eventually(lambda: site.reports()[-1].configuration_error, PATIENCE)
        first = site.process
        os.kill(first, signal.SIGKILL)
        eventually(lambda: "the configuration stays as it was before this start" in site.log, PATIENCE)
        before = len(site.reports())
        eventually(lambda: len(site.reports()) > before, PATIENCE)
        assert "there is no task 'nonsense'" in site.reports()[-1].configuration_error
        assert site.process != first


def test_local_requests_arrive_again_after_their_subscription_has_died_silently(site: Site) -> None:
    site.deploy()
    site.hears_of_models()
    site.announce(site.put(1, biased(0.5)))
    site.serves("run-a/1")
    operation: Any = site.running.core._ipc._service.operations["PublishToTopic"]  # type: ignore[union-attr]
    topics = operation.__self__._topics
    (dead,) = [each for each in topics._subscriptions if each.topic_filter == "fedgrass/predict/noise"]
    dead.deliver = lambda _: None  # as on Lite after a JSON message of more than about 50 keys and values
    site.waits_for_event("noise: local requests did not arrive any more: subscribing to them again")
    asked = documented_client(site.other_component())
    eventually(lambda: dead not in topics._subscriptions, PATIENCE)
    assert asked.ask([1], PATIENCE)["outputs"] == [1.5]


def test_the_documented_client_asks_with_more_numbers_than_json_carries(site: Site) -> None:
    site.deploy()
    site.hears_of_models()
    site.announce(site.put(1, biased(0.5)))
    site.serves("run-a/1")
    asked = documented_client(site.other_component())
    numbers: list[object] = [float(number) for number in range(200)]
    assert asked.ask(numbers, PATIENCE)["outputs"] == [number + 0.5 for number in range(200)]
    long: list[object] = [1e-9] * 800  # a short request with a long answer
    assert "ask over HTTP" in str(asked.ask(long, PATIENCE)["error"])
    with pytest.raises(ValueError, match="ask over HTTP"):
        asked.ask([0.123456789] * 1000)


def test_a_reply_topic_outside_the_tasks_own_is_not_answered(site: Site) -> None:
    site.deploy()
    site.hears_of_models()
    site.announce(site.put(1, biased(0.5)))
    site.serves("run-a/1")
    other = site.other_component()
    for reply in ("other/topic", "fedgrass/predict/noise/replies/#", "fedgrass/predict/noise", ""):
        asked = {"inputs": [1], "reply": reply}
        other.publish_to_topic(
            topic="fedgrass/predict/noise",
            publish_message=ipc.PublishMessage(json_message=ipc.JsonMessage(message=asked)),
        )
    eventually(lambda: site.log.count("a local request was not answered: its reply topic is") == 4, PATIENCE)


def test_a_port_that_is_taken_is_named(site: Site) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        site.deploy(http_port=port)
        eventually(lambda: site.running.core.component_state(NAME) == "BROKEN", PATIENCE)
    assert (
        f"the configuration's http_port {port} on 127.0.0.1 cannot be used: Address already in use"
        in site.log
    )


def test_stopping_the_core_ends_the_predictor_at_once(site: Site) -> None:
    site.deploy()
    site.hears_of_models()
    process = site.process
    site.running.run(site.running.core.stop())
    assert not Path(f"/proc/{process}").exists()
    assert "asked to end by SIGTERM" in site.log
    assert "Traceback" not in site.log


RELEASED = """
from components.trainer.tasks.noise import Noise

class Released(Noise):
    def predictor(self, weights):
        return lambda inputs: [{number} for _ in inputs]
"""


@pytest.mark.slow
def test_the_code_of_a_task_may_arrive_later_and_be_replaced(site: Site, tmp_path: Path) -> None:
    """The nucleus would give up on a predictor that exits until the component is there."""
    component = component_name("released")

    def publish(version: str) -> None:
        source = tmp_path / "source"
        source.mkdir(exist_ok=True)
        (source / "released.py").write_text(RELEASED.format(number=version.partition(".")[0]))
        code = TaskCode(name="released", module="released:Released", folder=source)
        build_task(code, version, tmp_path / "published")
        recipe_file = tmp_path / "published" / "recipes" / f"{component}.yaml"
        site.running.run(site.running.core.deploy(recipe_file, tmp_path / "published" / "artifacts"))

    site.deploy(tasks={"released": {"component": component, "megabytes": "0.01"}})
    eventually(lambda: "waits for its component" in site.log, PATIENCE)
    process = site.process
    publish("1.0.0")
    site.hears_of_models("released")
    site.announce(site.put(1, biased(0.5), task="released"))
    site.serves("run-a/1", "released")
    assert site.predict(0, task="released")[1]["outputs"] == [1]
    publish("2.0.0")
    eventually(lambda: site.predict(0, task="released")[1]["outputs"] == [2], PATIENCE)
    assert site.process == process
