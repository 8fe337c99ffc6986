"""What can go wrong with an emulated Greengrass core, in one tree.

EmulatorError
├── TemporaryFolderError       a temporary folder could not be made or removed
├── StreamManagerError         a request to Stream Manager was refused (stream_protocol.py)
└── CoreError
    ├── UnknownProfileError        there is no nucleus of that name
    ├── RecipeError                the recipe cannot be used
    ├── InvalidAccessControlError  `accessControl` is not what Greengrass understands
    ├── ArtifactError              an artifact is missing or cannot be unpacked
    ├── DependencyError            a component needs another that is not there
    ├── UnknownComponentError      no such component is deployed
    ├── UnknownDeploymentError     no such deployment is remembered
    ├── ComponentStateError        a component did not reach a state
    ├── ScriptFailedError          a script of a lifecycle failed or took too long
    ├── InjectionError             a fault that cannot be injected so
    ├── NoCloudError               there is no AWS behind this core
    ├── ControlError               the control socket of a core cannot be made, found or understood
    │   └── NameTakenError         a core of that name is running already
    └── IotConnectionError         IoT Core cannot be reached, or refused a request
"""


class EmulatorError(Exception):
    """The emulator refused or failed; the message is for the person at the terminal."""


class TemporaryFolderError(EmulatorError):
    """A temporary folder could not be made or removed."""


class CoreError(EmulatorError):
    """The local Greengrass core refused or failed."""


class UnknownProfileError(CoreError):
    """There is no nucleus of that name; the message lists those there are."""


class RecipeError(CoreError):
    """The recipe cannot be used; the message names the file, the field and the way out."""


class InvalidAccessControlError(CoreError):
    """The `accessControl` of a configuration is not what Greengrass understands; the message says where."""


class ArtifactError(CoreError):
    """An artifact is missing or cannot be unpacked; the message names it."""


class DependencyError(CoreError):
    """A component needs another that is not there; the message names both."""


class UnknownComponentError(CoreError):
    """No component of that name is deployed on the core."""


class UnknownDeploymentError(CoreError):
    """No deployment of that identifier is remembered."""


class ComponentStateError(CoreError):
    """A component did not reach a state; the message carries the end of its log."""


class ScriptFailedError(CoreError):
    """A script of a lifecycle ended with an error or took longer than it may."""


class IotConnectionError(CoreError):
    """IoT Core cannot be reached, or refused the request; the message says where and why."""


class InjectionError(CoreError):
    """A fault cannot be injected, or not with this amount; the message says what can."""


class NoCloudError(CoreError):
    """What was asked for needs AWS, and there is none behind this core."""


class ControlError(CoreError):
    """A running core cannot be reached by its control socket, or a second one cannot have its name."""


class NameTakenError(ControlError):
    """A core of that name is running already."""
