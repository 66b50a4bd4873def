#!/usr/bin/env bash
# verl 0.9.1: an answer that is lost in an eval changes the name of the metric, or what the metric covers.
#
# Why it matters: an eval of a language model with 8 answers per prompt is reported as val-core/…/mean@8. N is not the
# setting: it is the number of answers that verl has for a prompt.
# 1. When every prompt lost one answer, the eval is reported as mean@7. The curve of mean@8 has a gap, and a tool that
#    takes the last mean@8 takes an older step.
# 2. When only some prompts lost one, mean@8 covers only the prompts that are complete. If those are the hard ones, the
#    score falls although no answer became worse.
# 3. When the reward function also returns "acc", the default trainer counts a lost answer as wrong and keeps mean@8. So
#    the same loss gives another score, depending on the return value of the reward function.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

python3.11 -m venv "$work/venv"
"$work/venv/bin/python" -m pip install --quiet --disable-pip-version-check torch==2.13.0
# verl's default trainer imports the packages of the last line without listing them as requirements.
"$work/venv/bin/python" -m pip install --quiet --disable-pip-version-check \
  verl==0.9.1 torch==2.13.0 ray==2.60.0 transformers==5.10.4 tensordict==0.10.0 hydra-core==1.3.8 omegaconf==2.3.1 \
  TransferQueue==0.1.11 pyzmq==27.3.0 msgspec==0.23.0 cachetools==7.3.2 fastapi==0.165.0 uvicorn==0.54.0

echo 'expected: one lost per prompt: mean@7 instead of mean@8; lost in some prompts: mean@8 without these prompts'

cat >"$work/check.py" <<'PYTHON'
import sys
from importlib.metadata import version

from verl.trainer.ppo.v1.trainer_base import PPOTrainer

print("verl", version("verl"))
PROMPTS = {"hard-1": 0.0, "hard-2": 0.0, "easy-1": 1.0, "easy-2": 1.0}  # each with the score of all its answers
ANSWERS = 8


def core(lost: set[str], *names: str) -> dict[str, float]:
    """The core means that verl's default trainer reports when each prompt in `lost` has one answer fewer."""
    prompts = [prompt for prompt in PROMPTS for _ in range(ANSWERS - (prompt in lost))]
    scores = [PROMPTS[prompt] for prompt in prompts]
    expected = {("gsm8k", prompt): ANSWERS for prompt in PROMPTS}
    # The method uses nothing of its object, so that no trainer has to be started here.
    metrics = PPOTrainer._val_metrics_update(
        None, ["gsm8k"] * len(prompts), prompts, {name: scores for name in names}, [], expected_acc_counts=expected
    )
    return {key: float(value) for key, value in metrics.items() if key.startswith("val-core/") and "/mean@" in key}


complete = core(set(), "reward")
everywhere = core(set(PROMPTS), "reward")
easy = core({"easy-1", "easy-2"}, "reward")
accuracy = core({"easy-1", "easy-2"}, "reward", "acc")
print("no answer lost:", complete)
print("one lost of every prompt:", everywhere)
print("one lost of each easy prompt:", easy)
print('one lost of each easy prompt, with "acc":', accuracy)

holds = (
    complete == {"val-core/gsm8k/reward/mean@8": 0.5}
    and everywhere == {"val-core/gsm8k/reward/mean@7": 0.5}
    and easy == {"val-core/gsm8k/reward/mean@8": 0.0}
    and accuracy == {"val-core/gsm8k/acc/mean@8": 0.4375}
)
print("behaves as described" if holds else "the behaviour changed")
sys.exit(0 if holds else 1)
PYTHON

# The imports warn on stderr about engines that are not installed; that is shown only if the check fails.
if ! "$work/venv/bin/python" "$work/check.py" 2>"$work/log"; then
  tail -n 20 "$work/log" >&2
  exit 1
fi
