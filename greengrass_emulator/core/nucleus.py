"""One emulated Greengrass core device: the nucleus and the services that components find on a real one.

The nucleus serves Greengrass IPC to the unmodified SDK, runs components from their recipes, and connects to
AWS IoT Core as its thing. Many cores can run in one event loop.
"""

import logging
from collections.abc import Callable, Mapping
from pathlib import Path

from greengrass_emulator.core.core_folders import PlainRoot
from greengrass_emulator.core.core_settings import CoreSettings, Interruptible
from greengrass_emulator.core.token_exchange_service import TokenExchangeService
from greengrass_emulator.deployment.component_updates import ComponentUpdates
from greengrass_emulator.deployment.core_deployments import Deployments
from greengrass_emulator.deployment.deployment_records import ComponentSource, Deployment
from greengrass_emulator.emulator_errors import InjectionError
from greengrass_emulator.faults.fault_state import Faults
from greengrass_emulator.iot.iot_bridge import IotBridge
from greengrass_emulator.iot.iot_connection import IotConnection
from greengrass_emulator.iot.paho_connection import connection_of
from greengrass_emulator.ipc.ipc_administration import DeploymentOperations, LifecycleOperations
from greengrass_emulator.ipc.ipc_connection import IpcServer, Service
from greengrass_emulator.ipc.ipc_messaging import MessagingOperations
from greengrass_emulator.ipc.ipc_operations import ComponentOperations, SecretOperations
from greengrass_emulator.lifecycle.component_registry import ComponentRegistry
from greengrass_emulator.lifecycle.deployed_component import (
    STREAM_MANAGER,
    TOKEN_EXCHANGE,
    CoreContext,
    core_context,
)

_CONNECT_SECONDS = 30.0


class GreengrassCore:
    """One core device: await ``start``, ``deploy``, then ``stop``, after which only its files are left.

    A second ``start`` is like switching a device on again: its components are installed and run.

    Args:
        settings: those of the core.
        connect: makes the connection to IoT Core; by default MQTT over TLS.
    """

    def __init__(self, settings: CoreSettings, connect: Callable[[], IotConnection] | None = None) -> None:
        self._settings = settings
        # Components run in other folders, where a relative path would mean another place.
        self._root = settings.root.absolute()
        self._plain_root = PlainRoot(self._root)
        self._connect = connect or self._connect_by_mqtt
        self._log = logging.Logger(f"greengrass_emulator.core.{settings.thing_name}", logging.INFO)  # noqa: LOG001 - see below
        # Not in logging's table of loggers, which would keep every core of a long-lived process alive.
        self._log.parent = logging.getLogger("greengrass_emulator")
        self._log_file: logging.Handler | None = None
        self._components = ComponentRegistry(self._context, settings.profile, self._log)
        self.updates = ComponentUpdates()
        self.deployments = Deployments(
            self._components, settings.profile, settings.faults, self._log, self.updates
        )
        self._bridge: IotBridge | None = None
        self._token_exchange = TokenExchangeService(settings.credentials, self.is_component_token, self._log)
        self._services: dict[str, Interruptible | None] = {
            STREAM_MANAGER: settings.stream_manager,
            TOKEN_EXCHANGE: self._token_exchange,
        }
        self._provide_configurations()
        self._ipc: IpcServer | None = None
        self._connection: IotConnection | None = None

    async def start(self) -> None:
        """Listen for components, connect to IoT Core within 30 s, and run what was deployed before.

        Raises:
            IotConnectionError: IoT Core does not accept the connection; everything is stopped again.
        """
        if self._ipc is not None:
            return
        for folder in ("work", "logs", "packages", "home"):
            (self._root / folder).mkdir(parents=True, exist_ok=True)
        self._plain_root.make()
        self._open_log()
        connection = self._connect()
        bridge = IotBridge(connection, self._settings.profile, self._log, self._settings.faults)
        self._bridge = bridge
        self._ipc = IpcServer(self._plain_root.path, self._service(bridge))
        try:
            await self._ipc.start()
            await self._token_exchange.start()
            self._connection = connection
            await connection.start(bridge.dispatch, _CONNECT_SECONDS)
        except BaseException:
            await self.stop()
            raise
        self._components.start_all()

    async def deploy(
        self, recipe: Path, artifacts: Path, configuration: Mapping[str, object] | None = None
    ) -> Deployment:
        """Install and start a component, as `greengrass-cli deployment create --merge` does.

        Returns when the component's lifecycle has begun: ``wait_for`` waits for a state of the component,
        ``deployments.wait_for`` for the outcome of the deployment, which is rolled back if it replaced a
        component and fails.

        Args:
            recipe: the recipe's file.
            artifacts: a folder with <component>/<version>/<file>.
            configuration: merged over the recipe's default configuration.

        Raises:
            CoreError: the component cannot be installed.
        """
        return await self.deployments.deploy([ComponentSource(recipe, artifacts, configuration or {})])

    async def update_configuration(self, component: str, merge: Mapping[str, object]) -> Deployment:
        """Merge into a component's configuration.

        The component is notified over IPC, and restarted if its run step reads what changed.
        """
        return await self.deployments.update_configuration(component, merge)

    @property
    def thing_name(self) -> str:
        """The name of the core's thing."""
        return self._settings.thing_name

    @property
    def root(self) -> Path:
        """The core's folder."""
        return self._root

    @property
    def faults(self) -> Faults:
        """The active faults of this core; see fault_injection."""
        return self._settings.faults

    def component_states(self) -> Mapping[str, tuple[str, str]]:
        """Return version and state of each component, by name."""
        components = self._components.components
        return {
            name: (one.recipe.component_version, self._components.state(name))
            for name, one in components.items()
        }

    def component_state(self, component: str) -> str:
        """Return NEW, INSTALLED, STARTING, RUNNING, STOPPING, ERRORED, BROKEN or FINISHED.

        Raises:
            UnknownComponentError: no such component is deployed.
        """
        return self._components.state(component)

    async def wait_for(self, component: str, state: str, timeout: float) -> None:  # noqa: ASYNC109 - part of the public API
        """Wait at most ``timeout`` seconds until a component reaches a state.

        Raises:
            ComponentStateError: it has not; at once if the component is BROKEN. The message has the end of
                the component's log.
        """
        await self._components.wait_for(component, state, timeout)

    def component_environment(self, component: str) -> Mapping[str, str]:
        """Return the environment of the component's process, without the recipe's Setenv."""
        return self._components.get(component).environment(self._context())

    def is_component_token(self, token: str) -> bool:
        """Return whether ``token`` is the SVCUID of a component on this core."""
        return self._components.is_component_token(token)

    async def stop(self) -> None:
        """Stop components, servers and connection. May be called again."""
        await self.deployments.stop()
        await self._components.stop_all()
        if self._bridge is not None:
            self._bridge.close()
            self._bridge = None
        if self._ipc is not None:
            await self._ipc.stop()
            self._ipc = None
        await self._token_exchange.stop()
        if self._connection is not None:
            await self._connection.stop()
            self._connection = None
        self._plain_root.remove()
        if self._log_file is not None:
            self._log.removeHandler(self._log_file)
            self._log_file.close()
            self._log_file = None

    async def close_ipc_streams(self, component: str) -> None:
        """Inject a fault: close a component's IPC connections and refuse its token, as if IPC had died.

        The component's next process gets a new token.
        """
        self._components.renew_token(component)
        if self._ipc is not None:
            self._ipc.close_connections(component)

    async def restart_ipc_daemon(self) -> None:
        """Inject a fault: close all IPC connections and refuse all tokens; new processes get new ones."""
        for name in self._components.components:
            self._components.renew_token(name)
        if self._ipc is not None:
            self._ipc.close_connections()

    async def interrupt_service(self, name: str) -> None:
        """Inject a fault: the process of Stream Manager or of the token exchange service dies.

        It is down until ``resume_service``. Components with a HARD dependency on it are stopped.

        Raises:
            InjectionError: the core has no such service.
        """
        await self._service_of(name).interrupt()
        self._components.dependencies.lost(name)

    async def resume_service(self, name: str) -> None:
        """Start a service again. Raises InjectionError if that fails."""
        try:
            await self._service_of(name).resume()
        except OSError as error:
            message = f"{name} cannot be started again: {error}"
            raise InjectionError(message) from error
        self._components.dependencies.back(name)

    async def kill_subscriptions(self) -> None:
        """Inject a fault: the MQTT daemon silently loses all subscriptions."""
        if self._bridge is not None:
            await self._bridge.forget_subscriptions()

    async def cut_mqtt(self) -> None:
        """Inject a fault: break the connection to IoT Core without a DISCONNECT, until ``restore_mqtt``."""
        if self._bridge is not None:
            self._bridge.link_is_cut = True
        if self._connection is not None:
            await self._connection.cut()

    async def restore_mqtt(self) -> None:
        """Restore the connection to IoT Core."""
        if self._bridge is not None:
            self._bridge.link_is_cut = False
        if self._connection is not None:
            await self._connection.restore()

    def _service_of(self, name: str) -> Interruptible:
        service = self._services.get(name)
        if service is None or self._ipc is None:
            message = f"core {self.thing_name} has no running {name}"
            raise InjectionError(message)
        return service

    def _provide_configurations(self) -> None:
        """Let components read the configuration of the nucleus and of the token exchange service."""
        settings = self._settings
        nucleus = {
            "awsRegion": settings.region,
            "iotDataEndpoint": settings.iot_endpoint,
            "greengrassDataPlanePort": str(settings.iot_port),
        }
        self._components.provide(settings.profile.nucleus_component, lambda: nucleus)
        key = settings.profile.exchange_port_key
        self._components.provide(TOKEN_EXCHANGE, lambda: {key: str(self._token_exchange.port)})

    def _service(self, bridge: IotBridge) -> Service:
        profile, registry = self._settings.profile, self._components
        parts = (
            ComponentOperations(registry, profile),
            LifecycleOperations(registry),
            DeploymentOperations(registry, self.deployments),
            SecretOperations(registry, self._settings.secrets),
            MessagingOperations(registry, bridge, profile, self._log),
            self.updates,
        )
        served = {name: act for part in parts for name, act in part.by_name().items()}
        operations = {name: act for name, act in served.items() if name not in profile.unserved_operations}
        return Service(
            registry.component_of,
            operations,
            self._log,
            profile.answers_wrong_token,
            profile.names_errors,
            profile.ipc_packet_limit,
        )

    def _context(self) -> CoreContext:
        socket = str(self._ipc.path) if self._ipc else ""
        return core_context(self._settings, self._plain_root.path, socket, self._token_exchange.url)

    def _connect_by_mqtt(self) -> IotConnection:
        return connection_of(self._settings, self._log)

    def _open_log(self) -> None:
        self._log_file = logging.FileHandler(self._root / "logs" / "greengrass.log")
        self._log_file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
        self._log.addHandler(self._log_file)
