"""Evidence in words: what was measured, one line a kind, for `aqn show`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from rich.markup import escape
from rich.table import Table

from db.reads import Fact, Run
from experiment_specs.language import NAMED_FIELDS, Condition
from experiment_specs.presets import preset_name
from orchestrator.verdict import Measured, inert_stages


def condition_table(run: Run) -> Table:
    """The whole condition, one field a line, presets by name."""
    condition = Condition.model_validate(run.condition, strict=False)
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(style="dim")
    for key in Condition.model_fields:
        value = getattr(condition, key)
        text = _flat(run.condition[key])
        if key in NAMED_FIELDS:
            name = preset_name(key, value)
            text = name if name == "none" or "=" in name else f"{name}: {text}"
        table.add_row(f"  {key}", escape(text))
    return table


def _flat(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{k} {_flat(v)}" for k, v in value.items() if v is not None) or "–"
    return "none" if value is None else str(value)


def evidence_table(run: Run, facts: Sequence[Fact]) -> Table:
    """What was measured, one row a kind."""
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column()
    for name, text in evidence_lines(run, facts):
        table.add_row(f"  {name}", escape(text))
    return table


def evidence_lines(run: Run, facts: Sequence[Fact]) -> Iterator[tuple[str, str]]:
    """(name, sentence) for everything that was measured."""
    by_kind: dict[str, list[dict[str, Any]]] = {}
    for fact in facts:
        by_kind.setdefault(fact.kind, []).append(fact.data)
    if started := by_kind.get("started"):
        yield from _identity(started[-1])
    for data in by_kind.get("quantised", [])[:1]:
        formats = ", ".join(f["format"] for f in data["formats"])
        yield (
            "quantised",
            f"{len(data['quantised'])} of {len(data['linears'])} linears to {formats or 'nothing'}, "
            f"SQNR {data['sqnr_db']:.1f} dB, mean|e|/mean|w| {100 * data['mean_abs_ratio']:.1f} %",
        )
    yield from _rollout(by_kind)
    if probes := by_kind.get("gradient_probe"):
        worst = max(max(p["output_error"], p["input_error"], p["weight_error"]) for p in probes)
        forgot = min(p["input_error_unquantised"] for p in probes)
        yield (
            "gradients",
            f"{len(probes)} probes in real updates: y, dL/dx and dL/dW follow Q(W) within {worst:.1g} "
            f"(dL/dx against W would be off by {forgot:.1g})",
        )
    if moved := by_kind.get("moved"):
        last = max(moved, key=lambda m: m["export"])
        yield (
            "moved",
            f"block linears by {100 * last['block_linears']:.2g} % of their norm, the rest by "
            f"{100 * last['other']:.2g} %, in {last['optimiser_updates']} optimiser updates",
        )
    yield from _evals(by_kind)
    if checkpoints := by_kind.get("checkpoint"):
        yield "checkpoint", f"step {checkpoints[-1]['step']}, {len(checkpoints[-1]['files'])} files hashed"


def _identity(data: dict[str, Any]) -> Iterator[tuple[str, str]]:
    code = data["code"]
    commit = (code["commit"] or "no commit")[:10] + (f", with changes {code['dirty']}" if code["dirty"] else "")
    yield "code", f"version {code['id']} ({commit}); " + ", ".join(f"{k} {v}" for k, v in code["packages"].items())
    yield "machine", f"{data['host']}, {data['machine']}, GPUs: {', '.join(data['gpus']) or 'none'}"
    yield "inputs", ", ".join(f"{k} {v or 'without fingerprint'}" for k, v in data["fingerprints"].items())
    if data["plugins"]:
        yield "plugins", ", ".join(data["plugins"])


def _rollout(by_kind: dict[str, list[dict[str, Any]]]) -> Iterator[tuple[str, str]]:
    syncs = by_kind.get("sync", [])
    if not syncs:
        return
    forward = {f["export"]: f["weights"] for f in by_kind.get("forward_weights", [])}
    same = sum(forward.get(s["step"]) == s["weights"] for s in syncs)
    yield (
        "same weights",
        f"rollout = policy's forward after {same} of {len(syncs)} syncs, {syncs[0]['watched']} linears each",
    )
    noisy = [s for s in syncs if s["sigma_planned"] > 0]
    if not noisy:
        off = max(s["realised"]["largest"] for s in syncs)
        yield "noise", f"none planned; largest difference from clean weights {off:.2g}"
        return
    if inert := inert_stages(Measured("sync", sync) for sync in syncs):
        yield "inert", f"the number format rounds the noise of {len(inert)} steps away, from step {inert[0]} on"
    first, last = noisy[0], noisy[-1]
    modules = {s["realised"]["modules"] for s in noisy}
    yield (
        "noise",
        f"{'/'.join(map(str, sorted(modules)))} norms in {len(noisy)} of {len(syncs)} rollouts; sigma planned "
        f"{first['sigma_planned']:.3g} → {last['sigma_planned']:.3g}, realised {first['realised']['std']:.3g} → "
        f"{last['realised']['std']:.3g}",
    )


def _evals(by_kind: dict[str, list[dict[str, Any]]]) -> Iterator[tuple[str, str]]:
    modes = by_kind.get("eval_mode", [])
    evals = by_kind.get("eval", [])
    if not evals:
        return
    clean = sum(not m["realised"]["modules"] for m in modes)
    grid = sum(m["on_grid"] == m["watched"] for m in modes)
    yield (
        "evals",
        f"{len(evals)} at steps {', '.join(str(e['step']) for e in evals)}; noise lifted in {clean} of {len(modes)}, "
        f"weights in the run's format in {grid}",
    )
