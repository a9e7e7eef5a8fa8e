"""Groups of commands that keep out of site boxes."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from functools import wraps
from pathlib import Path
from typing import Any, TypeVar

import typer

Function = TypeVar("Function", bound=Callable[..., Any])


class Commands(typer.Typer):
    """A Typer whose commands end before they begin where a path that they are given lies in a site box.

    So none reads what its owner alone opens, and none writes beside it: a path that a command will have tomorrow is looked at, too.
    """

    def command(self, *names: Any, boxes: Collection[str] = (), **options: Any) -> Callable[[Function], Function]:
        """As Typer's; ``boxes``: parameters that may be boxes, since what opens them asks the owner's grant, or is the owner's own."""
        register = super().command(*names, **options)

        def add(function: Function) -> Function:
            register(_outside_boxes(function, boxes))
            return function

        return add


def _outside_boxes(function: Callable[..., Any], boxes: Collection[str]) -> Callable[..., Any]:
    @wraps(function)
    def guarded(**given: Any) -> Any:
        from primia.data.closed import refuse_box

        for path in (path for name, value in given.items() if name not in boxes for path in _paths(value)):
            refuse_box(path)
        return function(**given)

    return guarded


def _paths(value: object) -> Iterator[Path]:
    if isinstance(value, Path):
        yield value
    elif isinstance(value, list | tuple):
        for each in value:
            yield from _paths(each)
