"""The scheduler: a pure decision (:mod:`.decide`, :mod:`.retry`) and the loop that carries it out (:mod:`.loop`)."""
