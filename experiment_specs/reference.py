"""Every key of the language as a page of the docs, from the types and their own words: ``python -m
experiment_specs.reference`` writes docs/language.md, and a test holds the page to it."""

from __future__ import annotations

from pathlib import Path

from experiment_specs.explain import Explanation, explain, keys

PAGE = Path(__file__).resolve().parents[1] / "docs" / "language.md"
HEAD = """\
# Every key of the language

Made from the types by `python -m experiment_specs.reference`; `aqn spec explain KEY` says the same in a terminal, and
`aqn spec schema` to an editor. How the keys work together: [Writing a sweep](specs.md).
"""


def page() -> str:
    """Top-level keys, each with its parts below it."""
    listed = keys()
    parts = [HEAD]
    for top in dict.fromkeys(key.partition(".")[0] for key in listed):
        parts += _section(explain(top), [explain(key) for key in listed if key.startswith(f"{top}.")])
    return "\n".join(parts).rstrip() + "\n"


def _section(top: Explanation, below: list[Explanation]) -> list[str]:
    lines = [f"## `{top.key}`", "", top.about.strip(), ""]
    if top.accepts:
        lines += [f"*Accepts*: {top.accepts}." + (f" *Default*: `{top.default}`." if top.default else ""), ""]
    if top.presets:
        lines += ["| preset | means |", "| --- | --- |"]
        lines += [f"| `{name}` | {_meaning(value)} |" for name, value in top.presets.items()]
        lines.append("")
    if below:
        lines += ["| key | accepts | default | decides in verl |", "| --- | --- | --- | --- |"]
        lines += [
            f"| `{one.key}` | {_cell(one.accepts)} | {f'`{one.default}`' if one.default else '–'} "
            f"| {', '.join(f'`{key}`' for key in one.verl_keys) or '–'} |"
            for one in below
        ]
        lines.append("")
    elif top.verl_keys:
        lines += ["*Decides in verl*: " + ", ".join(f"`{key}`" for key in top.verl_keys) + ".", ""]
    return lines


def _meaning(value: object) -> str:
    if not isinstance(value, dict):
        return f"`{value}`" if value is not None else "none"
    return ", ".join(f"{key} `{inner}`" for key, inner in value.items()) or "–"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ") or "–"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
