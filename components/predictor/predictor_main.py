"""The predictor's process: wires models, requests and the nucleus, and runs until the nucleus ends it."""

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
    make_tasks,
    parse_configuration,
)
from components.predictor.predictor_nucleus import Nucleus
from components.predictor.predictor_reconfiguration import Reconfiguration
from components.predictor.predictor_subscriptions import EchoCheck, Subscriptions
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
from fedgrass.federation.errors import FedgrassError, MessageError, SettingsError
from fedgrass.federation.messages import NewModel, PredictorReport, decode, encode
from fedgrass.federation.messages.message_fields import shorten_to_bytes
from fedgrass.federation.topics import Kind, of_device, of_models

JITTER = 0.1  # of what is done again and again
EVENT_BYTES = 512
MOST_EVENTS = 8
LONGEST_REFUSAL = 200  # bytes of why a changed configuration could not be used
log = logging.getLogger("predictor")


def main() -> int:
    """Run until the nucleus ends the process; return its exit code (0 only when it was asked to end)."""
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s", stream=sys.stderr)
    for chatty in ("boto3", "botocore"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    agenda = EventLoop()
    end_on_signals(agenda)

    def lost(reason: str) -> None:
        log.error("%s: exiting, to be started again", reason)
        agenda.post(lambda: agenda.stop(LOST))

    nucleus: Nucleus | None = None
    try:
        nucleus = Nucleus.connect(lost)
        predictor = _predictor(agenda, nucleus)
        predictor.start()
        try:
            return agenda.run()
        finally:
            predictor.stop()
    except (ConfigurationError, SettingsError) as error:
        log.error("%s", error)  # noqa: TRY400 - a line, no traceback
        return WRONG_CONFIGURATION
    except FedgrassError as error:
        log.error("%s: exiting, to be started again", error)  # noqa: TRY400
        return LOST
    finally:
        if nucleus:
            nucleus.close()


def _predictor(agenda: EventLoop, nucleus: Nucleus) -> "Predictor":
    """Return the predictor by the configuration or, if that cannot be used, by the last one that could.

    Raises:
        ConfigurationError: neither can be used.
    """
    last, thing = LastConfiguration(Path.cwd()), thing_name()
    try:
        return Predictor(agenda, nucleus, parse_configuration(nucleus.configuration()), thing, last)
    except ConfigurationError as error:
        earlier = last.usable(parse_configuration)
        if earlier is None:
            raise
        log.warning("the configuration stays as it was before this start: %s", error)
        predictor = Predictor(agenda, nucleus, earlier, thing, last)
        predictor.note_refusal(str(error))
        return predictor


class Predictor:
    """The predictor of one device."""

    def __init__(
        self,
        agenda: EventLoop,
        nucleus: Nucleus,
        configuration: Configuration,
        thing: str,
        last: LastConfiguration,
    ) -> None:
        self._agenda = agenda
        self._last = last
        self._nucleus = nucleus
        self.configuration = configuration
        self.tasks = make_tasks(configuration)
        self._refused = ""  # why a changed configuration could not be used
        self._thing = thing
        self._started_at = time.monotonic()
        self._events: deque[str] = deque(maxlen=MOST_EVENTS)  # not told yet, the oldest first
        self._rng = random.Random()  # noqa: S311 - jitter
        self._ticks = 0  # number of the configuration that the timers go by
        self._serving = Serving(tuple(self.tasks))
        self._adoption = ModelRollout(
            self.tasks,
            Path.cwd() / "models",
            self._serving,
            configuration,
            self._tell,
            bucket=ModelBucket(nucleus.token_exchange_port),
        )
        self._adoption.on_unannounced = self._unannounced
        self._echo = EchoCheck(self._probe, self._not_heard)
        self._requests = LocalRequests(nucleus, self._serving, self._echo.is_echo)
        self._subscriptions = Subscriptions(
            agenda, nucleus, self._rng, on_model=self._hear_model, on_request=self._requests.hear
        )
        self._web = Server(configuration.http_port, self._serving, self.health)
        last.keep(msgspec.to_builtins(configuration))

    def start(self) -> None:
        """Serve what lies on disk, then hear of new models."""
        self._adoption.restore()
        self._open()
        self._requests.start()
        self._subscribe()
        threading.Thread(target=self._adoption.run, daemon=True, name="adoption").start()
        self._nucleus.report_running()
        Reconfiguration(self._agenda, self._nucleus, self._rng, self).watch()
        self._tick()

    def configure(self, configuration: Configuration, tasks: MadeTasks) -> None:
        """Work by another configuration from now on, with no restart.

        Raises:
            ConfigurationError: its http_port cannot be had; all is as before.
        """
        former = self.configuration
        if configuration.http_port != former.http_port:
            web = Server(configuration.http_port, self._serving, self.health)
            self._web, before = web, self._web
            self._open()
            before.shutdown()
            before.server_close()
        if configuration.threads != former.threads:
            log.warning("threads is %d from the next start on", configuration.threads)
        self.configuration, self.tasks, self._refused = configuration, tasks, ""
        self._last.keep(msgspec.to_builtins(configuration))
        self._serving.offer(tuple(tasks))
        self._adoption.configure(configuration, tasks)
        self._subscribe()
        self._tick()

    def refuse_configuration(self, reason: str) -> None:
        """Go on as before, and let reports say why a changed configuration could not be used."""
        self.note_refusal(reason)
        self._report()

    def note_refusal(self, reason: str) -> None:
        """Let later reports say why the configuration could not be used."""
        self._refused = shorten_to_bytes(reason, LONGEST_REFUSAL)

    def _open(self) -> None:
        threading.Thread(target=self._web.serve_forever, daemon=True, name="http").start()
        log.info("predictions at http://%s:%d/predict/<task>", HOST, self._web.port)

    def stop(self) -> None:
        """Begin no more work; what is under way ends with the process."""
        self._adoption.stop()
        self._requests.stop()

    def health(self) -> dict[str, Any]:
        """Return what the health page shows."""
        figures, missing = self._serving.figures(), self._serving.without_model()
        return {
            "status": "no model yet" if missing else "ok",
            "models": self._serving.models(),
            "without_model": missing,
            "requests": figures.requests,
            "failures": figures.failures,
            "p50_ms": figures.p50_ms,
            "p99_ms": figures.p99_ms,
        }

    def _subscribe(self) -> None:
        """Subscribe to what the configuration's tasks need; what arrives for former ones is dropped."""
        for task in self.configuration.tasks:
            self._subscriptions.cover(self.configuration.fleet, task)

    def _hear_model(self, task: str, topic: str, payload: bytes) -> None:
        try:
            model = decode(payload, NewModel)
        except MessageError as error:
            log.warning("%s: dropped a message: %s", task, error)
            return
        if model.task == task and topic == of_models(self.configuration.fleet, task):
            self._adoption.hear(model)

    def _unannounced(self, task: str) -> None:
        """Take note of a model that only the bucket's pointer told of; from any thread."""
        fleet = self.configuration.fleet
        self._agenda.post(lambda: self._subscriptions.renew_models(fleet, task))

    def _probe(self, task: str, text: bytes) -> None:
        self._nucleus.publish_locally(topic_of(task), text, as_json=False)

    def _not_heard(self, task: str) -> None:
        self._tell(f"{task}: local requests did not arrive any more: subscribing to them again")
        self._subscriptions.renew_requests(task)

    def _tick(self) -> None:
        """Begin to look and to report as often as the configuration says, and no more by a former one."""
        self._ticks += 1
        self._look(self._ticks)
        self._beat(self._ticks)

    def _look(self, ticks: int) -> None:
        if ticks == self._ticks:
            self._adoption.look()
            self._subscriptions.renew_silent_models()
            seconds = self._jittered(self.configuration.check_seconds)
            self._agenda.call_later(seconds, partial(self._look, ticks))

    def _tell(self, event: str) -> None:
        """Say what has changed, in the log and with the next report; from any thread."""
        log.info("%s", event)
        self._events.append(shorten_to_bytes(event, EVENT_BYTES))
        self._agenda.post(self._report)

    def _beat(self, ticks: int) -> None:
        if ticks == self._ticks:
            self._echo.check(self.configuration.tasks)
            self._report()
            seconds = self._jittered(self.configuration.heartbeat_seconds)
            self._agenda.call_later(seconds, partial(self._beat, ticks))

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
            # At most once: what is said here is said again later.
            self._nucleus.publish(topic, encode(report), qos=0)
        except (Unavailable, Forbidden) as error:
            log.info("not reported: %s", error)  # what happened is said with the next report
            return
        if event and self._events and self._events[0] is event:
            self._events.popleft()

    def _jittered(self, seconds: float) -> float:
        return seconds * self._rng.uniform(1 - JITTER, 1 + JITTER)
