"""A core without a cloud: components that use local topics, Stream Manager and IoT Core."""

import asyncio
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from greengrass_emulator.core.profiles import PROFILES
from greengrass_emulator.core.standalone_core import StandaloneCore, StandaloneOptions
from greengrass_emulator.deployment.deployment_records import ComponentSource
from greengrass_emulator.emulator_errors import ControlError, IotConnectionError
from tests.emulator.local_core import recipe, write_recipe

SECONDS = 30
CAMERA = """
import os, pathlib
from awsiot.greengrasscoreipc import model
from awsiot.greengrasscoreipc.clientv2 import GreengrassCoreIPCClientV2
from stream_manager import (ExportDefinition, MessageStreamDefinition, S3ExportTaskDefinition,
                            S3ExportTaskExecutorConfig, StrategyOnFull, StreamManagerClient)
from stream_manager.util import Util

picture = pathlib.Path("picture").absolute()
picture.write_bytes(b"a cat")
streams = StreamManagerClient(port=int(os.environ["STREAM_MANAGER_SERVER_PORT"]))
export = ExportDefinition(s3_task_executor=[S3ExportTaskExecutorConfig(identifier="s3")])
streams.create_message_stream(MessageStreamDefinition(
    name="pictures", strategy_on_full=StrategyOnFull.RejectNewData, export_definition=export))
task = S3ExportTaskDefinition(input_url=f"file:{picture}", bucket="album", key="cats/1")
streams.append_message("pictures", Util.validate_and_serialize_to_json_bytes(task))
streams.close()
client = GreengrassCoreIPCClientV2()
said = model.PublishMessage(json_message=model.JsonMessage(message={"key": "cats/1"}))
client.publish_to_topic_async(topic="pictures/new", publish_message=said).result(10)
client.close().result(10)
"""
ALBUM = """
import queue
from awsiot.greengrasscoreipc.clientv2 import GreengrassCoreIPCClientV2

heard = queue.Queue()
client = GreengrassCoreIPCClientV2()
client.subscribe_to_topic_async(topic="pictures/+", on_stream_event=heard.put)[0].result(10)
def publish(text):
    client.publish_to_iot_core_async(topic_name="album/news", qos="1", payload=text).result(10)

publish(b"listening")
publish(heard.get(timeout=60).json_message.message["key"].encode())
client.close().result(10)
"""


def component(folder: Path, name: str, program: str) -> ComponentSource:
    short = name.rpartition(".")[2]
    (folder / f"{short}.py").write_text(program)
    everything = {"operations": ["*"], "resources": ["*"]}
    services = ("aws.greengrass.ipc.pubsub", "aws.greengrass.ipc.mqttproxy")
    control = {service: {f"{name}:{service}:1": everything} for service in services}
    content = recipe(
        f'"{sys.executable}" "{{artifacts:path}}/{short}.py"',
        name=name,
        configuration={"accessControl": control},
        ComponentDependencies={"aws.greengrass.StreamManager": {"VersionRequirement": "^2.0.0"}},
    )
    content["Manifests"][0]["Artifacts"] = [{"URI": f"s3://bucket/{short}.py"}]  # type: ignore[index]
    return ComponentSource(write_recipe(folder, content), folder)


def on_core(options: StandaloneOptions, scenario: Callable[[StandaloneCore], Awaitable[None]]) -> None:
    async def run() -> None:
        core = StandaloneCore(options)
        await core.start()
        try:
            await scenario(core)
        finally:
            await core.stop()

    asyncio.run(run())


@pytest.fixture(autouse=True)
def _own_runtime_folder(runtime: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(runtime))


@pytest.mark.parametrize("profile", sorted(PROFILES))
def test_components_speak_to_each_other_and_export_into_a_folder(tmp_path: Path, profile: str) -> None:
    exported = tmp_path / "core" / "s3" / "album" / "cats" / "1"

    async def scenario(core: StandaloneCore) -> None:
        await core.deploy([component(tmp_path, "com.example.Album", ALBUM)])
        assert await core.message("album/news", SECONDS) == b"listening"
        await core.deploy([component(tmp_path, "com.example.Camera", CAMERA)])
        assert await core.message("album/news", SECONDS) == b"cats/1"
        async with asyncio.timeout(SECONDS):
            assert await core.components_ended()
            while not exported.exists():  # noqa: ASYNC110 - there is no event for a new file
                await asyncio.sleep(0.02)

    on_core(StandaloneOptions("laptop", tmp_path / "core", PROFILES[profile]), scenario)
    assert exported.read_bytes() == b"a cat"


def test_a_message_that_does_not_arrive_is_reported(tmp_path: Path) -> None:
    async def scenario(core: StandaloneCore) -> None:
        with pytest.raises(IotConnectionError, match=r"no message on album/news within 0\.01 s"):
            await core.message("album/news", 0.01)

    on_core(StandaloneOptions("laptop", tmp_path), scenario)


def test_two_cores_of_one_name_do_not_share_anything(tmp_path: Path) -> None:
    async def scenario(_: StandaloneCore) -> None:
        second = StandaloneCore(StandaloneOptions("laptop", tmp_path / "second"))
        with pytest.raises(ControlError, match="already running"):
            await second.start()
        assert not (tmp_path / "second").exists()

    on_core(StandaloneOptions("laptop", tmp_path / "first"), scenario)
    on_core(StandaloneOptions("laptop", tmp_path / "first"), lambda _: asyncio.sleep(0))
