"""The rollout copy and its sampler, on a tiny real Qwen2: what generates is what is measured."""

from __future__ import annotations

import pytest
import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

from experiment_specs.load import build_condition, load_sweep
from experiment_specs.modules import is_block_linear
from tests.conftest import TINY
from workers.launch import Order
from workers.treatments.held import Held
from workers.treatments.quantize import quantise
from workers.verl.generate import Request, sample
from workers.verl.rollout_copy import RolloutCopy

TOTAL = 20


def tiny_model(seed: int = 0) -> Qwen2ForCausalLM:
    torch.manual_seed(seed)
    config = Qwen2Config(
        vocab_size=40, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=1,
        num_key_value_heads=1, max_position_embeddings=64, tie_word_embeddings=False,
    )  # fmt: skip
    return Qwen2ForCausalLM(config).eval()


@pytest.fixture
def make_copy(write_spec):
    def make(aqn: str = "standard") -> tuple[RolloutCopy, dict[str, torch.Tensor]]:
        condition = build_condition(load_sweep(write_spec(TINY)), {"dtype": "mxfp4", "aqn": aqn})
        order = Order(
            "r", 1, "t", "l", condition.id, condition.model_dump(mode="json"), seed=1, total_steps=TOTAL,
            steps_per_epoch=TOTAL, eval_steps=[0, TOTAL], gpus=1, assets="",
        )  # fmt: skip
        weights = {
            name: quantise(value, condition.dtype)
            if is_block_linear(name.removesuffix(".weight")) and value.dim() == 2
            else value
            for name, value in tiny_model(1).state_dict().items()
        }
        return RolloutCopy(Held(tiny_model()), order), weights

    return make


def test_noise_is_on_in_training_rollouts_and_lifted_in_evals(make_copy) -> None:
    copy, weights = make_copy()
    copy.load(weights, step=4)  # serves step 5: the second interval of ten
    assert copy.planned_sigma() > 0
    copy.begin_eval()
    evidence = copy.evidence_before_generating()
    mode = evidence.facts
    assert (evidence.kind, mode["realised"]["modules"], mode["on_grid"]) == ("eval_mode", 0, mode["watched"])
    copy.end_eval()
    evidence = copy.evidence_before_generating()
    facts = evidence.facts
    assert (evidence.kind, facts["realised"]["modules"], facts["serves"]) == ("sync", 5, 5)
    assert abs(facts["realised"]["std"] - facts["sigma_expected"]) < 5 * facts["sigma_error"]
    assert copy.evidence_before_generating() is None  # once a sync


def test_the_first_interval_and_the_end_have_no_noise(make_copy) -> None:
    copy, weights = make_copy()
    for step, noisy in ((0, False), (TOTAL - 1, True), (TOTAL, False)):
        copy.load(weights, step)
        assert (copy.measure()["realised"]["modules"] > 0) is noisy


def test_weights_that_were_not_quantised_are_seen(make_copy) -> None:
    copy, _ = make_copy()
    copy.load(tiny_model(1).state_dict(), step=1)
    assert copy.measure()["on_grid"] < copy.measure()["watched"]


def test_a_sync_that_does_not_fit_is_an_error(make_copy) -> None:
    copy, weights = make_copy()
    weights.pop("model.norm.weight")
    with pytest.raises(RuntimeError, match=r"missing \['model.norm.weight'\]"):
        copy.load(weights, step=1)


def requests(count: int, temperature: float = 1.0) -> list[Request]:
    return [
        Request(tuple(range(1, 4 + i % 3)), max_tokens=8, temperature=temperature, top_p=1.0, top_k=-1, seed=i)
        for i in range(count)
    ]


def test_an_answer_does_not_depend_on_its_company() -> None:
    model = tiny_model()
    together = sample(model, requests(20), eos=0, pad=0, rows=16, width=8)
    alone = [sample(model, [request], eos=0, pad=0, rows=16, width=8)[0] for request in requests(20)]
    assert [a.tokens for a in together] == [a.tokens for a in alone]


def test_sampled_log_probs_are_those_of_a_plain_forward() -> None:
    model = tiny_model()
    request = requests(1)[0]
    answer = sample(model, [request], eos=0, pad=0, rows=4, width=8)[0]
    ids = torch.tensor([[*request.prompt, *answer.tokens]])
    with torch.no_grad():
        log_probs = model(ids).logits.log_softmax(-1)[0, len(request.prompt) - 1 : -1]
    expected = log_probs.gather(-1, torch.tensor(answer.tokens)[:, None]).squeeze(-1)
    assert torch.allclose(torch.tensor(answer.log_probs), expected, atol=1e-5)


def test_greedy_takes_the_most_likely_token_and_sampling_follows_the_distribution() -> None:
    model = tiny_model()
    greedy = sample(model, requests(3, temperature=0.0), eos=0, pad=0, rows=4, width=8)
    with torch.no_grad():
        best = model(torch.tensor([requests(1)[0].prompt])).logits[0, -1].argmax().item()
    assert greedy[0].tokens[0] == best
    many = [Request((1, 2, 3), 1, 1.0, 1.0, -1, seed) for seed in range(2000)]
    counts = torch.zeros(40)
    for answer in sample(model, many, eos=0, pad=0, rows=512, width=8):
        counts[answer.tokens[0]] += 1
    with torch.no_grad():
        probabilities = model(torch.tensor([[1, 2, 3]])).logits[0, -1].softmax(-1)
    expected = probabilities * 2000
    statistic = float(((counts - expected) ** 2 / expected).sum())
    assert statistic < 85  # chi-square, 39 degrees of freedom: p about 3e-5


def test_top_k_and_top_p_restrict_what_is_sampled() -> None:
    model = tiny_model()
    with torch.no_grad():
        order = model(torch.tensor([[1, 2, 3]])).logits[0, -1].argsort(descending=True).tolist()
    for top_k, top_p, allowed in ((2, 1.0, order[:2]), (-1, 1e-9, order[:1])):
        many = [Request((1, 2, 3), 1, 1.0, top_p, top_k, seed) for seed in range(64)]
        assert {a.tokens[0] for a in sample(model, many, eos=0, pad=0, rows=64, width=8)} <= set(allowed)
