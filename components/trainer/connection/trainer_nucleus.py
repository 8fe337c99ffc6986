"""The trainer's connection to the Greengrass nucleus."""

from components.runtime.component_errors import ConnectionLost, Forbidden, Unavailable
from components.runtime.greengrass_ipc import GreengrassIpc


class GreengrassNucleus(GreengrassIpc):
    """The nucleus as a ``Host``: messages and the configuration."""

    not_now = Unavailable
    forbidden = Forbidden
    connection_lost = ConnectionLost
