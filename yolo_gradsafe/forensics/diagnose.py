"""The diagnosis of a bad step: cheap questions first, each by itself, so that one that fails costs only its answer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from yolo_gradsafe.adapter.replay import Replay, ReplayResult
from yolo_gradsafe.forensics.activations import bad_state, first_bad, first_bad_gradient
from yolo_gradsafe.forensics.case import Case
from yolo_gradsafe.forensics.culprit import Culprit
from yolo_gradsafe.forensics.overflow import Overflow, backward_overflow, forward_overflow
from yolo_gradsafe.forensics.samples import find_failing, find_outliers, pixel_faults
from yolo_gradsafe.forensics.search import Budget
from yolo_gradsafe.forensics.slicing import images_in, pick
from yolo_gradsafe.forensics.terms import first_bad_term, outlying_term

__all__ = ["Cap", "diagnose"]

_NAMED = 10


@dataclass(frozen=True)
class Cap:
    """What a diagnosis may cost; what is not found by then is noted as such."""

    seconds: float = 60.0
    """Wall-clock time; a pass that has begun is finished."""
    evaluations: int = 64
    """Passes through the model."""


def diagnose(
    replay: Replay,
    batch: Mapping[str, Any],
    *,
    gradients_bad: bool = False,
    outlier: bool = False,
    medians: Mapping[str, float] | None = None,
    composite: Sequence[str] = (),
    plain: Callable[[str], dict[str, Any] | None] | None = None,
    cap: Cap = Cap(),
) -> Culprit:
    """Find out what made a batch bad. Slow; leaves no trace; does not raise.

    Call it before weights and statistics are put back: what is repaired cannot be found. It is local to a rank.

    Args:
        replay: The live model as it was trained.
        batch: The preprocessed batch, on the model's device; it is left as it is.
        gradients_bad: Whether the gradients were not finite although the loss was.
        outlier: Look for what is far out of range when everything is finite.
        medians: What each loss item usually is, by name.
        composite: What the loader may have composed images with; see ``adapter.replay.composed``.
        plain: Loads one image alone, without augmentation; see ``adapter.replay.plain_batch``.
        cap: What it may cost.
    """
    case = _Questions(replay, batch, gradients_bad, tuple(composite), Budget(cap.seconds, cap.evaluations))
    try:
        with replay.rewound():
            culprit = case.cause()
            if outlier and culprit.cause == "transient":
                culprit = case.outlier(medians or {})
            culprit = case.prove(culprit, plain)
    except Exception as error:  # the caller is in the middle of a training
        culprit = Culprit("unknown", detail="the batch could not be replayed", precision=replay.precision)
        case.note("diagnose", error)
    return replace(culprit, notes=tuple(case.notes))


class _Questions(Case):
    """What is asked, in order."""

    def cause(self) -> Culprit:
        """Ask in order: weights, pixels, does it fail again, in fp32 too, labels, sample, layer, term."""
        blank = Culprit(precision=self.replay.precision)
        with self.part("look at the weights"):
            if bad := bad_state(self.replay.model):
                layer = bad[0].rpartition(".")[0]
                return replace(blank, cause="weights", layer=layer, tensors=tuple(bad[:_NAMED]))
        with self.part("look at the pixels"):
            if faults := pixel_faults(self.batch):
                count = sum(faults.values())
                detail = f"{count} NaN or Inf pixel{'s' if count > 1 else ''}"
                return replace(self.blame(blank, list(faults)), cause="pixels", detail=detail)
        try:
            seen = self.run(self.batch)
        except Exception:
            if blamed := self.bad_labels(blank):  # such as a class that is NaN, which is no index
                return blamed
            raise
        if seen.finite:
            with self.part("look at the labels"):
                if blamed := self.bad_labels(blank):
                    self.notes.append(f"{blamed.sentence()}; the loss passes over it")
            return replace(blank, cause="transient")
        self.backward = seen.loss_finite
        blank = replace(blank, term=first_bad_term(seen.items), tensors=seen.bad_gradients[:_NAMED])
        if self.replay.precision != "fp32" and self.run(self.batch, "fp32").finite:
            return self._in_low_precision(replace(blank, cause="precision"))
        return self._in_full_precision(replace(blank, precision="fp32"))

    def outlier(self, medians: Mapping[str, float]) -> Culprit:
        """Name the loss term and the images that are far above the others."""
        culprit = Culprit("outlier", precision=self.replay.precision)
        with self.part("find the outlying loss term"):
            culprit = replace(culprit, term=outlying_term(self.run(self.batch).items, medians))
        with self.part("find the outlying image"):
            found = find_outliers(lambda part: _losses(self.run(part)), self.batch)
            detail = found[0].detail if found else ""
            culprit = replace(self.blame(culprit, [finding.index for finding in found]), detail=detail, proven=False)
        return culprit

    def prove(self, culprit: Culprit, plain: Callable[[str], dict[str, Any] | None] | None) -> Culprit:
        """Try the named image of a composed one alone, as it is in its file: only then it is proven."""
        if not (self.composite and culprit.images) or culprit.cause in ("precision", "outlier") or plain is None:
            return culprit
        confirmed = []
        with self.part("try the image without augmentation"):
            for image in dict.fromkeys(culprit.images):
                alone = plain(image)
                if alone is not None and (pixel_faults(alone) or not self.run(alone, "fp32").finite):
                    confirmed.append(image)
        return replace(culprit, images=tuple(confirmed) or culprit.images, proven=bool(confirmed))

    def _in_low_precision(self, culprit: Culprit) -> Culprit:
        """Name the layer that overflows, and the images if only some do."""
        with self.part("find the layer"):
            overflow = self._overflow(self.batch)
            if overflow is not None:
                culprit = replace(culprit, layer=overflow.layer, magnitude=overflow.magnitude)
        with self.part("find the image"):
            suspects = find_failing(lambda part: not self.run(part).finite, self.batch)
            if suspects.found and suspects.cleared:
                culprit = replace(self.blame(culprit, suspects.found), proven=False)
        return culprit

    def _in_full_precision(self, culprit: Culprit) -> Culprit:
        """Name the image, then the layer or the loss term on the smallest batch that fails."""
        smallest = self.batch
        with self.part("find the image"):
            suspects = find_failing(lambda part: not self.run(part, "fp32").finite, self.batch)
            several = images_in(self.batch) > 1
            if suspects.found and (suspects.cleared or not several):
                culprit = self.blame(culprit, suspects.found)
                smallest = pick(self.batch, suspects.found[:1] * (1 + several))
        culprit = replace(culprit, cause="gradients" if self.backward else "loss")
        with self.part("find the layer"):
            culprit = self._first_layer(culprit, smallest)
        with self.part("look at the labels"):
            if culprit.cause in ("loss", "gradients") and (blamed := self.bad_labels(culprit)):
                return blamed
        return culprit

    def _first_layer(self, culprit: Culprit, batch: Mapping[str, Any]) -> Culprit:
        hooks = self.watch(batch, "fp32")
        if hooks is None:
            return culprit
        if (bad := first_bad(hooks.forward_stats())) is not None:
            return replace(culprit, cause="activations", layer=bad.name or "the model", magnitude=bad.peak)
        if self.backward and (back := first_bad_gradient(hooks.gradient_stats())) is not None:
            return replace(culprit, layer=back.name or "the model", magnitude=back.peak)
        return culprit

    def _overflow(self, batch: Mapping[str, Any]) -> Overflow | None:
        low, full = self.watch(batch, self.replay.precision), self.watch(batch, "fp32")
        if low is None or full is None:
            return None
        if self.backward:
            return backward_overflow(low.gradient_stats(), full.gradient_stats(), self.replay.amp_scale)
        return forward_overflow(low.forward_stats(), full.forward_stats())


def _losses(outcome: ReplayResult) -> dict[str, float]:
    return {**outcome.items, "total": outcome.total}
