"""How the rounds of a campaign are shared by its worlds."""

from tests.chaos.campaign import Quota


def test_few_rounds_are_a_run_in_each_world() -> None:
    quota = Quota(4, campaigns=2)
    assert [quota.take(8), quota.take(8), quota.take(8)] == [2, 2, 0]


def test_many_rounds_are_taken_as_the_run_was_drawn() -> None:
    quota = Quota(200, campaigns=2)
    assert [quota.take(3), quota.take(8)] == [3, 8]


def test_rounds_that_a_run_did_not_close_are_taken_again() -> None:
    quota = Quota(1, campaigns=2)
    assert (quota.take(5), quota.take(5)) == (1, 0)
    quota.give_back(1)
    assert quota.take(5) == 1
