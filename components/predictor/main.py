"""The predictor's process: wires models, requests and the nucleus, and runs until the nucleus ends it."""

import logging
import os
import random
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, cast

from components.component_process import (
    LOST,
    WRONG_CONFIGURATION,
    component_version,
    end_on_signals,
    thing_name,
)
from components.predictor.adoption import Adoption
from components.predictor.agenda import Agenda
from components.predictor.configuration import Configuration, parse_configuration
from components.predictor.errors import ConfigurationError, Forbidden, NotNow
from components.predictor.greengrass import Nucleus
from components.predictor.local_requests import LocalRequests, topic_of
from components.predictor.serving import Serving
from components.predictor.web import HOST, Server
from components.trainer.tasks.registry import load_task
from components.trainer.tasks.task import PredictingTask
from fedgrass.federation.errors import FedgrassError, MessageError, SettingsError
from fedgrass.federation.messages import NewModel, PredictorReport, decode, encode, shorten_to_bytes
from fedgrass.federation.topics import Kind, of_device, of_models

FIRST_DELAY = 0.5  # seconds, between tries to subscribe
LARGEST_DELAY = 30.0
JITTER = 0.1  # of what is done again and again
EVENT_BYTES = 512
MOST_EVENTS = 8
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
log = logging.getLogger("predictor")


def main() -> int:
    """Run until the nucleus ends the process; return its exit code (0 only when it was asked to end)."""
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s", stream=sys.stderr)
    for chatty in ("boto3", "botocore"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    agenda = Agenda()
    end_on_signals(agenda)

    def lost(reason: str) -> None:
        log.error("%s: exiting, to be started again", reason)
        agenda.post(lambda: agenda.stop(LOST))

    nucleus: Nucleus | None = None
    try:
        nucleus = Nucleus.connect(lost)
        configuration = parse_configuration(nucleus.configuration())
        predictor = Predictor(agenda, nucleus, configuration, thing_name())
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


def load_tasks(configuration: Configuration) -> Mapping[str, PredictingTask]:
    """Return the configured tasks, made.

    Raises:
        ConfigurationError: one cannot be made, or cannot predict.
    """
    # The numerical libraries read these as they are imported.
    os.environ.update(dict.fromkeys(THREADS, str(configuration.threads)))
    tasks: dict[str, PredictingTask] = {}
    for name, options in configuration.tasks.items():
        try:
            task = load_task(name, options)
        except FedgrassError as error:
            raise ConfigurationError(str(error)) from error
        except Exception as error:
            message = f"the task {name!r} cannot be made: {type(error).__name__}: {error}"
            raise ConfigurationError(message) from error
        if not hasattr(task, "predictor"):
            message = (
                f"the task {name!r} cannot predict: its class needs a method predictor(weights) that returns"
                " a function of inputs (docs/predictor.md)"
            )
            raise ConfigurationError(message)
        tasks[name] = cast("PredictingTask", task)
    return tasks


class Predictor:
    """The predictor of one device."""

    def __init__(self, agenda: Agenda, nucleus: Nucleus, configuration: Configuration, thing: str) -> None:
        self._agenda = agenda
        self._nucleus = nucleus
        self._configuration = configuration
        self._topic = of_device(configuration.fleet, thing, Kind.PREDICTOR)
        self._started_at = time.monotonic()
        self._events: deque[str] = deque(maxlen=MOST_EVENTS)  # not told yet, the oldest first
        self._rng = random.Random()  # noqa: S311 - jitter
        tasks = load_tasks(configuration)
        self._serving = Serving(tuple(tasks))
        self._adoption = Adoption(tasks, Path.cwd() / "models", self._serving, configuration, self._tell)
        self._requests = LocalRequests(nucleus, self._serving)
        self._web = Server(configuration.http_port, self._serving, self.health)

    def start(self) -> None:
        """Serve what lies on disk, then hear of new models."""
        self._adoption.restore()
        threading.Thread(target=self._web.serve_forever, daemon=True, name="http").start()
        log.info("predictions at http://%s:%d/predict/<task>", HOST, self._web.port)
        self._requests.start()
        for task in self._configuration.tasks:
            self._keep_trying(partial(self._hear_requests, task), FIRST_DELAY)
            self._keep_trying(partial(self._hear_models, task), FIRST_DELAY)
        threading.Thread(target=self._adoption.run, daemon=True, name="adoption").start()
        self._nucleus.report_running()
        self._look()
        self._beat()

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

    def _hear_requests(self, task: str) -> None:
        self._nucleus.subscribe_locally(
            topic_of(task), lambda text, as_json: self._requests.hear(task, text, as_json)
        )

    def _hear_models(self, task: str) -> None:
        def hear(payload: bytes) -> None:
            try:
                model = decode(payload, NewModel)
            except MessageError as error:
                log.warning("%s: dropped a message: %s", task, error)
                return
            if model.task == task:
                self._adoption.hear(model)

        self._nucleus.subscribe(of_models(self._configuration.fleet, task), hear, qos=1)

    def _keep_trying(self, subscribe: Callable[[], None], delay: float) -> None:
        """Subscribe now or, while the nucleus is offline, later."""
        try:
            subscribe()
        except NotNow as error:
            log.info("%s; trying again", error)
            following = min(LARGEST_DELAY, delay * 2)
            self._agenda.later(delay * self._rng.random(), lambda: self._keep_trying(subscribe, following))

    def _look(self) -> None:
        self._adoption.look()
        self._agenda.later(self._jittered(self._configuration.check_seconds), self._look)

    def _tell(self, event: str) -> None:
        """Say what has changed, in the log and with the next report; from any thread."""
        log.info("%s", event)
        self._events.append(shorten_to_bytes(event, EVENT_BYTES))
        self._agenda.post(self._report)

    def _beat(self) -> None:
        self._report()
        self._agenda.later(self._jittered(self._configuration.heartbeat_seconds), self._beat)

    def _report(self) -> None:
        figures = self._serving.figures()
        event = self._events[0] if self._events else ""
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
        )
        try:
            # At most once: what is said here is said again later.
            self._nucleus.publish(self._topic, encode(report), qos=0)
        except (NotNow, Forbidden) as error:
            log.info("not reported: %s", error)  # what happened is said with the next report
            return
        if event and self._events and self._events[0] is event:
            self._events.popleft()

    def _jittered(self, seconds: float) -> float:
        return seconds * self._rng.uniform(1 - JITTER, 1 + JITTER)
