"""verl's console log → curves, one per attempt.

Two streams meet in such a file: what the trainer prints (step lines, dicts of metrics) and what it writes to stderr
(progress bars, tracebacks). Within a stream the order is right; between them it is not, as stdout is buffered: all
bars of a run may come before its first step line. The end of a process empties both, so they do not cross attempts.
"""

from __future__ import annotations

import ast
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from itertools import pairwise
from pathlib import Path

from experiment_specs.errors import SpecError
from orchestrator.importers import json_lines
from orchestrator.importers.attempts import Attempt, Eval, curves_of
from orchestrator.importers.curves import Ended, ImportedCurve
from orchestrator.raylog import ANSI, REPEATED, WRITER

NUMBER = (
    r"[-+]?(?:(?i:nan|inf(?:inity)?)|[1-9]\d{0,2}(?:,\d{3})+(?:\.\d+)?|(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)"
)  # fmt: skip
VALUE = rf"(?:np\.\w+\({NUMBER}\)|{NUMBER}|True|False)"
INNER_WRITER = re.compile(r"\([^()\s]{1,80} pid=\d+(?:, ip=[^()\s]+)?\) |\(raylet(?:, ip=[^()\s]+)?\) ")
BAR = re.compile(r"Training Progress:\s*\d+%\|[^|]*\|\s*(\d{1,9})/(\d{1,9}) \[[^\]]*\]")
STEP_BEGINS = r"step:(\d{1,9}) - (?=[^\s:]+/[^:]*(?:$|:(?:$|[-+.\dnNiItTF]))|val[-/][^:]*:\S)"
STEP = re.compile(rf"(?<![^\s\])>]){STEP_BEGINS}")
STEP_BEHIND_A_NUMBER = re.compile(rf"(?<=[\d).]){STEP_BEGINS}")
ENDS_WITH_NUMBER = re.compile(rf" - [^\s:][^:]*:(?:np\.\w+\({NUMBER}\)|{NUMBER})$")
STEP_LINE = re.compile(rf"step:\d+(?: - [^\s:][^:]*:{VALUE})+\s*")
STEP_TORN_EARLY = re.compile(r"step:(?:\d+(?: (?:- ?[^\s:/]*)?)?)?")
ITEMS_THEN_TORN = re.compile(rf"step:\d+(?: - [^\s:][^:]*:{VALUE})+ - .*")
# The number at the end of a piece may be torn, but for one in parentheses.
ITEM_VALUE = rf"(?:np\.\w+\(({NUMBER})\)|({NUMBER})(?= - |\s*$))"
EVAL_TAG = r"val[-/][^:]*"
EVAL = re.compile(rf" - ({EVAL_TAG}):{ITEM_VALUE}| - val-(?:core|aux)/[^\s:]+:\S")
NUMBER_HERE = re.compile(ITEM_VALUE)
ITEM_END = r"(?= - [^\s:][^:]*:|\s*$)"
TAGS = re.compile(r" - ([^\s:][^:]*):")
ENDS_WITH_EVAL = re.compile(r" - val[-/][^:]*:[^:]*$")
SPOKEN = re.compile(r"""\(?(["']?)(Initial|Final) validation metrics: \{""")
SPOKEN_VALUE = re.compile(
    rf"'([^']+)': (?:np\.\w+\(({NUMBER})\)(?=\s*[,}}])|({NUMBER})(?=\s*(?:,\s*'|,?\s*}}))|(.*?)(?=,\s*'|,?\s*}}))",
    re.DOTALL,
)
FIRST_MONTHS = "test_score/"
"""How verl's first months named a score in the dicts that they printed; their step lines had ``val/`` before it."""
FRAGMENT = re.compile(r"""\s*\(?(["'].*["'])\)?\s*""")
START = re.compile(r"Total training steps: (\d{1,9})")
RESUME = re.compile(r"[Ss]etting global step to (\d{1,9})")
TRACEBACK = "Traceback (most recent call last):"
KILLED = re.compile(r"^(?:Killed|Terminated)\b|slurmstepd: error|oom.kill|due to memory pressure|SIGTERM|SIGKILL")
# Most lines of a log are looked at no further than this.
TELLING = re.compile(
    rb"step:|val-core/|Training Progress|validation metrics: |otal training steps: |etting global step"
    rb"|Traceback|Exception ignored|Killed|Terminated|slurmstepd|oom.kill|memory pressure|SIGTERM|SIGKILL"
)

UNICODE_MINUS = "\N{MINUS SIGN}"
LONGEST_LINE = 1 << 22
MOST_LINES_BETWEEN = 200
"""Lines of others within which the rest of a torn line, a dict or a traceback is waited for."""
MOST_LINES_BEHIND = 20
"""The same for the rest of a step line that looks whole."""
MOST_STEPS_LATE = 2
"""Steps told of after the error that ended them."""
LONGEST_WHY = 300
# Names that say nothing of the run; its folder does.
NAMELESS = {"trainer", "train", "training", "console", "output", "log", "logs", "stdout", "stderr", "nohup", "run"}


@dataclass(frozen=True)
class Piece:
    """What one process wrote on one line, without its prefix."""

    line: int
    writer: str
    text: str
    complete: bool
    """Whether the line ended here; else the rest may stand elsewhere."""


@dataclass(frozen=True)
class Bar:
    """A progress bar of the training."""

    done: int
    total: int
    text: str


@dataclass(frozen=True)
class Trouble:
    """The last line of a traceback or a word of a kill, and where the training stood."""

    text: str
    bar: int
    step: int


@dataclass
class Known:
    """What is known so far of one attempt."""

    line: int
    started: bool = False
    """Whether its own start line was seen."""
    step: int = -1
    bar: int = -1
    base: int = 0
    """The step that it was resumed from."""
    last: int = 0
    planned: int | None = None
    evals: dict[str, dict[int, list[Eval]]] = field(default_factory=dict)
    spoken: list[tuple[str, int, dict[str, Eval]]] = field(default_factory=list)
    tags: dict[str, None] = field(default_factory=dict)
    """Every tag of its step lines."""
    step_text: str = ""
    bar_text: str = ""
    trouble: dict[str, Trouble] = field(default_factory=dict)
    torn: list[int] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def trained(self) -> bool:
        """Whether more than its start was seen."""
        return self.step >= 0 or self.bar >= 0 or bool(self.spoken)


@dataclass
class Torn:
    """A step line whose rest may still come."""

    attempt: Known
    text: str
    line: int
    complete: bool

    @property
    def looks_whole(self) -> bool:
        """Whether it ends with a number that nothing can be missing of."""
        return STEP_LINE.fullmatch(self.text) is not None and (self.complete or self.text.rstrip().endswith(")"))


@dataclass
class Spoken:
    """A printed dict of metrics that is not closed yet."""

    attempt: Known
    kind: str
    step: int
    text: str
    line: int


def read(path: Path, label: str | None = None, metrics: Sequence[str] = ()) -> list[ImportedCurve]:
    """Every attempt that a log tells of, test set by test set; what cannot be recorded says why.

    ``label``: what to call the run. ``metrics``: tags to read instead of the scores. verl's ``file`` logger is read
    too. Raises SpecError where it is no log of verl.
    """
    name = label or name_of(path)
    if json_lines.recognised(path):
        return curves_of(name, str(path), json_lines.read(path, metrics), metrics)
    reader = Reader(metrics)
    beside = ""
    try:
        with path.open("rb") as handle:
            number = 1
            while raw := handle.readline(LONGEST_LINE):
                if not beside and b"val-core/" in raw:
                    beside = f"; line {number} names val-core, and is neither"
                if reader.waiting or TELLING.search(raw):
                    reader.take(number, raw.decode("utf-8", "replace").replace(UNICODE_MINUS, "-"))
                number += raw.endswith(b"\n")
    except OSError as error:
        raise SpecError(f"this log cannot be read: {error.strerror}", file=str(path)) from error
    reader.close()
    attempts = [attempt for attempt in reader.attempts if attempt.trained]
    if not any(attempt.step >= 0 or evaluated(attempt) for attempt in attempts):
        raise SpecError(
            f"{path.name} is no verl console log: neither a step line (step:N - TAG:VALUE) nor a printed dict of"
            f" metrics in it, nor a record of verl's file logger{beside}",
            file=str(path),
        )
    if (last := reader.attempts[-1]) is not attempts[-1]:
        attempts[-1].notes.append(f"line {last.line} starts another attempt, which trained no step")
    return curves_of(name, str(path), [attempt_of(attempt) for attempt in attempts], metrics)


def pieces(number: int, raw: str) -> Iterator[Piece | Bar]:
    """A line by writer: Ray puts several into one, a bar ends without a line end, and others write right behind it."""
    ended = raw.endswith("\n")
    parts = ANSI.sub("", raw).rstrip("\n").split("\r")
    last = max((n for n, part in enumerate(parts) if part), default=0)
    writer = ""
    for n, part in enumerate(parts):
        complete = ended and n >= last
        start = 0
        for bar in BAR.finditer(part):
            for piece in by_writer(number, writer, part[start : bar.start()], complete=False):
                writer = piece.writer
                yield piece
            yield Bar(int(bar[1]), int(bar[2]), bar[0])
            start = bar.end()
        for piece in by_writer(number, writer, part[start:], complete=complete):
            writer = piece.writer
            yield piece


def by_writer(number: int, writer: str, text: str, *, complete: bool) -> Iterator[Piece]:
    """A text cut where Ray's prefixes stand."""
    if prefix := WRITER.match(text):
        writer, text = prefix[0].strip(), text[prefix.end() :]
    while inner := INNER_WRITER.search(text):
        if before := text[: inner.start()]:
            yield Piece(number, writer, before, complete=False)
        writer, text = inner[0].strip(), text[inner.end() :]
    yield Piece(number, writer, REPEATED.sub("", text), complete=complete)


def step_lines(piece: Piece) -> list[Piece]:
    """What stands before the first step line, and each step line: two of them on one line are of two steps.

    Directly behind a number, a step line may have overwritten the end of it: that number counts as torn.
    """
    text = piece.text
    clean = {found.start() for found in STEP.finditer(text)}
    behind = {found.start() for found in STEP_BEHIND_A_NUMBER.finditer(text)} - clean
    glued = {start for start in behind if ENDS_WITH_NUMBER.search(text[:start])}
    cuts = [0, *sorted(clean | glued), len(text)]
    return [
        Piece(piece.line, piece.writer, text[start:end], piece.complete if end == len(text) else end not in glued)
        for start, end in pairwise(cuts)
    ]


class Reader:
    """Line by line to attempts."""

    def __init__(self, metrics: Sequence[str] = ()) -> None:
        tags = "|".join([EVAL_TAG, *(re.escape(tag) for tag in metrics)])
        self._item = re.compile(rf" - ({tags}):(.*?){ITEM_END}")
        self.attempts: list[Known] = []
        self._torn: dict[str, Torn] = {}
        self._head: dict[str, str] = {}
        """Writer → the first letters of a step line that was torn before its number ended."""
        self._spoken: dict[str, Spoken] = {}
        self._tracebacks: dict[str, tuple[str, int]] = {}

    @property
    def waiting(self) -> bool:
        """Whether a line may matter that says nothing by itself."""
        return bool(self._torn or self._head or self._spoken or self._tracebacks)

    def take(self, number: int, raw: str) -> None:
        self._give_up(number)
        for piece in pieces(number, raw):
            if isinstance(piece, Bar):
                self._bar(piece, number)
            elif piece.text.strip():
                self._piece(piece)
            elif piece.complete and (torn := self._torn.get(piece.writer)):
                torn.complete = True  # another process wrote between a line and its end

    def _give_up(self, number: int) -> None:
        """What was waited for in vain."""
        for writer, torn in list(self._torn.items()):
            behind = number - torn.line
            if behind > MOST_LINES_BETWEEN or (behind > MOST_LINES_BEHIND and torn.looks_whole):
                self._store(self._torn.pop(writer))
        for writer, spoken in list(self._spoken.items()):
            if number - spoken.line > MOST_LINES_BETWEEN:
                del self._spoken[writer]
        for writer, (_, line) in list(self._tracebacks.items()):
            if number - line > MOST_LINES_BETWEEN:
                del self._tracebacks[writer]

    def close(self) -> None:
        """The end of the file."""
        for torn in self._torn.values():
            self._store(torn)
        self._torn = {}

    def _current(self, number: int) -> Known:
        return self.attempts[-1] if self.attempts else self._new(number)

    def _new(self, number: int) -> Known:
        self.attempts.append(Known(number))
        return self.attempts[-1]

    def _piece(self, piece: Piece) -> None:
        waits = piece.writer in self._torn or piece.writer in self._head
        before, *steps = step_lines(piece)
        if waits and steps and before.text.strip():
            self._step_goes_on(before)  # else it is a time or another prefix
        for step in steps or [before]:
            self._line(step)

    def _line(self, piece: Piece) -> None:
        if self._dict_goes_on(piece) or self._step_goes_on(piece):
            return
        self._head.pop(piece.writer, None)
        if found := STEP.search(piece.text):
            self._step(int(found[1]), Piece(piece.line, piece.writer, piece.text[found.start() :], piece.complete))
            return
        if STEP_TORN_EARLY.fullmatch(piece.text):
            self._head[piece.writer] = piece.text
        elif found := SPOKEN.search(piece.text):
            self._speaks(found, piece)
        elif found := START.search(piece.text):
            self._start(int(found[1]), piece.line)
        elif found := RESUME.search(piece.text):
            self._resume(int(found[1]), piece.line)
        elif EVAL.search(piece.text):
            self._current(piece.line).torn.append(piece.line)
        else:
            self._may_be_trouble(piece)

    # Progress

    def _bar(self, bar: Bar, number: int) -> None:
        attempt = self._current(number)
        if bar.done < attempt.bar:
            attempt = self._new(number)
        attempt.bar, attempt.planned, attempt.bar_text = bar.done, bar.total, bar.text
        attempt.last = max(attempt.last, bar.done)

    def _step(self, step: int, piece: Piece) -> None:
        attempt = self._current(piece.line)
        if step < attempt.step:
            attempt = self._new(piece.line)
        attempt.step, attempt.step_text = step, piece.text
        attempt.last = max(attempt.last, step)
        if torn := self._torn.pop(piece.writer, None):
            self._store(torn)
        self._torn[piece.writer] = Torn(attempt, piece.text, piece.line, piece.complete)

    def _start(self, planned: int, number: int) -> None:
        attempt = self._current(number)
        # Bars alone may be this attempt's own, written before what the trainer printed.
        if attempt.step >= 0 or (attempt.started and attempt.bar >= 0):
            attempt = self._new(number)
        attempt.started, attempt.planned = True, planned

    def _resume(self, step: int, number: int) -> None:
        attempt = self._current(number)
        before = self.attempts[-2] if len(self.attempts) > 1 else None
        known, last = attempt.step >= 0, attempt.last
        if not known and before is not None and step <= before.last:
            # The same run goes on: what was seen of a new attempt is its.
            self.attempts.pop()
            before.planned = attempt.planned or before.planned
            before.bar, before.bar_text = attempt.bar, attempt.bar_text or before.bar_text
            attempt, known = before, True
            last, attempt.last = attempt.last, max(attempt.last, last)
        elif known:
            attempt.bar = -1
        behind = f"; steps {step + 1} to {last} were trained again" if known and last > step else ""
        missing = "" if known else ": what came before is not in this file"
        attempt.notes.append(f"resumed from step {step} (line {number}){behind}{missing}")
        attempt.base, attempt.last, attempt.trouble = step, max(attempt.last, step), {}
        if attempt.step >= 0:
            attempt.step = step

    # Step lines

    def _step_goes_on(self, piece: Piece) -> bool:
        if head := self._head.get(piece.writer):
            if found := STEP.match(head + piece.text):
                del self._head[piece.writer]
                self._step(int(found[1]), Piece(piece.line, piece.writer, head + piece.text, piece.complete))
            return found is not None
        torn = self._torn.get(piece.writer)
        if torn is None or STEP.search(piece.text):
            return False
        joined = torn.text + piece.text
        if STEP_LINE.fullmatch(joined) or (
            not torn.looks_whole and " - " in piece.text and ITEMS_THEN_TORN.fullmatch(joined)
        ):
            torn.text, torn.complete = joined, piece.complete
            return True
        if torn.looks_whole:
            self._store(self._torn.pop(piece.writer))
        return False

    def _store(self, torn: Torn) -> None:
        step = int(torn.text[len("step:") :].split(" ", 1)[0])
        text = torn.text if torn.complete else torn.text + "\0"  # so that no number ends where the text does
        whole = torn.text  # with a number in the place of every eval that is none
        found: list[tuple[str, Eval]] = []
        for item in reversed(list(self._item.finditer(text))):
            tag, value = item.groups()
            if number := NUMBER_HERE.match(text, item.start(2)):
                written = eval_of(number[1], number[2], torn.line)
            elif value.strip() and not value.endswith("\0"):
                written = Eval(math.nan, line=torn.line, text=value.strip())
                whole = f"{whole[: item.start(2)]}0{whole[item.end(2) :]}"
            else:
                continue
            found.append((tag, written))
        for tag, written in reversed(found):
            torn.attempt.evals.setdefault(tag, {}).setdefault(step, []).append(written)
        torn.attempt.tags |= dict.fromkeys(TAGS.findall(torn.text))
        told = replace(torn, text=whole)
        if not STEP_LINE.fullmatch(whole) or (not told.looks_whole and ENDS_WITH_EVAL.search(whole)):
            torn.attempt.torn.append(torn.line)

    # Printed dicts

    def _speaks(self, found: re.Match[str], piece: Piece) -> None:
        attempt = self._current(piece.line)
        text = piece.text[found.end() :]
        if found[1]:
            text = text.rstrip().removesuffix(")").removesuffix(found[1])
        step = attempt.base if found[2] == "Initial" else max(attempt.step, 0)
        self._spoken[piece.writer] = Spoken(attempt, found[2], step, text, piece.line)
        self._ends_speaking(piece.writer)

    def _dict_goes_on(self, piece: Piece) -> bool:
        spoken = self._spoken.get(piece.writer)
        found = FRAGMENT.fullmatch(piece.text)
        if spoken is None or found is None:
            return False
        try:
            spoken.text += str(ast.literal_eval(found[1]))
        except (SyntaxError, ValueError):
            return False
        self._ends_speaking(piece.writer)
        return True

    def _ends_speaking(self, writer: str) -> None:
        spoken = self._spoken[writer]
        if not spoken.text.rstrip().endswith("}"):
            return
        del self._spoken[writer]
        values = {
            f"val/{tag}" if tag.startswith(FIRST_MONTHS) else tag: (
                Eval(math.nan, line=spoken.line, text=other.strip())
                if other.strip()
                else eval_of(wrapped, plain, spoken.line)
            )
            for tag, wrapped, plain, other in SPOKEN_VALUE.findall(spoken.text)
            if wrapped or plain or other.strip()
        }
        spoken.attempt.spoken.append((spoken.kind, spoken.step, values))

    # How it ended

    def _may_be_trouble(self, piece: Piece) -> None:
        state = self._tracebacks.pop(piece.writer, ("", 0))[0]
        text = piece.text.strip()
        if TRACEBACK in text:
            self._tracebacks[piece.writer] = ("ignored" if state == "ignored" else "frames", piece.line)
        elif text.startswith("Exception ignored in"):
            self._tracebacks[piece.writer] = ("ignored", piece.line)
        elif state and piece.text[0].isspace():
            # Ray sets the frames of the cause behind the line of the error: the last line is still to come.
            self._tracebacks[piece.writer] = ("ignored" if state == "ignored" else "frames", piece.line)
        elif state == "frames":
            self._trouble("worker's traceback" if piece.writer else "driver's traceback", piece, text)
            self._tracebacks[piece.writer] = ("error", piece.line)
        elif KILLED.search(text):
            self._trouble("kill", piece, text)

    def _trouble(self, kind: str, piece: Piece, text: str) -> None:
        attempt = self._current(piece.line)
        attempt.trouble[kind] = Trouble(text, attempt.bar, attempt.step)


def eval_of(wrapped: str, plain: str, line: int) -> Eval:
    """A number as it was printed, ``np.float64(0.5)`` or 0.500: only the latter says how many decimals it has."""
    text = (wrapped or plain).replace(",", "")
    value = float(text)
    decimals = -int(Decimal(text).as_tuple().exponent) if plain and math.isfinite(value) else None
    return Eval(value, decimals, line=line)


def attempt_of(known: Known) -> Attempt:
    """What an attempt comes to."""
    notes = list(known.notes)
    if known.torn:
        notes.append(f"torn step lines: {len(known.torn)}, first line {known.torn[0]}; evals in them may be missing")
    last = last_step(known)
    ended: Ended = "unknown"
    if known.planned is not None:
        ended = "complete" if last >= known.planned else "early"
    return Attempt(
        evals={tag: evals_of(known, tag) for tag in evaluated(known)},
        tags=tags_of(known),
        last_step=last,
        planned_steps=known.planned,
        ended=ended,
        why=why(known, last, ended),
        notes=tuple(notes),
    )


def name_of(path: Path) -> str:
    """The file's name, or its folder's where the file's says nothing. A dot is part of a name (…_73.77)."""
    stem = path.stem if path.suffix in {".log", ".txt", ".out", ".err", ".jsonl"} else path.name
    return path.resolve().parent.name or stem if stem.lower() in NAMELESS else stem


def evaluated(attempt: Known) -> list[str]:
    """Tags that have values to read."""
    return list(dict.fromkeys([*attempt.evals, *(tag for *_, values in attempt.spoken for tag in values)]))


def tags_of(attempt: Known) -> list[str]:
    return list(dict.fromkeys([*evaluated(attempt), *attempt.tags]))


def last_step(attempt: Known) -> int:
    """A log without step lines may end before its last bar, but the final eval comes after the last step."""
    final = any(kind == "Final" for kind, *_ in attempt.spoken)
    return max(attempt.last, attempt.planned or 0) if final and attempt.step < 0 else attempt.last


def evals_of(attempt: Known, tag: str) -> dict[int, list[Eval]]:
    """Evals by step: step lines, and printed dicts where the line is missing or was rounded."""
    found = {step: list(values) for step, values in attempt.evals.get(tag, {}).items()}
    for kind, spoken_at, said in attempt.spoken:
        if tag not in said:
            continue
        spoken = said[tag]
        at = last_step(attempt) if kind == "Final" and attempt.step < 0 else spoken_at
        # verl's first versions printed the final eval before its step line.
        where = [s for s in sorted(found) if s == at or (s > at and kind == "Final")]
        same = next((s for s in where if _is_told_of(found[s][-1], spoken, here=s == at)), None)
        if same is not None:
            found[same][-1] = spoken
        elif at not in found:
            found[at] = [spoken]
    return found


def _is_told_of(written: Eval, spoken: Eval, *, here: bool) -> bool:
    """Whether a printed dict has the eval of a step line, which rounds it or has no number."""
    if spoken.text:
        return False
    return written.value in (spoken.value, round(spoken.value, 3)) or (here and bool(written.text))


def why(attempt: Known, last: int, ended: Ended) -> str:
    """The line that decided."""
    bars = attempt.bar_text and attempt.bar >= last
    line = attempt.bar_text if bars else attempt.step_text or attempt.bar_text
    if ended != "complete":
        # What went well afterwards was no end. Bars and tracebacks are of one stream, step lines may lag behind; and
        # Ray tells of an error before it passes on what the workers wrote last.
        fatal = {
            kind: trouble.text
            for kind, trouble in attempt.trouble.items()
            if (attempt.bar - trouble.bar if attempt.bar >= 0 else attempt.step - trouble.step) <= MOST_STEPS_LATE
        }
        kinds = ("driver's traceback", "worker's traceback", "kill")
        line = next((fatal[kind] for kind in kinds if kind in fatal), line)
    plain = "".join(c if c.isprintable() else " " for c in line).strip()
    return plain if len(plain) <= LONGEST_WHY else plain[: LONGEST_WHY - 1] + "…"
