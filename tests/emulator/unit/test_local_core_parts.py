"""Small pure parts of the core: deployment order, slow uplink, configurations, loopback,
environments.
"""

import asyncio
import json
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from greengrass_emulator.child_environment import local_variables
from greengrass_emulator.control.control_client import parse_reply, parse_request
from greengrass_emulator.deployment.component_dependencies import choose, in_order, recipes_in
from greengrass_emulator.emulator_errors import ControlError, DependencyError, RecipeError
from greengrass_emulator.faults.fault_state import Uplink
from greengrass_emulator.iot.iot_connection import IotMessage
from greengrass_emulator.iot.loopback_iot import LoopbackIotCore
from greengrass_emulator.lifecycle.configuration_tree import Configuration, KeyPath, leaves
from greengrass_emulator.recipe.recipe_reader import Recipe, parse_recipe
from tests.emulator.local_core import recipe, write_recipe

NAMES = ["A", "B", "C", "D", "E"]


def needing(name: str, *needed: str, version: str = "1.0.0") -> Recipe:
    dependencies = {one: {"VersionRequirement": "^1.0.0"} for one in needed}
    content = recipe("true", name=name, ComponentVersion=version, ComponentDependencies=dependencies)
    return parse_recipe(json.dumps(content).encode())


# The order of deployments


@given(st.dictionaries(st.sampled_from(NAMES), st.sets(st.sampled_from(NAMES), max_size=3)))
def test_every_component_follows_its_dependencies_or_the_circle_is_named(
    graph: dict[str, set[str]],
) -> None:
    recipes = {Path(name): needing(name, *needed) for name, needed in graph.items()}
    try:
        order = [file.name for file in in_order(recipes)]
    except DependencyError as error:
        circle = str(error).rpartition(": ")[2].split(" -> ")
        assert all(one in graph[other] for one, other in pairwise(circle))
        assert circle[0] == circle[-1]
        return
    assert sorted(order) == sorted(graph)
    for position, name in enumerate(order):
        assert not graph[name] & set(order[position + 1 :])


def test_what_a_component_needs_is_taken_from_the_folder_in_its_newest_version_unless_it_is_there() -> None:
    recipes = {
        Path("a"): needing("A", "B"),
        Path("old-b"): needing("B", version="1.9.0"),
        Path("new-b"): needing("B", "C", version="1.10.0"),
        Path("c"): needing("C"),
    }
    assert choose(recipes, {"A": "1.0.0"}, []) == [Path("c"), Path("new-b"), Path("a")]
    assert choose(recipes, {"A": "1.0.0"}, ["B"]) == [Path("a")]
    assert choose(recipes, {"A": "1.0.0", "B": "1.9.0"}, []) == [Path("old-b"), Path("a")]
    with pytest.raises(RecipeError, match=r"no recipe of A 2\.0\.0"):
        choose(recipes, {"A": "2.0.0"}, [])


def test_two_versions_of_a_component_cannot_be_deployed_at_once() -> None:
    with pytest.raises(DependencyError, match="same component"):
        in_order({Path("1"): needing("A"), Path("2"): needing("A", version="2.0.0")})


def test_a_folder_of_recipes_is_read_and_a_missing_one_is_named(tmp_path: Path) -> None:
    file = write_recipe(tmp_path, recipe("true", name="A"))
    (tmp_path / "notes.txt").write_text("no recipe")
    assert set(recipes_in(tmp_path)) == {file}
    with pytest.raises(RecipeError, match=r"recipe folder .*absent': No such file"):
        recipes_in(tmp_path / "absent")


# A slow uplink


@given(st.lists(st.tuples(st.floats(0, 100), st.integers(0, 10_000)), max_size=20), st.integers(1, 10_000))
def test_a_line_is_never_quicker_than_its_speed_and_idle_time_is_not_saved(
    sent: list[tuple[float, int]], rate: int
) -> None:
    clock = [0.0]
    line = Uplink(lambda: clock[0])
    ends: list[float] = []
    for pause, size in sent:
        clock[0] += pause
        start = max(clock[0], ends[-1] if ends else 0.0)
        ends.append(clock[0] + line.occupy(size, rate))
        assert ends[-1] == pytest.approx(start + size / rate)


# Configurations

trees = st.recursive(
    st.integers(0, 2),
    lambda inner: st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=6,
).filter(lambda tree: isinstance(tree, dict))


@given(trees, trees)
def test_a_replaced_configuration_is_the_new_one_and_tells_of_each_leaf_that_came_changed_or_went(
    before: dict[str, Any], after: dict[str, Any]
) -> None:
    heard: list[KeyPath] = []
    configuration = Configuration(before, 1)
    configuration.listen([], heard.append)

    configuration.replace(after, 2)

    assert configuration.tree == after
    old, new = dict(leaves(before)), dict(leaves(after))
    assert sorted(heard) == sorted(one for one in {**old, **new} if old.get(one, "no") != new.get(one, "no"))


# IoT Core without a cloud


def test_a_loopback_keeps_what_a_persistent_session_keeps_and_no_more(tmp_path: Path) -> None:
    async def scenario(*, keeps_session: bool) -> list[bytes]:
        heard: list[bytes] = []
        loopback = LoopbackIotCore(tmp_path / "record.jsonl", keeps_session=keeps_session)
        await loopback.start(lambda message: heard.append(message.payload), 1)
        await loopback.subscribe("a/+", 1, 1)
        await loopback.cut()
        loopback.accept(IotMessage("a/b", b"missed", 1))
        loopback.accept(IotMessage("a/b", b"unsure", 0))
        loopback.publish(IotMessage("a/b", b"spooled", 1), lambda: None)
        await loopback.restore()
        await asyncio.sleep(0)
        loopback.accept(IotMessage("b/b", b"not for this filter", 1))
        await loopback.stop()
        return heard

    assert asyncio.run(scenario(keeps_session=True)) == [b"missed", b"spooled"]
    assert asyncio.run(scenario(keeps_session=False)) == [b"spooled"]
    lines = [json.loads(line) for line in (tmp_path / "record.jsonl").read_text().splitlines()]
    assert [line["payload"] for line in lines[:4]] == ["missed", "unsure", "spooled", "not for this filter"]


def test_a_loopback_hands_retained_messages_to_new_subscriptions_and_writes_bytes_down(
    tmp_path: Path,
) -> None:
    async def scenario() -> list[bytes]:
        heard: list[bytes] = []
        loopback = LoopbackIotCore(tmp_path / "record.jsonl", keeps_session=True)
        await loopback.start(lambda message: heard.append(message.payload), 1)
        loopback.accept(IotMessage("a", b"gone", 1, retain=True))
        loopback.accept(IotMessage("a", b"", 1, retain=True))
        loopback.accept(IotMessage("b", b"\xff", 1, retain=True))
        await loopback.subscribe("#", 1, 1)
        return heard

    assert asyncio.run(scenario()) == [b"\xff"]
    assert json.loads((tmp_path / "record.jsonl").read_text().splitlines()[-1])["base64"] == "/w=="


# Messages of the control socket


@given(st.binary(max_size=200) | trees.map(lambda tree: json.dumps(tree).encode()))
def test_any_line_is_a_request_or_a_named_error(line: bytes) -> None:
    for parse in (parse_request, parse_reply):
        with suppress(ControlError):
            assert parse(line) is not None


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        (b'{"do": "dance"}', "dance"),
        (b'{"do": "inject"}', "fault"),
        (b'{"do": "publish", "topic": "a", "payload": "", "qos": 2}', "qos"),
        (b'{"do": "stop", "really": true}', "really"),
        (b"[" * 10_000, "not a valid request"),
    ],
)
def test_a_wrong_request_is_named(line: bytes, complaint: str) -> None:
    with pytest.raises(ControlError, match=complaint):
        parse_request(line)


def test_loopback_is_never_proxied_in_either_spelling() -> None:
    found = local_variables({"HTTP_PROXY": "http://proxy.example:3128"})
    assert found["NO_PROXY"] == found["no_proxy"] == "127.0.0.1,localhost,::1"


def test_hosts_that_are_already_exempt_are_kept_once() -> None:
    found = local_variables(
        {"NO_PROXY": "intranet.example, localhost", "no_proxy": "10.0.0.0/8,,intranet.example"}
    )
    assert found["no_proxy"] == "10.0.0.0/8,intranet.example,localhost,127.0.0.1,::1"
    assert found["NO_PROXY"] == found["no_proxy"]


def test_text_is_utf_8_whatever_the_locale() -> None:
    assert local_variables({"LC_ALL": "C", "PYTHONUTF8": "0"})["PYTHONUTF8"] == "1"
