"""The data plane: what happens inside one run, next to verl.

A run needs its run directory and nothing else: no registry, no MLflow, no orchestrator
(``python -m workers.train RUN_DIR``).
"""
