"""A script's file → a sweep's text and what is to be told of it: reads the script, parquet files and verl's keys."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from experiment_specs.errors import SpecError
from orchestrator.importers.script.overrides_of import CommandLine, read_words
from orchestrator.importers.script.port import KINDS, Line, Port, port
from orchestrator.importers.script.shell import Launch, Script, read
from orchestrator.importers.script.spec_text import spec_text

ENTRY = "verl.trainer.main_ppo"
_OTHER_WORK = re.compile(r"sft|generation|eval|merger|preprocess|server")
"""Modules of verl's that do not train by reinforcement."""
MAX_BYTES = 1_000_000


@dataclass(frozen=True)
class Given:
    """What a reader adds to the script. ``rows``: data.train_rows and data.test_rows. ``command``: which of the
    commands that start verl, from 1."""

    variables: Mapping[str, str]
    arguments: tuple[str, ...] = ()
    rows: Mapping[str, int] | None = None
    command: int = 1


@dataclass(frozen=True)
class PortedScript:
    """``text``: the sweep. ``problem``: why it does not plan, where nothing is left to fill in."""

    text: str
    lines: tuple[Line, ...]
    asked: Mapping[str, str]
    notes: tuple[str, ...]
    overrides: int
    plans: bool
    problem: str | None

    @property
    def complete(self) -> bool:
        return self.plans and not any(line.kind in ("ask", "unread") for line in self.lines)

    @property
    def counts(self) -> dict[str, int]:
        """How many lines of each kind."""
        found = Counter(line.kind for line in self.lines)
        return {kind: found[kind] for kind in KINDS}

    @property
    def summary(self) -> str:
        told = ", ".join(f"{count} {re.split('[:,]', KINDS[kind])[0]}" for kind, count in self.counts.items() if count)
        return f"{self.overrides} overrides: {told}"

    def as_json(self) -> dict[str, Any]:
        return {
            "spec": self.text, "lines": [asdict(line) for line in self.lines], "to_fill_in": dict(self.asked),
            "notes": list(self.notes), "overrides": self.overrides, "counts": self.counts, "plans": self.plans,
            "problem": self.problem, "complete": self.complete,
        }  # fmt: skip


def import_script(file: Path, given: Given) -> PortedScript:
    """Raises SpecError for what is no script, and where no command starts verl's training."""
    script = read(_text(file), given.variables, given.arguments)
    launches = [launch for launch in script.launches if not _OTHER_WORK.search(launch.entry)]
    launch = _chosen(file, script, launches, given.command)
    line = read_words(launch.words)
    environment = {name: value.text for name, value in launch.environment.items() if value.known}
    rows = _rows(line, file, given.rows or {})
    seeds, launches = _seeds(launches, launch)
    ported = port(line, rows, environment, seeds)
    if _of_entry(launch) and not ported.configuration:
        ported = replace(ported, configuration=f"the configuration of {launch.entry}")
    more = [*_of_entry(launch), *_of_environment(launch), *_strays(script)]
    more += [Line("", "", "unread", note) for note in script.notes if "not understood" in note]
    notes = [note for note in script.notes if "not understood" not in note] + _to_give(launch)
    name = _name(line, file)
    ported, problem, plans = _planned(ported, name, f"ported from {file.name}")
    return PortedScript(
        text=spec_text(ported, name, f"ported from {file.name}"),
        lines=_collapsed(sorted((*ported.lines, *more), key=lambda item: list(KINDS).index(item.kind))),
        asked={field.removeprefix("set."): why for field, why in ported.asked.items()},
        notes=(*notes, *_about_commands(launches, launch)),
        overrides=len(line.overrides),
        plans=plans,
        problem=problem,
    )


def _collapsed(lines: Iterable[Line]) -> tuple[Line, ...]:
    """Equal lines once, with how often."""
    counts = Counter(lines)
    return tuple(replace(line, text=f"{line.text} ({n} times)") if n > 1 else line for line, n in counts.items())


def _text(file: Path) -> str:
    if not file.is_file():
        raise SpecError("is no file", file=str(file))
    if file.stat().st_size > MAX_BYTES:
        raise SpecError(f"is no script: it is larger than {MAX_BYTES:,} bytes", file=str(file))
    data = file.read_bytes()
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise SpecError(f"is no script: byte {error.start} is not UTF-8", file=str(file)) from error
    if "\0" in text:
        raise SpecError("is no script: it holds zero bytes", file=str(file))
    return text.removeprefix("\ufeff").replace("\r\n", "\n")


def _chosen(file: Path, script: Script, launches: list[Launch], command: int) -> Launch:
    if not launches:
        seen = [f"line {found.line} starts {found.entry}" for found in script.launches] + script.notes
        raise SpecError(
            f"starts no training by reinforcement; looked for python -m {ENTRY}, or another module or file of that"
            f" kind, also behind ray job submit, srun, torchrun and bash -c{''.join(f'; {text}' for text in seen)}",
            file=str(file),
        )  # fmt: skip
    if command > len(launches):
        raise SpecError(f"the script starts verl {len(launches)} times", file=str(file), key="--command")
    return launches[command - 1]


def _rows(line: CommandLine, file: Path, given: Mapping[str, int]) -> dict[str, int]:
    """Counts that were given, or that the parquet files tell, where they are here."""
    rows = dict(given)
    for override in line.overrides:
        name = {"data.train_files": "data.train_rows", "data.val_files": "data.test_rows"}.get(override.key)
        value = override.value[0] if isinstance(override.value, list) and len(override.value) == 1 else override.value
        if name is None or name in given or not isinstance(value, str):
            continue
        rows.pop(name, None)
        for path in (Path(os.path.expandvars(value)).expanduser(), file.parent / value):
            if (count := _parquet_rows(path)) is not None:
                rows[name] = count
                break
    return rows


def _parquet_rows(path: Path) -> int | None:
    if path.suffix != ".parquet" or not path.is_file():
        return None
    import pyarrow
    from pyarrow import parquet

    try:
        return int(parquet.read_metadata(path).num_rows)
    except (OSError, pyarrow.ArrowException) as error:
        raise SpecError(f"cannot be read: {error}", file=str(path)) from error


def _of_entry(launch: Launch) -> list[Line]:
    if launch.entry == ENTRY or launch.entry.endswith("verl/trainer/main_ppo.py"):
        return []
    why = f"what it does beyond {ENTRY} is not carried over"
    return [Line("the trainer's module", launch.entry, "other", why)]


def _of_environment(launch: Launch) -> list[Line]:
    names = [name for name in launch.environment if not name.startswith("VERL_NOISY_OPS_")]
    if not names:
        return []
    why = "a spec sets no variables: what a run needs of them is set where the scheduler starts"
    return [Line("environment", ", ".join(sorted(names)), "other", why)]


def _strays(script: Script) -> list[Line]:
    return [Line(stray.word, "", "dead", f"line {stray.line}: {stray.why}") for stray in script.strays]


_OF_ONE_RUN = ("trainer.experiment_name=", "trainer.default_local_dir=", "data.seed=", "+data.seed=")


def _seeds(launches: list[Launch], chosen: Launch) -> tuple[tuple[int, ...], list[Launch]]:
    """The seeds of a loop that starts the chosen command once per seed, and the commands that it does not stand for."""

    def rest(launch: Launch) -> list[str]:
        return [word.shown for word in launch.words if not word.shown.startswith(_OF_ONE_RUN)]

    alike = [launch for launch in launches if rest(launch) == rest(chosen)]
    seeds = [o.value for launch in alike for o in read_words(launch.words).overrides if o.key == "data.seed"]
    if len(alike) < 2 or len(seeds) != len(alike) or not all(isinstance(seed, int) for seed in seeds):
        return (), launches
    return tuple(dict.fromkeys(seeds)), [launch for launch in launches if launch is chosen or launch not in alike]


def _to_give(launch: Launch) -> list[str]:
    """Which variables would tell more."""
    sources = [text for word in launch.words for text in (*word.unknown, word.when)]
    names = dict.fromkeys(name for text in sources for name in re.findall(r"\$\{?([A-Za-z_]\w*)", text))
    return [f"not known: {', '.join(names)}; --env NAME=VALUE gives a variable a value"] if names else []


def _about_commands(launches: list[Launch], chosen: Launch) -> list[str]:
    found = []
    if chosen.when:
        found.append(f"line {chosen.line} is reached only if {' and '.join(chosen.when)}")
    if len(launches) > 1:
        at = launches.index(chosen) + 1
        found.append(f"{len(launches)} commands start verl, and number {at} (line {chosen.line}) is this sweep")
    own = {word.shown for word in chosen.words}
    for number, other in enumerate(launches, 1):
        words = [word.shown for word in other.words if word.shown not in own]
        if other is not chosen and words:
            found.append(f"--command {number} (line {other.line}) has {', '.join(words[:8])}")
    return found


_NAME = re.compile(r"\w[\w .+-]{0,99}")


def _name(line: CommandLine, file: Path) -> str:
    names = [o.value for o in line.overrides if o.key == "trainer.experiment_name"]
    for name in (*reversed(names), file.stem):
        if isinstance(name, str) and _NAME.fullmatch(name):
            return name
    return "ported"


def _planned(ported: Port, name: str, about: str) -> tuple[Port, str | None, bool]:
    """What is left when the plan has refused keys under trainer, the first other problem, and whether it plans."""
    from orchestrator.prepare import prepare

    if ported.asked:
        return ported, None, False
    with TemporaryDirectory() as folder:
        path = Path(folder) / "ported.yaml"
        for _ in range(len(ported.trainer) + 1):
            path.write_text(spec_text(ported, name, about), encoding="utf-8")
            try:
                prepare(path)
            except SpecError as error:
                problems = getattr(error, "problems", (error,))
                refused = {found.key.removeprefix("trainer."): found.problem for found in problems}
                if not (keys := [key for key in refused if key in ported.trainer]):
                    return ported, "; ".join(f"{f.key}: {f.problem}" if f.key else f.problem for f in problems), False
                for key in keys:
                    ported = ported.without(key, refused[key])
                continue
            return ported, None, True
    return ported, "the plan refuses it", False
