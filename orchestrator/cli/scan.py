"""`aqn scan`: what a number format does to each layer of a model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from orchestrator.cli import completing
from orchestrator.cli.common import FAILED, print_json
from orchestrator.cli.plan import Json

if TYPE_CHECKING:
    from rich.console import Console

    from db.records import Run
    from experiment_specs.language import Dtype, Scan


def scan(  # noqa: PLR0917 - typer reads them as options
    model: Annotated[
        str,
        typer.Argument(
            help="A local folder, tiny/qwen2, or the id of a recorded scan, whose options it then has.",
            show_default=False,
        ),
    ],
    dtype: Annotated[
        str,
        typer.Option(
            help="Number format: a preset of experiment_specs/presets.yaml.", autocompletion=completing.dtypes
        ),
    ] = "mxfp4",
    questions: Annotated[
        str, typer.Option(help="Parquet file in verl's layout; its first questions are the prompts.")
    ] = "tiny/addition",
    prompts: Annotated[int, typer.Option(help="How many of them.", min=1)] = 8,
    max_prompt_tokens: Annotated[int, typer.Option(help="Longer prompts are cut.", min=1)] = 1024,
    compute: Annotated[str, typer.Option(help="Arithmetic: fp32 or bf16.")] = "fp32",
    again: Annotated[bool, typer.Option("--again", help="Scan anew, also what is scanned already.")] = False,
    as_json: Json = False,
) -> None:
    """Scan a model's layers under a number format: relative error, SQNR, dead zone, saturation.

    A scan is made once: the same model, format and questions give the recorded one, which runs with `srdd` share.
    """
    from db import reads, submissions
    from experiment_specs.language import CONDITION_SCHEMA
    from orchestrator.cli.common import registry
    from orchestrator.cli.submit import follow
    from orchestrator.settings import load_settings
    from orchestrator.submit import scan_run
    from workers.launch import code_version

    settings = load_settings()
    known = _recorded(model)
    wanted = known or _wanted(model, dtype, questions, prompts, max_prompt_tokens, compute)
    engine = registry(create=True)
    run_id = submissions.request(engine, scan_run(wanted), code_version().id, CONDITION_SCHEMA, again=again)
    try:
        follow(settings, engine, [run_id], quiet=as_json)
    except KeyboardInterrupt:
        typer.echo("\nleft; the scan goes on. The same command takes it up.", err=True)
        raise typer.Exit(130) from None
    run = reads.runs(engine, ids=[run_id])[0]
    facts = reads.evidence(engine, run.attempts[-1].id, kinds=("scan",)) if run.attempts else []
    data = facts[-1].data if facts else None
    if as_json:
        print_json(scan_as_json(run, data))
    else:
        from orchestrator.cli.render import console

        picture = settings.reports / f"scan-{run.id}.png"
        print_scan(console(), run, data, picture)
    if run.verdict != "PROVEN":
        raise typer.Exit(FAILED)


def _recorded(name: str) -> Scan | None:
    """What a recorded scan of this id asked for."""
    from db import reads
    from db.engine import NoRegistryError
    from experiment_specs.language import Scan
    from orchestrator.cli.common import registry

    try:
        runs = reads.runs(registry(), ids=[name])
    except NoRegistryError:
        return None
    return Scan.model_validate(runs[0].condition, strict=False) if runs and runs[0].kind == "scan" else None


def _wanted(model: str, dtype: str, questions: str, prompts: int, most: int, compute: str) -> Scan:  # noqa: PLR0917
    from experiment_specs.errors import SpecError
    from experiment_specs.language import Model, Scan

    if compute not in ("fp32", "bf16"):
        raise SpecError("is not accepted", key="--compute", value=compute, accepted=["fp32", "bf16"])
    if model.startswith(("/", ".", "~")) and not Path(model).expanduser().is_dir():
        raise SpecError(f"{model} is no folder", key="MODEL", value=model)
    if not questions.startswith("tiny/") and not Path(questions).is_file():
        raise SpecError(f"no such file, seen from {Path.cwd()}", key="--questions", value=questions)
    return Scan(
        model=Model(path=model), questions=questions, prompts=prompts, max_prompt_tokens=most,
        compute="fp32" if compute == "fp32" else "bf16", dtype=_dtype(dtype),
    )  # fmt: skip


def _dtype(name: str) -> Dtype:
    from experiment_specs.errors import SpecError
    from experiment_specs.language import Dtype
    from experiment_specs.presets import presets

    known = presets()["dtype"]
    if name not in known:
        raise SpecError("is not a known dtype", key="--dtype", value=name, accepted=list(known))
    return Dtype.model_validate(known[name])


def scan_as_json(run: Run, data: dict[str, Any] | None) -> dict[str, Any]:
    from orchestrator.aims import preset_multipliers

    return {
        "run_id": run.id, "label": run.label, "scan": run.condition, "scan_id": run.condition_id,
        "status": run.state, "verdict": run.verdict, "reasons": list(run.reasons),
        "model": data["model"] if data else None, "prompts_hash": data["prompts_hash"] if data else None,
        "layers": data["layers"] if data else None,
        "multipliers": preset_multipliers(data["layers"]["relative_error"]) if data else None,
    }  # fmt: skip


def print_scan(screen: Console, run: Run, data: dict[str, Any] | None, picture: Path) -> None:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    from orchestrator.aims import preset_multipliers
    from orchestrator.cli.render import verdict_text
    from orchestrator.report.canvas import to_png
    from orchestrator.report.scans import draw_scan

    screen.print(Text.assemble((run.label, "bold"), f"  run {run.id}  ", verdict_text(run)))
    for reason in run.reasons:
        screen.print(Text(f"  because {reason}", style="magenta"))
    if data is None:
        return
    multipliers = preset_multipliers(data["layers"]["relative_error"])
    aims = {name: values for name, values in multipliers.items() if values is not None}
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in ("layer", "error %", "SQNR dB", "dead %", "satur. %", *aims):
        table.add_column(column, justify="right", no_wrap=True)
    layers = data["layers"]
    for row, layer in enumerate(layers["layer"]):
        sqnr = layers["sqnr_db"][row]
        table.add_row(
            str(layer),
            f"{100 * layers['relative_error'][row]:.2f}",
            "no error" if sqnr is None else f"{sqnr:.2f}",
            f"{100 * layers['deadzone'][row]:.2f}",
            f"{100 * layers['saturation'][row]:.2f}",
            *(f"{values[row]:.3g}" for values in aims.values()),
        )
    screen.print(table)
    screen.print(
        f"output activations, mean of {data['prompts']} questions: mean |e|/|x|, signal to noise, non-zero values that "
        "become 0, values within 1 % of the largest; then sigma's multiplier by srdd preset"
    )
    screen.print(Text(f"plot: {to_png(draw_scan(data, run.label), picture)}"), soft_wrap=True)
