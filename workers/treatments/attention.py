"""Which attention a real forward used: the functions that the model's modules asked transformers for and got.

``config._attn_implementation`` says what was asked for. What a module multiplies with is what transformers hands it at
each forward, so that is what is written down, with whether the forward had a mask: sequences packed into one row have
none, and only flash-attn keeps those apart.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from torch import nn

EAGER = "eager"
"""What is noted where a module computes with its own function, which every architecture names in its own way."""


@dataclass
class AttentionSeen:
    """``functions``: names with how often each was looked up; ``eager``: the modules' own. ``masked``: had the forward
    a mask of padding? None where no forward of the model was seen."""

    functions: dict[str, int] = field(default_factory=dict)
    masked: bool | None = None

    def facts(self, role: str) -> dict[str, Any]:
        """The data of an ``attention`` event."""
        return {"role": role, "functions": dict(sorted(self.functions.items())), "masked": self.masked}


@contextmanager
def watch_attention(model: nn.Module) -> Iterator[AttentionSeen]:
    """What every attention module of ``model`` gets while the block runs. One thread at a time."""
    from transformers.modeling_utils import AttentionInterface

    seen = AttentionSeen()
    ask, take = AttentionInterface.get_interface, AttentionInterface.__getitem__

    def note(name: str) -> None:
        seen.functions[name] = seen.functions.get(name, 0) + 1

    def ask_and_note(self: Any, attn_implementation: str, default: Any) -> Any:
        function = ask(self, attn_implementation, default)  # takes it where it is one of transformers'
        if function is default:
            note(EAGER)
        return function

    def take_and_note(self: Any, name: str) -> Any:
        function = take(self, name)
        note(getattr(function, "__name__", repr(function)))
        return function

    def note_mask(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        mask = kwargs.get("attention_mask", args[1] if len(args) > 1 else None)
        seen.masked = mask is not None

    handle = model.register_forward_pre_hook(note_mask, with_kwargs=True)
    AttentionInterface.get_interface = ask_and_note
    AttentionInterface.__getitem__ = take_and_note
    try:
        yield seen
    finally:
        AttentionInterface.get_interface = ask
        AttentionInterface.__getitem__ = take
        handle.remove()
