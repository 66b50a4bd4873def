"""Numbers as every table writes them: percentages with their intervals, differences in points, p-values."""

from __future__ import annotations

from typing import TYPE_CHECKING

from db.records import EvalPoint
from orchestrator.statistics.scores import wilson

if TYPE_CHECKING:
    from orchestrator.statistics.treatments import Noise


def percent_with_interval(point: EvalPoint) -> str:
    """``64.2 % [59.9, 68.3]``."""
    low, high = score_interval(point)
    return f"{point.percent:.1f} % [{low:.1f}, {high:.1f}]"


def score_interval(point: EvalPoint) -> tuple[float, float]:
    """Wilson's, in percent. Samples of one question are not independent: several count as one, which is never too
    narrow."""
    low, high = wilson(point.k / point.samples, point.n)
    return 100 * low, 100 * high


def points(value: float | None, low: float | None = None, high: float | None = None) -> str:
    """``−1.2 [−3.0, +0.6]``, with the sign of subtraction; a bare dash where there is no value."""
    if value is None:
        return "–"
    text = f"{value:+.1f}" + (f" [{low:+.1f}, {high:+.1f}]" if low is not None and high is not None else "")
    return text.replace("-", "−")


def noise_in_words(noise: Noise) -> str:
    """The two standard errors of a mean difference, apart."""
    seeds = "" if noise.seeds is None else f"{noise.seeds:.1f} points from seeds, "
    questions = "none to be seen" if noise.questions is None else f"{noise.questions:.1f}"
    return f"standard error of the mean: {seeds}{questions} from the choice of questions"


def p_value(p: float) -> str:
    """``p < 0.001``, ``p = 0.042``, ``p = 0.3``."""
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}" if p < 0.1 else f"p = {p:.2f}"


def bare_p(p: float | None) -> str:
    """For a column of them."""
    return "–" if p is None else p_value(p).removeprefix("p ").removeprefix("= ")


def duration(seconds: float | None) -> str:
    """``2 h 05 min``, ``3 min 20 s``, ``7 s``; nothing where it is not known."""
    if seconds is None:
        return ""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
