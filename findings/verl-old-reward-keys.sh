#!/usr/bin/env bash
# verl 0.9.1: the old keys of the reward compose without an error and have no effect.
#
# Why it matters: the reward decides what a language model is trained for. custom_reward_function.path and
# reward_model.enable, known from earlier versions and from many published scripts, are still in verl's configuration,
# and verl has a function that moves them to the new keys under "reward." But no code of verl.trainer calls it. A run
# with the old keys trains on the built-in reward, even when the named file does not exist, and nothing is reported.
# The same value under reward.custom_reward_function.path is used, and a missing file is an error there.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

python3.11 -m venv "$work/venv"
"$work/venv/bin/python" -m pip install --quiet --disable-pip-version-check torch==2.13.0
# verl's default trainer imports the packages of the last line without listing them as requirements.
"$work/venv/bin/python" -m pip install --quiet --disable-pip-version-check \
  verl==0.9.1 torch==2.13.0 ray==2.60.0 transformers==5.10.4 tensordict==0.10.0 hydra-core==1.3.8 omegaconf==2.3.1 \
  TransferQueue==0.1.11 pyzmq==27.3.0 msgspec==0.23.0 cachetools==7.3.2 fastapi==0.165.0 uvicorn==0.54.0

echo 'expected: old keys compose and load no reward function; the new key loads it or reports the missing file'

cat >"$work/reward.py" <<'PYTHON'
def compute_score(data_source, solution_str, ground_truth, extra_info=None):
    return 1.0
PYTHON

cat >"$work/check.py" <<'PYTHON'
import sys
from importlib.metadata import version
from pathlib import Path

import verl
from hydra import compose, initialize_config_module
from verl.experimental.reward_loop import migrate_legacy_reward_impl
from verl.trainer.ppo.reward import get_custom_reward_fn

print("verl", version("verl"), "hydra-core", version("hydra-core"))
present = sys.argv[1]
missing = str(Path(present).with_name("missing.py"))


def configuration(*overrides: str):
    with initialize_config_module("verl.trainer.config", version_base=None):
        return compose("ppo_trainer", overrides=list(overrides))


def loaded(config) -> str:
    try:
        return "no function" if get_custom_reward_fn(config) is None else "the function"
    except FileNotFoundError:
        return "an error: the file is missing"


old_present = loaded(configuration(f"custom_reward_function.path={present}"))
old_missing = loaded(configuration(f"custom_reward_function.path={missing}"))
new_present = loaded(configuration(f"reward.custom_reward_function.path={present}"))
new_missing = loaded(configuration(f"reward.custom_reward_function.path={missing}"))
print("custom_reward_function.path=reward.py gives", old_present)
print("custom_reward_function.path=missing.py gives", old_missing)
print("reward.custom_reward_function.path=reward.py gives", new_present)
print("reward.custom_reward_function.path=missing.py gives", new_missing)

model = configuration("reward_model.enable=true")
enabled = model.reward.reward_model.enable
print("reward_model.enable=true leaves reward.reward_model.enable at", enabled)

old = (f"custom_reward_function.path={missing}", "custom_reward_function.name=compute_score")
moved = loaded(migrate_legacy_reward_impl(configuration(*old)))
trainers = Path(verl.__file__).parent / "trainer"
callers = [file.name for file in trainers.rglob("*.py") if "migrate_legacy_reward_impl" in file.read_text()]
print("after verl's own migration, custom_reward_function.path=missing.py gives", moved)
print("files of verl.trainer that name the migration:", callers)

holds = (
    old_present == old_missing == "no function"
    and new_present == "the function"
    and new_missing == moved == "an error: the file is missing"
    and enabled is False
    and callers == []
)
print("behaves as described" if holds else "the behaviour changed")
sys.exit(0 if holds else 1)
PYTHON

# The imports warn on stderr about engines that are not installed; that is shown only if the check fails.
if ! "$work/venv/bin/python" "$work/check.py" "$work/reward.py" 2>"$work/log"; then
  tail -n 20 "$work/log" >&2
  exit 1
fi
