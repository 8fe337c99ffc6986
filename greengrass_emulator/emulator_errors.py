"""The errors of the Greengrass emulator, in one tree.

EmulatorError
├── CommandLineError           an argument of the command line cannot be used
├── TemporaryFolderError       a temporary folder could not be made or removed
├── StreamManagerError         a request to Stream Manager was refused (stream_protocol.py)
└── CoreError
    ├── UnknownProfileError        no nucleus has that name
    ├── RecipeError                the recipe cannot be used
    ├── InvalidAccessControlError  `accessControl` is not what Greengrass understands
    ├── ArtifactError              an artifact is missing or cannot be unpacked
    ├── DependencyError            a component depends on one that is not deployed
    ├── UnknownComponentError      no such component is deployed
    ├── UnknownDeploymentError     no deployment has that identifier
    ├── ComponentStateError        a component did not reach a state
    ├── ScriptFailedError          a script of a lifecycle failed or took too long
    ├── InjectionError             a fault cannot be injected, or not with this amount
    ├── NoCloudError               the core has no access to AWS
    ├── ControlError               a core cannot be reached by its control socket
    │   └── NameTakenError         a core of that name is running already
    └── IotConnectionError         IoT Core cannot be reached, or refused a request
"""


class EmulatorError(Exception):
    """The emulator refused or failed; the message is for the person at the terminal."""


class CommandLineError(EmulatorError):
    """An argument of the command line cannot be used; the message names it."""


class TemporaryFolderError(EmulatorError):
    """A temporary folder could not be made or removed."""


class CoreError(EmulatorError):
    """The local Greengrass core refused or failed."""


class UnknownProfileError(CoreError):
    """No nucleus has that name; the message lists the valid names."""


class RecipeError(CoreError):
    """The recipe cannot be used; the message names the file, the field and the remedy."""


class InvalidAccessControlError(CoreError):
    """The `accessControl` of a configuration is not valid; the message names the place."""


class ArtifactError(CoreError):
    """An artifact is missing or cannot be unpacked; the message names it."""


class DependencyError(CoreError):
    """A component depends on one that is not deployed; the message names both."""


class UnknownComponentError(CoreError):
    """No component of that name is deployed on the core."""


class UnknownDeploymentError(CoreError):
    """No deployment has that identifier, or it is too long ago."""


class ComponentStateError(CoreError):
    """A component did not reach a state; the message carries the end of its log."""


class ScriptFailedError(CoreError):
    """A script of a lifecycle ended with an error or exceeded its time-out."""


class IotConnectionError(CoreError):
    """IoT Core cannot be reached, or refused the request; the message names the endpoint and the reason."""


class InjectionError(CoreError):
    """A fault cannot be injected, or not with this amount; the message lists the valid ones."""


class NoCloudError(CoreError):
    """The request needs AWS, and the core has no access to it."""


class ControlError(CoreError):
    """A running core cannot be reached by its control socket, or a second one cannot take its name."""


class NameTakenError(ControlError):
    """A core of that name is already running."""
