"""One simulation: a run over virtual devices, from its start until it has ended.

Read ``run_spec`` and then ``Simulation.play``: the clock jumps from one due event to the next, and when all
events of a moment have happened, the assignments that were announced in it are computed together.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from pathlib import Path

from msgspec.structs import replace

from fedgrass import __version__
from fedgrass.console.runs.fleet_operator import RoundRecord
from fedgrass.federation import object_keys
from fedgrass.federation.messages import Announcement, Verdict, round_id
from fedgrass.federation.rounds import Participation, Round, State, Work
from fedgrass.federation.runs import Run, RunState
from fedgrass.federation.settings import RunSettings
from fedgrass.federation.weights import decode, encode
from fedgrass.local.in_memory.virtual_clock import VirtualClock
from fedgrass.simulation.clients.client_trainer import ClientTrainer
from fedgrass.simulation.fleets.device_conditions import DeviceConditions
from fedgrass.simulation.simulated_run import OnRound, SimulatedRun
from fedgrass.simulation.simulated_settings import run_name, settings_of
from fedgrass.simulation.simulation_spec import SimulationSpec
from fedgrass.simulation.strategies_path import importable
from fedgrass.simulation.virtual_cloud import VirtualCloud
from fedgrass.simulation.virtual_devices import Stopped, VirtualDevices
from fedgrass.simulation.virtual_directory import VirtualDirectory
from greengrass_emulator.temporary_folder import temporary_folder

START = 1_700_000_000_000  # milliseconds since the epoch
_WORKS = frozenset({Work.TRAIN, Work.EVALUATE, Work.STATISTICS})
_HOUR = 3600 * 1000
_LEAST_FREE_BYTES = 100_000_000


def run_spec(
    spec: SimulationSpec,
    *,
    workers: int,
    report: Callable[[str], None],
    on_round: OnRound | None = None,
    stop: Callable[[], bool] | None = None,
) -> SimulatedRun:
    """Run a simulation.

    Args:
        spec: the simulation.
        workers: processes that train; the result does not depend on it.
        report: takes lines for the user, such as why clients are not trained together.
        on_round: called with each round that has ended and the metrics of its model.
        stop: returns whether to end early; what is done by then is returned.

    Raises:
        SettingsError: the spec cannot be simulated; the message names what, and the way out.
    """
    from fedgrass.simulation import clients, fleets  # noqa: PLC0415 - torch and pyarrow take seconds

    settings = settings_of(spec)
    devices = fleets.draw_fleet(spec.fleet, spec.devices, spec.seed)
    with (
        temporary_folder(_LEAST_FREE_BYTES, report, "fedgrass-simulation-") as folder,
        importable(spec.strategies, _made(folder / "strategies")),
        closing(clients.open_clients(spec, devices, workers, _made(folder / "clients"))) as trainer,
    ):
        simulation = Simulation(spec, settings, devices, trainer)
        return simulation.play(report=report, on_round=on_round, stop=stop)


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


class Simulation:
    """A run over virtual devices.

    Args:
        spec: of the simulation.
        settings: of its run.
        devices: their conditions.
        trainer: computes their updates.
    """

    def __init__(
        self,
        spec: SimulationSpec,
        settings: RunSettings,
        devices: Sequence[DeviceConditions],
        trainer: ClientTrainer,
    ) -> None:
        self._spec, self._settings, self._trainer = spec, settings, trainer
        self._name = run_name(spec)
        self._count = len(devices)
        self._clock = VirtualClock(START)
        self._directory = VirtualDirectory(
            lambda: self._clock.now, START, _WORKS, {"version": __version__, "state": "idle"}
        )
        for each in devices:
            self._directory.add(each, frozenset({settings.task}), each.examples or 0)
        self._cloud = VirtualCloud(
            self._clock,
            self._directory,
            self._receive,
            keep_one_more=settings.is_buffered,
        )
        self._devices = VirtualDevices(devices, self._cloud, self._directory, trainer, spec.seed, start=START)
        self._evaluations: dict[int, Mapping[str, float]] = {}
        self._model = b""
        self._counted = 0  # updates, in all rounds that have ended
        self._notes: list[str] = []

    def _receive(self, device: str, message: Announcement | Verdict) -> None:
        self._devices.receive(device, message)

    def play(
        self,
        *,
        report: Callable[[str], None],
        on_round: OnRound | None = None,
        stop: Callable[[], bool] | None = None,
    ) -> SimulatedRun:
        """Play the run until it has ended, or as far as it comes; see ``run_spec``."""
        is_stopped = self._devices.is_stopped = stop or (lambda: False)
        if not self._settings.statistics:
            initial = self._trainer.initial_model(self._spec.seed)
            self._evaluations[0], self._model = self._trainer.evaluate(initial), encode(initial)
        self._cloud.start(self._name, self._settings, self._model)
        until = START + round(self._spec.longest_hours * _HOUR)
        try:
            self._play(until, on_round or (lambda _record, _metrics: None), is_stopped)
        except Stopped:
            self._notes.append("the simulation was stopped before the run had ended")
        self._notes += self._trainer.notes()
        for note in self._notes:
            report(note)
        return self._result()

    def _play(self, until: int, on_round: OnRound, is_stopped: Callable[[], bool]) -> None:
        clock = self._clock
        self._devices.begin_announced()
        while self._is_running():
            if is_stopped():
                raise Stopped
            if clock.next_at is None:
                self._notes.append("the run was left as it is: no device will ever reply to it")
                return
            if clock.next_at > until:
                hours = self._spec.longest_hours
                self._notes.append(
                    f"the run was cut off after {hours:g} hours of virtual time (longest_hours)"
                )
                return
            moment = clock.next_at
            while clock.next_at == moment:
                clock.step()
            self._devices.begin_announced()
            self._look(on_round)

    def _is_running(self) -> bool:
        return self._row().state is RunState.RUNNING

    def _row(self) -> Run:
        run = self._cloud.rounds.run(self._name)
        assert run is not None  # noqa: S101 - it was started
        return run

    def _look(self, on_round: OnRound) -> None:
        """Measure the models of the rounds that have ended since the last look."""
        ended = self._cloud.rounds.ended
        while ended:
            round_ = ended[0]
            metrics: Mapping[str, float] = {}
            if round_.state is State.CLOSED and round_.work is Work.TRAIN:
                model = self._cloud.bucket.objects.get(object_keys.model(self._name, round_.number))
                if model is None:  # it is published by a later step
                    return
                self._model = model
                self._counted += round_.good
                if round_.number % self._spec.held_out_every == 0 or round_.number == self._settings.rounds:
                    metrics = self._evaluations[round_.number] = self._trainer.evaluate(
                        decode(model), number=round_.number, updates=self._counted
                    )
            ended.pop(0)
            self._cloud.bucket.round_ended(round_, oldest=self._oldest_needed(round_))
            on_round(RoundRecord(round_, list(self._cloud.rounds.participants(round_))), metrics)

    def _oldest_needed(self, ended: Round) -> int:
        """Return the number of the oldest model that a device may still start from."""
        older = self._settings.max_staleness if self._settings.is_buffered else 0
        return ended.base - older - 1  # a worker that has died reads the model of the round again

    def _result(self) -> SimulatedRun:
        rounds = self._cloud.rounds
        run = self._row()
        records = [
            self._as_timed(RoundRecord(round_, list(rounds.participants(round_))))
            for round_ in rounds.rounds_from(self._name, 1, run.round)
        ]
        if sizes := self._devices.timed_bytes:
            run = replace(run, initial_bytes=next(iter(sizes.values()))[0])
        ended_at = run.ended_at or self._clock.now
        return SimulatedRun(
            run=run,
            records=records,
            evaluations=self._evaluations,
            model=self._model,
            virtual_seconds=(ended_at - START) / 1000,
            notes=self._notes,
            devices=self._count,
            assignments=self._devices.assignments,
            statistics=self._cloud.bucket.objects.get(
                object_keys.statistics(self._name, self._settings.rounds), b""
            ),
        )

    def _as_timed(self, record: RoundRecord) -> RoundRecord:
        """Return a round with the sizes by which its transfers were timed, where nothing is trained."""
        round_ = record.round
        sizes = self._devices.timed_bytes.get(round_id(round_.run, round_.number, round_.attempt))
        if sizes is None:
            return record
        model, update = sizes
        participants = [replace(part, bytes=update if part.bytes else 0) for part in record.participants]
        sent = sum(part.bytes for part in participants if part.state is Participation.REPLIED)
        field = "base_download_bytes" if round_.base_download_sha256 else "base_bytes"
        return RoundRecord(replace(round_, bytes_up=sent, **{field: model}), participants)
