"""Conditions on the attributes that devices report: the language of the setting ``where``.

    battery >= 30 and mains and network in ["wifi", "ethernet"] and version >= "1.2"

    expression  = conjunction { "or" conjunction }
    conjunction = negation { "and" negation }
    negation    = "not" negation | "(" expression ")" | condition
    condition   = attribute [ comparison value | [ "not" ] "in" "[" value { "," value } "]" ]
    comparison  = "==" | "!=" | "<" | "<=" | ">" | ">="
    value       = number | "text" | 'text' | true | false

Expressions are only parsed, never executed as code. If a device does not report an attribute, or reports it
with another type than the compared value, the condition is neither true nor false (like NULL in SQL), and
neither is its negation. A device is selected only if the whole expression is true. Texts are compared part
by part, digits as numbers, so that version 1.10 comes after 1.9.
"""

import operator
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn

from msgspec import Struct

from fedgrass.federation.errors import SettingsError

Value = str | float | bool
Attributes = Mapping[str, Value]
Truth = bool | None  # None: undecidable for this device
Condition = Callable[[Attributes], Truth]

# Reserved words of the language: they cannot be attribute names.
WORDS = frozenset({"and", "or", "not", "in", "true", "false"})

_COMPARISONS: Mapping[str, Callable[[Any, Any], bool]] = {
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


class Expression(Struct, frozen=True):
    """A parsed expression; ``parse_expression`` creates it."""

    text: str
    attributes: frozenset[str]  # names used in the expression
    condition: Condition

    def holds(self, attributes: Attributes) -> bool:
        """Return whether the expression is true for a device with these attributes."""
        return self.condition(attributes) is True


def any_of(parts: Sequence[Condition]) -> Condition:
    """Return a condition that is true if any part is."""

    def condition(attributes: Attributes) -> Truth:
        found = [part(attributes) for part in parts]
        return True if True in found else None if None in found else False

    return condition if len(parts) > 1 else parts[0]


def all_of(parts: Sequence[Condition]) -> Condition:
    """Return a condition that is true if all parts are."""

    def condition(attributes: Attributes) -> Truth:
        found = [part(attributes) for part in parts]
        return False if False in found else None if None in found else True

    return condition if len(parts) > 1 else parts[0]


def opposite(part: Condition) -> Condition:
    """Return a condition that is true if the part is false."""

    def condition(attributes: Attributes) -> Truth:
        found = part(attributes)
        return None if found is None else not found

    return condition


def membership(name: str, values: Sequence[Value]) -> Condition:
    """Return a condition that is true if the attribute is one of the values."""
    return any_of([comparison(name, "==", value) for value in values])


def comparison(name: str, sign: str, value: Value) -> Condition:
    """Return a condition that is true if the attribute compares to the value as ``sign`` demands."""
    compare = _COMPARISONS[sign]
    kind, order = _kind(value), _same if sign in {"==", "!="} else _order
    key = order(value)

    def condition(attributes: Attributes) -> Truth:
        found = attributes.get(name)
        if found is None or _kind(found) != kind:
            return None
        return compare(order(found), key)

    return condition


def _kind(value: Value) -> type:
    return float if isinstance(value, int | float) and not isinstance(value, bool) else type(value)


def _same(value: Value) -> object:
    return value


def _order(value: Value) -> object:
    """Return the sort key of a value; for a text its parts, with numbers before other characters.

    Numbers are compared by length and then as texts: a device may report one with thousands of digits.
    """
    if not isinstance(value, str):
        return value
    parts = []
    for digits, others in re.findall(r"([0-9]+)|([^0-9]+)", value):
        number = digits.lstrip("0")
        parts.append((0, len(number), number) if digits else (1, 0, others))
    return parts


LONGEST = 1000  # characters
DEEPEST = 20  # levels of nested parentheses and negations

_BLANKS = " \t\r\n"
_ALLOWED = (
    'allowed are attributes compared with values (battery >= 30, network == "wifi"), attributes alone '
    '(mains), lists (network in ["wifi", "ethernet"]), and, or, not, parentheses'
)
_TOKEN = re.compile(
    r"""[ \t\r\n]*(?:
        (?P<name>[A-Za-z_][A-Za-z0-9_]*)
      | (?P<number>-?[0-9]{1,15}(?:\.[0-9]{1,15})?(?![A-Za-z0-9_.]))
      | (?P<text>"[^"\\\r\n]*"|'[^'\\\r\n]*')
      | (?P<sign>==|!=|<=|>=|<|>|\(|\)|\[|\]|,)
      | (?P<end>\Z)
    )""",
    re.VERBOSE,
)


def parse_expression(text: str) -> Expression:
    """Return the expression in ``text``.

    Raises:
        SettingsError: The text is not an expression; the message names the character and what is allowed.
    """
    if len(text) > LONGEST:
        message = f"the run's where has {len(text)} characters; at most {LONGEST} are allowed"
        raise SettingsError(message)
    parser = _Parser(text)
    condition = parser.whole()
    return Expression(text, frozenset(parser.attributes), condition)


class _Token(Struct, frozen=True):
    kind: str  # word, name, number, text, sign or end
    text: str
    start: int


class _Parser:
    """A recursive-descent parser of one expression, with one method per line of the grammar."""

    def __init__(self, text: str) -> None:
        self.attributes: set[str] = set()
        self._text = text
        self._depth = 0
        self._next = self._token(0)

    def whole(self) -> Condition:
        condition = self._expression()
        if self._next.kind != "end":
            self._refuse("'and', 'or' or the end")
        return condition

    def _expression(self) -> Condition:
        parts = [self._conjunction()]
        while self._take("or"):
            parts.append(self._conjunction())
        return any_of(parts)

    def _conjunction(self) -> Condition:
        parts = [self._negation()]
        while self._take("and"):
            parts.append(self._negation())
        return all_of(parts)

    def _negation(self) -> Condition:
        self._depth += 1
        if self._depth > DEEPEST:
            message = f"the run's where nests deeper than {DEEPEST} at character {self._next.start + 1}"
            raise SettingsError(message)
        if self._take("not"):
            condition = opposite(self._negation())
        elif self._take("("):
            condition = self._expression()
            self._expect(")")
        else:
            condition = self._condition()
        self._depth -= 1
        return condition

    def _condition(self) -> Condition:
        if self._next.kind != "name":
            self._refuse("an attribute's name, 'not' or '('")
        name = self._advance().text
        self.attributes.add(name)
        if self._next.text in _COMPARISONS and self._next.kind == "sign":
            return comparison(name, self._advance().text, self._value())
        if self._take("not"):
            self._expect("in")
            return opposite(membership(name, self._list()))
        if self._take("in"):
            return membership(name, self._list())
        return comparison(name, "==", value=True)

    def _list(self) -> list[Value]:
        self._expect("[")
        values = [self._value()]
        while self._take(","):
            values.append(self._value())
        self._expect("]")
        return values

    def _value(self) -> Value:
        token = self._next
        if token.kind == "number":
            return float(self._advance().text)
        if token.kind == "text":
            return self._advance().text[1:-1]
        if token.kind != "word" or token.text not in {"true", "false"}:
            self._refuse("a number, a text in quotation marks, true or false")
        return self._advance().text == "true"

    def _token(self, start: int) -> _Token:
        match = _TOKEN.match(self._text, start)
        if match is None:
            rest = self._text[start:].lstrip(_BLANKS)
            at, what = len(self._text) - len(rest) + 1, rest[:20]
            message = f"the run's where cannot be read at character {at}, {what!r}: {_ALLOWED}"
            raise SettingsError(message)
        kind = match.lastgroup or "end"
        text = match[kind]
        if kind == "name" and text.lower() in WORDS:
            kind, text = "word", text.lower()
        return _Token(kind, text, match.start(match.lastgroup or "end"))

    def _advance(self) -> _Token:
        token = self._next
        self._next = self._token(token.start + len(token.text))
        return token

    def _take(self, word: str) -> bool:
        """Advance if the next token is ``word``, a word or a sign; return whether it was."""
        if self._next.kind in {"word", "sign"} and self._next.text == word:
            self._advance()
            return True
        return False

    def _expect(self, word: str) -> None:
        if not self._take(word):
            self._refuse(repr(word))

    def _refuse(self, expected: str) -> NoReturn:
        found = "ends there" if self._next.kind == "end" else f"has {self._next.text!r}"
        at = self._next.start + 1
        message = f"the run's where expects {expected} at character {at} and {found}: {_ALLOWED}"
        raise SettingsError(message)
