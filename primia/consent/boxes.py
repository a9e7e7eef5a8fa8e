"""Many site boxes: made from packed shards, found in a folder, and described to a federation without opening a private half."""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Iterable
from dataclasses import replace
from pathlib import Path

from primia.consent.box import SiteBox, fill_box
from primia.data.catalogue import SPLITS, digest
from primia.data.closed import CARD_FILE
from primia.data.packed import new_folder, read_shards
from primia.data.prepare import FederatedData, SiteShards
from primia.data.shard import Shard, ShardHeader
from primia.errors import ConsentError
from primia.files import own_folder


def default_owner(site: str) -> str:
    """The owner's name in Syft where none is given: an address that nobody has."""
    return f"owner@{re.sub(r'[^a-z0-9.-]', '-', site.lower())}.example"


def create_boxes(path: Path, data: Path, *, site: str | None = None, owner: str | None = None) -> tuple[SiteBox, ...]:
    """A box at ``path`` of the packed shards in ``data``; of several sites, one each in the folder ``path``.

    ``site`` takes one site of several. Nothing is at ``path`` before all is written.

    Raises:
        ConsentError: no such site, a name that is not fit for a box or an owner, a shard that is a symbolic link.
        DataError: no packed shards, or ``path`` holds something already.
    """
    shards = read_shards(data)
    sites = sorted({shard.site for shard in shards})
    if site is not None and site not in sites:
        raise ConsentError(f"{data}: has no site {site!r}; sites: {', '.join(sites)}")
    chosen = [site] if site is not None else sites
    with new_folder(path) as scratch:
        for name in chosen:
            folder = scratch if len(chosen) == 1 else scratch / name
            own_folder(folder)
            fill_box(folder, owner=owner or default_owner(name), shards=[shard for shard in shards if shard.site == name])
    return find_boxes(path)


def find_boxes(root: Path) -> tuple[SiteBox, ...]:
    """The box at ``root``, or all boxes in the folder ``root``, by site name.

    Raises:
        ConsentError: none, one that cannot be used, or two of one name or with one identity key.
    """
    if (root / CARD_FILE).is_file():
        return (SiteBox.open(root),)
    if not root.is_dir():
        raise ConsentError(f"{root}: no such folder; make site boxes with primia-ray site init {root} --data SHARDS")
    boxes = [SiteBox.open(path.parent) for path in sorted(root.glob(f"[!.]*/{CARD_FILE}"))]
    if not boxes:
        raise ConsentError(f"{root}: holds no site box; make some with primia-ray site init BOX --data SHARDS")
    _all_differ(boxes, lambda box: box.name, "name")
    _all_differ(boxes, lambda box: box.public.key, "identity key")
    return tuple(sorted(boxes, key=lambda box: box.name))


def federated_data(root: Path, dry_run: bool) -> FederatedData:
    """What a federation needs to know of the boxes in ``root``: paths of their private halves, or of mock halves for a dry run.

    Classes, channels and image size are those of the mock halves. No private half is opened, and no grant is asked for: each site
    does that itself before it opens one.

    Raises:
        ConsentError: as :func:`find_boxes`; sites differ in classes, channels or image size.
        DataError: a mock half is broken.
    """
    boxes = find_boxes(root)
    first, *others = ((box.name, public_header(box)) for box in boxes)
    for name, header in others:
        if _kind(header) != _kind(first[1]):
            raise ConsentError(f"site {name!r} has {in_words(header)}, but site {first[0]!r} has {in_words(first[1])}; pack them alike")
    common = first[1]
    return FederatedData(
        sites=tuple(_site_shards(box, dry_run) for box in boxes),
        classes=common.classes,
        channels=common.channels,
        image_size=common.image_size,
        synthetic=dry_run or common.synthetic,
        skipped=(),
        fingerprint=digest((dry_run, *((box.name, split, box.dataset_id(split)) for box in boxes for split in box.splits))),
    )


def public_header(box: SiteBox) -> ShardHeader:
    """What a box's private pixels are, by the mock halves of all its splits and Syft's public description.

    Raises:
        ConsentError: the splits differ.
    """
    headers = [Shard.open(box.shard(split, dry_run=True), box=box.path).header for split in box.splits]
    for header in headers:
        if header.site != box.name or _kind(header) != _kind(headers[0]):
            raise ConsentError(f"{box.path}: the mock halves of {headers[0].split} and {header.split} do not agree; make the box again")
    return replace(headers[0], synthetic=box.synthetic)


def in_words(header: ShardHeader) -> str:
    """What a site's images are, in one line."""
    kind = "synthetic" if header.synthetic else "real"
    return f"{kind} images of classes {', '.join(header.classes)}, {header.channels} channel(s), {header.image_size} pixels"


def _site_shards(box: SiteBox, dry_run: bool) -> SiteShards:
    train, validation, test = (box.shard(split, dry_run) if split in box.splits else None for split in SPLITS)
    return SiteShards(box.name, train, validation, test, box.path)


def _all_differ(boxes: Iterable[SiteBox], key: Callable[[SiteBox], Hashable], what: str) -> None:
    seen: dict[Hashable, SiteBox] = {}
    for box in boxes:
        other = seen.setdefault(key(box), box)
        if other is not box:
            raise ConsentError(f"{other.path} and {box.path} have one {what} ({box.name}): a copy of a box? remove one of them")


def _kind(header: ShardHeader) -> tuple[object, ...]:
    return header.classes, header.channels, header.image_size, header.synthetic
