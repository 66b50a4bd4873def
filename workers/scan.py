"""A layer scan as a run: loads a model, forwards a few questions, says what a number format does to each layer."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from experiment_specs.language import Scan
from workers.events import Spool
from workers.launch import Order


def scan(order: Order, files: dict[str, str], model_fingerprint: str | None, spool: Spool) -> None:
    """Measure and append a ``scan`` event. ``files``: where ``model`` and ``questions`` really lie.

    Raises RuntimeError where the questions cannot be asked.
    """
    import torch
    import transformers

    from workers.treatments.quantize import fingerprint
    from workers.treatments.srdd import scan_layers

    wanted = Scan.model_validate_json(json.dumps(order.condition))
    device = "cuda" if torch.cuda.is_available() else "cpu"
    tokenizer = transformers.AutoTokenizer.from_pretrained(files["model"])
    model = transformers.AutoModelForCausalLM.from_pretrained(
        files["model"], dtype=torch.float32 if wanted.compute == "fp32" else torch.bfloat16, attn_implementation="sdpa"
    )
    spool.append("phase", {"name": "model loaded"})
    weights = hashlib.sha256(json.dumps({n: fingerprint(p) for n, p in model.named_parameters()}).encode()).hexdigest()
    prompts = _prompts(tokenizer, files["questions"], wanted)
    table = scan_layers(model.to(device).eval(), [torch.tensor([ids], device=device) for ids in prompts], wanted.dtype)
    spool.append(
        "scan",
        {
            "model": model_fingerprint,
            "weights": weights,
            "decoder_layers": model.config.num_hidden_layers,
            "dtype": wanted.dtype.model_dump(mode="json"),
            "prompts": len(prompts),
            "prompts_hash": hashlib.sha256(json.dumps(prompts).encode()).hexdigest()[:16],
            "layers": table,
        },
        durable=True,
    )


def _prompts(tokenizer: Any, questions: str, wanted: Scan) -> list[list[int]]:
    """Token ids of the first questions of a parquet file in verl's layout, as the policy gets them; long ones cut."""
    import pyarrow.parquet as pq

    rows = pq.read_table(Path(questions), columns=["prompt"]).slice(0, wanted.prompts).to_pylist()
    if len(rows) < wanted.prompts:
        raise RuntimeError(f"{questions} has {len(rows)} questions, and the scan wants {wanted.prompts}")
    texts = [
        tokenizer.apply_chat_template(list(row["prompt"]), add_generation_prompt=True, tokenize=True, return_dict=False)
        for row in rows
    ]
    return [list(ids)[: wanted.max_prompt_tokens] for ids in texts]
