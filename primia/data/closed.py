"""Site boxes from outside: what lies in one is opened by the site's own gate alone, with its grant and its log line."""

from __future__ import annotations

import os
from pathlib import Path

from primia.errors import ConsentError
from primia.untrusted.documents import read_object
from primia.untrusted.files import is_real_folder

CARD_FILE = "box.json"
FORMAT = "primia-site-box"

_CARD_BYTES = 2**20
_BESIDE = ("syft", "identity")
"""Folders in a box, by which it is known even where its card is damaged or gone."""


def box_around(path: Path) -> Path | None:
    """The site box that ``path`` lies in, or is, once all links are resolved; None outside of boxes."""
    real = Path(os.path.realpath(path))
    return next((folder for folder in (real, *real.parents) if is_box(folder)), None)


def is_box(folder: Path) -> bool:
    """Whether a folder is a site box of any version, or what is left of one."""
    card = folder / CARD_FILE
    if not os.path.lexists(card):
        return all(is_real_folder(folder / name) for name in _BESIDE)
    try:
        return read_object(card, _CARD_BYTES).get("format") == FORMAT
    except (OSError, ValueError):
        return any(is_real_folder(folder / name) for name in _BESIDE)


def refuse_box(path: Path) -> None:
    """Raise :class:`ConsentError` where ``path`` lies in a site box, through whatever links."""
    box = box_around(path)
    if box:
        raise ConsentError(f"{path}: lies in the site box {box}, which only its site opens; {HOW}")


HOW = "ask its owner for a grant, then primia-ray train --data BOXES"
"""How to use the images in a box."""
