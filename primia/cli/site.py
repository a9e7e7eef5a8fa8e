"""``primia-ray site``: what a data owner does: make a box, look into it, grant, revoke, pin keys of others."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from primia.cli.commands import Commands
from primia.cli.site_display import show_box, show_boxes, terms
from primia.cli.terminal import say

if TYPE_CHECKING:
    from primia.consent.box import SiteBox

app = Commands(help="For data owners: a site's box with its data, keys, grants and audit log.", no_args_is_help=True)

Box = Annotated[Path, typer.Argument(metavar="BOX", help="Site box.")]
BoxOrBoxes = Annotated[Path, typer.Argument(metavar="BOX", help="Site box, or a folder of boxes.")]
Federation = Annotated[str, typer.Argument(help="Name of one federation, name@domain: its setting federation.identity.")]
All = Annotated[bool, typer.Option("--all", help="BOX is a folder: do it in every box there.")]


@app.command(boxes=["box"])
def init(
    box: Annotated[Path, typer.Argument(metavar="BOX", help="New folder.")],
    data: Annotated[Path, typer.Option(help="Packed shards (primia-ray data pack).")],
    site: Annotated[str | None, typer.Option(help="The one site to take, where DATA holds several.")] = None,
    owner: Annotated[str | None, typer.Option(help="E-mail of the data owner, for Syft; without it owner@SITE.example.")] = None,
) -> None:
    """Make a site's box: fresh keys, its shards as Syft datasets with a mock half each, no grant yet.

    Of several sites without --site: a folder of boxes, to try a federation out on one machine.

    Example: primia-ray site init box/ --data packed/ --owner data@clinic-a.example
    """
    from primia.consent.box import CARD_FILE
    from primia.consent.boxes import create_boxes
    from primia.data.closed import refuse_box

    refuse_box(box.resolve().parent)
    made = create_boxes(box, data, site=site, owner=owner)
    show_boxes(made)
    alone = (box / CARD_FILE).is_file()
    say(f"wrote {box} ({len(made)} site {'box' if alone else 'boxes'}; nobody is granted anything yet)")
    if not alone:
        say("This is for trying out: in reality each hospital makes its own box of its own images, and nobody holds two.")
    say(f"next: primia-ray site grant {box} FEDERATION{'' if alone else ' --all'}")


@app.command(boxes=["box"])
def show(
    box: BoxOrBoxes,
    public_key: Annotated[Path | None, typer.Option("--public-key", help="File to write the public keys to, for others to pin.")] = None,
    last: Annotated[int, typer.Option(min=0, help="Lines of the audit log.")] = 10,
) -> None:
    """Show a box to its owner: fingerprint, datasets, grants, pinned keys, the end of the audit log. Of a folder: a table.

    Example: primia-ray site show box/ --public-key clinic-a.json
    """
    from primia.consent.box import CARD_FILE
    from primia.consent.boxes import find_boxes

    if public_key is not None:
        _hand_out(_one(box), public_key)
    elif (box / CARD_FILE).is_file():
        show_box(_one(box), last)
    else:
        show_boxes(find_boxes(box))
        say(f"next: primia-ray site show {box}/SITE")


@app.command(boxes=["box"])
def grant(
    box: BoxOrBoxes,
    federation: Federation,
    max_epsilon: Annotated[
        float | None, typer.Option("--max-epsilon", help="Largest epsilon over all runs of this federation; without it no cap.")
    ] = None,
    delta: Annotated[
        float | None, typer.Option(help="Delta of that cap, whatever a run names; without it min(1e-5, 1 / n^1.1) for n patients.")
    ] = None,
    unit: Annotated[Literal["patient", "image"], typer.Option(help="Whom that cap protects.")] = "patient",
    until: Annotated[datetime | None, typer.Option(formats=["%Y-%m-%d"], help="Last day, in UTC.")] = None,
    require: Annotated[
        Literal["secure", "sealed", "any"],
        typer.Option(help="Least protection of updates: masked (secure aggregation), sealed for the driver, or any."),
    ] = "secure",
    partners: Annotated[
        list[str] | None, typer.Option("--with", metavar="SITE", help="Masked sums with these sites only; give it once for each.")
    ] = None,
    pinned: Annotated[int, typer.Option(min=0, help="Least number of other sites of a masked sum whose keys you have pinned.")] = 0,
    first_contact: Annotated[
        bool, typer.Option("--first-contact", help="Also sums with sites whose keys nobody compared; else all must be pinned.")
    ] = False,
    everywhere: All = False,
) -> None:
    """Let a federation train on the private halves. A second grant replaces the terms of the first.

    Example: primia-ray site grant box/ study@hospital.example --max-epsilon 8 --with clinic-b --with clinic-c
    """
    for each in _chosen(box, everywhere):
        given = each.grant(
            federation,
            max_epsilon=max_epsilon,
            delta=delta,
            unit=unit,
            until=until.date() if until else None,
            require=require,
            partners=tuple(name for name in partners or () if name != each.name or not everywhere),
            pinned=pinned,
            first_contact=first_contact,
        )
        say(f"granted {federation} the data of {each.name}: {terms(each, given)}")
    back = f"primia-ray site revoke {box} {federation}{_all(everywhere)}"
    say(f"wrote {box}", f"next: primia-ray site show {box}, or take it back: {back}")


@app.command(boxes=["box"])
def revoke(box: BoxOrBoxes, federation: Federation, everywhere: All = False) -> None:
    """Take a grant back. A run under way loses the site at its next round; what was learnt before stays learnt.

    Example: primia-ray site revoke box/ study@hospital.example
    """
    from primia.errors import ConsentError

    failures = []
    for each in _chosen(box, everywhere):
        try:
            say(f"revoked {federation} at {each.name} ({each.revoke(federation).revoked})")
        except ConsentError as error:
            failures.append(error)
    if failures:
        rest = f" (and {len(failures) - 1} more)" if len(failures) > 1 else ""
        raise ConsentError(f"{failures[0]}{rest}")
    say(f"wrote {box}", f"next: primia-ray site show {box}")


@app.command(boxes=["box"])
def pin(
    box: Box,
    public_key: Annotated[Path, typer.Argument(metavar="PUBLIC_KEY_FILE", help="What another site wrote with show --public-key.")],
    replace: Annotated[bool, typer.Option("--replace", help="The site has new keys, and its fingerprint was compared.")] = False,
) -> None:
    """Pin another site's keys ahead of time, so that its first contact need not be believed.

    Example: primia-ray site pin box/ clinic-b.json
    """
    from primia.consent.peers import read_public_key

    opened, peer = _one(box), read_public_key(public_key)
    new = opened.pin(peer, by_owner=True, replace=replace)
    say(f"{'pinned' if new else 'known already:'} {peer.name}, fingerprint {peer.fingerprint}")
    say(*([f"wrote {box}", f"next: compare this fingerprint with {peer.name} by telephone"] if new else ["nothing to do"]))


def _one(path: Path) -> SiteBox:
    from primia.consent.box import SiteBox

    return SiteBox.open(path)


def _chosen(path: Path, everywhere: bool) -> Sequence[SiteBox]:
    """The box at ``path``, or with --all those in the folder ``path``."""
    from primia.consent.box import CARD_FILE
    from primia.consent.boxes import find_boxes
    from primia.errors import ConsentError

    boxes = find_boxes(path)
    if not everywhere and not (path / CARD_FILE).is_file():
        raise ConsentError(f"{path}: a folder of {len(boxes)} boxes; name one of them, or say --all")
    return boxes


def _all(everywhere: bool) -> str:
    return " --all" if everywhere else ""


def _hand_out(box: SiteBox, output: Path) -> None:
    from primia.data.closed import refuse_box
    from primia.files import atomic_text

    refuse_box(output)
    atomic_text(output, box.public_document() + "\n")
    say(f"wrote {output} (public keys of {box.name}, fingerprint {box.public.fingerprint})")
    say(f"next, at each other site: primia-ray site pin BOX {output.name}, and compare the fingerprint by telephone")
