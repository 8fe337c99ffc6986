"""The embedded cloud: AWS on a laptop, as a MiniStack child process with a temporary state of its own."""

from __future__ import annotations

import contextlib
import http.client
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import boto3
import botocore.session
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from fedgrass.local.deployment import Deployment
from fedgrass.local.errors import CloudNotRunningError, CloudStartError, PortUnavailableError, ThingCreationError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import TracebackType

    from mypy_boto3_iot import IoTClient

LOOPBACK = "127.0.0.1"
REGION = "us-east-1"
ACCOUNT = "000000000000"
POLL_SECONDS = 0.05
STOP_SECONDS = 10.0
DEPLOY_SECONDS = 120.0
LOG_TAIL_LINES = 15
# What a person's shell may hold for the real AWS must not reach the emulator or the functions that it starts.
FOREIGN_VARIABLES = ("AWS_", "MINISTACK_", "LOCALSTACK_", "LAMBDA_", "IOT_", "S3_", "SQS_")


@dataclass(frozen=True)
class ThingCertificate:
    """An IoT thing's name and the files with which it proves to be that thing."""

    thing_name: str
    certificate: Path
    private_key: Path


class EmbeddedCloud:
    """AWS in one child process, on 127.0.0.1 only; a context manager.

    Two of them live side by side. When this process dies, however it dies, the child and all that it started end.
    """

    region = REGION
    iot_endpoint = "localhost"  # one of the names of the broker's certificate, and resolved everywhere

    def __init__(self, state: Path, *, gateway_port: int = 0, mqtt_port: int = 0) -> None:
        """`state` is where the cloud makes its temporary folder; port 0 stands for any free port."""
        self._parent_folder = state.absolute()
        self._wanted_ports = {"gateway_port": gateway_port, "mqtt_port": mqtt_port}
        self._process: subprocess.Popen[bytes] | None = None
        self._folder: Path | None = None
        self._gateway_port = gateway_port
        self.mqtt_port = mqtt_port
        self._clients: dict[str, Any] = {}
        self._clients_lock = threading.Lock()

    def __enter__(self) -> Self:
        """Start the cloud."""
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Stop the cloud."""
        self.stop()

    @property
    def endpoint_url(self) -> str:
        """Address of the AWS API."""
        self._require_running()
        return f"http://{LOOPBACK}:{self._gateway_port}"

    @property
    def root_ca(self) -> Path:
        """The certificate that the MQTT broker's own is checked against."""
        return self._require_running() / "root_ca.pem"

    @property
    def log(self) -> Path:
        """What MiniStack and the Lambda functions print."""
        return self._require_running() / "ministack.log"

    def start(self, timeout: float = 30) -> None:
        """Start the cloud and return when it answers.

        Raises PortUnavailableError, or CloudStartError when it is not ready within `timeout` seconds.
        """
        if self._process is not None:
            return
        with contextlib.ExitStack() as sockets:
            gateway, mqtt = (
                sockets.enter_context(_listen(option, port)) for option, port in self._wanted_ports.items()
            )
            self._gateway_port, self.mqtt_port = gateway.getsockname()[1], mqtt.getsockname()[1]
            self._parent_folder.mkdir(parents=True, exist_ok=True)
            self._folder = Path(tempfile.mkdtemp(prefix="cloud-", dir=self._parent_folder))
            try:
                self._process = self._spawn(gateway, mqtt)
            except BaseException:
                self.stop()
                raise
        try:
            self._wait_until_ready(time.monotonic() + timeout, timeout)
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """End the child and its Lambda processes (SIGTERM, then SIGKILL) and remove its state; may be called twice."""
        process, self._process = self._process, None
        folder, self._folder = self._folder, None
        with self._clients_lock:
            clients, self._clients = self._clients, {}
        for client in clients.values():
            client.close()
        if process is not None:
            _end(process)
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)

    def client(self, service: str) -> Any:  # noqa: ANN401  # the caller names the type: `s3: S3Client = cloud.client("s3")`
        """Return the boto3 client of `service`, made once and shared (boto3's clients are thread-safe)."""
        endpoint_url = self.endpoint_url
        with self._clients_lock:
            if service not in self._clients:
                self._clients[service] = _session(self._require_running()).client(
                    service,  # type: ignore[call-overload]  # the stubs list literals, the name comes at run time
                    endpoint_url=endpoint_url,
                    config=Config(
                        connect_timeout=5,
                        read_timeout=70,
                        retries={"mode": "standard", "max_attempts": 5},
                        max_pool_connections=32,
                        proxies={},  # never through a proxy: it is this machine
                        s3={"addressing_style": "path"},
                    ),
                )
            return self._clients[service]

    def environment(self) -> dict[str, str]:
        """Return the variables with which a child process's AWS SDK finds this cloud and no other."""
        return {"AWS_ENDPOINT_URL": self.endpoint_url, **_sdk_variables(self._require_running())}

    def deploy(self, stack: str, template: Path, lambda_zip: Path, parameters: Mapping[str, str]) -> dict[str, str]:
        """Create `stack` from a SAM template, with `lambda_zip` as every function's code, and return its outputs.

        Raises DeploymentError, which names the failing resource and its reason.
        """
        deployment = Deployment(
            s3=self.client("s3"),
            cloudformation=self.client("cloudformation"),
            endpoint_url=self.endpoint_url,
            bucket=f"fedgrass-artifacts-{ACCOUNT}-{REGION}",
        )
        return deployment.deploy(stack, template, lambda_zip, parameters, DEPLOY_SECONDS)

    def create_thing(self, name: str, folder: Path, policy: str) -> ThingCertificate:
        """Make an IoT thing with a certificate under `policy` (which exists); write its files to `folder`.

        Raises ThingCreationError.
        """
        iot: IoTClient = self.client("iot")
        thing = ThingCertificate(name, folder / "certificate.pem", folder / "private.key")
        try:
            iot.create_thing(thingName=name)
            made = iot.create_keys_and_certificate(setAsActive=True)
            iot.attach_policy(policyName=policy, target=made["certificateArn"])
            iot.attach_thing_principal(thingName=name, principal=made["certificateArn"])
        except (ClientError, BotoCoreError) as exc:
            message = f"thing {name!r} with policy {policy!r} was refused: {exc}"
            raise ThingCreationError(message) from exc
        folder.mkdir(parents=True, exist_ok=True)
        thing.certificate.write_text(made["certificatePem"], encoding="ascii")
        thing.private_key.touch(mode=0o600)
        thing.private_key.write_text(made["keyPair"]["PrivateKey"], encoding="ascii")
        return thing

    def _require_running(self) -> Path:
        if self._folder is None or self._process is None:
            message = "the embedded cloud is not running: call start() first"
            raise CloudNotRunningError(message)
        return self._folder

    def _spawn(self, gateway: socket.socket, mqtt: socket.socket) -> subprocess.Popen[bytes]:
        folder = self._folder
        assert folder is not None  # noqa: S101  # start() has just made it
        (folder / "tmp").mkdir()
        _write_sdk_config(folder)
        listeners = (gateway.fileno(), mqtt.fileno())
        with (folder / "ministack.log").open("wb") as log:
            return subprocess.Popen(  # noqa: S603  # no shell; every word is ours
                [
                    sys.executable,
                    *("-m", "fedgrass.local.ministack_process"),
                    *("--gateway-fd", str(listeners[0]), "--mqtt-fd", str(listeners[1]), "--state", str(folder)),
                ],
                stdin=subprocess.PIPE,  # held open as long as this process lives: its end tells the child to stop
                stdout=log,
                stderr=log,
                env=_child_environment(folder, self._gateway_port, self.mqtt_port),
                cwd=folder,
                pass_fds=listeners,
                start_new_session=True,  # Ctrl-C is for this process alone: it stops the child in good order
            )
