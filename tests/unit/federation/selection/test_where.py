"""The language of `where`: which devices match an expression, and how a wrong one is reported."""

import operator as op
import re
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given

from fedgrass.federation.errors import SettingsError
from fedgrass.federation.selection.attribute_conditions import DEEPEST, LONGEST, parse_expression

DEVICE: dict[str, Any] = {
    "battery": 55.0,
    "mains": True,
    "roaming": False,
    "network": "wifi",
    "version": "1.10.0",
    "serial": "01",
}


@pytest.mark.parametrize(
    "text",
    [
        'battery >= 30 and mains and network in ["wifi", "ethernet"] and version >= "1.2"',
        "battery == 55",
        "battery == 55.0",
        "battery > -1",
        "battery != 54",
        "mains",
        "mains == true",
        "roaming == false",
        "not roaming",
        "not not mains",
        "NOT roaming AND mains",
        "network == 'wifi'",
        'network not in ["mobile"]',
        'network in ["mobile"] or battery < 60',
        "roaming or mains and battery > 50",
        "mains or mains and roaming",
        "(mains or roaming) and not (roaming or battery < 50)",
        'version > "1.9"',
        'version < "1.10.1"',
        'version < "2"',
        "\tmains\n",
        'unknown == "x" or mains',
        'not (unknown == "x" and roaming)',
    ],
)
def test_an_expression_that_is_true_of_a_device_takes_it(text: str) -> None:
    assert parse_expression(text).holds(DEVICE)


@pytest.mark.parametrize(
    "text",
    [
        "battery < 30",
        "roaming",
        "not mains",
        'network in ["mobile", "ethernet"]',
        'network not in ["wifi"]',
        'version >= "1.11"',
        'serial == "1"',
        "mains and roaming",
        "(mains or roaming) and roaming",
    ],
)
def test_an_expression_that_is_false_of_a_device_leaves_it(text: str) -> None:
    assert not parse_expression(text).holds(DEVICE)


@pytest.mark.parametrize(
    "text",
    [
        "unknown",
        "not unknown",
        "unknown < 3",
        "not (unknown < 3)",
        'unknown != "x"',
        'unknown not in ["x"]',
        "mains and unknown",
        'battery >= "30"',
        'not (battery >= "30")',
        "mains == 1",
        "not (mains != 1)",
        "network",
        "not network",
    ],
)
def test_a_missing_attribute_or_one_of_another_type_never_matches(text: str) -> None:
    assert not parse_expression(text).holds(DEVICE)


def test_an_expression_knows_the_attributes_that_it_names() -> None:
    expression = parse_expression('a and not (b > 1 or c in ["a"]) and a == true')
    assert expression.attributes == {"a", "b", "c"}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "expects an attribute's name, 'not' or '(' at character 1 and ends there"),
        ("30 < battery", "expects an attribute's name, 'not' or '(' at character 1 and has '30'"),
        ("battery >", "expects a number, a text in quotation marks, true or false at character 10 and ends"),
        ("battery > wifi", "at character 11 and has 'wifi'"),
        ("battery = 3", "cannot be read at character 9, '= 3'"),
        ("mains && battery", "cannot be read at character 7, '&& battery'"),
        ("mains battery", "expects 'and', 'or' or the end at character 7 and has 'battery'"),
        ("(mains", "expects ')' at character 7 and ends there"),
        ("mains)", "at character 6 and has ')'"),
        ("mains not 3", "expects 'in' at character 11 and has '3'"),
        ("network in wifi", "expects '[' at character 12 and has 'wifi'"),
        ("network in []", "at character 13 and has ']'"),
        ('network in ["wifi",]', "at character 20 and has ']'"),
        ('network == "wifi', "cannot be read at character 12, '\"wifi'"),
        ("battery > 30%", "cannot be read at character 13, '%'"),
        ("battery > 1e9", "cannot be read at character 11"),
        ("__import__('os').system('ls')", "at character 11 and has '('"),
        ("mains.real", "cannot be read at character 6, '.real'"),
        ("and", "has 'and'"),
        ("batterie é", "cannot be read at character 10, 'é'"),
    ],
)
def test_a_wrong_expression_is_refused_with_the_place_and_what_is_allowed(text: str, said: str) -> None:
    with pytest.raises(SettingsError) as refused:
        parse_expression(text)
    assert said in str(refused.value)
    assert "allowed are attributes compared with values" in str(refused.value)


def test_an_expression_has_a_longest_length_and_a_deepest_nesting() -> None:
    parse_expression(" " * (LONGEST - 1) + "a")
    with pytest.raises(SettingsError, match=f"{LONGEST + 1} characters; at most {LONGEST} are allowed"):
        parse_expression(" " * LONGEST + "a")
    parse_expression("(" * (DEEPEST - 1) + "a" + ")" * (DEEPEST - 1))
    for opening in ("(", "not "):
        with pytest.raises(SettingsError, match=f"nests deeper than {DEEPEST}"):
            parse_expression(opening * (LONGEST // len(opening) - 1) + "a")


words = st.sampled_from(
    [
        "a",
        "battery",
        "and",
        "or",
        "not",
        "in",
        "(",
        ")",
        "[",
        "]",
        ",",
        "==",
        "<",
        "3",
        '"x"',
        "true",
        "'",
        ".",
    ]
)


TOKEN = re.compile(
    r"""[ \t\r\n]*(?:
        ([A-Za-z_]\w*)
      | (-?\d{1,15}(?:\.\d{1,15})?(?![\w.]) | "[^"\\\r\n]*" | '[^'\\\r\n]*')
      | ([=!<>]= | [][()<>,])
    )""",
    re.ASCII | re.VERBOSE,
)
KEYWORDS = {"and": "&", "or": "|", "not": "!", "in": "~", "true": "v", "false": "v"}
# Reductions of names (n), values (v) and comparisons (c) to expressions (E).
REDUCTIONS = [r"ncv", r"n!?~\[v(,v)*\]", r"n(?!c|~|!~)", r"\(E\)", r"!E", r"E[&|]E"]


def is_grammatical(text: str) -> bool:
    """Return whether a text is an expression, by reducing its tokens, independently of the parser."""
    tokens, place = "", 0
    while text[place:].strip(" \t\r\n"):
        found = TOKEN.match(text, place)
        if not found:
            return False
        name, value, sign = found.groups()
        place = found.end()
        if name:
            tokens += KEYWORDS.get(name.lower(), "n")
        else:
            tokens += "v" if value else sign if sign in "()[]," else "c"
    before = ""
    while before != tokens:
        before = tokens
        for pattern in REDUCTIONS:
            tokens = re.sub(pattern, "E", tokens)
    return tokens == "E"


CONDITIONS = ["a", "battery < 3", 'a in [ 3 , "x" ]', "a not in [ true ]"]
expressions = st.recursive(
    st.sampled_from(CONDITIONS),
    lambda inner: (
        inner.map("( {} )".format)
        | inner.map("not {}".format)
        | st.tuples(inner, st.sampled_from(["and", "or"]), inner).map(" ".join)
    ),
    max_leaves=4,
)


@st.composite
def nearly_expressions(draw: st.DrawFn) -> str:
    """Return an expression with one token replaced or left out."""
    tokens = draw(expressions).split()
    tokens[draw(st.integers(0, len(tokens) - 1))] = draw(words | st.just(""))
    return " ".join(tokens)


@given(text=st.text(max_size=60) | st.lists(words, max_size=30).map(" ".join) | nearly_expressions())
def test_any_text_is_an_expression_or_a_named_error(text: str) -> None:
    expression = None
    try:
        expression = parse_expression(text)
    except SettingsError as error:
        said = str(error)
    if expression is None:
        assert said.startswith("the run's where ")
        assert not is_grammatical(text) or "nests deeper" in said
    else:
        assert is_grammatical(text)
        assert expression.attributes
        assert expression.holds(DEVICE) in {True, False}
        assert not expression.holds({})


values = st.text(max_size=8) | st.floats(allow_nan=False) | st.booleans()


@given(found=values, sign=st.sampled_from(["<", "<=", "==", "!=", ">", ">="]), wanted=st.integers(-9, 9))
def test_a_number_is_compared_as_a_number_and_nothing_else_is(found: Any, sign: str, wanted: int) -> None:
    compare = {"<": op.lt, "<=": op.le, "==": op.eq, "!=": op.ne, ">": op.gt, ">=": op.ge}[sign]
    expected = isinstance(found, float) and compare(found, wanted)
    assert parse_expression(f"a {sign} {wanted}").holds({"a": found}) is expected


@given(first=st.lists(st.integers(0, 99), min_size=1), second=st.lists(st.integers(0, 99), min_size=1))
def test_versions_are_ordered_by_their_numbers(first: list[int], second: list[int]) -> None:
    one, other = (".".join(map(str, version)) for version in (first, second))
    assert parse_expression(f'v < "{other}"').holds({"v": one}) is (first < second)
