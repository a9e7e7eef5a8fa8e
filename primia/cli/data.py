"""``primia-ray data``: make, fetch, split, pack, count and look at images."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from primia.cli.commands import Commands
from primia.cli.terminal import Terminal, bars, headings, say

if TYPE_CHECKING:
    from rich.table import Table

    from primia.config.settings import DataSettings
    from primia.data.catalogue import Catalogue
    from primia.data.packed import Progress
    from primia.data.statistics import PixelSums

app = Commands(help="Make, fetch, split, pack, count and look at images.", no_args_is_help=True)
fetch = Commands(help="Get public data sets.", no_args_is_help=True)
app.add_typer(fetch, name="fetch")

MOST_ROWS = 40
"""Rows of a table on the terminal."""

Folder = Annotated[Path, typer.Argument(metavar="DIR", help="Class folders, sites with class folders, or packed shards.")]
Output = Annotated[Path, typer.Option("--output", "-o", help="New folder.")]
Size = Annotated[int, typer.Option("--image-size", help="Height and width that images are resized to, in pixels.")]
Pattern = Annotated[
    str, typer.Option(help="Patient id from the file name: auto (public chest X-rays), file, or a regular expression with one group.")
]
Validation = Annotated[float, typer.Option(help="Fraction of patients for validation.")]
Test = Annotated[float, typer.Option(help="Fraction of patients for the test.")]
Copy = Annotated[bool, typer.Option("--copy/--symlink", help="Copy files, or link to where they are.")]


@app.command()
def demo(
    output: Output,
    sites: Annotated[int, typer.Option(help="Sites.")] = 3,
    images: Annotated[int, typer.Option(help="Images a site, over training, validation and test.")] = 300,
    size: Annotated[int, typer.Option(help="Height and width, in pixels.")] = 224,
    seed: Annotated[int, typer.Option(help="The same seed draws the same images.")] = 1,
) -> None:
    """Draw the demonstration set: synthetic chest radiographs of three classes at sites that differ.

    Every image says SYNTHETIC in a corner and in its metadata.

    Example: primia-ray data demo --output demo/
    """
    from primia.data.export import demo_tree
    from primia.data.prepare import place
    from primia.data.sources import open_source

    settings = _settings(source="demo", sites=sites, demo_images=images, image_size=size, split_seed=seed)
    placed = place(open_source(settings), settings)
    with _progress() as progress:
        demo_tree(placed, output, progress)
    _show_counts(placed)
    _wrote(output, f"primia-ray train --data {output}", f"{len(placed)} synthetic images")


@fetch.command()
def mnist(output: Output) -> None:
    """Download MNIST through torchvision.

    Example: primia-ray data fetch mnist --output data/mnist
    """
    from primia.data.mnist import download

    download(output)
    _wrote(output, f"primia-ray train --config configs/mnist.ini --data {output}", "MNIST")


@fetch.command()
def pneumonia(
    source: Annotated[Path | None, typer.Option("--from", help="The unpacked download; without it: where to get it.")] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="New folder.")] = None,
    copy: Copy = False,
) -> None:
    """Say where the public chest X-rays are to be had; check a download and sort it into normal, bacterial and viral.

    The public test split goes to test/<class> and stays apart.

    Example: primia-ray data fetch pneumonia --from ~/Downloads/chest_xray --output data/chest_xray
    """
    from primia.data.pneumonia import SOURCE, sort_pneumonia

    if source is None or output is None:
        say(f"Download and unpack {SOURCE}, about 1.2 GB:", "  https://data.mendeley.com/datasets/rscbjbr9sj")
        say("then: primia-ray data fetch pneumonia --from DOWNLOADED_FOLDER --output data/chest_xray")
        return
    found = sort_pneumonia(source, output, copy=copy)
    say(*found.report())
    _wrote(output, f"primia-ray data split {output} --output {output}-sites", f"{found.images} images")


@app.command()
def split(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Class folders; a test/ or validation/ beside them stays as it is.")],
    output: Output,
    sites: Annotated[int, typer.Option(help="Sites to make.")] = 3,
    method: Annotated[
        Literal["iid", "label-skew", "quantity-skew"], typer.Option("--split", help="Alike; other class mixes; or other sizes.")
    ] = "iid",
    alpha: Annotated[float, typer.Option(help="Dirichlet concentration of the skew; small is more skewed.")] = 0.5,
    seed: Annotated[int, typer.Option(help="The same seed gives the same split.")] = 1,
    validation_fraction: Validation = 0.15,
    test_fraction: Test = 0.15,
    copy: Copy = False,
    patient_pattern: Pattern = "auto",
) -> None:
    """Make sites from one image folder, with training, validation and test; a patient is only ever in one of each.

    Example: primia-ray data split chest_xray/ --output sites/ --sites 3 --split label-skew --alpha 0.5
    """
    from primia.data.export import link_tree
    from primia.data.layout import is_packed
    from primia.data.prepare import place, without_sites
    from primia.data.sources import open_source
    from primia.errors import DataError

    if is_packed(folder):
        raise DataError(f"{folder}: holds packed shards, whose files cannot be dealt; split the image folder that they were packed from")
    settings = _settings(
        source="folder",
        path=folder,
        sites=sites,
        split=method,
        dirichlet_alpha=alpha,
        split_seed=seed,
        validation_fraction=validation_fraction,
        test_fraction=test_fraction,
        patient_pattern=patient_pattern,
    )
    placed = place(without_sites(open_source(settings)), settings)
    with _progress() as progress:
        link_tree(placed, folder, output, copy=copy, progress=progress)
    _show_counts(placed)
    _wrote(output, f"primia-ray train --data {output}", f"{len(placed)} {'copies' if copy else 'links'}")


@app.command()
def pack(
    folder: Folder,
    output: Output,
    image_size: Size = 64,
    channels: Annotated[int, typer.Option(help="1: grey values; 3: RGB.")] = 1,
    on_bad_image: Annotated[
        Literal["error", "skip"], typer.Option(help="error, or skip: unreadable images are named and counted.")
    ] = "error",
    patient_pattern: Pattern = "auto",
) -> None:
    """Decode and resize once, into one memory-mapped shard for each site and split. Sites and splits stay as they are.

    Example: primia-ray data pack sites/ --output packed/ --image-size 112
    """
    from primia.data.packed import pack as pack_catalogue
    from primia.data.prepare import as_laid_out
    from primia.data.sources import open_source

    settings = _settings(
        source="folder", path=folder, image_size=image_size, channels=channels, on_bad_image=on_bad_image, patient_pattern=patient_pattern
    )
    placed = as_laid_out(open_source(settings))
    with _progress() as progress:
        notes = pack_catalogue(placed, output, on_bad_image, progress)
    _show_counts(placed)
    say(*(f"skipped {image}" for image in notes.skipped))
    _wrote(output, _train(output, placed, packed=True), f"{notes.shards} shards, {len(notes.skipped)} images skipped")


@app.command()
def stats(folder: Folder, image_size: Size = 64, patient_pattern: Pattern = "auto") -> None:
    """Count images by split, site, class and patient, and compute pixel statistics of each site and of all.

    Example: primia-ray data stats sites/
    """
    from primia.data.layout import is_packed
    from primia.data.overview import file_sizes, pixels

    catalogue = _open(folder, image_size, patient_pattern)
    _show_counts(catalogue)
    if is_packed(folder):
        say(f"packed at {catalogue.image_size} pixels, {catalogue.channels} channel(s)")
    else:
        say(f"{_size_range(file_sizes(folder, catalogue.sources))}; statistics at {image_size} pixels, grey")
    found = pixels(catalogue)
    Terminal().print(_pixel_table(found.sites | ({"all sites": found.pooled()} if len(found.sites) > 1 else {})))
    say(*(f"cannot be read: {image.path} ({image.reason})" for image in found.bad))
    say(f"next: primia-ray data show {folder} --output sheet.png")


@app.command()
def show(
    folder: Folder,
    output: Annotated[Path, typer.Option("--output", "-o", help="PNG file.")] = Path("sheet.png"),
    columns: Annotated[int, typer.Option(min=1, max=20, help="Images in each cell.")] = 4,
) -> None:
    """Write a contact sheet, a row a site and a column a class, and print the same as a table of counts.

    Example: primia-ray data show sites/ --output sheet.png
    """
    from primia.data.closed import refuse_box
    from primia.data.contact_sheet import contact_sheet
    from primia.data.layout import is_packed
    from primia.data.shard import disk_errors
    from primia.files import atomic_path

    catalogue = _open(folder, image_size=96, patient_pattern="auto")
    sheet = contact_sheet(catalogue, columns=columns)
    refuse_box(output)
    with disk_errors(output), atomic_path(output) as path:
        sheet.save(path, format="PNG")
    _show_counts(catalogue)
    _wrote(output, _train(folder, catalogue, packed=is_packed(folder)), f"{sheet.width} x {sheet.height} pixels")


def _settings(**fields: object) -> DataSettings:
    """Data settings checked as those of a file are, so that errors read the same."""
    from primia.config.fields import render
    from primia.config.reader import load_config

    return load_config(None, [f"data.{key}={render(value)}" for key, value in fields.items()]).data


def _open(folder: Path, image_size: int, patient_pattern: str) -> Catalogue:
    from primia.data.layout import is_packed
    from primia.data.packed import packed_catalogue
    from primia.data.sources import open_source

    if is_packed(folder):
        return packed_catalogue(folder)
    return open_source(_settings(source="folder", path=folder, image_size=image_size, patient_pattern=patient_pattern))


@contextmanager
def _progress() -> Iterator[Progress]:
    with bars(Terminal()) as shown:
        task = shown.add_task("")
        yield lambda what, done, total: shown.update(task, description=what, completed=done, total=total)


def _show_counts(catalogue: Catalogue) -> None:
    console = Terminal()
    console.print(_count_table(catalogue))
    for warning in catalogue.warnings:
        console.say(f"warning: {warning}", "yellow")
    if catalogue.synthetic:
        console.say("These images are synthetic.")


def _count_table(catalogue: Catalogue) -> Table:
    from rich.table import Table

    from primia.data.overview import groups

    table = Table("split", "site", title="images by site and class")
    shown = range(len(headings(catalogue.classes)))
    for label in (*headings(catalogue.classes), "images", "patients"):
        table.add_column(label, justify="right")
    found = groups(catalogue)
    for group in found[:MOST_ROWS]:
        counts = (str(group.counts[label]) for label in shown)
        table.add_row(group.split or "-", group.site or "-", *counts, str(sum(group.counts)), str(group.patients))
    if len(found) > MOST_ROWS:
        table.add_row("...", f"and {len(found) - MOST_ROWS} more")
    totals = [sum(group.counts[label] for group in found) for label in shown]
    table.add_section()
    table.add_row("all", "", *map(str, totals), str(len(catalogue)), str(len(set(catalogue.patients))))
    if not shown:
        table.caption = f"{len(catalogue.classes):,} classes"
    return table


def _pixel_table(sums: dict[str, PixelSums]) -> Table:
    from rich.table import Table

    table = Table("site", "mean", "standard deviation", title="pixels, 0 to 1, by channel")
    rows = list(sums.items())
    for site, pixel_sums in rows if len(rows) <= MOST_ROWS else [*rows[: MOST_ROWS - 1], rows[-1]]:
        normalisation = pixel_sums.normalisation()
        table.add_row(site or "-", _numbers(normalisation.mean), _numbers(normalisation.std))
    return table


def _numbers(values: tuple[float, ...]) -> str:
    return ", ".join(f"{value:.4f}" for value in values)


def _size_range(sizes: list[tuple[int, int]]) -> str:
    shown = [f"{width} x {height}" for width, height in (sizes[:1] + sizes[-1:])]
    return f"files of {shown[0]}" if len(sizes) == 1 else f"files of {len(sizes)} sizes, {' to '.join(shown)}"


def _train(folder: Path, catalogue: Catalogue, *, packed: bool) -> str:
    """The command that trains on ``folder``; shards want the size that they were packed at."""
    sizes = f" --set data.image_size={catalogue.image_size} --set data.channels={catalogue.channels}" if packed else ""
    return f"primia-ray train --data {folder}{sizes}"


def _wrote(output: Path, next_command: str, what: str) -> None:
    say(f"wrote {output} ({what})", f"next: {next_command}")
