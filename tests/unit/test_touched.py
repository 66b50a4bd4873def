"""What treatments touch, from a model's names and shapes; what they cannot touch is an error with its place."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from experiment_specs.architecture import FOLDER, from_json, shipped
from experiment_specs.errors import SpecError
from experiment_specs.load import load_sweep
from experiment_specs.modules import is_block_linear
from orchestrator.plan import make_plan
from orchestrator.prepare import prepare
from orchestrator.touched import in_words
from tests.conftest import TINY

QWEN = TINY.replace("tiny-cpu", "qwen2.5-1.5b-gsm8k-dapo")


def test_qwen_on_the_meta_device_has_57_norms_and_196_block_linears() -> None:
    """Built by transformers from the shipped configuration, not read from the shipped inventory."""
    from workers.architecture import inventory

    for path in FOLDER.glob("*.json"):
        data = json.loads(path.read_text())
        assert inventory(data["config"]) == data["inventory"], path.name
    qwen = shipped()["Qwen/Qwen2.5-1.5B-Instruct"]
    assert (qwen.layers, len(qwen.norms), qwen.parameters) == (28, 57, 1_543_714_304)
    assert sum(is_block_linear(linear.name) for linear in qwen.linears) == 196
    assert len(qwen.linears) == 197  # and lm_head


def test_the_embedded_model_is_what_is_shipped_of_it() -> None:
    from workers.tiny import task
    from workers.tiny.make import RECIPE, _tokenizer, shape

    tokenizer = _tokenizer(task.split(RECIPE["train_rows"], RECIPE["test_rows"]))
    data = json.loads((FOLDER / "tiny-qwen2.json").read_text())
    assert data["config"] == {"model_type": "qwen2", **shape(len(tokenizer))}


def planned(write_spec, text: str):
    return make_plan(load_sweep(write_spec(text))).conditions


def test_a_plan_counts_what_is_quantised_noised_adapted_and_erring(write_spec) -> None:
    plain = planned(write_spec, QWEN)[0]
    assert plain.touched.quantised == 196
    assert plain.touched.noised == 0
    full = planned(write_spec, QWEN + "set: {lora: r32, hw_noise: matmul-5pct}\n")[-1]
    assert full.touched.noised == 57
    assert (full.touched.adapted, full.touched.erring) == (196, 197)
    assert full.touched.trained == 36_929_536  # 32 · (in + out) over 196 linears
    words = in_words(full.condition, full.touched)
    assert words == (
        "196 of 196 block linears in mxfp4, noise on 57 RMSNorms, adapters on 196 (2.3 % of all parameters), "
        "errors in 197 linears and attention's products"
    )
    linear = planned(write_spec, QWEN.replace("standard", "{preset: standard, layer_types: linear}"))[-1]
    assert linear.touched.noised == 196


def test_a_checkpoint_is_twelve_bytes_a_parameter(write_spec) -> None:
    """What runs really leave: 1.27 MB for the embedded model's 101 696 parameters (``tests/acceptance``)."""
    whole = planned(write_spec, TINY)[0].touched
    assert whole.checkpoint_bytes == 12 * 101_696
    adapted = planned(write_spec, TINY + "set: {lora: r32}\n")[0].touched
    assert adapted.checkpoint_bytes == 4 * (101_696 + 77_824) + 8 * 77_824


@pytest.mark.parametrize(
    ("fields", "line", "key", "words"),
    [
        ("set: {dtype: {preset: mxfp4, exclude: ['*']}}", 4, "set.dtype", "no linear is left"),
        ("set: {dtype: {preset: mxfp4, include: ['*.mpl.*']}}", 4, "set.dtype.include", "matches no block linear"),
        ("set: {dtype: {preset: mxfp4, exclude: [lm_head]}}", 4, "set.dtype.exclude", "matches no block linear"),
        ("set: {hw_noise: {scale: 0.05, layers: [1, 2]}}", 4, "set.hw_noise.layers", "the model's last is 1"),
        ("set: {aqn: {preset: standard, multipliers: [1, 1, 1]}}", 4, "set.aqn.multipliers", "2 decoder layers"),
        ("set: {aqn: {preset: standard, multipliers: [0, 0]}}", 4, "set.aqn.multipliers", "no layer has noise"),
        (
            "set: {dtype: mxfp4, aqn: standard, srdd: {aim: targeted, top_k: 3}}",
            4,
            "set.srdd.top_k",
            "2 decoder layers",
        ),
    ],
)
def test_a_treatment_that_would_touch_nothing_is_an_error_at_its_line(write_spec, fields, line, key, words) -> None:
    text = f"sweep: s\nbase: bases/tiny-cpu.yaml\n# a comment\n{fields}\naxes: {{epochs: [1]}}\n"
    with pytest.raises(SpecError, match=words) as caught:
        planned(write_spec, text)
    assert (caught.value.line, caught.value.key) == (line, key)


def test_blocks_that_do_not_divide_are_named(write_spec) -> None:
    odd = from_json(
        {"layers": 1, "parameters": 1, "norms": ["norm"], "linears": [["model.layers.0.mlp.up_proj", 64, 40]]}
    )
    sweep = load_sweep(write_spec(TINY))
    with pytest.raises(SpecError, match=r"blocks of 32 do not divide the 40 inputs of model\.layers\.0\.mlp\.up_proj"):
        make_plan(sweep, {"tiny/qwen2": odd}.get)


def test_a_model_in_a_local_folder_is_looked_at_and_an_unknown_one_is_said_to_be_unknown(write_spec, tmp_path) -> None:
    config = json.loads((FOLDER / "tiny-qwen2.json").read_text())["config"] | {"num_hidden_layers": 3}
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text(json.dumps(config))
    plan = prepare(write_spec(TINY + f"set: {{model.path: {tmp_path / 'model'}}}\n"))
    assert plan.conditions[0].touched.block_linears == 21
    unknown = prepare(write_spec(TINY + "set: {model.path: some/where}\n"))
    assert unknown.conditions[0].touched is None
    assert "what treatments touch is not checked: some/where is not here to look at" in unknown.warnings


def test_a_plan_needs_no_torch() -> None:
    code = (
        "import sys; from pathlib import Path; from orchestrator.prepare import prepare;"
        "prepare(Path('experiment_specs/sweeps/lora-on-a-quantised-base.yaml'));"
        "assert not {'torch', 'verl', 'ray', 'mlflow', 'transformers'} & set(sys.modules), 'heavy'"
    )
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
