"""Commands of bash that assign variables: ``read``, ``mapfile``, ``printf -v``, ``declare`` and the like, on words.

What is not followed exactly makes the variables unknown that the command assigns; all, where it is not known which.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from orchestrator.importers.script.text import EMPTY, EVERY, HOLE, State, Text, Value, hole, join
from orchestrator.importers.script.variables import compute, forget, forget_all, get, put, unset

_NAME = re.compile(r"[A-Za-z_]\w*")


def base(word: Text) -> str:
    """The variable of ``name`` or ``name[…]``; empty where it is not known."""
    found = re.match(r"([A-Za-z_]\w*)(?:\[.*\])?$", word.text, re.DOTALL)
    return found[1] if found is not None else ""


def forget_words(words: Sequence[Text], state: State) -> None:
    """The variables that these words name are assigned something that is not known."""
    for word in words:
        if name := base(word):
            forget([name], state)
        elif word.unknown:
            forget_all(state)


def split_options(words: Sequence[Text], with_value: str) -> tuple[dict[str, Text], list[Text]]:
    """Options with their values, and the words behind them. ``with_value``: the letters that take one."""
    options: dict[str, Text] = {}
    rest = list(words)
    while rest and re.match(r"-\w", rest[0].text):
        letters = rest.pop(0).text[1:]
        for at, letter in enumerate(letters):
            if letter in with_value:
                behind = letters[at + 1 :]
                options[letter] = Text(behind) if behind else rest.pop(0) if rest else EMPTY
                break
            options[letter] = EMPTY
    if rest and rest[0].text == "--":
        rest.pop(0)
    return options, rest


def read_input(words: Sequence[Text], given: Text | None, state: State) -> None:
    """``read``. ``given``: the whole of what it reads; None where that is not known."""
    options, names = split_options(words, "adinNptu")
    if any(word.unknown for word in words) or set(options) - set("rad") or given is None:
        targets = [*names, *([options["a"]] if "a" in options else [])]
        forget_words(targets or [Text("REPLY")], state)
        return
    whole = "d" in options and not options["d"].text
    if "d" in options and not whole:
        forget_words([*names, *([options["a"]] if "a" in options else [])] or [Text("REPLY")], state)
        return
    line = given if whole else _first_line(given)
    if line is None or ("r" not in options and "\\" in line.text):
        forget_words([*names, *([options["a"]] if "a" in options else [])] or [Text("REPLY")], state)
        return
    _give(line, names, options.get("a"), state)


def _first_line(given: Text) -> Text | None:
    line = given.text.partition("\n")[0]
    return Text(line, given.unknown[: line.count(HOLE)])


def _give(line: Text, names: Sequence[Text], into: Text | None, state: State) -> None:
    separators = get("IFS", state) if state.variables.get("IFS") is not None else Text(" \t\n")
    sign = separators.text if isinstance(separators, Text) and separators.known else None
    if into is not None:
        if not _NAME.fullmatch(into.text) or not line.known or sign is None:
            forget_words([into], state)
        elif sign == " \t\n":
            put(into.text, tuple(map(Text, line.text.split())), state)
        elif len(sign) == 1 and not sign.isspace() and "\n" not in line.text:
            items = line.text.split(sign)
            put(into.text, tuple(map(Text, items[:-1] if not items[-1] else items)), state)
        else:
            forget_words([into], state)
        return
    if len(names) == 1 and _NAME.fullmatch(names[0].text) and sign in (" \t\n", ""):
        put(names[0].text, Text(line.text.strip(" \t\n") if sign else line.text, line.unknown), state)
    elif names and line.known and sign == " \t\n" and all(_NAME.fullmatch(name.text) for name in names):
        parts = line.text.strip(sign).split(None, len(names) - 1)
        for at, name in enumerate(names):
            put(name.text, Text(parts[at] if at < len(parts) else ""), state)
    else:
        forget_words(names or [Text("REPLY")], state)


def map_file(words: Sequence[Text], given: Text | None, state: State) -> None:
    """``mapfile`` and ``readarray``."""
    options, names = split_options(words, "dnOsuCc")
    name = names[0] if names else Text("MAPFILE")
    if given is None or not given.known or set(options) - {"t"} or not _NAME.fullmatch(name.text):
        forget_words([name], state)
        if "C" in options:
            forget_all(state)
        return
    lines = given.text.splitlines(keepends="t" not in options)
    put(name.text, tuple(map(Text, lines)), state)


def formatted(words: Sequence[Text]) -> str | None:
    """What ``printf`` prints; None for a format beyond ``%s``, ``%d``, ``%02d`` and ``%%``."""
    if not words or not all(word.known and not word.when for word in words):
        return None
    shape, values = words[0].text, [word.text for word in words[1:]]
    if re.search(r"%(?!s|%|0?\d*d)|\\(?![nt\\])", shape):
        return None
    needed = len(re.findall(r"%(?!%)", shape.replace("%%", "")))
    rounds = 1 if not needed else -(-len(values) // needed) or 1
    if needed * rounds != len(values):
        return None
    waiting = iter(values)
    try:
        part = re.compile(r"%%|%s|%0?\d*d|\\.")
        return "".join(part.sub(lambda found: _one(found[0], waiting), shape) for _ in range(rounds))
    except ValueError:
        return None


def _one(part: str, values: Iterator[str]) -> str:
    if part[0] == "\\":
        return {"n": "\n", "t": "\t", "\\": "\\"}[part[1]]
    if part == "%%":
        return "%"
    value = next(values)
    if part == "%s":
        return value
    if not re.fullmatch(r"-?(0|[1-9]\d*)", value):
        raise ValueError(value)
    return part % int(value)


def print_into(words: Sequence[Text], state: State) -> None:
    """``printf``, of which ``-v`` assigns."""
    if not words or not words[0].text.startswith("-v"):
        if words and words[0].unknown:
            forget_all(state)
        return
    behind = words[0].text[2:]
    target, rest = (Text(behind), words[1:]) if behind else (words[1] if len(words) > 1 else EMPTY, words[2:])
    rest = rest[1:] if rest and rest[0].text == "--" else rest
    text = formatted(rest)
    if text is None or not _NAME.fullmatch(target.text):
        forget_words([target], state)
    else:
        put(target.text, Text(text), state)


def let(words: Sequence[Text], state: State) -> bool | None:
    """The status of ``let``: that of its last expression."""
    value: int | None = None
    for at, word in enumerate(words):
        value = compute(word, state)
        if value is None:  # where bash refuses an expression, it reads none of those behind it
            for later in words[at + 1 :]:
                compute(join((later, hole(later.text))), state)
            return None
    return None if value is None else bool(value)


def unset_words(words: Sequence[Text], state: State) -> None:
    for at, word in enumerate(words):
        if word.text in ("-f", "-n", "-fn", "-nf"):
            for later in words[at + 1 :]:
                if "f" in word.text:
                    state.functions.pop(later.text, None)
                else:
                    forget_all(state)
            return
        if _NAME.fullmatch(word.text):
            if "r" in state.attributes.get(word.text, ""):
                continue
            if state.outer is not None and word.text in state.outer:
                forget([word.text], state)  # bash may show what the local variable hid
            else:
                if state.value(word.text) is None:
                    state.functions.pop(word.text, None)
                unset(word.text, state)
        elif not word.text.startswith("-"):
            forget_words([word], state)


def localise(name: str, state: State) -> None:
    """``name`` belongs to the function that is walked: what it was comes back at its end."""
    if state.outer is not None and name not in state.outer:
        state.outer[name] = (state.value(name), state.attributes.pop(name, ""))
        state.variables[name] = None


@dataclass(frozen=True)
class Declaration:
    """One name of ``declare``, ``local``, ``export`` or ``readonly`` (``kind``). ``flags``: as ``-ix``; ``add``:
    ``+=``."""

    kind: str
    flags: str
    name: str
    value: Value | None = None
    add: bool = False


def declare(declared: Declaration, state: State) -> None:
    kind, flags, name = declared.kind, declared.flags, declared.name
    if kind == "export" or "x" in flags:
        hidden = kind == "export" and "-n" in flags
        state.exported = state.exported - {name} if hidden else state.exported | {name}
    if kind in ("export", "readonly"):
        if declared.value is not None:
            assign(name, declared.value, declared.add, state)
    elif any(letter in flags for letter in "fFp") or (kind == "local" and state.outer is None):
        return  # functions are shown; and bash refuses `local` outside of a function
    elif "g" in flags and state.outer is not None:
        if name in state.outer:
            state.outer[name] = (hole(f"${name}"), "")
        forget([name], state)
    else:
        _declare_here(declared, state)
    if kind == "readonly" or ("r" in flags and kind != "export"):
        state.attributes[name] = state.attributes.get(name, "") + "r"


def _declare_here(declared: Declaration, state: State) -> None:
    flags, name, value = declared.flags, declared.name, declared.value
    localise(name, state)
    if "n" in flags:
        state.attributes[name] = "n"
        state.references[name] = value if isinstance(value, Text) else hole(f"${name}")
        return
    if "+" in flags:
        state.attributes.pop(name, None)
        forget([name], state)
        return
    state.attributes[name] = state.attributes.get(name, "") + "".join(sign for sign in flags if sign in "iulcA")
    if "A" in state.attributes[name]:
        forget([name], state)
    elif value is not None:
        assign(name, value, declared.add, state)
    elif "a" in flags and state.value(name) is None:
        put(name, (), state)


def assign(name: str, value: Value, add: bool, state: State) -> None:
    """``name=value``, or ``name+=value``."""
    if not add:
        put(name, value, state)
        return
    old = get(name, state)
    if isinstance(value, tuple):
        put(name, (*(old if isinstance(old, tuple) else () if old is None else (old,)), *value), state)
        return
    first = old[0] if isinstance(old, tuple) and old else EMPTY if isinstance(old, tuple) or old is None else old
    if "i" in state.attributes.get(name, ""):
        number = compute(Text(f"({first.text or 0}) + ({value.text or 0})", (*first.unknown, *value.unknown)), state)
        put(name, hole(f"${name}") if number is None else Text(str(number)), state)
        return
    put(name, join((first, value)), state)


def may_change(text: str, state: State) -> frozenset[str]:
    """The names that a piece of bash may assign, taken broadly: every name in it that no dollar sign stands before,
    and those of the functions that it may call."""
    if re.search(r"(?<![\w-])(?:eval|source|\.)(?![\w/=])", text):
        return frozenset({EVERY})
    found: set[str] = set()
    waiting = [text]
    while waiting:
        for name in re.findall(r"(?<![\w$])(?<!\$\{)[A-Za-z_]\w*|(?<=\$\{)[A-Za-z_]\w*(?=:?=)", waiting.pop()):
            if name in found:
                continue
            found.add(name)
            if name in state.functions:
                body = state.functions[name]
                if body is None:
                    return frozenset({EVERY})
                waiting.append((body.text or b"").decode("utf-8", "replace"))
    return frozenset(found)
