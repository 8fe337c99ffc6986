"""The trainer's connection to the Greengrass nucleus."""

from collections.abc import Callable

from awsiot.greengrasscoreipc.model import ConfigurationUpdateEvents

from components.greengrass_ipc import GreengrassIpc
from components.trainer.errors import ConnectionLost, Forbidden, NotSent


class GreengrassNucleus(GreengrassIpc):
    """The nucleus as a :class:`~components.trainer.ports.Host`: messages and the configuration."""

    not_now = NotSent
    forbidden = Forbidden
    connection_lost = ConnectionLost

    def watch_configuration(self, changed: Callable[[], None]) -> None:
        """Have ``changed`` called, on another thread, once per changed value; raises as publish does."""

        def hear(event: ConfigurationUpdateEvents) -> None:  # noqa: ARG001 - it names a path, not a value
            changed()

        self._open(
            "watch the configuration",
            lambda **handlers: self._client.subscribe_to_configuration_update_async(
                on_stream_event=hear, **handlers
            ),
        )
