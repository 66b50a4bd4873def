"""The typed vocabulary: a condition says everything that can change a result, and nothing else.

A :class:`Condition` is complete (every default is spelled out in it) and its id is a hash of all of it, so that two
specs that mean the same experiment have the same id however they were written. Names, labels and log levels are not
in it. ``None`` stands for the spec's ``none``.
"""

from __future__ import annotations

import hashlib
import json
from functools import cache, cached_property
from importlib.util import find_spec
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator

CONDITION_SCHEMA = 3
"""Raised when a field is added; a migration maps old ids to new ones."""

Positive = Annotated[int, Field(gt=0)]
Sigma = Annotated[float, Field(gt=0, lt=10)]
Patterns = Annotated[tuple[str, ...], Field(strict=False)]
Layers = Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(strict=False, min_length=1)]
Multipliers = Annotated[tuple[Annotated[float, Field(ge=0, le=10)], ...], Field(strict=False, min_length=1)]


class Value(BaseModel):
    """A frozen record that knows all its keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


TINY_PREFIX = "tiny/"
TINY_MODEL, TINY_DATA, TINY_SELECTION = "tiny/qwen2", "tiny/addition", "tiny/addition-selection"
"""What is made locally, seeded; the third: questions to select treatments by, not trained on nor in the test set."""


class Model(Value):
    """The policy. ``path``: a Hugging Face id, a local folder, or ``tiny/qwen2`` (made locally, seeded)."""

    path: str


class Data(Value):
    """Questions. ``train`` and ``test``: parquet files in verl's layout, or ``tiny/addition`` (made locally;
    ``tiny/addition-selection`` as ``test``: other questions, to select treatments by).

    The row counts are declared, because step counts follow from them, and checked against the files before training.
    """

    train: str
    test: str
    train_rows: Positive
    test_rows: Positive
    max_prompt_tokens: Positive
    max_response_tokens: Positive


class Overlong(Value):
    """DAPO's soft punishment of long answers: linear over the last ``buffer`` tokens, down to ``-penalty``."""

    buffer: Positive
    penalty: Annotated[float, Field(gt=0)]


class Algorithm(Value):
    """The policy-gradient recipe. Both use group-relative advantages; DAPO adds dynamic sampling and clip-higher."""

    name: Literal["grpo", "dapo"]
    samples_per_prompt: Annotated[int, Field(ge=2)]
    temperature: Annotated[float, Field(gt=0)] = 1.0
    clip_low: Annotated[float, Field(gt=0, lt=1)] = 0.2
    clip_high: Annotated[float, Field(gt=0, lt=2)] = 0.2
    loss_aggregation: Literal["token-mean", "seq-mean-token-sum", "seq-mean-token-mean"] = "token-mean"
    kl_loss: Annotated[float, Field(ge=0)] = 0.0
    dynamic_sampling: bool = False
    overlong: Overlong | None = None


class Optimiser(Value):
    """AdamW. ``warmup_steps`` counts training steps: verl 0.9.1 moves the learning rate once a step."""

    lr: Annotated[float, Field(gt=0)]
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    warmup_steps: Annotated[int, Field(ge=0)] = 0
    grad_clip: Annotated[float, Field(gt=0)] = 1.0


class Batch(Value):
    """Prompts a training step, and prompts an optimiser update."""

    prompts: Positive
    mini_batch: Positive

    @model_validator(mode="after")
    def _divides(self) -> Self:
        if self.prompts % self.mini_batch:
            raise ValueError(f"prompts ({self.prompts}) must be a multiple of mini_batch ({self.mini_batch})")
        return self


class Dtype(Value):
    """Number format of the block linears' weights, in training and rollout alike; the rest stays in ``compute``.

    ``bf16`` rounds to bfloat16. ``mxfp4``: E2M1 values, blocks of 32 along the input, E8M0 scale by ``scale_rule``.
    ``nvfp4``: E2M1 values, blocks of 16, E4M3 scale and an fp32 scale for the tensor. Gradients pass straight through.

    ``include`` and ``exclude`` are shell patterns on module names (``*.mlp.*``, ``*.layers.0.*``): of the block
    linears, those that match ``include`` (all where it is empty) and not ``exclude`` are quantised. A pattern that
    matches no block linear is an error of the plan.
    """

    format: Literal["bf16", "mxfp4", "nvfp4"]
    scale_rule: Literal["floor", "even", "rceil"] | None = None
    include: Patterns = ()
    exclude: Patterns = ()

    @model_validator(mode="after")
    def _rule_is_for_mxfp4(self) -> Self:
        if (self.format == "mxfp4") != (self.scale_rule is not None):
            raise ValueError("scale_rule belongs to mxfp4, and mxfp4 needs one: floor, even, rceil")
        return self


class Aqn(Value):
    """Gaussian noise N(0, sigma²) on the rollout copy's weights, drawn anew at every weight sync.

    ``schedule`` says how sigma falls from ``sigma_start`` to ``sigma_end`` over the training steps
    (docs/treatments.md). ``multipliers``: one a decoder layer, times sigma (``srdd``
    finds them by a scan instead); the final norm, which is in no layer, has multiplier 1. ``during_eval``: the test
    questions are answered by the noised weights too, with the sigma of the sync that the eval follows.
    """

    schedule: Literal["kstage", "epoch_aware", "linear"]
    sigma_start: Sigma
    sigma_end: Sigma
    num_stages: Annotated[int, Field(ge=3)] | None = None
    stages_per_epoch: Annotated[int, Field(ge=2)] | None = None
    layer_types: Literal["rmsnorm", "linear"] = "rmsnorm"
    multipliers: Multipliers | None = None
    during_eval: bool = False

    @model_validator(mode="after")
    def _stages_fit(self) -> Self:
        if (self.schedule == "kstage") != (self.num_stages is not None):
            raise ValueError("num_stages (3 or more) belongs to schedule kstage, and kstage needs it")
        if (self.schedule == "epoch_aware") != (self.stages_per_epoch is not None):
            raise ValueError("stages_per_epoch (2 or more) belongs to schedule epoch_aware, which needs it")
        if self.sigma_end > self.sigma_start:
            raise ValueError(f"sigma_end ({self.sigma_end:g}) must not be above sigma_start ({self.sigma_start:g})")
        return self


class Srdd(Value):
    """How a layer scan aims the noise: a multiplier of sigma for every decoder layer, from its quantisation error.

    ``targeted``: the ``top_k`` layers of largest error have 1, the others 0. ``variable``: error / mean error, or, with
    ``bands``, layers in order of falling error share the bands' values evenly. ``inverse``: 2 - variable, not below 0.
    ``ceiling``: all divided by the largest, so that no layer exceeds sigma. ``outside``: the multiplier of what is
    in no layer (the final norm). The scan: ``prompts`` training questions, activations in ``dtype`` (none: the run's).
    """

    aim: Literal["targeted", "variable", "inverse"]
    top_k: Positive | None = None
    bands: Multipliers | None = None
    ceiling: bool = False
    outside: Annotated[float, Field(ge=0, le=10)] = 1.0
    prompts: Positive = 8
    dtype: Dtype | None = None

    @model_validator(mode="after")
    def _options_fit(self) -> Self:
        if (self.aim == "targeted") != (self.top_k is not None):
            raise ValueError("top_k belongs to aim targeted, and targeted needs it")
        if self.bands is not None and self.aim != "variable":
            raise ValueError("bands belong to aim variable")
        return self


class HwNoise(Value):
    """Relative Gaussian error on matrix products, y + scale·|y|·N(0, 1), imitating bad hardware.

    Acts inside the decoder ``layers`` (all, and ``lm_head``, where none are named) on the results of ``ops``; a bias is
    added after the error. ``phases``: train (the policy's log-probabilities and updates), rollout (answers to training
    questions), eval (answers to test questions). ``backward``: also on the gradients of both operands.
    """

    scale: Annotated[float, Field(gt=0, lt=1)]
    ops: Annotated[tuple[Literal["linear", "matmul", "bmm"], ...], Field(strict=False, min_length=1)] = (
        "linear",
        "matmul",
        "bmm",
    )
    phases: Annotated[tuple[Literal["train", "rollout", "eval"], ...], Field(strict=False, min_length=1)] = (
        "train",
        "rollout",
        "eval",
    )
    backward: bool = False
    layers: Layers | None = None


class Lora(Value):
    """Low-rank adapters in high precision on the (quantised) base: forward is Q(W)·x + (alpha/rank)·B·A·x.

    ``sync``: how the rollout gets them, as adapters (exact), or ``merged`` into the base, Q(W) + (alpha/rank)·B·A in
    the compute type.
    """

    rank: Positive = 32
    alpha: Positive = 16
    sync: Literal["adapter", "merged"] = "adapter"


class Eval(Value):
    """When and how the test questions are asked: at step 0 if ``before_training``, every ``every``, and at the end."""

    every: Positive
    before_training: bool = True
    samples: Positive = 1
    temperature: Annotated[float, Field(ge=0)] = 0.0


def _rollout_here(rollout: str) -> str:
    if rollout != "auto":
        return rollout
    return "vllm" if find_spec("vllm") is not None else "transformers"


Rollout = Annotated[Literal["transformers", "vllm", "auto"], AfterValidator(_rollout_here)]
"""What generates. auto: vLLM where it is installed. A condition has the one or the other, because numerics differ."""


def flash_attention_is_installed() -> bool:
    """Can the package flash-attn be imported? Asked without importing it: it loads CUDA libraries."""
    return find_spec("flash_attn") is not None


def _products_of_attention(noise: HwNoise | None) -> list[str]:
    """Kinds of product inside attention that have errors; a fused kernel makes them where none can be added."""
    return sorted({"matmul", "bmm"} & set(noise.ops)) if noise is not None else []


def needs_eager_attention(noise: HwNoise | None) -> bool:
    """Do errors act on products that only eager attention makes one by one?"""
    return bool(_products_of_attention(noise))


class Condition(Value):
    """One experimental condition, complete.

    ``steps_per_epoch`` overrides the rows ÷ batch that it follows from otherwise (recipes that count generation
    batches); the run has ``epochs`` times as many training steps.
    """

    model: Model
    data: Data
    algorithm: Algorithm
    optimiser: Optimiser
    batch: Batch
    compute: Literal["fp32", "bf16"] = Field(description="The number type that everything else is computed in.")
    dtype: Dtype
    aqn: Aqn | None = None
    srdd: Srdd | None = None
    hw_noise: HwNoise | None = None
    lora: Lora | None = None
    epochs: Positive = Field(default=1, description="Epochs of training, of `steps_per_epoch` training steps each.")
    steps_per_epoch: Positive | None = Field(
        default=None, description="Training steps an epoch; none: training rows ÷ prompts a step."
    )
    eval: Eval
    rollout: Rollout = Field(description="What generates the answers; auto: vLLM where it is installed.")
    attention: Literal["auto", "sdpa", "flash_attention_2", "eager"] = Field(
        default="auto",
        validate_default=True,
        description="The attention of policy and reference, and of rollouts by transformers. flash_attention_2 packs"
        " sequences without padding; sdpa and eager pad them. auto: flash_attention_2 where flash-attn is installed"
        " and compute is bf16, eager where hw_noise acts on products inside attention, else sdpa.",
    )
    trainer: dict[str, Any] = Field(default_factory=dict, description="Any key of verl's that no field decides.")

    @field_validator("attention")
    @classmethod
    def _attention_here(cls, asked: str, info: ValidationInfo) -> str:
        """auto becomes what it means here: a condition names one kernel, because numerics differ."""
        products = _products_of_attention(info.data.get("hw_noise"))
        compute = info.data.get("compute")
        if asked == "auto":
            if products:
                return "eager"
            return "flash_attention_2" if compute == "bf16" and flash_attention_is_installed() else "sdpa"
        if products and asked != "eager":
            raise ValueError(
                f"{asked} makes its products inside one kernel, where {'/'.join(products)} of hw_noise get no error: "
                "eager is needed"
            )
        if asked == "flash_attention_2" and compute == "fp32":
            raise ValueError("flash_attention_2 computes in 16 bit only, and compute is fp32")
        return asked

    @model_validator(mode="after")
    def _overlong_fits(self) -> Self:
        overlong = self.algorithm.overlong
        if overlong is not None and overlong.buffer > self.data.max_response_tokens:
            raise ValueError(
                f"algorithm.overlong.buffer ({overlong.buffer}) is longer than data.max_response_tokens"
                f" ({self.data.max_response_tokens})"
            )
        return self

    @model_validator(mode="after")
    def _srdd_needs_noise(self) -> Self:
        if self.srdd is not None and self.aqn is None:
            raise ValueError("srdd aims the noise of aqn; with aqn: none there is nothing to aim (exclude the pair)")
        if self.srdd is not None and self.aqn is not None and self.aqn.multipliers is not None:
            raise ValueError("aqn.multipliers and srdd both say how much noise a layer gets: keep one")
        if self.srdd is not None and (self.srdd.dtype or self.dtype).format == "bf16":
            raise ValueError(
                "srdd: bf16 has next to no quantisation error to scan; exclude the pair, or name srdd.dtype"
            )
        return self

    @cached_property
    def id(self) -> str:
        """Twelve hex digits of the SHA-256 of the canonical JSON of every field and the schema version."""
        return condition_id(self.model_dump(mode="json"))


def condition_id(condition: dict[str, Any]) -> str:
    """The id of a dumped condition: independent of key order and formatting."""
    canonical = json.dumps({"schema": CONDITION_SCHEMA, **condition}, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:12]


def unknown_part(key: str) -> tuple[str, list[str]] | None:
    """The word of a dotted key that a condition does not have, and what could stand there; None where all is known."""
    kind: Any = Condition
    for word in key.split("."):
        fields = list(getattr(kind, "model_fields", ()))
        if word not in fields:
            return word, fields
        if kind is Condition and word == "trainer":
            return None  # verl's keys have dots of their own
        kind = record_in(kind.model_fields[word].annotation)
    return None


def record_in(annotation: Any) -> type[Value] | None:
    """The record that a field holds, whether or not it may be absent; None for a plain value."""
    options = (annotation, *getattr(annotation, "__args__", ()))
    return next((o for o in options if isinstance(o, type) and issubclass(o, Value)), None)


@cache
def parts_by_name() -> dict[str, list[str]]:
    """Last word → the dotted keys of a condition that end in it: ``lr`` → ``optimiser.lr``."""
    found: dict[str, list[str]] = {}

    def walk(kind: type[Value], at: str) -> None:
        for word, field in kind.model_fields.items():
            found.setdefault(word, []).append(f"{at}{word}")
            if (inner := record_in(field.annotation)) is not None:
                walk(inner, f"{at}{word}.")

    walk(Condition, "")
    return found


class Scan(Value):
    """A layer scan: the model's decoder layers under a number format, on the first training questions.

    It is an artefact of its own: made once, and shared by all runs that it aims the noise of.
    """

    model: Model
    questions: str
    prompts: Positive
    max_prompt_tokens: Positive
    compute: Literal["fp32", "bf16"]
    dtype: Dtype

    @property
    def id(self) -> str:
        """Like a condition's."""
        return condition_id({"scan": self.model_dump(mode="json")})


def scan_of(condition: Condition) -> Scan | None:
    """The scan that a condition needs; None where it needs none."""
    if condition.srdd is None:
        return None
    return Scan(
        model=condition.model,
        questions=condition.data.train,
        prompts=condition.srdd.prompts,
        max_prompt_tokens=condition.data.max_prompt_tokens,
        compute=condition.compute,
        dtype=condition.srdd.dtype or condition.dtype,
    )


class ScoreRule(Value):
    """Which eval is *the* score, declared before the run, and in which numeric mode it is taken.

    ``final``: the eval at the last training step. ``best``: the highest of all evals, and labelled as such.
    ``native``: evaluated as trained, noise lifted.
    """

    rule: Literal["final", "best"] = "final"
    mode: Literal["native"] = "native"


class Resources(Value):
    """What one run of the sweep holds, how many of them train at once (as many as fit, if nothing is said), and after
    how many minutes without a sign of life one counts as hung (if nothing is said: by its own pace)."""

    gpus: Positive = 1
    concurrency: Positive | None = None
    silence_minutes: Annotated[float, Field(gt=0)] | None = None


class Checkpoints(Value):
    """Which checkpoints a run leaves on disk: its ``last``, its ``best`` eval's, ``all`` evals', or ``none``.

    ``every``: training steps between checkpoints that an interrupted run goes on from (one is on disk at a time);
    ``eval``: at every eval; ``never``: it begins again.
    """

    keep: Literal["last", "best", "all", "none"] = "last"
    every: Positive | Literal["eval", "never"] = "eval"

    def steps_between(self, eval_every: int) -> int:
        """0: none are saved to go on from."""
        return {"eval": eval_every, "never": 0}[self.every] if isinstance(self.every, str) else self.every


class Budget(Value):
    gpu_hours: Annotated[float, Field(gt=0)] | None = None


class Contrast(Value):
    """A question the sweep asks: what varying one field does, all else equal.

    ``detect``: points worth finding. ``equal_within``: points within which two treatments count as equal.
    """

    vary: str
    from_: Any = Field(alias="from")
    to: Any
    within: tuple[str, ...] = ()
    detect: Annotated[float, Field(gt=0, lt=100)] | None = None
    equal_within: Annotated[float, Field(gt=0, lt=100)] = 1.0


class Questions(Value):
    """Other data than a condition's own, for runs that are selected by: ``test`` holds the questions.

    ``train``: where those questions were taken from the training data, what is left of it.
    """

    test: str
    test_rows: Positive
    train: str | None = None
    train_rows: Positive | None = None

    @model_validator(mode="after")
    def _rows_belong_to_a_file(self) -> Self:
        if (self.train is None) != (self.train_rows is None):
            raise ValueError("train and train_rows belong together")
        return self

    @property
    def fields(self) -> dict[str, Any]:
        """As fields of a condition."""
        return {f"data.{key}": value for key, value in self.model_dump().items() if value is not None}


class Exclusion(Value):
    """Conditions of the product that are left out, and why."""

    when: dict[str, Any]
    because: str


NAMED_FIELDS = ("algorithm", "dtype", "aqn", "srdd", "hw_noise", "lora")
"""Fields whose value may be the name of a preset."""

OPTIONAL_FIELDS = ("aqn", "srdd", "hw_noise", "lora")
"""Fields that accept ``none``."""
