"""The sentence about a bad operation."""

from __future__ import annotations

from dataclasses import replace

import pytest

from yolo_gradsafe.forensics.bad_operation import BadOperation, Fact, fact_words, sentence
from yolo_gradsafe.forensics.source_line import SourceLine

ROOT = BadOperation(
    operation="torch.sqrt",
    kernel="aten.sqrt",
    direction="backward",
    line=SourceLine("/home/me/my_loss.py", 31, "return torch.sqrt(d)", "Loss.forward", "user"),
    within=None,
    facts=(Fact("zero", count=3, total=412),),
    bad=3,
    outputs=412,
    nan=False,
)
METRICS = SourceLine("/env/lib/ultralytics/utils/metrics.py", 112, "a / b", "bbox_iou", "ultralytics")
FUNCTIONAL = SourceLine("/env/lib/torch/nn/functional.py", 9, "torch.layer_norm(x)", "layer_norm", "library")


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({}, "my_loss.py:31: torch.sqrt, 3 of 412 inputs are 0; its gradient there is inf"),
        ({"nan": True}, "my_loss.py:31: torch.sqrt, 3 of 412 inputs are 0; its gradient there is NaN"),
        (
            {"direction": "forward", "nan": True, "facts": (Fact("negative", count=1, total=412),), "bad": 1},
            "my_loss.py:31: torch.sqrt, 1 of 412 inputs is negative; 1 of 412 results is NaN",
        ),
        ({"direction": "forward", "bad": 412, "facts": ()}, "my_loss.py:31: torch.sqrt; all 412 results are inf"),
        ({"direction": "forward", "bad": 1, "outputs": 1, "facts": ()}, "my_loss.py:31: torch.sqrt; the result is inf"),
        (
            {"within": METRICS, "facts": ()},
            "my_loss.py:31 (in ultralytics/utils/metrics.py:112): torch.sqrt; its gradient there is inf",
        ),
        (
            {"line": METRICS},
            "ultralytics/utils/metrics.py:112: torch.sqrt, 3 of 412 inputs are 0; its gradient there is inf",
        ),
        ({"line": FUNCTIONAL, "facts": ()}, "torch/nn/functional.py:9: torch.sqrt; its gradient there is inf"),
        (
            {"written_backward": True, "facts": ()},
            "my_loss.py:31, in the backward pass: torch.sqrt; its gradient there is inf",
        ),
        (
            {"line": replace(ROOT.line, file="<stdin>"), "facts": ()},
            "<stdin>:31: torch.sqrt; its gradient there is inf",
        ),
    ],
)
def test_sentence(changes, text):
    assert sentence(replace(ROOT, **changes)) == text


@pytest.mark.parametrize(
    ("fact", "words"),
    [
        (Fact("zero", "divisors", 1, 1), "the divisor is 0"),
        (Fact("zero", "divisors of its gradient", 1, 1), "the divisor of its gradient is 0"),
        (Fact("zero", "divisors", 2, 2), "all 2 divisors are 0"),
        (Fact("outside", count=1, total=5), "1 of 5 inputs is outside -1 to 1"),
        (Fact("edge", count=2, total=5), "2 of 5 inputs are 1 or -1"),
        (Fact("minus_one", count=2, total=5), "2 of 5 inputs are -1 or less"),
        (Fact("all_inf", "rows", 1, 4), "1 of 4 rows is inf throughout"),
        (Fact("constant", "rows", 4, 4), "all 4 rows are constant"),
        (Fact("undefined", "pairs", 2, 4), "2 of 4 pairs are 0 × inf or inf - inf"),
        (Fact("empty"), "its input is empty"),
        (Fact("single"), "its input has one element, and a standard deviation takes two"),
        (Fact("largest", value=7e4, dtype="float16"), "largest input 7e+04 (float16 holds up to 65504)"),
        (Fact("largest", value=7e4, dtype="float8_e5m2"), "largest input 7e+04"),
        (Fact("smallest", "divisors", value=1e-30), "smallest divisor 1e-30"),
        (Fact("nan", "weights", 1, 4), "1 of 4 weights is NaN"),
    ],
)
def test_fact_words(fact, words):
    assert fact_words(fact) == words
