"""Launch scripts → sweeps: what bash makes of a script, what verl would get, where each of it goes; nothing is lost."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from experiment_specs.errors import SpecError
from experiment_specs.language import Condition
from experiment_specs.load import build_condition, load_sweep
from experiment_specs.verl_keys import DECIDED_BY
from orchestrator.importers.script.fields import DEFAULTS, INVERSE, LEGACY, Settings, current
from orchestrator.importers.script.overrides_of import Unknown, hydra_value, read_words
from orchestrator.importers.script.port import Port, port
from orchestrator.importers.script.ported import Given, PortedScript, import_script
from orchestrator.importers.script.shell import read
from orchestrator.importers.script.spec_text import spec_text
from workers.launch import Order
from workers.overrides import overrides
from workers.verl_config import known_keys

SCRIPTS = Path(__file__).resolve().parents[1] / "data" / "scripts"
ENVIRONMENT = {"HOME": "/home/me", "PWD": "/srv/here"}
ROWS = {"data.train_rows": 7473, "data.test_rows": 1319}


def words(text: str, *arguments: str, **variables: str) -> list[str]:
    """The words behind the module of the first command that starts verl."""
    return [word.shown for word in read(text, ENVIRONMENT | variables, arguments).launches[0].words]


def value(expression: str, before: str = "") -> str:
    return words(f"{before}\npython3 -m verl.trainer.main_ppo k={expression}")[0].removeprefix("k=")


def ported(text: str, rows: dict[str, int] | None = None) -> Port:
    launch = read(text, ENVIRONMENT).launches[0]
    told = {name: text.text for name, text in launch.environment.items()}
    return port(read_words(launch.words), ROWS if rows is None else rows, told)


def of(*pairs: str, rows: dict[str, int] | None = None) -> Port:
    return ported("python3 -m verl.trainer.main_ppo " + " ".join(map(shlex.quote, pairs)), rows)


def script(name: str, **variables: str) -> PortedScript:
    return import_script(SCRIPTS / f"{name}.sh", Given(ENVIRONMENT | variables, rows=ROWS))


def kinds(result: Port | PortedScript) -> dict[str, str]:
    return {line.key: line.kind for line in result.lines}


# bash


@pytest.mark.parametrize("name", ["grpo", "dapo", "lora_seeds", "slips"])
def test_words_are_those_that_bash_gives_to_python(name: str, tmp_path: Path) -> None:
    """Our own scripts, run by bash with commands that write down their arguments and do nothing else."""
    bash = shutil.which("bash")
    if bash is None:
        pytest.skip("bash is not installed")
    stubs, log = tmp_path / "bin", tmp_path / "log"
    stubs.mkdir()
    for command in ("python3", "torchrun", "ray"):
        stub = stubs / command
        stub.write_text(f"#!{bash}\nprintf '%s\\0' \"$@\" >> {log}; printf '\\n\\0' >> {log}\n")
        stub.chmod(0o755)
    copy = tmp_path / "copy.sh"
    copy.write_text(
        (SCRIPTS / f"{name}.sh").read_text().replace("set -xeuo", "set -euo").replace("set -euxo", "set -euo")
    )
    place = {"PATH": f"{stubs}:{os.environ['PATH']}", "HOME": "/home/me"}
    subprocess.run([bash, copy], env=place, cwd=tmp_path, check=False, capture_output=True, timeout=60)
    calls = [call.strip("\0").split("\0") for call in log.read_text().split("\n\0") if call]
    launches = read(copy.read_text(), {"HOME": "/home/me", "PWD": str(tmp_path)}).launches
    assert len(calls) == len(launches) > 0
    for call, launch in zip(calls, launches, strict=True):
        behind = call[call.index(launch.entry) + 1 :]
        assert len(behind) == len(launch.words)
        for real, ours in zip(behind, launch.words, strict=True):
            assert real == ours.text or (not ours.known and real.startswith(ours.text.partition("\ufffc")[0]))


@given(
    st.lists(
        st.text(st.characters(codec="utf-8", exclude_characters="\0\r\ufffc", exclude_categories=["Cs"])), max_size=6
    )
)
def test_quoted_words_come_through_as_they_are(texts: list[str]) -> None:
    command = " ".join(shlex.quote(f"k={text}") for text in texts)
    assert words(f"python3 -m verl.trainer.main_ppo {command}") == [f"k={text}" for text in texts]


@pytest.mark.parametrize(
    ("before", "expression", "expected"),
    [
        ("", "${X:-y}", "y"),
        ("X=1", "${X:-y}", "1"),
        ("X=", "${X:-y}", "y"),
        ("X=", "${X-y}", ""),
        ("", "${X:-${Y:-z}}", "z"),
        ("", "${X:+y}z", "z"),
        ("A=4; B=$((A * 1024))", "$(((A + B) / 2))", "2050"),
        ("A=4", "${N:-$((A * 2))}", "8"),
        ("A=7; B=2", "$((A % B == 1 ? 10 : 20))", "10"),
        ("X=0x10", "$((X + 1))", "17"),
        ("P=/a/b/c.tar.gz", "${P##*/}", "c.tar.gz"),
        ("P=/a/b/c.tar.gz", "${P%%.*}", "/a/b/c"),
        ("P=/a/b/c.tar.gz", "${P%.*}", "/a/b/c.tar"),
        ("P=a-b-c", "${P//-/_}", "a_b_c"),
        ("P=Qwen/Big", "${P,,}", "qwen/big"),
        ("P=abcdef", "${P:1:3}", "bcd"),
        ("P=abc", "${#P}", "3"),
        ("N=X; X=deep", "${!N}", "deep"),
        ("A=(x y z)", "${A[1]}", "y"),
        ("A=(x y z)", "${#A[@]}", "3"),
        ("A=(x y)", "\"['${A[0]}','${A[1]}']\"", "['x','y']"),
        ("P=/models/qwen.bin", "$(basename $P .bin)", "qwen"),
        ("P=/models/qwen.bin", "$(dirname $P)", "/models"),
        ("", "$(pwd)/x", "/srv/here/x"),
        ("", "$HOME/data", "/home/me/data"),
        ("M=~/model", "$M", "/home/me/model"),
        ("", "'$HOME'", "$HOME"),
        ("", '"a\\"b"', 'a"b'),
        ("", "$'a\\tb'", "a\tb"),
        ("X=a\nX+=b", "$X", "ab"),
    ],
)
def test_expansions(before: str, expression: str, expected: str) -> None:
    assert value(expression, before) == expected


@pytest.mark.parametrize("expression", ["$(date +%s)", "`hostname`", "$NOT_SET", "$((NOT_SET + 1))", "${X:?}"])
def test_what_cannot_be_known_is_told_as_it_is_written(expression: str) -> None:
    word = read(f"python3 -m verl.trainer.main_ppo k=a{expression}", ENVIRONMENT).launches[0].words[0]
    assert not word.known
    assert word.shown == f"k=a{expression}"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('A=(a=1 "b=x y"); A+=(c=3)\nGO "${A[@]}"', ["a=1", "b=x y", "c=3"]),
        ('A=()\nGO "${A[@]}" b=1', ["b=1"]),
        ('A="a=1 b=2"\nGO $A c=3', ["a=1", "b=2", "c=3"]),
        ("f() { local x=$1; shift; GO k=$x \"$@\"; }\nf 5 z=1", ["k=5", "z=1"]),
        ('if [ "${M:-a}" = a ]; then K=1; elif [ 1 = 1 ]; then K=2; else K=3; fi\nGO k=$K', ["k=1"]),
        ('if [[ "${M:-b}" == a* ]]; then K=1; else K=3; fi\nGO k=$K', ["k=3"]),
        ("if (( 3 > 2 )); then K=1; fi\nGO k=$K", ["k=1"]),
        ('case "${M:-big}" in small) K=1 ;; b*|c) K=2 ;; *) K=3 ;; esac\nGO k=$K', ["k=2"]),
        ('[ -z "${M:-}" ] && K=1\nGO k=$K', ["k=1"]),
        ('while [ $# -gt 0 ]; do case "$1" in --lr) LR=$2; shift 2 ;; *) shift ;; esac; done\nGO lr=${LR:-1}', ["lr=1"]),
        ("GO a=1 > log b=2 2>&1", ["a=1", "b=2"]),
        ("CMD='GO a=1'\neval $CMD", ["a=1"]),
        ("bash -c 'GO a=1 b=\"x y\"'", ["a=1", "b=x y"]),
        ("ray job submit --address=h -- GO a=1", ["a=1"]),
        ("srun -N 2 apptainer run x.sif GO a=1", ["a=1"]),
        ("X=1 nohup GO a=1 &", ["a=1"]),
        ("if some_command; then :; fi\nGO a=1", ["a=1"]),
        ("python -u train.py actor_rollout_ref.rollout.n=4", ["actor_rollout_ref.rollout.n=4"]),
        ("GO a=1 \\\n  b=2 \\\n", ["a=1", "b=2"]),
        ("[ -d /x ] || { echo no; exit 1; }\nGO a=1", ["a=1"]),
        ("{\nGO a=1\n} > log 2>&1", ["a=1"]),
        ("set -- a=1 b=2\nGO \"$@\"", ["a=1", "b=2"]),
        ("GO \\\n  a=1 \\\n  b='[1,\n2]'", ["a=1", "b=[1,\n2]"]),
        ("cat > job.sh <<'X'\nGO a=1\nX\n", ["a=1"]),
        ("N=2\nbash <<X\nGO a=$N\nX\n", ["a=2"]),
    ],
)  # fmt: skip
def test_statements(text: str, expected: list[str]) -> None:
    assert words(text.replace("GO", "python3 -m verl.trainer.main_ppo")) == expected


def test_arguments_and_variables_can_be_given() -> None:
    text = 'while [ $# -gt 0 ]; do case "$1" in --lr) LR=$2; shift 2 ;; *) break ;; esac; done\n'
    text += 'python3 -m verl.trainer.main_ppo lr=$LR n=$N "$@"'
    assert words(text, "--lr", "3", "k=v", N="4") == ["lr=3", "n=4", "k=v"]


def test_a_branch_that_may_be_taken_leaves_no_value() -> None:
    text = "if [ -d /data ]; then N=1; M=(a=1 b=2); else N=2; M=(a=1 c=3); fi\n"
    a, b, c, n = read(text + 'python3 -m verl.trainer.main_ppo "${M[@]}" n=$N', ENVIRONMENT).launches[0].words
    assert (a.shown, a.when) == ("a=1", "")
    assert (b.shown, b.when) == ("b=2", "[ -d /data ] (line 1)")
    assert (c.shown, c.when) == ("c=3", "the else of line 1")
    assert n.shown == "n=<N: 1 if [ -d /data ] (line 1); 2 if the else of line 1>"


def test_a_branch_that_ends_the_script_decides_nothing() -> None:
    text = "if [ -d /data ]; then N=1; else exit 1; fi\npython3 -m verl.trainer.main_ppo n=$N"
    assert words(text) == ["n=1"]


# verl's keys and fields


def test_the_defaults_are_verls() -> None:
    known = known_keys()
    assert {key: known[key] for key in DEFAULTS} == DEFAULTS


def test_every_successor_of_an_earlier_key_is_a_key_of_verls() -> None:
    known = [*known_keys(), "reward.reward_kwargs.overlong_buffer_cfg.", "reward.reward_kwargs."]
    assert [new for new in LEGACY.values() if not any(key.startswith(new) for key in known)] == []


CONDITIONS = st.fixed_dictionaries(
    {
        "data.max_prompt_tokens": st.integers(1, 4096),
        "data.max_response_tokens": st.integers(64, 8192),
        "algorithm.samples_per_prompt": st.integers(2, 16),
        "algorithm.temperature": st.floats(0.1, 2),
        "algorithm.clip_low": st.floats(0.01, 0.9),
        "algorithm.clip_high": st.floats(0.01, 0.9),
        "algorithm.loss_aggregation": st.sampled_from(["token-mean", "seq-mean-token-sum", "seq-mean-token-mean"]),
        "algorithm.kl_loss": st.just(0.0) | st.floats(1e-4, 1),
        "algorithm.overlong": st.just("none") | st.fixed_dictionaries(
            {"buffer": st.integers(1, 64), "penalty": st.floats(0.1, 2)}
        ),
        "algorithm.dynamic_sampling": st.booleans(),
        "optimiser.lr": st.floats(1e-7, 1e-2),
        "optimiser.weight_decay": st.floats(0, 1),
        "optimiser.warmup_steps": st.integers(0, 50),
        "optimiser.grad_clip": st.floats(0.1, 5),
        "batch": st.tuples(st.integers(1, 64), st.integers(1, 8)).map(
            lambda pair: {"prompts": pair[0] * pair[1], "mini_batch": pair[0]}
        ),
        "compute": st.sampled_from(["fp32", "bf16"]),
        "rollout": st.sampled_from(["transformers", "vllm"]),
        "lora": st.just("none") | st.fixed_dictionaries(
            {"rank": st.integers(1, 64), "alpha": st.integers(1, 128), "sync": st.sampled_from(["adapter", "merged"])}
        ),
        "steps_per_epoch": st.integers(1, 500),
        "eval.every": st.integers(1, 50),
        "eval.before_training": st.booleans(),
        "eval.samples": st.integers(1, 32),
        "eval.temperature": st.floats(0, 1.5),
    }
)  # fmt: skip


@settings(max_examples=60)
@given(CONDITIONS)
def test_a_condition_comes_back_from_its_keys_of_verls(fields: dict[str, object]) -> None:
    """What a run of a condition gives to verl, read as if a script had said it, is the condition again."""
    dapo = fields["algorithm.dynamic_sampling"] or fields["algorithm.overlong"] != "none"
    condition = condition_of(fields | {"algorithm.name": "dapo" if dapo else "grpo", "epochs": 1})
    order = Order(
        "r", 1, "", "", condition.id, condition.model_dump(mode="json"), seed=1,
        total_steps=condition.steps_per_epoch or 0, steps_per_epoch=1, eval_steps=[], gpus=1, assets="",
    )  # fmt: skip
    data = condition.data
    table = overrides(order, Path("/run"), {"model": "m", "train": data.train, "test": data.test}, cpu=False)
    said = dict(flat(table))
    rows = {"data.train_rows": data.train_rows, "data.test_rows": data.test_rows}
    back = {inverse.field: inverse.value(Settings(said, rows)) for inverse in INVERSE}
    known = {name.removeprefix("set."): v for name, v in back.items() if name.startswith("set.")}
    written = {name: "none" if value is None else value for name, value in known.items()}
    again = condition_of(written | {"model.path": condition.model.path, "dtype": "bf16"})
    # where the rows end training at the same step, an epoch of so many steps is a whole one
    natural = data.train_rows // condition.batch.prompts
    assert again == condition or (condition.steps_per_epoch is not None and condition.steps_per_epoch > natural), (
        again.model_dump()
    )


def flat(table: dict[str, object], at: str = "") -> list[tuple[str, object]]:
    found: list[tuple[str, object]] = []
    for key, item in table.items():
        found += flat(item, f"{at}{key}.") if isinstance(item, dict) else [(f"{at}{key}", item)]
    return found


def condition_of(fields: dict[str, object]) -> Condition:
    base = load_sweep(SCRIPTS.parents[2] / "experiment_specs" / "sweeps" / "demo.yaml")
    return build_condition(base, {"aqn": "none", "dtype": "bf16"} | fields)


@pytest.mark.parametrize("key", sorted(DECIDED_BY))
def test_a_decided_key_is_never_kept_and_never_silent(key: str) -> None:
    lines = of(f"{key}=some_other_thing").lines
    mine = [line for line in lines if line.key == key]
    assert len(mine) == 1
    assert mine[0].kind in ("field", "other", "ask", "dead")
    assert mine[0].text


@pytest.mark.parametrize("name", ["grpo", "dapo", "lora_seeds", "megatron", "slurm", "slips"])
def test_every_word_of_a_script_is_told(name: str) -> None:
    told = {line.key.lstrip("~") for line in script(name).lines}
    text = (SCRIPTS / f"{name}.sh").read_text()
    for launch in read(text, ENVIRONMENT).launches:
        for word in launch.words:
            head = word.shown.partition("=")[0].lstrip("+~")
            assert head in told or word.shown in told, word


KEYS = st.lists(
    st.sampled_from(["data", "actor_rollout_ref", "actor", "trainer", "reward", "lr", "n", "megatron", "x_1", "optim"]),
    min_size=1, max_size=4,
).map(".".join)  # fmt: skip
VALUES = st.sampled_from(
    ["1", "0.5", "true", "null", "[1,2]", "['a','b c']", "{a:1,b:{c:2}}", "text", "${a.b}", "1,2", "{", "''"]
)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from(["", "+", "++", "~"]), KEYS | st.sampled_from(sorted(known_keys())), VALUES),
        max_size=8,
    )
)
def test_no_key_is_lost(pairs: list[tuple[str, str, str]]) -> None:
    result = of(*(f"{sign}{key}={text}" for sign, key, text in pairs))
    told = [line.key.lstrip("~") for line in result.lines]
    for _, key, text in pairs:
        assert any(at == key or at.startswith((f"{key}.", f"{key}=")) for at in told), (key, text)
    assert set(result.trainer) <= {current(at) for at in told}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1e-6", 1e-6), ("5", 5), ("True", True), ("null", None), ("['a','b']", ["a", "b"]), ("[a,b]", ["a", "b"]),
        ('["console","wandb"]', ["console", "wandb"]), ("{a:1,b:x}", {"a": 1, "b": "x"}), ("a/b-c.d", "a/b-c.d"),
        ("'1'", "1"), ("", ""),
    ],
)  # fmt: skip
def test_values_are_read_as_hydra_reads_them(text: str, expected: object) -> None:
    assert hydra_value(text) == expected


def test_what_hydra_refuses_is_asked_for_and_not_replaced_by_a_default() -> None:
    result = of("data.train_batch_size={", "actor_rollout_ref.actor.optim.lr=1e-6,1e-5")
    assert "Hydra does not read it" in result.asked["set.batch.prompts"]
    assert "axis" in result.asked["set.optimiser.lr"]


@pytest.mark.parametrize(
    ("pairs", "field", "expected"),
    [
        (("trainer.total_epochs=2",), "set.epochs", 2),
        (("trainer.total_epochs=2", "trainer.total_training_steps=10"), "set.steps_per_epoch", 10),
        (("trainer.total_epochs=1", "trainer.total_training_steps=1000"), "set.steps_per_epoch", None),
        (("trainer.test_freq=-1", "trainer.total_epochs=1", "data.train_batch_size=128"), "set.eval.every", 58),
        (("actor_rollout_ref.actor.use_kl_loss=False", "actor_rollout_ref.actor.kl_loss_coef=0.1"), "set.algorithm.kl_loss", 0.0),
        (("actor_rollout_ref.actor.use_kl_loss=True",), "set.algorithm.kl_loss", 0.001),
        (("actor_rollout_ref.actor.optim.lr_warmup_steps_ratio=0.5", "trainer.total_training_steps=10"), "set.optimiser.warmup_steps", 5),
        (("data.seed=7",), "seeds", [7]),
        (("data.train_files=[/a/b.parquet]",), "set.data.train", "/a/b.parquet"),
        (("trainer.save_freq=20",), "checkpoints.every", 20),
        (("reward_model.reward_manager=dapo", "+reward_model.reward_kwargs={overlong_buffer_cfg:{enable:True,len:9,penalty_factor:1}}"), "set.algorithm.overlong", {"buffer": 9, "penalty": 1.0}),
        (("actor_rollout_ref.rollout.dtype=float32",), "set.compute", "fp32"),
        (("data.max_response_length=30", "data.max_response_length=40"), "set.data.max_response_tokens", 40),
    ],
)  # fmt: skip
def test_keys_that_several_fields_or_several_keys_decide(pairs: tuple[str, ...], field: str, expected: object) -> None:
    assert of(*pairs).fields[field] == expected


@pytest.mark.parametrize(
    ("pair", "kind", "text"),
    [
        ("trainer.nnodes=2", "other", "1 holds: a run is on one node"),
        ("trainer.nnodes=1", "same", "one node"),
        ("algorithm.adv_estimator=gae", "other", "grpo holds"),
        ("actor_rollout_ref.rollout.name=sglang", "other", "vllm holds"),
        ("actor_rollout_ref.actor.megatron.param_offload=True", "other", "FSDP2"),
        ("actor_rollout_ref.rollout.multi_turn.enable=True", "other", "without tools"),
        ("actor_rollout_ref.rollout.multi_turn.enable=False", "same", "without tools"),
        ("data.image_key=pictures", "other", "images"),
        ("custom_reward_function.path=r.py", "other", "today reward.custom_reward_function.path"),
        ("actor_rollout_ref.actor.no_such=1", "dead", "no such key"),
        ("critic.optim.lr=1e-5", "dead", "no critic"),
        ("trainer.logger=[console,mlflow]", "trainer", "without mlflow"),
        ("trainer.logger=mlflow", "other", "console holds"),
        ("actor_rollout_ref.rollout.gpu_memory_utilization=0.5", "trainer", "not the result"),
        ("actor_rollout_ref.actor.entropy_coeff=0.01", "trainer", "as it is"),
        ("data.train_max_samples=100", "ask", "file of their own"),
        ("actor@actor_rollout_ref.actor=megatron_actor", "other", "configuration files"),
    ],
)
def test_what_becomes_of_a_key(pair: str, kind: str, text: str) -> None:
    line = next(line for line in of("data.train_files=/t.parquet", pair).lines if line.key == pair.partition("=")[0])
    assert line.kind == kind
    assert text in line.text


@pytest.mark.parametrize(
    ("pairs", "field", "why"),
    [
        (("data.train_batch_size=abc",), "set.batch.prompts", "'abc' is refused"),
        (("actor_rollout_ref.actor.optim.lr=-1",), "set.optimiser.lr", "-1.0 is refused"),
        (("actor_rollout_ref.rollout.n=1",), "set.algorithm.samples_per_prompt", "1 is refused"),
        (("data.train_files=[]",), "set.data.train", "does not say"),
        (("data.train_files=[a,b]",), "set.data.train", "2 files"),
        (("trainer.test_freq=often",), "set.eval.every", "no whole number"),
        (("data.seed=x",), "seeds", "no whole number"),
        (("trainer.save_freq=2.5",), "checkpoints.every", "no whole number"),
        (("trainer.n_gpus_per_node=0",), "resources.gpus", "one GPU or more"),
        (("actor_rollout_ref.actor.use_kl_loss=maybe",), "set.algorithm.kl_loss", "neither true nor false"),
        (("data.train_batch_size=10240",), "set.batch.prompts", "7473 training rows make no step"),
        (("data.train_batch_size=96", "actor_rollout_ref.actor.ppo_mini_batch_size=64"), "set.batch.mini_batch", "multiple"),
        (
            ("data.train_batch_size=4", "actor_rollout_ref.actor.ppo_mini_batch_size=4",
             "actor_rollout_ref.rollout.n=3", "trainer.n_gpus_per_node=8"), "resources.gpus", "shared out",
        ),
        (
            ("reward.reward_manager.name=dapo", "+reward.reward_kwargs.overlong_buffer_cfg={enable:true,len:900,penalty_factor:1}",
             "data.max_response_length=512"), "set.algorithm.overlong", "longer than",
        ),
    ],
)  # fmt: skip
def test_a_value_that_no_field_takes_is_asked_for_and_the_others_are_kept(
    pairs: tuple[str, ...], field: str, why: str
) -> None:
    usual = ("actor_rollout_ref.rollout.n=4", "actor_rollout_ref.model.path=m", "actor_rollout_ref.actor.grad_clip=0.5")
    result = of("data.train_files=/t.parquet", "data.val_files=/v.parquet", "trainer.test_freq=5", *usual, *pairs)
    assert why in result.asked[field]
    assert {name for name in result.asked if not name.startswith("set.data.train")} <= {field}
    assert result.fields["set.optimiser.grad_clip"] == 0.5
    assert any(line.kind == "ask" for line in result.lines)


def test_a_conditional_word_of_a_field_is_asked_for() -> None:
    result = ported('if [ -d /x ]; then A=(data.train_batch_size=5); fi\npython3 -m verl.trainer.main_ppo "${A[@]}"')
    assert "only if [ -d /x ]" in result.asked["set.batch.prompts"]
    assert "set.batch.prompts" not in result.fields


def test_rows_are_asked_for_where_they_are_not_known() -> None:
    result = of("data.train_files=/t.parquet", "data.val_files=/v.parquet", rows={})
    assert result.asked["set.data.train_rows"] == "the rows of /t.parquet, which is not here"
    assert "train_rows:                      # TO FILL IN: the rows of /t.parquet" in spec_text(result, "x", "y")


# whole scripts


@pytest.mark.parametrize("name", ["grpo", "lora_seeds", "slurm", "slips"])
def test_a_script_with_nothing_left_open_plans(name: str) -> None:
    result = script(name)
    assert (result.plans, result.problem, dict(result.asked)) == (True, None, {})
    assert result.complete


def test_a_dapo_script_plans_and_says_what_has_no_place() -> None:
    result = script("dapo")
    assert result.plans
    told = kinds(result)
    assert told["custom_reward_function.path"] == "other"
    assert told["reward_model.overlong_buffer.len"] == "field"
    assert told["data.gen_batch_size"] == told["algorithm.filter_groups.max_num_gen_batches"] == "dead"
    assert told["the trainer's module"] == "other"
    assert told["--config-name"] == "unread"
    assert "temperature: 1.0                 # verl's default, unless dapo_trainer says otherwise" in result.text
    assert not result.complete  # what its configuration sets is not read


def test_loops_over_seeds_are_seeds_and_the_noise_of_the_environment_is_a_field() -> None:
    result = script("lora_seeds")
    assert "seeds: [1, 2, 3]" in result.text
    assert "hw_noise: {scale: 0.05}" in result.text
    assert "warmup_steps: 11" in result.text  # a tenth of 7473 // 64 steps


def test_variables_that_are_given_decide_branches() -> None:
    open_, closed = script("megatron"), script("megatron", DEVICE="gpu", WEIGHTS="/w")
    assert {"model.path", "resources.gpus", "data.train"} <= set(open_.asked)
    assert {"model.path", "resources.gpus"} & set(closed.asked) == set()
    assert "not known: WEIGHTS, SLURM_NNODES, DEVICE, EXTRA_ARGS" in open_.notes[0]


def test_rows_are_read_where_the_files_are_here(tmp_path: Path) -> None:
    import pyarrow
    from pyarrow import parquet

    for name, rows in (("train", 11), ("test", 3)):
        parquet.write_table(pyarrow.table({"prompt": ["x"] * rows}), tmp_path / f"{name}.parquet")
    run = tmp_path / "run.sh"
    run.write_text("python -m verl.trainer.main_ppo data.train_files=train.parquet data.val_files=[test.parquet]\n")
    text = import_script(run, Given(ENVIRONMENT)).text
    assert "train_rows: 11\n" in text
    assert "test_rows: 3\n" in text


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"echo hello\n", "looked for python -m verl.trainer.main_ppo"),
        (b"torchrun -m verl.trainer.fsdp_sft_trainer data.x=1\n", "line 1 starts verl.trainer.fsdp_sft_trainer"),
        (b'if [ $# -lt 2 ]; then exit 1; fi\npython -m verl.trainer.main_ppo a.b=1\n', "the script ends at line 1"),
        (b"\x00\x01", "zero bytes"),
        (b"\xff\xfe", "UTF-8"),
    ],
)  # fmt: skip
def test_what_is_no_launch_script_is_one_error(content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "x.sh"
    path.write_bytes(content)
    with pytest.raises(SpecError, match=message):
        import_script(path, Given(ENVIRONMENT))


@settings(max_examples=80, deadline=None)
@given(st.text(st.sampled_from(list("ab=$(){}[]\"'`\\|&;<> \n#~!*?-:0")), max_size=60))
def test_any_text_is_read_without_a_failure(text: str) -> None:
    found = read(f"{text}\npython3 -m verl.trainer.main_ppo a.b=1 {text}", ENVIRONMENT)
    for launch in found.launches:
        line = read_words(launch.words)
        assert all(isinstance(o.value, Unknown) or json.dumps(o.value) for o in line.overrides)
