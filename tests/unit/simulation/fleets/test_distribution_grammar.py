"""The texts of distributions: what they mean, and what is refused."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedgrass.federation.errors import SettingsError
from fedgrass.simulation.fleets.condition_units import (
    ATTRIBUTE,
    CONDITIONS,
    COUNT,
    HOUR_OF_DAY,
    PROBABILITY,
    RATE,
    SECONDS,
    ValueKind,
)
from fedgrass.simulation.fleets.distribution_grammar import FORMS, LONGEST_TEXT, parse_distribution
from fedgrass.simulation.fleets.distributions import (
    Constant,
    Lognormal,
    Mixture,
    Normal,
    Pareto,
    Quantiles,
    Uniform,
    uniform_streams,
)


@pytest.mark.parametrize(
    ("given", "kind", "meaning"),
    [
        (3, SECONDS, Constant(3.0)),
        ("3", SECONDS, Constant(3.0)),
        ("50 ms", SECONDS, Constant(0.05)),
        ("constant(2 h)", SECONDS, Constant(7200.0)),
        ("8 Mbit/s", RATE, Constant(1e6)),
        ("500 kB/s", RATE, Constant(5e5)),
        ("unlimited", RATE, Constant(math.inf)),
        ("5 %", PROBABILITY, Constant(0.05)),
        ("1_000", COUNT, Constant(1000.0)),
        ("uniform(1, 2e3)", SECONDS, Uniform(1.0, 2000.0)),
        ("normal(8 Mbit/s, 800 kbit/s)", RATE, Normal(1e6, 1e5)),
        (" lognormal( 20 Mbit/s ,0.5 ) ", RATE, Lognormal(2.5e6, 0.5)),
        ("pareto(0.1, 1.5)", SECONDS, Pareto(0.1, 1.5)),
        ("quantiles(1, 2, 2, 9)", SECONDS, Quantiles((1.0, 2.0, 2.0, 9.0))),
        ("choice(1, 5)", SECONDS, Mixture((Constant(1.0), Constant(5.0)), (1.0, 1.0))),
        ("choice(80 %: 1, 20 %: 5 s)", SECONDS, Mixture((Constant(1.0), Constant(5.0)), (80.0, 20.0))),
        ("choice(3: eu, 1: 'us west')", ATTRIBUTE, Mixture((Constant("eu"), Constant("us west")), (3, 1))),
        (
            "choice(true, false)",
            ATTRIBUTE,
            Mixture((Constant(value=True), Constant(value=False)), (1.0, 1.0)),
        ),
        ("Jetson (2019)", ATTRIBUTE, Constant("Jetson (2019)")),
        (True, ATTRIBUTE, Constant(value=True)),
    ],
)
def test_a_text_means_a_distribution(given: object, kind: ValueKind, meaning: object) -> None:
    assert parse_distribution(given, kind, "key") == meaning


@pytest.mark.parametrize(
    ("given", "kind", "reason"),
    [
        ("", SECONDS, "a number is missing before the end"),
        (-1, SECONDS, "-1 is out of range"),
        ("-1", SECONDS, "-1 is out of range"),
        (math.nan, SECONDS, "nan is out of range"),
        (math.inf, SECONDS, "inf is out of range"),
        ("nan", SECONDS, "'nan' is not a value"),
        ("5 parsec", SECONDS, "'parsec' is not a unit of it: there are: s, ms"),
        ("8 Mbit", RATE, "did you mean 'Mbit/s'?"),
        (0, RATE, "0 is out of range"),
        ("120 %", PROBABILITY, "1.2 is out of range"),
        (2.5, COUNT, "2.5 is not a whole number"),
        (True, SECONDS, "neither a number nor a text"),
        ([1], SECONDS, "neither a number nor a text"),
        ("normall(1, 2)", SECONDS, "did you mean 'normal'?"),
        ("uniform(1)", SECONDS, "uniform takes (from, to): ',' is missing before ')'"),
        ("uniform(2, 1)", SECONDS, "2 is above 1"),
        ("uniform(-1, 1)", SECONDS, "-1 is out of range"),
        ("uniform(1, 2, 3)", SECONDS, "')' is missing before ','"),
        ("normal(1, -1)", SECONDS, "the deviation -1 is not from 0"),
        ("lognormal(0, 1)", SECONDS, "needs a median above 0"),
        ("lognormal(1, 11)", SECONDS, "the sigma 11 is not from 0 to 10"),
        ("pareto(1, 0)", SECONDS, "the alpha 0 is not from 0.01"),
        ("choice(80 %: 1, 30 %: 2)", SECONDS, "the percentages add up to 110 instead of 100"),
        ("choice(80 %: 1, 2: 2)", SECONDS, "either all weights are percentages, or none"),
        ("choice(1: 1, 2)", SECONDS, "either all parts have a weight, or none"),
        ("choice(0: 1)", SECONDS, "not all 0"),
        ("choice(-1: 1, 3: 1)", SECONDS, "at least 0"),
        ("quantiles(2, 1)", SECONDS, "must not fall"),
        ("1 2", SECONDS, "nothing can follow before '2'"),
        ("1; 2", SECONDS, "';' has no meaning here"),
        ("__import__('os').system('ls')", SECONDS, "'.' has no meaning here"),
        ("constant(constant(1))", SECONDS, "'constant' is not a value"),
        ("choice(" * 9 + "1" + ")" * 9, SECONDS, "more than 5 distributions are nested"),
        ("1" * (LONGEST_TEXT + 1), SECONDS, "more than 20,000 characters"),
    ],
)
def test_anything_else_is_refused_with_its_key_the_value_and_what_it_takes(
    given: object, kind: ValueKind, reason: str
) -> None:
    with pytest.raises(SettingsError) as refused:
        parse_distribution(given, kind, "groups.slow.upload")
    text = str(refused.value)
    assert text.startswith("groups.slow.upload is ")
    assert reason in text
    assert f"it takes {kind.takes}" in text
    assert "\n" not in text


@given(st.text(alphabet="0123456789.-+eE%(),: 'abinfuorml_/s", max_size=60), st.sampled_from([*CONDITIONS]))
def test_every_text_is_a_distribution_within_the_limits_or_refused(text: str, condition: str) -> None:
    kind = CONDITIONS[condition]
    try:
        found = parse_distribution(text, kind, condition)
    except SettingsError:
        return
    drawn = found.draw(uniform_streams(1, 20), "x", kind)
    assert ((drawn >= kind.low) & (drawn <= kind.high)).all()


def test_each_distribution_has_an_example_that_can_be_drawn_of_each_kind() -> None:
    examples = {
        "constant": "constant(1)",
        "uniform": "uniform(1, 1)",
        "normal": "normal(1, 0.1)",
        "lognormal": "lognormal(1, 0.5)",
        "exponential": "exponential(1)",
        "pareto": "pareto(1, 2)",
        "choice": "choice(1, 1)",
        "mixture": "mixture(1: uniform(1, 1), 1: 1)",
        "quantiles": "quantiles(1, 1)",
    }
    assert examples.keys() == FORMS.keys()
    for text in examples.values():
        for kind in (*CONDITIONS.values(), HOUR_OF_DAY):
            drawn = parse_distribution(text, kind, "key").draw(uniform_streams(1, 50), "x", kind)
            assert len(drawn) == 50
            assert ((drawn >= kind.low) & (drawn <= kind.high)).all()
