"""Did what the condition sets of the model and of verl take effect: its attention, and keys that no field decides?"""

from __future__ import annotations

from orchestrator.verdict.case import Case, Findings, short, some

ATTENTION_FUNCTIONS = {
    "sdpa": "sdpa_attention_forward",
    "flash_attention_2": "flash_attention_forward",
    "eager": "eager",
}
"""What transformers hands to a model's attention modules under each name."""


def attention(case: Case) -> Findings:
    """Policy, reference and rollout computed with the condition's attention; only flash-attn got packed sequences."""
    c = case.condition
    needed = {"policy"} | ({"reference"} if c.algorithm.kl_loss > 0 and c.lora is None else set())
    return _attention(case, needed | ({"rollout"} if c.rollout == "transformers" else set()))


def attention_of_eval(case: Case) -> Findings:
    """Of an evaluation alone: what answered. vLLM has its own kernels."""
    return _attention(case, {"rollout"} if case.condition.rollout == "transformers" else set())


def _attention(case: Case, needed: set[str]) -> Findings:
    wanted = case.condition.attention
    against = []
    facts = case.of("attention")
    for fact in facts:
        others = sorted(set(fact["functions"]) - {ATTENTION_FUNCTIONS[wanted]})
        if others:
            against.append(f"the {fact['role']} computed its attention by {short(others)}, not by {wanted}")
        if fact["role"] != "rollout" and fact["masked"] is False and wanted != "flash_attention_2":
            against.append(
                f"the {fact['role']} got packed sequences without a mask: in {wanted}, tokens see earlier sequences"
            )
        if fact["role"] != "rollout" and fact["masked"] and wanted == "flash_attention_2":
            against.append(f"the {fact['role']} got padded sequences, and flash_attention_2 is to pack them")
    seen = {fact["role"] for fact in facts if fact["functions"]}
    missing = [f"which attention the {role} used was not measured" for role in sorted(needed - seen)]
    return Findings(some(list(dict.fromkeys(against))), tuple(missing))


def verl_keys(case: Case) -> Findings:
    """Every key of verl's that the condition sets was read by some process of the run."""
    read = {fact["key"] for fact in case.of("setting_read")}
    unread = [key for key in case.condition.trainer if key not in read]
    return Findings(missing=some([f"nothing was seen to read {key}: it may have had no effect" for key in unread]))
