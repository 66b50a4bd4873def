"""A model's modules by name and shape, from its configuration alone: built on torch's meta device, no weights needed.

``python -m workers.architecture FOLDER`` prints them as JSON; without a folder it writes the shipped ones anew.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from experiment_specs.architecture import FOLDER
from experiment_specs.modules import layer_of


def inventory(config: dict[str, Any]) -> dict[str, Any]:
    """What :func:`experiment_specs.architecture.from_json` reads. ``config``: a model's ``config.json``."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from workers.treatments.aqn import targets

    rest = {key: value for key, value in config.items() if key != "model_type"}
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(config["model_type"], **rest))
    norms = [name for name, _ in targets(model, "rmsnorm")]
    linears = [
        (name, module.out_features, module.in_features)
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear)
    ]
    layers = 1 + max((layer for name, *_ in linears if (layer := layer_of(name)) is not None), default=-1)
    return {
        "layers": layers,
        "parameters": sum(p.numel() for p in model.parameters()),
        "norms": [name for (name,) in _folded([(name,) for name in norms], layers)],
        "linears": [list(entry) for entry in _folded(linears, layers)],
    }


def _folded(entries: list[Any], layers: int) -> list[Any]:
    """Entries that every decoder layer has, once, with ``{}`` for its index; as they are where layers differ."""
    by_pattern: dict[Any, int] = {}
    for name, *shape in entries:
        index = layer_of(name)
        pattern = name if index is None else name.replace(f"layers.{index}.", "layers.{}.", 1)
        by_pattern[(pattern, *shape)] = by_pattern.get((pattern, *shape), 0) + 1
    if all(count == layers for (name, *_), count in by_pattern.items() if "{}" in name):
        return list(by_pattern)
    return entries


def main(arguments: list[str]) -> int:
    if arguments:
        config = json.loads((Path(arguments[0]) / "config.json").read_text(encoding="utf-8"))
        sys.stdout.write(json.dumps(inventory(config)))
        return 0
    for path in sorted(FOLDER.glob("*.json")):
        data = json.loads(path.read_text(encoding="utf-8"))
        data["inventory"] = inventory(data["config"])
        path.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
