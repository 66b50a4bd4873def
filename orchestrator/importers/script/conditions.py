"""Tests of bash, as ``[ "$X" = y ]``, on what is known: true, false, or not known (None)."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from orchestrator.importers.script.text import State
from orchestrator.importers.script.words import arithmetic, source, value_of

if TYPE_CHECKING:
    from tree_sitter import Node

_COMPARED = {
    "-eq": lambda one, other: one == other, "-ne": lambda one, other: one != other,
    "-lt": lambda one, other: one < other, "-le": lambda one, other: one <= other,
    "-gt": lambda one, other: one > other, "-ge": lambda one, other: one >= other,
}  # fmt: skip


_TEXTS = ("string", "simple_expansion", "expansion", "concatenation", "raw_string", "word", "number")


def truth(node: Node, state: State) -> bool | None:
    """Of a test command or an expression in one. A node that is no test is not known."""
    named = [child for child in node.children if child.is_named]
    if node.type in ("unary_expression", "negated_command"):
        return _unary(node, named, state)
    if node.type == "binary_expression":
        return _binary(node, state)
    if node.type in _TEXTS:
        text = value_of(node, state)
        return bool(text.text) if text.known else None
    if node.type not in ("test_command", "parenthesized_expression", "compound_statement") or not named:
        return None
    if node.children[0].type == "((":
        value = arithmetic(node, state)
        return None if value is None else bool(value)
    return truth(named[0], state) if len(named) == 1 and node.type != "compound_statement" else None


def _unary(node: Node, named: list[Node], state: State) -> bool | None:
    if node.children[0].type == "!":
        inner = truth(named[-1], state)
        return None if inner is None else not inner
    test = source(node.children[0])
    if test not in ("-z", "-n"):
        return None
    text = value_of(named[-1], state)
    sure = text.known or bool(text.text.strip("\ufffc"))
    return (bool(text.text) == (test == "-n")) if sure else None


def _binary(node: Node, state: State) -> bool | None:
    left, operator, right = (node.child_by_field_name(name) for name in ("left", "operator", "right"))
    if left is None or operator is None or right is None:
        return None
    if (sign := source(operator)) in ("&&", "||", "-a", "-o"):
        return _joined(truth(left, state), truth(right, state), all_of=sign in ("&&", "-a"))
    one, other = value_of(left, state), value_of(right, state)
    if not one.known or not other.known:
        return None
    if sign in ("=", "==", "!="):
        pattern = right.type not in ("string", "raw_string")
        equal = fnmatchcase(one.text, other.text) if pattern else one.text == other.text
        return equal == (sign != "!=")
    if sign in _COMPARED and all(text.text.strip().lstrip("-").isdigit() for text in (one, other)):
        return bool(_COMPARED[sign](int(one.text), int(other.text)))
    return None


def _joined(one: bool | None, other: bool | None, *, all_of: bool) -> bool | None:
    decisive = not all_of
    if decisive in (one, other):
        return decisive
    return None if one is None or other is None else all_of
