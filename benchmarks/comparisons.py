"""Do comparisons keep what they promise? Simulated sweeps whose truth is known; no timing.

``PYTHONPATH=. python benchmarks/comparisons.py`` prints the table of ``benchmarks/results/comparisons.md``.
"""

from __future__ import annotations

import sys

import numpy as np
from numpy.typing import NDArray

from orchestrator.statistics.checkpoints import difference_on_shared
from orchestrator.statistics.power import power, scatter_of, smallest_effect
from orchestrator.statistics.treatments import ALPHA, difference_by_seed, family
from tests.simulated_sweeps import World, answers, differences

SWEEPS = 20_000
AT_ONCE = 100
FAMILY = 4
COLUMNS = (
    "seeds", "false alarms", "intervals that miss", f"one of {FAMILY}, Holm", f"one of {FAMILY}, uncorrected",
    "detectable, points", "found", "`plan` says",
)  # fmt: skip
WORLDS = (World(questions=1319), World(questions=500), World(questions=1319, seed_sd=2.0))


def simulated(world: World, effect: float, sweeps: int, seeds: int, seed: int) -> NDArray[np.float64]:
    """(sweeps, seeds) differences in points."""
    rng = np.random.default_rng(seed)
    return np.concatenate([differences(answers(world, effect, AT_ONCE, seeds, rng)) for _ in range(sweeps // AT_ONCE)])


def share(hits: int, of: int) -> str:
    error = 1.96 * np.sqrt(max(hits, 1) / of * (1 - hits / of) / of)
    return f"{100 * hits / of:.1f} ± {100 * error:.1f} %"


def false_alarms(world: World, seeds: int) -> tuple[str, str, str, str]:
    """Of null sweeps: t test, interval that misses the truth, family of four by Holm, family of four uncorrected."""
    step = 100 / world.questions
    tested = [difference_by_seed(row, step=step) for row in simulated(world, 0.0, SWEEPS, seeds, seeds).tolist()]
    alone = sum(t.p is not None and t.p < ALPHA for t in tested)
    missed = sum(t.low is not None and t.high is not None and not t.low <= 0 <= t.high for t in tested)
    families = [tested[i : i + FAMILY] for i in range(0, SWEEPS, FAMILY)]
    holm = sum(any(a.verdict in ("higher", "lower") for a in family(f)) for f in families)
    bare = sum(any(t.p is not None and t.p < ALPHA for t in f) for f in families)
    return share(alone, SWEEPS), share(missed, SWEEPS), share(holm, len(families)), share(bare, len(families))


def one_seed_by_questions(world: World) -> str:
    """What an exact McNemar test of one seed would claim of treatments that do nothing."""
    rng = np.random.default_rng(7)
    hits = 0
    for _ in range(SWEEPS // AT_ONCE):
        for pair in answers(world, 0.0, AT_ONCE, 1, rng)[:, :, 0].astype(int).tolist():
            hits += difference_on_shared(*pair).p < ALPHA
    return share(hits, SWEEPS)


def found(world: World, seeds: int) -> tuple[str, str]:
    """(the difference that a plan calls detectable, how often it is found). The plan knows the field's scatter."""
    field = simulated(world, 0.0, 400, 2, 99)
    sd = float(field.std(ddof=1))
    effect = smallest_effect(seeds, ALPHA) * sd
    apart = simulated(world, effect, SWEEPS // 2, seeds, seeds + 50)
    apart += effect - apart.mean()  # accuracy is curved in the effect: what is tested is a shift of that many points
    tested = [difference_by_seed(row, step=100 / world.questions) for row in apart.tolist()]
    return f"{effect:.1f}", share(sum(t.p is not None and t.p < ALPHA for t in tested), len(tested))


def planned(world: World, seeds: int) -> str:
    """What `aqn plan` promises where six runs of the field are recorded: it takes an upper bound of their scatter."""
    rng = np.random.default_rng(5)
    promised = []
    for _ in range(20):
        right = answers(world, 0.0, 1, 3, rng)
        promised.append(power(seeds, 1, 2.0, scatter_of((100 * right.mean(axis=-1))[0].tolist())).detectable or 0.0)
    return f"{np.median(promised):.1f}"


def main() -> None:
    print(f"{SWEEPS:,} simulated sweeps a row; ± is the simulation's own 95 %.\n")
    for world in WORLDS:
        print(
            f"## {world.questions} questions, {100 * world.accuracy:.0f} % right, equal runs truly"
            f" {world.seed_sd:g} points apart (sd)\n"
        )
        print("| " + " | ".join(COLUMNS) + " |")
        print("| ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
        for seeds in (2, 3, 5):
            row = (*false_alarms(world, seeds), *found(world, seeds), planned(world, seeds))
            print(f"| {seeds} | {' | '.join(row)} |")
            sys.stdout.flush()
        alarms = one_seed_by_questions(world)
        print(f"\nMcNemar's test on one seed, read as a test of treatments: {alarms} false alarms.\n")


if __name__ == "__main__":
    main()
