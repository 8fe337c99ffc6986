"""A simulated run: the real round machine, over virtual devices and in virtual time."""

import hashlib
import time
from collections.abc import Sequence
from concurrent.futures import Future

import msgspec
import numpy as np
import pytest

from fedgrass.console.runs.fleet_operator import RoundRecord
from fedgrass.federation import object_keys
from fedgrass.federation.errors import SettingsError
from fedgrass.federation.messages import Announcement, Verdict
from fedgrass.federation.rounds import Participation, State, Work
from fedgrass.federation.runs import RunState
from fedgrass.federation.topics import Kind
from fedgrass.federation.weights import decode
from fedgrass.simulation.clients.client_trainer import ClientUpdate, ClientWork, ReadObject
from fedgrass.simulation.simulated_run import SimulatedRun
from fedgrass.simulation.simulation import START
from fedgrass.simulation.virtual_cloud import VirtualBucket, VirtualCloud
from tests.fakes.numpy_clients import NumpyClients
from tests.fakes.simulated_fleet import MINUTE, SECOND, device, part, play, states


def fingerprint(found: SimulatedRun) -> str:
    """Return a hash of everything that a simulation has made, with the hashes of all its models."""
    everything = msgspec.json.encode([found.run, found.records, found.evaluations, found.virtual_seconds])
    return hashlib.sha256(everything + found.model).hexdigest()


def test_a_run_over_virtual_devices_closes_its_rounds() -> None:
    found = play([device(number) for number in range(3)])
    assert (found.run.state, found.run.reason) == (RunState.SUCCEEDED, "all 2 rounds closed")
    assert [record.round.state for record in found.records] == [State.CLOSED] * 2
    assert all(set(states_.values()) == {Participation.REPLIED} for states_ in states(found))
    assert found.notes == []
    assert sorted(found.evaluations) == [0, 1, 2]


def test_the_model_is_the_mean_of_the_updates() -> None:
    clients = NumpyClients()
    found = play([device(number) for number in range(3)], {"rounds": 1}, clients)
    # Each device goes half the way from 0 to its target.
    targets = [work.device.share + work.seed % 100 / 1000 for work in clients.batches[0]]
    assert decode(found.model)["weight"] == pytest.approx(np.full(4, np.mean(targets) / 2), rel=1e-6)


def test_durations_are_those_of_the_device_and_its_link() -> None:
    """2 x latency + model / download + (fixed + per example x examples x epochs) + update / upload."""
    clients = NumpyClients(size=1000, examples=20)
    slow = device(0, seconds_per_example=0.5, download=1000.0, upload=500.0)
    found = play([slow], {"rounds": 1, "epochs": 3}, clients)
    done = part(found, 1, 0)
    size = found.run.initial_bytes
    seconds = 0.2 + size / 1000 + 10 + 0.5 * 20 * 3 + done.bytes / 500
    assert done.turnaround_seconds == pytest.approx(seconds, abs=0.003)
    assert (done.download_seconds, done.train_seconds, done.upload_seconds) == pytest.approx(
        (size / 1000, 40, done.bytes / 500)
    )
    assert found.virtual_seconds == pytest.approx(seconds, abs=0.003)


def test_hours_of_virtual_time_take_no_real_time() -> None:
    began = time.process_time()
    found = play([device(0, fixed_seconds=5 * 3600.0)], {"deadline_seconds": 6 * 3600})
    assert found.virtual_seconds > 10 * 3600
    assert time.process_time() - began < 5


def test_the_same_spec_makes_the_same_history_and_models_whatever_the_workers() -> None:
    devices = [
        device(number, jitter=0.4, dropout=0.1, seconds_per_example=0.1, upload=1000.0, latency=0.05)
        for number in range(40)
    ]
    settings = {"rounds": 4, "selection": "random", "count": 12, "over_selection": 1.5, "threshold": 0.8}
    made = []
    for workers in (0, 1, 3, 3):
        clients = NumpyClients(workers=workers)
        made.append(fingerprint(play(devices, settings, clients)))
        clients.close()
    assert len(set(made)) == 1
    assert fingerprint(play(devices, settings, seed=1)) != made[0]


def test_work_that_is_announced_at_one_moment_is_computed_together_in_the_order_of_announcement() -> None:
    clients = NumpyClients()
    play([device(number, latency=number / 10) for number in range(5)], {"rounds": 1}, clients)
    assert [[work.device.name for work in batch] for batch in clients.batches] == [
        [f"device-{number:05}" for number in range(5)]
    ]


def test_the_training_has_a_seed_for_each_device_and_round() -> None:
    clients = NumpyClients()
    play([device(0), device(1)], {}, clients)
    seeds = [work.seed for batch in clients.batches for work in batch]
    assert len(set(seeds)) == 4


def test_a_device_that_drops_out_accepts_and_never_replies_and_is_not_trained() -> None:
    clients = NumpyClients()
    devices = [device(0), device(1, dropout=1.0)]
    found = play(devices, {"rounds": 1, "deadline_seconds": 60, "minimum_replies": 1}, clients)
    assert part(found, 1, 1).state is Participation.ACCEPTED
    assert [work.device.name for batch in clients.batches for work in batch] == ["device-00000"]
    assert found.virtual_seconds == 60


def test_half_of_the_devices_drop_out_about_half_of_the_time() -> None:
    devices = [device(number, dropout=0.5) for number in range(100)]
    found = play(devices, {"rounds": 1, "deadline_seconds": 60})
    replied = list(states(found)[0].values()).count(Participation.REPLIED)
    assert 35 < replied < 65


def test_a_device_that_is_too_slow_fails_at_its_deadline_and_is_not_trained() -> None:
    clients = NumpyClients()
    devices = [device(0), device(1, fixed_seconds=100.0)]
    found = play(devices, {"rounds": 1, "deadline_seconds": 60}, clients)
    assert part(found, 1, 0).state is Participation.REPLIED
    assert part(found, 1, 1).state is Participation.ACCEPTED  # the round has closed by then
    assert [work.device.name for batch in clients.batches for work in batch] == ["device-00000"]


def test_a_device_that_learns_too_late_how_long_its_work_takes_fails_at_its_deadline() -> None:
    clients = NumpyClients(examples=1000)
    devices = [device(0), device(1, seconds_per_example=1.0)]
    play(devices, {"rounds": 1, "deadline_seconds": 60}, clients)
    assert ("device-00001", 1, 1, True) not in clients.settled
    assert ("device-00000", 1, 1, True) in clients.settled


def test_work_that_fails_is_reported_with_its_reason_and_another_device_is_asked() -> None:
    clients = NumpyClients(failing=["device-00001"])
    settings = {"rounds": 1, "selection": "random", "count": 3, "over_selection": 1.0}
    found = play([device(number) for number in range(4)], settings, clients)
    asked = states(found)[0]
    if "device-00001" in asked:
        assert part(found, 1, 1).reason == "ValueError: no data"
        assert len(asked) == 4
    assert list(asked.values()).count(Participation.REPLIED) == 3


def test_a_late_device_drops_its_work_for_that_of_the_next_round() -> None:
    clients = NumpyClients()
    devices = [device(0), device(1), device(2, fixed_seconds=15.0)]
    found = play(devices, {"threshold_count": 2}, clients)
    assert part(found, 1, 2).state is Participation.ACCEPTED
    assert ("device-00002", 1, 1, False) in clients.settled
    assert found.run.state is RunState.SUCCEEDED


def test_a_reply_that_comes_too_late_is_counted_as_late_and_its_update_is_removed() -> None:
    clients = NumpyClients()
    devices = [device(0), device(1, fixed_seconds=10.05)]
    found = play(devices, {"threshold_count": 1, "rounds": 2}, clients)
    assert part(found, 1, 1).state is Participation.LATE
    assert ("device-00001", 1, 1, False) in clients.settled


def test_a_device_that_is_off_is_not_asked() -> None:
    devices = [device(0), device(1, on=((10 * MINUTE, 20 * MINUTE),))]
    found = play(devices, {"rounds": 1})
    assert states(found) == [{"device-00000": Participation.REPLIED}]


def test_a_device_that_was_turned_off_shortly_before_is_replaced_as_it_does_not_accept() -> None:
    """It still counts as seen, and the cloud notices after ``accept_seconds``."""
    off = device(1, on=((0, 5 * SECOND),))
    settings = {"rounds": 2, "selection": "random", "count": 2, "accept_seconds": 10, "deadline_seconds": 90}
    found = play([device(0), off], settings)
    assert part(found, 2, 1).state is Participation.ASKED
    assert found.records[1].round.closed_at - found.records[1].round.opened_at == 90 * SECOND


def test_work_waits_while_its_device_is_off_and_is_completed_when_it_is_on_again() -> None:
    on = ((0, 5 * SECOND), (30 * SECOND, 60 * SECOND))
    found = play([device(0, on=on)], {"rounds": 1})
    done = part(found, 1, 0)
    assert done.received_at == START + round((30 + 10 - 4.9 + 0.1) * SECOND)
    assert done.state is Participation.REPLIED


def test_a_device_that_is_turned_on_sends_a_hello_and_gets_the_work_that_it_has_missed() -> None:
    """It was asked in the moment in which it was turned off; nothing else announces the work again."""
    on = ((0, 50), (30 * SECOND, 10 * MINUTE))
    found = play([device(0), device(1, on=on)], {"rounds": 1, "accept_seconds": 0})
    assert part(found, 1, 1).state is Participation.REPLIED
    assert part(found, 1, 1).received_at == START + 30 * SECOND + round((0.2 + 10 + 0.1) * SECOND)


def test_a_reply_is_repeated_until_its_verdict_arrives() -> None:
    """The verdict on the first reply arrives while the device is off."""
    clients = NumpyClients()
    on = ((0, 10_150), (20 * SECOND, 10 * MINUTE))
    found = play([device(0, on=on), device(1, fixed_seconds=40.0)], {"rounds": 1}, clients)
    assert part(found, 1, 0).received_at == START + 10_200
    assert ("device-00000", 1, 1, True) in clients.settled


def test_a_run_that_no_device_can_join_is_refused() -> None:
    with pytest.raises(SettingsError, match="no device with the task 'digits' was seen"):
        play([device(0, on=((10 * MINUTE, 20 * MINUTE),))])


def test_a_run_waits_for_devices_that_come_back() -> None:
    """The only device is off for an hour between two rounds."""
    on = ((0, 11 * SECOND), (60 * MINUTE, 120 * MINUTE))
    found = play([device(0, on=on)], {"accept_seconds": 20, "deadline_seconds": 300, "attempts": 100})
    assert found.run.state is RunState.SUCCEEDED
    assert found.virtual_seconds > 3600


def test_a_run_without_devices_is_not_played_for_ever() -> None:
    found = play([device(0, dropout=1.0)], {"rounds": 3, "attempts": 2, "deadline_seconds": 60})
    assert found.run.state is RunState.FAILED
    assert found.virtual_seconds == 120


def test_a_run_is_cut_off_after_the_longest_hours() -> None:
    found = play([device(0, fixed_seconds=500.0)], {"rounds": 1000}, longest_hours=1.0)
    assert found.run.state is RunState.RUNNING
    assert len(found.records) == 8
    assert found.notes == ["the run was cut off after 1 hours of virtual time (longest_hours)"]


def test_a_simulation_that_is_stopped_returns_what_is_done() -> None:
    rounds: list[RoundRecord] = []
    found = play(
        [device(0)],
        {"rounds": 1000},
        stop=lambda: len(rounds) == 3,
        on_round=lambda record, _metrics: rounds.append(record),
    )
    assert [record.round.state for record in found.records[:3]] == [State.CLOSED] * 3
    assert sorted(found.evaluations) == [0, 1, 2, 3]
    assert found.notes == ["the simulation was stopped before the run had ended"]


def test_a_simulation_can_be_stopped_while_it_waits_for_a_training() -> None:
    class Endless(NumpyClients):
        def _begin(self, work: ClientWork, model: bytes) -> "Future[ClientUpdate]":  # noqa: ARG002 - it never ends
            return Future()

    found = play([device(0)], {}, Endless(), stop=iter([False] * 3 + [True] * 9).__next__)
    assert found.run.state is RunState.RUNNING
    assert found.notes == ["the simulation was stopped before the run had ended"]


def test_rounds_of_evaluation_are_simulated() -> None:
    devices = [device(number) for number in range(4)]
    settings = {"rounds": 2, "evaluate_last": True, "evaluate_every": 1, "held_out": ["device-00003"]}
    found = play(devices, settings)
    assert [record.round.work for record in found.records] == [
        Work.TRAIN,
        Work.EVALUATE,
        Work.TRAIN,
        Work.EVALUATE,
    ]
    assert states(found)[1] == {"device-00003": Participation.REPLIED}
    assert "device-00003" not in states(found)[0]


def test_over_selection_closes_a_round_without_the_slowest_devices() -> None:
    devices = [device(number, fixed_seconds=1.0 + number) for number in range(10)]
    settings = {"selection": "random", "count": 5, "over_selection": 2.0, "rounds": 1}
    found = play(devices, settings)
    assert found.records[0].round.asked == 10
    assert found.virtual_seconds == pytest.approx(5.2, abs=0.01)


def test_buffered_rounds_are_simulated_and_their_updates_are_all_there_when_they_are_averaged() -> None:
    devices = [device(number, fixed_seconds=5.0 + 3 * number, jitter=0.3) for number in range(12)]
    settings = {"mode": "buffered", "buffer_size": 3, "in_flight": 8, "rounds": 12}
    found = play(devices, settings)
    assert (found.run.state, found.run.round) == (RunState.SUCCEEDED, 12)
    assert not any(record.round.refused for record in found.records)
    assert max(record.round.staleness_max for record in found.records) > 0


def test_only_the_updates_that_a_round_can_need_stay_in_memory() -> None:
    kept: list[int] = []

    class Watched(NumpyClients):
        def submit(self, work: Sequence[ClientWork], read: ReadObject) -> Sequence[Future[ClientUpdate]]:
            objects = read.__self__._cloud.bucket.objects  # type: ignore[attr-defined]
            kept.append(sum(key.startswith(("updates/", "models/simulated")) for key in objects))
            return super().submit(work, read)

    play([device(number) for number in range(5)], {"rounds": 10}, Watched())
    assert max(kept) < 12


def test_devices_send_their_timeline_if_the_run_is_traced() -> None:
    found = play([device(0, download=1000.0, upload=1000.0)], {"rounds": 1, "trace": True})
    assert part(found, 1, 0).timeline.startswith("download:0-")
    assert "train:" in part(found, 1, 0).timeline
    assert "upload:" in part(found, 1, 0).timeline


def test_without_training_the_bytes_of_rounds_are_those_by_which_transfers_are_timed() -> None:
    class Untrained(NumpyClients):
        def timed_bytes(self, _announcement: Announcement) -> tuple[int, int]:  # type: ignore[override]
            return 5_000_000, 1_000_000

    devices = [device(0), device(1), device(2, dropout=1.0)]
    found = play(devices, {"rounds": 1, "deadline_seconds": 60, "minimum_replies": 1}, Untrained())
    (record,) = found.records
    assert (record.round.bytes_up, record.round.bytes_down) == (2_000_000, 15_000_000)
    assert [one.bytes for one in record.participants] == [1_000_000, 1_000_000, 0]
    assert found.run.initial_bytes == 5_000_000


def test_a_device_learns_its_number_of_examples_by_its_first_work() -> None:
    clients = NumpyClients(examples=25)
    settings = {"rounds": 2, "selection": "random", "count": 2, "minimum_examples": 20}
    with pytest.raises(SettingsError, match="0 of them have 20 examples or more"):
        play([device(0), device(1)], settings, clients)
    found = play([device(0, examples=30), device(1, examples=5)], settings | {"count": 1}, clients)
    assert all(list(each) == ["device-00000"] for each in states(found))


def test_a_reply_that_is_lost_is_sent_again_after_the_same_pause_each_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    reply, lost, received = VirtualCloud.reply, list[str](), []

    def lossy(cloud: VirtualCloud, name: str, kind: Kind, payload: bytes, latency: float) -> None:
        if kind is Kind.COMPLETE and not lost:
            lost.append(name)
        else:
            reply(cloud, name, kind, payload, latency)

    monkeypatch.setattr(VirtualCloud, "reply", lossy)
    for _ in range(2):
        lost.clear()
        found = play([device(0)], {"rounds": 1, "deadline_seconds": 300})
        assert lost == ["device-00000"]
        received.append(part(found, 1, 0).received_at)
    assert START + 10_200 < received[0] < START + 45_000
    assert received[0] == received[1]


def test_an_update_that_was_counted_while_the_next_buffer_opened_is_kept_for_it() -> None:
    bucket = VirtualBucket(keep_one_more=True)
    [first, second, third] = play([device(0)], {"rounds": 3}).records
    key = object_keys.update("thing", "run-1", 1, 1)
    bucket.write(key, b"update")
    bucket.verdict("thing", Verdict(run="run-1", round=1, attempt=1, counted=True))
    bucket.round_ended(first.round, oldest=0)
    assert bucket.exists(key)
    bucket.round_ended(second.round, oldest=0)
    assert not bucket.exists(key)
    bucket.write(key, b"update")
    bucket.verdict("thing", Verdict(run="run-1", round=1, attempt=1, counted=False))
    assert not bucket.exists(key)
    bucket.round_ended(third.round, oldest=0)
