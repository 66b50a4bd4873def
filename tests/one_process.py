"""A training run in this process, without Ray: verl's own worker around our engine and adapter, our server, our copy.

For tests that put a fault in by monkeypatching and read what the run then says about itself: a run by ``workers.train``
takes half a minute, and its processes do not see the test's patches. Left out are the trainer's loop, the transfer
queue and the reward: ``step`` calls the worker in verl's order, with made-up advantages.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import torch

from experiment_specs.language import Condition
from orchestrator.measured import step_facts
from orchestrator.steps import plan_steps
from orchestrator.verdict import Measured, PlannedSteps, Verdict, judge
from workers.events import Spool, read_events
from workers.launch import PLUGINS_VARIABLE, RUN_DIR_VARIABLE, Order, write_order
from workers.overrides import overrides
from workers.verl.generate import Answer, Request
from workers.verl_config import compose

SPECIAL = ["<pad>", "<eos>", "<unk>"]
WORDS = 37
ENVIRONMENT = {
    "VERL_PLATFORM": "cpu",
    "VERL_USE_EXTERNAL_MODULES": "workers.verl.plugin",
    PLUGINS_VARIABLE: "",
} | {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}
"""What verl reads in a worker. Nothing listens on the port: the process group below has its store in memory."""


@cache
def prepare_process() -> None:
    """Load verl for the CPU and make the process group. Once a process: both stay, and neither remembers a run.

    To be called before anything imports verl, which takes its device from the environment, once for all: a test that
    patches ``workers.verl.engine`` names it by a string, and does not import it at its top.
    """
    with patch.dict(os.environ, ENVIRONMENT):
        from verl.utils.device import get_device_name

        import workers.verl.plugin
        import workers.verl.register  # noqa: F401

        if get_device_name() != "cpu":
            raise RuntimeError("verl was imported before prepare_process(), for another device")
        if not torch.distributed.is_initialized():
            torch.distributed.init_process_group("cpu:gloo", rank=0, world_size=1, store=torch.distributed.HashStore())


def make_model(folder: Path, *, layers: int = 2, tied: bool = False, seed: int = 0) -> Path:
    """A random Qwen2 of the embedded one's shape, with a tokenizer that verl's model configuration accepts."""
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

    vocabulary = {word: i for i, word in enumerate(SPECIAL + [f"w{i}" for i in range(WORDS)])}
    core = Tokenizer(models.WordLevel(vocabulary, unk_token=SPECIAL[2]))
    special = dict(zip(("pad_token", "eos_token", "unk_token"), SPECIAL, strict=True))
    PreTrainedTokenizerFast(tokenizer_object=core, **special).save_pretrained(folder)
    config = Qwen2Config(
        vocab_size=len(vocabulary), hidden_size=64, intermediate_size=192, num_hidden_layers=layers,
        num_attention_heads=2, num_key_value_heads=1, max_position_embeddings=128, tie_word_embeddings=tied,
        pad_token_id=0, eos_token_id=1, bos_token_id=None,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        Qwen2ForCausalLM(config).save_pretrained(folder)
    return folder


class _Handle:
    """In place of a Ray actor's handle. Arguments are copied, as Ray copies them: nothing is shared with the policy."""

    def __init__(self, target: Any) -> None:
        self._target = target

    def __getattr__(self, name: str) -> Any:
        async def remote(*args: Any) -> Any:
            return getattr(self._target, name)(*deepcopy(args))

        return SimpleNamespace(remote=remote)


class OneProcess:
    """One run of ``condition`` in ``run_dir``; steps and evals are planned from the condition, as everywhere.

    ``model``: a folder; a random model is made where none is given. ``state``: seed of the random numbers that the
    process begins with; the run's own by default. ``order``: more fields of the Order, for example
    ``overrides={"actor_rollout_ref.model.enable_gradient_checkpointing": True}`` with verl's keys.
    """

    def __init__(
        self, condition: Condition, run_dir: Path, *, seed: int = 1, model: Path | None = None, state: int | None = None,
        **order: Any,
    ) -> None:  # fmt: skip
        prepare_process()
        steps = plan_steps(condition)
        self.condition, self.run_dir = condition, run_dir
        self.plan = PlannedSteps(steps.total, steps.evals, steps.per_epoch)
        self.order = Order(
            "run", 1, "token", "label", condition.id, condition.model_dump(mode="json"), seed=seed,
            total_steps=steps.total, steps_per_epoch=steps.per_epoch, eval_steps=list(steps.evals), gpus=1,
            assets=str(run_dir), **order,
        )  # fmt: skip
        write_order(run_dir, self.order)
        self.spool = Spool(run_dir)
        self.done = 0
        """Training steps so far."""
        self._random = torch.Generator().manual_seed(seed if state is None else state).get_state()
        folder = str(model or make_model(run_dir / "model"))
        files = dict.fromkeys(("model", "train", "test"), folder)
        self.config = compose(overrides(self.order, run_dir, files, cpu=True))
        self.config.actor_rollout_ref.actor.optim.total_training_steps = steps.total  # as verl's trainer does
        self._say_what_a_run_says_first()
        with self._inside():
            from verl.trainer.ppo.utils import need_reference_policy
            from verl.workers.engine_workers import ActorRolloutRefWorker

            from workers.verl.server import Server

            self.server = Server(folder, 0, 1)
            self._refers = need_reference_policy(self.config)
            self._apart = self._refers and self.config.actor_rollout_ref.model.lora_rank == 0  # else: adapters off
            role = "actor_rollout_ref" if self._apart else "actor_rollout"
            self.worker = ActorRolloutRefWorker(self.config.actor_rollout_ref, role=role)
            self.worker.init_model()
            self._sync()

    @property
    def engine(self) -> Any:
        """The policy's TreatedEngine."""
        return self.worker.actor.engine

    @property
    def rollout_copy(self) -> Any:
        return self.server._copy

    def train(self) -> Verdict:
        """All planned steps and evals, and the verdict on them."""
        for step in range(self.plan.total_steps + 1):
            if step:
                self.step()
            if step in self.plan.eval_steps:
                self.evaluate()
        return self.verdict()

    def step(self) -> dict[str, Any]:
        """Generate, compute log-probabilities, update, sync: verl's order. Returns the metrics of the ``step`` event."""
        from verl.utils import tensordict_utils as tu
        from verl.utils.metric import reduce_metrics
        from verl.utils.py_functional import rename_dict

        from workers.verl.trainer import MetricsTap

        c, actor = self.condition, self.config.actor_rollout_ref.actor
        temperature, samples = c.algorithm.temperature, c.algorithm.samples_per_prompt
        questions = range(self.done * c.batch.prompts, (self.done + 1) * c.batch.prompts)
        requests = [self._request(question, j, temperature) for question in questions for j in range(samples)]
        update = {
            "calculate_entropy": False, "mini_batch_size": c.batch.mini_batch * samples,
            "global_batch_size": c.batch.mini_batch * samples, "epochs": actor.ppo_epochs,
            "seed": actor.data_loader_seed, "dataloader_kwargs": {"shuffle": actor.shuffle},
        }  # fmt: skip
        with self._inside():
            batch = _batch(requests, self.server.answer(requests), temperature)
            batch["old_log_probs"] = _log_probs(self.worker.compute_log_prob, batch, calculate_entropy=True)
            if self._apart:
                batch["ref_log_prob"] = _log_probs(self.worker.compute_ref_log_prob, batch)
            elif self._refers:
                batch["ref_log_prob"] = _log_probs(self.worker.compute_log_prob, batch, no_lora_adapter=True)
            tu.assign_non_tensor(batch, **update)
            metrics = reduce_metrics(tu.get(self.worker.update_actor(batch), "metrics"))
            self.done += 1
            counted = {"aqn/prompts": len({r.prompt for r in requests}), "aqn/trajectories": len(batch)}
            told = rename_dict(metrics, "actor/") | counted
            MetricsTap(self.spool).log(told | {"training/global_step": self.done}, self.done)
            self._sync()
        return told

    def evaluate(self) -> None:
        """Ask the test questions as the trainer has them asked, and tell of it."""
        from workers.verl.trainer import eval_facts

        rule = self.condition.eval
        asked = [(i, j) for i in range(self.condition.data.test_rows) for j in range(rule.samples)]
        with self._inside():
            self.server.begin_eval()
            answers = self.server.answer([self._request(i, j, rule.temperature) for i, j in asked])
            outcomes = {"qid": [i for i, _ in asked], "acc": [float(a.tokens[0] % 2) for a in answers]}
            self.spool.append("eval", eval_facts(self.done, outcomes))
            self.server.end_eval()

    def facts(self) -> list[Measured]:
        """Everything said so far, as the scheduler hands it to the verdict: with a step's counts beside its metrics."""
        events = read_events(self.run_dir)[0]
        return [
            Measured(e.kind, step_facts(e.data["step"], e.data["metrics"]) if e.kind == "step" else e.data)
            for e in events
        ]

    def of(self, kind: str) -> list[Mapping[str, Any]]:
        return [fact.data for fact in self.facts() if fact.kind == kind]

    def verdict(self) -> Verdict:
        return judge(self.condition, self.plan, self.facts())

    @contextmanager
    def _inside(self) -> Iterator[None]:
        """Environment, actor and random numbers of this run, for as long as its code runs and no longer.

        On one thread: where the cores are shared, a second one makes work as small as this ten times slower.
        """
        threads = torch.get_num_threads()
        with (
            patch.dict(os.environ, ENVIRONMENT | {RUN_DIR_VARIABLE: str(self.run_dir)}),
            patch("ray.get_actor", lambda *_, **__: _Handle(self.server)),
            torch.random.fork_rng(devices=[]),
        ):
            torch.set_rng_state(self._random)
            torch.set_num_threads(1)
            try:
                yield
            finally:
                torch.set_num_threads(threads)
                self._random = torch.get_rng_state()

    def _sync(self) -> None:
        """verl's own weight sync. On a loop of its own: ``asyncio.run`` would leave this thread without one."""
        loop = asyncio.new_event_loop()
        try:
            loop.run_until_complete(self.worker.update_weights(global_steps=self.done))
            loop.run_until_complete(loop.shutdown_default_executor())
        finally:
            loop.close()

    def _request(self, question: int, sample: int, temperature: float) -> Request:
        data = self.condition.data
        length = min(data.max_prompt_tokens, 3 + question % 3)
        prompt = tuple(len(SPECIAL) + (question + 5 * k) % WORDS for k in range(length))
        seed = ((self.order.seed * 1_000 + self.done) * 1_000 + question) * 1_000 + sample
        return Request(prompt, data.max_response_tokens, temperature, 1.0, -1, seed)

    def _say_what_a_run_says_first(self) -> None:
        """The facts of ``workers.train`` and of the trainer; the identity is made up, for it is not what is tested."""
        prints = dict.fromkeys(("model", "train", "test"), "made up")
        self.spool.append("started", {"fingerprints": prints, "plugins": [], "code": {"id": "one process"}})
        rows = {"train_rows": self.condition.data.train_rows, "test_rows": self.condition.data.test_rows}
        counts = {"total_steps": self.order.total_steps, "steps_per_epoch": self.order.steps_per_epoch}
        self.spool.append("planned", counts | rows)


def _log_probs(ask: Any, batch: Any, **options: Any) -> Any:
    """Log-probabilities of the answers' tokens by one of the worker's models."""
    from verl.utils import tensordict_utils as tu
    from verl.workers.utils.padding import response_from_nested

    data = batch.copy()
    tu.assign_non_tensor(data, **({"calculate_entropy": False, "compute_loss": False} | options))
    return response_from_nested(ask(data)["log_probs"], batch["response_mask"])


def _batch(requests: list[Request], answers: list[Answer], temperature: float) -> Any:
    """What the worker finds in verl's queue: ragged, unpadded. Every other answer counts as good, the others as bad."""
    from verl.utils import tensordict_utils as tu

    columns: dict[str, list[list[Any]]] = {
        "prompts": [list(r.prompt) for r in requests],
        "responses": [a.tokens for a in answers],
        "input_ids": [[*r.prompt, *a.tokens] for r, a in zip(requests, answers, strict=True)],
        "rollout_log_probs": [a.log_probs for a in answers],
        "response_mask": [[1] * len(a.tokens) for a in answers],
        "advantages": [[1.0 - 2.0 * (i % 2)] * len(a.tokens) for i, a in enumerate(answers)],
    }
    columns["loss_mask"] = columns["response_mask"]
    columns["position_ids"] = [list(range(len(ids))) for ids in columns["input_ids"]]
    ragged = {
        name: torch.nested.as_nested_tensor([torch.tensor(row) for row in rows], layout=torch.jagged)
        for name, rows in columns.items()
    }
    return tu.get_tensordict(ragged, {"temperature": temperature})
