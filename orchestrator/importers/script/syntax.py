"""bash's grammar, by tree-sitter."""

from __future__ import annotations

import re
from functools import cache
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
    whole = re.sub(r"(?:\\\s*)+\Z", "\n", text)  # a backslash at the end continues nothing
    return _parser().parse(whole.encode()).root_node


def if_arms(node: Node) -> list[tuple[Node | None, Node | None, list[Node]]]:
    """(condition, what to show of it, body) of if, elif and else."""
    tests: list[Node] = []
    body: list[Node] = []
    arms: list[tuple[Node | None, Node | None, list[Node]]] = []
    inside = False
    for child in node.children:
        if child.type in ("elif_clause", "else_clause", "fi"):
            if tests or body:
                arms.append((tests[-1] if tests else None, tests[-1] if tests else None, body))
                tests, body = [], []
            if child.type == "elif_clause":
                arms += if_arms(child)
            elif child.type == "else_clause":
                arms.append((None, None, list(child.children[1:])))
        elif child.type == "then":
            inside = True
        elif inside:
            body.append(child)
        elif child.is_named and child.type != "comment":
            tests.append(child)
    if tests or body:  # an elif clause has no fi of its own
        arms.append((tests[-1] if tests else None, tests[-1] if tests else None, body))
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
