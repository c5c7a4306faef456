"""What a configuration value may be. fastargs' own checkers accept too much; these say what they expect."""

from __future__ import annotations

from typing import Any

from fastargs.validation import Checker

from debeton.system.errors import UsageError, nearest

_BOOLS = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}


class Bool(Checker):  # type: ignore[misc]
    """true/false, yes/no, on/off, 1/0; fastargs' own reads every non-empty string as true."""

    def check(self, value: Any) -> bool:
        return _BOOLS[str(value).lower()]

    def help(self) -> str:
        return "true or false"


class Int(Checker):  # type: ignore[misc]
    """A whole number within bounds; 3.7 is an error, not 3."""

    def __init__(self, low: int | None = None, high: int | None = None):
        self.low, self.high = low, high

    def check(self, value: Any) -> int:
        if isinstance(value, bool) or (isinstance(value, float) and not value.is_integer()):
            raise ValueError
        return int(_within(int(value), self.low, self.high))

    def help(self) -> str:
        return "a whole number" + _bounds(self.low, self.high)


class Float(Checker):  # type: ignore[misc]
    """A finite number within bounds; also YAML's '5e-5', which YAML itself reads as a string."""

    def __init__(self, low: float | None = None, high: float | None = None):
        self.low, self.high = low, high

    def check(self, value: Any) -> float:
        if isinstance(value, bool):
            raise ValueError
        number = float(value)
        if number != number or number in (float("inf"), float("-inf")):
            raise ValueError
        return float(_within(number, self.low, self.high))

    def help(self) -> str:
        return "a number" + _bounds(self.low, self.high)


class Text(Checker):  # type: ignore[misc]
    """Text; a YAML number is taken as it is written."""

    def check(self, value: Any) -> str:
        if isinstance(value, (dict, list)):
            raise ValueError
        return str(value)

    def help(self) -> str:
        return "text"


class OneOf(Checker):  # type: ignore[misc]
    """One of a few words, listed in the order given."""

    def __init__(self, *values: str):
        self.values = values

    def check(self, value: Any) -> str:
        if str(value) not in self.values:
            raise UsageError(f"'{value}' is unknown{nearest(str(value), self.values)} known: {', '.join(self.values)}")
        return str(value)

    def help(self) -> str:
        return " | ".join(self.values)


class IntList(Checker):  # type: ignore[misc]
    """Whole numbers separated by commas, or a YAML list; kept as a tuple."""

    def check(self, value: Any) -> tuple[int, ...]:
        parts = value if isinstance(value, (list, tuple)) else [p for p in str(value).split(",") if p.strip()]
        return tuple(Int().check(part) for part in parts)

    def help(self) -> str:
        return "whole numbers separated by commas"


class FloatList(Checker):  # type: ignore[misc]
    """Numbers separated by commas, or a YAML list; kept as a tuple.

    low: the smallest allowed. above: all must be larger than this. at_least: how many there must be.
    """

    def __init__(self, low: float | None = None, *, above: float | None = None, at_least: int = 0):
        self.low, self.above, self.at_least = low, above, at_least

    def check(self, value: Any) -> tuple[float, ...]:
        given = [value] if isinstance(value, int | float) else value
        parts = given if isinstance(given, (list, tuple)) else [p for p in str(given).split(",") if p.strip()]
        numbers = tuple(Float(self.low).check(part) for part in parts)
        if len(numbers) < self.at_least or (self.above is not None and any(n <= self.above for n in numbers)):
            raise ValueError
        return numbers

    def help(self) -> str:
        bounds = [f"from {self.low}"] if self.low is not None else []
        bounds += [f"above {self.above}"] if self.above is not None else []
        return " ".join(["numbers", *bounds, "separated by commas"])


class OrElsewhere(Checker):  # type: ignore[misc]
    """What another checker takes, or -1: another setting says it. 'auto' is -1 for words."""

    def __init__(self, own: Checker):
        self.own = own
        self.elsewhere: int | str = -1 if isinstance(own, Int | Float) else "auto"

    def check(self, value: Any) -> Any:
        if str(value) == str(self.elsewhere) or (self.elsewhere == -1 and str(value) == "-1.0"):
            return self.elsewhere
        return self.own.check(value)

    def help(self) -> str:
        return f"{self.own.help()}; or {self.elsewhere}"


def _within(value: float, low: float | None, high: float | None) -> float:
    if (low is not None and value < low) or (high is not None and value > high):
        raise ValueError
    return value


def _bounds(low: float | None, high: float | None) -> str:
    if low is not None and high is not None:
        return f" from {low} to {high}"
    if low is not None:
        return f" of at least {low}"
    return "" if high is None else f" of at most {high}"
