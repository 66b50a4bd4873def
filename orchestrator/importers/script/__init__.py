"""A launch script of verl's → a sweep. The script is read, and never run.

bash text → what verl would be started with (:mod:`.shell`) → Hydra overrides (:mod:`.overrides_of`) → fields of a
condition, keys under ``trainer:``, and a line for everything else (:mod:`.port`) → YAML (:mod:`.spec_text`).
"""
