"""Makes the embedded model and data once, under a folder, with a fingerprint that says what they are."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import random
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from workers.tiny import task

RECIPE: dict[str, Any] = {
    "version": 2,
    "seed": 0,
    "careful_share": 0.4,
    "pretraining_steps": 900,
    "pretraining_batch": 64,
    "pretraining_lr": 4e-3,
    "hidden": 64,
    "layers": 2,
    "mlp": 192,
    "train_rows": 4000,
    "test_rows": 500,
    "selection_rows": 500,
}
"""Everything that the assets depend on; another recipe is another folder. Head size 32, all dimensions multiples of
32: what 4-bit blocks and vLLM's attention kernels need."""


def prepare(home: Path, say: Callable[[str], None] = lambda _: None) -> dict[str, str]:
    """Paths of ``model``, ``train``, ``test`` and ``selection`` below ``home``; made when they are not there. Safe to
    call at once from several processes."""
    name = hashlib.sha256(json.dumps(RECIPE, sort_keys=True).encode()).hexdigest()[:10]
    folder = home / f"tiny-{name}"
    home.mkdir(parents=True, exist_ok=True)
    with (home / ".tiny.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "fingerprints.json").exists():
            say("making the embedded model and data (once, about half a minute)")
            scratch = Path(tempfile.mkdtemp(prefix=".tiny-", dir=home))
            try:
                _make(scratch, say)
                shutil.rmtree(folder, ignore_errors=True)
                os.rename(scratch, folder)
            finally:
                shutil.rmtree(scratch, ignore_errors=True)
    return {
        "model": str(folder / "model"),
        "train": str(folder / "train.parquet"),
        "test": str(folder / "test.parquet"),
        "selection": str(folder / "selection.parquet"),
    }


def _make(folder: Path, say: Callable[[str], None]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    split = task.split(RECIPE["train_rows"], RECIPE["test_rows"], RECIPE["selection_rows"])
    for name, pairs in (("train", split.train), ("test", split.test), ("selection", split.selection)):
        pq.write_table(pa.Table.from_pylist(task.rows(pairs, name)), folder / f"{name}.parquet")
    tokenizer = _tokenizer(split)
    model = _pretrained(tokenizer, split, say)
    model.save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    prints = {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}
    (folder / "fingerprints.json").write_text(json.dumps({"recipe": RECIPE, "files": prints}, indent=1))


def shape(vocabulary: int) -> dict[str, Any]:
    """What decides the model's modules and their sizes, in the words of its configuration."""
    return {
        "vocab_size": vocabulary, "hidden_size": RECIPE["hidden"], "intermediate_size": RECIPE["mlp"],
        "num_hidden_layers": RECIPE["layers"], "num_attention_heads": 2, "num_key_value_heads": 1,
        "max_position_embeddings": 128, "tie_word_embeddings": False,
    }  # fmt: skip


def _tokenizer(split: task.Split) -> Any:
    """Byte-level BPE with single digits, as Qwen's; its vocabulary is exactly the model's."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.BPE(unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    core.decoder = decoders.ByteLevel()
    texts = (task.question(p) + task.careful(p) for p in split.pool[:2000])
    special = ["<pad>", "<eos>", "<unk>"]
    core.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=320, special_tokens=special, show_progress=False))
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token="<pad>",
        eos_token="<eos>",
        unk_token="<unk>",
        padding_side="left",
    )
    tokenizer.chat_template = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
    return tokenizer


def _pretrained(tokenizer: Any, split: task.Split, say: Callable[[str], None]) -> Any:
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    special = {"pad_token_id": tokenizer.pad_token_id, "eos_token_id": tokenizer.eos_token_id, "bos_token_id": None}
    torch.manual_seed(RECIPE["seed"])
    torch.set_num_threads(max(1, min(2, os.cpu_count() or 1)))
    chance = random.Random(RECIPE["seed"] + 1)
    model = Qwen2ForCausalLM(Qwen2Config(**shape(len(tokenizer)), **special))
    examples = []
    for _ in range(20_000):
        pair = chance.choice(split.pool)
        answer = task.careful(pair) if chance.random() < RECIPE["careful_share"] else task.sloppy(pair)
        examples.append(
            (tokenizer(task.question(pair))["input_ids"], [*tokenizer(answer)["input_ids"], tokenizer.eos_token_id])
        )
    steps, peak = RECIPE["pretraining_steps"], RECIPE["pretraining_lr"]
    optimiser = torch.optim.AdamW(model.parameters(), lr=peak, weight_decay=0.01, betas=(0.9, 0.98))
    model.train()
    for step in range(steps):
        for group in optimiser.param_groups:
            group["lr"] = peak * min(1.0, (step + 1) / 50) * max(0.1, 1 - step / steps)
        ids, labels, mask = _collate(chance.sample(examples, RECIPE["pretraining_batch"]), tokenizer.pad_token_id)
        loss = model(input_ids=ids, attention_mask=mask, labels=labels).loss
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        if (step + 1) % 300 == 0:
            say(f"pre-training step {step + 1} of {steps}, loss {loss.item():.3f}")
    return model.eval()


def _collate(batch: list[tuple[list[int], list[int]]], pad: int) -> tuple[Any, Any, Any]:
    """Left-padded ids, labels on the answer only, attention mask; each rows × longest."""
    import torch

    width = max(len(prompt) + len(answer) for prompt, answer in batch)
    ids = torch.full((len(batch), width), pad)
    labels = torch.full((len(batch), width), -100)
    mask = torch.zeros(len(batch), width, dtype=torch.long)
    for row, (prompt, answer) in enumerate(batch):
        size = len(prompt) + len(answer)
        ids[row, width - size :] = torch.tensor(prompt + answer)
        labels[row, width - len(answer) :] = torch.tensor(answer)
        mask[row, width - size :] = 1
    return ids, labels, mask
