"""The first bad operation: faults are planted in lines that are marked, and each line has to be found."""

from __future__ import annotations

import gc
import inspect
import time
import weakref
from collections.abc import Callable
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torch.utils.checkpoint
from torch import Tensor, nn
from ultralytics.cfg import get_cfg
from ultralytics.nn.tasks import DetectionModel
from ultralytics.utils.loss import BboxLoss
from ultralytics.utils.metrics import bbox_iou

from tests.arm import DETECT
from tests.forensics.lab import fingerprint
from yolo_gradsafe.adapter.replay import Replay
from yolo_gradsafe.forensics.bad_operation import fact_words, sentence
from yolo_gradsafe.forensics.operation_trace import find_first_bad_operation
from yolo_gradsafe.forensics.source_line import CodeRoots

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


def smoothed_targets(x):
    logs = x.masked_fill(x > 1, -INF).log_softmax(-1)
    return -(torch.tensor([1.0, 0.0]) * logs).sum()  # here


def many_levels(x):
    total = x.sum()
    for _ in range(40):
        discarded = torch.log(x - x)
        total = total + torch.where(x > 0, torch.sqrt(-x), discarded).sum()  # here
    return total


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
    (exp_overflow, [1000.0, 1.0], "torch.exp", "largest input 1e+03 (float32 holds up to 3.4e+38)"),
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
    (einsum_overflow, [200.0, 200.0], "@", "largest input 4e+04 (float16 holds up to 65504)"),
    (matmul_overflow, [200.0, 200.0], "@", "largest input 200 (float16 holds up to 65504)"),
    (cast_overflow, [7e4, 1.0], "Tensor.half", "largest input 7e+04 (float16 holds up to 65504)"),
    (cumulative_overflow, [3e38, 3e38], "torch.cumsum", "largest input 3e+38 (float32 holds up to 3.4e+38)"),
    (product_overflow, [3e20, 3e20], "Tensor.prod", "largest input 3e+20 (float32 holds up to 3.4e+38)"),
    (logsumexp_of_nothing, [1.0, 2.0], "Tensor.logsumexp", "the row is inf throughout"),
    (nearest_of_none, [[1.0, -2.0], [1.0, 2.0]], "Tensor.min", "1 of 2 rows is inf throughout"),
    (infinite_weight, [[1.0, 2.0]] * 2, "torch.nn.functional.cross_entropy", "1 of 2 weights is inf"),
    (own_bce, [1.0000001, 0.5], "Tensor.log", "1 of 2 inputs is negative"),
    (in_a_loop, [1.0, 2.0, 0.0], "Tensor.log", "the input is 0"),
    (discarded_and_kept, [1.0, 2.0], "torch.sqrt", "all 2 inputs are negative"),
    (minus_itself, [1.0, -2.0], "-", "1 of 2 pairs is 0 × inf or inf - inf"),
    (smoothed_targets, [1.0, 2.0], "*", "1 of 2 pairs is 0 × inf or inf - inf"),
    (many_levels, [1.0, 2.0], "torch.sqrt", "all 2 inputs are negative"),
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


def repaired_too_late(x):
    logs = torch.log(x)  # here
    return torch.nan_to_num(logs, neginf=0.0).sum()


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
    (repaired_too_late, [0.0, 1.0], "torch.log", "1 of 2 inputs is 0"),
    (in_place_root_of_zero, [0.0, 1.0], "Tensor.sqrt_", "1 of 2 inputs is 0"),
    (root_in_a_view, [0.0, 0.0, 1.0], "Tensor.sqrt_", "1 of 2 divisors of its gradient is 0"),
    (
        tiny_divisor,
        [1e-10, 1.0],
        "/",
        "smallest divisor 1e-35, largest value of its gradient 1e+25 (float32 holds up to 3.4e+38)",
    ),
]


@pytest.mark.parametrize(("fault", "values", "operation", "words"), BACKWARD, ids=lambda v: getattr(v, "__name__", ""))
def test_the_line_whose_gradient_is_not_finite(fault, values, operation, words):
    found = check(search(fault, values), fault, operation, words, "backward")
    assert sentence(found).endswith(f"; its gradient there is {'NaN' if found.nan else 'inf'}")
    assert not found.written_backward


def test_a_gradient_that_a_hook_drops_is_not_blamed():
    def two(x):
        y = x * 1
        y.register_hook(lambda gradient: torch.where(torch.tensor([True, False]), gradient, 0.0))
        kept = y[0].sqrt()  # here
        dropped = y[1].sqrt()
        return kept + dropped

    check(search(two, [0.0, 0.0]), two, "Tensor.sqrt", "the input is 0", "backward")


# Autograd functions and hooks of the user's own.


class BadForward(torch.autograd.Function):
    """Divides by 0."""

    @staticmethod
    def forward(ctx, x):
        return x / (x - x)  # here

    @staticmethod
    def backward(ctx, gradient):
        return gradient


class BadBackward(torch.autograd.Function):
    """Divides by 0 in its backward pass."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.clamp(min=0).sqrt()

    @staticmethod
    def backward(ctx, gradient):
        (x,) = ctx.saved_tensors
        return gradient / x.sqrt()  # here


class NumpyBackward(torch.autograd.Function):
    """Leaves PyTorch in its backward pass."""

    @staticmethod
    def forward(ctx, x):
        return x * 2

    @staticmethod
    def backward(ctx, gradient):
        return torch.from_numpy(gradient.numpy() * np.float32("nan"))


def test_a_bad_forward_of_an_autograd_function():
    found = check(
        search(lambda x: BadForward.apply(x).sum(), [1.0, 2.0]), BadForward, "/", "all 2 divisors are 0", "forward"
    )
    assert found.line.function.endswith("forward")


def test_a_bad_backward_of_an_autograd_function():
    result = search(lambda x: BadBackward.apply(x).sum(), [0.0, 2.0])
    found = check(result, BadBackward, "/", "1 of 2 divisors is 0", "backward")
    assert found.written_backward
    assert ", in the backward pass: /, 1 of 2 divisors is 0; its gradient there is inf" in sentence(found)


def test_a_backward_in_numpy_is_named_by_its_method():
    found = search(lambda x: NumpyBackward.apply(x.exp()).sum(), [0.0, 2.0]).operation
    assert found.line.line == inspect.getsourcelines(NumpyBackward.backward)[1]
    assert (found.line.owner, found.written_backward, found.operation) == ("user", True, found.line.function)
    assert found.operation.endswith("backward")
    assert found.nan


def bad_hook(gradient):
    return gradient / (gradient - gradient)  # here


def test_a_hook_on_a_gradient():
    def with_hook(x):
        y = x.exp()
        y.register_hook(bad_hook)
        return y.sum()

    assert check(search(with_hook, [1.0, 2.0]), bad_hook, "/", "all 2 divisors are 0", "backward").written_backward


def test_a_forward_in_numpy_is_seen_where_its_result_is_first_used():
    def with_numpy(x):
        y = torch.from_numpy(np.log(np.array([-1.0, 1.0], dtype=np.float32)))
        return (x * y).sum()  # here

    with np.errstate(invalid="ignore"):
        found = check(search(with_numpy, [1.0, 2.0]), with_numpy, "*", "1 of 2 second inputs is NaN", "forward")
    assert found.given


# Modules.


class SpatialNorm(nn.Module):
    """Divides by its input's norm over height and width."""

    def forward(self, x):
        return x / x.norm(dim=(2, 3), keepdim=True)  # here


def test_a_block_within_a_model():
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), SpatialNorm(), nn.Flatten(), nn.Linear(8, 1))
    nn.init.constant_(model[0].bias, -100.0)
    result = find_first_bad_operation(lambda: model(torch.ones(3, 1, 4, 4)).sum(), model.parameters())
    found = check(result, SpatialNorm, "/", "all 6 divisors are 0", "forward")
    assert (found.bad, found.outputs, found.nan) == (24, 24, True)


def test_a_weight_that_is_not_finite_is_told_where_it_is_first_used():
    model = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 1))
    with torch.no_grad():
        model[2].weight[0, 0] = float("nan")
    found = find_first_bad_operation(lambda: model(torch.ones(3, 2)).sum(), model.parameters()).operation
    assert (found.operation, found.given) == ("torch.nn.functional.linear", True)
    assert "is NaN" in fact_words(found.facts[0])


def test_fp16_overflow_in_the_backward_pass_of_a_scaled_loss():
    def half(x):
        with torch.autocast("cpu", torch.float16):
            y = x[None] @ torch.full((2, 2), 2.0)  # here
        return y.float().sum()

    assert search(half, [1.0, 2.0]).operation is None
    check(
        search(half, [1.0, 2.0], scale=2.0**15),
        half,
        "@",
        "largest value of its gradient 3.28e+04 (float16 holds up to 65504)",
        "backward",
    )
    found = search(lambda x: half(x), [1.0, 2.0], scale=2.0**20).operation
    assert found.direction == "backward"


# What is not finite on purpose, and harmless.


def masked_attention(x):
    scores = (x[:, None] * x).masked_fill(torch.ones(3, 3).triu(1).bool(), -INF)
    return (scores.softmax(-1) @ x).sum()


def mask_as_a_buffer(x):
    mask = torch.full((3, 3), -INF).triu(1)
    return ((x[:, None] * x + mask).softmax(-1) @ x).sum()


def repaired_values(x):
    return torch.nan_to_num(torch.log(torch.zeros(3)), neginf=0.0).sum() + x.sum()


def safe_where(x):
    safe = torch.where(x > 0, x, torch.ones_like(x))
    return torch.where(x > 0, 1 / safe, torch.zeros_like(x)).sum()


def discarded_without_gradient(x):
    with torch.no_grad():
        ratio = x / (x - x)
    return torch.where(torch.isfinite(ratio), ratio, x).sum()


def smallest_so_far(x):
    best = torch.tensor(INF)
    for value in x:
        best = torch.minimum(best, value)
    return best


def padded_topk(x):
    padded = torch.cat((x, torch.full((2,), -INF)))
    return padded.topk(2).values.sum()


def norm_of_zero(x):
    return (x * 0).norm() + torch.atan2(x * 0, x * 0).sum()


def overwritten(x):
    y = torch.empty(3)
    y[:] = torch.log(torch.zeros(3))
    y[:] = x
    return y.sum()


def gradient_repaired_in_time(x):
    y = x * 1
    y.register_hook(torch.nan_to_num)
    return (y - y).sqrt().sum() + x.sum()


def only_shown(x):
    print(torch.log(torch.zeros(3)).mean())
    return x.sum()


@pytest.mark.parametrize(
    "healthy",
    [
        masked_attention, mask_as_a_buffer, repaired_values, safe_where, discarded_without_gradient, smallest_so_far,
        padded_topk, norm_of_zero, overwritten, gradient_repaired_in_time, only_shown,
    ],
)  # fmt: skip
def test_a_finite_pass_blames_nobody(healthy):
    result = search(healthy, [1.0, 2.0, 3.0])
    assert (result.operation, result.reason) == (None, ""), sentence(result.operation)


def test_a_healthy_branch_beside_the_bad_one_is_not_blamed():
    def both(x):
        attention = masked_attention(x)
        discarded = torch.where(x > 0, x, torch.log(x - x)).detach().sum()
        bad = torch.sqrt(-x).sum()  # here
        return attention + discarded + bad

    check(search(both, [1.0, 2.0, 3.0]), both, "torch.sqrt", "all 3 inputs are negative", "forward")


# What it must not do.


def everything_left_behind() -> list[Any]:
    return [
        torch.utils._python_dispatch._get_current_dispatch_mode(),
        torch.overrides._get_current_function_mode(),
        torch.is_anomaly_enabled(),
        torch.is_grad_enabled(),
        torch.get_rng_state().tolist(),
        torch._C._get_graph_executor_optimize(),
    ]


@pytest.mark.parametrize("fault", [root_of_zero, zero_by_zero, mixed_storage, masked_attention])
def test_nothing_is_left_behind(fault):
    before = everything_left_behind()
    x = torch.tensor([0.0, 1.0, 2.0][: 2 if fault is mixed_storage else 3], requires_grad=True)
    alive: list[Any] = []

    def run():
        loss = fault(x)
        alive.append(weakref.ref(loss))
        return loss

    gc.disable()
    try:
        find_first_bad_operation(run, [x])
        assert all(ref() is None for ref in alive)
    finally:
        gc.enable()
    assert everything_left_behind() == before
    assert x.grad is None
    assert not x._backward_hooks


def test_gradients_that_are_there_stay():
    x = torch.tensor([0.0], requires_grad=True)
    x.grad = torch.tensor([7.0])
    assert find_first_bad_operation(lambda: x.sqrt().sum(), [x]).operation
    assert x.grad.tolist() == [7.0]


def test_random_numbers_are_those_of_one_pass():
    kept = []

    def dropped(x):
        logs = torch.log(x - x)
        left = F.dropout(-x, 0.5)
        kept.append(int((left < 0).sum()))
        roots = torch.sqrt(left)  # here
        return torch.where(x > 100, logs, roots).sum()

    torch.manual_seed(3)
    dropped(torch.ones(20))
    after_one = torch.rand(3).tolist()
    torch.manual_seed(3)
    result = search(dropped, [1.0] * 20)
    check(result, dropped, "torch.sqrt", f"{kept[0]} of 20 inputs are negative", "forward")
    assert torch.rand(3).tolist() == after_one
    assert len(kept) > 2
    assert len(set(kept)) == 1


def test_each_pass_is_rewound():
    entered = []

    @contextmanager
    def rewound():
        entered.append("in")
        yield
        entered.append("out")

    search(mixed_storage, [1.0, 2.0], rewound=rewound)
    assert entered == ["in", "out"] * (len(entered) // 2)
    assert len(entered) >= 4


@pytest.mark.parametrize("phase", ["forward", "backward"])
def test_the_time_is_limited(phase):
    def slow(x):
        if phase == "forward":
            time.sleep(0.1)
        y = x * 1
        y.register_hook(lambda gradient: time.sleep(0.1))
        return (y * y).sum()

    result = search(slow, [1.0], seconds=0.08)
    assert (result.operation, result.reason) == (None, "it took too long to check every operation")
    assert everything_left_behind()[:2] == [None, None]


def test_an_except_of_the_user_does_not_hold_up_the_limit():
    def stubborn(x):
        while True:
            try:
                x = x + 1
            except Exception:
                continue

    assert "too long" in search(stubborn, [1.0], seconds=0.05).reason


@pytest.mark.parametrize("phase", ["forward", "backward"])
@pytest.mark.parametrize("error", [torch.cuda.OutOfMemoryError("CUDA out of memory"), MemoryError()])
def test_too_little_memory(error, phase):
    def fail(*_):
        raise error

    def hungry(x):
        y = x * 1
        y.register_hook(fail)
        return fail() if phase == "forward" else y.sum()

    result = search(hungry, [1.0])
    assert (result.operation, result.reason) == (None, "there was not enough memory to check every operation")


def test_too_little_memory_for_the_second_look():
    passes = []

    def hungry(x):
        passes.append(1)
        if len(passes) > 1:
            raise MemoryError
        return mixed_storage(x)

    assert "memory" in search(hungry, [1.0, 2.0]).reason


def test_an_error_of_the_pass_is_told_with_its_line():
    def broken(x):
        p = x + 1
        return F.binary_cross_entropy(p, torch.ones_like(p))  # here

    number, _ = marked(broken)
    result = search(broken, [1.0])
    assert result.operation is None
    assert result.reason.startswith(f"the pass ended with RuntimeError at test_operation_trace.py:{number}: ")


def test_values_that_make_the_pass_fail_are_followed_to_their_origin():
    def broken(x):
        p = torch.log(x)  # here
        return F.binary_cross_entropy(p, torch.ones_like(p))

    check(search(broken, [-1.0, 1.0]), broken, "torch.log", "1 of 2 inputs is negative", "forward")


def test_harmless_values_are_not_blamed_for_an_error_of_another_kind():
    def broken(x):
        hidden = x.masked_fill(x > 1, -INF)
        return hidden @ torch.ones(3)  # here

    result = search(broken, [1.0, 2.0])
    assert result.operation is None
    assert result.reason.startswith(
        f"the pass ended with RuntimeError at test_operation_trace.py:{marked(broken)[0]}: "
    )


def test_an_interrupt_of_the_user_passes():
    def interrupted(x):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        search(interrupted, [1.0])
    assert everything_left_behind()[:2] == [None, None]


def test_a_pass_without_a_loss():
    assert search(lambda x: None, [1.0]).reason == "the pass returned no loss but NoneType"


def test_only_the_forward_pass_without_parameters():
    x = torch.zeros(2, requires_grad=True)
    assert find_first_bad_operation(lambda: x.sqrt().sum()).operation is None
    assert find_first_bad_operation(lambda: (-x - 1).sqrt().sum()).operation


def test_compiled_code_runs_uncompiled():
    def inner(x):
        return torch.log(x - 1)  # here

    compiled = torch.compile(inner, backend="eager")
    compiled(torch.ones(2) * 3)
    check(search(lambda x: compiled(x).sum(), [1.0, 2.0]), inner, "torch.log", "1 of 2 inputs is 0", "forward")


@torch.jit.script
def scripted(x: Tensor) -> Tensor:
    return torch.log(x - 1)


def test_scripted_code_is_seen_from_outside():
    def call(x):
        return scripted(x).sum()  # here

    for _ in range(3):
        scripted(torch.ones(2))
    check(search(call, [1.0, 2.0]), call, "torch.log", "1 of 2 inputs is 0", "forward")


def test_checkpointed_code():
    def inner(x):
        return torch.sqrt(x)  # here

    def outer(x):
        return torch.utils.checkpoint.checkpoint(inner, x * 1, use_reentrant=False).sum()

    check(search(outer, [0.0, 1.0]), inner, "torch.sqrt", "1 of 2 divisors of its gradient is 0", "backward")


# Whose line it is, in real models.


def test_ultralytics_own_line_when_the_user_wrote_none():
    def iou(x):
        return bbox_iou(x, x, CIoU=True, eps=0.0).sum()  # here

    found = search(iou, [[0.5, 0.5, 0.0, 0.0]]).operation
    assert found.line.owner == "user"
    assert (found.within.owner, found.within.function) == ("ultralytics", "bbox_iou")
    assert f":{marked(iou)[0]} (in ultralytics/utils/metrics.py:{found.within.line}): /, " in sentence(found)
    ours = CodeRoots(CodeRoots.installed().ultralytics, (*CodeRoots.installed().libraries, str(Path(__file__).parent)))
    found = search(iou, [[0.5, 0.5, 0.0, 0.0]], roots=ours).operation
    assert (found.line.owner, found.line.function, found.within) == ("ultralytics", "bbox_iou", None)
    assert sentence(found).startswith(f"ultralytics/utils/metrics.py:{found.line.line}: /, ")


class SIoULoss(BboxLoss):
    """With an angle that is 0 / 0 where the centres agree."""

    def forward(self, pred_dist, pred_bboxes, anchors, target_bboxes, *rest):
        iou, dfl = super().forward(pred_dist, pred_bboxes, anchors, target_bboxes, *rest)
        offset = pred_bboxes[..., :2] - pred_bboxes[..., :2].detach()
        distance = offset.abs().sum(-1)
        angle = offset[..., 0] / distance  # here
        return iou + angle.mean(), dfl


class WassersteinLoss(BboxLoss):
    """With a square root whose gradient is inf at 0."""

    def forward(self, pred_dist, pred_bboxes, anchors, target_bboxes, *rest):
        iou, dfl = super().forward(pred_dist, pred_bboxes, anchors, target_bboxes, *rest)
        offset = pred_bboxes - pred_bboxes.detach()
        distance = torch.sqrt((offset**2).sum(-1))  # here
        return iou + (1 - torch.exp(-distance)).mean(), dfl


class ZeroBlock(nn.Module):
    """A block that divides by its own norm."""

    def __init__(self, block):
        super().__init__()
        self.block = block
        self.i, self.f, self.type, self.np = block.i, block.f, block.type, block.np

    def forward(self, x):
        y = self.block(x) * 0
        return y / y.flatten(1).norm(dim=1).view(-1, 1, 1, 1)  # here


def detector(name: str) -> tuple[Any, dict[str, Tensor]]:
    """Return a real model and a batch of two images with three boxes."""
    torch.manual_seed(0)
    model = DetectionModel(name, nc=3, verbose=False)
    model.args = get_cfg()
    boxes = torch.tensor([[0.5, 0.5, 0.4, 0.4], [0.3, 0.3, 0.2, 0.3], [0.6, 0.5, 0.3, 0.2]])
    batch = {"img": torch.rand(2, 3, 64, 64), "batch_idx": torch.tensor([0.0, 0.0, 1.0]), "cls": torch.zeros(3, 1)}
    return model.train(), {**batch, "bboxes": boxes}


def look(model: Any, batch: dict[str, Tensor]) -> Any:
    """Search as the plugin does, whose own frames are nobody's."""
    libraries = CodeRoots.installed().libraries
    return find_first_bad_operation(
        partial(model, batch), model.parameters(), roots=CodeRoots(CodeRoots.installed().ultralytics, libraries)
    )


@pytest.mark.parametrize("name", [DETECT, "yolov8n.yaml"])
def test_terms_and_blocks_of_the_user_in_a_detector(name):
    model, batch = detector(name)
    model(batch)
    losses = (
        [model.criterion]
        if hasattr(model.criterion, "bbox_loss")
        else [model.criterion.one2many, model.criterion.one2one]
    )
    assert look(model, batch).operation is None

    for loss in losses:
        loss.bbox_loss = SIoULoss(loss.reg_max)
    found = check(look(model, batch), SIoULoss, "/", "all 168 divisors are 0", "forward")
    assert found.nan

    for loss in losses:
        loss.bbox_loss = WassersteinLoss(loss.reg_max)
    check(look(model, batch), WassersteinLoss, "torch.sqrt", "all 168 inputs are 0", "backward")

    model.model[4] = ZeroBlock(model.model[4])
    check(look(model, batch), ZeroBlock, "/", "all 2 divisors are 0", "forward")


def test_a_rewound_detector_stays_as_it_is():
    model, batch = detector("yolov8n.yaml")
    model(batch)
    (before, rewound) = (fingerprint(model), Replay(model).rewound)
    for scale in (1.0, 1e38):
        result = find_first_bad_operation(lambda: model(batch), model.parameters(), scale=scale, rewound=rewound)
        assert (result.operation is None) == (scale == 1.0)
        assert result.reason == ""
    assert fingerprint(model) == before


def test_a_plain_detector_names_ultralytics_line():
    model, batch = detector("yolov8n.yaml")
    with torch.no_grad():
        model.model[4].cv1.conv.weight.fill_(3e38)
    found = look(model, batch).operation
    assert (found.line.owner, found.operation, found.within) == ("ultralytics", "torch.nn.functional.conv2d", None)
    assert sentence(found).startswith("ultralytics/nn/modules/conv.py:")
