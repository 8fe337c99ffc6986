"""The predictor's subscriptions: for each task one to new models and one to local requests, and their check.

On Greengrass Nucleus Lite one local JSON message of more than some 50 parts ends a subscription silently:
its stream stays open, and no message arrives on it any more. The predictor therefore publishes a probe to
itself and waits for its echo.
"""

import json
import logging
import random
import secrets
from collections import Counter
from collections.abc import Callable, Iterable

from components.predictor.local_requests import topic_of
from components.predictor.predictor_nucleus import Nucleus
from components.runtime.component_errors import Forbidden, Unavailable
from components.runtime.event_loop import EventLoop
from components.runtime.retries import Subscription, delays
from fedgrass.federation.topics import of_models

FIRST_DELAY = 0.5  # seconds at most, between requests for a subscription
LARGEST_DELAY = 30.0
# Nothing tells a subscription to models that the broker dropped silently from one that has no news.
RENEW_SECONDS = 75 * 60.0
log = logging.getLogger(__name__)


class Subscriptions:
    """Subscribes to what tasks need. All methods but the handlers run on the main thread."""

    def __init__(
        self,
        agenda: EventLoop,
        nucleus: Nucleus,
        rng: random.Random,
        *,
        on_model: Callable[[str, str, bytes], None],
        on_request: Callable[[str, bytes, bool], None],
    ) -> None:
        """Prepare the subscriptions.

        Args:
            agenda: of the main thread.
            nucleus: where to subscribe.
            rng: for the jitter of back-offs.
            on_model: takes the task, the topic and the payload of a message about a new model.
            on_request: takes the task and the text of a local request, and whether it came as JSON.
        """
        self._agenda = agenda
        self._nucleus = nucleus
        self._rng = rng
        self._on_model = on_model
        self._on_request = on_request
        self._kept: dict[str, Subscription] = {}  # by topic, of former configurations too
        self._models_at: dict[str, float] = {}  # when a topic of models was confirmed last, or had a message
        nucleus.watch_subscriptions(
            lambda topic, reason: agenda.post(lambda: self._renew(topic, reason)),
        )

    def cover(self, fleet: str, task: str) -> None:
        """Subscribe to a task's topics, unless that was done before."""
        requests, models = topic_of(task), of_models(fleet, task)

        def hear_request(text: bytes, as_json: bool) -> None:  # noqa: FBT001 - a handler
            self._on_request(task, text, as_json)

        def hear_model(payload: bytes) -> None:
            self._models_at[models] = self._agenda.clock()
            self._on_model(task, models, payload)

        def confirmed() -> None:
            self._models_at[models] = self._agenda.clock()

        self._keep(requests, lambda: self._nucleus.subscribe_locally(requests, hear_request), lambda: None)
        self._keep(models, lambda: self._nucleus.subscribe(models, hear_model, qos=1), confirmed)

    def renew_requests(self, task: str) -> None:
        """Subscribe to a task's local requests again: none arrive any more."""
        self._renew(topic_of(task), "its echo is missing")

    def renew_models(self, fleet: str, task: str) -> None:
        """Subscribe to a task's models again: a new one was found that no message announced."""
        self._renew(of_models(fleet, task), "a new model was not announced")

    def renew_silent_models(self) -> None:
        """Subscribe again to the topics of models that had neither a message nor a confirmation for long."""
        now = self._agenda.clock()
        for topic, at in list(self._models_at.items()):
            if now - at >= RENEW_SECONDS and topic in self._kept:
                self._kept[topic].renew()

    def _renew(self, topic: str, reason: str) -> None:
        if kept := self._kept.get(topic):
            log.warning("subscribing to %s again: %s", topic, reason)
            kept.renew(reason)

    def _keep(self, topic: str, request: Callable[[], None], acknowledged: Callable[[], None]) -> None:
        if topic in self._kept:
            return
        kept = self._kept[topic] = Subscription(
            topic,
            request,
            loop=self._agenda,
            pauses=lambda: delays(FIRST_DELAY, LARGEST_DELAY, self._rng),
            permanent=(Forbidden,),
            acknowledged=acknowledged,
        )
        kept.renew()


MOST_MISSING = 2  # probes without an echo: a message may be lost


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
            except (Unavailable, Forbidden) as error:
                log.info("%s: local requests cannot be probed: %s", task, error)
            else:
                self._missing[task] += 1
