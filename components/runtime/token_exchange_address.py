"""The address of the token exchange service, which provides a component's AWS credentials.

The nucleus passes the address in an environment variable. A component with a SOFT dependency may start before
the service and outlive it; a service that starts later, or again, listens on another port. The service's
configuration, which every component may read, then has the port. Child processes inherit the variable.
"""

import logging
import os
from collections.abc import Callable

COMPONENT = "aws.greengrass.TokenExchangeService"
PORT_KEYS = ("activePort", "port")  # on the classic nucleus, and on Nucleus Lite
ADDRESS = "AWS_CONTAINER_CREDENTIALS_FULL_URI"
TOKEN = "AWS_CONTAINER_AUTHORIZATION_TOKEN"  # noqa: S105 - the name of a variable
FROM_NUCLEUS = "SVCUID"  # set in the process of every component
_URL = "http://localhost:{port}/2016-11-01/credentialprovider/"
log = logging.getLogger(__name__)


def find_again(ask_port: Callable[[], int | None]) -> bool:
    """Update the variable to the service's current address; return whether it changed.

    Args:
        ask_port: returns the service's port from the nucleus; None if unknown.
    """
    port = ask_port()
    if port is None:
        return False
    # The nucleus may have set another name of this machine: keep it.
    known = os.environ.get(ADDRESS, "")
    if f":{port}/" in known:
        return False
    os.environ[ADDRESS] = _URL.format(port=port)
    log.info("the token exchange service is at %s", os.environ[ADDRESS])
    return True
