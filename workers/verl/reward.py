"""The score of one answer, with the question's id: exact match for the embedded task, verl's scorers for the rest."""

from __future__ import annotations

from typing import Any

TINY_SOURCE = "tiny/addition"


def compute_score(
    data_source: str, solution_str: str, ground_truth: str, extra_info: dict[str, Any] | None = None, **options: Any
) -> dict[str, Any]:
    """``score`` trains, ``acc`` (0 or 1) is counted, ``qid`` names the question across runs."""
    if data_source == TINY_SOURCE:
        correct = "####" in solution_str and solution_str.rsplit("####", 1)[1].strip() == ground_truth
        result: dict[str, Any] = {"score": float(correct), "acc": float(correct)}
    else:
        from verl.utils.reward_score import default_compute_score

        scored = default_compute_score(data_source, solution_str, ground_truth, extra_info, **options)
        result = dict(scored) if isinstance(scored, dict) else {"score": float(scored)}
        result.setdefault("acc", float(result["score"] > 0))
    return result | {"qid": str((extra_info or {}).get("index"))}
