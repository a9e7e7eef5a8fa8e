"""``primia-ray config``: show, check and explain settings."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from primia.cli.commands import Commands
from primia.cli.terminal import Terminal, say

if TYPE_CHECKING:
    from primia.config.settings import Settings

app = Commands(help="Show, check and explain settings.", no_args_is_help=True)

ConfigOption = Annotated[Path | None, typer.Option("--config", "-c", help="Settings, an .ini file; without it the defaults.")]
SetOption = Annotated[list[str] | None, typer.Option("--set", "-s", metavar="SECTION.KEY=VALUE", help="A setting on top; repeatable.")]


@app.command()
def show(config: ConfigOption = None, sets: SetOption = None) -> None:
    """Print the resolved settings as an .ini file.

    Example: primia-ray config show --set training.batch_size=16 > mine.ini
    """
    from primia.config.reader import dump_config

    text = dump_config(_read(config, sets))
    if sys.stdout.isatty():
        say(*text.removesuffix("\n").split("\n"))
    else:
        typer.echo(text, nl=False, color=True)  # a file gets every sign as it is


@app.command()
def check(config: ConfigOption = None, sets: SetOption = None) -> None:
    """Say what would run, or what is wrong.

    Example: primia-ray config check --config configs/mnist.ini
    """
    settings = _read(config, sets)
    say(f"ok: {_description(settings)}")


@app.command()
def reference(
    output: Annotated[Path | None, typer.Option("--output", "-o", help="File to write; without it the terminal.")] = None,
) -> None:
    """Explain every setting, as Markdown.

    Example: primia-ray config reference --output settings.md
    """
    from primia.config.reference import reference_markdown
    from primia.files import atomic_text

    if output is None:
        typer.echo(reference_markdown(), nl=False)
        return
    atomic_text(output, reference_markdown())
    say(f"wrote {output}")


def _description(settings: Settings) -> str:
    """A run in one line: mode, model, images, length and place."""
    run, data, federation = settings.run, settings.data, settings.federation
    what = f"local run of site {run.site}" if run.mode == "local" else f"{run.mode} run"
    images = f"images in {data.path}" if data.source == "folder" else f"the {data.source} images"
    length = _count(federation.sync_every_n_batch, "batch", "es") or _count(federation.local_epochs, "epoch")
    search = f"; {_search(settings)}" if settings.search.space else ""
    return (
        f"{what}: {settings.model.name} on {images} at {data.image_size} pixels, {_count(federation.rounds, 'round')} of {length}, "
        f"into {run.output / run.name if run.name else f'a new folder in {run.output}'}{search}"
    )


def _search(settings: Settings) -> str:
    """A search in a few words; its space is checked."""
    from primia.search.space.space import Space

    search, number = settings.search, len(Space.of(settings).names)
    ended = f" with {search.scheduler}" if search.scheduler != "none" else ""
    return f"a search over {_count(number, 'setting')}, {_count(search.trials, 'trial')} by {search.algorithm}{ended}"


def _count(number: int, noun: str, plural: str = "s") -> str:
    return f"{number} {noun}{plural if number > 1 else ''}" if number else ""


def _read(config: Path | None, sets: list[str] | None) -> Settings:
    from primia.config.reader import read_config

    settings, warnings = read_config(config, sets or [])
    for warning in warnings:
        Terminal(stderr=True).say(f"warning: {warning}", "yellow")
    return settings
