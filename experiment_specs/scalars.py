"""What a plain (unquoted) scalar means: the core schema of YAML 1.2, and an error where YAML 1.1 says otherwise. Pure.

PyYAML reads YAML 1.1, where ``0500`` is 320, ``1:30`` is 90, ``off`` is false and ``1e-5`` is a text. Patterns of the
core schema: YAML 1.2.2, section 10.3.2.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass

NULL = re.compile(r"~|null|Null|NULL|")
BOOLEAN = re.compile(r"true|True|TRUE|false|False|FALSE")
INTEGER = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")
FLOAT = re.compile(
    r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)"
)

_LEADING_ZEROS = re.compile(r"([-+]?)0[0-9]+")
_OTHER_BASE = re.compile(r"[-+]?0b[01_]+|[-+]0x[0-9a-fA-F_]+|0x[0-9a-fA-F_]*_[0-9a-fA-F_]*")
_SEXAGESIMAL = re.compile(r"[-+]?[0-9][0-9_]*(?::[0-5]?[0-9])+(?:\.[0-9_]*)?")
_YES_OR_NO = re.compile(r"y|Y|n|N|yes|Yes|YES|no|No|NO|on|On|ON|off|Off|OFF")


def is_number(text: str) -> bool:
    """Would it be a number without quotes?"""
    return INTEGER.fullmatch(text) is not None or FLOAT.fullmatch(text) is not None


def is_text(text: str) -> bool:
    """Does a plain scalar of these letters stand for themselves, in both versions?"""
    plain = NULL.fullmatch(text) is None and BOOLEAN.fullmatch(text) is None and not is_number(text)
    return plain and ambiguity(text) is None


def integer(text: str) -> int:
    """Of a text that :data:`INTEGER` matches. Raises ValueError for more digits than Python reads."""
    if text.startswith("0x"):
        return int(text[2:], 16)
    return int(text[2:], 8) if text.startswith("0o") else int(text)


def real(text: str) -> float:
    """Of a text that :data:`FLOAT` matches."""
    return float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))


def ambiguity(text: str) -> str | None:
    """Why a plain scalar is refused: YAML 1.1 and 1.2 disagree on it, or it only looks like a number. None where it is
    clear."""
    if zeros := _LEADING_ZEROS.fullmatch(text):
        plain = zeros[1] + (text.removeprefix(zeros[1]).lstrip("0") or "0")
        octal = f" ({int(text, 8)})" if set(text) <= set("+-01234567") and len(text) < MAX_DIGITS else ""
        return f"{text} has leading zeros, which YAML 1.1 reads as octal{octal} and YAML 1.2 does not: write {plain}"
    plain = text.replace("_", "")
    instead = (
        (_YES_OR_NO.fullmatch(text), "a boolean", "true or false; none where a field is to be absent"),
        (_OTHER_BASE.fullmatch(text), "a number", "it in decimal"),
        (_SEXAGESIMAL.fullmatch(text), "a number of base 60", "it in decimal"),
        ("_" in text and text[0] != "_" and is_number(plain), "a number", plain),
    )
    for applies, what, better in instead:
        if applies:
            return f"{text} is {what} in YAML 1.1 and a text in YAML 1.2: write {better}; or '{text}' for the text"
    if not text.isascii() and (odd := odd_letters(text)) is not None:
        return f"{text!r} is no number: {odd.told}; write {odd.number}, or put a text in quotes"
    return None


MAX_DIGITS = 1000
"""A message does not compute with longer numbers."""


@dataclass(frozen=True)
class OddLetters:
    """A text that is a number but for some letters."""

    told: str
    """The letters, as ``U+2212 MINUS SIGN where '-' belongs``."""
    number: str
    """The number that was probably meant."""


def odd_letters(text: str) -> OddLetters | None:
    """The letters that keep a text from being a number, where replacing them makes it one; None where it does not."""
    told: dict[str, str] = {}
    number = ""
    for letter in text:
        meant = _meant(letter)
        number += meant
        if meant != letter:
            named = f"U+{ord(letter):04X} {unicodedata.name(letter, 'without a name')}"
            belongs = f"where {meant!r} belongs" if meant else "where nothing belongs"
            told[letter] = f"{named} {belongs}" + ("; thousands are not grouped" if letter == "," else "")
    if not told:
        return None
    if not is_number(number) and is_number(text.replace(",", "")):
        number, told[","] = text.replace(",", ""), "U+002C COMMA where nothing belongs"
    return OddLetters(", ".join(told.values()), number) if is_number(number) else None


_LOOK_ALIKE = {
    "\N{MINUS SIGN}": "-", "\N{ARABIC DECIMAL SEPARATOR}": ".", "\N{MIDDLE DOT}": ".", ",": ".", " ": "", "\t": "",
    "\N{CYRILLIC SMALL LETTER IE}": "e", "\N{CYRILLIC CAPITAL LETTER IE}": "E",
}  # fmt: skip


def _meant(letter: str) -> str:
    """The letter of a number that another one looks like; "" for spaces and what is not printed."""
    if letter in _LOOK_ALIKE:
        return _LOOK_ALIKE[letter]
    if letter.isascii():
        return letter
    category = unicodedata.category(letter)
    if category == "Nd":
        return str(unicodedata.decimal(letter))
    if category == "Pd":
        return "-"
    if category in ("Zs", "Cf"):
        return ""
    folded = unicodedata.normalize("NFKC", letter)
    return folded if folded in (".", "+", ",", "e", "E", "_", "x", "o") else letter
