"""The errors of the embedded cloud and of the fleet on a laptop, in one tree.

FedgrassLocalError
├── FleetTooLargeError         more devices than the memory of this machine can hold
└── LocalCloudError            the embedded cloud
    ├── PortUnavailableError   a fixed port that is busy, out of range or reserved for root
    ├── CloudNotRunningError   a call before `start` or after `stop`
    ├── CloudStartError        MiniStack exited, or was not ready in time
    ├── DeploymentError        the template could not be read, packaged or deployed
    └── ThingCreationError     a thing, its certificate or its policy could not be created
"""


class FedgrassLocalError(Exception):
    """Base class of errors on a laptop; the message is printed to the operator."""


class FleetTooLargeError(FedgrassLocalError):
    """The machine has too little memory for the devices; the message says how much, and how many fit."""


class LocalCloudError(FedgrassLocalError):
    """The embedded cloud refused a call or failed."""


class PortUnavailableError(LocalCloudError):
    """The embedded cloud cannot listen on the port that was chosen."""


class CloudNotRunningError(LocalCloudError):
    """The embedded cloud is not running."""


class CloudStartError(LocalCloudError):
    """MiniStack did not start; the message has the end of its log."""


class DeploymentError(LocalCloudError):
    """A template could not be deployed; the message names the resource and the reason."""


class ThingCreationError(LocalCloudError):
    """An IoT thing could not be created; the message names the thing and the reason."""
