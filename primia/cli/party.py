"""``primia-ray party``: encrypted inference between parties that share no cluster, over mutual TLS."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from primia.cli.commands import Commands
from primia.cli.config import ConfigOption, SetOption
from primia.cli.inference_display import show_costs, show_summary, transfer_progress
from primia.cli.terminal import Terminal, say

if TYPE_CHECKING:
    from primia.config.settings import InferenceSettings
    from primia.inference.links import Address

app = Commands(help="Encrypted inference between parties that share no cluster, over mutual TLS.", no_args_is_help=True)

Folder = Annotated[Path, typer.Option("--certificates", help="Folder with this party's certificate and key, and ca.pem.")]
Session = Annotated[str, typer.Option(help="Any text; the same at all three parties, another for every inference.")]
Wait = Annotated[float, typer.Option(help="Seconds to wait for the others.")]


@app.command()
def certificates(folder: Annotated[Path, typer.Argument(help="New folder.")]) -> None:
    """Make a certificate authority and the three parties' certificates, for a year.

    Give each party ca.pem and its own two files, by a way that you trust; keep ca.key.

    Example: primia-ray party certificates certificates/
    """
    from primia.inference.certificates import make_certificates

    make_certificates(folder)
    say(f"wrote {folder}: ca.pem for all; model-owner, data-owner and dealer each .pem and .key for one; ca.key for nobody")


@app.command("model-owner")
def model_owner(
    run: Annotated[Path, typer.Argument(help="Run folder.")],
    folder: Folder,
    session: Session,
    listen: Annotated[str, typer.Option(help="HOST:PORT for the data owner; the dealer takes the port after it.")] = "0.0.0.0:7001",
    calibration: Annotated[Path | None, typer.Option(help="Images that fix the ranges of values. [default: the run's]")] = None,
    config: ConfigOption = None,
    sets: SetOption = None,
    wait: Wait = 600.0,
) -> None:
    """Offer a run's model for one encrypted inference.

    Example: primia-ray party model-owner runs/first --certificates mine/ --session monday
    """
    from primia.inference.party import Place, run_model_owner
    from primia.runs.folder import RunFolder

    settings = _settings(config, sets) if config else RunFolder.open(run).settings(sets or []).inference
    run_model_owner(run, Place(folder, session, wait), settings, listen_at=_address(listen), calibration=calibration)
    say("served")


@app.command("data-owner")
def data_owner(
    data: Annotated[Path, typer.Option(help="Flat folder of images, class folders, or one image.")],
    folder: Folder,
    session: Session,
    model_owner: Annotated[str, typer.Option(help="HOST:PORT of the model owner.")],
    listen: Annotated[str, typer.Option(help="HOST:PORT for the dealer.")] = "0.0.0.0:7003",
    output: Annotated[Path, typer.Option("--output", "-o", help="File to write: .csv, .json or .parquet.")] = Path("predictions.csv"),
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the file where it exists.")] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with an inference that broke off.")] = False,
    config: ConfigOption = None,
    sets: SetOption = None,
    wait: Wait = 600.0,
) -> None:
    """Get predictions of images that nobody else sees.

    Example: primia-ray party data-owner --data images/ --certificates mine/ --session monday --model-owner 10.0.0.1:7001
    """
    from primia.inference.lead import Inference
    from primia.inference.output import check_output
    from primia.inference.party import Place, run_data_owner

    check_output(output, overwrite=overwrite)
    console, wanted = Terminal(), Inference.beside(data, output, resume=resume)
    with transfer_progress(console) as report:
        predictions = run_data_owner(
            wanted,
            Place(folder, session, wait),
            _settings(config, sets),
            model_owner=_address(model_owner),
            listen_at=_address(listen),
            report=report,
        )
    summary = predictions.summary()
    show_summary(console, summary)
    show_costs(console, summary["encrypted"])  # type: ignore[arg-type]
    say(f"predictions {output}")


@app.command()
def dealer(
    folder: Folder,
    session: Session,
    model_owner: Annotated[str, typer.Option(help="HOST:PORT of the model owner for the dealer.")],
    data_owner: Annotated[str, typer.Option(help="HOST:PORT of the data owner for the dealer.")],
    config: ConfigOption = None,
    sets: SetOption = None,
    wait: Wait = 600.0,
) -> None:
    """Deal the keys of one encrypted inference.

    Example: primia-ray party dealer --certificates mine/ --session monday --model-owner 10.0.0.1:7002 --data-owner 10.0.0.2:7003
    """
    from primia.inference.party import Place, run_dealer

    settings = _settings(config, sets)
    run_dealer(Place(folder, session, wait), settings, model_owner=_address(model_owner), data_owner=_address(data_owner))
    say("dealt")


def _settings(config: Path | None, sets: list[str] | None) -> InferenceSettings:
    from primia.config.reader import load_config

    return load_config(config, sets or []).inference


def _address(text: str) -> Address:
    from primia.errors import ConfigError

    host, _, port = text.rpartition(":")
    if not host or not port.isdigit() or not 0 < int(port) < 65535:
        raise ConfigError(f"{text!r} is no address; give HOST:PORT, such as 10.0.0.1:7001")
    return host.removeprefix("[").removesuffix("]"), int(port)  # IPv6 comes in brackets
