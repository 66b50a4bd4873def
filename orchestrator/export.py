"""Registry → files for other tools: CSV, Parquet, JSON, TensorBoard."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import Engine

from db import reads
from experiment_specs.language import Condition
from experiment_specs.presets import presets
from orchestrator.frames import Chosen, Registry, chosen
from orchestrator.words import readable

if TYPE_CHECKING:
    import pandas as pd

TABLES = ("csv", "parquet", "json")
FORMATS = (*TABLES, "tensorboard")


def export(engine: Engine, out: Path, format_: str, *, sweep: str | None, everything: bool) -> list[tuple[Path, int]]:
    """Write to the folder ``out``. Returns (file or folder, rows or runs). Claims come with the whole registry only."""
    if format_ == "tensorboard":
        runs = chosen(engine, sweep=sweep, everything=everything)
        return [(out, len(write_tensorboard(engine, runs, out)))]
    registry = Registry(engine)
    tables = {
        "runs": registry.runs(sweep=sweep, everything=everything),
        "curves": registry.curves(sweep=sweep, everything=everything),
    }
    if sweep is None and len(claims := registry.claims()):
        tables["claims"] = claims
    out.mkdir(parents=True, exist_ok=True)
    return [(_write(frame, out / f"{name}.{format_}"), len(frame)) for name, frame in tables.items()]


def _write(frame: pd.DataFrame, path: Path) -> Path:
    writers: dict[str, Callable[[], object]] = {
        ".csv": lambda: frame.to_csv(path, index=False),
        ".parquet": lambda: frame.to_parquet(path, index=False),
        ".json": lambda: frame.to_json(path, orient="records", date_format="iso", indent=1, force_ascii=False),
    }
    writers[path.suffix]()
    return path


# ------------------------------------------------------------------------------------------------ TensorBoard


def tensorboard_name(condition: Condition, percent: float | None) -> str:
    """``LoRA_MXFP4_DAPO_1ep_AQN_67.48``: what a run was, for those who look for it in a list of folders. Generated, and
    never read back: names are no truth."""
    parts = []
    if condition.hw_noise is not None:
        parts.append(f"HW_{100 * condition.hw_noise.scale:g}pct")
    elif condition.lora is None:
        parts.append("Q")
    if condition.lora is not None:
        parts.append("LoRA")
    parts += [condition.dtype.format.upper(), condition.algorithm.name.upper()]
    if condition.lora is None and condition.hw_noise is None:
        parts.append("fullFT")
    parts.append(f"{condition.epochs}ep")
    if condition.aqn is not None:
        parts.append(_noise_name(condition))
    if percent is not None:
        parts.append(f"{percent:.2f}")
    return "_".join(parts)


def _noise_name(condition: Condition) -> str:
    """By the range of sigma, whatever the schedule: standard noise is plain AQN, other presets add their name."""
    aqn, srdd = condition.aqn, condition.srdd
    if aqn is None:
        return ""
    ranges = {(p["sigma_start"], p["sigma_end"]): name for name, p in reversed(presets()["aqn"].items())}
    name = ranges.get((aqn.sigma_start, aqn.sigma_end))
    word = "AQN" if name == "standard" else f"AQN-{name}" if name else f"AQN_sigma{aqn.sigma_start:g}"
    return f"{word}_SRDD-{srdd.aim}" if srdd is not None else word


def tensorboard_names(runs: Sequence[Chosen]) -> dict[str, str]:
    """Run → name of its folder. Runs of one condition are told apart by their seed, then by their id."""
    conditions = Counter(one.run.condition_id for one in runs)
    with_seed = {
        one.run.id: _plain(one) + (f"_seed{one.run.seed}" if conditions[one.run.condition_id] > 1 else "")
        for one in runs
    }
    names = Counter(with_seed.values())
    return {run_id: name if names[name] == 1 else f"{name}_{run_id}" for run_id, name in with_seed.items()}


def _plain(one: Chosen) -> str:
    """With the score that stands for the run: of a mended one, the evaluation's."""
    condition, score = readable(one.run.condition), one.score
    name = one.run.label if condition is None else tensorboard_name(condition, score.percent if score else None)
    return re.sub(r"[^\w.+-]", "-", name)


def write_tensorboard(engine: Engine, runs: Sequence[Chosen], out: Path) -> dict[str, Path]:
    """One folder a run, with every metric of every step of its last attempt under verl's names, and every eval as
    ``val-core/<test set>/acc/mean@<samples>``. Returns run → folder. The same runs give the same bytes."""
    names = tensorboard_names(runs)
    folders = {}
    for run in (one.run for one in runs):
        if run.attempt is None:
            continue
        folder = out / names[run.id]
        folder.mkdir(parents=True, exist_ok=True)
        scalars: list[tuple[float, int, Mapping[str, Any]]] = [
            (at, step, metrics) for _, step, at, metrics in reads.steps(engine, run.attempt.id)
        ]
        test = str(run.condition["data"]["test"])
        scalars += [(p.at, p.step, {f"val-core/{test}/acc/mean@{p.samples}": p.percent / 100}) for p in run.curve]
        file = folder / f"events.out.tfevents.{int(run.created_at)}.{run.id}"
        _write_events(file, run.created_at, sorted(scalars, key=lambda one: (one[0], one[1])))
        folders[run.id] = folder
    return folders


def _write_events(file: Path, began: float, scalars: Sequence[tuple[float, int, Mapping[str, Any]]]) -> None:
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.summary.writer.record_writer import RecordWriter

    with file.open("wb") as handle:
        writer = RecordWriter(handle)
        writer.write(Event(wall_time=began, file_version="brain.Event:2").SerializeToString(deterministic=True))
        for at, step, values in scalars:
            summary = Summary(
                value=[
                    Summary.Value(tag=tag, simple_value=float(value))
                    for tag, value in values.items()
                    if isinstance(value, int | float)
                ]
            )
            writer.write(Event(wall_time=at, step=step, summary=summary).SerializeToString(deterministic=True))
        writer.flush()
