"""A batch under suspicion, and the means to question it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from yolo_gradsafe.adapter.replay import Replay, ReplayResult
from yolo_gradsafe.forensics.activations import ActivationHooks, activation_hooks
from yolo_gradsafe.forensics.culprit import Culprit
from yolo_gradsafe.forensics.samples import label_fault
from yolo_gradsafe.forensics.search import Budget
from yolo_gradsafe.forensics.slicing import image_name, images_in

__all__ = ["Case"]


class Case:
    """One bad batch.

    Args:
        replay: The live model as it was trained.
        batch: The preprocessed batch.
        backward: Whether the gradients are the matter and not the loss.
        composite: What the loader may have composed images with.
        budget: What the diagnosis may cost.
    """

    def __init__(
        self, replay: Replay, batch: Mapping[str, Any], backward: bool, composite: tuple[str, ...], budget: Budget
    ) -> None:
        self.replay = replay
        self.batch = batch
        self.backward = backward
        self.composite = composite
        self.notes: list[str] = []
        """What could not be found out, and what is odd but no cause."""
        self._budget = budget

    def watch(self, batch: Mapping[str, Any], precision: str) -> ActivationHooks | None:
        """Run a batch under watch; None for a compiled model."""
        if self.replay.compiled:
            self.notes.append("the layers were not looked into: the model is compiled")
            return None
        with activation_hooks(self.replay.model) as hooks:
            self.run(batch, precision)
        return hooks

    def run(self, batch: Mapping[str, Any], precision: str | None = None) -> ReplayResult:
        """Run a batch, with its backward pass where gradients are the matter.

        Raises:
            Exhausted: The diagnosis has cost enough.
        """
        self._budget.spend()
        return self.replay.run(batch, precision, self.backward)

    def blame(self, culprit: Culprit, indices: Sequence[int]) -> Culprit:
        """Blame images of the batch."""
        names = tuple(image_name(self.batch, i) for i in indices)
        proven = bool(names) and "im_file" in self.batch and not self.composite
        composite = self.composite if names else ()
        return replace(culprit, images=names, indices=tuple(indices), composite=composite, proven=proven)

    @contextmanager
    def part(self, what: str) -> Iterator[None]:
        """Let a part of the diagnosis fail without the others."""
        try:
            yield
        except Exception as error:
            self.note(what, error)

    def note(self, what: str, error: Exception) -> None:
        """Note what could not be found out."""
        text = str(error).strip().splitlines()
        self.notes.append(f"could not {what}: {type(error).__name__}: {text[0] if text else ''}".rstrip(": "))

    def bad_labels(self, culprit: Culprit) -> Culprit | None:
        """Blame labels that cannot be trained on, of the images that fail or else of any."""
        # Many a healthy batch has a box without area: it counts only for an image that fails.
        known = bool(culprit.indices)
        suspects = culprit.indices or range(images_in(self.batch))
        faults = {i: label_fault(self.batch, i, degenerate=known) for i in suspects}
        faults = {i: fault for i, fault in faults.items() if fault}
        if not faults:
            return None
        blamed = culprit if known else replace(self.blame(culprit, list(faults)), proven=False)
        return replace(blamed, cause="labels", detail=next(iter(faults.values())))
