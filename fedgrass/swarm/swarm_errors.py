"""The errors of a swarm.

SwarmError (FedgrassError)    the swarm cannot continue
├── LinkError                 a session was refused or not answered
└── TransferError             an upload, a download or a request for credentials failed
SwarmOptionError (SettingsError)  an option, a file, or a limit of the machine
"""

from fedgrass.federation.errors import FedgrassError, SettingsError


class SwarmError(FedgrassError):
    """The swarm cannot continue; the message names what failed."""


class LinkError(SwarmError):
    """An MQTT session was refused, or not answered in time."""


class TransferError(SwarmError):
    """An upload, a download or a request for credentials failed."""


class SwarmOptionError(SettingsError):
    """An option, a file or a limit of the machine does not allow the swarm; the message has the way out."""
