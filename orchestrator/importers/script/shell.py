"""bash text → the commands that it would start verl with. The script is walked, and no part of it is run.

Branches on something that is not known are both walked: a variable that they set differently is unknown afterwards.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from orchestrator.importers.script.arithmetic import number
from orchestrator.importers.script.conditions import truth
from orchestrator.importers.script.syntax import parse
from orchestrator.importers.script.text import EMPTY, List, State, Text, Value, hole, join, merged
from orchestrator.importers.script.words import lookup, source, value_of, words_of

if TYPE_CHECKING:
    from tree_sitter import Node

ENTRY = re.compile(r"(?:^|[./])(?:\w+_)?main(?:_\w+)?(?:\.py)?$|^verl\.trainer\.\w+$|(?:^|/)\w*sft_trainer(?:\.py)?$")
"""What follows ``-m``, or is the file, where a Python command starts a trainer of verl's kind."""
_NESTED = re.compile(r"\bpython[\d.]*\b(?:[^\n]|\\\n)*\bverl\b(?:[^\n]|\\\n)*main|\bpython[\d.]*\b(?:[^\n]|\\\n)*main_\w+")
MAX_ROUNDS = 1_000
"""Of a loop whose end is known."""
MAX_DEPTH = 30
"""Of functions and scripts within scripts."""


@dataclass(frozen=True)
class Launch:
    """One command that starts a trainer. ``entry``: its module or file; ``before``: the words that lead to it, as
    ``ray job submit --``; ``words``: what follows it. ``when``: what must hold for it to be reached."""

    entry: str
    before: tuple[Text, ...]
    words: tuple[Text, ...]
    line: int
    when: tuple[str, ...]
    environment: Mapping[str, Text] = field(default_factory=dict)


@dataclass(frozen=True)
class Stray:
    """A word that looks like an override of verl's and stands where verl does not get it."""

    word: str
    line: int
    why: str


@dataclass
class Script:
    """What a script says."""

    launches: list[Launch] = field(default_factory=list)
    strays: list[Stray] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def note(self, text: str) -> None:
        if text not in self.notes:
            self.notes.append(text)


def read(text: str, variables: Mapping[str, str], arguments: Sequence[str] = ()) -> Script:
    """``variables``: what the environment holds, as HOME. ``arguments``: what the script is started with."""
    state = State({name: Text(value) for name, value in variables.items()}, arguments=tuple(map(Text, arguments)))
    walk = _Walk(Script())
    walk.script(text, state, 0)
    if not walk.found.launches:  # in a function that nothing calls here
        for function in list(state.functions.values()):
            state.ended = False
            walk.function(function, (), state)
    return walk.found


_OVERRIDE = re.compile(r"[+~]{0,2}[A-Za-z_]\w*(?:[.@/]\w+)+=")


@dataclass
class _Walk:
    found: Script
    when: list[str] = field(default_factory=list)
    depth: int = 0
    offset: int = 0

    def script(self, text: str, state: State, offset: int) -> None:
        if self.depth >= MAX_DEPTH:
            self.found.note("scripts within scripts lie too deep: the innermost are not read")
            return
        before, self.offset, self.depth = self.offset, offset, self.depth + 1
        self.statements(parse(text).children, state)
        self.offset, self.depth = before, self.depth - 1

    def line(self, node: Node) -> int:
        return node.start_point.row + 1 + self.offset

    def statements(self, nodes: Sequence[Node], state: State) -> None:
        for node in nodes:
            if state.ended:
                return
            self.statement(node, state)

    def statement(self, node: Node, state: State) -> bool | None:  # noqa: PLR0911, PLR0912 - one arm per statement
        """Walk one; True or False where its exit status is known."""
        kind = node.type
        if kind == "command":
            return self.command(node, state)
        if kind == "variable_assignment":
            self.assign(node, state)
        elif kind == "declaration_command":
            self.declare(node, state)
        elif kind in ("if_statement", "case_statement"):
            self.branch(node, state)
        elif kind in ("for_statement", "c_style_for_statement", "while_statement"):
            self.loop(node, state)
        elif kind == "list":
            return self.list_of(node, state)
        elif kind == "pipeline":
            self.pipeline(node, state)
        elif kind == "redirected_statement":
            return self.redirected(node, state)
        elif kind == "function_definition":
            name, body = node.child_by_field_name("name"), node.child_by_field_name("body")
            if name is not None and body is not None:
                state.functions[source(name)] = body
        elif kind == "subshell":
            self.statements(node.children, inner := state.copy())
            state.functions |= inner.functions
        elif kind == "test_command" or (kind == "negated_command" and node.children[-1].type == "test_command"):
            return truth(node, state)
        elif kind == "unset_command":
            for part in node.children[1:]:
                state.variables.pop(source(part), None)
        elif kind == "ERROR":
            self.found.note(f"line {self.line(node)} is not understood: {_short(source(node))}")
            self.statements(node.children, state)
        elif kind == "compound_statement" and node.children and node.children[0].type == "((":
            return truth(node, state)
        elif node.is_named and kind not in ("comment", "heredoc_body", "word", "string", "concatenation"):
            self.statements(node.children, state)
        return None

    # assignments

    def assign(self, node: Node, state: State) -> None:
        name, value = node.child_by_field_name("name"), node.child_by_field_name("value")
        if name is None:
            return
        if name.type == "subscript":
            self.assign_item(name, value, state)
            return
        key = source(name)
        new: Value
        if value is not None and value.type == "array":
            new = tuple(word for item in value.children if item.is_named and item.type != "comment" for word in words_of(item, state))
        else:
            new = EMPTY if value is None else value_of(value, state)
        if any(child.type == "+=" for child in node.children):
            old = state.variables.get(key, () if isinstance(new, tuple) else EMPTY)
            if isinstance(new, tuple):
                new = (*(old if isinstance(old, tuple) else (old,)), *new)
            else:
                new = (*old, new) if isinstance(old, tuple) else join((old, new))
        state.variables[key] = new

    def assign_item(self, name: Node, value: Node | None, state: State) -> None:
        parts = [child for child in name.children if child.is_named]
        key = source(parts[0])
        items, index = state.variables.get(key, ()), value_of(parts[-1], state)
        new = EMPTY if value is None else value_of(value, state)
        if isinstance(items, tuple) and index.known and index.text.isdigit() and int(index.text) <= len(items):
            at = int(index.text)
            state.variables[key] = (*items[:at], new, *items[at + 1 :])
        else:
            state.variables[key] = hole(f"${key}")

    def declare(self, node: Node, state: State) -> None:
        for child in node.children[1:]:
            name = child.child_by_field_name("name") if child.type == "variable_assignment" else child
            if child.type == "variable_assignment":
                self.assign(child, state)
            elif child.type == "variable_name" and source(node.children[0]) in ("local", "declare", "typeset"):
                state.variables[source(child)] = EMPTY
            if source(node.children[0]) == "export" and name is not None:
                state.exported |= {source(name)}

    # statements of several parts

    def list_of(self, node: Node, state: State) -> bool | None:
        left, sign, right = node.children[0], node.children[1].type, node.children[-1]
        status = self.statement(left, state)
        if state.ended:
            return None
        tested = left.type in ("test_command", "negated_command", "list")
        if status is None and tested:
            other = state.copy()
            self.under(f"{source(left)}", lambda: self.statement(right, other))
            state.take(merged([(_short(source(left)), other), (f"not {_short(source(left))}", state.copy())]))
            return None
        succeeded = True if status is None else status
        if succeeded == (sign == "&&"):
            return self.statement(right, state)
        return status

    def under(self, condition: str, walk: object) -> None:
        self.when.append(_short(condition))
        if callable(walk):
            walk()
        self.when.pop()

    def branch(self, node: Node, state: State) -> None:
        arms = _if_arms(node) if node.type == "if_statement" else []
        branches: list[tuple[str, State]] = []
        cases = arms or [(item, item, body) for item, body in _case_arms(node)]
        subject = node.child_by_field_name("value") if node.type == "case_statement" else None
        for test, shown, body in cases:
            holds = True if test is None else self.holds(test, subject, state)
            if holds is False:
                continue
            if holds is True and not branches:
                self.statements(body, state)
                return
            label = self.label(node, shown, subject)
            arm = state.copy()
            self.under(label, lambda body=body, arm=arm: self.statements(body, arm))  # type: ignore[misc]
            branches.append((label, arm))
            if holds is True:
                break
        else:
            if branches:
                branches.append((f"none of the branches of line {self.line(node)} is taken", state.copy()))
        if branches:
            state.take(merged(branches))

    def holds(self, test: Node, subject: Node | None, state: State) -> bool | None:
        if subject is not None:
            return _matches(test, value_of(subject, state), state)
        if test.type in ("test_command", "negated_command", "list", "compound_statement"):
            return self.tested(test, state)
        return self.statement(test, state)

    def tested(self, node: Node, state: State) -> bool | None:
        """Of tests joined by && and ||, also in braces."""
        if node.type == "list":
            one, other = self.tested(node.children[0], state), self.tested(node.children[-1], state)
            decisive = node.children[1].type == "||"
            if decisive in (one, other):
                return decisive
            return None if one is None or other is None else not decisive
        inner = [child for child in node.children if child.is_named]
        if node.type == "compound_statement" and node.children[0].type == "{" and len(inner) == 1:
            return self.tested(inner[0], state)
        if node.type == "compound_statement":  # (( … )) as the parser has it after `if`
            value = number(node, state, lookup)
            return None if value is None else bool(value)
        return truth(node, state)

    def label(self, node: Node, shown: Node | None, subject: Node | None) -> str:
        if shown is None:
            return f"the else of line {self.line(node)}"
        if subject is None:
            return f"{_short(source(shown))} (line {self.line(shown)})"
        pattern = shown.child_by_field_name("value")
        return f"{source(subject)} is {source(pattern) if pattern is not None else '?'} (line {self.line(shown)})"

    def loop(self, node: Node, state: State) -> None:
        body = node.child_by_field_name("body")
        inside = body.children if body is not None else []
        if node.type == "for_statement":
            name = node.child_by_field_name("variable")
            items = [word for part in node.children_by_field_name("value") for word in words_of(part, state)]
            if name is None:
                return
            if all(item.known for item in items) and len(items) <= MAX_ROUNDS:
                for item in items:
                    state.variables[source(name)] = item
                    self.statements(inside, state)
                return
            state.variables[source(name)] = hole(f"${source(name)}")
        elif node.type == "while_statement":
            condition = node.child_by_field_name("condition")
            until = node.children[0].type == "until"
            for _ in range(MAX_ROUNDS):
                holds = self.holds(condition, None, state) if condition is not None else None
                if holds is None or state.ended:
                    break
                if holds == until:
                    return
                self.statements(inside, state)
        round_ = state.copy()
        self.under(f"in the loop of line {self.line(node)}", lambda: self.statements(inside, round_))
        state.take(merged([("the loop runs", round_), ("it does not", state.copy())]))

    def pipeline(self, node: Node, state: State) -> None:
        for number_, part in enumerate(child for child in node.children if child.is_named):
            before = len(self.found.launches)
            self.statement(part, state)
            if number_ and before == len(self.found.launches):
                self.stray_in(part, state)

    def stray_in(self, node: Node, state: State) -> None:
        inner = node
        while inner.type == "redirected_statement" and inner.children:
            inner = inner.children[0]
        if inner.type == "command" and len(inner.children) > 1:
            name = source(inner.children[0])
            for part in inner.children[1:]:
                for word in words_of(part, state):
                    if _OVERRIDE.match(word.text):
                        why = f"is an argument of {name}, behind the pipe: verl does not get it"
                        self.found.strays.append(Stray(word.shown, self.line(part), why))

    def redirected(self, node: Node, state: State) -> bool | None:
        body = node.child_by_field_name("body")
        redirects = [child for child in node.children if child is not body and child.type.endswith("redirect")]
        more = [part for redirect in redirects for part in _extra_words(redirect)]
        status = None
        if body is not None:
            status = self.command(body, state, more) if body.type == "command" else self.statement(body, state)
        for redirect in redirects:
            if redirect.type == "heredoc_redirect":
                self.heredoc(redirect, body, state)
        return status

    def heredoc(self, node: Node, body: Node | None, state: State) -> None:
        """A text that is given to a shell, or written to a file, may be the script that starts verl."""
        for inner in node.children:
            if inner.type in ("pipeline", "command", "list"):
                self.statement(inner, state)
        written = next((child for child in node.children if child.type == "heredoc_body"), None)
        if written is None or not _NESTED.search(source(written)):
            return
        name = source(body.children[0]) if body is not None and body.children else ""
        if name == "cat" and not any(child.type == "file_redirect" for child in node.children) and not any(
            child.type == "file_redirect" for child in (node.parent.children if node.parent else [])
        ):
            return
        self.script(source(written), state.copy(), self.line(written) - 1)

    # commands

    def command(self, node: Node, state: State, more: Sequence[Node] = ()) -> bool | None:
        environment: dict[str, Text] = {}
        words: list[tuple[Text, Node]] = []
        for child in (*node.children, *more):
            if child.type == "variable_assignment":
                name, value = child.child_by_field_name("name"), child.child_by_field_name("value")
                if name is not None:
                    environment[source(name)] = EMPTY if value is None else value_of(value, state)
            elif child.type not in ("file_redirect", "herestring_redirect"):
                words += [(word, child) for word in words_of(child, state)]
            else:
                words += [(word, child) for part in _extra_words(child) for word in words_of(part, state)]
        return self.started([word for word, _ in words], node, state, environment) if words else None

    def started(self, words: list[Text], node: Node, state: State, environment: dict[str, Text]) -> bool | None:  # noqa: PLR0911 - one arm per command
        name, arguments = words[0].text, words[1:]
        if name in state.functions:
            self.function(state.functions[name], tuple(arguments), state)
            return None
        if name in ("true", ":", "false"):
            return name != "false"
        if name in ("exit", "return"):
            state.ended = True
            if not self.when and not self.found.launches and name == "exit":
                self.found.note(f"the script ends at line {self.line(node)}: {_short(source(node))}")
            return None
        if name in ("echo", "printf", "cat", "grep", "sed", "mkdir", "cp", "alias", "trap"):
            return None
        if name == "set":
            self.set(arguments, state)
        elif name == "shift":
            count = int(arguments[0].text) if arguments and arguments[0].text.isdigit() else 1
            state.arguments = state.arguments[count:]
        elif name in ("read", "mapfile", "readarray", "getopts"):
            for word in arguments:
                if re.fullmatch(r"[A-Za-z_]\w*", word.text):
                    state.variables[word.text] = hole(f"${word.text}")
        elif name in ("source", ".") and arguments:
            self.found.note(f"line {self.line(node)}: {arguments[0].shown} is not read; what it sets is not known")
        elif name == "eval":
            self.script(" ".join(word.shown for word in arguments), state, self.line(node) - 1)
        elif _OVERRIDE.match(name):
            for word in words:
                why = "stands on a line of its own: bash takes it for a command, and verl does not get it"
                self.found.strays.append(Stray(word.shown, self.line(node), why))
        else:
            self.launch(words, node, state, environment)
        return None

    def set(self, arguments: list[Text], state: State) -> None:
        if arguments and arguments[0].text == "--":
            state.arguments = tuple(arguments[1:])

    def launch(self, words: list[Text], node: Node, state: State, environment: dict[str, Text]) -> None:
        at = _entry(words)
        if at is not None:
            exported = {k: v for k in state.exported if isinstance(v := state.variables.get(k), Text)}
            self.found.launches.append(
                Launch(
                    words[at].text, tuple(words[:at]), tuple(words[at + 1 :]), self.line(node), tuple(self.when),
                    exported | environment,
                )
            )  # fmt: skip
            return
        for word in words:
            if _NESTED.search(word.text) and re.search(r"\s", word.text):
                self.script(word.shown, state.copy(), self.line(node) - 1)
        scripts = [word.shown for word in words if word.text.endswith((".sh", ".slurm", ".sbatch"))]
        if scripts and any(word.text in ("bash", "sh", "sbatch", "srun", "source") for word in words[:-1]):
            self.found.note(f"line {self.line(node)} starts {scripts[0]}, which is not read")

    def function(self, body: Node, arguments: List, state: State) -> None:
        if self.depth >= MAX_DEPTH:
            self.found.note("functions call each other too deeply: the innermost calls are not read")
            return
        self.depth += 1
        outer = state.arguments
        state.arguments = arguments
        self.statements(body.children, state)
        state.arguments, state.ended, self.depth = outer, False, self.depth - 1


def _entry(words: Sequence[Text]) -> int | None:
    """Which word is the trainer's module or file."""
    for at, word in enumerate(words):
        if at and ENTRY.search(word.text) and "=" not in word.text:
            python = any("python" in w.text or "torchrun" in w.text or w.unknown for w in words[:at])
            if words[at - 1].text == "-m" or word.text.endswith(".py") or python:
                return at
    return None


def _if_arms(node: Node) -> list[tuple[Node | None, Node | None, list[Node]]]:
    """(condition, what to show of it, body) of if, elif and else."""
    tests, body, arms, inside = [], [], [], False
    for child in node.children:
        if child.type in ("elif_clause", "else_clause", "fi"):
            if tests or body:
                arms.append((tests[-1] if tests else None, tests[-1] if tests else None, body))
                tests, body = [], []
            if child.type == "elif_clause":
                arms += _if_arms(child)
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


def _case_arms(node: Node) -> list[tuple[Node, list[Node]]]:
    arms = []
    for item in node.children:
        if item.type == "case_item":
            start = next((i for i, child in enumerate(item.children) if child.type == ")"), 0)
            arms.append((item, list(item.children[start + 1 :])))
    return arms


def _matches(item: Node, subject: Text, state: State) -> bool | None:
    patterns = [value_of(part, state) for part in item.children_by_field_name("value")]
    if any(pattern.text == "*" for pattern in patterns):
        return True
    if not subject.known or not all(pattern.known for pattern in patterns):
        return None
    return any(fnmatchcase(subject.text, pattern.text) for pattern in patterns)


def _extra_words(redirect: Node) -> list[Node]:
    """The parser gives the words behind a redirection to it; bash gives them to the command."""
    return redirect.children_by_field_name("destination")[1:]


def _short(text: str) -> str:
    plain = " ".join(text.split())
    return plain if len(plain) <= 80 else f"{plain[:77]}..."
