"""What reaches the terminal: text is text there, whoever wrote it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.segment import Segment
from rich.text import Text

from primia.untrusted.shown import visible

_COLUMNS = 20


class Terminal(Console):
    """A console without markup, to which every text is one line of plain signs.

    Names of classes, sites and files, dates and messages come from others. Whatever is printed, cells, headings and titles of tables too,
    becomes text here, so that none of them can be forgotten. A style is given beside a text, never in it; lines of one's own are several
    texts.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(markup=False, emoji=False, highlight=False, **options)

    def render_str(self, text: str, **options: Any) -> Text:
        """As rich does, of the visible text."""
        return super().render_str(visible(text), **options)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """As rich does, of the visible text where it is one."""
        return super().render(_plain(renderable) if isinstance(renderable, Text) else renderable, options)

    def say(self, text: str | Text, style: str = "") -> None:
        """Print a line that is not broken, however narrow the terminal is: what is copied from it stays whole."""
        self.print(text, style=style or None, soft_wrap=True)


def say(*lines: str) -> None:
    """Print lines without a style."""
    terminal = Terminal()
    for line in lines:
        terminal.say(line)


def headings(names: Sequence[str]) -> Sequence[str]:
    """Names that get a column each: all of them, or none where they are more than any terminal shows."""
    return names if len(names) <= _COLUMNS else ()


def bars(console: Console, *, elapsed: bool = False) -> Progress:
    """Progress bars, on a terminal alone; ``elapsed``: at the end they show how long it took."""
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(elapsed_when_finished=elapsed),
    )
    return Progress(*columns, console=console, transient=True, disable=not console.is_terminal)


def _plain(text: Text) -> Text:
    """The visible text; of one that changes, parts lose styles of their own, whose places are no longer right."""
    if text.plain.isprintable():
        return text
    return Text(visible(text.plain), style=text.style, justify=text.justify, overflow=text.overflow, no_wrap=text.no_wrap, end=text.end)
