"""A pass over a batch within the memory that is left: in halves of the batch, in less precision, forward only.

A pass of the guard may need more than training's own: in fp32 activations are twice those of AMP. So what training has
used is measured, and what is free; a pass that would not fit is not begun whole; one that fails is repeated in halves.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from yolo_gradsafe.adapter.device_memory import give_back, out_of_memory
from yolo_gradsafe.adapter.replay import Replay, ReplayResult
from yolo_gradsafe.forensics.slicing import images_in, pick

__all__ = ["in_parts", "parts_that_fit", "run_fitting"]

Batch = Mapping[str, Any]
_T = TypeVar("_T")

_MARGIN = 0.9
"""Share of the free memory that is planned with: the allocator's blocks do not all fit."""
_FULL, _SAME, _FORWARD = 2.0, 1.1, 0.5
"""Memory of a pass over that of training's own: in fp32 after AMP 1.8 to 1.9 was measured; forward only 0.1 to 0.4."""


def run_fitting(
    replay: Replay, batch: Batch, precision: str | None = None, backward: bool = False, parts: int = 1
) -> ReplayResult:
    """Run a batch, with as much of it as there is memory for. Synchronises.

    Where not even single images fit, fp32 gives way to bf16, which has its range; then the backward pass is left out.

    Args:
        replay: The live model.
        batch: The preprocessed batch.
        precision: Another precision than that of the training.
        backward: Look at the gradients, too, when the loss is finite.
        parts: Parts to run it in at least.

    Returns:
        What it did; ``ReplayResult.whole`` says whether all of it was done at once.

    Raises:
        torch.OutOfMemoryError: Not even one image fits.
    """
    precision = precision or replay.precision
    ways = [(precision, backward)]
    if precision == "fp32" and replay.precision == "fp16":
        ways.append(("bf16", backward))
    if backward:
        ways.append((precision, False))
    for precise, back in ways[:-1]:
        try:
            return _run(replay, batch, precise, back, parts)
        except RuntimeError as error:
            if not out_of_memory(error):
                raise
        give_back()
    precise, back = ways[-1]
    return replace(_run(replay, batch, precise, back, parts), left_out=backward and not back)


def _run(replay: Replay, batch: Batch, precision: str, backward: bool, parts: int) -> ReplayResult:
    least = max(parts, parts_that_fit(replay, batch, precision, backward))

    def attempt(pieces: Sequence[Batch]) -> ReplayResult:
        weights = [images_in(piece) for piece in pieces]
        return _joined([replay.run(piece, precision, backward) for piece in pieces], weights)

    return in_parts(attempt, batch, least)


def in_parts(attempt: Callable[[Sequence[Batch]], _T], batch: Batch, parts: int = 1) -> _T:
    """Call ``attempt`` with a batch as a whole; where memory is short, with its halves, its quarters, ... its images.

    Args:
        attempt: Does something with all parts; may be called again after it ran out of memory.
        batch: The batch.
        parts: Parts to begin with.

    Raises:
        torch.OutOfMemoryError: Not even one image fits.
    """
    images = images_in(batch)
    parts = min(parts, images)
    while True:
        try:
            return attempt(list(_pieces(batch, parts)))
        except RuntimeError as error:
            if not out_of_memory(error) or parts >= images:
                raise
        give_back()
        parts = min(2 * parts, images)


def parts_that_fit(replay: Replay, batch: Batch, precision: str, backward: bool) -> int:
    """Return into how many parts a batch has to be cut for a pass to fit, as far as that can be known: a power of 2.

    Args:
        replay: The live model; knows how many images training had at once.
        batch: The batch.
        precision: Precision of the pass.
        backward: Whether it has a backward pass.
    """
    factor = _FORWARD if not backward else _FULL if precision == "fp32" != replay.precision else _SAME
    images = images_in(batch)
    needed = replay.memory.most_used * factor * images / max(replay.images or images, 1)
    free, parts = replay.memory.free * _MARGIN, 1
    while parts < images and needed / parts > free:
        parts *= 2
    return parts


def _pieces(batch: Batch, parts: int) -> Iterator[Batch]:
    """Cut a batch into parts of about the same size; itself, and no copy, where it is to be one."""
    if parts == 1:
        yield batch
        return
    images = images_in(batch)
    for part in range(parts):
        chosen = list(range(part * images // parts, (part + 1) * images // parts))
        yield pick(batch, chosen)


def _joined(results: Sequence[ReplayResult], images: Sequence[int]) -> ReplayResult:
    """Put the results of a batch's parts together: losses are summed over the images, items are their means."""
    if len(results) == 1:
        return results[0]
    count = sum(images)
    bad = dict.fromkeys(name for result in results for name in result.bad_gradients)
    return ReplayResult(
        total=sum(result.total for result in results),
        items={
            name: sum(result.items[name] * n for result, n in zip(results, images, strict=True)) / count
            for name in results[0].items
        },
        bad_gradients=tuple(bad),
        parts=len(results),
        matched=min(result.matched for result in results),
    )
