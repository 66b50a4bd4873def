"""A worker that speaks the event protocol and trains nothing: what scheduling tests run instead of verl.

Its behaviour is in ``behaviour.json`` beside the order: how it ends, and at which step it waits for a file.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
import os
import shutil
import sys
import time
from pathlib import Path

from experiment_specs.faults import fault_point
from experiment_specs.language import TINY_SELECTION
from experiment_specs.layers import layer_multipliers
from experiment_specs.schedules import sigma_at
from workers.checkpoints import due, unneeded
from workers.events import Spool, read_events
from workers.launch import STOP_NAME, Order, code_version, read_order
from workers.resume import find_point, take_over

LINEARS = ["model.layers.0.mlp.up_proj", "model.layers.1.mlp.up_proj"]


def command(run_dir: Path) -> list[str]:
    return [sys.executable, "-m", "tests.light_worker", str(run_dir)]


def realised(std: float) -> dict[str, object]:
    return {"modules": 5 if std else 0, "watched": 5, "std": std, "largest": std, "elements": 320}


def multipliers(order: Order) -> list[float]:
    condition = order.typed_condition
    if condition.aqn is None:
        return [1.0, 1.0, 1.0]
    planned = layer_multipliers(condition.aqn, condition.srdd, order.scan_errors)
    return [planned.of(layer) for layer in (0, 1, None)]


def held(step: int, order: Order) -> dict[str, object]:
    aqn = order.typed_condition.aqn
    sigma = sigma_at(aqn, step + 1, order.total_steps, order.steps_per_epoch) if aqn is not None else 0.0
    each = multipliers(order)
    return {
        "step": step, "serves": step + 1, "sigma_planned": sigma, "sigma_expected": sigma, "sigma_error": 0.05 * sigma,
        "modules_due": 0, "realised": realised(sigma), "linears": 2, "on_grid": 2, "watched": 2,
        "weights": {name: f"{name}@{step}" for name in LINEARS}, "replica": 0, "replicas": 1,
        "layers": {
            "layer": [0, 1, None], "multiplier": each, "modules": [1, 1, 1],
            "changed": [int(sigma * m > 0) for m in each], "std": [sigma * m for m in each],
            "expected": [sigma * m for m in each], "error": [0.05 * sigma] * 3, "rounding": [0.0] * 3,
        },
        "output": {"module": LINEARS[0], "error": 0.0, "n_eff": 100.0, "swell": 1.0}, "correlation": 0.0,
    }  # fmt: skip


def scan(run_dir: Path, order: Order, behaviour: dict[str, object]) -> int:
    """A layer scan that measures nothing: its errors are in the behaviour."""
    spool = Spool(run_dir)
    errors = behaviour.get("errors", [0.3, 0.1])
    if errors is None:
        spool.append("finished", {"ok": False, "error": "RuntimeError: the model could not be loaded"}, durable=True)
        return 1
    table = {"layer": [0, 1], "relative_error": errors}
    model = str(behaviour.get("model", "m"))
    facts = {"model": model, "weights": model, "prompts": 8, "dtype": order.condition["dtype"], "decoder_layers": 2}
    spool.append("scan", facts | {"layers": table}, durable=True)
    spool.append("finished", {"ok": True, "error": None}, durable=True)
    return 0


def answered(order: Order, step: int) -> dict[str, object]:
    """k of 500, and which. In a search (other questions, or fresh seeds) noise of sigma 0.03 is best by ten points."""
    selection = order.condition["data"]["test"] == TINY_SELECTION
    k, aqn = 250 + step, order.typed_condition.aqn
    if aqn is not None and (selection or order.seed > 1000):
        k += round(50 - 60 * abs(math.log10(aqn.sigma_start / 0.03))) + order.seed % 5
    right = bytearray(63)
    for question in range(k):
        right[question // 8] |= 1 << question % 8
    outcomes = base64.b64encode(bytes(right)).decode()
    return {"k": k, "n": 500, "samples": 1, "questions": "s" if selection else "q", "outcomes": outcomes}


def counted(order: Order) -> dict[str, int]:
    prompts = order.condition["batch"]["prompts"]
    return {"aqn/prompts": prompts, "aqn/trajectories": prompts * order.condition["algorithm"]["samples_per_prompt"]}


class Checkpoints:
    """Saved, kept and removed as the trainer does it; a checkpoint is a file with the step in it."""

    def __init__(self, run_dir: Path, order: Order, spool: Spool) -> None:
        self._run_dir, self._order, self._spool = run_dir, order, spool
        self._saved: dict[int, Path] = {}
        for event in read_events(run_dir)[0]:
            if event.kind == "checkpoint":
                self._saved[event.data["step"]] = Path(event.data["path"])
            elif event.kind == "checkpoint_removed":
                self._saved.pop(event.data["step"])

    def save(self, step: int, *, stopping: bool) -> None:
        if not (stopping or due(self._order, step)):
            return
        folder = self._run_dir / "checkpoints" / f"global_step_{step}"
        folder.mkdir(parents=True)
        (folder / "model").write_text(str(step))
        self._saved[step] = folder
        fault_point("checkpoint.saved")
        files = {"model": hashlib.sha256(str(step).encode()).hexdigest()}
        self._spool.append("checkpoint", {"step": step, "path": str(folder), "files": files}, durable=True)
        fault_point("checkpoint.recorded")

    def remove_unneeded(self, ended: int, *, over: bool) -> None:
        gone = unneeded(self._saved, self._order.keep, self._order.eval_steps, {}, ended=ended, over=over)
        for step in gone:
            shutil.rmtree(self._saved.pop(step))
            fault_point("checkpoint.removed")
            self._spool.append("checkpoint_removed", {"step": step, "why": "not to be kept"})


def save(checkpoints: Checkpoints, step: int, behaviour: dict[str, object], *, stopping: bool) -> None:
    if behaviour.get("full_disk"):
        Path("/dev/full").write_text("a checkpoint")
    checkpoints.remove_unneeded(step - 1, over=False)
    checkpoints.save(step, stopping=stopping)


def update(spool: Spool, order: Order, step: int) -> None:
    """What a training step measures."""
    spool.append("sync", held(step - 1, order))
    spool.append("forward_weights", {"export": step - 1, "weights": held(step - 1, order)["weights"]})
    spool.append(
        "gradient_probe",
        {"export": step - 1, "module": LINEARS[0], "output_error": 0.0, "n_eff": 100.0, "swell": 1.0,
         "input_error": 0.0, "input_n_eff": 100.0, "weight_error": 0.0, "weight_n_eff": 100.0,
         "input_error_unquantised": 0.1},
    )  # fmt: skip
    far = {"block_linears": 0.01, "adapters": 0.0, "other": 0.01}
    spool.append("moved", {"export": step, "optimiser_steps": step, "optimiser_updates": step} | far)


def ends(run_dir: Path, order: Order, step: int, behaviour: dict[str, object]) -> bool:
    """Is it to end by an error at this step? It waits first, for a file, where that is asked."""
    if step == behaviour.get("wait_at") and order.attempt <= int(str(behaviour.get("wait_attempts", 99))):
        while not Path(str(behaviour["until"])).exists() and not (run_dir / STOP_NAME).exists():
            time.sleep(0.02)
    if step != behaviour.get("fail_at") or order.attempt > int(str(behaviour.get("fail_attempts", 99))):
        return False
    for line in behaviour.get("log", ()):  # type: ignore[attr-defined]
        print(line, flush=True)  # noqa: T201 - the attempt's log
    if behaviour.get("with") == "kill":
        os.kill(os.getpid(), 9)
    return True


def finished(spool: Spool) -> int:
    spool.append("finished", {"ok": True, "error": None}, durable=True)
    return 0


def say_start(spool: Spool, order: Order, begin: int) -> None:
    """What the first export measures: of the start, or of what was gone on with."""
    if begin:
        sent = held(begin, order)["weights"]
        spool.append("exported", {"export": begin, "weights": sent, "used": sent})
    else:
        still = {"block_linears": 0.0, "adapters": 0.0, "other": 0.0}
        spool.append("moved", {"export": 0, "optimiser_steps": 0, "optimiser_updates": 0} | still)


def train(run_dir: Path, order: Order, behaviour: dict[str, object]) -> int:
    spool = Spool(run_dir)
    point = find_point(order)
    if point is not None:
        take_over(run_dir, point, spool)
        if point.step == order.total_steps:
            return finished(spool)
    begin = 0 if point is None else point.step
    checkpoints = Checkpoints(run_dir, order, spool)
    spool.append("started",
        {
            "fingerprints": {"model": "m", "train": "t", "test": "e"}, "attempt": order.attempt,
            "plugins": [], "code": {"id": code_version().id},
        },
    )  # fmt: skip
    if behaviour.get("strange"):
        spool.append("sync", {"step": 0, "replica": 0, "replicas": 1})  # as another version might say it
    if behaviour.get("garbage"):
        spool.append("eval", {"step": 0, "k": 1})
    spool.append("planned", {"total_steps": order.total_steps})
    for role in ("policy", "rollout"):
        spool.append("attention", {"role": role, "functions": {"sdpa_attention_forward": 2}, "masked": True})
    spool.append(
        "quantised",
        {"formats": [order.condition["dtype"]], "linears": [*LINEARS, "lm_head"], "quantised": LINEARS,
         "sqnr_db": 18.0, "mean_abs_ratio": 0.1, "adapted": [], "adapter_types": [],
         "role": "policy"},
    )  # fmt: skip
    say_start(spool, order, begin)
    for step in range(begin + bool(point), order.total_steps + 1):
        if step:
            update(spool, order, step)
        stopping = step > 0 and (run_dir / STOP_NAME).exists() and step < order.total_steps
        if step:
            save(checkpoints, step, behaviour, stopping=stopping)
        sent = held(step, order)["weights"]
        spool.append("exported", {"export": step, "weights": sent, "used": sent})
        if step in order.eval_steps:
            spool.append("eval_mode", held(step, order) | {"realised": realised(0.0)})
            spool.append(
                "eval",
                {"step": step} | answered(order, step),
                durable=True,
            )
        if step:
            spool.append("step", {"step": step, "metrics": {"critic/score/mean": 0.5 + step / 100} | counted(order)})
        if stopping:
            spool.append("stopped", {"step": step}, durable=True)
            spool.append("finished", {"ok": False, "error": None}, durable=True)
            return 0
        if ends(run_dir, order, step, behaviour):
            spool.append(
                "finished", {"ok": False, "error": str(behaviour.get("error", "ValueError: as asked"))}, durable=True
            )
            return 1
    checkpoints.remove_unneeded(order.total_steps, over=True)
    return finished(spool)


def main() -> int:
    run_dir = Path(sys.argv[1])
    behaviour_file = run_dir.parent / "behaviour.json"
    behaviour = json.loads(behaviour_file.read_text()) if behaviour_file.exists() else {}
    print(f"light worker, attempt in {run_dir}", flush=True)  # noqa: T201 - the attempt's log
    order = read_order(run_dir)
    return (scan if order.kind == "scan" else train)(run_dir, order, behaviour)


if __name__ == "__main__":
    sys.exit(main())
