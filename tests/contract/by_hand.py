"""Uses that no walk over our source finds: objects that come without a type, and words that are only read as text."""

from __future__ import annotations

from tests.contract.uses import Use, uses
from workers.verl_config import ADDED_KEYS

_NAMES = {
    "workers/verl/waves.py": (
        "verl.experimental.agent_loop.agent_loop.AgentLoopManager.create",  # WaveManager stands in its place
        "verl.experimental.agent_loop.agent_loop.AgentLoopManager.generate_sequences",
        "verl.experimental.agent_loop.agent_loop.AgentLoopOutput.as_dict",
        "verl.experimental.reward_loop.reward_manager.base.RewardManagerBase.run_single",
    ),
    "workers/verl/sampler.py": (
        "transfer_queue.KVBatchMeta.keys",
        "transfer_queue.KVBatchMeta.tags",
        "transfer_queue.KVBatchMeta.reorder",
    ),
    "workers/verl/trainer.py": (
        "verl.utils.tracking.Tracking.logger",
        "verl.workers.rollout.llm_server.LLMServerManager.get_replicas",
    ),
    # what verl asks of a server of ours
    "workers/verl/server.py": tuple(
        f"verl.workers.rollout.replica.RolloutReplica.{name}"
        for name in ("sleep", "wake_up", "clear_kv_cache", "release_kv_cache", "resume_kv_cache")
    ),
    "workers/verl/vllm_worker.py": (
        "vllm.v1.worker.gpu_worker.Worker.get_model",
        "vllm.v1.worker.cpu_worker.CPUWorker.get_model",
    ),
    "workers/verl/vllm_held.py": (
        "vllm.model_executor.layers.linear.LinearBase.quant_method",
        "vllm.model_executor.layers.linear.MergedColumnParallelLinear.output_sizes",
        "vllm.model_executor.layers.linear.QKVParallelLinear.output_sizes",
        "vllm.model_executor.layers.linear.UnquantizedLinearMethod.apply",
        "vllm.model_executor.layers.logits_processor.LogitsProcessor.forward",
        "vllm.model_executor.layers.vocab_parallel_embedding.VocabParallelEmbedding.org_vocab_size",
        "vllm.model_executor.models.qwen2.Qwen2ForCausalLM.packed_modules_mapping",
        "vllm.lora.layers.base_linear.BaseLinearLayerWithLoRA.base_layer",
        "vllm.lora.layers.base_linear.BaseLinearLayerWithLoRA.lora_a_stacked",
        "vllm.lora.layers.base_linear.BaseLinearLayerWithLoRA.lora_b_stacked",
    ),
    "workers/treatments/lora.py": ("peft.get_peft_model", "peft.LoraConfig"),
}
_WORDS = {
    "workers/train.py": ("ray:_temp_dir",),
    "workers/verl_config.py": tuple(f"verl:{key.rpartition('.')[2]}" for key in ADDED_KEYS),
    "workers/overrides.py": ("vllm:distributed_executor_backend",),
    "workers/launch.py": ("torch:TORCH_COMPILE_DISABLE", "hydra:HYDRA_FULL_ERROR", "tokenizers:TOKENIZERS_PARALLELISM"),
}


_ELSEWHERE = {"verl.workers.rollout.vllm_rollout.utils.vLLMColocateWorkerExtension.get_model"}
"""vLLM mixes this class into its worker, which has the method: listed above as the worker's."""


def everything() -> set[Use]:
    """All uses: those that the walk finds, and these. Names are dotted, words are ``package:word``."""
    found = {use for use in uses() if use.name not in _ELSEWHERE}
    found |= {Use(name, "name", where, "relies on") for where, names in _NAMES.items() for name in names}
    return found | {Use(word, "word", where, "sets") for where, words in _WORDS.items() for word in words}
