"""Where the token exchange service is, which gives a component its AWS credentials.

The nucleus names the address in a variable of the process. A component with a SOFT dependency may start
before the service, and outlives it: a service that comes later, or again, listens on another port. Its
configuration names the port then, which every component may read. Processes that this one starts inherit the
variable.
"""

import logging
import os
from collections.abc import Callable

COMPONENT = "aws.greengrass.TokenExchangeService"
PORT_KEYS = ("activePort", "port")  # of the classic nucleus, and of Nucleus Lite
ADDRESS = "AWS_CONTAINER_CREDENTIALS_FULL_URI"
TOKEN = "AWS_CONTAINER_AUTHORIZATION_TOKEN"  # noqa: S105 - a variable's name
FROM_NUCLEUS = "SVCUID"  # a variable of every component's process
_URL = "http://localhost:{port}/2016-11-01/credentialprovider/"
log = logging.getLogger(__name__)


def find_again(ask_port: Callable[[], int | None]) -> bool:
    """Set the variable to where the service is now; return whether that is another address.

    Args:
        ask_port: returns the service's port as the nucleus knows it, None if it knows none.
    """
    port = ask_port()
    if port is None:
        return False
    # The same service under another name of this machine: what the nucleus set is kept.
    known = os.environ.get(ADDRESS, "")
    if f":{port}/" in known:
        return False
    os.environ[ADDRESS] = _URL.format(port=port)
    log.info("the token exchange service is at %s", os.environ[ADDRESS])
    return True
