import pytest

from fedgrass.console.dashboard import shown_stacks
from fedgrass.console.dashboard.pages.page_actions import ReadOnly
from fedgrass.console.dashboard.shown_stacks import opened, show_dashboard
from fedgrass.federation.errors import SettingsError
from tests.fakes.fleet_source import FakeFleet


def places(stacks: list[str], profiles: list[str], regions: list[str]) -> list[tuple[str, str, str]]:
    found = []

    def open_source(name: str, profile: str, region: str) -> FakeFleet:
        found.append((name, profile, region))
        return FakeFleet(name=name)

    opened(stacks, profiles, regions, read_only=True, open_source=open_source)
    return found


def test_a_profile_or_region_given_once_is_that_of_all_stacks() -> None:
    assert places(["a", "b"], ["ops"], []) == [("a", "ops", ""), ("b", "ops", "")]


def test_given_once_per_stack_they_belong_to_the_stacks_in_their_order() -> None:
    found = places(["a", "a"], [], ["eu-west-1", "us-east-1"])
    assert found == [("a", "", "eu-west-1"), ("a", "", "us-east-1")]


@pytest.mark.parametrize(
    ("stacks", "regions", "message"),
    [
        (["a", "b", "c"], ["x", "y"], "--region is given 2 times for 3 stacks"),
        (["a"], ["x", "y"], "--region is given 2 times for 1 stack"),
        (["a", "a"], [], "a stack is named twice"),
    ],
)
def test_options_that_do_not_fit_are_refused(stacks: list[str], regions: list[str], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        places(stacks, [], regions)


def test_stacks_of_the_same_name_are_told_apart_by_their_region() -> None:
    shown = opened(
        ["a", "a"],
        [],
        ["x", "y"],
        read_only=True,
        open_source=lambda name, _profile, _region: FakeFleet(name=name),
    )
    assert [one.name for one in shown] == ["a (x)", "a (y)"]
    with pytest.raises(ReadOnly):
        shown[0].actions.on_run("pause", "r")


def test_without_the_extra_the_way_to_install_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shown_stacks, "_NEEDED", "nicegui_that_is_not_installed")
    with pytest.raises(SettingsError, match=r"pip install .*'\.\[dashboard\]'"):
        show_dashboard(
            stacks=["a"], profiles=[], regions=[], host="127.0.0.1", port=0, allow_host=[], read_only=False
        )
