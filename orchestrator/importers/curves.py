"""What every importer gives: one curve of accuracy over steps, and what is to be known about it."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import count
from typing import Literal

from experiment_specs.errors import SpecError

Ended = Literal["complete", "early", "unknown"]
MAX_STEP = 10**9
"""The largest step that a claim may have; some tools count tokens or seconds as steps."""
LONGEST_NAME = 200
"""Letters of a claim's label."""


@dataclass(frozen=True)
class Point:
    """One eval: ``percent`` of the answers were right after ``step`` training steps."""

    step: int
    percent: float
    decimals: int | None = None
    """Of the percentage, as its share was printed: 0.620 has 1. None where it was kept in full."""


@dataclass(frozen=True)
class ImportedCurve:
    """One run, or one attempt at it."""

    name: str
    source: str
    """The file or folder it was read from."""
    metric: str
    """The tag that was read, of the last eval where it changes; empty where no eval was found."""
    points: tuple[Point, ...]
    last_step: int
    planned_steps: int | None
    ended: Ended
    why: str
    """The line that decided how it ended."""
    notes: tuple[str, ...] = ()
    shares: bool = True
    """Whether an eval is a number of right answers of all answers; else n is not recorded."""
    left_out: str = ""
    """Why it is not recorded. A curve without points never is."""

    @property
    def test_set(self) -> str:
        """The test set that the tag names; empty where it names none."""
        return set_of(self.metric)

    @property
    def samples(self) -> int:
        """Answers to each question that the last eval is the mean of: 32 of mean@32."""
        return answers_of(self.metric)


# The last form is that of verl's first months. ``mean_1`` is what torch's first SummaryWriters made of ``mean@1``.
TAG = re.compile(
    r"val-core/(?P<set>.+)/(?P<variable>acc|reward)/mean[@_](?P<samples>\d+)|val/test_score/(?P<old_set>.+)"
)
# Any tag that verl makes of a test set, the score or not.
OF_A_SET = re.compile(
    r"val-(?:core|aux)/(?P<set>.+)/[^/]+/(?:mean|std|best|worst|maj)[@_]\d+(?:/(?:mean|std))?|val/test_score/(?P<old_set>.+)"
)
ANSWERS = re.compile(r"/mean[@_](\d+)$")
# Of several answers the best, or what most say: by verl estimated by resampling.
RESAMPLED = re.compile(r"/(?:std|best|worst|maj)[@_]\d+(?:/[^/]+)?$")
LIKE_A_SCORE = re.compile(r"acc|score|success|pass|correct|reward|solve|val|eval|test|loss", re.IGNORECASE)
MOST_NAMES = 6
LARGEST_SINGLE = 3.4e38
"""About the largest number of 32 bits."""


def rank(tag: str) -> tuple[bool, int] | None:
    """The less, the better a tag tells accuracy; None for a tag that does not."""
    found = TAG.fullmatch(tag)
    if found is None:
        return None
    return found["variable"] != "acc", int(found["samples"] or 1)


def is_reward(tag: str) -> bool:
    """Whether a tag is known to be the mean of a reward, and not of right answers."""
    found = TAG.fullmatch(tag)
    return found is not None and found["variable"] != "acc"


def set_of(tag: str) -> str:
    """The test set that a tag is of; empty where it names none."""
    found = OF_A_SET.fullmatch(tag)
    return (found["set"] or found["old_set"]) if found else ""


def choose_each(evals: Mapping[str, int]) -> dict[str, str]:
    """Test set → its tag to read. ``evals``: tag → how many evals it has.

    Accuracy before reward. Of several means the one with most evals: where a prompt lost an answer, verl names the mean
    of one eval after fewer answers.
    """
    found: dict[str, str] = {}
    for tag in evals:
        if rank(tag) is not None:
            other = found.setdefault(set_of(tag), tag)
            found[set_of(tag)] = min(other, tag, key=lambda one: _order(one, evals[one]))
    return found


def _order(tag: str, evals: int) -> tuple[bool, bool, int, int]:
    reward, samples = rank(tag) or (True, 0)
    return reward, tag.startswith("val/"), -evals, samples


def answers_of(tag: str) -> int:
    """Answers to each question, of which a tag is the mean."""
    found = ANSWERS.search(tag)
    return max(int(found[1]), 1) if found else 1


def same_mean(tag: str, other: str) -> bool:
    """Whether two scores differ in nothing but the number of answers to each question."""
    one, two = TAG.fullmatch(tag), TAG.fullmatch(other)
    return bool(one and two and one["samples"] and one.group("set", "variable") == two.group("set", "variable"))


def starts_over(step: int, first: int) -> bool:
    """Whether steps that fall back to ``step`` are another attempt at a run whose first step was ``first``.

    A run that is resumed continues behind its first step; only without a checkpoint it begins with step 0 or 1 again.
    """
    return step <= max(first, 1)


def named(tags: Iterable[str]) -> str:
    """The tags that a reader may look for, a few of them: those first that are most like a score."""
    known = sorted(dict.fromkeys(tags), key=lambda tag: LIKE_A_SCORE.search(tag) is None)
    if not known:
        return "none"
    more = f" and {len(known) - MOST_NAMES} more" if len(known) > MOST_NAMES else ""
    return ", ".join(known[:MOST_NAMES]) + more


def printable(text: str) -> str:
    """The text on one line that every terminal and database takes: what is no printable letter is ``_``."""
    return text if text.isprintable() else "".join(c if c.isprintable() else "_" for c in text)


def as_label(name: str) -> str:
    """The name as a claim's label may be: printable, without blanks around it, not empty, not too long."""
    return printable(name).strip()[:LONGEST_NAME].strip() or "unnamed"


def numbered(label: str) -> Iterator[str]:
    """The label, then the same with ``#2``, ``#3``, …: for what has no name of its own."""
    yield as_label(label)
    for number in count(2):
        end = f" #{number}"
        yield f"{as_label(label)[: LONGEST_NAME - len(end)].strip()}{end}"


def told_apart(names: Iterable[str]) -> list[str]:
    """The names as labels, each different from all before it."""
    found: dict[str, None] = {}
    for name in names:
        found[next(label for label in numbered(name) if label not in found)] = None
    return list(found)


def called(name: str, test_set: str = "", attempt: int | None = None) -> str:
    """What a curve is called: its run, the test set where there are several, the attempt where there are several."""
    end = (f" on {test_set}" if test_set else "") + (f" (attempt {attempt})" if attempt is not None else "")
    return name[: max(LONGEST_NAME - len(end), 1)] + end


def percent(value: float, *, tag: str, file: str, line: int | None = None) -> float:
    """100 × the value of an eval. Raises SpecError where it is no share: rewards of −1 to 1 are not accuracy."""
    if not 0 <= value <= 1:
        raise SpecError(
            f"{as_written(value)} is not between 0 and 1: no share of right answers", file=file, line=line, key=tag
        )
    return round(100 * as_written(value), 10)  # 57, not 56.99999999999999


def as_written(value: float) -> float:
    """A number of 32 bits without digits that its writer did not mean: 0.7377, not 0.7376999855041504."""
    if abs(value) > LARGEST_SINGLE or _single(value) != value:
        return value
    shorter = (float(f"{value:.{digits}g}") for digits in range(6, 10))  # nine digits tell any two of them apart
    return next(short for short in shorter if _single(short) == value)


def _single(value: float) -> float:
    return float(struct.unpack("f", struct.pack("f", value))[0])


def remarks(chosen: str, tags: Iterable[str], together: Iterable[str] | None = None) -> list[str]:
    """Notes on the tag that was read and on those that were not. ``together``: those of the same evals; None: all."""
    known = list(dict.fromkeys(tags))
    found = TAG.fullmatch(chosen)
    notes = []
    if found is None:
        notes.append(f"{chosen} was asked for, and read as a share of right answers")
    elif is_reward(chosen):
        notes.append(f"{chosen} is a reward: a share of right answers only if right gives 1 and wrong 0")
    if RESAMPLED.search(chosen):
        notes.append(f"{chosen} is estimated by resampling: no number of right answers")
    others = [tag for tag in known if tag != chosen and tag.startswith(("val-core/", "val/"))]
    if others:
        more = f" and {len(others) - MOST_NAMES} more" if len(others) > MOST_NAMES else ""
        notes.append(f"not read: {', '.join(others[:MOST_NAMES])}{more}")
    if aside := answered_otherwise(chosen, known if together is None else together):
        # verl calls core only the mean over the prompts with the most answers.
        notes.append(f"prompts were answered different numbers of times: {chosen} leaves out those of {aside[0]}")
    return notes


def answered_otherwise(chosen: str, tags: Iterable[str]) -> list[str]:
    """Means of the same variable after other numbers of answers: their prompts are not in the chosen one."""
    stem = re.sub(r"\d+$", "", chosen).split("/", 1)[-1]
    alike = re.compile(rf"val-(?:core|aux)/{re.escape(stem)}\d+")
    return sorted(tag for tag in set(tags) if ANSWERS.search(chosen) and tag != chosen and alike.fullmatch(tag))
