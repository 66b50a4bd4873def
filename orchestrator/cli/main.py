"""`aqn`: the commands, and what every one of them does with an error.

Exit codes: 0 done, 1 something failed or was not proven, 2 bad input, 3 nothing matched, 130 interrupted.
"""

from __future__ import annotations

import sys
from importlib import import_module
from typing import Annotated

import typer

from experiment_specs.errors import AqnError
from experiment_specs.telemetry import turn_telemetry_off

COMMANDS = {
    "init": "spec.init", "plan": "plan.plan", "submit": "submit.submit", "serve": "steer.serve",
    "search": "search.search", "scan": "scan.scan", "status": "look.status", "runs": "look.runs",
    "show": "look.show", "logs": "look.logs", "cancel": "steer.cancel", "retry": "steer.retry",
    "pause": "steer.pause", "resume": "steer.resume", "drain": "steer.drain", "compare": "compare.compare",
    "eval": "evaluate.evaluate", "report": "report.report", "export": "export.export", "audit": "claims.audit",
    "rerun-tagged": "rerun.rerun_tagged", "ui": "services.ui", "mlflow": "services.mlflow",
    "doctor": "services.doctor",
}  # fmt: skip
"""Name → module and function below this package, in the order of the help."""
GROUPS = {"fleet": "fleet", "bugs": "bugs", "import": "claims", "data": "data", "spec": "spec"}
"""Name → module with an application of its own."""


def command_line(asked: str | None = None) -> typer.Typer:
    """Every command, or the one that is ``asked`` for: a list of runs takes no time to import what a search needs."""
    app = typer.Typer(
        name="aqn",
        help="Sweeps of 4-bit reinforcement-learning experiments on verl, in which every score carries its proof.",
        no_args_is_help=True,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback(invoke_without_command=True)(_main)
    known = asked in COMMANDS or asked in GROUPS
    for name, where in COMMANDS.items():
        if name == asked or not known:
            module, function = where.split(".")
            app.command(name)(getattr(import_module(f"orchestrator.cli.{module}"), function))
    for name, module in GROUPS.items():
        if name == asked or not known:
            app.add_typer(import_module(f"orchestrator.cli.{module}").app, name=name)
    return app


def _main(
    version: Annotated[bool, typer.Option("--version", help="Version and commit.", is_eager=True)] = False,
) -> None:
    if version:
        from importlib.metadata import version as installed

        from workers.launch import code_version

        code = code_version()
        commit = f"commit {code.commit[:10]}{', with changes' if code.dirty else ''}" if code.commit else "no commit"
        typer.echo(f"aqn {installed('aqn-lab')} ({commit}; code {code.id})")
        raise typer.Exit


def run() -> None:
    """The console script: errors of ours become one line per problem on stderr and their exit code."""
    turn_telemetry_off()
    try:
        command_line(sys.argv[1] if len(sys.argv) > 1 else None)()
    except AqnError as error:
        typer.echo("\n".join(f"error: {line}" for line in str(error).splitlines() or [""]), err=True)
        sys.exit(error.exit_code)
    except BrokenPipeError:
        sys.exit(1)
    except OSError as error:
        typer.echo(f"error: {error.filename or 'the system'}: {error.strerror or error}", err=True)
        sys.exit(1)


if __name__ == "__main__":
    run()
