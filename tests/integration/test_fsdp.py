"""Straight through under FSDP2: two real ranks, sharded weights, gradient checkpointing, against one unsharded process."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from experiment_specs.language import Dtype
from tests.unit.test_treatments import Toy
from workers.treatments.probe import Gradients, Probe
from workers.treatments.quantize import attach, quantise

IDS = torch.randint(0, 11, (4, 7), generator=torch.Generator().manual_seed(2))
PROBED = "model.layers.1.mlp.up_proj"
FORMATS = [Dtype(format="mxfp4", scale_rule="floor"), Dtype(format="nvfp4"), Dtype(format="bf16")]


def loss_of(model: nn.Module) -> torch.Tensor:
    return model(IDS).square().mean()


def rank(index: int, folder: str) -> None:
    """One of two ranks: shards the toy model layer by layer, in every format, and writes what it finds."""
    import torch.distributed as dist

    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=index, world_size=2)
    found = {dtype.format: sharded(dtype) for dtype in FORMATS}
    if index == 0:
        torch.save(found, Path(folder) / "found.pt")
    dist.barrier()  # a rank that leaves early takes the other's connections down
    dist.destroy_process_group()


def sharded(dtype: Dtype) -> dict[str, object]:
    from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import apply_activation_checkpointing
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    toy = Toy()
    attach(toy, dtype)
    seen: list[Gradients] = []
    Probe(toy.get_submodule(PROBED), lambda w: quantise(w, dtype), seen.append)
    layers = list(toy.model.layers)
    apply_activation_checkpointing(toy, check_fn=lambda module: module in layers)
    mesh = init_device_mesh("cpu", (2,))
    for layer in layers:
        fully_shard(layer, mesh=mesh)
    fully_shard(toy, mesh=mesh)
    half = dict(toy.named_parameters())["model.layers.1._checkpoint_wrapped_module.mlp.up_proj.weight"]
    assert half.to_local().shape[0] == half.shape[0] // 2
    loss_of(toy).backward()
    gradients = {
        name.replace("_checkpoint_wrapped_module.", ""): parameter.grad.full_tensor()
        for name, parameter in toy.named_parameters()
    }
    return {"gradients": gradients, "probe": seen[0]}


def test_two_ranks_with_checkpointing_have_the_gradients_of_one_process(tmp_path) -> None:
    torch.multiprocessing.spawn(rank, (str(tmp_path),), nprocs=2)
    everything = torch.load(tmp_path / "found.pt", weights_only=False)
    for dtype in FORMATS:
        found = everything[dtype.format]
        toy = Toy()
        attach(toy, dtype)
        loss_of(toy).backward()
        for name, parameter in toy.named_parameters():
            assert torch.allclose(found["gradients"][name], parameter.grad, rtol=1e-4, atol=1e-7), name
        assert found["probe"].output_error < 1e-5
        assert found["probe"].input_error < 1e-5
        assert found["probe"].weight_error < 1e-5
