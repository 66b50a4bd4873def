"""A run's condition and what was measured of it, in words, one line a kind, for whoever shows them. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from db.records import Fact, Run
from experiment_specs.language import NAMED_FIELDS, Condition
from experiment_specs.presets import preset_name
from orchestrator.verdict import Measured, inert_stages
from orchestrator.verdict.case import different
from orchestrator.words import readable


def condition_lines(run: Run) -> Iterator[tuple[str, str]]:
    """(field, value) of the whole condition, presets by name; as it is where another version wrote it."""
    condition = readable(run.condition)
    if condition is None:
        yield from ((key, _flat(value)) for key, value in run.condition.items())
        return
    for key in Condition.model_fields:
        value = getattr(condition, key)
        text = _flat(run.condition.get(key))
        if key in NAMED_FIELDS:
            name = preset_name(key, value)
            text = name if name == "none" or "=" in name else f"{name}: {text}"
        yield key, text


def measured_lines(run: Run, facts: Sequence[Fact]) -> list[tuple[str, str]]:
    """:func:`evidence_lines`, and a line that says so where another version recorded what this one cannot read."""
    try:
        return list(evidence_lines(run, facts))
    except (KeyError, TypeError, IndexError, ValueError) as error:
        return [("evidence", f"recorded by another version, which this one cannot put in words ({error!r})")]


def _flat(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{k} {_flat(v)}" for k, v in value.items() if v is not None) or "–"
    return "none" if value is None else str(value)


def evidence_lines(run: Run, facts: Sequence[Fact]) -> Iterator[tuple[str, str]]:
    """(name, sentence) for everything that was measured."""
    by_kind: dict[str, list[dict[str, Any]]] = {}
    for fact in facts:
        by_kind.setdefault(fact.kind, []).append(fact.data)
    if started := by_kind.get("started"):
        yield from _identity(started[-1])
    for data in (fact for fact in by_kind.get("quantised", []) if fact["role"] == "policy"):
        formats = ", ".join(f["format"] for f in data["formats"])
        yield (
            "quantised",
            f"{len(data['quantised'])} of {len(data['linears'])} linears to {formats or 'nothing'}, "
            + _format_error(data),
        )
        if data["adapted"]:
            types = ", ".join(kind.removeprefix("torch.") for kind in data["adapter_types"])
            share = 100 * data["trained"] / data["parameters"]
            yield (
                "adapters",
                f"on {len(data['adapted'])} linears, in {types}: {share:.1f} % of all parameters are trained",
            )
    yield from _attention(by_kind.get("attention", []))
    if reads := by_kind.get("setting_read"):
        places: dict[str, set[str]] = {}
        for read in reads:
            places.setdefault(read["key"], set()).add(read["place"].rpartition(":")[0])
        yield "verl keys", "; ".join(f"{key} read in {', '.join(sorted(files))}" for key, files in places.items())
    yield from _rollout(by_kind)
    yield from _hardware(by_kind)
    if probes := by_kind.get("gradient_probe"):
        yield "gradients", _gradients(probes)
    yield from _loaded(by_kind)
    if (moved := by_kind.get("moved")) and run.kind != "eval":
        last = max(moved, key=lambda m: m["export"])
        adapters = f"adapters by {100 * last['adapters']:.2g} % of their norm, " if last["adapters"] else ""
        yield (
            "moved",
            f"{adapters}block linears by {100 * last['block_linears']:.2g} %, the rest by {100 * last['other']:.2g} %, "
            f"in {last['optimiser_steps']} optimiser steps, {last['optimiser_updates']} of them with a gradient",
        )
    yield from _evals(by_kind)
    if checkpoints := by_kind.get("checkpoint"):
        removed = {fact["step"] for fact in by_kind.get("checkpoint_removed", [])}
        kept = [fact for fact in checkpoints if fact["step"] not in removed]
        steps = ", ".join(str(fact["step"]) for fact in kept)
        yield "checkpoint", f"step {steps}, {sum(len(fact['files']) for fact in kept)} files hashed"


def _attention(facts: list[dict[str, Any]]) -> Iterator[tuple[str, str]]:
    """One line for all roles that computed alike."""
    roles: dict[str, list[str]] = {}
    for fact in facts:
        packed = " on packed sequences" if fact["masked"] is False and fact["role"] != "rollout" else ""
        text = (", ".join(fact["functions"]) or "not seen") + packed
        if fact["role"] not in (known := roles.setdefault(text, [])):
            known.append(fact["role"])
    if roles:
        yield "attention", "; ".join(f"{text} in {', '.join(names)}" for text, names in roles.items())


def _loaded(by_kind: dict[str, list[dict[str, Any]]]) -> Iterator[tuple[str, str]]:
    """What an evaluation loaded."""
    for source in by_kind.get("source", []):
        odd = len(source["missing"]) + len(source["changed"])
        files = (
            f"{source['files']} files as they were saved" if not odd else f"{odd} files are not those that were saved"
        )
        seen = f", {len(loaded[-1]['weights'])} weights fingerprinted" if (loaded := by_kind.get("loaded")) else ""
        yield "loaded", f"run {source['run']} after step {source['step']}: {files}{seen}"


def _identity(data: dict[str, Any]) -> Iterator[tuple[str, str]]:
    code = data["code"]
    commit = (code["commit"] or "no commit")[:10] + (f", with changes {code['dirty']}" if code["dirty"] else "")
    yield "code", f"version {code['id']} ({commit}); " + ", ".join(f"{k} {v}" for k, v in code["packages"].items())
    yield "machine", f"{data['host']}, {data['machine']}, GPUs: {', '.join(data['gpus']) or 'none'}"
    yield "inputs", ", ".join(f"{k} {v or 'without fingerprint'}" for k, v in data["fingerprints"].items())
    if data["plugins"]:
        yield "plugins", ", ".join(data["plugins"])


def _format_error(data: dict[str, Any]) -> str:
    if data["sqnr_db"] is None:
        return "without error"
    return f"SQNR {data['sqnr_db']:.1f} dB, mean|e|/mean|w| {100 * data['mean_abs_ratio']:.1f} %"


def _gradients(probes: list[dict[str, Any]]) -> str:
    forward = max(p["output_error"] for p in probes)
    backward = max(max(p["input_error"], p["weight_error"] or 0.0) for p in probes)
    base = [p["input_error_unquantised"] for p in probes if "lora_" not in p["module"]]
    forgot = f" (dL/dx against W would be off by {min(base):.1g})" if base else ""
    return (
        f"{len(probes)} probes in real updates: y follows Q(W) within {forward:.1g}, dL/dx and dL/dW within "
        f"{backward:.1g}{forgot}"
    )


def _hardware(by_kind: dict[str, list[dict[str, Any]]]) -> Iterator[tuple[str, str]]:
    """Errors of matrix products, as the noise itself saw them, by phase and op."""
    seen: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for fact in by_kind.get("noisy_ops", []):
        for op, numbers in fact["ops"].items():
            seen.setdefault((fact["phase"], op), []).append(numbers)
    for (phase, op), many in seen.items():
        calls = sum(numbers["calls"] for numbers in many)
        std = [numbers["relative_std"] for numbers in many]
        yield (
            "products",
            f"{op} in {phase}: relative error {100 * min(std):.2f} to {100 * max(std):.2f} % in {calls} calls",
        )


def _layers(syncs: list[dict[str, Any]]) -> Iterator[tuple[str, str]]:
    """Multipliers by layer where they are not all 1, and what was realised of them."""
    table = syncs[-1]["layers"]
    if all(m == 1 for m in table["multiplier"]):
        return
    shares = [
        f"{'rest' if layer is None else layer}: {multiplier:.3g}→{std / syncs[-1]['sigma_planned']:.3g}"
        for layer, multiplier, std in zip(table["layer"], table["multiplier"], table["std"], strict=True)
    ]
    yield "by layer", f"sigma's multiplier, planned→realised at step {syncs[-1]['serves']}: " + ", ".join(shares)


def _rollout(by_kind: dict[str, list[dict[str, Any]]]) -> Iterator[tuple[str, str]]:
    syncs = by_kind.get("sync", [])
    if not syncs:
        return
    forward = {f["export"]: f["weights"] for f in by_kind.get("forward_weights", [])}
    sent = {f["export"]: f for f in by_kind.get("exported", [])}
    same = sum(
        s["step"] in sent
        and not different(forward.get(s["step"], {}), sent[s["step"]]["used"])
        and not different(sent[s["step"]]["weights"], s["weights"])
        for s in syncs
    )
    yield (
        "same weights",
        f"policy's forward = export = rollout after {same} of {len(syncs)} syncs, every weight",
    )
    merges = [merge for fact in sent.values() for merge in fact.get("merges", {}).values()]
    if merges:
        yield "merged", f"Q(W) + BA in {len(merges)} weights within {max(m['error'] for m in merges):.1g}"
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
        f"{'/'.join(map(str, sorted(modules)))} modules in {len(noisy)} of {len(syncs)} rollouts; sigma planned "
        f"{first['sigma_planned']:.3g} → {last['sigma_planned']:.3g}, realised {first['realised']['std']:.3g} → "
        f"{last['realised']['std']:.3g}",
    )
    yield from _layers(noisy)


def _evals(by_kind: dict[str, list[dict[str, Any]]]) -> Iterator[tuple[str, str]]:
    modes = by_kind.get("eval_mode", [])
    evals = by_kind.get("eval", [])
    if not evals:
        return
    clean = sum(not m["realised"]["modules"] for m in modes)
    sent = {f["export"]: f["weights"] for f in by_kind.get("exported", [])}
    for source in by_kind.get("source", []):  # its only export is that of the checkpoint's step
        sent = {source["step"]: next(iter(sent.values()), {})}
    same = sum(not different(sent.get(m["step"], {}), m["weights"]) for m in modes)
    errors = [m["output"]["error"] for m in modes if m.get("output")]
    products = f", products off by {max(errors):.1g} at most" if errors else ""
    yield (
        "evals",
        f"{len(evals)} at steps {', '.join(str(e['step']) for e in evals)}; weights as exported in {same} of "
        f"{len(modes)}, without noise in {clean}{products}",
    )
