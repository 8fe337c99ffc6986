"""The trainer's connection to the Greengrass nucleus."""

from components.runtime.greengrass_ipc import GreengrassIpc
from components.runtime.trainer_errors import ConnectionLost, Forbidden, NotSent


class GreengrassNucleus(GreengrassIpc):
    """The nucleus as a ``Host``: messages and the configuration."""

    not_now = NotSent
    forbidden = Forbidden
    connection_lost = ConnectionLost
