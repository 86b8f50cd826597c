"""The first bad operation: faults are planted in lines that are marked, and each line has to be found."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from yolo_gradsafe.forensics.bad_operation import fact_words, sentence
from yolo_gradsafe.forensics.operation_trace import find_first_bad_operation

INF = float("inf")


def search(fault: Callable[[Tensor], Any], values: Any, **options: Any) -> Any:
    """Look for the first bad operation of a function of one parameter."""
    x = torch.tensor(values, dtype=torch.float32, requires_grad=True)
    return find_first_bad_operation(lambda: fault(x), [x], **options)


def marked(*places: Any, mark: str = "# here") -> tuple[int, str]:
    """Return number and text of the marked line in functions or classes."""
    for place in places:
        lines, first = inspect.getsourcelines(place)
        for number, line in enumerate(lines):
            if line.rstrip().endswith(mark):
                return first + number, line.strip()
    raise AssertionError("no line is marked")


def check(result: Any, place: Any, operation: str, words: str, direction: str) -> Any:
    """Assert that the marked line was found, with the operation and what is said of its inputs."""
    found = result.operation
    assert found is not None, result.reason
    number, source = marked(*(place if isinstance(place, tuple) else (place,)))
    assert (found.line.line, found.line.source) == (number, source), sentence(found)
    assert (found.line.file, found.line.owner, found.direction) == (__file__, "user", direction)
    assert found.operation == operation
    assert ", ".join(map(fact_words, found.facts)) == words
    assert sentence(found).startswith(f"test_operation_trace.py:{number}")
    return found


# Forward: the loss is not finite.


def zero_by_zero(x):
    total = x.sum()
    return total / (total * 0)  # here


def by_number_of_positives(x):
    positives = x > 10
    return x.pow(2).sum() / positives.sum()  # here


def by_python_zero(x):
    return (x / 0).sum()  # here


def reciprocal(x):
    return (1 / x).sum()  # here


def root_of_negative(x):
    x = x - 1
    return x.sqrt().sum()  # here


def log_of_zero(x):
    return -torch.log(x).mean()  # here


def log_of_negative(x):
    return torch.log(x).mean()  # here


def log1p_of_minus_one(x):
    return torch.log1p(x).sum()  # here


def arc_cosine(x):
    return torch.acos(x * 1.0000002).sum()  # here


def focal_loss_at_zero(p):
    t = torch.ones_like(p)
    alpha = 0.25
    weight = alpha * (1 - p) ** 2
    return -(weight * t * torch.log(p)).sum()  # here


def focal_loss_at_one(p):
    t = torch.zeros_like(p)
    missed = torch.log(1 - p)  # here
    return -((1 - t) * p**2 * missed).sum()


def power_of_negative(x):
    return (x**0.5).sum()  # here


def exp_overflow(x):
    return torch.exp(x).sum()  # here


def empty_row_softmax(x):
    scores = x.masked_fill(x > 0, -INF)
    return torch.softmax(scores, dim=-1).sum()  # here


def constant_layer_norm(x):
    return F.layer_norm(x, (3,), eps=0.0).sum()  # here


def constant_layer_norm_module(x):
    return nn.LayerNorm(3, eps=0.0)(x).sum()  # here


def by_own_deviation(x):
    return ((x - x.mean()) / x.std()).sum()  # here


def deviation_of_one(x):
    return x[:1].std()  # here


def mean_of_none(x):
    return x.sum() + x[x > 10].mean()  # here


def divide_in_place(x):
    y = x * 1
    y.div_(x - x)  # here
    return y.sum()


def root_in_place(x):
    y = x * 1
    y.sqrt_()  # here
    return y.sum()


def assign_to_index(x):
    y = torch.zeros(3)
    y[1] = x[0].log()  # here
    return y.sum()


def divide_augmented(x):
    y = x * 1
    y /= 0  # here
    return y.sum()


def write_to_out(x):
    y = torch.empty(2)
    with torch.no_grad():
        torch.sqrt(x.detach(), out=y)  # here
    return (x * y).sum()


def einsum_overflow(x):
    with torch.autocast("cpu", torch.float16):
        y = torch.einsum("i,j->ij", x, x)
        y = y @ y  # here
    return y.float().sum()


def matmul_overflow(x):
    with torch.autocast("cpu", torch.float16):
        y = x[None] @ x[:, None]  # here
    return y.float().sum()


def cast_overflow(x):
    return x.half().sum().float()  # here


def cumulative_overflow(x):
    return torch.cumsum(x, 0).mean()  # here


def product_overflow(x):
    return x.prod()  # here


def logsumexp_of_nothing(x):
    scores = x.masked_fill(x > 0, -INF)
    return scores.logsumexp(0)  # here


def nearest_of_none(x):
    distance = x.masked_fill(x > 0, INF)
    nearest = distance.min(0).values  # here
    return nearest.mean()


def infinite_weight(x):
    weight = torch.tensor([1.0, INF])
    return F.cross_entropy(x, torch.tensor([0, 1]), weight=weight)  # here


def own_bce(x):
    t = torch.ones_like(x)
    return -(t * x.log() + (1 - t) * (1 - x).log()).sum()  # here


def in_a_loop(x):
    total = x.sum() * 0
    for i in range(3):
        total = total + x[i].log()  # here
    return total


def discarded_and_kept(x):
    discarded = torch.log(x - x)
    kept = torch.sqrt(-x)  # here
    return torch.where(x > 1, kept, torch.where(x > 0, x, discarded)).sum()


def minus_itself(x):
    far = x.masked_fill(x > 0, INF)
    return (far - far).sum()  # here


def mixed_storage(x):
    y = torch.zeros(4)
    y[:2] = torch.log(x * 0)
    y[2:] = torch.sqrt(-x)  # here
    y[:2] = x
    return y.sum()


def filled_with_nan(x):
    return x.sum() + torch.full((2,), float("nan")).sum()  # here


def infinite_scalar(x):
    bound = torch.full((1,), INF)  # here
    return x.sum() + bound.sum()


FORWARD = [
    (zero_by_zero, [1.0, 2.0], "/", "the divisor is 0"),
    (by_number_of_positives, [1.0, 2.0], "/", "the divisor is 0"),
    (by_python_zero, [1.0, 2.0], "/", "the divisor is 0"),
    (reciprocal, [1.0, 0.0, 2.0], "/", "1 of 3 divisors is 0"),
    (root_of_negative, [0.5, 3.0, 0.0], "Tensor.sqrt", "2 of 3 inputs are negative"),
    (log_of_zero, [0.0, 1.0, 0.0], "torch.log", "2 of 3 inputs are 0"),
    (log_of_negative, [-1.0, -2.0], "torch.log", "all 2 inputs are negative"),
    (log1p_of_minus_one, [-1.0, 0.0], "torch.log1p", "1 of 2 inputs is -1 or less"),
    (arc_cosine, [1.0, 0.5], "torch.acos", "1 of 2 inputs is outside -1 to 1"),
    (focal_loss_at_zero, [0.0, 0.5], "torch.log", "1 of 2 inputs is 0"),
    (focal_loss_at_one, [1.0, 0.5], "torch.log", "1 of 2 inputs is 0"),
    (power_of_negative, [-1.0, 4.0], "**", "1 of 2 inputs is negative"),
    (exp_overflow, [1000.0, 1.0], "torch.exp", "largest input 1e+03 in float32, which ends at 3.4e+38"),
    (empty_row_softmax, [[1.0, 2.0], [-1.0, 1.0]], "torch.softmax", "1 of 2 rows is inf throughout"),
    (constant_layer_norm, [[2.0] * 3, [1.0, 2, 3]], "torch.nn.functional.layer_norm", "1 of 2 rows is constant"),
    (constant_layer_norm_module, [[2.0] * 3] * 2, "torch.nn.functional.layer_norm", "all 2 rows are constant"),
    (by_own_deviation, [3.0, 3.0], "/", "the divisor is 0"),
    (deviation_of_one, [3.0, 3.0], "Tensor.std", "its input has one element, and a standard deviation takes two"),
    (mean_of_none, [3.0, 3.0], "Tensor.mean", "its input is empty"),
    (divide_in_place, [3.0, 3.0], "Tensor.div_", "all 2 divisors are 0"),
    (root_in_place, [3.0, -3.0], "Tensor.sqrt_", "1 of 2 inputs is negative"),
    (assign_to_index, [0.0, 1.0], "Tensor.log", "the input is 0"),
    (divide_augmented, [2.0, 1.0], "/", "the divisor is 0"),
    (write_to_out, [2.0, -1.0], "torch.sqrt", "1 of 2 inputs is negative"),
    (einsum_overflow, [200.0, 200.0], "@", "largest input 4e+04 in float16, which ends at 6.55e+04"),
    (matmul_overflow, [200.0, 200.0], "@", "largest input 200 in float16, which ends at 6.55e+04"),
    (cast_overflow, [7e4, 1.0], "Tensor.half", "largest input 7e+04 in float16, which ends at 6.55e+04"),
    (cumulative_overflow, [3e38, 3e38], "torch.cumsum", "largest input 3e+38 in float32, which ends at 3.4e+38"),
    (product_overflow, [3e20, 3e20], "Tensor.prod", "largest input 3e+20 in float32, which ends at 3.4e+38"),
    (logsumexp_of_nothing, [1.0, 2.0], "Tensor.logsumexp", "the row is inf throughout"),
    (nearest_of_none, [[1.0, -2.0], [1.0, 2.0]], "Tensor.min", "1 of 2 rows is inf throughout"),
    (infinite_weight, [[1.0, 2.0]] * 2, "torch.nn.functional.cross_entropy", "1 of 2 weights is inf"),
    (own_bce, [1.0000001, 0.5], "Tensor.log", "1 of 2 inputs is negative"),
    (in_a_loop, [1.0, 2.0, 0.0], "Tensor.log", "the input is 0"),
    (discarded_and_kept, [1.0, 2.0], "torch.sqrt", "all 2 inputs are negative"),
    (minus_itself, [1.0, -2.0], "-", "1 of 2 pairs is 0 × inf or inf - inf"),
    (mixed_storage, [1.0, 2.0], "torch.sqrt", "all 2 inputs are negative"),
    (filled_with_nan, [1.0, 2.0], "torch.full", ""),
    (infinite_scalar, [1.0, 2.0], "torch.full", ""),
]


@pytest.mark.parametrize(("fault", "values", "operation", "words"), FORWARD, ids=lambda v: getattr(v, "__name__", ""))
def test_the_line_that_made_the_loss_non_finite(fault, values, operation, words):
    check(search(fault, values), fault, operation, words, "forward")


# Backward: the loss is finite, and its gradient is not.


def root_of_zero(x):
    return x.sqrt().sum()  # here


def power_at_zero(x):
    return (x**0.5).sum()  # here


def length_of_zero(x):
    squares = (x**2).sum(-1)
    return torch.sqrt(squares).sum()  # here


def hypotenuse_of_origin(x):
    return torch.hypot(x, x * 0).sum()  # here


def arc_cosine_at_one(x):
    return torch.acos(x).sum()  # here


def where_trap(x):
    ratio = x.sum() / x  # here
    return torch.where(x > 0, ratio, torch.zeros_like(ratio)).sum()


def where_trap_log(x):
    logs = torch.log(x)  # here
    return torch.where(x > 0, logs, x * 0).sum()


def where_trap_exp(x):
    grown = torch.exp(x)  # here
    return torch.where(x < 10, grown, x).sum()


def in_place_root_of_zero(x):
    y = x * 1
    y.sqrt_()  # here
    return y.sum()


def root_in_a_view(x):
    y = x * 1
    y[1:].sqrt_()  # here
    return y.sum()


def tiny_divisor(x):
    return (x / (x * 1e-25)).sum()  # here


BACKWARD = [
    (root_of_zero, [0.0, 1.0, 0.0], "Tensor.sqrt", "2 of 3 inputs are 0"),
    (power_at_zero, [0.0, 1.0], "**", "1 of 2 inputs is 0"),
    (length_of_zero, [[0.0, 0.0], [1.0, 1.0]], "torch.sqrt", "1 of 2 inputs is 0"),
    (hypotenuse_of_origin, [0.0, 1.0], "torch.hypot", "1 of 2 results is 0"),
    (arc_cosine_at_one, [1.0, 0.5], "torch.acos", "1 of 2 inputs is 1 or -1"),
    (where_trap, [0.0, 1.0], "/", "1 of 2 divisors is 0"),
    (where_trap_log, [0.0, 1.0], "torch.log", "1 of 2 inputs is 0"),
    (where_trap_exp, [100.0, 1.0], "torch.exp", "1 of 2 results is inf"),
    (in_place_root_of_zero, [0.0, 1.0], "Tensor.sqrt_", "1 of 2 inputs is 0"),
    (root_in_a_view, [0.0, 0.0, 1.0], "Tensor.sqrt_", "1 of 2 divisors of its gradient is 0"),
    (tiny_divisor, [1e-10, 1.0], "/", "smallest divisor 1e-35, largest input 1 in float32, which ends at 3.4e+38"),
]


@pytest.mark.parametrize(("fault", "values", "operation", "words"), BACKWARD, ids=lambda v: getattr(v, "__name__", ""))
def test_the_line_whose_gradient_is_not_finite(fault, values, operation, words):
    found = check(search(fault, values), fault, operation, words, "backward")
    assert sentence(found).endswith(f"; its gradient there is {'NaN' if found.nan else 'inf'}")
    assert not found.written_backward
