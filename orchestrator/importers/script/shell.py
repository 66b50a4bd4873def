"""bash text → the commands that it would start verl with. The script is walked, and no part of it is run.

Branches on something that is not known are both walked: a variable that they set differently is unknown afterwards.
A loop whose rounds are not known is walked until nothing more becomes unknown. What is not followed exactly makes
unknown what it may assign.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from functools import partial
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from orchestrator.importers.script import assigning
from orchestrator.importers.script.conditions import truth
from orchestrator.importers.script.syntax import case_arms, extra_words, if_arms, misread, parse
from orchestrator.importers.script.text import EMPTY, EVERY, List, State, Text, Value, hole, join, merged
from orchestrator.importers.script.variables import countable, forget, forget_all, get, put
from orchestrator.importers.script.words import expression, source, value_of, words_of

if TYPE_CHECKING:
    from tree_sitter import Node

ENTRY = re.compile(r"(?:^|[./])(?:\w+_)?main(?:_\w+)?(?:\.py)?$|^verl\.trainer\.\w+$|(?:^|/)\w*sft_trainer(?:\.py)?$")
"""What follows ``-m``, or is the file, where a Python command starts a trainer of verl's kind."""
_LINE = r"(?:[^\n]|\\\n)*"
_NESTED = re.compile(rf"\bpython[\d.]*\b{_LINE}(?:\bverl\b{_LINE}main|main_\w+)")
MAX_ROUNDS = 1_000
"""Of a loop whose end is known."""
MAX_STEPS = 100_000
"""Statements of a script that are walked before loops are no longer followed round by round."""
MAX_TURNS = 12
"""Of a loop whose end is not known, until nothing more may become unknown."""
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
    given = {name: Text(value) for name, value in variables.items()}
    state = State(dict(given), arguments=tuple(map(Text, arguments)), given=given)
    walk = _Walk(Script())
    walk.script(text, state, 0)
    if not walk.found.launches:  # in a function that nothing calls here
        for function in list(state.functions.values()):
            state.ended = False
            if function is not None:
                walk.function(function, (), state)
    return walk.found


_OVERRIDE = re.compile(r"[+~]{0,2}[A-Za-z_]\w*(?:[.@/]\w+)+=")


@dataclass
class _Walk:
    found: Script
    when: list[str] = field(default_factory=list)
    depth: int = 0
    offset: int = 0
    input: Text | None = None
    """What the command that is walked reads, where that is known."""
    steps: int = 0
    breaks: list[list[State]] = field(default_factory=list)
    """Of each loop around this place, the states in which it was left."""
    rounds: list[list[State]] = field(default_factory=list)
    """Of each loop, the states in which a round ended early."""
    returns: list[list[State]] = field(default_factory=list)
    """Of each function, the states in which it returned early."""

    def script(self, text: str, state: State, offset: int) -> None:
        if self.depth >= MAX_DEPTH:
            self.found.note("scripts within scripts lie too deep: the innermost are not read")
            forget_all(state)
            return
        before, self.offset, self.depth = self.offset, offset, self.depth + 1
        self.statements(parse(text).children, state)
        self.offset, self.depth = before, self.depth - 1

    def line(self, node: Node) -> int:
        return node.start_point.row + 1 + self.offset

    def statements(self, nodes: Sequence[Node], state: State) -> None:
        for at, node in enumerate(nodes):
            if state.ended:
                return
            if at + 1 < len(nodes) and nodes[at + 1].type == "&":
                self.apart(node, state)
            else:
                self.statement(node, state)

    def apart(self, node: Node, state: State) -> None:
        """In a shell of its own, whose variables go with it."""
        with self.scope():
            self.statement(node, state.copy())

    @contextmanager
    def scope(self) -> Iterator[None]:
        """Neither break nor return reach out of here."""
        outer = self.breaks, self.rounds, self.returns
        self.breaks, self.rounds, self.returns = [], [], []
        yield
        self.breaks, self.rounds, self.returns = outer

    def statement(self, node: Node, state: State) -> bool | None:
        """Walk one; True or False where its exit status is known."""
        self.steps += 1
        walk = _STATEMENTS.get(node.type)
        if walk is not None and node.type != "ERROR" and misread(node):
            self.not_understood(node)
            self.change(source(node), state)
            walk(self, node, state)
            self.change(source(node), state)
            if re.search(r"\b(?:break|continue|return|exit|exec)\b", source(node)):
                state.volatile |= {EVERY}  # what follows may not be reached
            return None
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
        with self.scope():
            self.statements(node.children, inner)
        state.functions = inner.functions | state.functions

    def unset(self, node: Node, state: State) -> None:
        assigning.unset_words([word for part in node.children[1:] for word in words_of(part, state)], state)

    def misread(self, node: Node, state: State) -> None:
        self.not_understood(node)
        self.change(source(node), state)
        self.statements(node.children, state)
        self.change(source(node), state)

    def not_understood(self, node: Node) -> None:
        self.found.note(f"line {self.line(node)} is not understood: {_short(source(node))}")

    def change(self, text: str, state: State) -> None:
        """A piece of the script that is not followed may have been run."""
        names = assigning.may_change(text, state)
        if EVERY in names:
            forget_all(state)
        else:
            forget(names, state)

    def compound(self, node: Node, state: State) -> bool | None:
        if node.children and node.children[0].type == "((":
            return self.tested(node, state)
        inner = [child for child in node.children if child.is_named and child.type != "comment"]
        if len(inner) == 1:
            return self.statement(inner[0], state)
        self.statements(node.children, state)
        return None

    # assignments

    def assign(self, node: Node, state: State) -> bool | None:
        name, value = node.child_by_field_name("name"), node.child_by_field_name("value")
        if name is None:
            return None
        if name.type == "subscript":
            self.assign_item(name, value, node, state)
        else:
            add = any(child.type == "+=" for child in node.children)
            self.refuse(source(name), state)
            assigning.assign(source(name), self.new(value, state), add, state)
        return None if value is not None and re.search(r"\$\([^(]|`", source(value)) else True

    @staticmethod
    def refuse(name: str, state: State) -> None:
        """bash refuses to assign what is read-only, and leaves out the rest of the line."""
        if "r" in state.attributes.get(name, ""):
            state.volatile |= {EVERY}

    def assignments(self, node: Node, state: State) -> bool | None:
        self.statements(node.children, state)
        return True if not re.search(r"\$\([^(]|`", source(node)) else None

    def new(self, value: Node | None, state: State) -> Value:
        """The value that an assignment gives."""
        if value is None:
            return EMPTY
        if value.type != "array":
            return value_of(value, state)
        items = [item for item in value.children if item.is_named and item.type != "comment"]
        if any(re.match(r"\[[^\]]*\]\+?=", source(item)) for item in items):
            return (replace(hole(_short(source(value))), many=True),)  # items with places of their own
        return tuple(word for item in items for word in words_of(item, state))

    def assign_item(self, name: Node, value: Node | None, node: Node, state: State) -> None:
        parts = [child for child in name.children if child.is_named]
        key = source(parts[0])
        items = get(key, state)
        old = () if items is None else items
        attributes = state.attributes.get(key, "")
        index = expression(parts[1:], state) if "A" not in attributes else None
        new = EMPTY if value is None else value_of(value, state)
        plain = isinstance(old, tuple) and countable(old) and "i" not in attributes
        if isinstance(old, tuple) and plain and index is not None and 0 <= index <= len(old):
            if any(child.type == "+=" for child in node.children):
                new = join((old[index] if index < len(old) else EMPTY, new))
            put(key, (*old[:index], new, *old[index + 1 :]), state)
        else:
            forget([key], state)

    def declare(self, node: Node, state: State) -> None:
        kind, flags = source(node.children[0]), ""
        for child in node.children[1:]:
            if child.type == "variable_assignment":
                name, value = child.child_by_field_name("name"), child.child_by_field_name("value")
                if name is None or name.type == "subscript":
                    self.assign(child, state)
                    continue
                add = any(part.type == "+=" for part in child.children)
                one = assigning.Declaration(kind, flags, source(name), self.new(value, state), add)
                assigning.declare(one, state)
            elif child.type == "variable_name":
                assigning.declare(assigning.Declaration(kind, flags, source(child)), state)
            elif child.is_named:
                words = words_of(child, state)
                flags += "".join(word.text for word in words if word.text[:1] in ("-", "+"))
                self.declared(kind, flags, [word for word in words if word.text[:1] not in ("-", "+")], state)

    def declared(self, kind: str, flags: str, words: Sequence[Text], state: State) -> None:
        """Names and assignments that are the words of an expansion, as in ``export "$NAME=1"``."""
        for word in words:
            found = re.fullmatch(r"([A-Za-z_]\w*)(?:(\+?)=(.*))?", word.text, re.DOTALL)
            if found is None or word.many or (found[3] is None and word.unknown):
                if word.unknown or word.many:
                    forget_all(state)
                else:
                    assigning.forget_words([Text(re.split(r"\+?=", word.text, maxsplit=1)[0])], state)
                continue
            value = None if found[3] is None else Text(found[3], word.unknown, word.when)
            assigning.declare(assigning.Declaration(kind, flags, found[1], value, bool(found[2])), state)

    # statements of several parts

    def list_of(self, node: Node, state: State) -> bool | None:
        success, failure = self.outcomes(node, state)
        ends = [(when, end) for when, end in (success, failure) if end is not None]
        if not ends:
            state.ended = True
            return None
        state.take(merged(ends) if len(ends) > 1 else ends[0][1])
        return None if len(ends) > 1 else success[1] is not None

    def outcomes(self, node: Node, state: State) -> tuple[tuple[str, State | None], tuple[str, State | None]]:
        """What holds where a command succeeds and where it fails, each with its condition; None where it does not."""
        shown = _short(source(node))
        if node.type != "list":
            status = self.statement(node, state)
            other = state.copy() if status is None else state
            return (shown, None if status is False else state), (f"not {shown}", None if status is True else other)
        left, sign, right = node.children[0], node.children[1].type, node.children[-1]
        success, failure = self.outcomes(left, state)
        taken, passed = (success, failure) if sign == "&&" else (failure, success)
        if taken[1] is None or taken[1].ended:
            return (success, (failure[0], None)) if sign == "||" else ((success[0], None), failure)
        sure = passed[1] is None or (sign == "&&" and left.type not in ("test_command", "negated_command", "list"))
        ends: list[tuple[tuple[str, State | None], tuple[str, State | None]]] = []
        walk = partial(self.outcomes, right, taken[1])
        if sure:
            ends.append(walk())
        else:
            self.under(taken[0], lambda: ends.append(walk()))
        [(then, otherwise)] = ends
        then = (taken[0], then[1])
        if sign == "&&":
            return then, _one_of(otherwise, passed)
        return _one_of(then, passed), otherwise

    def under(self, condition: str, walk: Callable[[], object]) -> None:
        self.when.append(_short(condition))
        walk()
        self.when.pop()

    def branch(self, node: Node, state: State) -> None:
        arms = if_arms(node) if node.type == "if_statement" else []
        branches: list[tuple[str, State]] = []
        cases = arms or [([item], item, body) for item, body in case_arms(node)]
        subject = node.child_by_field_name("value") if node.type == "case_statement" else None
        for tests, shown, body in cases:
            holds: bool | None = True
            for test in tests:
                falls = subject is not None and any(child.type in (";&", ";;&") for child in test.children)
                holds = None if falls else self.holds(test, subject, state)
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
        if node.type == "case_statement" and re.search(r";;?&", source(node)):
            self.change(source(node), state)

    def holds(self, test: Node, subject: Node | None, state: State) -> bool | None:
        if subject is not None:
            return _matches(test, value_of(subject, state), state)
        return self.statement(test, state)

    def tested(self, node: Node, state: State) -> bool | None:
        """Of a test command, with ``!`` before it."""
        inner = [child for child in node.children if child.is_named]
        if node.type == "negated_command" and inner and inner[-1].type != "test_command":
            status = self.statement(inner[-1], state)
            return None if status is None else not status
        return truth(node, state)

    def label(self, node: Node, shown: Node | None, subject: Node | None) -> str:
        if shown is None:
            return f"the else of line {self.line(node)}"
        if subject is None:
            return f"{_short(source(shown))} (line {self.line(shown)})"
        pattern = shown.child_by_field_name("value")
        return f"{source(subject)} is {source(pattern) if pattern is not None else '?'} (line {self.line(shown)})"

    def loop(self, node: Node, state: State) -> None:
        loop = self.parts_of(node, state)
        if loop is None:
            self.change(source(node), state)
            return
        trial, found, before = state.copy(), self.found, self.steps
        self.found = Script()
        ended = self.exactly(loop, trial) if before < MAX_STEPS else False
        mine, self.found = self.found, found
        if ended:
            self.found.launches += mine.launches
            self.found.strays += mine.strays
            for note in mine.notes:
                self.found.note(note)
            state.take(trial)
        else:
            self.somehow(loop, node, state)

    def parts_of(self, node: Node, state: State) -> _Loop | None:
        """None for a loop that is not understood."""
        body = node.child_by_field_name("body")
        inside = body.children if body is not None else []
        if node.type == "for_statement":
            name = node.child_by_field_name("variable")
            values = node.children_by_field_name("value")
            given = any(child.type == "in" for child in node.children)
            items = tuple(word for part in values for word in words_of(part, state)) if given else state.arguments
            if name is None:
                return None
            self.refuse(source(name), state)
            known = node.children[0].type == "for" and all(i.known and not i.when and not i.many for i in items)
            more = ["REPLY"] if node.children[0].type == "select" else []
            return _Loop(inside, [source(name), *more], items if known else None)
        if node.type == "while_statement":
            condition = node.child_by_field_name("condition")
            tests = [] if condition is None else [condition]
            first = next((at for at, child in enumerate(node.children) if child == condition), 1)
            before = [child for child in node.children[1:first] if child.is_named]
            return _Loop(inside, tests=[*before, *tests], until=node.children[0].type == "until")
        groups: list[list[Node]] = [[]]
        for child in node.children[2:]:
            if child.type == "))":
                break
            if child.type == ";":
                groups.append([])
            else:
                groups[-1].append(child)
        if len(groups) != 3:
            return None
        expression(groups[0], state)
        return _Loop(inside, counted=(groups[1], groups[2]))

    def exactly(self, loop: _Loop, state: State) -> bool:
        """Walk round after round; False where it is not known when the loop ends, or that is too far off."""
        self.breaks.append([])
        waiting = iter(loop.items or ())
        try:
            for _ in range(MAX_ROUNDS + 1):
                goes_on: bool | None
                if loop.names:
                    item = next(waiting, None)
                    goes_on = None if loop.items is None else item is not None
                    if item is not None:
                        put(loop.names[0], item, state)
                else:
                    goes_on = self.tests(loop, state)
                if goes_on is None or self.steps > MAX_STEPS:
                    return False
                if not goes_on or state.ended:
                    break
                self.round(loop, state)
                if state.ended:
                    break
            else:
                return False
            left = self.breaks[-1]
            ends = [("the loop ends early", end) for end in left]
            ends += [("the loop runs to its end", state.copy())] if not state.ended else []
            if ends:
                state.take(merged(ends))
            return True
        finally:
            self.breaks.pop()

    def tests(self, loop: _Loop, state: State) -> bool | None:
        """Whether another round comes."""
        if loop.counted is not None:
            nodes = loop.counted[0]
            value = expression(nodes, state) if nodes else 1
            return None if value is None else bool(value)
        status: bool | None = None
        for test in loop.tests:
            status = self.statement(test, state)
        return None if status is None else status != loop.until

    def round(self, loop: _Loop, state: State) -> None:
        """The body once."""
        self.rounds.append([])
        self.statements(loop.body, state)
        early = self.rounds.pop()
        ends = [("the round ends early", end) for end in early] + ([] if state.ended else [("", state.copy())])
        if ends:
            state.take(merged(ends))
            if loop.counted is not None:
                expression(loop.counted[1], state)

    def somehow(self, loop: _Loop, node: Node, state: State) -> None:
        """Walk without knowing how often: until nothing more becomes unknown, and then once more for what is found."""
        if loop.names:
            before = state.copy()
            forget(loop.names, state)
        label = f"in the loop of line {self.line(node)}"
        found, self.found = self.found, Script()
        for turn in range(MAX_TURNS):
            round_ = state.copy()
            self.breaks.append([])
            self.tests(loop, round_)
            self.round(loop, round_)
            self.breaks.pop()
            joined = merged([(label, round_), ("", state.copy())])
            if turn > 2:
                _widen(joined, state)
            if _alike(joined, state):
                break
            state.take(joined)
        else:
            forget_all(state)
        self.found = found
        self.tests(loop, state)
        round_ = state.copy()
        self.breaks.append([])
        self.under(label, partial(self.round, loop, round_))
        ends = [(label, end) for end in (*self.breaks.pop(), round_) if not end.ended or end is not round_]
        ends = [(when, end) for when, end in ends if not end.ended]
        if loop.names:
            untouched = state.copy()
            for name in loop.names:
                untouched.variables[name] = before.value(name)
            ends.append(("no round of it runs", untouched))
        state.take(merged([*ends, ("", state.copy())]))

    def pipeline(self, node: Node, state: State) -> None:
        for number_, part in enumerate(child for child in node.children if child.is_named):
            before = len(self.found.launches)
            self.apart(part, state)
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
        given = self.given(redirects, state)
        if body is not None:
            is_command = body.type == "command"
            status = self.command(body, state, more, given) if is_command else self.statement(body, state)
        for redirect in redirects:
            if redirect.type == "heredoc_redirect":
                self.heredoc(redirect, body, state)
        return status

    def given(self, redirects: Sequence[Node], state: State) -> Text | None:
        """What stands on standard input, from a heredoc, ``<<<`` or ``< <(printf …)``; None where it is not known."""
        for redirect in reversed(redirects):
            if redirect.type == "heredoc_redirect":
                if re.search(r"\$\(\(|:?=|\$\[", source(redirect)):
                    before = state.copy()
                    text = _heredoc(redirect, before)
                    if before.variables != state.variables:  # a program of its own expands it in its own shell
                        self.change(source(redirect), state)
                    return text
                return _heredoc(redirect, state)
            if redirect.type == "herestring_redirect":
                values = [child for child in redirect.children if child.is_named]
                return join((value_of(values[-1], state), Text("\n"))) if values else None
            if redirect.type == "file_redirect" and source(redirect.children[0]) == "<":
                return _printed(redirect.children[-1], state)
        return None

    def heredoc(self, node: Node, body: Node | None, state: State) -> None:
        """A text that is given to a shell, or written to a file, may be the script that starts verl."""
        for inner in node.children:
            if inner.type == "pipeline":
                self.statement(inner, state)
            elif inner.type in _STATEMENTS:  # behind && or ||, and reached or not
                other = state.copy()
                self.statement(inner, other)
                state.take(merged([(_short(source(inner)), other), ("", state.copy())]))
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

    def command(self, node: Node, state: State, more: Sequence[Node] = (), given: Text | None = None) -> bool | None:
        """``given``: what it reads, where that is known."""
        if not more and all(c.type in ("variable_assignment", "file_redirect", "comment") for c in node.children):
            for child in node.children:  # assignments with a redirection, and no command
                if child.type == "variable_assignment":
                    self.assign(child, state)
            return None
        environment: dict[str, Text] = {}
        words: list[tuple[Text, Node]] = []
        for child in (*node.children, *more):
            if child.type == "comment":
                continue
            if child.type == "variable_assignment":
                name, value = child.child_by_field_name("name"), child.child_by_field_name("value")
                if name is not None:
                    environment[source(name)] = EMPTY if value is None else value_of(value, state)
            elif child.type not in ("file_redirect", "herestring_redirect"):
                words += [(word, child) for word in words_of(child, state)]
            else:
                words += [(word, child) for part in extra_words(child) for word in words_of(part, state)]
        if given is None:
            given = self.given([child for child in node.children if child.type.endswith("redirect")], state)
        if not words:
            return None
        self.input, outer = given, self.input
        status = self.started([word for word, _ in words], node, state, environment)
        self.input = outer
        return status

    def started(self, words: list[Text], node: Node, state: State, environment: dict[str, Text]) -> bool | None:
        name, arguments = words[0].text, words[1:]
        if name in ("true", ":", "false"):
            return name != "false"
        if name in state.functions or name in _BUILTINS:
            return self.within(environment, words, node, state)
        if name in _KEYWORDS or (name == "time" and arguments and arguments[0].text in _KEYWORDS):
            self.not_understood(node)
            forget_all(state)
            return None
        if name in ("time", "command", "builtin", "exec"):
            return self.prefixed(words, node, state, environment)
        if _OVERRIDE.match(name):
            why = "stands on a line of its own: bash takes it for a command, and verl does not get it"
            self.found.strays += [Stray(word.shown, self.line(node), why) for word in words]
        elif name not in _QUIET:
            launched = self.launch(words, node, state, environment)
            if not launched and (words[0].unknown or (state.obscured and not _EXTERNAL.fullmatch(name))):
                forget_all(state)  # a function of a file that is not read, or any command at all
        return None

    def within(self, environment: Mapping[str, Text], words: list[Text], node: Node, state: State) -> bool | None:
        """A function or a command of bash's own, with the variables that stand before it."""
        name, arguments = words[0].text, words[1:]
        hidden = {key: (state.value(key), state.attributes.get(key, "")) for key in environment}
        for key, value in environment.items():
            put(key, value, state)
        status: bool | None = None
        if name not in state.functions:
            status = _BUILTINS[name](self, arguments, node, state)
        elif (function := state.functions[name]) is None:
            forget_all(state)
        else:
            status = self.function(function, tuple(arguments), state)
        for key, (old, attributes) in hidden.items():
            state.variables[key], state.attributes[key] = old, attributes
        return status

    def prefixed(self, words: list[Text], node: Node, state: State, environment: dict[str, Text]) -> bool | None:
        """``time``, ``command``, ``builtin`` and ``exec``, and the command behind them."""
        name, rest = words[0].text, words[1:]
        while rest and re.match(r"-\w", rest[0].text):
            if name == "command" and rest[0].text in ("-v", "-V"):
                return None
            rest = rest[1 + (name == "exec" and rest[0].text == "-a") :]
        while rest and name == "time" and (found := re.match(r"([A-Za-z_]\w*)\+?=", rest[0].text)):
            forget([found[1]], state)
            rest = rest[1:]
        assigning.forget_words([Text(word.text[1:-1]) for word in rest if re.fullmatch(r"\{\w+\}", word.text)], state)
        rest = [word for word in rest if not re.fullmatch(r"\{\w+\}", word.text)]
        if not rest:
            return None
        functions = state.functions
        if name in ("command", "builtin") and rest[0].text in functions:
            state.functions = {key: body for key, body in functions.items() if key != rest[0].text}
        status = self.started(rest, node, state, environment)
        if state.functions is not functions and rest[0].text in functions:
            state.functions = functions | state.functions
        if name == "exec" and not state.ended:
            state.ended = True
        return status

    def end(self, arguments: list[Text], node: Node, state: State) -> None:
        state.ended = True
        if not self.when and not self.found.launches and source(node).startswith("exit"):
            self.found.note(f"the script ends at line {self.line(node)}: {_short(source(node))}")

    def back(self, arguments: list[Text], node: Node, state: State) -> None:
        if self.returns:
            self.returns[-1].append(state.copy())
        state.ended = True

    def leave(self, arguments: list[Text], node: Node, state: State) -> None:
        """``break`` and ``continue``."""
        loops = self.breaks if source(node).startswith("break") else self.rounds
        levels = int(arguments[0].text) if arguments and arguments[0].text.isdigit() else 1
        if not loops or (arguments and arguments[0].unknown):
            self.change_all(state)
            return
        outer = max(0, len(loops) - max(1, levels))
        if loops is self.rounds and outer != len(loops) - 1:
            self.change_all(state)  # `continue 2` ends the loops inside too
        loops[outer].append(state.copy())
        state.ended = True

    @staticmethod
    def change_all(state: State) -> None:
        forget_all(state)

    def set(self, arguments: list[Text], node: Node, state: State) -> None:
        """``set`` gives the script's arguments; its options, as -e, change nothing here."""
        rest = list(arguments)
        while rest and rest[0].text[:1] in ("-", "+") and rest[0].text not in ("--", "-"):
            option = rest.pop(0)
            if option.text.endswith("o") and rest:
                rest.pop(0)
        if not rest:
            return
        state.arguments = tuple(rest[1:] if rest[0].text in ("--", "-") else rest)

    def shift(self, arguments: list[Text], node: Node, state: State) -> None:
        count = int(arguments[0].text) if arguments and arguments[0].text.isdigit() else 1
        unsure = bool(arguments) and not arguments[0].text.isdigit()
        if unsure or not countable(state.arguments):
            state.arguments = (hole("$@"),)
        elif count <= len(state.arguments):
            state.arguments = state.arguments[count:]

    def reads(self, arguments: list[Text], node: Node, state: State) -> None:
        assigning.read_input(arguments, self.input, state)

    def maps(self, arguments: list[Text], node: Node, state: State) -> None:
        assigning.map_file(arguments, self.input, state)

    def options(self, arguments: list[Text], node: Node, state: State) -> None:
        """``getopts``."""
        assigning.forget_words([*arguments[1:2], Text("OPTARG"), Text("OPTIND")], state)

    def prints(self, arguments: list[Text], node: Node, state: State) -> None:
        assigning.print_into(arguments, state)

    def lets(self, arguments: list[Text], node: Node, state: State) -> bool | None:
        return assigning.let(arguments, state)

    def declares(self, arguments: list[Text], node: Node, state: State) -> None:
        """``declare`` and its kin behind ``command`` or ``builtin``."""
        kind = next(word for word in source(node).split() if word in _DECLARING)
        flags = "".join(word.text for word in arguments if word.text[:1] in ("-", "+"))
        self.declared(kind, flags, [word for word in arguments if word.text[:1] not in ("-", "+")], state)

    def unsets(self, arguments: list[Text], node: Node, state: State) -> None:
        assigning.unset_words(arguments, state)

    def waits(self, arguments: list[Text], node: Node, state: State) -> None:
        options, _ = assigning.split_options(arguments, "p")
        assigning.forget_words([options["p"]] if "p" in options else [], state)

    def moves(self, arguments: list[Text], node: Node, state: State) -> None:
        """``cd`` and its kin."""
        here = get("PWD", state)
        put("OLDPWD", here if isinstance(here, Text) else hole("$OLDPWD"), state)
        to = arguments[0] if len(arguments) == 1 and source(node).startswith("cd") else hole("$PWD")
        plain = to.known and not to.many and not to.text.startswith("-") and ".." not in to.text.split("/")
        if plain and isinstance(here, Text) and (here.known or to.text.startswith("/")):
            put("PWD", Text(str(PurePosixPath(here.text) / to.text)), state)
        else:
            put("PWD", hole("$PWD"), state)

    def traps(self, arguments: list[Text], node: Node, state: State) -> None:
        """What is run at every command, or where one fails, may change variables from here on."""
        _, rest = assigning.split_options(arguments, "")
        if {word.text.removeprefix("SIG") for word in rest[1:]} & {"DEBUG", "ERR", "RETURN"} and rest[0].text != "-":
            changed = {EVERY} if rest[0].unknown else assigning.may_change(rest[0].text, state)
            state.volatile |= changed

    def shop(self, arguments: list[Text], node: Node, state: State) -> None:
        """``shopt``, of which one option gives the last part of a pipe to the script's own shell."""
        if any(word.text == "lastpipe" or word.unknown for word in arguments):
            state.volatile |= {EVERY}

    def sourced(self, arguments: list[Text], node: Node, state: State) -> None:
        if not arguments:
            return
        if re.search(r"(?:^|/)activate$", arguments[0].text):  # of a Python environment
            forget(["PATH", "VIRTUAL_ENV", "CONDA_PREFIX", "CONDA_DEFAULT_ENV", "PYTHONHOME", "PS1"], state)
            return
        forget_all(state)
        self.found.note(
            f"line {self.line(node)}: {arguments[0].shown} is not read, and may set any variable: those set before it"
            " are not known after it, except those given by --env"
        )

    def evaluated(self, arguments: list[Text], node: Node, state: State) -> None:
        self.script(" ".join(word.shown for word in arguments), state, self.line(node) - 1)
        if any(word.unknown or word.when for word in arguments):
            forget_all(state)

    def unknown_process(self, arguments: list[Text], node: Node, state: State) -> None:
        """``coproc``, and others that are not followed."""
        forget_all(state)

    def launch(self, words: list[Text], node: Node, state: State, environment: dict[str, Text]) -> bool:
        """Whether the command starts a trainer."""
        at = _entry(words)
        if at is not None:
            exported = {k: v for k in state.exported if isinstance(v := get(k, state), Text)}
            self.found.launches.append(
                Launch(
                    words[at].text, tuple(words[:at]), tuple(words[at + 1 :]), self.line(node), tuple(self.when),
                    exported | environment,
                )
            )  # fmt: skip
            return True
        for word in words:
            if _NESTED.search(word.text) and re.search(r"\s", word.text):
                self.script(word.shown, state.copy(), self.line(node) - 1)
        scripts = [word.shown for word in words if word.text.endswith((".sh", ".slurm", ".sbatch"))]
        if scripts and any(word.text in ("bash", "sh", "sbatch", "srun", "source") for word in words[:-1]):
            self.found.note(f"line {self.line(node)} starts {scripts[0]}, which is not read")
        return False

    def function(self, body: Node, arguments: List, state: State) -> bool | None:
        if self.depth >= MAX_DEPTH:
            self.found.note("functions call each other too deeply: the innermost calls are not read")
            forget_all(state)
            return None
        self.depth += 1
        given, outer = state.arguments, state.outer
        state.arguments, state.outer = arguments, {}
        loops, self.breaks, self.rounds = (self.breaks, self.rounds), [], []
        self.returns.append([])
        if body.type == "compound_statement":
            self.statements(body.children, state)
        else:
            self.statement(body, state)
        ends = [("the function returns early", end) for end in self.returns.pop()]
        ends += [] if state.ended else [("it runs to its end", state.copy())]
        if ends:
            state.take(merged([(when, _alive(end)) for when, end in ends]))
        for name, (value, attributes) in (state.outer or {}).items():
            state.variables[name], state.attributes[name] = value, attributes
        state.arguments, state.outer = given, outer
        self.breaks, self.rounds = loops
        self.depth -= 1
        return None


@dataclass(frozen=True)
class _Loop:
    """``names``: what a ``for`` loop assigns, and ``items`` in turn (None where they are not known). ``tests``: the
    commands before ``do``. ``counted``: condition and step of ``for (( ; ; ))``."""

    body: Sequence[Node]
    names: Sequence[str] = ()
    items: List | None = None
    tests: Sequence[Node] = ()
    until: bool = False
    counted: tuple[list[Node], list[Node]] | None = None


def _alive(state: State) -> State:
    state.ended = False
    return state


def _one_of(one: tuple[str, State | None], other: tuple[str, State | None]) -> tuple[str, State | None]:
    """Either of two ends."""
    ends = [(when, state) for when, state in (one, other) if state is not None]
    if len(ends) < 2:
        return ends[0] if ends else one
    return one[0], merged(ends)


def _alike(one: State, other: State) -> bool:
    """Whether one state knows as much as the other."""
    names = {*one.variables, *other.variables}
    same = all(one.value(name) == other.value(name) for name in names)
    of_others = ("functions", "arguments", "attributes", "references", "volatile", "obscured", "outer")
    return same and all(getattr(one, name) == getattr(other, name) for name in of_others)


def _widen(joined: State, before: State) -> None:
    """What still changes from round to round is not known at all."""
    for name, value in joined.variables.items():
        if value != before.value(name):
            joined.variables[name] = hole(f"${{{name}[@]}}" if isinstance(value, tuple) else f"${name}")
    if joined.arguments != before.arguments:
        joined.arguments = (hole("$@"),)


def _heredoc(node: Node, state: State) -> Text | None:
    """The text of a heredoc, as its reader gets it."""
    start = next((child for child in node.children if child.type == "heredoc_start"), None)
    body = next((child for child in node.children if child.type == "heredoc_body"), None)
    if start is None:
        return None
    text = "" if body is None else source(body)
    if node.children[0].type == "<<-":
        return None
    if re.search(r"['\"\\]", source(start)):
        return Text(text)
    if "$" not in text and "`" not in text and "\\" not in text:
        return Text(text)
    quoted = parse('x="' + re.sub(r'(?<!\\)"', r'\\"', text) + '"').children
    value = quoted[0].child_by_field_name("value") if len(quoted) == 1 else None
    return value_of(value, state) if value is not None and value.type == "string" else None


def _printed(node: Node, state: State) -> Text | None:
    """What ``<(printf …)`` gives."""
    commands = [child for child in node.children if child.is_named]
    if node.type != "process_substitution" or len(commands) != 1 or commands[0].type != "command":
        return None
    inner = state.copy()
    words = [word for part in commands[0].children for word in words_of(part, inner)]
    if not words or words[0].text != "printf" or "printf" in state.functions:
        return None
    text = assigning.formatted(words[1:])
    return None if text is None else Text(text)


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
    "variable_assignments": _Walk.assignments,
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

_DECLARING = ("declare", "typeset", "local", "export", "readonly")
_BUILTINS: dict[str, Callable[[_Walk, list[Text], Node, State], bool | None]] = {
    "exit": _Walk.end, "return": _Walk.back, "break": _Walk.leave, "continue": _Walk.leave, "set": _Walk.set,
    "shift": _Walk.shift, "read": _Walk.reads, "mapfile": _Walk.maps, "readarray": _Walk.maps,
    "getopts": _Walk.options, "printf": _Walk.prints, "let": _Walk.lets, "unset": _Walk.unsets, "wait": _Walk.waits,
    "cd": _Walk.moves, "pushd": _Walk.moves, "popd": _Walk.moves, "trap": _Walk.traps, "shopt": _Walk.shop,
    "source": _Walk.sourced, ".": _Walk.sourced, "eval": _Walk.evaluated, "coproc": _Walk.unknown_process,
    **dict.fromkeys(_DECLARING, _Walk.declares),
}  # fmt: skip
_KEYWORDS = ("{", "}", "!", "(", "if", "then", "else", "fi", "for", "do", "done", "while", "until", "case", "esac",
             "select", "function", "in")  # fmt: skip
"""Words that are no command: where one stands in its place, the parser has read the line otherwise than bash."""
_EXTERNAL = re.compile(
    r".*[/.].*|python.*|pip\d*|uv|ray|torchrun|ls|rm|mv|ln|touch|tar|unzip|wget|curl|git|nvidia-smi|sleep|kill|pkill"
    r"|ulimit|date|hostname|which|type|tee|chmod|huggingface-cli|hf|wandb|srun|sbatch|scontrol|docker|singularity"
    r"|apptainer|conda|module|nohup|env|sudo|timeout|find|head|tail|awk|sort|cut|wc|tr|xargs|nproc|free|df|du|uname"
    r"|whoami|id|test|\[|umask|hash|times|jobs|disown|bash|sh|apt|apt-get|seq|basename|dirname|pwd|realpath|readlink"
)
"""Commands that no file is expected to replace by a function."""
_QUIET = ("echo", "cat", "grep", "sed", "mkdir", "cp", "alias")
"""Commands whose arguments start nothing."""
