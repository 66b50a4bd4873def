"""The control plane: spec → plan → runs → verdicts → reports. Never imports torch, verl or vllm."""
