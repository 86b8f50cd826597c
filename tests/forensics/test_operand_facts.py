"""What an operation was fed."""

from __future__ import annotations

import pytest
import torch

from yolo_gradsafe.forensics.bad_operation import fact_words
from yolo_gradsafe.forensics.operand_facts import operand_facts

INF, NAN = float("inf"), float("nan")


def t(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float32)


@pytest.mark.parametrize(
    ("kernel", "operands", "words"),
    [
        ("div", {"self": t(1), "other": torch.tensor([0, 2])}, "1 of 2 divisors is 0"),
        ("div", {"self": t(1), "other": 0}, "the divisor is 0"),
        ("div", {"self": t(3e38), "other": t(1e-3, -1)}, "smallest divisor 0.001, largest input 3e+38"),
        ("remainder", {"self": t(1), "other": t(0)}, "the divisor is 0"),
        ("rsqrt", {"self": t(0, -1, -2)}, "1 of 3 inputs is 0, 2 of 3 inputs are negative"),
        ("log2", {"self": t(0, 1)}, "1 of 2 inputs is 0"),
        ("asin", {"self": t(1.5, 1)}, "1 of 2 inputs is outside -1 to 1"),
        ("atanh", {"self": t(1, 0)}, "1 of 2 inputs is 1 or -1"),
        ("pow", {"self": t(0, 2), "exponent": -1}, "1 of 2 inputs is 0"),
        ("pow", {"self": t(-1, 2), "exponent": t(0.5, 2)}, "1 of 2 inputs is negative"),
        ("pow", {"self": t(0, 3e20), "exponent": 2}, "largest input 3e+20"),
        ("mul", {"self": t(0, 1), "other": t(INF, INF)}, "1 of 2 pairs is 0 × inf or inf - inf"),
        ("sub", {"self": t(INF), "other": t(INF)}, "the pair is 0 × inf or inf - inf"),
        ("mean", {"self": torch.empty(0)}, "its input is empty"),
        (
            "std",
            {"self": torch.ones(3, 1), "dim": [1]},
            "its input has one element, and a standard deviation takes two",
        ),
        ("std", {"self": t(3e38, -3e38)}, "largest input 3e+38"),
        ("softmax", {"self": torch.full((2, 3), -INF), "dim": -1}, "all 2 rows are inf throughout"),
        ("logsumexp", {"self": torch.full((2, 3), -INF), "dim": [0, 1]}, "the row is inf throughout"),
        ("amax", {"self": torch.tensor([[-INF, 1], [-INF, -INF]]), "dim": [-1]}, "1 of 2 rows is inf throughout"),
        (
            "native_layer_norm",
            {"input": torch.tensor([[1.0, 1], [1, 2]]), "normalized_shape": [2], "eps": 0.0},
            "1 of 2 rows is constant",
        ),
        (
            "native_layer_norm",
            {"input": torch.tensor([[1.0, 1], [1, 3e38]]), "normalized_shape": [2], "eps": 1e-5},
            "largest input 3e+38",
        ),
        ("conv", {"input": t(1), "weight": t(NAN, INF)}, "1 of 2 weights is NaN, 1 of 2 weights is inf"),
        ("batch_norm", {"input": t(9), "running_mean": t(NAN), "training": True}, "largest input 9"),
        ("batch_norm", {"input": t(9), "running_mean": t(NAN)}, "the value of running_mean is NaN"),
        ("cat", {"tensors": [t(1), t(5, NAN)]}, "1 of 2 inputs is NaN"),
        ("cat", {"tensors": [t(1), t(-5)]}, "largest input 5"),
        ("mm", {"self": t(3).to(torch.float8_e5m2)}, "largest input 3"),
        ("full", {"size": [2], "fill_value": INF}, ""),
    ],
)
def test_forward(kernel, operands, words):
    assert ", ".join(map(fact_words, operand_facts(kernel, operands))) == words


@pytest.mark.parametrize(
    ("kernel", "operands", "words"),
    [
        ("sqrt", {"result": t(0, 1)}, "1 of 2 inputs is 0"),
        ("pow", {"self": t(0, 1), "exponent": 0.5}, "1 of 2 inputs is 0"),
        ("pow", {"self": t(0, 1), "exponent": 0}, "largest input 1"),
        ("asin", {"self": t(-1, 0)}, "1 of 2 inputs is 1 or -1"),
        ("exp", {"result": t(INF, 0)}, "1 of 2 results is inf"),
        ("reciprocal", {"result": t(INF, 0)}, "1 of 2 results is inf"),
        ("div", {"other": t(0, 1)}, "1 of 2 divisors is 0"),
        ("sqrt", {}, ""),
    ],
)
def test_backward(kernel, operands, words):
    assert ", ".join(map(fact_words, operand_facts(kernel, operands, backward=True))) == words


def test_the_type_that_a_value_has_to_fit_into():
    (fact,) = operand_facts("to_copy", {"self": t(7e4)}, dtype="float16")
    assert fact_words(fact) == "largest input 7e+04 (float16 holds up to 65504)"
