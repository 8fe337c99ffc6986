"""Runs of ``tree_bagging``: the model grows by the devices' trees, each once, up to its bounds."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloud_functions.recovery import repair
from fedgrass.federation.errors import SettingsError
from fedgrass.federation.rounds import Participation, Round, State
from fedgrass.federation.runs import RunState
from fedgrass.federation.settings_parser import parse_settings
from fedgrass.federation.topics import Kind
from fedgrass.federation.weights import checksum, encode
from fedgrass.federation.weights.tree_ensemble import Trees, join
from tests.fakes.memory_cloud import Crash
from tests.fakes.small_fleet import INITIAL, RUN, SmallFleet
from tests.fakes.small_trees import changed, ensemble, file_of_trees, random_tree, stump, walked


def fleet_of_trees(devices: int = 3, **settings: Any) -> SmallFleet:
    options = {"aggregation": "tree_bagging", "initial": ensemble().arrays(), "rounds": 3}
    return SmallFleet(devices=devices, **{**options, **settings})


def send(fleet: SmallFleet, device: str, trees: Trees | bytes, **changes: object) -> Round:
    """Upload an update and send its completion; return the round."""
    opened = fleet.newest()
    data = trees if isinstance(trees, bytes) else file_of_trees(trees)
    fleet.upload(device, opened, data)
    fleet.say(device, Kind.COMPLETE, fleet.completion(opened, data, device, **changes))
    return opened


def values(fleet: SmallFleet, number: int) -> list[float]:
    """Return the upper leaf of each tree of a model, times its weight: the trees are stumps."""
    model = fleet.model(number)
    leaves, factors = (model[name].astype(np.float64) for name in ("node_value", "tree_weight"))
    found: list[float] = (leaves[2::3] * factors).tolist()
    return found


def test_each_round_appends_the_devices_trees_in_the_order_of_their_names() -> None:
    fleet = fleet_of_trees(evaluate_last=False, rounds=2, examples_cap=0)
    fleet.start()
    for device, examples in (("thing-2", 10), ("thing-0", 30), ("thing-1", 60)):
        send(fleet, device, stump(float(device[-1]) + 1), examples=examples)
    assert values(fleet, 1) == pytest.approx([0.3, 1.2, 0.3])
    assert fleet.newest().base_bytes > len(encode(ensemble().arrays()))
    for device in ("thing-1", "thing-2", "thing-0"):
        send(fleet, device, stump(10.0))
    assert values(fleet, 2) == pytest.approx([0.3, 1.2, 0.3, 10 / 3, 10 / 3, 10 / 3])
    assert fleet.run().state is RunState.SUCCEEDED


def test_the_next_announcement_has_the_size_and_the_checksum_of_the_grown_model() -> None:
    fleet = fleet_of_trees(devices=1)
    fleet.start()
    send(fleet, "thing-0", stump())
    first, second = fleet.announced("thing-0")
    stored = fleet.bucket.objects[second.model_key]
    assert (second.model_bytes, first.model_bytes < second.model_bytes) == (len(stored), True)
    assert second.settings == {"trees_per_round": 1, "most_nodes": 1023}


def test_trees_may_weigh_the_same_and_their_sum_may_be_chosen() -> None:
    options = {"tree_weights": "equal", "server_rate": 2.0}
    fleet = fleet_of_trees(devices=2, aggregation_options=options)
    fleet.start()
    send(fleet, "thing-0", stump(1.0), examples=1)
    send(fleet, "thing-1", stump(3.0), examples=99)
    assert values(fleet, 1) == [1.0, 3.0]


def test_the_margin_of_the_new_model_is_that_of_the_old_one_plus_the_mean_of_the_devices_steps() -> None:
    rng = np.random.default_rng(0)
    trees = [random_tree(rng, 4) for _ in range(3)]
    fleet = fleet_of_trees()
    fleet.start()
    for number, tree in enumerate(trees):
        send(fleet, f"thing-{number}", tree)
    inputs = rng.normal(size=(20, 4)).astype(np.float32)
    alone = [walked(ensemble(tree).arrays(), inputs) for tree in trees]
    np.testing.assert_allclose(walked(fleet.model(1), inputs), np.mean(alone, axis=0), atol=1e-5)


def test_the_examples_of_a_device_count_up_to_the_cap() -> None:
    fleet = fleet_of_trees(examples_cap=3)
    fleet.start()
    for device, examples in (("thing-0", 10), ("thing-1", 10), ("thing-2", 10**9)):
        send(fleet, device, stump(), examples=examples)
    assert fleet.model(1)["tree_weight"].tolist() == pytest.approx([0.2, 0.2, 0.6])


def test_a_reply_that_is_delivered_twice_is_appended_once() -> None:
    fleet = fleet_of_trees(devices=2)
    fleet.start()
    send(fleet, "thing-0", stump(1.0))
    send(fleet, "thing-0", stump(1.0))
    send(fleet, "thing-1", stump(1.0))
    assert values(fleet, 1) == [0.5, 0.5]


BAD: list[tuple[Callable[[], bytes], str]] = [
    (lambda: file_of_trees(changed(stump(), "node_left", [0, -1, -1])), "node 0: its left child is 0"),
    (lambda: file_of_trees(changed(stump(), "node_feature", [4, -1, -1])), "its feature is 4"),
    (lambda: file_of_trees(changed(stump(), "node_value", [np.nan, 0, 0])), "its value is nan"),
    (lambda: file_of_trees(changed(stump(), "tree_weight", [2])), "takes only ones"),
    (lambda: file_of_trees(changed(stump(), "tree_group", [1])), "its group is 1"),
    (lambda: file_of_trees(join([stump()] * 2)), "the update has 2 trees; with trees_per_round 1"),
    (
        lambda: file_of_trees(join([stump()])._replace(nodes=np.zeros(0, np.int32))),
        "has 1 values, 'tree_nodes'",
    ),
    (lambda: file_of_trees(random_tree(np.random.default_rng(0), 600)), "1201 nodes; 1023 is the most"),
    (lambda: file_of_trees({**stump().arrays(), "more": np.zeros(3)}), "array 'more' does not belong"),
    (lambda: encode(ensemble(stump()).arrays()), "does not belong to an update of trees"),
    (lambda: encode(INITIAL), "does not belong to an update of trees"),
    (lambda: file_of_trees(stump())[:-1], "the header describes a file of"),
    (lambda: file_of_trees(stump())[:-1] + b"\7", "chunk 0 of the data"),
    (lambda: file_of_trees(stump()) + b"\0" * 100_000, "is the most it may have"),
    (lambda: b"", "a safetensors file has at least 8"),
    (lambda: (10 * 1024**3).to_bytes(8, "little") + b"{}", "the header claims 10737418240 bytes"),
    (lambda: b"\2\0\0\0\0\0\0\0{}", "is missing"),
    (lambda: (10_010).to_bytes(8, "little") + b'{"weight":' + b"[" * 10_000, "not a safetensors header"),
]


@pytest.mark.parametrize(("spoil", "said"), BAD)
def test_a_bad_update_is_refused_by_name_and_the_round_closes_with_the_others(
    spoil: Callable[[], bytes], said: str
) -> None:
    fleet = fleet_of_trees()
    fleet.start()
    first = fleet.newest()
    send(fleet, "thing-0", stump(1.0))
    send(fleet, "thing-1", spoil())
    send(fleet, "thing-2", stump(3.0))
    refused = fleet.part("thing-1", first)
    assert refused.state is Participation.REFUSED
    assert said in refused.reason
    assert values(fleet, 1) == [0.5, 1.5]


def test_a_header_that_is_far_longer_than_the_trainers_is_refused_before_it_is_parsed() -> None:
    good = file_of_trees(stump())
    end = 8 + int.from_bytes(good[:8], "little")
    header = good[8:end] + b" " * 2**16
    fleet = fleet_of_trees(devices=2, minimum_replies=1, aggregation_options={"most_nodes": 65_535})
    fleet.start()
    first = fleet.newest()
    send(fleet, "thing-0", len(header).to_bytes(8, "little") + header + good[end:])
    send(fleet, "thing-1", stump())
    assert "at most 65536 are allowed" in fleet.part("thing-0", first).reason


def test_all_bad_updates_are_refused_in_one_pass() -> None:
    fleet = fleet_of_trees(devices=6, minimum_replies=1)
    fleet.start()
    first = fleet.newest()
    for number in range(5):
        send(fleet, f"thing-{number}", file_of_trees(changed(stump(), "tree_group", [1])))
    send(fleet, "thing-5", stump())
    states = fleet.parts(first)
    assert [states[f"thing-{number}"] for number in range(5)] == [Participation.REFUSED] * 5
    assert values(fleet, 1) == [1.0]


def test_an_update_that_is_replaced_or_missing_is_refused() -> None:
    fleet = fleet_of_trees(devices=4)
    fleet.start()
    first = fleet.newest()
    send(fleet, "thing-0", stump())
    send(fleet, "thing-1", stump(), checksum=checksum(b"other bytes"))
    send(fleet, "thing-2", stump(), bytes=7)
    opened = fleet.newest()
    data = file_of_trees(stump())
    fleet.say("thing-3", Kind.COMPLETE, fleet.completion(opened, data, "thing-3"))
    assert "the completion states" in fleet.part("thing-1", first).reason
    assert "bytes; the completion states 7" in fleet.part("thing-2", first).reason
    assert "there is no object updates/thing-3/" in fleet.part("thing-3", first).reason
    assert values(fleet, 1) == [1.0]


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.data())
def test_no_bytes_of_a_hostile_device_stop_a_round(seed: int, data: st.DataObject) -> None:
    good = file_of_trees(random_tree(np.random.default_rng(seed), 4))
    spoiled = bytearray(good)
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(spoiled) - 1))
        spoiled[place] = data.draw(st.integers(0, 255))
    cut = data.draw(st.sampled_from([len(spoiled), len(spoiled), data.draw(st.integers(0, len(spoiled)))]))
    fleet = fleet_of_trees(devices=2, minimum_replies=1)
    fleet.start()
    first = fleet.newest()
    send(fleet, "thing-0", bytes(spoiled[:cut]))
    send(fleet, "thing-1", stump(7.0))
    closed = fleet.rounds.round(RUN, 1, 1)
    assert closed is not None
    assert closed.state is State.CLOSED
    if fleet.part("thing-0", first).state is Participation.REFUSED:
        assert values(fleet, 1) == [7.0]


def test_the_same_updates_make_the_same_bytes_after_any_crash() -> None:
    def replied(fleet: SmallFleet) -> None:
        fleet.start()
        for number in (1, 0):
            send(fleet, f"thing-{number}", stump(number + 1.0))

    undisturbed = fleet_of_trees(devices=2)
    replied(undisturbed)
    expected = undisturbed.bucket.objects[f"models/{RUN}/1.safetensors"]
    for call in range(1, 400):
        fleet = fleet_of_trees(devices=2, lease_seconds=60)
        fleet.start()
        send(fleet, "thing-1", stump(2.0))
        fleet.counter.plan_crash(call=call)
        opened = fleet.newest()
        try:
            send(fleet, "thing-0", stump(1.0))
        except Crash:
            fleet.counter.forget_plans()
            fleet.pass_time(120)
            data = file_of_trees(stump(1.0))
            fleet.say("thing-0", Kind.COMPLETE, fleet.completion(opened, data, "thing-0"))
            fleet.look(1)
        else:
            break
        assert fleet.bucket.objects[f"models/{RUN}/1.safetensors"] == expected
    assert call > 10


def test_drafts_that_are_lost_before_they_are_published_are_made_again() -> None:
    fleet = fleet_of_trees(devices=2)
    fleet.start()
    send(fleet, "thing-0", stump(1.0))
    fleet.counter.plan_crash(name="copy_once")
    with pytest.raises(Crash):
        send(fleet, "thing-1", stump(3.0))
    fleet.counter.forget_plans()
    for key in [key for key in fleet.bucket.objects if key.startswith("drafts/") and key.endswith("s")]:
        del fleet.bucket.objects[key]
    fleet.pass_time(300)
    fleet.look(1)
    assert any("drafts of model 1 were lost and are made again" in change.text for change in fleet.told())
    assert values(fleet, 1) == [0.5, 1.5]


def test_a_run_whose_rows_were_lost_is_rebuilt_and_continues() -> None:
    fleet = fleet_of_trees(devices=2)
    fleet.start()
    for _ in range(2):
        for device in ("thing-0", "thing-1"):
            send(fleet, device, stump())
    fleet.rounds.lose(runs=True, rounds=True, participants=True)
    repair.act(fleet.cloud, {"action": "repair", "run": RUN})
    fleet.act("resume")
    for device in ("thing-0", "thing-1"):
        send(fleet, device, stump())
    assert len(values(fleet, 3)) == 6


def test_an_ensemble_that_is_far_worse_than_the_devices_own_is_told_without_measuring_updates() -> None:
    fleet = fleet_of_trees(devices=2)
    fleet.start()
    for loss in (0.7, 9.0):
        for device in ("thing-0", "thing-1"):
            send(fleet, device, stump(), metrics={"loss": loss, "local_loss": 0.1})
    assert any("model 1 is far worse than the local models" in change.text for change in fleet.told())
    assert not any("cannot be measured" in line for line in fleet.log)


# ---------------------------------------------------------------- the bounds of the model


def test_a_run_whose_trees_would_not_fit_is_refused_at_its_start() -> None:
    fleet = fleet_of_trees(aggregation_options={"most_trees": 8})
    message = (
        r"3 rounds of 3 devices do not fit .* 0 trees, and 9 updates would add 9; 8 is the most .most_trees"
    )
    with pytest.raises(SettingsError, match=message):
        fleet.start()
    fleet_of_trees(aggregation_options={"most_trees": 9}).start()


def test_the_trees_of_each_round_count_for_the_bound() -> None:
    more: dict[str, Any] = {"training_by_round": {"3": {"trees_per_round": 4}}}
    with pytest.raises(SettingsError, match="would add 18"):
        fleet_of_trees(aggregation_options={"most_trees": 17}, **more).start()
    fleet_of_trees(aggregation_options={"most_trees": 18}, **more).start()


def grown(devices: int, **options: Any) -> SmallFleet:
    """Return a fleet whose run was started with two devices, and that has more of them since."""
    fleet = fleet_of_trees(devices=2, rounds=6, evaluate_last=True, aggregation_options=options)
    fleet.start()
    fleet.names += [f"thing-{number}" for number in range(2, devices)]
    fleet.heartbeats()
    return fleet


def test_a_run_ends_when_another_round_might_not_fit() -> None:
    fleet = grown(4, most_trees=12)
    while fleet.run().state is RunState.RUNNING:
        opened = fleet.newest()
        for device in fleet.parts(opened):
            if opened.work == "train":
                send(fleet, device, stump())
            else:
                fleet.reply(device, opened)
    run = fleet.run()
    # Rounds of 2, 4 and 4 trees; then the last model is evaluated.
    assert run.state is RunState.SUCCEEDED
    assert "3 rounds closed, and no further one fits: the ensemble has 10 trees" in run.reason
    assert (fleet.newest().work, fleet.newest().base) == ("evaluate", 3)


def test_a_run_ends_when_another_round_like_the_last_would_have_too_many_bytes() -> None:
    fleet = fleet_of_trees(devices=1, rounds=100, aggregation_options={"largest_bytes": 65_536})
    fleet.start()
    rng = np.random.default_rng(0)
    while fleet.run().state is RunState.RUNNING:
        send(fleet, "thing-0", random_tree(rng, 500))
    assert "no further one fits: the ensemble has" in fleet.run().reason
    assert "65536 is the most (largest_bytes)" in fleet.run().reason
    assert fleet.run().progress.model == fleet.newest().number - 1 == 2


def test_a_round_with_too_many_trees_is_abandoned_by_name() -> None:
    fleet = grown(20, most_trees=12, trees_per_round=1)
    for device in ("thing-0", "thing-1"):
        send(fleet, device, stump())
    for _ in range(3):
        opened = fleet.newest()
        for device in fleet.parts(opened):
            send(fleet, device, stump())
    assert fleet.run().state is RunState.FAILED
    assert "too large for the run's aggregation_options: the ensemble has 22 trees" in fleet.run().reason
    assert "--continue-from" in fleet.run().reason


def test_no_more_updates_are_read_than_the_new_model_may_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    options = {"largest_bytes": 65_536, "most_trees": 1_000}
    fleet = fleet_of_trees(devices=40, aggregation_options=options, on_abandoned="fail")
    fleet.start()
    tree = file_of_trees(random_tree(np.random.default_rng(0), 500))
    reads: list[str] = []
    read = fleet.bucket.read

    def counted(key: str, largest: int) -> bytes:
        reads.append(key)
        return read(key, largest)

    monkeypatch.setattr(fleet.bucket, "read", counted)
    for device in list(fleet.parts()):
        send(fleet, device, tree)
    assert "bytes; 65536 is the most (largest_bytes)" in fleet.run().reason
    # Four of them fit; the last of the lanes that read at the same time come on top.
    assert 4 <= sum(key.startswith("updates/") for key in reads) <= 4 + fleet.bucket.lanes


# ---------------------------------------------------------------- what does not fit is refused at the start


@pytest.mark.parametrize(
    ("given_settings", "message"),
    [
        (
            {"upload_encoding": "int8"},
            "the run's upload_encoding is 'int8', which needs updates with the model's",
        ),
        ({"upload_difference": True}, "the run's upload_difference is true"),
        ({"download_encoding": "float16"}, "the run's download_encoding is 'float16'"),
        ({"clip_norm": 1.0}, "the run's clip_norm is 1.0"),
        ({"largest_norm": 1.0}, "the run's largest_norm is 1.0"),
        ({"training": {"trees_per_round": 0}}, "training.trees_per_round is 0: it takes a whole number"),
        ({"training": {"trees_per_round": True}}, "training.trees_per_round is true"),
        (
            {"training_by_round": {"2": {"trees_per_round": 2.5}}},
            "training_by_round.2.trees_per_round is 2.5",
        ),
        ({"training": {"most_nodes": 7}}, "training.most_nodes belongs to aggregation_options"),
        ({"aggregation_options": {"trees_per_round": 1001}}, "aggregation_options.trees_per_round is 1001"),
        ({"aggregation_options": {"tree_weights": "loss"}}, "aggregation_options.tree_weights is 'loss'"),
    ],
)
def test_settings_that_do_not_fit_trees_are_refused(given_settings: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        parse_settings({"task": "pumps", "aggregation": "tree_bagging", **given_settings})


def test_a_model_of_arrays_is_refused_for_trees_and_trees_for_a_mean() -> None:
    with pytest.raises(
        SettingsError, match="does not fit the aggregation 'tree_bagging': array 'base_score'"
    ):
        fleet_of_trees(initial=INITIAL).start()
    with pytest.raises(SettingsError, match="'weighted_mean' cannot average: set the run's aggregation to"):
        fleet_of_trees(aggregation="weighted_mean").start()
    broken = {**ensemble(stump()).arrays(), "node_left": np.zeros(3, np.int32)}
    with pytest.raises(SettingsError, match="tree 0, node 1: it is a leaf, but has the left child 0"):
        fleet_of_trees(initial=broken).start()


def test_an_initial_model_with_trees_is_continued() -> None:
    fleet = fleet_of_trees(devices=1, initial=ensemble(stump(5.0)).arrays())
    fleet.start()
    send(fleet, "thing-0", stump(1.0))
    assert values(fleet, 1) == [5.0, 1.0]


def test_a_large_cohort_is_not_summed_in_groups_nor_a_large_model_in_shards() -> None:
    from fedgrass.federation.aggregation.sharding_plan import Scale  # noqa: PLC0415

    scale = Scale(group=2, grouped_bytes=1, sharded_bytes=1)
    fleet = fleet_of_trees(devices=6, scale=scale)
    fleet.start()
    for number in range(6):
        send(fleet, f"thing-{number}", stump())
    assert fleet.work() == 0
    assert len(values(fleet, 1)) == 6


def test_a_custom_strategy_cannot_read_whole_updates() -> None:
    message = "its reads is 'whole'; it must be one of 'sums', 'columns'"
    with pytest.raises(SettingsError, match=message):
        fleet_of_trees(aggregation="tests.own_strategies:ReadsWhole").start()
