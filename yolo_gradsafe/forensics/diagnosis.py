"""What a diagnosis comes to: the cause of a bad step, and who or what is to blame."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from yolo_gradsafe.telemetry.schema import Cause, Incident, Kind, to_json
from yolo_gradsafe.telemetry.sentences import culprit

__all__ = ["Diagnosis"]

_NAMED = 10

_BEFORE = {"pixels": Cause.IMAGE, "labels": Cause.LABEL, "gradients": Cause.LOSS}
"""Words of 0.1.0, in batches that it kept."""


@dataclass(frozen=True)
class Diagnosis:
    """Who or what made a step bad. Made once; remedy, incident, picture and advice go by it."""

    cause: Cause = Cause.UNKNOWN
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
    """Loss item to blame: that is not finite first, or out of range, and not because of what it was fed."""
    tensors: tuple[str, ...] = ()
    """Weights that are not finite, at most ten."""
    tensor_count: int = 0
    """How many there are."""
    precision: str = "fp32"
    """Precision of the pass that failed."""
    backward: bool = False
    """Whether the loss was finite and a gradient was not."""
    stage: str = ""
    """What made an image NaN whose file is fine: ``transforms`` or ``preprocess_batch``."""
    operation: str = ""
    """First operation that made NaN or Inf of finite values, with its line and what it was fed, a sentence."""
    source: str = ""
    """Where that line is: ``FILE:LINE``."""
    source_text: str = ""
    """Its text."""
    repeats: int = 0
    """Number of faults so far, this one included, that did not happen again with the same batch."""
    detail: str = ""
    """A clause of the sentence: what is wrong with the image or its labels."""
    notes: tuple[str, ...] = ()
    """What could not be found out, and why."""

    @property
    def names_something(self) -> bool:
        """Whether it says more than that it does not know."""
        return self.cause not in (Cause.TRANSIENT, Cause.UNKNOWN)

    @property
    def blames_the_loss(self) -> bool:
        """Whether the fault is the loss's own, and neither the data's nor the model's."""
        return self.cause in (Cause.LOSS, Cause.OUTLIER) or (self.cause is Cause.PRECISION and not self.layer)

    def blaming_weights(self, tensors: Sequence[str]) -> Diagnosis:
        """Return it with weights or statistics that are not finite as the cause.

        Args:
            tensors: Their names in the model's order, at least one.
        """
        layer, named = tensors[0].rpartition(".")[0], tuple(tensors[:_NAMED])
        return replace(self, cause=Cause.WEIGHTS, layer=layer, tensors=named, tensor_count=len(tensors))

    def facts(self) -> dict[str, Any]:
        """Return the fields of the step's ``Incident`` that it fills; an empty one leaves what was measured."""
        values: dict[str, Any] = {
            "cause": self.cause,
            "composite": list(self.composite),
            "proven": self.proven,
            "layer": self.layer,
            "magnitude": self.magnitude,
            "term": self.term,
            "failed_in": self.precision,
            "backward": self.backward,
            "stage": self.stage,
            "operation": self.operation,
            "source": self.source,
            "source_text": self.source_text,
            "repeats": self.repeats,
            "detail": self.detail,
        }
        if self.images:
            values["images"] = list(self.images)
        if self.tensors:
            values |= {"tensors": list(self.tensors), "tensor_count": self.tensor_count}
        return values

    def sentence(self) -> str:
        """Say it in one plain sentence without a full stop; image files by their names without folders."""
        return culprit(Incident(Kind.BAD_BATCH, **self.facts()))

    def record(self) -> dict[str, Any]:
        """Return it as data for strict JSON, with the sentence."""
        return {"sentence": self.sentence(), **to_json(asdict(self))}

    @staticmethod
    def from_record(record: Mapping[str, Any]) -> Diagnosis:
        """Read what ``record`` returned, also that of an earlier version; unknown keys are passed over.

        Raises:
            ValueError: A value is not what it should be.
        """
        known = {field.name: record[field.name] for field in fields(Diagnosis) if field.name in record}
        cause = known.pop("cause", Cause.UNKNOWN)
        if "magnitude" in known:
            known["magnitude"] = float(known["magnitude"])
        values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in known.items()}
        if cause not in _BEFORE and cause not in set(Cause):
            raise ValueError(f"unknown cause {cause!r}")
        return Diagnosis(_BEFORE.get(cause) or Cause(cause), **values)
