"""bash's grammar, by tree-sitter."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from itertools import pairwise
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tree_sitter import Node, Parser


@cache
def _parser() -> Parser:
    import tree_sitter
    import tree_sitter_bash

    return tree_sitter.Parser(tree_sitter.Language(tree_sitter_bash.language()))


def parse(text: str) -> Node:
    """The tree of a script. What is not understood is in nodes of the type ERROR."""
    whole = re.sub(r"(?:\\\s*)+\Z", "\n", text).encode()  # a backslash at the end continues nothing
    for _ in range(MAX_CORRECTIONS):
        root = _parser().parse(whole).root_node
        if (span := _commented(root, whole)) is not None:
            whole = whole[: span[0]] + _uncommented(whole[span[0] + 1 : span[1]]) + whole[span[1] + 1 :]
        elif ends := _unended(root, whole):
            for at in ends:
                whole = whole[:at] + b";" + whole[at:]
        elif (useless := _beside_assignments(root)) is not None:
            start, end = useless
            whole = whole[:start] + b" " * (end - start) + whole[end:]
        elif (slash := _bare_root(root, whole)) is not None:
            whole = whole[:slash] + b"'/'" + whole[slash + 1 :]
        else:
            break
    return root


MAX_CORRECTIONS = 1_000
"""Places of one script that the parser and bash read differently."""


def _nodes(root: Node) -> Iterator[Node]:
    """Every node, in the order of the text."""
    waiting = [root]
    while waiting:
        node = waiting.pop()
        yield node
        waiting += reversed(node.children)


def misread(node: Node) -> bool:
    """Whether the parser did not understand this statement, rather than one inside of it."""
    if not node.has_error:
        return False
    return not any(inner.has_error and inner.type in _WHOLE for inner in _nodes(node) if inner.id != node.id)


_WHOLE = (
    "command", "test_command", "variable_assignment", "declaration_command", "unset_command", "for_statement",
    "if_statement", "while_statement", "case_statement", "c_style_for_statement", "list", "pipeline", "subshell",
    "redirected_statement", "function_definition", "compound_statement", "negated_command", "ERROR",
)  # fmt: skip


def _commented(root: Node, text: bytes) -> tuple[int, int] | None:
    """Where the first comment between backticks starts and ends: bash ends it at the next backtick, and the parser
    reads on."""
    for node in _nodes(root):
        if node.type != "`" or node.end_byte == node.start_byte:
            continue
        earlier = [other for other in _siblings(node) if other.type == "`" and other.start_byte < node.start_byte]
        if len(earlier) % 2 == 0:
            found = re.compile(rb"((?:[^`\\]|\\.)*)`", re.DOTALL).match(text, node.end_byte)
            if found is not None and re.search(rb"(?:^|\s)#[^\n]*$", found[1]):
                return node.start_byte, found.end() - 1
    return None


def _beside_assignments(root: Node) -> tuple[int, int] | None:
    """A redirection behind assignments alone, for which the parser takes the next statement for their command."""
    for node in _nodes(root):
        if node.type == "command" and node.has_error:
            parts = [child for child in node.children if child.type != "variable_assignment"]
            if len(parts) < len(node.children) and parts and parts[0].type == "file_redirect":
                return parts[0].start_byte, parts[0].end_byte
    return None


def _bare_root(root: Node, text: bytes) -> int | None:
    """Where a test of ``/``, as ``[ -d / ]``, has it: the parser takes it for a division."""
    for node in _nodes(root):
        if node.type == "test_command" and node.has_error:
            found = re.compile(rb"\s(/)\s+\]").search(text, node.start_byte, node.end_byte)
            if found is not None:
                return found.start(1)
    return None


def _siblings(node: Node) -> list[Node]:
    return [] if node.parent is None else node.parent.children


def _unended(root: Node, text: bytes) -> list[int]:
    """Where a line of several assignments ends, from the last: the parser takes the next line for their command."""
    found = []
    for node in _nodes(root):
        if node.type not in ("command", "variable_assignments"):
            continue
        parts = [child for child in node.children if child.type != "comment"]
        for child, following in pairwise(parts):
            if child.type not in ("variable_assignment", "file_redirect"):
                break
            if re.search(rb"(?<!\\)\n", text[child.end_byte : following.start_byte]):
                found.append(child.end_byte)
    return found[::-1]


def _uncommented(inner: bytes) -> bytes:
    """The same substitution without its comments."""
    rest = re.sub(rb"(^|\s)#[^\n]*", rb"\1", inner)
    return b"$(" + (rest if rest.strip() else b":" + rest) + b")"


def if_arms(node: Node) -> list[tuple[list[Node], Node | None, list[Node]]]:
    """(commands of which the last decides, what to show of them, body) of if, elif and else."""
    tests: list[Node] = []
    body: list[Node] = []
    arms: list[tuple[list[Node], Node | None, list[Node]]] = []
    inside = False
    for child in node.children:
        if child.type in ("elif_clause", "else_clause", "fi"):
            if tests or body:
                arms.append((tests, tests[-1] if tests else None, body))
                tests, body = [], []
            if child.type == "elif_clause":
                arms += if_arms(child)
            elif child.type == "else_clause":
                arms.append(([], None, list(child.children[1:])))
        elif child.type == "then":
            inside = True
        elif inside:
            body.append(child)
        elif child.is_named and child.type != "comment":
            tests.append(child)
    if tests or body:  # an elif clause has no fi of its own
        arms.append((tests, tests[-1] if tests else None, body))
    return arms


def case_arms(node: Node) -> list[tuple[Node, list[Node]]]:
    """(item, which holds its patterns; body)."""
    arms = []
    for item in node.children:
        if item.type == "case_item":
            start = next((i for i, child in enumerate(item.children) if child.type == ")"), 0)
            arms.append((item, list(item.children[start + 1 :])))
    return arms


def extra_words(redirect: Node) -> list[Node]:
    """The parser gives the words behind a redirection to it; bash gives them to the command."""
    return redirect.children_by_field_name("destination")[1:]
