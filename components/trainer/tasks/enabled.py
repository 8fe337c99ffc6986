"""Which tasks of a configuration are enabled: ``{digits: {enabled: false}}`` takes a task away.

A deployment is merged into the recipe's configuration, so a task of the recipe cannot be left out. ``null``
in its place removes it on the classic nucleus only: Nucleus Lite fails a deployment that merges a null over
an object, and every later one that still has it.
"""

from collections.abc import Mapping

OPTION = "enabled"
_WORDS = {True: True, False: False, "true": True, "false": False}  # the classic nucleus may give texts


def enabled_tasks(tasks: object) -> object:
    """Return the tasks that are enabled, without that option; anything but an object is returned as it is.

    Raises:
        ValueError: ``enabled`` is neither true nor false.
    """
    if not isinstance(tasks, Mapping):
        return tasks
    return {
        name: _options(options)
        for name, options in tasks.items()
        if options is not None and _is_enabled(name, options)
    }


def _is_enabled(name: object, options: object) -> bool:
    given = options.get(OPTION, True) if isinstance(options, Mapping) else True
    word = given.lower() if isinstance(given, str) else given
    if not isinstance(word, bool | str) or word not in _WORDS:
        message = f"the configuration's tasks.{name}.{OPTION} is {given!r}: it takes true or false"
        raise ValueError(message)
    return _WORDS[word]


def _options(options: object) -> object:
    if not isinstance(options, Mapping):
        return options
    return {name: value for name, value in options.items() if name != OPTION}
