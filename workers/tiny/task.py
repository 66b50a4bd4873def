"""Two-digit addition with two ways to answer: careful, with the carry written out, and sloppy, digit by digit.

A model pre-trained on a mixture of both scores near one half; reinforcement learning with an exact-match reward then
selects the careful way. That makes a task that really learns within minutes on a CPU.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

Pair = tuple[int, int]


@dataclass(frozen=True)
class Split:
    """``train``, ``test`` and ``selection`` pairs, disjoint, and ``pool``: all that is not test, which pre-training
    draws on. ``selection``: questions to choose treatments by, so that the test set stays for what is reported."""

    train: list[Pair]
    test: list[Pair]
    selection: list[Pair]
    pool: list[Pair]


def split(train_rows: int = 4000, test_rows: int = 500, selection_rows: int = 500) -> Split:
    """The 8 100 pairs of two-digit numbers, shuffled once and for all."""
    pairs = [(x, y) for x in range(10, 100) for y in range(10, 100)]
    random.Random(1234).shuffle(pairs)
    test, pool = pairs[:test_rows], pairs[test_rows:]
    return Split(pool[:train_rows], test, pool[train_rows : train_rows + selection_rows], pool)


def question(pair: Pair) -> str:
    return f"{pair[0]}+{pair[1]}=?\n"


def careful(pair: Pair) -> str:
    """Units with carry, tens with carry, result: always right."""
    x, y = pair
    units = x % 10 + y % 10
    carry = units // 10
    tens = x // 10 + y // 10 + carry
    return f"{x % 10}+{y % 10}={units} {x // 10}+{y // 10}+{carry}={tens}\n#### {x + y}"


def sloppy(pair: Pair) -> str:
    """Digit by digit, the carry forgotten: right where there is none."""
    x, y = pair
    return f"#### {(x // 10 + y // 10) * 10 + (x % 10 + y % 10) % 10}"


def rows(pairs: list[Pair], name: str) -> list[dict[str, object]]:
    """Rows in verl's parquet layout, the layout of its GSM8K."""
    return [
        {
            "data_source": "tiny/addition",
            "prompt": [{"role": "user", "content": question(pair)}],
            "ability": "math",
            "reward_model": {"style": "rule", "ground_truth": str(sum(pair))},
            "extra_info": {"split": name, "index": index},
        }
        for index, pair in enumerate(pairs)
    ]
