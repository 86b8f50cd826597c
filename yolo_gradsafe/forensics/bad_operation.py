"""The first operation that makes NaN or Inf of finite values, and the sentence about it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Literal

from yolo_gradsafe.forensics.source_line import SourceLine

__all__ = ["BadOperation", "Fact", "fact_words", "place_of_line", "sentence"]

Kind = Literal[
    "zero",
    "negative",
    "minus_one",
    "outside",
    "edge",
    "nan",
    "inf",
    "undefined",
    "all_inf",
    "constant",
    "empty",
    "single",
    "largest",
    "smallest",
]

_IS = {
    "zero": "0",
    "negative": "negative",
    "minus_one": "-1 or less",
    "outside": "outside -1 to 1",
    "edge": "1 or -1",
    "nan": "NaN",
    "inf": "inf",
    "undefined": "0 × inf or inf - inf",
    "all_inf": "inf throughout",
    "constant": "constant",
}
_LIMITS = {"float16": "65504", "bfloat16": "3.4e+38", "float32": "3.4e+38", "float64": "1.8e+308"}


@dataclass(frozen=True)
class Fact:
    """One thing about the values that an operation was fed."""

    kind: Kind
    """``minus_one`` is -1 or less, ``outside`` is beyond -1 to 1, ``edge`` is exactly 1 or -1; ``undefined`` is a pair
    0 and inf, or inf and -inf; ``single`` is a standard deviation of one element; ``largest`` and ``smallest`` go by
    magnitude."""
    noun: str = "inputs"
    """What is counted, in the plural."""
    count: int = 0
    """How many are so."""
    total: int = 0
    """Of how many."""
    value: float = math.nan
    """Of ``largest`` and ``smallest``: the magnitude."""
    dtype: str = ""
    """Of ``largest``: the type that it has to fit into, ``float16`` and the like."""


@dataclass(frozen=True)
class BadOperation:
    """The first operation that made non-finite values out of finite ones, among those that the result came from."""

    operation: str
    """As the code calls it: ``torch.sqrt``, ``Tensor.sum``, ``/``. Of a backward pass, the forward operation."""
    kernel: str
    """The operation of PyTorch's core within it that did it, such as ``aten.sqrt``."""
    direction: Literal["forward", "backward"]
    """``backward``: the loss is finite, and a gradient is not."""
    line: SourceLine
    """The line; of a backward pass the one that ran forward, unless ``written_backward``."""
    within: SourceLine | None
    """Where in Ultralytics the user's line led to; None where the line itself calls PyTorch."""
    facts: tuple[Fact, ...]
    """What it was fed, the most telling first."""
    bad: int
    """How many of its outputs (backward: of the gradient's values there) are not finite."""
    outputs: int
    """Of how many."""
    nan: bool
    """Whether NaN is among them; else they are inf or -inf."""
    written_backward: bool = False
    """Whether the line itself runs in the backward pass: ``backward`` of an autograd function, or a hook."""
    given: bool = False
    """Whether some of its inputs were not finite, and no operation made them so that PyTorch knows of: a weight, the
    batch, a constant, a result of numpy."""


def sentence(found: BadOperation) -> str:
    """Return it in words: ``my_loss.py:31: torch.sqrt, 3 of 412 inputs are 0; its gradient there is inf``."""
    place = place_of_line(found.line)
    if found.within is not None:
        place += f" (in {place_of_line(found.within)})"
    if found.written_backward:
        place += ", in the backward pass"
    what = ", ".join([found.operation, *(fact_words(fact) for fact in found.facts)])
    value = "NaN" if found.nan else "inf"
    if found.direction == "backward":
        return f"{place}: {what}; its gradient there is {value}"
    return f"{place}: {what}; {_counted(found.bad, found.outputs, 'results', value)}"


def fact_words(fact: Fact) -> str:
    """Return a fact in words: ``3 of 412 divisors are 0``."""
    if fact.kind == "empty":
        return "its input is empty"
    if fact.kind == "single":
        return "its input has one element, and a standard deviation takes two"
    if fact.kind == "smallest":
        return f"smallest {_single(fact.noun)} {fact.value:.3g}"
    if fact.kind == "largest":
        limit = f" ({fact.dtype} holds up to {_LIMITS[fact.dtype]})" if fact.dtype in _LIMITS else ""
        return f"largest {_single(fact.noun)} {fact.value:.3g}{limit}"
    return _counted(fact.count, fact.total, fact.noun, _IS[fact.kind])


def _counted(count: int, total: int, noun: str, what: str) -> str:
    if total == 1:
        return f"the {_single(noun)} is {what}"
    if count == total:
        return f"all {total} {noun} are {what}"
    return f"{count} of {total} {noun} {'is' if count == 1 else 'are'} {what}"


def _single(noun: str) -> str:
    words: Sequence[str] = noun.split(" ", 1)
    return " ".join([words[0].removesuffix("s"), *words[1:]])


def place_of_line(line: SourceLine) -> str:
    """Return ``FILE:LINE``: the name of a file of the user's, and of others the path within their package."""
    parts = PurePath(line.file).parts
    package = next((name for name in ("ultralytics", "torch") if name in parts), None) if line.owner != "user" else None
    if package is None:
        return f"{parts[-1] if parts else line.file}:{line.line}"
    start = len(parts) - 1 - parts[::-1].index(package)
    return f"{'/'.join(parts[start:])}:{line.line}"
