"""A word of bash, as tree-sitter has parsed it → the words that it becomes. Nothing is run."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from fnmatch import translate
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from orchestrator.importers.script.braces import expanded
from orchestrator.importers.script.syntax import parse
from orchestrator.importers.script.text import EMPTY, Fields, State, Text, Value, hole, join
from orchestrator.importers.script.variables import compute, countable, forget, get, put

if TYPE_CHECKING:
    from tree_sitter import Node


def source(node: Node) -> str:
    """As the script writes it."""
    return (node.text or b"").decode("utf-8", "replace")


def words_of(node: Node, state: State) -> list[Text]:
    """The words that one node on a command line becomes; none where an unquoted variable is empty."""
    if node.type in ("brace_expression", "concatenation", "word") and (braced := _braced(node, state)) is not None:
        return braced
    fields = Fields()
    _add(node, state, fields)
    return fields.words()


_PART = 0xE000
"""Characters from here on stand for the quoted and expanded parts of a word while its braces are expanded."""


def _braced(node: Node, state: State) -> list[Text] | None:
    """The words of a node with braces in it, outside of quotes; None where there are none to expand."""
    text = ""
    parts: list[Node] = []
    for part in [node] if node.type != "concatenation" else _with_gaps(node):
        if isinstance(part, str) or part.type in ("word", "number", "brace_expression"):
            text += part if isinstance(part, str) else source(part)
        else:
            text += chr(_PART + len(parts))
            parts.append(part)
    words = expanded(text)
    if "{}" in text and re.search(r"\{.*(,|\.\.).*\}", text, re.DOTALL):
        return [replace(hole(source(node)), many=True)]  # bash pairs empty braces by rules of their own
    if words == [text]:
        return None
    found = []
    for word in words:
        fields = Fields()
        for piece in re.split(f"([{chr(_PART)}-{chr(_PART + len(parts))}])", word):
            if len(piece) == 1 and _PART <= ord(piece) < _PART + len(parts):
                _add(parts[ord(piece) - _PART], state, fields)
            elif piece:
                fields.add(Text(_unescaped(piece)))
        found += fields.words()
    return found


def value_of(node: Node, state: State) -> Text:
    """The text that a node becomes where bash does not split it: in an assignment, a test, a pattern."""
    text = join(_pieces(node, state), " ")
    home = get("HOME", state)
    if node.type in ("word", "concatenation") and re.match(r"~(/|$)", source(node)) and isinstance(home, Text):
        return join((home, Text(text.text[1:], text.unknown)))
    return text


def _pieces(node: Node, state: State) -> list[Text]:
    fields = Fields()
    _add(node, state, fields, quoted=True)
    return fields.words()


def _add(node: Node, state: State, fields: Fields, *, quoted: bool = False) -> None:
    """``quoted``: an expansion inside is not split."""
    kind = node.type
    if kind in _READERS:
        fields.add(Text(_READERS[kind](source(node))))
    elif kind in ("string", "translated_string"):
        _add_string(node, state, fields)
    elif kind in ("concatenation", "command_name"):
        for part in _with_gaps(node):
            if isinstance(part, str):
                fields.add(Text(part))
            else:
                _add(part, state, fields, quoted=quoted)
    elif quoted:
        fields.add_items(_values(node, state))
    else:
        for index, value in enumerate(_values(node, state)):
            piece = hole(source(node)) if _split_otherwise(value, state) else value
            fields.add_unquoted(join((Text(" " if index else ""), piece)))


def _split_otherwise(value: Text, state: State) -> bool:
    """Whether bash would split a value at other places than blanks, because the script sets IFS."""
    if state.variables.get("IFS") is None:
        return False
    separators = get("IFS", state)
    if not isinstance(separators, Text) or not separators.known:
        return True
    return separators.text != " \t\n" and any(sign in value.text for sign in (*separators.text, " ", "\t", "\n"))


def _values(node: Node, state: State) -> tuple[Text, ...]:
    """What an expansion or a substitution becomes before it is split: one text, or the items of a list."""
    if node.type in _EXPANSIONS:
        items = _list_of(node, state)
        return (expansion(node, state),) if items is None else items
    return (_substituted(node, state) if node.type == "command_substitution" else _computed(node, state),)


def _computed(node: Node, state: State) -> Text:
    text = source(node)
    if node.type == "arithmetic_expansion":
        value = arithmetic(node, state)
        return hole(text) if value is None else Text(str(value))
    unknown = node.type == "process_substitution" or "$" in text or "`" in text
    return hole(text) if unknown else Text(_unescaped(text))


_EXPANSIONS = ("simple_expansion", "expansion")


def _add_string(node: Node, state: State, fields: Fields) -> None:
    inner = node.children[1:-1] if node.type == "string" else node.children
    if len(inner) == 1 and inner[0].type in ("simple_expansion", "expansion"):
        items = _list_of(inner[0], state)
        if items is not None and "@" in source(inner[0]):
            fields.add_items(items)  # none at all where the list is empty
            return
    fields.add(EMPTY)
    for part in _with_gaps(node, first=1, last=-1):
        if isinstance(part, str):
            fields.add(Text(part))
        elif part.type == "string_content":
            fields.add(Text(re.sub(r'\\([$`"\\])', r"\1", source(part).replace("\\\n", ""))))
        elif part.type in ("simple_expansion", "expansion") and (items := _list_of(part, state)) is not None:
            fields.add_items(items) if "@" in source(part) else fields.add(_joined(items, part, state))
        else:
            _add(part, state, fields, quoted=True)


def _joined(items: Sequence[Text], node: Node, state: State) -> Text:
    """``"$*"``."""
    usual = state.variables.get("IFS") is None
    return join(items, " ") if usual and countable(tuple(items)) else hole(source(node))


def _with_gaps(node: Node, first: int = 0, last: int | None = None) -> Iterator[Node | str]:
    """The children, and the text between them that the parser gives to none of them."""
    text = node.text or b""
    children = node.children
    at = children[0].end_byte if first else node.start_byte
    end = children[-1].start_byte if last else node.end_byte
    for child in children[first:last]:
        if child.start_byte > at:
            yield text[at - node.start_byte : child.start_byte - node.start_byte].decode("utf-8", "replace")
        yield child
        at = child.end_byte
    if end > at:
        yield text[at - node.start_byte : end - node.start_byte].decode("utf-8", "replace")


def _unescaped(text: str) -> str:
    return re.sub(r"\\(.)", r"\1", text.replace("\\\n", ""))


_ANSI = {"n": "\n", "t": "\t", "r": "\r", "\\": "\\", "'": "'", '"': '"', "a": "\a", "b": "\b", "e": "\x1b", "0": "\0"}


def _ansi(text: str) -> str:
    return re.sub(r"\\(.)", lambda found: _ANSI.get(found[1], found[0]), text[2:-1])


_READERS: dict[str, Callable[[str], str]] = {
    "word": _unescaped, "number": str, "raw_string": lambda text: text[1:-1], "ansi_c_string": _ansi,
    "string_content": str, "variable_name": str,
}  # fmt: skip
"""Nodes that stand for a text as they are."""


def variable(name: str, state: State) -> Value | None:
    """The value of a variable or positional argument; None where the script does not set it."""
    if name in ("@", "*"):
        return state.arguments
    if name == "#":
        return Text(str(len(state.arguments))) if countable(state.arguments) else hole("$#")
    if name.isdigit() and name != "0":
        if not countable(state.arguments[: int(name)]):
            return hole(f"${name}")
        return state.arguments[int(name) - 1] if int(name) <= len(state.arguments) else None
    return get(name, state)


def arithmetic(node: Node, state: State) -> int | None:
    """The value of ``$(( … ))`` or ``(( … ))``, with the assignments in it."""
    return compute(join(_substance(part, state) for part in _with_gaps(node, first=1, last=-1)), state)


def expression(nodes: Sequence[Node], state: State) -> int | None:
    """The value of one of the three parts of ``for (( ; ; ))``; ``nodes``: those of the part."""
    return compute(join([_substance(node, state) for node in nodes], " "), state)


def _substance(part: Node | str, state: State) -> Text:
    """A part of an arithmetic expression, with what stands behind a dollar sign expanded."""
    if isinstance(part, str):
        return Text(part)
    if part.type in (*_EXPANSIONS, "command_substitution", "arithmetic_expansion"):
        return join(_values(part, state), " ")
    if not part.children:
        return Text(source(part))
    return join(_substance(inner, state) for inner in _with_gaps(part))


def _list_of(node: Node, state: State) -> tuple[Text, ...] | None:  # noqa: PLR0911 - a table of forms
    """The items of ``$@``, ``${name[@]}``, ``${!name[@]}`` and ``${@:2}``; None for what is one text."""
    text = source(node)
    if text in ("$@", "$*", "${@}", "${*}"):
        return state.arguments
    if (found := re.fullmatch(r"\$\{@:(\d+)\}", text)) is not None:
        start = max(0, int(found[1]) - 1)
        return state.arguments[start:] if countable(state.arguments[:start]) else (hole(text),)
    # ${name[@]}, and the ways to write "nothing where it is not set"
    found = re.fullmatch(r"\$\{(!?)(\w+)\[[@*]\](:?[-+].*)?\}", text, re.DOTALL)
    if found is None:
        return None
    value, other = get(found[2], state), found[3] or ""
    items = (value,) if isinstance(value, Text) else value
    whole = hole(f"${{{found[2]}[@]}}")
    if isinstance(value, Text) and not value.known:
        return (whole,)
    if found[1]:
        return tuple(Text(str(at)) for at in range(len(items))) if items and countable(items) else (hole(text),)
    if other.lstrip(":").startswith("+"):
        itself = re.fullmatch(rf':?\+"?\$\{{{found[2]}\[[@*]\]\}}"?', other)
        return (items or ()) if itself or not items else (hole(text),)
    if items:
        return items
    return () if other in (":-", "-") or (items is not None and not other) else (hole(text),)


def expansion(node: Node, state: State) -> Text:
    """``$X`` and ``${X…}`` as one text."""
    text = source(node)
    children = [child for child in node.children if child.type not in ("$", "${", "}")]
    if not children:
        return hole(text)
    if children[0].type in ("!", "#") and len(children) > 1:
        return _prefixed(children, state, text)
    head, rest = children[0], children[1:]
    value = _named(head, state)
    if not rest:
        return hole(text) if value is None else value
    operator = source(rest[0])
    if operator.lstrip(":") in ("-", "=", "?", "+"):
        used = _needs_operand(value, operator)
        at = state if used else state.copy()
        operand = join([_operand(part, at) for part in _after(node, rest[0])])
        chosen = _default(value, operator, operand, text)
        if operator.endswith("=") and used:
            if head.type == "variable_name":
                put(source(head), chosen, state)
            else:
                forget(re.findall(r"\w+", source(head))[:1], state)
        return chosen
    operand = join([_operand(part, state) for part in _after(node, rest[0])])
    changed = None
    if value is not None and value.known and operand.known:
        changed = _changed(value.text, operator, operand.text)
    return hole(text) if changed is None else Text(changed)


def _needs_operand(value: Text | None, operator: str) -> bool:
    empty = value is None or (operator.startswith(":") and not value.text)
    return empty != operator.endswith("+")


def _default(value: Text | None, operator: str, operand: Text, text: str) -> Text:
    """``${X:-y}`` and its kin. ``text``: the whole expansion, for what is not known."""
    empty = value is None or (operator.startswith(":") and value.known and not value.text)
    if operator.endswith("+"):
        if empty:
            return EMPTY
        return operand if value is not None and (value.known or operator == "+") else hole(text)
    if not empty and value is not None:
        return value
    return hole(text) if operator.endswith("?") else operand


def _named(head: Node, state: State) -> Text | None:
    if head.type == "subscript":
        return _subscript(head, state)
    value = variable(source(head), state)
    if isinstance(value, tuple):
        return value[0] if value and countable(value) else hole(f"${source(head)}") if value else None
    return value


def _subscript(node: Node, state: State) -> Text | None:
    parts = [child for child in node.children if child.type not in ("[", "]")]
    value = get(source(parts[0]), state)
    index = expression(parts[1:], state) if len(parts) > 1 else None
    if value is None:
        return None
    if not isinstance(value, tuple) or index is None or not countable(value):
        return hole(f"${{{source(node)}}}")
    return value[index] if -len(value) <= index < len(value) else None


def _prefixed(children: list[Node], state: State, text: str) -> Text:
    """``${#X}``, ``${#X[@]}`` and ``${!X}``."""
    mark, head = children[0].type, children[1]
    if mark == "!":
        if len(children) > 2 or "[" in text or text.endswith(("*}", "@}")):
            return hole(text)
        name = _named(head, state)
        value = variable(name.text, state) if name is not None and name.known else None
        return value if isinstance(value, Text) else hole(text)
    if (found := re.fullmatch(r"\$\{#(\w+)\[[@*]\]\}", text)) is not None:
        items = get(found[1], state)
        return Text(str(len(items))) if isinstance(items, tuple) and countable(items) else hole(text)
    value = _named(head, state)
    return Text(str(len(value.text))) if value is not None and value.known else hole(text)


def _after(node: Node, operator: Node) -> Iterator[Node | str]:
    """What stands between the operator and the closing brace."""
    passed = False
    for part in _with_gaps(node, first=1, last=-1):
        if passed:
            yield part
        passed = passed or (not isinstance(part, str) and part.id == operator.id)


def _operand(part: Node | str, state: State) -> Text:
    return Text(part) if isinstance(part, str) else join(_pieces(part, state), " ")


def _changed(value: str, operator: str, whole: str) -> str | None:
    """``${X%.*}`` and the like; None for what is not known here."""
    if operator in ("^", "^^", ",", ",,"):
        change = str.upper if operator[0] == "^" else str.lower
        return change(value) if len(operator) == 2 else change(value[:1]) + value[1:]
    if operator in ("%", "%%", "#", "##"):
        return _stripped(value, operator, whole)
    if operator in ("/", "//"):
        pattern, _, by = whole.partition("/")
        return re.sub(translate(pattern)[:-2], lambda _: by, value, count=operator == "/")
    if operator == ":":
        numbers = [part.strip() for part in whole.split(":")]
        if all(re.fullmatch(r"-?\d+", part) for part in numbers):
            start, *length = (int(part) for part in numbers)
            return value[start:] if not length else value[start:][: length[0]]
    return None


def _stripped(value: str, operator: str, pattern: str) -> str:
    matches = re.compile(translate(pattern)).match
    ends = range(len(value) + 1)
    if operator[0] == "%":
        cuts = [cut for cut in ends if matches(value[cut:])]
        return value[: max(cuts) if operator == "%" else min(cuts)] if cuts else value
    cuts = [cut for cut in ends if matches(value[:cut])]
    return value[min(cuts) if operator == "#" else max(cuts) :] if cuts else value


def _substituted(node: Node, state: State) -> Text:
    """``$(basename X)`` and the few others that need nothing but their arguments; the rest is not known."""
    text = source(node)
    if text.startswith("$((") and text.endswith("))"):  # how the grammar reads arithmetic inside of ${X:-…}
        assignment = parse(f"x={text}").children
        value = assignment[0].child_by_field_name("value") if assignment else None
        return hole(text) if value is None or value.type != "arithmetic_expansion" else _computed(value, state)
    commands = [child for child in node.children if child.is_named]
    if len(commands) != 1 or commands[0].type != "command":
        return hole(text)
    inner = state.copy()
    words = [word for part in commands[0].children for word in words_of(part, inner)]
    known = bool(words) and all(word.known and not word.when for word in words)
    result = _answer([word.text for word in words], state) if known else None
    return hole(text) if result is None else result


def _sequence(arguments: list[str]) -> Text | None:
    """What ``seq`` prints."""
    if not all(re.fullmatch(r"-?(0|[1-9]\d{0,3})", argument) for argument in arguments):
        return None
    first, *middle, last = map(int, arguments if len(arguments) > 1 else ["1", *arguments])
    step = middle[0] if middle else 1
    if not step:
        return None
    return Text("\n".join(map(str, range(first, last + (1 if step > 0 else -1), step))))


def _answer(words: list[str], state: State) -> Text | None:  # noqa: PLR0911 - a table of commands
    """What a command that only looks at its arguments prints; None for others."""
    name, *arguments = words
    if name in state.functions:
        return None
    if name == ":":
        return EMPTY
    if name == "seq" and 1 <= len(arguments) <= 3:
        return _sequence(arguments)
    if name == "pwd" and not arguments:
        here = get("PWD", state)
        return here if isinstance(here, Text) else None
    if name == "echo" and not any(a.startswith("-") for a in arguments):
        return Text(" ".join(arguments))
    if name == "dirname" and len(arguments) == 1:
        return Text(str(PurePosixPath(arguments[0]).parent))
    if name == "basename" and arguments and not arguments[0].startswith("-"):
        base = PurePosixPath(arguments[0]).name
        return Text(base.removesuffix(arguments[1]) if len(arguments) > 1 else base)
    return None
