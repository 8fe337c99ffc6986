"""A Greengrass core device on a laptop: what a component finds on a real one, it finds here.

The nucleus stand-in serves Greengrass IPC to the unmodified SDK, runs components from their recipes, and
connects to AWS IoT Core as its thing. Many cores can live in one event loop.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from fedgrass.local.component_registry import ComponentRegistry
from fedgrass.local.deployed_component import CoreSurroundings
from fedgrass.local.iot_bridge import IotBridge
from fedgrass.local.iot_connection import IotConnection, IotEndpoint
from fedgrass.local.ipc_connection import Service
from fedgrass.local.ipc_messaging import MessagingOperations
from fedgrass.local.ipc_operations import ComponentOperations
from fedgrass.local.ipc_server import IpcServer
from fedgrass.local.local_topics import LocalTopics
from fedgrass.local.paho_connection import PahoConnection
from fedgrass.local.profiles import Profile
from fedgrass.local.token_exchange import TokenExchangeService

CONNECT_SECONDS: Final = 30.0


@dataclass(frozen=True)
class CoreSettings:
    """What makes one core device."""

    thing_name: str
    root: Path
    """The core's own folder: work/, logs/, packages/ and its IPC socket."""
    iot_endpoint: str
    iot_port: int
    certificate: Path
    private_key: Path
    root_ca: Path
    region: str
    credentials: Callable[[], Mapping[str, str]]
    """AccessKeyId, SecretAccessKey, Token and Expiration of the device's role.

    May block: it is called in a thread.
    """
    environment: Mapping[str, str]
    """Given to every component, such as AWS_ENDPOINT_URL or STREAM_MANAGER_SERVER_PORT."""
    profile: Profile


class GreengrassCore:
    """One core device. `start` it, `deploy` components, `stop` it: nothing of it is left but its files.

    After `stop`, `start` brings it back as a device is switched on again: its components are installed and
    run. `connect` replaces the connection to IoT Core.
    """

    def __init__(self, settings: CoreSettings, connect: Callable[[], IotConnection] | None = None) -> None:
        self._settings = settings
        # Components run in folders of their own: a relative path would mean another place there.
        self._root = settings.root.absolute()
        self._connect = connect or self._connect_by_mqtt
        self._log = logging.Logger(f"fedgrass.core.{settings.thing_name}", logging.INFO)  # noqa: LOG001
        # Not in logging's own table of loggers, which would keep every core of a long-lived process.
        self._log.parent = logging.getLogger("fedgrass.local")
        self._log_file: logging.Handler | None = None
        self._components = ComponentRegistry(self._surroundings, settings.profile, self._log)
        self._token_exchange = TokenExchangeService(settings.credentials, self.is_component_token, self._log)
        self._ipc: IpcServer | None = None
        self._connection: IotConnection | None = None

    async def start(self) -> None:
        """Listen for components, connect to IoT Core within 30 s, and run what was deployed before.

        Raises IotConnectionError, after undoing everything, if IoT Core does not take the connection.
        """
        if self._ipc is not None:
            return
        for folder in ("work", "logs", "packages"):
            (self._root / folder).mkdir(parents=True, exist_ok=True)
        self._open_log()
        connection = self._connect()
        bridge = IotBridge(connection, self._settings.profile, self._log)
        self._ipc = IpcServer(self._root, self._service(bridge))
        try:
            await self._ipc.start()
            await self._token_exchange.start()
            self._connection = connection
            await connection.start(bridge.dispatch, CONNECT_SECONDS)
        except BaseException:
            await self.stop()
            raise
        self._components.start_all()

    async def deploy(
        self, recipe: Path, artifacts: Path, configuration: Mapping[str, object] | None = None
    ) -> None:
        """Install and start a component, as `greengrass-cli deployment create --merge` does.

        `artifacts` holds <component>/<version>/<file>; `configuration` is merged over the recipe's. Returns
        when the component's lifecycle has begun: `wait_for` tells what becomes of it. Raises a CoreError that
        says what is wrong.
        """
        await self._components.deploy(recipe, artifacts, configuration or {})

    async def update_configuration(self, component: str, merge: Mapping[str, object]) -> None:
        """Merge into a component's configuration.

        It is told by IPC, and restarted if its run step reads what changed.
        """
        await self._components.update_configuration(component, merge)

    def component_state(self, component: str) -> str:
        """NEW, INSTALLED, STARTING, RUNNING, STOPPING, ERRORED, BROKEN or FINISHED.

        Raises UnknownComponentError.
        """
        return self._components.state(component)

    async def wait_for(self, component: str, state: str, timeout: float) -> None:  # noqa: ASYNC109
        """Wait at most `timeout` seconds until a component reaches `state`.

        Raises ComponentStateError with the end of the component's log: at once if the component is given up.
        """
        await self._components.wait_for(component, state, timeout)

    def component_environment(self, component: str) -> Mapping[str, str]:
        """The environment that the component's process has, without the recipe's Setenv."""
        return self._components.get(component).environment(self._surroundings())

    def is_component_token(self, token: str) -> bool:
        """Whether `token` is the SVCUID of a component on this core."""
        return self._components.is_component_token(token)

    async def stop(self) -> None:
        """End components, servers and connection. May be called again."""
        await self._components.stop_all()
        if self._ipc is not None:
            await self._ipc.stop()
            self._ipc = None
        await self._token_exchange.stop()
        if self._connection is not None:
            await self._connection.stop()
            self._connection = None
        if self._log_file is not None:
            self._log.removeHandler(self._log_file)
            self._log_file.close()
            self._log_file = None

    async def close_ipc_streams(self, component: str) -> None:
        """A fault: close a component's IPC connections and refuse its token, as when Lite's IPC daemon dies.

        The component's next process gets a new token.
        """
        self._components.renew_token(component)
        if self._ipc is not None:
            self._ipc.close_connections(component)

    async def cut_mqtt(self) -> None:
        """A fault: break the connection to IoT Core without a word, until `restore_mqtt`."""
        if self._connection is not None:
            await self._connection.cut()

    async def restore_mqtt(self) -> None:
        """Let the connection to IoT Core come back."""
        if self._connection is not None:
            await self._connection.restore()

    def _service(self, bridge: IotBridge) -> Service:
        messaging = MessagingOperations(self._components, bridge, LocalTopics(), self._settings.profile)
        operations = {**ComponentOperations(self._components).by_name(), **messaging.by_name()}
        return Service(self._components.component_of, operations, self._log)

    def _surroundings(self) -> CoreSurroundings:
        settings = self._settings
        socket = str(self._ipc.path) if self._ipc else ""
        environment = {
            **settings.environment,
            "AWS_GG_NUCLEUS_DOMAIN_SOCKET_FILEPATH_FOR_COMPONENT": socket,
            "AWS_IOT_THING_NAME": settings.thing_name,
            "AWS_REGION": settings.region,
            "AWS_DEFAULT_REGION": settings.region,
            "GGC_VERSION": settings.profile.nucleus_version,
            "GG_ROOT_CA_PATH": str(settings.root_ca.absolute()),
        }
        return CoreSurroundings(self._root, settings.thing_name, environment, self._token_exchange.url)

    def _connect_by_mqtt(self) -> IotConnection:
        settings, profile = self._settings, self._settings.profile
        endpoint = IotEndpoint(
            settings.iot_endpoint,
            settings.iot_port,
            settings.thing_name,
            settings.certificate,
            settings.private_key,
            settings.root_ca,
        )
        return PahoConnection(
            endpoint,
            self._log,
            in_flight_messages=profile.in_flight_messages,
            keeps_session=profile.spools_offline,
        )

    def _open_log(self) -> None:
        self._log_file = logging.FileHandler(self._root / "logs" / "greengrass.log")
        self._log_file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
        self._log.addHandler(self._log_file)
