"""The command line's entry: every verb is registered here, and every project error becomes one line."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

import primia
from primia.cli import audit, config, data, evaluate, infer, party, report, site, train, tune
from primia.cli.commands import Commands
from primia.errors import PrimiaError

app = Commands(
    name="primia-ray",
    help="Privacy-preserving federated learning on medical images.\n\nStart with: primia-ray train",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command(boxes=["data"])(train.train)
app.command(boxes=["data"])(tune.tune)
app.command()(evaluate.evaluate)
app.command()(infer.infer)
app.command()(report.compare)
app.command()(report.report)
app.command()(audit.audit)
app.add_typer(data.app, name="data")
app.add_typer(party.app, name="party")
app.add_typer(config.app, name="config")
app.add_typer(site.app, name="site")


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"primia-ray {primia.__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")] = False,
) -> None:
    """Options before the verb."""


def main() -> None:
    """Run the command line; a :class:`PrimiaError` ends it with one line on stderr and the error's exit code."""
    try:
        app()
    except PrimiaError as error:
        typer.secho(f"error: {error}", fg=typer.colors.RED, err=True)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
