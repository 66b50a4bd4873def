"""All contact with verl: platform, engine, rollout, trainer, configuration. Everything enters through verl's own
registries and hooks; nothing of verl is edited.
"""
