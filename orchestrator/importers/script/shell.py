"""bash text → the commands that it would start verl with. The script is walked, and no part of it is run.

Branches on something that is not known are both walked: a variable that they set differently is unknown afterwards.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import partial
from typing import TYPE_CHECKING

from orchestrator.importers.script.arithmetic import number
from orchestrator.importers.script.conditions import truth
from orchestrator.importers.script.syntax import case_arms, extra_words, if_arms, parse
from orchestrator.importers.script.text import EMPTY, List, State, Text, Value, hole, join, merged
from orchestrator.importers.script.words import lookup, source, value_of, words_of

if TYPE_CHECKING:
    from tree_sitter import Node

ENTRY = re.compile(r"(?:^|[./])(?:\w+_)?main(?:_\w+)?(?:\.py)?$|^verl\.trainer\.\w+$|(?:^|/)\w*sft_trainer(?:\.py)?$")
"""What follows ``-m``, or is the file, where a Python command starts a trainer of verl's kind."""
_LINE = r"(?:[^\n]|\\\n)*"
_NESTED = re.compile(rf"\bpython[\d.]*\b{_LINE}(?:\bverl\b{_LINE}main|main_\w+)")
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

    def statement(self, node: Node, state: State) -> bool | None:
        """Walk one; True or False where its exit status is known."""
        walk = _STATEMENTS.get(node.type)
        if walk is not None:
            return walk(self, node, state)
        if node.is_named and node.type not in _NO_STATEMENTS:
            self.statements(node.children, state)
        return None

    def define(self, node: Node, state: State) -> None:
        name, body = node.child_by_field_name("name"), node.child_by_field_name("body")
        if name is not None and body is not None:
            state.functions[source(name)] = body

    def subshell(self, node: Node, state: State) -> None:
        inner = state.copy()
        self.statements(node.children, inner)
        state.functions |= inner.functions

    def unset(self, node: Node, state: State) -> None:
        for part in node.children[1:]:
            state.variables.pop(source(part), None)

    def misread(self, node: Node, state: State) -> None:
        self.found.note(f"line {self.line(node)} is not understood: {_short(source(node))}")
        self.statements(node.children, state)

    def compound(self, node: Node, state: State) -> bool | None:
        if node.children and node.children[0].type == "((":
            return self.tested(node, state)
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
            items = [item for item in value.children if item.is_named and item.type != "comment"]
            new = tuple(word for item in items for word in words_of(item, state))
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
        if status is None and left.type in ("test_command", "negated_command", "list"):
            other = state.copy()
            self.under(source(left), partial(self.statement, right, other))
            state.take(merged([(_short(source(left)), other), (f"not {_short(source(left))}", state.copy())]))
            return None
        succeeded = status is not False  # a command is taken to succeed
        return self.statement(right, state) if succeeded == (sign == "&&") else status

    def under(self, condition: str, walk: Callable[[], object]) -> None:
        self.when.append(_short(condition))
        walk()
        self.when.pop()

    def branch(self, node: Node, state: State) -> None:
        arms = if_arms(node) if node.type == "if_statement" else []
        branches: list[tuple[str, State]] = []
        cases = arms or [(item, item, body) for item, body in case_arms(node)]
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
            self.under(label, partial(self.statements, body, arm))
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
        self.under(f"in the loop of line {self.line(node)}", partial(self.statements, inside, round_))
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
        more = [part for redirect in redirects for part in extra_words(redirect)]
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
        if (
            name == "cat"
            and not any(child.type == "file_redirect" for child in node.children)
            and not any(child.type == "file_redirect" for child in (node.parent.children if node.parent else []))
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
                words += [(word, child) for part in extra_words(child) for word in words_of(part, state)]
        return self.started([word for word, _ in words], node, state, environment) if words else None

    def started(self, words: list[Text], node: Node, state: State, environment: dict[str, Text]) -> bool | None:
        name, arguments = words[0].text, words[1:]
        if name in ("true", ":", "false"):
            return name != "false"
        if name in state.functions:
            self.function(state.functions[name], tuple(arguments), state)
        elif name in _BUILTINS:
            _BUILTINS[name](self, arguments, node, state)
        elif _OVERRIDE.match(name):
            why = "stands on a line of its own: bash takes it for a command, and verl does not get it"
            self.found.strays += [Stray(word.shown, self.line(node), why) for word in words]
        elif name not in _QUIET:
            self.launch(words, node, state, environment)
        return None

    def end(self, arguments: list[Text], node: Node, state: State) -> None:
        state.ended = True
        if not self.when and not self.found.launches and source(node).startswith("exit"):
            self.found.note(f"the script ends at line {self.line(node)}: {_short(source(node))}")

    def set(self, arguments: list[Text], node: Node, state: State) -> None:
        if arguments and arguments[0].text == "--":
            state.arguments = tuple(arguments[1:])

    def shift(self, arguments: list[Text], node: Node, state: State) -> None:
        count = int(arguments[0].text) if arguments and arguments[0].text.isdigit() else 1
        state.arguments = state.arguments[count:]

    def input(self, arguments: list[Text], node: Node, state: State) -> None:
        for word in arguments:
            if re.fullmatch(r"[A-Za-z_]\w*", word.text):
                state.variables[word.text] = hole(f"${word.text}")

    def sourced(self, arguments: list[Text], node: Node, state: State) -> None:
        if arguments:
            self.found.note(f"line {self.line(node)}: {arguments[0].shown} is not read; what it sets is not known")

    def evaluated(self, arguments: list[Text], node: Node, state: State) -> None:
        self.script(" ".join(word.shown for word in arguments), state, self.line(node) - 1)

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
    """Which word is the trainer's module or file: one of verl's kind, or any that Python gets verl's keys for."""
    python = next((at for at, word in enumerate(words) if re.search(r"python|torchrun", word.text)), None)
    keys = any(_VERLS.match(word.text) for word in words)
    for at, word in enumerate(words):
        after = at and words[at - 1].text == "-m"
        if at and ENTRY.search(word.text) and "=" not in word.text:
            unknown = any(earlier.unknown for earlier in words[:at])
            if after or word.text.endswith(".py") or unknown or (python is not None and python < at):
                return at
        if keys and python is not None and at > python and (after or word.text.endswith(".py")):
            return at
    return None


_VERLS = re.compile(r"[+~]{0,2}actor_rollout_ref\.\w")


def _matches(item: Node, subject: Text, state: State) -> bool | None:
    patterns = [value_of(part, state) for part in item.children_by_field_name("value")]
    if any(pattern.text == "*" for pattern in patterns):
        return True
    if not subject.known or not all(pattern.known for pattern in patterns):
        return None
    return any(fnmatchcase(subject.text, pattern.text) for pattern in patterns)


def _short(text: str) -> str:
    plain = " ".join(text.split())
    return plain if len(plain) <= 80 else f"{plain[:77]}..."


_STATEMENTS: dict[str, Callable[[_Walk, Node, State], bool | None]] = {
    "command": _Walk.command,
    "variable_assignment": _Walk.assign,
    "declaration_command": _Walk.declare,
    "unset_command": _Walk.unset,
    "if_statement": _Walk.branch,
    "case_statement": _Walk.branch,
    "for_statement": _Walk.loop,
    "c_style_for_statement": _Walk.loop,
    "while_statement": _Walk.loop,
    "list": _Walk.list_of,
    "pipeline": _Walk.pipeline,
    "redirected_statement": _Walk.redirected,
    "function_definition": _Walk.define,
    "subshell": _Walk.subshell,
    "compound_statement": _Walk.compound,
    "test_command": _Walk.tested,
    "negated_command": _Walk.tested,
    "ERROR": _Walk.misread,
}
_NO_STATEMENTS = ("comment", "heredoc_body", "word", "string", "concatenation")

_BUILTINS: dict[str, Callable[[_Walk, list[Text], Node, State], None]] = {
    "exit": _Walk.end, "return": _Walk.end, "set": _Walk.set, "shift": _Walk.shift, "read": _Walk.input,
    "mapfile": _Walk.input, "readarray": _Walk.input, "getopts": _Walk.input, "source": _Walk.sourced,
    ".": _Walk.sourced, "eval": _Walk.evaluated,
}  # fmt: skip
_QUIET = ("echo", "printf", "cat", "grep", "sed", "mkdir", "cp", "alias", "trap")
"""Commands whose arguments start nothing."""
