"""What a search found: a set of treatments that cannot be told apart, and the simplest of them. Pure."""

from __future__ import annotations


def together(smoothed: float, smoothed_error: float, confirmed: float, error: float, seeds: int) -> float:
    """Selection and confirmation in one number, each weighted by its precision.

    ``error``: of a mean over the trial's own seeds; a confirmation over ``seeds`` fresh ones has about one of a seed's
    over their root.
    """
    of_selection, of_confirmation = 1 / max(smoothed_error, 1e-9) ** 2, seeds / max(error, 1e-9) ** 2
    return (of_selection * smoothed + of_confirmation * confirmed) / (of_selection + of_confirmation)
