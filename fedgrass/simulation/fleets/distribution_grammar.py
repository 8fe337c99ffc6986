"""The texts of distributions in a fleet file, such as "lognormal(8 Mbit/s, 0.5)", and nothing else.

distribution := value | NAME "(" part {"," part} ")"
part         := [weight ":"] distribution
value        := NUMBER [UNIT] | "unlimited" | WORD          (words: in attributes only)
weight       := NUMBER ["%"]
"""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from types import MappingProxyType
from typing import Literal, NamedTuple, NoReturn

from fedgrass.federation.conversion import nearest, shown
from fedgrass.federation.errors import SettingsError
from fedgrass.simulation.fleets.condition_units import ValueKind
from fedgrass.simulation.fleets.distributions import (
    Constant,
    Distribution,
    Exponential,
    Lognormal,
    Mixture,
    Normal,
    Pareto,
    Quantiles,
    Uniform,
)

LONGEST_TEXT = 20_000  # characters
_DEEPEST = 5  # mixtures of mixtures
_TOKEN = re.compile(
    r"\s*(?:(?P<number>[+-]?(?:\d[\d_]*\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)"
    r"|(?P<word>[^\W\d][\w./-]*|%)|'(?P<text>[^']*)'|(?P<sign>[(),:]))"
)
_CALL = re.compile(r"\s*[A-Za-z_]+\(.*\)\s*\Z", re.DOTALL)
_WORDS: Mapping[str, bool] = MappingProxyType({"true": True, "false": False})
_SUM_TOLERANCE = 0.01  # of percentages: 33.33 % three times


class _Part(NamedTuple):
    weight: float | None
    percent: bool
    distribution: Distribution


class _Parameter(NamedTuple):
    """A parameter of a distribution: a value of the condition, or a plain number between two limits."""

    name: str
    kind: Literal["value", "spread", "plain"] = "value"  # spread: with the units of the values, at least 0
    low: float = 0.0
    high: float = 0.0


class _Form(NamedTuple):
    make: Callable[..., Distribution]
    parameters: tuple[_Parameter, ...]


_ABOVE_ZERO = 1e-12
_FORMS: Mapping[str, _Form] = MappingProxyType(
    {
        "uniform": _Form(Uniform, (_Parameter("from"), _Parameter("to"))),
        "normal": _Form(Normal, (_Parameter("mean"), _Parameter("deviation", "spread"))),
        "lognormal": _Form(Lognormal, (_Parameter("median"), _Parameter("sigma", "plain", 0, 10))),
        "exponential": _Form(Exponential, (_Parameter("mean"),)),
        "pareto": _Form(Pareto, (_Parameter("smallest"), _Parameter("alpha", "plain", 0.01, 1000))),
    }
)
# Every distribution with its parameters.
FORMS: Mapping[str, str] = MappingProxyType(
    {
        "constant": "(value)",
        **{
            name: f"({', '.join(parameter.name for parameter in form.parameters)})"
            for name, form in _FORMS.items()
        },
        "choice": "(weight: value, weight: value, ...)",
        "mixture": "(weight: distribution, weight: distribution, ...)",
        "quantiles": "(smallest, ..., greatest)",
    }
)
_EXAMPLES = ('"lognormal(median, sigma)"', '"choice(70 %: eu, 30 %: us)"')  # of numbers, of attributes


def parse_distribution(given: object, kind: ValueKind, place: str) -> Distribution:
    """Return the distribution that a number or a text of a fleet file describes.

    Args:
        given: a number or a text; for attributes also true or false.
        kind: of the values.
        place: the key, for errors.

    Raises:
        SettingsError: the text is not a distribution, or has values that the condition cannot have.
    """
    reader = _Reader(given, kind, place)
    if isinstance(given, str) and not (kind.words and not _CALL.match(given)):
        return reader.whole()
    if isinstance(given, str | bool) and kind.words:
        return Constant(given)
    if isinstance(given, bool) or not isinstance(given, int | float):
        reader.refuse("that is neither a number nor a text")
    return Constant(reader.within(float(given)))


class _Reader:
    """Reads one text from left to right."""

    def __init__(self, given: object, kind: ValueKind, place: str) -> None:
        self._given, self._kind, self._place = given, kind, place
        self._tokens: list[tuple[str, str]] = []
        self._at = 0
        self._form_of = ""  # the distribution that is being read

    def whole(self) -> Distribution:
        """Return the distribution that is the whole text."""
        self._tokens = list(self._split(str(self._given)))
        found = self._distribution(1)
        self._form_of = ""
        if self._at < len(self._tokens):
            self.refuse(f"nothing can follow before {shown(self._tokens[self._at][1])}")
        return found

    def refuse(self, reason: str) -> NoReturn:
        """Raise the error of this text."""
        form = f"{self._form_of} takes {FORMS[self._form_of]}: " if self._form_of else ""
        message = (
            f"{self._place} is {shown(self._given)}: {form}{reason}; it takes {self._kind.takes}, or a"
            f" distribution such as {_EXAMPLES[self._kind.words]} (docs/simulation_fleets.md)"
        )
        raise SettingsError(message)

    def within(self, value: float) -> float:
        """Return a value that the condition can have."""
        if math.isnan(value) or not self._kind.low <= value <= self._kind.high:
            self.refuse(f"{value:g} is out of range")
        if math.isinf(value) and not self._kind.unlimited:
            self.refuse(f"{value:g} is not finite")
        if self._kind.whole and value != round(value):
            self.refuse(f"{value:g} is not a whole number")
        return value

    def _split(self, text: str) -> Sequence[tuple[str, str]]:
        if len(text) > LONGEST_TEXT:
            self.refuse(f"the text has more than {LONGEST_TEXT:,} characters")
        tokens, at, text = [], 0, text.rstrip()
        while at < len(text):
            match = _TOKEN.match(text, at)
            if not match:
                self.refuse(f"{shown(text[at:].strip()[:1])} has no meaning here")
            tokens.append((str(match.lastgroup), match[str(match.lastgroup)]))
            at = match.end()
        return tokens

    def _peek(self, ahead: int = 0) -> tuple[str, str]:
        place = self._at + ahead
        return self._tokens[place] if place < len(self._tokens) else ("end", "the end")

    def _take(self, sign: str) -> None:
        kind, text = self._peek()
        if (kind, text) != ("sign", sign):
            self.refuse(f"{sign!r} is missing before {text if kind == 'end' else shown(text)}")
        self._at += 1

    def _distribution(self, depth: int) -> Distribution:
        kind, text = self._peek()
        if kind == "word" and self._peek(1) == ("sign", "("):
            self._at += 1
            return self._call(text, depth)
        return Constant(self._value())

    def _value(self) -> float | str | bool:
        """Return a value of the condition."""
        kind, text = self._peek()
        if kind == "text" and self._kind.words:
            self._at += 1
            return text
        if kind == "word":
            self._at += 1
            if self._kind.words:
                return _WORDS.get(text, text)
            if self._kind.unlimited and text == "unlimited":
                return self._kind.high
            self.refuse(f"{shown(text)} is not a value: {nearest(text, FORMS)}")
        return self.within(self._number(self._kind.units))

    def _number(self, units: Mapping[str, float]) -> float:
        kind, text = self._peek()
        if kind != "number":
            self.refuse(f"a number is missing before {text if kind == 'end' else shown(text)}")
        self._at += 1
        number = float(text.replace("_", ""))
        kind, unit = self._peek()
        if kind != "word":
            return number
        if unit not in units:
            self.refuse(f"{shown(unit)} is not a unit of it: {nearest(unit, list(units))}")
        self._at += 1
        return number * units[unit]

    def _call(self, name: str, depth: int) -> Distribution:
        if name not in FORMS:
            self.refuse(f"{shown(name)} is not a distribution: {nearest(name, FORMS)}")
        if depth > _DEEPEST:
            self.refuse(f"more than {_DEEPEST} distributions are nested")
        outer, self._form_of = self._form_of, name
        self._take("(")
        if name in _FORMS:
            found = self._form(name)
        elif name == "constant":
            found = Constant(self._value())
        elif name == "quantiles":
            found = self._quantiles()
        else:
            found = self._mixture(depth)
        self._take(")")
        self._form_of = outer
        return found

    def _form(self, name: str) -> Distribution:
        form = _FORMS[name]
        values: list[float] = []
        for number, parameter in enumerate(form.parameters):
            if number:
                self._take(",")
            values.append(self._parameter(parameter))
        if name == "uniform" and values[0] > values[1]:
            self.refuse(f"{values[0]:g} is above {values[1]:g}")
        if name in {"lognormal", "exponential", "pareto"} and values[0] < _ABOVE_ZERO:
            self.refuse(f"{name} needs a {form.parameters[0].name} above 0")
        return form.make(*values)

    def _parameter(self, parameter: _Parameter) -> float:
        if parameter.kind == "value":
            return self._finite(self._number(self._kind.units))
        value = self._number(self._kind.units if parameter.kind == "spread" else {})
        low, high = (0, 1e12) if parameter.kind == "spread" else (parameter.low, parameter.high)
        if not low <= value <= high:
            self.refuse(f"the {parameter.name} {value:g} is not from {low:g} to {high:g}")
        return value

    def _finite(self, value: float) -> float:
        """Return a value in the range, whole or not: draws are rounded."""
        if not self._kind.low <= value <= self._kind.high or math.isinf(value):
            self.refuse(f"{value:g} is out of range")
        return value

    def _quantiles(self) -> Distribution:
        values = [self._finite(self._number(self._kind.units))]
        while self._peek() == ("sign", ","):
            self._at += 1
            values.append(self._finite(self._number(self._kind.units)))
        if any(later < earlier for earlier, later in pairwise(values)):
            self.refuse("the values of quantiles must not fall")
        return Quantiles(tuple(values))

    def _mixture(self, depth: int) -> Distribution:
        parts = [self._part(depth)]
        while self._peek() == ("sign", ","):
            self._at += 1
            parts.append(self._part(depth))
        weights = [part.weight for part in parts if part.weight is not None]
        if weights and len(weights) < len(parts):
            self.refuse("either all parts have a weight, or none")
        shares = check_shares(weights or [1.0] * len(parts), [part.percent for part in parts], self.refuse)
        return Mixture(tuple(part.distribution for part in parts), shares)

    def _part(self, depth: int) -> _Part:
        percent = self._peek(1) == ("word", "%")
        if self._peek()[0] == "number" and self._peek(1 + percent) == ("sign", ":"):
            weight = self._number({"%": 1.0})
            self._take(":")
            return _Part(weight, percent, self._distribution(depth + 1))
        return _Part(None, False, self._distribution(depth + 1))  # noqa: FBT003


def check_shares(
    weights: Sequence[float], percent: Sequence[bool], refuse: Callable[[str], NoReturn]
) -> tuple[float, ...]:
    """Return weights that can be used: none negative, not all 0; percentages add up to 100."""
    if any(not 0 <= weight < math.inf for weight in weights) or not 0 < sum(weights) < math.inf:
        refuse("weights are numbers of at least 0, and not all 0")
    if any(percent) and not all(percent):
        refuse("either all weights are percentages, or none")
    if all(percent) and abs(sum(weights) - 100) > _SUM_TOLERANCE * len(weights):
        refuse(f"the percentages add up to {sum(weights):g} instead of 100")
    return tuple(weights)
