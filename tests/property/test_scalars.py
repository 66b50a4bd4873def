"""Every plain scalar of a spec means what YAML 1.2 says, or is an error; it never means what only YAML 1.1 says."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st

from experiment_specs.errors import Problems, SpecError
from experiment_specs.yaml_source import read_yaml


def core_schema(text: str) -> Any:  # noqa: PLR0911 - a row of the table each
    """The tag resolution table of YAML 1.2.2, section 10.3.2, on its own."""
    if re.fullmatch(r"null|Null|NULL|~|", text):
        return None
    if re.fullmatch(r"true|True|TRUE", text):
        return True
    if re.fullmatch(r"false|False|FALSE", text):
        return False
    if re.fullmatch(r"[-+]?[0-9]+", text):
        return int(text)
    if re.fullmatch(r"0o[0-7]+", text):
        return int(text, 8)
    if re.fullmatch(r"0x[0-9a-fA-F]+", text):
        return int(text, 16)
    if re.fullmatch(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?", text):
        return float(text)
    if re.fullmatch(r"[-+]?(\.inf|\.Inf|\.INF)", text):
        return -math.inf if text.startswith("-") else math.inf
    return math.nan if re.fullmatch(r"\.nan|\.NaN|\.NAN", text) else text


def older(text: str) -> Any:
    """What a reader of YAML 1.1 makes of it."""
    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, ValueError):
        return text


def is_plain(text: str) -> bool:
    """Is it one plain scalar, of these very letters?"""
    try:
        node = yaml.compose(f"value: {text}\n")
    except yaml.YAMLError:
        return False
    if not isinstance(node, yaml.MappingNode) or len(node.value) != 1:
        return False
    value = node.value[0][1]
    return isinstance(value, yaml.ScalarNode) and value.style is None and value.value == text and not text.endswith(":")


def same(one: Any, other: Any) -> bool:
    if isinstance(one, float) and isinstance(other, float) and math.isnan(one):
        return math.isnan(other)
    return type(one) is type(other) and one == other


digits = st.text("0123456789", min_size=1, max_size=6)
like_numbers = st.one_of(
    st.integers().map(str),
    st.floats().map(repr),
    st.text("0123456789+-._:eEoxb", min_size=1, max_size=8),
    st.builds("{}{}{}".format, st.sampled_from(["", "+", "-", "0", "00", "0o", "0x", "0b", "-0x", "."]), digits,
              st.sampled_from(["", ".", "_", "_0", ":30", ":30.5", "e5", "e-5", "E+05", ".5e3", "_000"])),
    st.sampled_from(["yes", "No", "ON", "off", "y", "N", "true", "False", "null", "~", ".inf", "-.INF", ".NaN", "=", "<<",
                     "2026-01-02", "2026-01-02 03:04:05", "0", "-0", "0.0", "08", "1e999", "None", "nan", "inf"]),
)  # fmt: skip


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=500)
@given(text=like_numbers | st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=6))
@example(text="0500")
@example(text="1:30")
@example(text="1_000")
@example(text="1e-5")
@example(text="off")
def test_a_plain_scalar_is_what_yaml_1_2_says_or_an_error(text: str, tmp_path: Path) -> None:
    assume(is_plain(text))
    path = tmp_path / "one.yaml"
    path.write_text(f"value: {text}\n", encoding="utf-8", newline="")
    new, old = core_schema(text), older(text)
    problems = Problems()
    found = read_yaml(path, problems=problems).data["value"]
    if not problems.found:
        assert same(found, new)
        assert same(old, new) or not isinstance(old, int | float | bool), f"YAML 1.1 reads {old!r}"
        return
    assert [(one.line, one.key) for one in problems.found] == [(1, "value")]
    clear = isinstance(new, int | float | bool | None) and same(new, old) and not re.match(r"[-+]?0[0-9]", text)
    assert not clear, f"{text!r} is refused, and both versions read {new!r}"


@given(number=st.integers(-(10**20), 10**20) | st.floats(allow_nan=False, allow_infinity=False))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_every_number_that_python_prints_is_that_number(number: float, tmp_path: Path) -> None:
    path = tmp_path / "one.yaml"
    path.write_text(f"value: {number!r}\n")
    assert same(read_yaml(path).data["value"], number)


@given(
    number=st.integers(0, 10**6).map(str) | st.floats(1e-8, 1e6).map(repr),
    letters=st.sampled_from([("-", "\u2212"), ("-", "\u2013"), ("1", "\uff11"), ("2", "\u0662"), ("e", "\u0435")]),
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_number_with_a_letter_that_looks_right_names_the_letter(
    number: str, letters: tuple[str, str], tmp_path: Path
) -> None:
    right, odd = letters
    assume(right in number)
    path = tmp_path / "one.yaml"
    path.write_text(f"value: {number.replace(right, odd)}\n", encoding="utf-8")
    with pytest.raises(SpecError, match=f"U\\+{ord(odd):04X} .* where '{right}' belongs; write {re.escape(number)},"):
        read_yaml(path)
