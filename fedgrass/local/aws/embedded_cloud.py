"""The embedded cloud: AWS on a laptop, as a MiniStack child process with temporary state."""

import json
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import boto3
import botocore.session
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from fedgrass.console.deploy.deploy_package import Artifacts, packaged
from fedgrass.console.deploy.deploy_stack import Stack
from fedgrass.console.stack import StackError, outputs_of
from fedgrass.local.aws.cloud_process import LOOPBACK, REGION, REQUESTS_PATH, CloudProcess
from fedgrass.local.local_errors import CloudNotRunningError, DeploymentError, ThingCreationError

if TYPE_CHECKING:
    from mypy_boto3_cloudformation.type_defs import ParameterTypeDef
    from mypy_boto3_iot import IoTClient

ACCOUNT = "000000000000"  # MiniStack's
_DEPLOY_SECONDS = 120.0
_DEPLOY_POLL_SECONDS = 0.1
# A Lambda call may take a minute; the pool lets a whole fleet upload concurrently.
CLIENT_CONFIG = Config(
    connect_timeout=5,
    read_timeout=70,
    retries={"mode": "standard", "max_attempts": 5},
    max_pool_connections=32,
    proxies={},  # no proxy for this machine
    s3={"addressing_style": "path"},
)


@dataclass(frozen=True)
class ThingCertificate:
    """The name of an IoT thing, with the files of its certificate and private key."""

    thing_name: str
    certificate: Path
    private_key: Path


class EmbeddedCloud:
    """AWS in one child process, on 127.0.0.1 only; a context manager.

    Several can run concurrently. When this process ends for any reason, the child and its processes end too.
    """

    region = REGION
    iot_endpoint = "localhost"  # in the certificate of the broker, and resolved on every machine

    def __init__(
        self, state: Path, *, gateway_port: int = 0, mqtt_port: int = 0, enforces: bool = False
    ) -> None:
        """Prepare a cloud; ``start`` starts it.

        Args:
            state: folder in which the temporary folder is created.
            gateway_port: port of the AWS API; 0: any free port.
            mqtt_port: port of the MQTT broker; 0: any free port.
            enforces: whether IAM policies of roles and IoT policies of certificates are enforced. ``client``
                has the permissions of the account's owner in either case.
        """
        self.enforces = enforces
        self._state = state
        self._wanted_ports = (gateway_port, mqtt_port)
        self._running: CloudProcess | None = None
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

    def start(self, timeout: float = 30) -> None:
        """Start the cloud and wait until it is ready.

        Raises:
            PortUnavailableError: a chosen port cannot be used.
            CloudStartError: the cloud is not ready within ``timeout`` seconds.
        """
        if self._running is not None:
            return
        self._running = CloudProcess(self._state, *self._wanted_ports, enforces=self.enforces)
        try:
            self._running.wait_until_ready(timeout)
            self.root_ca.write_bytes(self._running.get_root_ca())
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Stop the cloud and remove its temporary state. May be called twice."""
        running, self._running = self._running, None
        with self._clients_lock:
            clients, self._clients = self._clients, {}
        for client in clients.values():
            client.close()
        if running is not None:
            running.stop()

    @property
    def endpoint_url(self) -> str:
        """The URL of the AWS API."""
        return f"http://{LOOPBACK}:{self._process.gateway_port}"

    @property
    def mqtt_port(self) -> int:
        """The port of the MQTT broker of IoT Core (TLS)."""
        return self._process.mqtt_port

    @property
    def root_ca(self) -> Path:
        """The file of the CA certificate of the MQTT broker."""
        return self._process.folder / "root_ca.pem"

    @property
    def log(self) -> Path:
        """The log file of MiniStack, with the output of Lambda functions that queues start."""
        return self._process.log

    def client(self, service: str) -> Any:
        """Return the boto3 client of a service, created once and shared, which boto3 allows between threads.

        As an argument of type ``Clients`` it is typed; a caller names the type: `s3: S3Client =
        cloud.client("s3")`.
        """
        process, endpoint_url = self._process, self.endpoint_url
        with self._clients_lock:
            if service not in self._clients:
                session = _session(process.sdk_variables())
                create: Any = session.client
                self._clients[service] = create(service, endpoint_url=endpoint_url, config=CLIENT_CONFIG)
            return self._clients[service]

    def client_with(self, service: str, credentials: Mapping[str, str], endpoint_url: str = "") -> Any:
        """Return a new client with other credentials, such as those of a device."""
        create: Any = _session(self._process.sdk_variables()).client
        return create(
            service,
            endpoint_url=endpoint_url or self.endpoint_url,
            config=CLIENT_CONFIG,
            aws_access_key_id=credentials["AccessKeyId"],
            aws_secret_access_key=credentials["SecretAccessKey"],
            aws_session_token=credentials["Token"],
        )

    def request_counts(self) -> dict[str, int]:
        """Return the number of requests by operation, such as ``DynamoDB_20120810.GetItem``, since the start.

        Raises:
            CloudNotRunningError: the cloud does not answer.
        """
        answer = self._process.get(REQUESTS_PATH)
        if answer is None:
            message = "the embedded cloud does not answer"
            raise CloudNotRunningError(message)
        counts: dict[str, int] = json.loads(answer)
        return counts

    def environment(self) -> dict[str, str]:
        """Return the environment variables with which the AWS SDK of a child process uses this cloud."""
        return self._process.sdk_variables()

    def deploy(
        self, stack: str, template: Path, lambda_zip: Path, parameters: Mapping[str, str]
    ) -> dict[str, str]:
        """Create a stack from a SAM template, as `fedgrass deploy cloud` does; return its outputs.

        Args:
            stack: name of the stack.
            template: file of the SAM template.
            lambda_zip: code of every function.
            parameters: parameters of the template.

        Raises:
            DeploymentError: the stack cannot be created; the message names the resource and the reason.
        """
        made = Stack(self.client("cloudformation"), stack, lambda _: None, _DEPLOY_POLL_SECONDS)
        artifacts = Artifacts(self.client("s3"), ACCOUNT, stack)
        given: list[ParameterTypeDef] = [
            {"ParameterKey": key, "ParameterValue": value} for key, value in parameters.items()
        ]
        try:
            if made.check() != "CREATE":
                message = f"the stack {stack!r} already exists"
                raise DeploymentError(message)
            artifacts.prepare()
            url = artifacts.upload_template(packaged(template, lambda_zip, artifacts.upload))
            made.apply(url, given, _DEPLOY_SECONDS)
            return outputs_of(made.describe())
        except (ClientError, BotoCoreError, StackError) as error:
            message = f"stack {stack!r} from {template}: {error}"
            raise DeploymentError(message) from error

    def create_thing(self, name: str, folder: Path, policy: str) -> ThingCertificate:
        """Create an IoT thing with a certificate, and write its files to ``folder``.

        Args:
            name: name of the thing.
            folder: folder for the certificate and the private key.
            policy: name of the IoT policy to attach, which must exist.

        Raises:
            ThingCreationError: a call was refused.
        """
        iot: IoTClient = self.client("iot")
        try:
            iot.create_thing(thingName=name)
            made = iot.create_keys_and_certificate(setAsActive=True)
            iot.attach_policy(policyName=policy, target=made["certificateArn"])
            iot.attach_thing_principal(thingName=name, principal=made["certificateArn"])
        except (ClientError, BotoCoreError) as error:
            message = f"thing {name!r} with policy {policy!r} could not be created: {error}"
            raise ThingCreationError(message) from error
        thing = ThingCertificate(name, folder / "certificate.pem", folder / "private.key")
        folder.mkdir(parents=True, exist_ok=True)
        thing.certificate.write_text(made["certificatePem"], encoding="ascii")
        thing.private_key.touch(mode=0o600)
        thing.private_key.write_text(made["keyPair"]["PrivateKey"], encoding="ascii")
        return thing

    @property
    def _process(self) -> CloudProcess:
        if self._running is None:
            message = "the embedded cloud is not running: call start() first"
            raise CloudNotRunningError(message)
        return self._running


def _session(variables: Mapping[str, str]) -> boto3.Session:
    """Return a session that ignores the AWS settings of the operator, such as a missing profile."""
    core = botocore.session.Session(session_vars={"profile": (None, [], None, None)})
    core.set_config_variable("config_file", variables["AWS_CONFIG_FILE"])
    core.set_config_variable("credentials_file", variables["AWS_SHARED_CREDENTIALS_FILE"])
    return boto3.Session(
        aws_access_key_id=variables["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=variables["AWS_SECRET_ACCESS_KEY"],
        region_name=variables["AWS_REGION"],
        botocore_session=core,
    )
