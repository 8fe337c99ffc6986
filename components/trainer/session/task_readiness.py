"""Whether the code of the device's tasks is there: which release is in force, and which cannot be loaded.

The code of a task may arrive after the trainer has started, and a new version at any time. Both are looked up
whenever they are needed, before an assignment and for each heartbeat, so nothing has to be restarted.
"""

import logging
from collections.abc import Callable, Mapping

from components.runtime.component_errors import ConfigurationError
from components.trainer.tasks.task_release import (
    NotInstalled,
    Release,
    component_of,
    installed_release,
    with_release,
)
from components.trainer.worker.worker_protocol import TaskOptions
from fedgrass.federation.messages.message_fields import shorten

_LONGEST_REASON = 300  # characters, with room in a status for the version and the component
_MOST_ATTRIBUTES = 16  # of a heartbeat
_LONGEST_ATTRIBUTE = 32  # characters of its name
_MOST_LETTERS = 240  # of all versions together, so that a heartbeat fits its message
_VERSION = "version_of_"  # prefix of the attribute that has a task's version
Tasks = Mapping[str, TaskOptions]
log = logging.getLogger(__name__)


class TaskReadiness:
    """The releases of tasks that came as components, and those that could not be loaded.

    Args:
        find: returns the installed release of a task's component, as ``installed_release`` does.
    """

    def __init__(self, find: Callable[[str, str], Release] = installed_release) -> None:
        self._find = find
        self._in_force: dict[str, Release] = {}
        self._broken: dict[str, tuple[TaskOptions, str]] = {}  # by task: its options, and why they failed

    def ready(self, name: str, options: TaskOptions) -> tuple[TaskOptions, str]:
        """Return the options with which the worker loads a task, and the folder of its packages.

        Raises:
            ConfigurationError: its code is not there, or could not be loaded and has not changed since.
        """
        found, packages = self._resolved(name, options)
        broken = self._broken.get(name)
        if broken is not None and broken[0] == found:
            raise ConfigurationError(broken[1])
        return found, packages

    def cannot_be_loaded(self, name: str, options: TaskOptions, reason: str) -> None:
        """Decline a task from now on, until another version of its component comes or its options change.

        A task without a component is tried again with each assignment: its files may be mended in place.

        Args:
            name: of the task.
            options: those that ``ready`` returned.
            reason: why its class could not be imported or does not take its options.
        """
        if release := self._in_force.get(name):
            version = f" (version {release.version} of {release.component})"
            self._broken[name] = (options, shorten(reason, _LONGEST_REASON) + version)

    def present(self, tasks: Tasks) -> list[str]:
        """Return the names of the tasks whose code is on the device, sorted."""
        return sorted(name for name, options in tasks.items() if not self._absence(name, options))

    def trouble(self, tasks: Tasks) -> str:
        """Return why a task cannot be trained at present; empty if all can."""
        reasons = []
        for name, options in tasks.items():
            try:
                self.ready(name, options)
            except ConfigurationError as error:
                reasons.append(str(error))
        return "; ".join(reasons)

    def versions(self, tasks: Tasks, room: int) -> dict[str, str]:
        """Return the version of each task in force as an attribute, for heartbeats and a run's ``where``.

        Args:
            tasks: those of the configuration.
            room: the number of other attributes in the heartbeat.
        """
        found: dict[str, str] = {}
        size = 0
        for name in self.present(tasks):
            if name not in self._in_force:
                continue
            attribute, version = attribute_of(name), self._in_force[name].version
            size += len(attribute) + len(version)
            if len(found) + room >= _MOST_ATTRIBUTES or size > _MOST_LETTERS:
                break  # the log has all of them
            found[attribute] = version
        return found

    def code(self, name: str, trainer: str) -> str:
        """Return the versions of the code that works for a task, such as "trainer 0.4.0, cracks 1.2.0".

        Args:
            name: of the task; without a component, its code has no version.
            trainer: version of the trainer; empty: it was not deployed.
        """
        release = self._in_force.get(name)
        versions = [f"trainer {trainer}"] if trainer else []
        return ", ".join([*versions, *([f"{name} {release.version}"] if release else [])])

    def _resolved(self, name: str, options: TaskOptions) -> tuple[TaskOptions, str]:
        component = component_of(name, options)
        if not component:
            return options, ""
        release = self._find(name, component)
        if self._in_force.get(name) != release:
            self._in_force[name] = release
            log.info("task %s: version %s of %s is in force", name, release.version, component)
        return with_release(options, release), release.packages

    def _absence(self, name: str, options: TaskOptions) -> str:
        try:
            self._resolved(name, options)
        except NotInstalled as error:
            self._in_force.pop(name, None)
            return str(error)
        except ConfigurationError:
            return ""  # it is there, and declined with its reason
        return ""


def attribute_of(task: str) -> str:
    """Return the attribute that has the version of a task's code: ``version_of_cracks``.

    That of ``flower:mean`` is ``version_of_flower_mean``, because names of attributes have no colon.
    """
    return f"{_VERSION}{task.replace('-', '_').replace(':', '_')}"[:_LONGEST_ATTRIBUTE]
