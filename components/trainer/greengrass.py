"""The trainer's connection to the Greengrass nucleus."""

from components.greengrass_ipc import GreengrassIpc
from components.trainer.errors import ConnectionLost, Forbidden, NotSent


class GreengrassNucleus(GreengrassIpc):
    """The nucleus as a :class:`~components.trainer.ports.Host`: messages and the configuration."""

    not_now = NotSent
    forbidden = Forbidden
    connection_lost = ConnectionLost
