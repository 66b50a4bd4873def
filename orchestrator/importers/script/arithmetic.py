"""Whole-number arithmetic of bash on what is known."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable
from typing import TYPE_CHECKING

from orchestrator.importers.script.text import State, Text

if TYPE_CHECKING:
    from tree_sitter import Node

Lookup = Callable[["Node", State], Text]


def _quotient(one: int, other: int) -> int:
    """Towards zero, as C has it."""
    sign = -1 if (one < 0) != (other < 0) else 1
    return sign * (abs(one) // abs(other))


def _power(one: int, other: int) -> int:
    if not 0 <= other <= 64:
        raise ValueError("a power that no script needs")
    return int(one**other)


_BINARY: dict[str, Callable[[int, int], int]] = {
    "+": operator.add, "-": operator.sub, "*": operator.mul, "/": _quotient,
    "%": lambda one, other: one - other * _quotient(one, other), "**": _power,
    "<": operator.lt, ">": operator.gt, "<=": operator.le, ">=": operator.ge, "==": operator.eq, "!=": operator.ne,
    "&&": lambda one, other: bool(one) and bool(other), "||": lambda one, other: bool(one) or bool(other),
}  # fmt: skip


def number(node: Node, state: State, lookup: Lookup) -> int | None:
    """The value of an arithmetic expression; None where a part of it is not known. ``lookup`` reads a variable."""
    try:
        return _number(node, state, lookup)
    except (ValueError, ZeroDivisionError):
        return None


def _number(node: Node, state: State, lookup: Lookup) -> int:
    children = node.children
    named = [child for child in children if child.is_named]
    if node.type == "binary_expression" and len(children) == 3:
        calculate = _BINARY.get(children[1].type)
        if calculate is None:
            raise ValueError(children[1].type)
        return int(calculate(_number(children[0], state, lookup), _number(children[2], state, lookup)))
    if node.type == "ternary_expression" and len(named) == 3:
        chosen = named[1] if _number(named[0], state, lookup) else named[2]
        return _number(chosen, state, lookup)
    if node.type == "unary_expression" and len(children) == 2:
        value = _number(children[1], state, lookup)
        return {"-": -value, "+": value, "!": int(not value)}[children[0].type]
    if node.type in ("arithmetic_expansion", "parenthesized_expression", "compound_statement") and len(named) == 1:
        return _number(named[0], state, lookup)
    if node.type in ("number", "word", "variable_name", "simple_expansion", "expansion"):
        text = (node.text or b"").decode()
        return _read(text) if node.type in ("number", "word") and _is_number(text) else _of(node, state, lookup)
    raise ValueError(node.type)


def _of(node: Node, state: State, lookup: Lookup) -> int:
    value = lookup(node, state)
    if not value.known:
        raise ValueError(value.shown)
    text = value.text.strip()
    return _read(text) if text else 0


def _is_number(text: str) -> bool:
    return re.fullmatch(r"[-+]?\w+", text) is not None and text.lstrip("-+")[:1].isdigit()


def _read(text: str) -> int:
    """Decimal, 0x hexadecimal, and octal where it begins with a zero. Raises ValueError."""
    digits = text.lstrip("-+")
    if len(digits) > 1 and digits[0] == "0" and digits.isdigit():
        return int(text, 8)
    return int(text, 16) if digits[:2] in ("0x", "0X") else int(text)
