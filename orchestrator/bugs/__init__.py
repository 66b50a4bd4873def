"""Bugs: who a rule affects (:mod:`.evaluate`), by which facts (:mod:`.facts`), and what is done about it."""
