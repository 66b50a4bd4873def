"""Our closed form against scipy's."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from orchestrator.statistics.scores import wilson


@given(n=st.integers(1, 2000), share=st.floats(0, 1), confidence=st.sampled_from([0.8, 0.95, 0.99]))
def test_wilson_equals_scipy(n, share, confidence) -> None:
    k = round(share * n)
    expected = binomtest(k, n).proportion_ci(confidence, method="wilson")
    assert wilson(k, n, confidence) == pytest.approx((expected.low, expected.high), abs=1e-9)


@pytest.mark.parametrize(("k", "n"), [(1, 0), (-1, 5), (6, 5)])
def test_what_is_no_score_is_refused(k, n) -> None:
    with pytest.raises(ValueError, match="no score"):
        wilson(k, n)


@pytest.mark.parametrize("n", [1, 30, 500, 1319, 2999])
def test_wilson_ends_where_shares_end(n) -> None:
    assert wilson(0, n)[0] == 0.0
    assert wilson(n, n)[1] == 1.0
