"""The study's bug, on purpose, in every process of a run."""

from tests.broken import restored_in_place
from workers.treatments.quantize import QuantisedLinear

QuantisedLinear.forward = restored_in_place  # type: ignore[method-assign]
