"""verl's synchronous trainer, telling what it does: counts, metrics, evals question by question, checkpoints."""

from __future__ import annotations

import base64
import hashlib
import os
import shutil
from pathlib import Path
from typing import Any

import ray
from omegaconf import open_dict
from verl.trainer.ppo.v1.trainer_base import register_trainer
from verl.trainer.ppo.v1.trainer_sync import PPOTrainerSync

from experiment_specs.faults import fault_point
from workers.checkpoints import due, unneeded
from workers.events import Spool, read_events
from workers.launch import RUN_DIR_VARIABLE, STOP_NAME, has_successor, read_order
from workers.verl.sampler import OrderedReplayBuffer

TRAINER_MODE = "aqn"


class MetricsTap:
    """An extra backend of verl's tracking: every metric of every step goes to the spool."""

    def __init__(self, spool: Spool) -> None:
        self._spool = spool

    def log(self, data: dict[str, Any], step: int) -> None:
        metrics = {}
        for name, value in data.items():
            try:
                metrics[name] = float(value)
            except (TypeError, ValueError):
                continue  # tables and texts are not metrics
        if "training/global_step" in metrics:  # evals have an event of their own
            self._spool.append("step", {"step": step, "metrics": metrics})


@register_trainer(TRAINER_MODE)
class ProvenTrainer(PPOTrainerSync):
    """Synchronous PPO that reports to the spool of its run directory."""

    def __init__(self, config: Any) -> None:
        with open_dict(config):
            config.trainer.v1.trainer_mode = "sync"  # verl's base class branches on the name
        self._run_dir = Path(os.environ[RUN_DIR_VARIABLE])
        self._spool = Spool(self._run_dir)
        self._order = read_order(self._run_dir)
        self._saved: dict[int, Path] = {}
        """Step → its checkpoint's folder, of this attempt or of those that it goes on from."""
        self._right: dict[int, int] = {}
        """Step → test answers that were right."""
        self._generated = self._kept = 0
        self._stopping = False
        self._remember_the_past()
        super().__init__(config)

    def _remember_the_past(self) -> None:
        """What an earlier attempt did, as far as this one goes on from it."""
        for event in read_events(self._run_dir)[0]:
            if event.kind == "checkpoint":
                self._saved[int(event.data["step"])] = Path(event.data["path"])
            elif event.kind == "checkpoint_removed":
                self._saved.pop(int(event.data["step"]), None)
            elif event.kind == "eval":
                self._right[int(event.data["step"])] = int(event.data["k"])
            elif event.kind == "step":
                self._generated = int(event.data["metrics"]["aqn/prompts_generated"])
                self._kept = int(event.data["metrics"]["aqn/prompts_kept"])

    def _build_replay_buffer(self) -> Any:
        buffer = super()._build_replay_buffer()
        buffer.__class__ = OrderedReplayBuffer
        return buffer

    def servers(self) -> list[Any]:
        return [server for replica in self.llm_server_manager.get_replicas() for server in replica.servers]

    def _tell_servers(self, method: str) -> None:
        ray.get([getattr(server, method).remote() for server in self.servers()])

    def on_init_end(self) -> None:
        self.replay_buffer.start_counting(len(self.train_dataset), self._generated, self._kept)
        self._spool.append(
            "planned",
            {
                "total_steps": self.total_training_steps,
                "steps_per_epoch": self.steps_per_epoch,
                "train_rows": len(self.train_dataset),
                "test_rows": len(self.val_dataset),
            },
        )
        super().on_init_end()
        self._spool.append("phase", {"name": "first weights synced"})

    def fit(self, agent_loop_manager: Any) -> None:
        self._spool.append("phase", {"name": "rollout ready"})
        super().fit(agent_loop_manager)
        if self._stopping:
            self._spool.append("stopped", {"step": max(self._saved)}, durable=True)
        elif self._order.kind == "train":
            self._remove_unneeded(over=True)

    def on_validate_begin(self) -> None:
        self._tap_metrics()
        self._spool.append("phase", {"name": f"eval at step {self.global_steps} begins"})
        self._tell_servers("begin_eval")

    def on_validate_end(self) -> None:
        self._tell_servers("end_eval")

    def _submit_batch_to_rollout(self, batch: Any) -> int:
        self.replay_buffer.note_sent([str(uid) for uid in batch["uid"]])
        return int(super()._submit_batch_to_rollout(batch))

    def on_train_begin(self) -> None:
        self._tap_metrics()
        self._spool.append("phase", {"name": "training begins"})

    def on_step_begin(self) -> None:
        self._remove_unneeded(over=False)
        super().on_step_begin()

    def step(self, metrics: dict[str, Any], timing_raw: dict[str, Any]) -> Any:
        batch = super().step(metrics, timing_raw)
        # asked for once a step, so that saving and ending agree on it; the last step ends by itself
        self._stopping = (self._run_dir / STOP_NAME).exists() and self.global_steps < self._order.total_steps
        return batch

    def on_step_end(self) -> None:
        super().on_step_end()
        if self._stopping:
            self.total_training_steps = self.global_steps  # verl's loop ends once the step is evaluated and recorded
        buffer = self.replay_buffer
        if self.global_steps == 1:
            self._spool.append("phase", {"name": "first training step done"})
        self._pending_sync_metrics = {
            "aqn/prompts_generated": buffer.prompts_generated,
            "aqn/prompts_kept": buffer.prompts_kept,
        }

    def _update_actor(self, batch: Any, metrics: dict[str, Any]) -> Any:
        """Counts what an update really learns from."""
        keys = [key for key, tag in zip(batch.keys, batch.tags, strict=True) if not tag.get("is_padding", False)]
        metrics["aqn/trajectories"] = len(keys)
        metrics["aqn/prompts"] = len({key.split("_")[0] for key in keys})
        return super()._update_actor(batch, metrics)

    def _tap_metrics(self) -> None:
        self.logger.logger.setdefault("aqn", MetricsTap(self._spool))

    def _dump_generations(  # noqa: PLR0917 - verl's signature
        self, inputs: Any, outputs: Any, gts: Any, scores: Any, reward_extra_infos_dict: dict[str, Any], dump_path: Any
    ) -> None:
        super()._dump_generations(inputs, outputs, gts, scores, reward_extra_infos_dict, dump_path)
        if str(dump_path) == str(self.config.trainer.validation_data_dir):
            facts = eval_facts(self.global_steps, reward_extra_infos_dict)
            self._spool.append("eval", facts, durable=True)
            self._right[self.global_steps] = facts["k"]

    def _save_checkpoint(self) -> None:
        """verl asks after every step."""
        if not (self._stopping or due(self._order, self.global_steps)):
            return
        self._spool.append("phase", {"name": f"checkpoint of step {self.global_steps} is being saved"})
        super()._save_checkpoint()
        folder = Path(self.config.trainer.default_local_dir) / f"global_step_{self.global_steps}"
        self._saved[self.global_steps] = folder
        fault_point("checkpoint.saved")
        self._spool.append(
            "checkpoint", {"step": self.global_steps, "path": str(folder), "files": hashes(folder)}, durable=True
        )
        fault_point("checkpoint.recorded")

    def _remove_unneeded(self, *, over: bool) -> None:
        """Of checkpoints that are not to be kept, only the last stays as long as the run may have to go on from it."""
        if has_successor(self._run_dir, self._order):
            return  # they are another attempt's to go on from
        ended = self._order.total_steps if over else self.global_steps - 1
        for step in unneeded(
            self._saved, self._order.keep, self._order.eval_steps, self._right, ended=ended, over=over
        ):
            shutil.rmtree(self._saved.pop(step), ignore_errors=True)
            fault_point("checkpoint.removed")
            self._spool.append("checkpoint_removed", {"step": step, "why": "not to be kept"}, durable=True)


def eval_facts(step: int, extra: dict[str, Any]) -> dict[str, Any]:
    """k, n and the packed outcomes: bit i·samples+j is the j-th answer to the i-th question in order of ids.

    Raises KeyError where the reward function gives no question ids or no ``acc``, RuntimeError where ids repeat.
    """
    by_question: dict[str, list[bool]] = {}
    for qid, correct in zip(extra["qid"], extra["acc"], strict=True):
        by_question.setdefault(str(qid), []).append(bool(correct >= 0.5))
    questions = sorted(by_question, key=lambda q: (len(q), q))
    samples = {len(answers) for answers in by_question.values()}
    if len(samples) != 1:
        raise RuntimeError("the test questions' ids (extra_info.index) are not unique: some were answered more often")
    bits = [answer for question in questions for answer in sorted(by_question[question], reverse=True)]
    packed = bytearray((len(bits) + 7) // 8)
    for index, bit in enumerate(bits):
        packed[index // 8] |= bit << (index % 8)
    return {
        "step": step,
        "n": len(questions),
        "samples": samples.pop(),
        "k": sum(bits),
        "questions": hashlib.sha256("\n".join(questions).encode()).hexdigest()[:16],
        "outcomes": base64.b64encode(bytes(packed)).decode(),
    }


def hashes(folder: Path) -> dict[str, str]:
    """SHA-256 of every file below a folder."""
    result = {}
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        with path.open("rb") as handle:
            result[str(path.relative_to(folder))] = hashlib.file_digest(handle, "sha256").hexdigest()
    return result
