"""The language: what an experiment is, and the YAML files written in it.

Floor 1: imports nothing of ours. Everything above speaks in the types of :mod:`experiment_specs.language`.
"""
