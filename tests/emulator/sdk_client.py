"""AWS's own SDK for Greengrass IPC, connected to an emulated core as one of its components."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import awsiot.greengrasscoreipc as greengrass
from awsiot.eventstreamrpc import LifecycleHandler
from awsiot.greengrasscoreipc.clientv2 import GreengrassCoreIPCClientV2

from greengrass_emulator.core.nucleus import GreengrassCore
from tests.emulator.local_core import COMPONENT


def connect(core: GreengrassCore, component: str = COMPONENT, handler: LifecycleHandler | None = None) -> Any:
    """Return a client with the component's token; its one thread keeps events in order."""
    environment = core.component_environment(component)
    connected = greengrass.connect(
        ipc_socket=environment["AWS_GG_NUCLEUS_DOMAIN_SOCKET_FILEPATH_FOR_COMPONENT"],
        authtoken=environment["SVCUID"],
        lifecycle_handler=handler,
    )
    return GreengrassCoreIPCClientV2(client=connected, executor=ThreadPoolExecutor(1))
