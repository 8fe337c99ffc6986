"""The costs in docs/scaling.md and docs/costs.md are those printed by `fedgrass costs --tables`."""

import math

import package
from cloud_functions.aggregation import reader_threads
from fedgrass.console.deploy import costs as count_costs
from fedgrass.federation.encodings import BLOCK


def test_the_tables_of_the_pages_are_what_the_script_counts() -> None:
    assert count_costs.table() in (package.ROOT / "docs" / "scaling.md").read_text()
    assert count_costs.standing_table() in (package.ROOT / "docs" / "costs.md").read_text()


def test_a_device_that_publishes_less_costs_less_except_for_its_connection() -> None:
    often, seldom = count_costs.standing(1_000, 60), count_costs.standing(1_000, 6_000_000)
    assert often > 30 * seldom
    assert math.isclose(seldom, 1_000 * 730 * 60 * 0.08 / 1e6, rel_tol=0.01)


def test_egress_is_counted_by_its_tiers() -> None:
    assert math.isclose(count_costs.egress(1_000), 90)
    assert math.isclose(count_costs.egress(20_000), 10_240 * 0.09 + 9_760 * 0.085)


def test_a_round_of_twice_the_devices_costs_twice_as_much_except_for_cheaper_egress() -> None:
    one, two = (sum(count_costs.count(devices, 1, 1).values()) for devices in (1_000, 2_000))
    assert math.isclose(two, 2 * one, rel_tol=1e-6)


def test_the_page_has_the_memory_of_an_update_beyond_1000() -> None:
    each = reader_threads.AHEAD * BLOCK * 4
    page = " ".join((package.ROOT / "docs" / "scaling.md").read_text().split())
    assert f"Beyond 1,000 updates, each one takes {each // 1024} KB more memory" in page
    assert 1_000 < reader_threads.SMALLEST_BUFFERS / each < 1_050


def test_groups_cost_their_sums_and_who_is_in_them() -> None:
    grouped, alone = (count_costs.count(10_000, 250, megabytes) for megabytes in (250, 300))
    assert grouped["rounds"] > alone["rounds"]
    assert grouped["lambda"] > alone["lambda"]
