"""Batched sampling from a transformers model, the same result for the same request whatever else is in the batch.

Every request carries its own seed, from which its uniform numbers are drawn at once; a token is picked by inverting
the cumulative distribution. Batches are padded to one shape, so that a request's arithmetic does not depend on how many
others came with it, or how long they are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Request:
    """One answer to sample. ``temperature`` 0 is greedy. ``seed`` decides every random number of this answer."""

    prompt: tuple[int, ...]
    max_tokens: int
    temperature: float
    top_p: float
    top_k: int
    seed: int


@dataclass(frozen=True)
class Answer:
    """Sampled tokens, end token included, with their log-probabilities under the sampling distribution."""

    tokens: list[int]
    log_probs: list[float]
    ended: bool


@torch.inference_mode()
def sample(model: Any, requests: list[Request], *, eos: int, pad: int, rows: int, width: int) -> list[Answer]:
    """Answers in the order of ``requests``, all of one temperature, top_p, top_k and length limit.

    ``rows``: number of rows that every batch is padded to (more requests make more batches). ``width``: number of
    tokens that every prompt is padded to.
    """
    answers: list[Answer] = []
    for start in range(0, len(requests), rows):
        answers += _one_batch(model, requests[start : start + rows], eos, pad, (rows, width))
    return answers


def _one_batch(model: Any, requests: list[Request], eos: int, pad: int, shape: tuple[int, int]) -> list[Answer]:
    first, count = requests[0], len(requests)
    rows, width = shape
    device = next(model.parameters()).device
    ids = torch.full((rows, width), pad)
    mask = torch.zeros(rows, width + first.max_tokens, dtype=torch.long)
    for row in range(rows):
        prompt = requests[min(row, count - 1)].prompt  # spare rows repeat the last request
        ids[row, width - len(prompt) :] = torch.tensor(prompt)
        mask[row, width - len(prompt) : width] = 1
    positions = (mask[:, :width].cumsum(-1) - 1).clamp_min(0)
    uniform = torch.stack([_uniforms(r) for r in requests]) if first.temperature > 0 else None
    ids, mask, positions = ids.to(device), mask.to(device), positions.to(device)
    tokens = torch.full((count, first.max_tokens), pad)
    log_probs = torch.zeros(count, first.max_tokens)
    lengths = torch.full((count,), first.max_tokens)
    ended = torch.zeros(count, dtype=torch.bool)
    cache: Any = None
    for step in range(first.max_tokens):
        mask[:, width + step - 1 : width + step] = 1
        output = model(
            input_ids=ids, attention_mask=mask[:, : width + step], position_ids=positions,
            past_key_values=cache, use_cache=True, logits_to_keep=1,
        )  # fmt: skip
        cache = output.past_key_values
        logits = output.logits[:count, -1].float().cpu()
        picked, log_prob = _pick(logits, first, uniform[:, step] if uniform is not None else None)
        tokens[:, step], log_probs[:, step] = picked, log_prob
        newly = (picked == eos) & ~ended
        lengths[newly] = step + 1
        ended |= newly
        if bool(ended.all()):
            break
        following = torch.cat([picked, picked[-1:].expand(rows - count)]) if rows > count else picked
        ids, positions = following[:, None].to(device), positions[:, -1:] + 1
    return [
        Answer(tokens[i, :n].tolist(), log_probs[i, :n].tolist(), bool(ended[i]))
        for i, n in enumerate(lengths.tolist())
    ]


def _uniforms(request: Request) -> Tensor:
    generator = torch.Generator().manual_seed(request.seed)
    return torch.rand(request.max_tokens, generator=generator, dtype=torch.float64)


def _pick(logits: Tensor, request: Request, uniform: Tensor | None) -> tuple[Tensor, Tensor]:
    """One token a row and its log-probability. ``logits``: rows × vocabulary, fp32."""
    if uniform is None:
        picked = logits.argmax(-1)
        return picked, logits.log_softmax(-1).gather(-1, picked[:, None]).squeeze(-1)
    logits = logits / request.temperature
    if 0 < request.top_k < logits.shape[-1]:
        logits = logits.masked_fill(logits < logits.topk(request.top_k, -1).values[:, -1:], float("-inf"))
    if request.top_p < 1:
        ordered, index = logits.sort(-1, descending=True)
        before = ordered.softmax(-1).cumsum(-1) - ordered.softmax(-1)
        ordered = ordered.masked_fill(before > request.top_p, float("-inf"))
        logits = torch.full_like(logits, float("-inf")).scatter(-1, index, ordered)
    log_probs = logits.log_softmax(-1)
    cumulative = log_probs.double().exp().cumsum(-1)
    target = uniform[:, None] * cumulative[:, -1:]
    picked = torch.searchsorted(cumulative, target, right=True).squeeze(-1).clamp_max(logits.shape[-1] - 1)
    return picked, log_probs.gather(-1, picked[:, None]).squeeze(-1)
