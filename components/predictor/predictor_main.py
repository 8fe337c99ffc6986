"""The predictor's process: wires models, requests and the nucleus together, and runs until it is stopped."""

import logging
import random
import sys
import threading
import time
from collections import deque
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from components.predictor.local_requests import LocalRequests, topic_of
from components.predictor.model_rollout import ModelRollout
from components.predictor.model_store import ModelBucket
from components.predictor.predictor_configuration import (
    Configuration,
    MadeTasks,
    Reconfiguration,
    make_tasks,
    parse_configuration,
)
from components.predictor.predictor_nucleus import Nucleus
from components.predictor.predictor_subscriptions import EchoCheck, Subscriptions, models_topic
from components.predictor.serving import Serving
from components.predictor.web import HOST, Server
from components.runtime.component_errors import ConfigurationError, Forbidden, Unavailable
from components.runtime.event_loop import EventLoop
from components.runtime.process_setup import (
    LOST,
    WRONG_CONFIGURATION,
    LastConfiguration,
    component_version,
    end_on_signals,
    thing_name,
)
from components.trainer.tasks.task_release import NotInstalled
from fedgrass.federation.errors import FedgrassError, MessageError, SettingsError
from fedgrass.federation.messages import ModelAlias, NewModel, PredictorReport, decode, encode
from fedgrass.federation.messages.message_fields import shorten_to_bytes
from fedgrass.federation.topics import Kind, of_device

_JITTER = 0.1  # fraction of periodic delays
_LOOK_SECONDS = 2.0  # between two looks at a start for the component of a task
_EVENT_BYTES = 512
_MOST_EVENTS = 8
_REFUSAL_BYTES = 200  # of the reason why a changed configuration was refused
log = logging.getLogger("predictor")


def main() -> int:
    """Run until the nucleus stops the process; return the exit code, 0 only after such a stop."""
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s", stream=sys.stderr)
    for chatty in ("boto3", "botocore"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    event_loop = EventLoop()
    end_on_signals(event_loop)

    def lost(reason: str) -> None:
        log.error("%s: exiting, to be started again", reason)
        event_loop.post(lambda: event_loop.stop(LOST))

    nucleus: Nucleus | None = None
    try:
        nucleus = Nucleus.connect(lost)
        predictor = _predictor(event_loop, nucleus)
        if predictor is None:
            return 0
        predictor.start()
        try:
            return event_loop.run()
        finally:
            predictor.stop()
    except (ConfigurationError, SettingsError) as error:
        log.error("%s", error)  # noqa: TRY400 - one line without a traceback
        return WRONG_CONFIGURATION
    except FedgrassError as error:
        log.error("%s: exiting, to be started again", error)  # noqa: TRY400 - one line without a traceback
        return LOST
    finally:
        if nucleus:
            nucleus.close()


def _predictor(event_loop: EventLoop, nucleus: Nucleus) -> "Predictor | None":
    """Return a predictor with the current configuration or, if that is invalid, with the last valid one.

    Waits for the components of its tasks: exits would make the nucleus give up on this one. Returns None if
    the process is asked to end in the meantime.

    Raises:
        ConfigurationError: both are invalid.
    """
    last, thing = LastConfiguration(Path.cwd()), thing_name()
    said = ""
    while True:
        try:
            return Predictor(event_loop, nucleus, parse_configuration(nucleus.configuration()), thing, last)
        except NotInstalled as error:
            if str(error) != said:
                said = str(error)
                log.warning("%s", said)
            if _is_asked_to_end(_LOOK_SECONDS):
                return None
            end_on_signals(event_loop)
        except ConfigurationError as error:
            return _with_last_configuration(event_loop, nucleus, thing, last, error)


def _is_asked_to_end(seconds: float) -> bool:
    waiting = EventLoop()
    end_on_signals(waiting)
    waiting.call_later(seconds, lambda: waiting.stop(LOST))
    return waiting.run() == 0


def _with_last_configuration(
    event_loop: EventLoop, nucleus: Nucleus, thing: str, last: LastConfiguration, error: ConfigurationError
) -> "Predictor":
    """Return a predictor with the last valid configuration, which reports why it is not the current one."""
    earlier = last.usable(parse_configuration)
    if earlier is None:
        raise error
    log.warning("the configuration stays as it was before this start: %s", error)
    predictor = Predictor(event_loop, nucleus, earlier, thing, last)
    predictor.note_refusal(str(error))
    return predictor


class Predictor:
    """The predictor of one device."""

    def __init__(
        self,
        event_loop: EventLoop,
        nucleus: Nucleus,
        configuration: Configuration,
        thing: str,
        last: LastConfiguration,
    ) -> None:
        self._event_loop = event_loop
        self._last = last
        self._nucleus = nucleus
        self.configuration = configuration
        self.tasks = make_tasks(configuration)
        self._refused = ""  # why the last changed configuration was refused
        self._thing = thing
        self._started_at = time.monotonic()
        self._events: deque[str] = deque(maxlen=_MOST_EVENTS)  # not reported yet, the oldest first
        self._rng = random.Random()  # noqa: S311 - jitter
        self._timers = 0  # number of the current timers: those of a former configuration end
        self._serving = Serving(tuple(self.tasks))
        self._rollout = ModelRollout(
            self.tasks,
            Path.cwd() / "models",
            self._serving,
            configuration,
            self._on_event,
            bucket=ModelBucket(nucleus.token_exchange_port),
        )
        self._rollout.on_unannounced = self._unannounced
        self._echo = EchoCheck(self._probe, self._echo_missing)
        self._requests = LocalRequests(nucleus, self._serving, self._echo.is_echo)
        self._subscriptions = Subscriptions(
            event_loop, nucleus, self._rng, on_model=self._receive_model, on_request=self._requests.receive
        )
        self._web = Server(configuration.http_port, self._serving, self.health)
        last.keep(msgspec.to_builtins(configuration))

    def start(self) -> None:
        """Serve the models on disk, then subscribe to new ones."""
        self._rollout.restore()
        self._start_web()
        self._requests.start()
        self._subscribe()
        threading.Thread(target=self._rollout.run, daemon=True, name="rollout").start()
        self._nucleus.report_running()
        Reconfiguration(self._event_loop, self._nucleus, self._rng, self).watch()
        self._restart_timers()

    def configure(self, configuration: Configuration, tasks: MadeTasks) -> None:
        """Switch to another configuration without a restart.

        Raises:
            ConfigurationError: its http_port cannot be used; nothing has changed.
        """
        former = self.configuration
        if configuration.http_port != former.http_port:
            web = Server(configuration.http_port, self._serving, self.health)
            self._web, before = web, self._web
            self._start_web()
            before.shutdown()
            before.server_close()
        if configuration.threads != former.threads:
            log.warning("threads will be %d after the next restart", configuration.threads)
        self.configuration, self.tasks, self._refused = configuration, tasks, ""
        self._last.keep(msgspec.to_builtins(configuration))
        self._serving.offer(tuple(tasks))
        self._rollout.configure(configuration, tasks)
        self._subscribe()
        self._restart_timers()

    def refuse_configuration(self, reason: str) -> None:
        """Keep the current configuration, and report why the changed one was refused."""
        self.note_refusal(reason)
        self._report()

    def note_refusal(self, reason: str) -> None:
        """Include the reason why a configuration was refused in later reports."""
        self._refused = shorten_to_bytes(reason, _REFUSAL_BYTES)

    def _start_web(self) -> None:
        threading.Thread(target=self._web.serve_forever, daemon=True, name="http").start()
        log.info("predictions at http://%s:%d/predict/<task>", HOST, self._web.port)

    def stop(self) -> None:
        """Start no more work; running work ends with the process."""
        self._rollout.stop()
        self._requests.stop()

    def health(self) -> dict[str, Any]:
        """Return the content of the health page."""
        figures, missing = self._serving.figures(), self._serving.without_model()
        return {
            "status": "no model yet" if missing else "ok",
            "alias": self.configuration.alias,
            "models": self._serving.models(),
            "without_model": missing,
            "requests": figures.requests,
            "failures": figures.failures,
            "p50_ms": figures.p50_ms,
            "p99_ms": figures.p99_ms,
        }

    def _subscribe(self) -> None:
        """Subscribe to the topics of the configured tasks; messages for former tasks are dropped."""
        for task in self.configuration.tasks:
            self._subscriptions.cover(self.configuration.fleet, task, self.configuration.alias)

    def _receive_model(self, task: str, topic: str, payload: bytes) -> None:
        alias = self.configuration.alias
        if topic != models_topic(self.configuration.fleet, task, alias):  # of a former configuration
            return
        message: NewModel | ModelAlias
        try:
            message = decode(payload, ModelAlias) if alias else decode(payload, NewModel)
        except MessageError as error:
            log.warning("%s: dropped a message: %s", task, error)
            return
        model = message.model if isinstance(message, ModelAlias) else message
        if model.task == task:
            self._rollout.announce(message)

    def _unannounced(self, task: str) -> None:
        """Subscribe again, after a model was found by the bucket's pointer only; from any thread."""
        fleet, alias = self.configuration.fleet, self.configuration.alias
        self._event_loop.post(lambda: self._subscriptions.renew_models(fleet, task, alias))

    def _probe(self, task: str, text: bytes) -> None:
        self._nucleus.publish_locally(topic_of(task), text, as_json=False)

    def _echo_missing(self, task: str) -> None:
        self._on_event(f"{task}: local requests did not arrive any more: subscribing to them again")
        self._subscriptions.renew_requests(task)

    def _restart_timers(self) -> None:
        """Start the periodic check and report of the current configuration; end those of a former one."""
        self._timers += 1
        self._check(self._timers)
        self._beat(self._timers)

    def _check(self, timers: int) -> None:
        if timers == self._timers:
            self._rollout.check_pointers()
            self._subscriptions.renew_silent_models()
            self._event_loop.call_later(
                self._jittered(self.configuration.check_seconds), partial(self._check, timers)
            )

    def _on_event(self, event: str) -> None:
        """Log an event and report it; from any thread."""
        log.info("%s", event)
        self._events.append(shorten_to_bytes(event, _EVENT_BYTES))
        self._event_loop.post(self._report)

    def _beat(self, timers: int) -> None:
        if timers == self._timers:
            self._echo.check(self.configuration.tasks)
            self._rollout.check_private()
            self._report()
            seconds = self._jittered(self.configuration.heartbeat_seconds)
            self._event_loop.call_later(seconds, partial(self._beat, timers))

    def _report(self) -> None:
        figures = self._serving.figures()
        event = self._events[0] if self._events else ""
        topic = of_device(self.configuration.fleet, self._thing, Kind.PREDICTOR)
        report = PredictorReport(
            component_version=component_version(),
            uptime_seconds=round(time.monotonic() - self._started_at, 1),
            models=self._serving.models(),
            http_port=self._web.port,
            requests=figures.requests,
            failures=figures.failures,
            p50_ms=figures.p50_ms,
            p99_ms=figures.p99_ms,
            event=event,
            configuration_error=self._refused,
        )
        try:
            # QoS 0: a lost report is followed by the next one.
            self._nucleus.publish(topic, encode(report), qos=0)
        except (Unavailable, Forbidden) as error:
            log.info("not reported: %s", error)  # the event is kept for the next report
            return
        if event and self._events and self._events[0] is event:
            self._events.popleft()

    def _jittered(self, seconds: float) -> float:
        return seconds * self._rng.uniform(1 - _JITTER, 1 + _JITTER)
