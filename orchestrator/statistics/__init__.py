"""What scores and differences of scores can be said to show. Pure; arithmetic by scipy and statsmodels."""
