"""The predictor's subscriptions: for each task one to new models and one to local requests.

On Greengrass Nucleus Lite, a local JSON message of more than about 50 keys and values silently ends a
subscription: its stream stays open, but receives no more messages. The predictor therefore publishes probes
to itself and subscribes again if they do not come back.
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
from fedgrass.federation.topics import of_alias, of_models

FIRST_DELAY = 0.5  # seconds at most, between requests for a subscription
LARGEST_DELAY = 30.0
# A subscription that the broker has silently dropped cannot be distinguished from one without new models.
RENEW_SECONDS = 75 * 60.0
log = logging.getLogger(__name__)


class Subscriptions:
    """Subscribes to the topics of tasks. All methods except the handlers run on the main thread."""

    def __init__(
        self,
        event_loop: EventLoop,
        nucleus: Nucleus,
        rng: random.Random,
        *,
        on_model: Callable[[str, str, bytes], None],
        on_request: Callable[[str, bytes, bool], None],
    ) -> None:
        """Prepare the subscriptions.

        Args:
            event_loop: of the main thread.
            nucleus: where to subscribe.
            rng: for the jitter of back-offs.
            on_model: called with the task, the topic and the payload of a message about a new model.
            on_request: called with the task and the content of a local request, and whether it is JSON.
        """
        self._event_loop = event_loop
        self._nucleus = nucleus
        self._rng = rng
        self._on_model = on_model
        self._on_request = on_request
        self._kept: dict[str, Subscription] = {}  # by topic, including those of former configurations
        self._models_at: dict[str, float] = {}  # time of the last acknowledgement or message, by topic
        nucleus.watch_subscriptions(
            lambda topic, reason: event_loop.post(lambda: self._renew(topic, reason)),
        )

    def cover(self, fleet: str, task: str, alias: str = "") -> None:
        """Subscribe to a task's topics, unless already subscribed.

        Args:
            fleet: of the models.
            task: the task.
            alias: whose changes to receive; empty: all new models.
        """
        requests, models = topic_of(task), models_topic(fleet, task, alias)

        def receive_request(text: bytes, as_json: bool) -> None:  # noqa: FBT001 - a handler's signature
            self._on_request(task, text, as_json)

        def receive_model(payload: bytes) -> None:
            self._models_at[models] = self._event_loop.clock()
            self._on_model(task, models, payload)

        def acknowledged() -> None:
            self._models_at[models] = self._event_loop.clock()

        self._keep(requests, lambda: self._nucleus.subscribe_locally(requests, receive_request), lambda: None)
        self._keep(models, lambda: self._nucleus.subscribe(models, receive_model, qos=1), acknowledged)

    def renew_requests(self, task: str) -> None:
        """Subscribe to a task's local requests again, after a probe did not come back."""
        self._renew(topic_of(task), "its echo is missing")

    def renew_models(self, fleet: str, task: str, alias: str = "") -> None:
        """Subscribe to a task's models again, after a model was found that no message had announced."""
        self._renew(models_topic(fleet, task, alias), "a new model was not announced")

    def renew_silent_models(self) -> None:
        """Subscribe again to topics of models without a message or acknowledgement for RENEW_SECONDS."""
        now = self._event_loop.clock()
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
            loop=self._event_loop,
            pauses=lambda: delays(FIRST_DELAY, LARGEST_DELAY, self._rng),
            permanent=(Forbidden,),
            acknowledged=acknowledged,
        )
        kept.renew()


def models_topic(fleet: str, task: str, alias: str) -> str:
    """Return the topic on which the models of a task to serve are announced."""
    return of_alias(fleet, task, alias) if alias else of_models(fleet, task)


_MOST_MISSING = 2  # probes without an echo that are tolerated: a single message may be lost


class EchoCheck:
    """Checks by probes that the subscription to each task's local topic receives messages."""

    def __init__(self, publish: Callable[[str, bytes], None], renew: Callable[[str], None]) -> None:
        """Prepare the check.

        Args:
            publish: publishes bytes to the local topic of a task.
            renew: called with a task whose subscription receives nothing.
        """
        self._publish = publish
        self._renew = renew
        # Unique per process: probes of an earlier process must not count.
        self._probe = json.dumps({"probe": secrets.token_hex(8)}).encode()
        self._missing: Counter[str] = Counter()

    def is_echo(self, task: str, text: bytes) -> bool:
        """Return whether a message is the probe, and record its arrival; may be called from any thread."""
        if text != self._probe:
            return False
        self._missing[task] = 0
        return True

    def check(self, tasks: Iterable[str]) -> None:
        """Renew subscriptions whose probes are missing, and publish the next probes; called periodically."""
        for task in tasks:
            if self._missing[task] >= _MOST_MISSING:
                self._missing[task] = 0
                self._renew(task)
                continue  # the new subscription is probed at the next call
            try:
                self._publish(task, self._probe)
            except (Unavailable, Forbidden) as error:
                log.info("%s: local requests cannot be probed: %s", task, error)
            else:
                self._missing[task] += 1
