"""A search for treatments that knows how noisy scores are: what to run next is decided purely (:mod:`.decide`), on
estimates (:mod:`.estimate`), with suggestions of Optuna's (:mod:`.suggest`); :mod:`.owner` reads and writes."""
