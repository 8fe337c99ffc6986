"""Start and stop the child process of the embedded cloud, and define its environment."""

import contextlib
import http.client
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from fedgrass.local.local_errors import CloudStartError, PortUnavailableError
from greengrass_emulator.child_environment import local_variables

LOOPBACK = "127.0.0.1"
REGION = "us-east-1"
REQUESTS_PATH = "/_fedgrass/requests"  # where the child returns the number of requests by operation
_POLL_SECONDS = 0.05
_RESPONSE_SECONDS = 5.0
_STOP_SECONDS = 10.0
_LOG_TAIL_LINES = 15
_HIGHEST_PORT = 65535
# Prefixes of variables of the operator's shell that configure AWS or another emulator: not passed on.
_FOREIGN_VARIABLES = ("AWS_", "MINISTACK_", "LOCALSTACK_", "LAMBDA_", "IOT_", "S3_", "SQS_")


class CloudProcess:
    """A MiniStack child process with its two ports and its temporary folder."""

    def __init__(
        self, parent_folder: Path, gateway_port: int, mqtt_port: int, *, enforces: bool = False
    ) -> None:
        """Start the child.

        Args:
            parent_folder: folder in which the temporary folder is created.
            gateway_port: port of the AWS API; 0: any free port.
            mqtt_port: port of the MQTT broker; 0: any free port.
            enforces: whether IAM and IoT policies are enforced, as on AWS.

        Raises:
            PortUnavailableError: a port cannot be used.
        """
        self.enforces = enforces
        # Credentials of the account's owner. They are random, because a web page in the developer's browser
        # can reach the gateway too.
        self._owner_key = f"AKIA{secrets.token_hex(8).upper()}"
        self._owner_secret = secrets.token_urlsafe(30)
        with contextlib.ExitStack() as opened:
            gateway = opened.enter_context(_listen("gateway_port", gateway_port))
            mqtt = opened.enter_context(_listen("mqtt_port", mqtt_port))
            self.gateway_port: int = gateway.getsockname()[1]
            self.mqtt_port: int = mqtt.getsockname()[1]
            parent_folder.mkdir(parents=True, exist_ok=True)
            self.folder = Path(tempfile.mkdtemp(prefix="cloud-", dir=parent_folder.absolute()))
            self.log = self.folder / "ministack.log"
            try:
                self._child = self._spawn(gateway, mqtt)
            except BaseException:
                shutil.rmtree(self.folder, ignore_errors=True)
                raise

    def _spawn(self, gateway: socket.socket, mqtt: socket.socket) -> subprocess.Popen[bytes]:
        (self.folder / "tmp").mkdir()
        # The environment of a child can override AWS_PROFILE, but not unset it.
        (self.folder / "aws_config").write_text(f"[default]\nregion = {REGION}\n", encoding="ascii")
        command = [sys.executable, "-m", "fedgrass.local.aws.ministack_process"]
        command += ["--gateway-fd", str(gateway.fileno()), "--mqtt-fd", str(mqtt.fileno())]
        command += ["--state", str(self.folder)]
        with self.log.open("wb") as log:
            return subprocess.Popen(  # noqa: S603 - no shell, and no argument from outside
                command,
                stdin=subprocess.PIPE,  # open while this process lives; the child stops at its end
                stdout=log,
                stderr=log,
                env=self._environment(),
                cwd=self.folder,
                pass_fds=(gateway.fileno(), mqtt.fileno()),
                start_new_session=True,  # Ctrl-C reaches only this process, which stops the child
            )

    def sdk_variables(self) -> dict[str, str]:
        """Return variables with credentials, region and endpoint for an AWS SDK."""
        return {
            "AWS_ENDPOINT_URL": f"http://{LOOPBACK}:{self.gateway_port}",
            "AWS_ACCESS_KEY_ID": self._owner_key,
            "AWS_SECRET_ACCESS_KEY": self._owner_secret,
            "AWS_SESSION_TOKEN": "",
            "AWS_REGION": REGION,
            "AWS_DEFAULT_REGION": REGION,
            "AWS_PROFILE": "default",
            "AWS_CONFIG_FILE": str(self.folder / "aws_config"),
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
            "AWS_EC2_METADATA_DISABLED": "true",
            **local_variables(os.environ),
        }

    def _environment(self) -> dict[str, str]:
        inherited = {
            name: value for name, value in os.environ.items() if not name.startswith(_FOREIGN_VARIABLES)
        }
        state = str(self.folder / "tmp")
        return {
            **inherited,
            **self.sdk_variables(),  # the Lambda functions inherit them
            "GATEWAY_PORT": str(self.gateway_port),
            "IOT_MTLS_PORT": str(self.mqtt_port),
            "BIND_HOST": LOOPBACK,
            "LAMBDA_EXECUTOR": "local",
            "AUTH": str(self.enforces).lower(),
            "SERVICES": "",
            "USE_SSL": "0",
            "SFTP_ENABLED": "0",
            "PERSIST_STATE": "0",
            "S3_PERSIST": "0",
            # MiniStack would remove containers of other MiniStacks: hide Docker from it.
            "DOCKER_HOST": f"unix://{self.folder / 'no-docker.sock'}",
            "TMPDIR": state,
            "STATE_DIR": state,
            "S3_DATA_DIR": state,
        }

    def wait_until_ready(self, timeout: float) -> None:
        """Wait for the API and the MQTT broker. Raises CloudStartError after ``timeout`` seconds."""
        deadline = time.monotonic() + timeout
        while self.get("/_ministack/ready", min(timeout, _RESPONSE_SECONDS)) is None:
            if (code := self._child.poll()) is not None:
                message = (
                    f"MiniStack exited with code {code} during its start; end of its log:\n{self._log_tail()}"
                )
                raise CloudStartError(message)
            if time.monotonic() > deadline:
                message = f"MiniStack was not ready after {timeout:g} s; end of its log:\n{self._log_tail()}"
                raise CloudStartError(message)
            time.sleep(_POLL_SECONDS)

    def get_root_ca(self) -> bytes:
        """Return the CA certificate of the MQTT broker, in PEM format. Raises CloudStartError."""
        authority = self.get("/_ministack/iot/ca.pem")
        if authority is None:
            message = f"MiniStack has no certificate authority; end of its log:\n{self._log_tail()}"
            raise CloudStartError(message)
        return authority

    def get(self, path: str, timeout: float = _RESPONSE_SECONDS) -> bytes | None:
        """Return a response of MiniStack's own API; None without status 200 within ``timeout`` s."""
        connection = http.client.HTTPConnection(
            LOOPBACK, self.gateway_port, timeout=max(timeout, _POLL_SECONDS)
        )
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            body = response.read()
        except (OSError, http.client.HTTPException):
            return None
        finally:
            connection.close()
        return body if response.status == http.HTTPStatus.OK else None

    def stop(self) -> None:
        """Stop the child and its Lambda processes, by SIGTERM, then by SIGKILL, and remove its folder."""
        self._child.terminate()
        try:
            self._child.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            # The child is not reaped yet, so the process group id is still its own.
            os.killpg(self._child.pid, signal.SIGKILL)
            self._child.wait()
        finally:
            if self._child.stdin is not None:
                self._child.stdin.close()
            shutil.rmtree(self.folder, ignore_errors=True)

    def _log_tail(self) -> str:
        lines = self.log.read_text(encoding="utf-8", errors="replace").splitlines()
        return "\n".join(lines[-_LOG_TAIL_LINES:]) or "(empty)"


def _listen(option: str, port: int) -> socket.socket:
    """Listen on loopback. The child inherits the socket, so no other process can take the port."""
    if not 0 <= port <= _HIGHEST_PORT:
        message = f"{option} is {port}; a port is a number from 0 (any free one) to {_HIGHEST_PORT}"
        raise PortUnavailableError(message)
    try:
        return socket.create_server((LOOPBACK, port))
    except OSError as error:
        message = f"{option} {port} on {LOOPBACK} cannot be used: {error.strerror}."
        message += f" Choose another {option}, or 0 for any free port"
        raise PortUnavailableError(message) from error
