"""Whether requests on local topics still arrive: the predictor publishes a probe to itself and waits for it.

On Greengrass Nucleus Lite one local JSON message of more than some 50 parts ends a subscription silently: its
stream stays open, and nothing arrives on it any more. Only a missing echo shows that.
"""

import json
import logging
import secrets
from collections import Counter
from collections.abc import Callable, Iterable

from components.predictor.errors import Forbidden, NotNow

MOST_MISSING = 2  # probes without an echo: a message may be lost
log = logging.getLogger(__name__)


class EchoCheck:
    """Probes the subscription of each task's local topic."""

    def __init__(self, publish: Callable[[str, bytes], None], renew: Callable[[str], None]) -> None:
        """Prepare the check.

        Args:
            publish: sends bytes to the local topic of a task.
            renew: requests the subscription of a task again; it is not heard any more.
        """
        self._publish = publish
        self._renew = renew
        # Its own: a probe of the former process must not count.
        self._probe = json.dumps({"probe": secrets.token_hex(8)}).encode()
        self._missing: Counter[str] = Counter()

    def is_echo(self, task: str, text: bytes) -> bool:
        """Return whether a message is the probe, and take note of it; from any thread."""
        if text != self._probe:
            return False
        self._missing[task] = 0
        return True

    def check(self, tasks: Iterable[str]) -> None:
        """Renew what does not echo, and send the next probes; to be called now and then."""
        for task in tasks:
            if self._missing[task] >= MOST_MISSING:
                self._missing[task] = 0
                self._renew(task)
                continue  # the new subscription is probed the next time
            try:
                self._publish(task, self._probe)
            except (NotNow, Forbidden) as error:
                log.info("%s: local requests cannot be probed: %s", task, error)
            else:
                self._missing[task] += 1
