"""What can go wrong with the cloud and the Greengrass cores on a laptop, in one tree.

FedgrassLocalError
└── LocalCloudError            the embedded cloud
    ├── PortUnavailableError   a fixed port that cannot be had: busy, out of range or reserved to root
    ├── CloudNotRunningError   asked before `start` or after `stop`
    ├── CloudStartError        MiniStack ended, or was not ready in time
    ├── DeploymentError        the template could not be read, packaged or made into a stack
    └── ThingCreationError     a thing, its certificate or its policy attachment was refused
"""


class FedgrassLocalError(Exception):
    """Anything that fedgrass.local refuses or fails at, told to the person at the terminal."""


class LocalCloudError(FedgrassLocalError):
    """The embedded cloud refused or failed."""


class PortUnavailableError(LocalCloudError):
    """A port that was asked for by number cannot be listened on."""


class CloudNotRunningError(LocalCloudError):
    """The embedded cloud is needed, and does not run."""


class CloudStartError(LocalCloudError):
    """MiniStack did not come up; the message carries the end of its log."""


class DeploymentError(LocalCloudError):
    """A template did not become a stack; the message names the resource and the reason."""


class ThingCreationError(LocalCloudError):
    """An IoT thing could not be made; the message names the thing and the refused call."""
