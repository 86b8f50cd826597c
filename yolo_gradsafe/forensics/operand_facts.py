"""What an operation was fed, as far as it explains NaN or Inf."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from yolo_gradsafe.forensics.bad_operation import Fact, Kind

__all__ = ["operand_facts"]

_TESTS: dict[Kind, Callable[[Tensor], Tensor]] = {
    "zero": lambda x: x == 0,
    "negative": lambda x: x < 0,
    "minus_one": lambda x: x <= -1,
    "outside": lambda x: x.abs() > 1,
    "edge": lambda x: x.abs() == 1,
    "nan": lambda x: x.isnan(),
    "inf": lambda x: x.isinf(),
}

Rule = tuple[str, Kind, str]
_DIVISORS: tuple[Rule, ...] = (("other", "zero", "divisors"),)
_LOG: tuple[Rule, ...] = (("self", "zero", "inputs"), ("self", "negative", "inputs"))
_FORWARD: dict[str, tuple[Rule, ...]] = {
    "div": _DIVISORS,
    "fmod": _DIVISORS,
    "remainder": _DIVISORS,
    "reciprocal": (("self", "zero", "divisors"),),
    "sqrt": (("self", "negative", "inputs"),),
    "rsqrt": _LOG,
    "log": _LOG,
    "log2": _LOG,
    "log10": _LOG,
    "log1p": (("self", "minus_one", "inputs"),),
    "acos": (("self", "outside", "inputs"),),
    "asin": (("self", "outside", "inputs"),),
    "atanh": (("self", "outside", "inputs"), ("self", "edge", "inputs")),
}
_BACKWARD: dict[str, tuple[Rule, ...]] = {
    **_FORWARD,
    "sqrt": (("result", "zero", "inputs"), ("result", "nan", "results")),
    "rsqrt": (("result", "inf", "results"), ("result", "nan", "results")),
    "reciprocal": (("result", "inf", "results"),),
    "acos": (("self", "edge", "inputs"), ("self", "outside", "inputs")),
    "asin": (("self", "edge", "inputs"), ("self", "outside", "inputs")),
    "hypot": (("result", "zero", "results"),),
    "exp": (("result", "inf", "results"),),
}
_NOUNS = {name: "inputs" for name in ("self", "input", "mat1", "mat2", "batch1", "batch2", "tensors", "source", "src")}
_NOUNS |= {"weight": "weights", "target": "targets", "other": "second inputs", "result": "results"}
_MOMENTS = ("std", "var", "std_mean", "var_mean")
_ROWS = ("softmax", "log_softmax", "logsumexp", "min", "max", "amin", "amax")


def operand_facts(
    kernel: str, operands: Mapping[str, Any], *, backward: bool = False, dtype: str = ""
) -> tuple[Fact, ...]:
    """Say what about an operation's operands explains that it made NaN or Inf. Synchronises.

    Args:
        kernel: Its name in PyTorch's core, without ``aten::``, ``_`` and the overload.
        operands: Its arguments by the names of PyTorch's schema; of a backward pass what it saved, ``result`` included.
        backward: Whether its gradient is what went wrong.
        dtype: The type of its output.
    """
    if operands.get("training", kernel == "batch_norm_with_update"):  # it uses the batch's own statistics
        operands = {name: value for name, value in operands.items() if not name.startswith("running_")}
    with torch.no_grad():
        told = _shape_facts(kernel, operands) or _counted_facts(kernel, operands, backward)
        return told or _not_finite(operands) or _magnitudes(kernel, operands, dtype)


def _counted_facts(kernel: str, operands: Mapping[str, Any], backward: bool) -> tuple[Fact, ...]:
    if kernel == "pow":
        return _power(operands, backward)
    if kernel in ("mul", "add", "sub") and not backward:
        act = {"mul": operator.mul, "add": operator.add, "sub": operator.sub}[kernel]
        return _pairs(operands, "undefined", "pairs", lambda a, b: act(a, b).isnan() & ~a.isnan() & ~b.isnan())
    facts = []
    for name, kind, noun in (_BACKWARD if backward else _FORWARD).get(kernel, ()):
        values = _values(operands.get(name))
        if values is not None and (count := int(_TESTS[kind](values).sum())):
            facts.append(Fact(kind, noun, count, values.numel()))
    return tuple(facts)


def _power(operands: Mapping[str, Any], backward: bool) -> tuple[Fact, ...]:
    base, exponent = _values(operands.get("self")), _values(operands.get("exponent"))
    if base is None or exponent is None:
        return ()
    exponent = exponent.to(base.device)
    zero = (base == 0) & (exponent < (1 if backward else 0)) & (exponent != 0)
    negative = (base < 0) & (exponent != exponent.floor())
    counts: dict[Kind, Tensor] = {"zero": zero, "negative": negative}
    return tuple(Fact(kind, "inputs", n, t.numel()) for kind, t in counts.items() if (n := int(t.sum())))


def _pairs(
    operands: Mapping[str, Any], kind: Kind, noun: str, test: Callable[[Tensor, Tensor], Tensor]
) -> tuple[Fact, ...]:
    first, second = _values(operands.get("self")), _values(operands.get("other"))
    if first is None or second is None:
        return ()
    found = test(first, second.to(first.device))
    count = int(found.sum())
    return (Fact(kind, noun, count, found.numel()),) if count else ()


def _shape_facts(kernel: str, operands: Mapping[str, Any]) -> tuple[Fact, ...]:
    """Return what holds of whole rows, and of inputs with too few elements."""
    values = _values(operands.get("self", operands.get("input")))
    if values is None:
        return ()
    if not values.numel():
        return (Fact("empty"),)
    if kernel in _MOMENTS:
        return (Fact("single", count=1, total=1),) if _reduced(values, operands.get("dim")) == 1 else ()
    rows = None
    if kernel in _ROWS:
        rows = _all(values.isinf(), operands.get("dim"))
    elif kernel == "native_layer_norm" and float(operands.get("eps", 0.0)) < 1e-12:
        dims = tuple(range(-len(operands["normalized_shape"]), 0))
        rows = values.amax(dims) == values.amin(dims)
        return _row_facts("constant", rows)
    return _row_facts("all_inf", rows) if rows is not None else ()


def _row_facts(kind: Kind, rows: Tensor) -> tuple[Fact, ...]:
    count = int(rows.sum())
    return (Fact(kind, "rows", count, rows.numel()),) if count else ()


def _not_finite(operands: Mapping[str, Any]) -> tuple[Fact, ...]:
    facts = []
    kinds: tuple[Kind, ...] = ("nan", "inf")
    for name, values in _tensors(operands):
        for kind in kinds:
            if count := int(_TESTS[kind](values).sum()):
                facts.append(Fact(kind, _NOUNS.get(name, f"values of {name}"), count, values.numel()))
    return tuple(facts)


def _magnitudes(kernel: str, operands: Mapping[str, Any], dtype: str) -> tuple[Fact, ...]:
    sizes = [(values.abs(), name) for name, values in _tensors(operands)]
    peaks = [float(size[size.isfinite()].amax()) for size, _ in sizes if bool(size.isfinite().any())]
    largest = [Fact("largest", value=max(peaks), dtype=dtype)] if peaks else []
    divisors = [size for size, name in sizes if name == "other" and kernel == "div"]
    return (*(Fact("smallest", "divisors", value=float(size.amin())) for size in divisors), *largest)


def _tensors(operands: Mapping[str, Any]) -> list[tuple[str, Tensor]]:
    """Return the float tensors, those in lists as well, by their argument's name."""
    found = []
    for name, value in operands.items():
        for item in value if isinstance(value, (list, tuple)) else [value]:
            if isinstance(item, Tensor) and item.is_floating_point() and item.numel():
                found.append((name, _plain(item)))
    return found


def _values(value: Any) -> Tensor | None:
    if isinstance(value, Tensor):
        return _plain(value)
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return torch.tensor(float(value), dtype=torch.float64)
    return None


def _plain(value: Tensor) -> Tensor:
    """Return it in a type that all the tests know: float8 and bool know few of them."""
    value = value.detach()
    return value if value.is_floating_point() and value.element_size() > 1 else value.float()


def _all(test: Tensor, dim: Any) -> Tensor:
    dims = _dims(dim)
    for d in sorted((d % max(test.dim(), 1) for d in dims), reverse=True) if dims is not None else ():
        test = test.all(d)
    return test.all() if dims is None else test


def _reduced(values: Tensor, dim: Any) -> int:
    dims = _dims(dim)
    return values.numel() if dims is None else math.prod(values.shape[d] for d in dims)


def _dims(dim: Any) -> tuple[int, ...] | None:
    if dim is None:
        return None
    return tuple(dim) if isinstance(dim, (list, tuple)) else (int(dim),)
