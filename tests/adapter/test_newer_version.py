"""An Ultralytics that is newer than we know: training runs as stock, is said to be only observed, and is recorded."""

from __future__ import annotations

import math

import pytest

from tests.arm import Arm, Result, run_arm

# The installed trainer with some of its source replaced, as a newer release might have it.
NEWER = """
import types
from pathlib import Path
from ultralytics.engine import trainer as engine
source = Path(engine.__file__).read_text()
for old, new in {changes}.items():
    assert old in source, old
    source = source.replace(old, new)
path = Path("newer_trainer.py").resolve()
path.write_text(source)
newer = dict(vars(engine))
exec(compile(source, str(path), "exec"), newer)
methods = {{k: v for k, v in vars(newer["BaseTrainer"]).items() if isinstance(v, types.FunctionType)}}
for name in [k for k, v in vars(engine.BaseTrainer).items() if isinstance(v, types.FunctionType)]:
    delattr(engine.BaseTrainer, name)
for name, method in methods.items():
    setattr(engine.BaseTrainer, name, method)
"""
STEP = {"max_norm=10.0": "max_norm=10.0, norm_type=2.0"}
"""Another body of ``optimizer_step``, with the same arithmetic."""
LESS_KNOWN = {
    "attribute": ({"self.tloss": "self.mean_loss"}, "trainer.tloss is missing"),
    "method": (
        {"_handle_nan_recovery": "_recover_from_nan"},
        "trainer._handle_nan_recovery cannot be called as before",
    ),
    "event": (
        {'self.run_callbacks("on_train_batch_start")': "pass"},
        "the training loop does not call on_train_batch_start in the known order",
    ),
    "loop": (
        {'self.run_callbacks("on_train_batch_end")': "pass"},
        "does not call on_train_batch_end in the known order",
    ),
}
ARGS = {"epochs": 2}
OBSERVED = "GradSafe only observes this training"


def arm(drawn, changes, **kwargs) -> Arm:
    return Arm(str(drawn["detect"]), args=ARGS, guard={}, code=NEWER.format(changes=changes), **kwargs)


def assert_stock(result: Result, stock: Result) -> None:
    assert result.error == stock.error
    assert result.digests == stock.digests
    assert result.losses() == stock.losses()
    assert "internal error" not in result.log


@pytest.fixture(scope="module")
def stock(drawn, tmp_path_factory):
    """The training without the plugin."""
    return run_arm(Arm(str(drawn["detect"]), args=ARGS), tmp_path_factory.mktemp("stock"))


def test_a_step_that_changed_is_observed_and_a_nan_does_what_it_does_in_stock(train, drawn):
    stock = train(Arm(str(drawn["detect"]), args=ARGS, nan_pixel=[(2, 1)]), "stock")
    result = train(arm(drawn, STEP, nan_pixel=[(2, 1)]), "guarded")
    assert_stock(result, stock)
    assert result.log.count("it does not clip by your options") == 1
    assert "the code of BaseTrainer.optimizer_step is unknown" in result.log
    told, *bad = result.incidents()
    assert (told["kind"], told["epoch"], told["action"]) == ("observe_only", 0, f"{OBSERVED} and changes nothing")
    assert {incident["kind"] for incident in bad} <= {"bad_batch", "poisoned", "native_recovery"}
    assert bad[0]["action"] == "did nothing: recovery.enabled is false"
    assert 4 <= len(result.steps) <= 2 * (1 + len(stock.fired)), "Ultralytics redoes the epoch until it gives up"
    assert 0 < float(result.steps[0]["grad_norm"]) < math.inf
    assert {row["threshold"] for row in result.steps} == {"inf"}


@pytest.mark.parametrize(
    "what", ["attribute", *(pytest.param(what, marks=pytest.mark.slow) for what in LESS_KNOWN if what != "attribute")]
)
def test_a_part_that_is_gone_or_elsewhere(train, drawn, stock, what):
    changes, message = LESS_KNOWN[what]
    result = train(arm(drawn, changes))
    assert result.error == ""
    assert_stock(result, stock)
    assert result.log.count("it does not clip by your options") == 1
    assert message in result.log
    warnings = [line for line in result.log.splitlines() if "WARNING" in line and OBSERVED in line]
    assert len(warnings) == 1, "one event, one warning"
    assert [incident["kind"] for incident in result.incidents()] == ["observe_only"]
    assert len(result.steps) == 4
    assert all(0 < float(row["grad_norm"]) < math.inf for row in result.steps)
    assert (result.run / "stability.json").is_file()


@pytest.mark.slow
def test_what_cannot_even_be_observed_trains_without_the_guard(train, drawn, stock):
    result = train(arm(drawn, {"optimizer_step": "take_step"}))
    assert result.error == ""
    assert_stock(result, stock)
    assert result.log.count("this training runs as plain Ultralytics, without a guard") == 1
    assert "trainer.optimizer_step is missing" in result.log
    assert not (result.run / "stability").exists()
