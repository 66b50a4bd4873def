"""What verl reads: the tracer on verl's own objects, and the table that was taken with it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

from experiment_specs.load import build_condition, load_sweep
from tests.conftest import TINY
from tests.verl_reads import Traced, leaves, make
from workers.events import read_events
from workers.launch import RUN_DIR_VARIABLE, Order, write_order
from workers.verl_config import known_keys
from workers.verl_reads import BASES, EXTRAS, TABLE, names_that_read, never_read, table, taken_from, why_unread

REPOSITORY = Path(__file__).resolve().parents[2]

READER = """
import json, sys
from pathlib import Path
from workers.verl import trace_reads
seen = []
trace_reads.install(lambda name: True, lambda name, place: seen.append([name, place.rpartition(":")[0].rpartition("/")[2]]))
from omegaconf import OmegaConf
from verl.utils.config import omega_conf_to_dataclass
from workers.verl_config import defaults
config = defaults()
def read(): ...
exec(compile(Path(sys.argv[1]).read_text(), "/site-packages/verl/reader.py", "exec"))
print(json.dumps(seen))
"""
"""A process of its own, because the tracer stays. What is read stands in a file that looks like one of verl's."""


@pytest.fixture
def reads(tmp_path: Path):
    def made(code: str, by: str = "reader.py") -> set[str]:
        file = tmp_path / "reader.py"
        file.write_text(code)
        done = subprocess.run(
            [sys.executable, "-c", READER, str(file)], cwd=REPOSITORY, capture_output=True, text=True, check=True
        )
        return {name for name, place in json.loads(done.stdout.splitlines()[-1]) if by in place}

    return made


def test_values_taken_from_nodes_and_from_verls_dataclasses_are_reads_and_copies_are_not(reads) -> None:
    found = reads(
        "config.trainer.nnodes\n"
        "config['data']['shuffle']\n"
        "config.actor_rollout_ref.actor.get('no_such_key')\n"
        "optimiser = omega_conf_to_dataclass(config.actor_rollout_ref.actor.optim)\n"
        "optimiser.betas\n"
        "optimiser.get('weight_decay')\n"
        "repr(config), OmegaConf.to_container(config, resolve=False)\n"
    )
    values = {name for name in found if name in leaves() or name.endswith(".*")}
    optimiser = "actor_rollout_ref.actor.optim"
    assert values == {"trainer.nnodes", "data.shuffle", f"{optimiser}.betas", f"{optimiser}.weight_decay"}


def test_other_ways_to_take_a_value_are_reads_too(reads) -> None:
    found = reads(
        "from omegaconf import open_dict\n"
        "with open_dict(config):\n"
        "    config.actor_rollout_ref.ref.pop('log_prob_micro_batch_size')\n"
        "OmegaConf.select(config, 'global_profiler.steps')\n"
        "OmegaConf.create(config.transfer_queue)\n"
    )
    assert {"actor_rollout_ref.ref.log_prob_micro_batch_size", "global_profiler.steps", "transfer_queue.*"} <= found


def test_checking_a_value_is_not_reading_it(reads) -> None:
    """verl's dataclasses look at every mode of the loss when they are made, whichever is used."""
    code = "actor = config.actor_rollout_ref.actor\nactor.ppo_micro_batch_size_per_gpu = 1\nomega_conf_to_dataclass(actor)\n"
    assert reads(code, "") & set(leaves()) == set()


def test_all_keys_of_a_mapping_that_is_handed_over_are_noted(write_spec, tmp_path: Path) -> None:
    keys = [f"actor_rollout_ref.model.override_config.{name}" for name in ("first", "second")]
    condition = build_condition(load_sweep(write_spec(TINY)), {"trainer": dict.fromkeys(keys, 1)})
    order = Order(
        "run", 1, "token", "label", condition.id, condition.model_dump(mode="json"), seed=1, total_steps=1,
        steps_per_epoch=1, eval_steps=[1], gpus=1, assets="",
    )  # fmt: skip
    write_order(tmp_path / "run", order)
    code = (
        "from workers.verl import trace_reads; trace_reads.start()\n"
        "from omegaconf import OmegaConf\n"
        "config = OmegaConf.create({'actor_rollout_ref': {'model': {'override_config': {'first': 1, 'second': 1}}}})\n"
        "OmegaConf.to_container(config.actor_rollout_ref.model.override_config)\n"
    )
    environment = os.environ | {RUN_DIR_VARIABLE: str(tmp_path / "run")}
    (tmp_path / "reader.py").write_text(code)
    command = [sys.executable, str(tmp_path / "reader.py")]
    subprocess.run(command, env=environment | {"PYTHONPATH": str(REPOSITORY)}, check=True)
    assert [event.data["key"] for event in read_events(tmp_path / "run")[0]] == keys


def test_a_mapping_that_is_handed_over_whole_counts_with_all_that_is_in_it(reads) -> None:
    assert "transfer_queue.*" in reads("OmegaConf.to_container(config.transfer_queue)")
    assert "transfer_queue.*" in reads("OmegaConf.merge({}, config.transfer_queue)")
    whole = Traced({"transfer_queue.*"})
    assert whole.has("transfer_queue.backend.storage_backend")
    assert not whole.has("trainer.nnodes")


def test_the_table_is_of_the_installed_verl_and_knows_no_other_keys() -> None:
    assert table().verl == metadata.version("verl")
    assert set(table().read) | set(table().mentioned) <= set(leaves())
    assert not set(table().read) & set(table().mentioned)
    kinds = {kind.name for kind in (*BASES, *EXTRAS)}
    assert {kind for names in table().read.values() for kind in names} == kinds


def test_who_takes_the_value_of_a_key_reads_that_key() -> None:
    through = taken_from(known_keys())
    assert "actor_rollout_ref.rollout.response_length" in through["data.max_response_length"]
    assert {key: list(users) for key, users in table().through.items()} == {
        k: u for k, u in through.items() if k in set(leaves())
    }
    assert "actor_rollout_ref.rollout.response_length" in set(names_that_read("data.max_response_length"))
    assert not never_read("data.max_response_length")


def test_a_kind_of_run_that_is_traced_again_replaces_what_was_known_of_it() -> None:
    old = json.loads(TABLE.read_text(encoding="utf-8"))
    kl = next(kind for kind in EXTRAS if kind.name == "kl")
    made = make(old, kl, Traced({"trainer.balance_batch", "trainer.nnodes"}))
    assert made["read"]["trainer.balance_batch"] == ["kl"]
    assert "kl" not in made["read"]["trainer.nnodes"], "its base reads it"
    assert not any("kl" in names for key, names in made["read"].items() if key != "trainer.balance_batch")


@pytest.mark.parametrize(
    ("fields", "key", "why"),
    [
        ({}, "actor_rollout_ref.actor.entropy_coeff", None),
        ({}, "actor_rollout_ref.rollout.enable_chunked_prefill", "only in runs with rollouts by vLLM"),
        ({"rollout": "vllm"}, "actor_rollout_ref.rollout.enable_chunked_prefill", None),
        ({"rollout": "vllm"}, "actor_rollout_ref.rollout.engine_kwargs.vllm.seed", None),
        ({"algorithm": "grpo"}, "actor_rollout_ref.ref.fsdp_config.forward_prefetch", None),
        ({}, "trainer.balance_batch", "never reads it"),
        ({}, "actor_rollout_ref.actor.policy_loss.clip_cov_ratio", None),
    ],
)  # fmt: skip
def test_whether_verl_reads_a_key_depends_on_the_kind_of_run(write_spec, fields, key, why) -> None:
    found = why_unread(key, build_condition(load_sweep(write_spec(TINY)), fields))
    assert (found is None) if why is None else (found is not None and why in found)
