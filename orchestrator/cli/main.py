"""`aqn`: the commands, and what every one of them does with an error.

Exit codes: 0 done, 1 something failed or was not proven, 2 bad input, 3 nothing matched, 130 interrupted.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Annotated

import typer

from experiment_specs.errors import AqnError
from orchestrator.cli import (
    bugs,
    claims,
    compare,
    data,
    evaluate,
    export,
    fleet,
    look,
    plan,
    report,
    rerun,
    scan,
    search,
    services,
    spec,
    steer,
    submit,
)

app = typer.Typer(
    name="aqn",
    help="Sweeps of 4-bit reinforcement-learning experiments on verl, in which every score carries its proof.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
_COMMANDS: tuple[tuple[str, Callable[..., None]], ...] = (
    ("init", spec.init),
    ("plan", plan.plan),
    ("submit", submit.submit),
    ("serve", steer.serve),
    ("search", search.search),
    ("scan", scan.scan),
    ("status", look.status),
    ("runs", look.runs),
    ("show", look.show),
    ("logs", look.logs),
    ("cancel", steer.cancel),
    ("retry", steer.retry),
    ("pause", steer.pause),
    ("resume", steer.resume),
    ("drain", steer.drain),
    ("compare", compare.compare),
    ("eval", evaluate.evaluate),
    ("report", report.report),
    ("export", export.export),
    ("audit", claims.audit),
    ("rerun-tagged", rerun.rerun_tagged),
    ("ui", services.ui),
    ("doctor", services.doctor),
)
for _name, _command in _COMMANDS:
    app.command(_name)(_command)
app.add_typer(fleet.app, name="fleet")
app.add_typer(bugs.app, name="bugs")
app.add_typer(claims.app, name="import")
app.add_typer(data.app, name="data")
app.add_typer(spec.app, name="spec")


@app.callback(invoke_without_command=True)
def main(
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.", is_eager=True)] = False,
) -> None:
    if version:
        from importlib.metadata import version as installed

        typer.echo(f"aqn {installed('aqn-lab')}")
        raise typer.Exit


def run() -> None:
    """The console script: errors of ours become one line on stderr and their exit code."""
    try:
        app()
    except AqnError as error:
        typer.echo(f"error: {error}", err=True)
        sys.exit(error.exit_code)
    except BrokenPipeError:
        sys.exit(1)
    except OSError as error:
        typer.echo(f"error: {error.filename or 'the system'}: {error.strerror or error}", err=True)
        sys.exit(1)


if __name__ == "__main__":
    run()
