"""The diagnosis of a bad step: cheap questions first, each by itself, so that one that fails costs only its answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from yolo_gradsafe.adapter.replay import Replay, ReplayResult, Split
from yolo_gradsafe.forensics.activations import bad_state, first_bad, first_bad_gradient
from yolo_gradsafe.forensics.bad_operation import BadOperation, place_of_line, sentence
from yolo_gradsafe.forensics.case import Case, Surroundings
from yolo_gradsafe.forensics.diagnosis import Diagnosis
from yolo_gradsafe.forensics.fitting import in_parts, parts_that_fit
from yolo_gradsafe.forensics.operation_trace import find_first_bad_operation
from yolo_gradsafe.forensics.overflow import Overflow, backward_overflow, forward_overflow
from yolo_gradsafe.forensics.samples import find_failing, find_outliers, pixel_faults
from yolo_gradsafe.forensics.search import Budget
from yolo_gradsafe.forensics.slicing import images_in, pick
from yolo_gradsafe.forensics.terms import first_bad_term, outlying_term
from yolo_gradsafe.judge.loss_trend import far_above
from yolo_gradsafe.telemetry.schema import Cause

__all__ = ["Cap", "diagnose"]


@dataclass(frozen=True)
class Cap:
    """What a diagnosis may cost; what is not found by then is noted as such."""

    seconds: float = 60.0
    """Wall-clock time; a pass that has begun is finished."""
    evaluations: int = 64
    """Passes through the model."""
    thorough: bool = True
    """Look for the images and the line as well, and not only for the cause."""


def diagnose(
    replay: Replay,
    batch: Mapping[str, Any],
    *,
    gradients_bad: bool = False,
    outlier: bool = False,
    around: Surroundings | None = None,
    cap: Cap = Cap(),
) -> Diagnosis:
    """Find out what made a batch bad. Slow; leaves no trace; does not raise, also where memory is short.

    Call it before weights and statistics are put back: what is repaired cannot be found. It is local to a rank.

    Args:
        replay: The live model as it was trained.
        batch: The preprocessed batch, on the model's device; it is left as it is.
        gradients_bad: Whether the gradients were not finite although the loss was.
        outlier: Look for what is far out of range when everything is finite.
        around: What is known around the batch.
        cap: What it may cost.
    """
    case = _Questions(replay, batch, gradients_bad, around or Surroundings(), Budget(cap.seconds, cap.evaluations))
    case.thorough = cap.thorough
    try:
        with replay.memory.borrowed(), replay.rewound():
            found = case.cause()
            if outlier and found.cause is Cause.TRANSIENT:
                found = case.outlier()
            if cap.thorough:
                found = case.line(case.prove(found))
            if not found.blames_the_loss:  # a term that is not finite because of what it was fed
                found = replace(found, term="")
    except Exception as error:  # the caller is in the middle of a training
        found = Diagnosis(detail="the batch could not be replayed", precision=replay.precision)
        case.note("diagnose", error)
    return replace(found, notes=tuple(case.notes))


class _Questions(Case):
    """What is asked, in order."""

    thorough = True
    _smallest: Mapping[str, Any] | None = None
    """The smallest batch that fails, once it is known."""

    def cause(self) -> Diagnosis:
        """Ask in order: weights, pixels, does it fail again, in fp32 too, labels, sample, layer, term."""
        blank = Diagnosis(precision=self.replay.precision)
        with self.part("look at the weights"):
            if bad := bad_state(self.replay.model, self.replay.unbounded):
                return blank.blaming_weights(bad)
        with self.part("look at the pixels"):
            if faults := pixel_faults(self.batch):
                return self.bad_pixels(blank, faults)
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
            return replace(blank, cause=Cause.TRANSIENT) if seen.whole else self._too_large(blank, seen)
        self.backward = seen.loss_finite
        blank = replace(blank, term=first_bad_term(seen.items), backward=seen.loss_finite)
        if self.replay.precision != "fp32":
            full = self.run(self.batch, "fp32", seen.parts)
            if full.finite:
                # Only what was looked at in the same parts can be compared: each has batch-norm statistics of its own.
                same = full.parts == seen.parts or not self.run(self.batch, parts=full.parts).finite
                if full.left_out or not same:
                    return self._too_large(blank, full)
                return self._in_low_precision(replace(blank, cause=Cause.PRECISION), full)
        return self._in_full_precision(replace(blank, precision="fp32"))

    def _too_large(self, blank: Diagnosis, seen: ReplayResult) -> Diagnosis:
        """Note that too little of the batch fits to say what it did."""
        how = "without its gradients" if seen.left_out else f"in {seen.parts} parts alone"
        self.notes.append(f"there was memory to run the batch {how}: its fault did not show")
        return blank

    def outlier(self) -> Diagnosis:
        """Name the loss term and the images that are far above the others."""
        found = Diagnosis(Cause.OUTLIER, precision=self.replay.precision)
        with self.part("find the outlying loss term"):
            found = replace(found, term=outlying_term(self.run(self.batch).items, self.around.medians))
        with self.part("find the outlying image"):
            images = find_outliers(lambda part: _losses(self.run(part)), self.batch)
            detail = images[0].detail if images else ""
            found = replace(self.blame(found, [image.index for image in images]), detail=detail, proven=False)
        return found

    def prove(self, found: Diagnosis) -> Diagnosis:
        """Try the named image of a composed one alone, as it is in its file: only then it is proven."""
        plain, composed = self.around.plain, self.around.composite and found.images
        if not composed or found.cause in (Cause.PRECISION, Cause.OUTLIER) or plain is None:
            return found
        confirmed = []
        with self.part("try the image without augmentation"):
            for image in dict.fromkeys(found.images):
                alone = plain(image)
                if alone is not None and (pixel_faults(alone) or not self.run(alone, "fp32").finite):
                    confirmed.append(image)
        return replace(found, images=tuple(confirmed) or found.images, proven=bool(confirmed))

    def line(self, found: Diagnosis) -> Diagnosis:
        """Name the line that made the first value that is not finite, of the loss, the model or the preprocessing."""
        if found.cause in (Cause.LOSS, Cause.ACTIVATIONS):
            batch = self._smallest or self.batch
            parameters = list(self.replay.model.parameters()) if found.backward else []
            search = find_first_bad_operation(
                lambda: self.replay.loss(batch),
                parameters,
                rewound=self.replay.rewound,
                seconds=self.budget.seconds_left,
            )
        elif found.stage == "preprocess_batch" and self.around.preprocess and self.around.loaded:
            preprocess, loaded = self.around.preprocess, self.around.loaded
            search = find_first_bad_operation(
                lambda: preprocess(_copied(loaded))["img"],
                rewound=self.replay.rewound,
                seconds=self.budget.seconds_left,
            )
        else:
            return found
        if search.operation is not None:
            return replace(found, **_line_facts(search.operation))
        if search.reason:
            self.notes.append(f"the line was not found: {search.reason}")
        if found.stage and self.around.hook is not None:
            file, line, name = self.around.hook
            source = f"{Path(file).name}:{line}"
            return replace(found, operation=f"{source}: {name} made them", source=source)
        return found

    def _in_low_precision(self, found: Diagnosis, full: ReplayResult) -> Diagnosis:
        """Name the layer that overflows, and the images if only some do; unless weights have outgrown the precision."""
        images = images_in(self.batch)
        if far_above(full.total, self.around.usual_loss * images) and self._weights_to_blame(self.batch):
            return replace(found, cause=Cause.WEIGHTS)
        with self.part("find the layer"):
            overflow = self._overflow(self.batch)
            if overflow is not None:
                found = replace(found, layer=overflow.layer, magnitude=overflow.magnitude)
        if self.thorough:
            with self.part("find the image"):
                suspects = find_failing(lambda part: not self.run(part).finite, self.batch)
                if suspects.found and suspects.cleared:
                    found = replace(self.blame(found, suspects.found), proven=False)
        return found

    def _in_full_precision(self, found: Diagnosis) -> Diagnosis:
        """Name the image, then the layer or the loss term on the smallest batch that fails."""
        cleared: Mapping[str, Any] | None = None
        if self.thorough:
            with self.part("find the image"):
                suspects = find_failing(lambda part: not self.run(part, "fp32").finite, self.batch)
                several = images_in(self.batch) > 1
                if suspects.found and (suspects.cleared or not several):
                    found = self.blame(found, suspects.found)
                    self._smallest = pick(self.batch, suspects.found[:1] * (1 + several))
                rest = [i for i in range(images_in(self.batch)) if i not in suspects.found]
                if suspects.complete and rest:
                    cleared = pick(self.batch, rest)
        with self.part("find the layer"):
            found = self._loss_or_model(found, self._smallest or self.batch)
        with self.part("look at the labels"):
            if blamed := self.bad_labels(found):
                return blamed
        if self._weights_to_blame(cleared):
            return replace(found, cause=Cause.WEIGHTS, images=(), indices=(), proven=False)
        return found

    def _weights_to_blame(self, cleared: Mapping[str, Any] | None) -> bool:
        """Whether the weights are bad, by the images of the batch that pass, or else by other ones."""
        bad = False
        with self.part("compare with trusted weights"):
            others = cleared
            if others is None and self.around.trusted is not None and self.around.others is not None:
                others = self.around.others()
            bad = self.weights_are_bad(others)
        return bad

    def _loss_or_model(self, found: Diagnosis, batch: Mapping[str, Any]) -> Diagnosis:
        """Tell a loss that fails on finite outputs from a module that fails on finite inputs, and name the module."""
        found = replace(found, cause=Cause.LOSS)
        split = self._split(batch)
        if split is not None and split.outputs_finite and not (split.loss_finite and split.gradients_finite):
            return found
        hooks = self.watch(batch, "fp32")
        if hooks is None:
            return found if split is None else replace(found, cause=Cause.ACTIVATIONS)
        if (bad := first_bad(hooks.forward_stats())) is not None:
            return replace(found, cause=Cause.ACTIVATIONS, layer=bad.name, magnitude=bad.peak)
        back = first_bad_gradient(hooks.gradient_stats()) if self.backward else None
        if back is not None:
            return replace(found, cause=Cause.ACTIVATIONS, layer=back.name, magnitude=back.peak)
        return found if split is None else replace(found, cause=Cause.ACTIVATIONS, layer=self._owner_of_bad(batch))

    def _split(self, batch: Mapping[str, Any]) -> Split | None:
        """Run model and loss apart, with as much of a batch as there is memory for."""
        self.budget.spend()

        def attempt(pieces: Sequence[Mapping[str, Any]]) -> Split | None:
            splits = [split for piece in pieces if (split := self.replay.split(piece)) is not None]
            return Split.of(splits) if len(splits) == len(pieces) else None

        return in_parts(attempt, batch, parts_that_fit(self.replay, batch, "fp32", backward=False))

    def _owner_of_bad(self, batch: Mapping[str, Any]) -> str:
        """Name the module whose parameters alone have gradients that are not finite; empty when it is not one."""
        owners = {name.rpartition(".")[0] for name in self.run(batch, "fp32").bad_gradients}
        return owners.pop() if len(owners) == 1 else ""

    def _overflow(self, batch: Mapping[str, Any]) -> Overflow | None:
        low, full = self.watch(batch, self.replay.precision), self.watch(batch, "fp32")
        if low is None or full is None:
            return None
        if self.backward:
            return backward_overflow(low.gradient_stats(), full.gradient_stats(), self.replay.amp_scale)
        return forward_overflow(low.forward_stats(), full.forward_stats())


def _copied(batch: Mapping[str, Any]) -> dict[str, Any]:
    """Return a batch that may be written into."""
    return {key: value.clone() if isinstance(value, Tensor) else value for key, value in batch.items()}


def _line_facts(found: BadOperation) -> dict[str, Any]:
    line = found.line
    return {
        "operation": sentence(found),
        "source": place_of_line(line),
        "source_text": line.source,
    }


def _losses(outcome: ReplayResult) -> dict[str, float]:
    return {**outcome.items, "total": outcome.total}
