"""The pages, one a module; each has ``draw(engine)``."""
