"""The command itself, and what its parts share: exit codes, and how a user's mistake is told."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from yolo_gradsafe import __version__

__all__ = ["FAILED", "INTERRUPTED", "KEY_VALUE", "WRONG", "app", "explained", "pairs"]

FAILED, WRONG, INTERRUPTED = 1, 2, 130

KEY_VALUE = {"allow_extra_args": True, "ignore_unknown_options": True}
"""Settings of a command that takes ``key=value`` words, as ``yolo`` does."""

TASKS = ("detect", "segment", "classify", "pose", "obb", "semantic", "depth")


class _Commands(TyperGroup):
    """The commands; a task's name before ``train`` is taken as ``yolo`` takes it."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Find the command; words of the ``yolo`` command that are none here are pointed to ``train``."""
        first, *others = args
        if first in TASKS and others[:1] == ["train"]:
            args = ["train", first, *others[1:]]
        elif first in TASKS or "=" in first:
            typer.echo(f"error: '{first}' is no command. To train: gradsafe train {' '.join(args)}", err=True)
            raise typer.Exit(WRONG)
        return super().resolve_command(ctx, args)


app = typer.Typer(
    name="gradsafe",
    cls=_Commands,
    help="Gradient safety for Ultralytics YOLO training: track, clip, recover from NaN, report.",
    epilog="Exit codes: 0 done, 1 the training failed, 2 wrong options or arguments, 130 interrupted.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@contextmanager
def explained(*errors: type[Exception]) -> Iterator[None]:
    """Turn a user's mistake into a message and exit code 2."""
    try:
        yield
    except errors as error:
        said = error.args[0] if isinstance(error, KeyError) and error.args else error  # str() of a KeyError has quotes
        typer.echo(f"error: {said}".strip(), err=True)
        raise typer.Exit(WRONG) from None


def pairs(words: list[str]) -> Iterator[tuple[str, str]]:
    """Yield key and value of the words that are ``key=value``."""
    for word in words:
        key, equals, value = word.partition("=")
        if equals:
            yield key, value


@app.callback(invoke_without_command=True)
def _root(
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.", is_eager=True)] = False,
) -> None:
    if version:
        typer.echo(__version__)
        raise typer.Exit
