"""Whole-number arithmetic of bash, with its assignments, on texts whose ``$`` parts are expanded already.

Operators and their order are those of bash's manual, section "Shell Arithmetic"; numbers have 64 bits.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable
from dataclasses import dataclass, field

_TOKEN = re.compile(
    r"\s*(\d+#[\w@]+|0[xX][0-9a-fA-F]+|\d+|[A-Za-z_]\w*|<<=|>>=|\*\*|\+\+|--|<<|>>|<=|>=|==|!=|&&|\|\||[-+*/%&|^]=|\S)"
)
_NAME = re.compile(r"[A-Za-z_]\w*")
_TARGETS = re.compile(
    r"(?P<after>[A-Za-z_]\w*)\s*(?:\[[^\]]*\]\s*)?(?:(?:<<|>>|[-+*/%&|^])?=(?!=)|\+\+|--)"
    r"|(?:\+\+|--)\s*(?P<before>[A-Za-z_]\w*)"
)
MAX_DEPTH = 20
"""Of variables whose values name other variables."""


class NotKnownError(Exception):
    """A part of the expression is not known, or bash would refuse it."""


def targets(text: str) -> set[str]:
    """The variables that an expression may assign."""
    return {found["after"] or found["before"] for found in _TARGETS.finditer(text)}


def _quotient(one: int, other: int) -> int:
    """Towards zero, as C has it."""
    if not other:
        raise NotKnownError("division by zero")
    sign = -1 if (one < 0) != (other < 0) else 1
    return sign * (abs(one) // abs(other))


def _power(one: int, other: int) -> int:
    if not 0 <= other <= 64:
        raise NotKnownError("a power that no script needs")
    return int(one**other)


def _shifted(shift: Callable[[int, int], int]) -> Callable[[int, int], int]:
    def checked(one: int, other: int) -> int:
        if not 0 <= other < 64:
            raise NotKnownError("a shift by more than a number has")
        return shift(one, other)

    return checked


_BINARY: dict[str, Callable[[int, int], int]] = {
    "+": operator.add, "-": operator.sub, "*": operator.mul, "/": _quotient, "**": _power,
    "%": lambda one, other: one - other * _quotient(one, other),
    "<<": _shifted(operator.lshift), ">>": _shifted(operator.rshift),
    "&": operator.and_, "|": operator.or_, "^": operator.xor,
    "<": operator.lt, ">": operator.gt, "<=": operator.le, ">=": operator.ge, "==": operator.eq, "!=": operator.ne,
}  # fmt: skip
_LEVELS = (("||",), ("&&",), ("|",), ("^",), ("&",), ("==", "!="), ("<", "<=", ">", ">="), ("<<", ">>"), ("+", "-"),
           ("*", "/", "%"), ("**",))  # fmt: skip
_ASSIGN = ("=", "+=", "-=", "*=", "/=", "%=", "<<=", ">>=", "&=", "|=", "^=")


def _wrapped(value: int) -> int:
    return (value + 2**63) % 2**64 - 2**63


@dataclass
class Evaluation:
    """``get``: a variable's text, and raises :class:`NotKnownError` where it is not known; ``item``: one of a list.
    ``put`` assigns. ``touched``: all variables that the expressions read so far may assign."""

    get: Callable[[str], str]
    item: Callable[[str, int], str]
    put: Callable[[str, int], None]
    touched: set[str] = field(default_factory=set)
    depth: int = 0

    def value(self, text: str) -> int:
        """Raises :class:`NotKnownError`; some of the assignments may be made by then."""
        if self.depth > MAX_DEPTH:
            raise NotKnownError("variables name each other too deeply")
        self.touched |= targets(text)
        self.depth += 1
        value = _Reader(_TOKEN.findall(text.replace('"', "")), self).whole()
        self.depth -= 1
        return value


@dataclass
class _Reader:
    tokens: list[str]
    evaluation: Evaluation
    at: int = 0
    live: bool = True
    """False in the part of ``&&``, ``||`` and ``?:`` that is skipped: it is read, and nothing is looked up."""

    @property
    def next(self) -> str:
        return self.tokens[self.at] if self.at < len(self.tokens) else ""

    def took(self, *wanted: str) -> str:
        found = self.next
        if found and found in wanted:
            self.at += 1
            return found
        return ""

    def need(self, wanted: str) -> None:
        if not self.took(wanted):
            raise NotKnownError(f"{wanted} is missing")

    def whole(self) -> int:
        value = self.commas() if self.tokens else 0
        if self.at < len(self.tokens):
            raise NotKnownError(self.next)
        return value

    def commas(self) -> int:
        value = self.assignment()
        while self.took(","):
            value = self.assignment()
        return value

    def assignment(self) -> int:
        name = self.next
        after = self.tokens[self.at + 1] if self.at + 1 < len(self.tokens) else ""
        if not _NAME.fullmatch(name) or after not in _ASSIGN:
            return self.choice()
        self.at += 2
        old = self.looked_up(name) if after != "=" else 0
        value = self.assignment()
        return self.put(name, value if after == "=" else self.combined(after[:-1], old, value))

    def choice(self) -> int:
        value = self.binary(0)
        if not self.took("?"):
            return value
        one = self.skipping(not value, self.commas)
        self.need(":")
        other = self.skipping(bool(value), self.choice)
        return one if value else other

    def skipping(self, skip: bool, read: Callable[[], int]) -> int:
        before = self.live
        self.live = before and not skip
        value = read()
        self.live = before
        return value

    def binary(self, level: int) -> int:
        if level == len(_LEVELS):
            return self.unary()
        value = self.binary(level + 1)
        while sign := self.took(*_LEVELS[level]):
            if sign in ("&&", "||"):
                other = self.skipping(bool(value) == (sign == "||"), lambda: self.binary(level + 1))
                value = int(bool(value) and bool(other)) if sign == "&&" else int(bool(value) or bool(other))
            else:  # ** groups from the right
                value = self.combined(sign, value, self.binary(level if sign == "**" else level + 1))
        return value

    def combined(self, sign: str, one: int, other: int) -> int:
        return _wrapped(int(_BINARY[sign](one, other))) if self.live else 0

    def unary(self) -> int:
        if sign := self.took("++", "--"):
            if _NAME.fullmatch(self.next):
                name = self.next
                self.at += 1
                return self.put(name, self.looked_up(name) + (1 if sign == "++" else -1))
            return self.unary()  # - - and + + leave a number as it is
        if sign := self.took("-", "+", "!", "~"):
            value = self.unary()
            return {"-": -value, "+": value, "!": int(not value), "~": ~value}[sign]
        return self.primary()

    def primary(self) -> int:
        if self.took("("):
            value = self.commas()
            self.need(")")
            return value
        token = self.next
        self.at += 1
        if not _NAME.fullmatch(token):
            return self.read_number(token)
        if self.took("["):
            index = self.commas()
            self.need("]")
            if self.next in _ASSIGN or self.next in ("++", "--"):
                raise NotKnownError("an item is assigned")
            return self.evaluation.value(self.evaluation.item(token, index)) if self.live else 0
        value = self.looked_up(token)
        if sign := self.took("++", "--"):
            self.put(token, value + (1 if sign == "++" else -1))
        return value

    def looked_up(self, name: str) -> int:
        return self.evaluation.value(self.evaluation.get(name)) if self.live else 0

    def put(self, name: str, value: int) -> int:
        if self.live:
            self.evaluation.put(name, _wrapped(value))
        return _wrapped(value)

    @staticmethod
    def read_number(token: str) -> int:
        """Decimal, 0x hexadecimal, octal where it begins with a zero, and base#digits up to base 36."""
        try:
            if "#" in token:
                base, _, digits = token.partition("#")
                return int(digits, int(base))
            if len(token) > 1 and token.isdigit() and token[0] == "0":
                return int(token, 8)
            return int(token, 16 if token[:2] in ("0x", "0X") else 10)
        except ValueError:
            raise NotKnownError(token) from None
