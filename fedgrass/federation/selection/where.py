"""The language of the setting ``where``: conditions on what devices say of themselves.

    battery >= 30 and mains and network in ["wifi", "ethernet"] and version >= "1.2"

    expression  = conjunction { "or" conjunction }
    conjunction = negation { "and" negation }
    negation    = "not" negation | "(" expression ")" | condition
    condition   = attribute [ comparison value | [ "not" ] "in" "[" value { "," value } "]" ]
    comparison  = "==" | "!=" | "<" | "<=" | ">" | ">="
    value       = number | "text" | 'text' | true | false

It is read by the functions below and by nothing else: no text of it is ever run as code. What a condition
says of a device that lacks an attribute is in fedgrass/federation/attributes.py; a device is taken only if
the whole is true of it.
"""

import re
from typing import NoReturn

from msgspec import Struct

from fedgrass.federation.attributes import (
    COMPARISONS,
    WORDS,
    Condition,
    Expression,
    Value,
    all_of,
    any_of,
    comparison,
    membership,
    opposite,
)
from fedgrass.federation.errors import SettingsError

LONGEST = 1000  # characters
DEEPEST = 20  # parentheses and negations within each other

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
    """Return the expression that ``text`` holds.

    Raises:
        SettingsError: it holds none; the text says at which character, and what is allowed.
    """
    if len(text) > LONGEST:
        message = f"the run's where has {len(text)} characters; {LONGEST} is the most"
        raise SettingsError(message)
    parser = _Parser(text)
    condition = parser.whole()
    return Expression(text, frozenset(parser.attributes), condition)


class _Token(Struct, frozen=True):
    kind: str  # word, name, number, text, sign or end
    text: str
    start: int


class _Parser:
    """Reads one expression, one method per line of the grammar."""

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
        if self._next.text in COMPARISONS and self._next.kind == "sign":
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
        """Advance if the next token is that word or sign; return whether it was."""
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
