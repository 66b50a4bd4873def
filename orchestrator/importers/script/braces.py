"""Brace expansion of bash: ``{1..3}`` and ``a{b,c}``, on the text of one word."""

from __future__ import annotations

import re

MAX_WORDS = 1_000
_RANGE = re.compile(r"(-?\d+|[A-Za-z])\.\.(-?\d+|[A-Za-z])(?:\.\.(-?\d+))?")


def expanded(text: str) -> list[str]:
    """The words that one word becomes; itself where it has no braces of that kind. A backslash quotes."""
    for start, end in _pairs(text):
        inner = text[start + 1 : end]
        items = _range(inner)
        if items is None:
            parts = _parts(inner)
            if len(parts) < 2:
                continue
            items = [word for part in parts for word in expanded(part)]
        tails = expanded(text[end + 1 :])
        if len(items) * len(tails) > MAX_WORDS:
            return [text]
        return [text[:start] + item + tail for item in items for tail in tails]
    return [text]


def _pairs(text: str) -> list[tuple[int, int]]:
    """Where braces open and close, from the left."""
    opened: list[int] = []
    pairs = []
    at = 0
    while at < len(text):
        if text[at] == "\\":
            at += 1
        elif text[at] == "{":
            opened.append(at)
        elif text[at] == "}" and opened:
            pairs.append((opened.pop(), at))
        at += 1
    return sorted(pairs)


def _parts(inner: str) -> list[str]:
    """What commas outside of inner braces separate."""
    parts, depth, at = [""], 0, 0
    while at < len(inner):
        sign = inner[at]
        if sign == "\\":
            parts[-1] += inner[at : at + 2]
            at += 2
            continue
        depth += {"{": 1, "}": -1}.get(sign, 0)
        if sign == "," and depth <= 0:
            parts.append("")
        else:
            parts[-1] += sign
        at += 1
    return parts


def _range(inner: str) -> list[str] | None:
    found = _RANGE.fullmatch(inner)
    if found is None or found[1].isalpha() != found[2].isalpha():
        return None
    letters = found[1].isalpha()
    start, end = (ord(text) if letters else int(text) for text in (found[1], found[2]))
    step = abs(int(found[3] or 1)) or 1
    if abs(end - start) // step >= MAX_WORDS:
        return None
    numbers = range(start, end + 1, step) if start <= end else range(start, end - 1, -step)
    if letters:
        return [chr(number) for number in numbers]
    padded = any(re.match(r"-?0\d", text) for text in (found[1], found[2]))
    width = max(len(found[1]), len(found[2])) if padded else 0
    return [f"{number:0{width}d}" for number in numbers]
