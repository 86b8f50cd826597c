"""What a command is doing, while it takes its time: on the terminal only, gone when it is done."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

__all__ = ["working"]


@contextmanager
def working(steps: int | None = None) -> Iterator[Callable[[str], None]]:
    """Show what is being done, on stderr, so that output can be piped.

    Args:
        steps: How many things there are to do; with it a bar is drawn, without it a spinner.

    Yields:
        What is to be called with the next thing to do, in a few words.
    """
    from rich.console import Console
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda what: None
        return
    columns = [
        SpinnerColumn(),
        TextColumn("{task.description}"),
        *([BarColumn()] if steps else []),
        TimeElapsedColumn(),
    ]
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("", total=steps)
        begun = False

        def tell(what: str) -> None:
            nonlocal begun
            progress.update(task, description=what, advance=1 if begun and steps else 0)
            begun = True

        yield tell
