"""Optuna's storage, for its dashboard: a copy of what the registry says, written anew whenever it differs."""

from __future__ import annotations

import hashlib
import warnings
from pathlib import Path

import optuna

from orchestrator.search.space import directions
from orchestrator.search.state import SearchState
from orchestrator.search.suggest import fill

DIGEST = "registry"


def storage_url(home: Path) -> str:
    return f"sqlite:///{home / 'optuna.db'}"


def publish(state: SearchState, home: Path) -> None:
    """Make the stored study say what the registry says; one that does already is left as it is."""
    told = [state.told(trial) for trial in state.trials]
    digest = hashlib.sha256(repr(told).encode()).hexdigest()[:16]
    storage = optuna.storages.RDBStorage(storage_url(home))
    try:
        known = {summary.study_name: summary for summary in optuna.get_all_study_summaries(storage)}
        if state.name in known:
            if known[state.name].user_attrs.get(DIGEST) == digest:
                return
            optuna.delete_study(study_name=state.name, storage=storage)
        study = optuna.create_study(study_name=state.name, storage=storage, directions=directions(state.settings))
        goal = state.settings.objective
        names = [f"{goal.maximise} ({goal.questions} questions)", *([goal.also] if goal.also else [])]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            study.set_metric_names(names)
        fill(study, state.settings, told)
        study.set_user_attr(DIGEST, digest)
    finally:
        storage.remove_session()
        storage.engine.dispose()
