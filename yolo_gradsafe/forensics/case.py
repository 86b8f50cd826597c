"""A batch under suspicion, and the means to question it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor

from yolo_gradsafe.adapter.replay import Replay, ReplayResult
from yolo_gradsafe.forensics.activations import ActivationHooks, activation_hooks, first_bad
from yolo_gradsafe.forensics.diagnosis import Diagnosis
from yolo_gradsafe.forensics.fitting import in_parts, parts_that_fit, run_fitting
from yolo_gradsafe.forensics.samples import label_fault, pixel_faults
from yolo_gradsafe.forensics.search import Budget
from yolo_gradsafe.forensics.slicing import image_name, images_in
from yolo_gradsafe.judge.loss_trend import far_above
from yolo_gradsafe.telemetry.schema import Cause

__all__ = ["Case", "Surroundings"]

Batch = Mapping[str, Any]

_GROWN = 10.0
"""Times their magnitude under trusted weights from which weights or activations have grown."""


@dataclass(frozen=True)
class Surroundings:
    """What is known around a bad batch; each part may be missing, and what it would tell is then not found out."""

    loaded: Batch | None = None
    """The batch as it came from the loader."""
    preprocess: Callable[[dict[str, Any]], dict[str, Any]] | None = None
    """``preprocess_batch`` of the trainer's class."""
    hook: tuple[str, int, str] | None = None
    """File, line and name of a function that was put in the place of ``preprocess_batch``."""
    composite: tuple[str, ...] = ()
    """What the loader may have composed images with; see ``adapter.replay.composed``."""
    plain: Callable[[str], dict[str, Any] | None] | None = None
    """Loads one image alone, without augmentation; see ``adapter.replay.plain_batch``."""
    others: Callable[[], dict[str, Any] | None] | None = None
    """Loads a few other images of the training as a batch, without augmentation."""
    trusted: Callable[[], AbstractContextManager[None]] | None = None
    """Puts weights that were good not long ago in the live ones' place for the length of its body."""
    usual_loss: float = math.nan
    """Usual loss of an image."""
    elevated: bool = False
    """Whether losses had been out of their range before."""
    medians: Mapping[str, float] = field(default_factory=dict)
    """What each loss item usually is, by name."""


class Case:
    """One bad batch.

    Args:
        replay: The live model as it was trained.
        batch: The preprocessed batch.
        backward: Whether the gradients are the matter and not the loss.
        around: What is known around it.
        budget: What the diagnosis may cost.
    """

    def __init__(self, replay: Replay, batch: Batch, backward: bool, around: Surroundings, budget: Budget) -> None:
        self.replay = replay
        self.batch = batch
        self.backward = backward
        self.around = around
        self.notes: list[str] = []
        """What could not be found out, and what is odd but no cause."""
        self.budget = budget

    # Running a batch ------------------------------------------------------------------------------------------------

    def watch(self, batch: Batch, precision: str) -> ActivationHooks | None:
        """Run a batch under watch; None for a compiled model."""
        if self.replay.compiled:
            self.notes.append("the layers were not looked into: the model is compiled")
            return None
        self.budget.spend()

        def attempt(pieces: Sequence[Batch]) -> ActivationHooks:
            with activation_hooks(self.replay.model) as hooks:
                for piece in pieces:
                    self.replay.run(piece, precision, self.backward)
            return hooks

        return in_parts(attempt, batch, parts_that_fit(self.replay, batch, precision, self.backward))

    def run(self, batch: Batch, precision: str | None = None, parts: int = 1) -> ReplayResult:
        """Run a batch with as much of it as there is memory for; with its backward pass where gradients are the matter.

        Raises:
            Exhausted: The diagnosis has cost enough.
            torch.OutOfMemoryError: Not even one image fits.
        """
        self.budget.spend()
        return run_fitting(self.replay, batch, precision, self.backward, parts)

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

    # Evidence against the weights -----------------------------------------------------------------------------------

    def weights_are_bad(self, others: Batch | None) -> bool:
        """Whether there is positive evidence against the live weights. That older ones pass the batch proves nothing.

        A singularity of a loss, such as 0 / 0 where boxes coincide, is met by good predictions only. So the evidence is
        that losses were rising before, from weights that matched objects; or that on other images the loss, or what is
        left of it where a term is not finite, is several times that of trusted weights, or activations are not finite
        where these or the weights have grown. A module that fails on activations of the usual size is at fault itself.

        Args:
            others: Other images; None without any.
        """
        trusted = self.around.trusted
        if trusted is None:
            return False
        if self.around.elevated:
            then = self._full(self.batch, trusted)
            if then.loss_finite and then.matched >= 1:
                return True
        if others is None:
            return False
        then = self._full(others, trusted)
        if not then.loss_finite:
            return False
        now = self._full(others)
        if now.loss_finite:
            return far_above(now.level, then.level)
        left = [name for name in then.items if math.isfinite(now.items.get(name, math.nan))]
        live, good = (sum(seen.items[name] for name in left) / seen.matched for seen in (now, then))
        return far_above(live, good) or self._grown(others, trusted)

    def _grown(self, others: Batch, trusted: Callable[[], AbstractContextManager[None]]) -> bool:
        """Whether a module's activations are not finite, and they or the weights are far larger than trusted ones."""
        hooks = self.watch(others, "fp32")
        bad = None if hooks is None else first_bad(hooks.forward_stats())
        if bad is None:
            return False
        weights = self._largest_weights()
        with trusted():
            weights_then, hooks = self._largest_weights(), self.watch(others, "fp32")
        if any(now > _GROWN * then > 0 for now, then in zip(weights, weights_then, strict=True)):
            return True
        usual = [one.peak for one in hooks.forward_stats() if one.name == bad.name] if hooks else []
        return bool(usual) and bad.peak > _GROWN * max(usual)

    def _largest_weights(self) -> list[float]:
        """Return the largest magnitude in each tensor of the weights. Synchronises, once."""
        norms = torch._foreach_norm(list(self.replay.model.parameters()), ord=math.inf)
        return torch.stack([norm.float() for norm in norms]).tolist() if norms else []

    def _full(self, batch: Batch, weights: Callable[[], AbstractContextManager[None]] = nullcontext) -> ReplayResult:
        """Run a batch in fp32, forward only."""
        self.budget.spend()
        with weights():
            return run_fitting(self.replay, batch, "fp32")

    # Where a value came from ----------------------------------------------------------------------------------------

    def blame(self, diagnosis: Diagnosis, indices: Sequence[int]) -> Diagnosis:
        """Blame images of the batch."""
        names = tuple(image_name(self.batch, i) for i in indices)
        composite = self.around.composite if names else ()
        proven = bool(names) and "im_file" in self.batch and not composite
        return replace(diagnosis, images=names, indices=tuple(indices), composite=composite, proven=proven)

    def bad_pixels(self, blank: Diagnosis, faults: Mapping[int, int]) -> Diagnosis:
        """Say where pixels that are not finite came from: the file, the transforms, or ``preprocess_batch``.

        Args:
            blank: What is known so far.
            faults: Number of such pixels by the place of the image.
        """
        count = sum(faults.values())
        found = replace(self.blame(blank, list(faults)), detail=f"{count} NaN or Inf pixel{'s' if count > 1 else ''}")
        loaded_fine = self._loaded_fine("img")
        if loaded_fine:
            return replace(found, cause=Cause.PREPROCESSING, stage="preprocess_batch")
        bad_files = [_bad_file(name) for name in found.images]
        guilty = [place for place, file in zip(faults, bad_files, strict=True) if file]
        if not guilty:
            stage = "transforms" if loaded_fine is False else "preprocess_batch" if self.around.loaded else ""
            return replace(found, cause=Cause.PREPROCESSING, stage=stage)
        if len(guilty) < len(faults):
            return self.bad_pixels(blank, {place: faults[place] for place in guilty})
        cached = [file.name for file, name in zip(bad_files, found.images, strict=True) if file and file != Path(name)]
        where = f" in {cached[0]}, the copy of it that Ultralytics cached" if cached else ""
        return replace(found, cause=Cause.IMAGE, detail=found.detail + where)

    def bad_labels(self, diagnosis: Diagnosis) -> Diagnosis | None:
        """Blame labels that cannot be trained on, of the images that fail or else of any."""
        # Many a healthy batch has a box without area: it counts only for an image that fails.
        known = bool(diagnosis.indices)
        classes = getattr(self.replay.model, "nc", None) or math.inf
        suspects = diagnosis.indices or range(images_in(self.batch))
        faults = {i: label_fault(self.batch, i, known, classes) for i in suspects}
        faults = {i: fault for i, fault in faults.items() if fault}
        if not faults:
            return None
        blamed = diagnosis if known else replace(self.blame(diagnosis, list(faults)), proven=False)
        return self._label_cause(replace(blamed, cause=Cause.LABEL, detail=next(iter(faults.values()))))

    def _label_cause(self, found: Diagnosis) -> Diagnosis:
        """Say whether labels that are not finite were so before the trainer's preprocessing, and in their file."""
        keys = [key for key in ("cls", "bboxes", "keypoints") if not _tensor_finite(self.batch.get(key))]
        made = replace(found, cause=Cause.PREPROCESSING, detail="NaN or Inf in its labels")
        if not keys:
            return found
        if all(self._loaded_fine(key) for key in keys):
            return replace(made, stage="preprocess_batch")
        if self.around.plain is not None and self.around.loaded is not None:
            with self.part("read the labels again"):
                alone = self.around.plain(found.images[0])
                if alone is not None and all(_tensor_finite(alone.get(key)) for key in keys):
                    return replace(made, stage="transforms")
        return found

    def _loaded_fine(self, key: str) -> bool | None:
        """Whether a value was finite as it came from the loader; None when that cannot be told."""
        value, now = (self.around.loaded or {}).get(key), self.batch.get(key)
        if not isinstance(value, Tensor):
            return None
        if value.is_floating_point() and isinstance(now, Tensor) and value.data_ptr() == now.data_ptr():
            return None  # preprocessing has written into it
        return not pixel_faults({"img": value}) if key == "img" else _tensor_finite(value)


def _tensor_finite(value: Any) -> bool:
    """Whether a value is no tensor, or a finite one. Synchronises."""
    return not (isinstance(value, Tensor) and value.is_floating_point()) or bool(torch.isfinite(value).all())


def _bad_file(name: str) -> Path | None:
    """Return the file of an image that does not hold finite values only, or cannot be read.

    That may be the copy that Ultralytics cached and reads in its place.
    """
    image, copy = Path(name), Path(name).with_suffix(".npy")
    if _finite(copy) is False:
        return copy
    return None if _finite(image) else image


def _finite(path: Path) -> bool | None:
    """Whether a file with an image holds finite values only; None when it cannot be read."""
    try:
        if path.suffix == ".npy":
            image: Any = np.load(path, allow_pickle=False)
        else:
            image = cv2.imdecode(np.frombuffer(path.read_bytes(), np.uint8), cv2.IMREAD_UNCHANGED)
    except (OSError, ValueError, cv2.error):
        return None
    return None if image is None else bool(np.isfinite(image).all())
