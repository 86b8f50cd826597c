"""What a diagnosis comes to: the cause of a bad step, and who or what is to blame, in words and as data."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal, get_args

from yolo_gradsafe.telemetry.schema import to_json

__all__ = ["Cause", "Culprit"]

Cause = Literal[
    "pixels", "labels", "weights", "precision", "activations", "loss", "gradients", "outlier", "transient", "unknown"
]
"""``pixels``: an image holds NaN or Inf. ``labels``: a label does, or is degenerate. ``weights``: the model's own are
not finite. ``precision``: fp16 or bf16 overflows where fp32 does not. ``activations``, ``loss``, ``gradients``: these
are not finite in fp32 either. ``outlier``: finite but far out of range. ``transient``: does not fail again."""

_LIMITS = {"fp16": 65504.0, "bf16": 3.39e38}


@dataclass(frozen=True)
class Culprit:
    """Who or what made a step bad."""

    cause: Cause = "unknown"
    images: tuple[str, ...] = ()
    """Image files to blame; empty when it is not the data, or not known."""
    indices: tuple[int, ...] = ()
    """Places in the batch, from 0, of the images that fail."""
    composite: tuple[str, ...] = ()
    """How images may have been composed of several, such as ``mosaic``: each name is then that of the first."""
    proven: bool = False
    """Whether each of ``images`` fails by itself in full precision: an offence that the quarantine counts."""
    layer: str = ""
    """Module that first went wrong."""
    magnitude: float = math.nan
    """Largest finite magnitude there: of its outputs in fp32, or of the gradient that came to it."""
    term: str = ""
    """Loss item that is not finite first, or out of range."""
    tensors: tuple[str, ...] = ()
    """Weights, or parameters by their gradient, that are not finite; at most ten."""
    precision: str = "fp32"
    """Precision of the pass that failed."""
    detail: str = ""
    """A clause of the sentence: what is wrong with the image or its labels."""
    notes: tuple[str, ...] = ()
    """What could not be found out, and why."""

    def sentence(self) -> str:
        """Say it in one plain sentence without a full stop; image files by their names without folders."""
        return _SENTENCES[self.cause](self) + (f" ({self._of_several()})" if self.composite and self.images else "")

    def record(self) -> dict[str, Any]:
        """Return it as data for strict JSON, with the sentence."""
        return {"sentence": self.sentence(), **to_json(asdict(self))}

    @staticmethod
    def from_record(record: Mapping[str, Any]) -> Culprit:
        """Read what ``record`` returned; unknown keys are passed over.

        Raises:
            ValueError: A value is not what it should be.
        """
        known = {field.name: record[field.name] for field in fields(Culprit) if field.name in record}
        if known.get("cause", "unknown") not in get_args(Cause):
            raise ValueError(f"unknown cause {known['cause']!r}")
        if "magnitude" in known:
            known["magnitude"] = float(known["magnitude"])
        values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in known.items()}
        return Culprit(**values)

    def _of_several(self) -> str:
        """Say what is known of images that were composed."""
        kinds = " or ".join(self.composite)
        return f"under {kinds}" + (", and it fails alone, too" if self.proven else ": the first of several images")

    def _named(self, nobody: str = "") -> str:
        """Name the images."""
        names = [Path(image).name for image in self.images]
        return nobody if not names else names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"

    def _with(self) -> str:
        return f" with {self._named()}" if self.images else ""

    def _at(self) -> str:
        return f" in {self.layer}" if self.layer else ""


def _pixels(culprit: Culprit) -> str:
    holds = "holds" if len(culprit.images) < 2 else "hold"
    return f"{culprit._named('an image')} {holds} {culprit.detail or 'NaN or Inf pixels'}"


def _labels(culprit: Culprit) -> str:
    return f"the labels of {culprit._named('an image')} are at fault: {culprit.detail or 'they are not finite'}"


def _weights(culprit: Culprit) -> str:
    more = f" ({len(culprit.tensors)} tensors)" if len(culprit.tensors) > 1 else ""
    return f"weights of {culprit.layer or 'the model'} are not finite{more}"


def _precision(culprit: Culprit) -> str:
    kind, limit = culprit.precision, _LIMITS.get(culprit.precision, math.inf)
    size = f" (max {_brief(culprit.magnitude)}, {kind} ends at {limit:g})" if culprit.magnitude > limit else ""
    # Parameters are named when the loss was finite and their gradients were not.
    where = f" of the gradients at the output{_of(culprit.layer)}" if culprit.tensors else culprit._at()
    return f"{kind} overflow{where or ' in the loss'}{size}{culprit._with()}; fp32 is finite"


def _activations(culprit: Culprit) -> str:
    size = f" (largest finite value {_brief(culprit.magnitude)})" if culprit.magnitude > 0 else ""
    return f"the output{_of(culprit.layer)} is not finite in fp32 either{size}{culprit._with()}"


def _loss(culprit: Culprit) -> str:
    return f"{culprit.term or 'the loss'} is not finite{culprit._with()} although all outputs of the model are"


def _gradients(culprit: Culprit) -> str:
    first = f", first at the output of {culprit.layer}" if culprit.layer else ""
    return f"the gradients are not finite{culprit._with()} although the loss is{first}"


def _outlier(culprit: Culprit) -> str:
    what = f"{culprit.term or 'the loss'} is far above its usual value"
    return f"{what}{culprit._with()}" + (f": {culprit.detail}" if culprit.detail else "")


def _transient(culprit: Culprit) -> str:
    return "the batch does not fail again: the fault was transient"


def _unknown(culprit: Culprit) -> str:
    return culprit.detail or "the cause is not known"


def _brief(value: float) -> str:
    """Write a number short: ``7.1e4``, ``12``."""
    digits, exponent = f"{value:.1e}".split("e")
    return f"{value:.3g}" if 1e-2 <= value < 1e4 else f"{digits}e{int(exponent)}"


def _of(name: str) -> str:
    return f" of {name}" if name else ""


_SENTENCES: dict[str, Callable[[Culprit], str]] = {
    "pixels": _pixels,
    "labels": _labels,
    "weights": _weights,
    "precision": _precision,
    "activations": _activations,
    "loss": _loss,
    "gradients": _gradients,
    "outlier": _outlier,
    "transient": _transient,
    "unknown": _unknown,
}
