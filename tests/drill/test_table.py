"""The table and the lists."""

from __future__ import annotations

from dataclasses import replace

from tests.drill.test_judgement import CLEAN, FINITE, GOOD
from yolo_gradsafe.drill.case import FULL, QUICK, Case, clean_arm, faulty_arm
from yolo_gradsafe.drill.catalogue import QUICK_SET, SCENARIOS, SMALL_SET
from yolo_gradsafe.drill.judgement import Judgement
from yolo_gradsafe.drill.matrix import cover, matrix
from yolo_gradsafe.drill.scenario import OPTIMIZERS, PRECISIONS, TASKS
from yolo_gradsafe.drill.table import Row, outcome_words, table

CASE = Case("nan-pixel")


def test_rows_are_aligned_and_failures_named():
    dead = replace(GOOD, not_finite={**FINITE, "ema": 2}, spoiled_saves=2, epochs_redone=3, map50=0.0)
    rows = [
        Row(CASE, dead, GOOD, CLEAN, Judgement(True, ()), True),
        Row(Case("nan-loss", "pose"), GOOD, dead, CLEAN, Judgement(False, ("epochs redone: 3",)), True),
    ]
    lines = table(rows).splitlines()
    assert len({len(line) for line in lines[:4]}) == 1
    assert "not finite: ema; zero-filled saves: 2; epochs redone: 3; mAP50 0.00" in lines[2]
    assert lines[2].split("|")[-2].strip() == "yes"
    assert lines[-2:] == ["1 of 2 cases passed.", "- nan-loss-pose-fp32-AdamW: epochs redone: 3"]


def test_an_error_cannot_break_the_table():
    words = outcome_words(replace(GOOD, error="RuntimeError: a|b\x1b[31m"), CLEAN, True)
    row = Row(CASE, replace(GOOD, error="a|b\x1b[31m"), GOOD, CLEAN, Judgement(True, ()), True)
    assert words.startswith("died: RuntimeError")
    assert "\x1b" not in table([row])
    assert "a\\|b" in table([row])


def test_the_catalogue():
    assert len(SCENARIOS) >= 24
    assert set(SMALL_SET) | set(QUICK_SET) <= set(SCENARIOS)
    places = {scenario.place for scenario in SCENARIOS.values()}
    assert places >= {"data", "forward", "loss", "gradient", "weights", "buffers", "optimizer", "ema", "scaler"}
    for scenario in SCENARIOS.values():
        assert len(scenario.description) > 20
        assert list(matrix([scenario], TASKS, PRECISIONS, OPTIMIZERS)), "it fits somewhere"
    assert len(list(matrix(SCENARIOS.values(), TASKS, PRECISIONS, OPTIMIZERS))) > 24 * 2 * 3 * 3


def test_arms_of_a_case_differ_by_the_fault_and_the_guard_alone(tmp_path):
    scenario = SCENARIOS["diverging-musgd"]
    case = Case("diverging-musgd", optimizer="MuSGD")
    clean = clean_arm(case, scenario, FULL, tmp_path, seed=0)
    stock, guarded = (faulty_arm(case, scenario, FULL, tmp_path, guard) for guard in (False, True))
    assert {**clean.arguments, "lr0": 1.0} == stock.arguments == guarded.arguments
    assert (stock.guarded, guarded.guarded) == (False, True)
    assert clean.drawn == stock.drawn
    other = clean_arm(Case("nan-micro-batches"), SCENARIOS["nan-micro-batches"], QUICK, tmp_path, seed=0)
    assert (other.arguments["nbs"], other.arguments["epochs"]) == (16, QUICK.epochs)
    assert other.folder != clean_arm(CASE, SCENARIOS["nan-pixel"], QUICK, tmp_path, seed=0).folder


def test_few_cases_meet_everything():
    cases = list(matrix(SCENARIOS.values(), TASKS, PRECISIONS, OPTIMIZERS))
    few = list(cover(cases))
    assert len(few) < len(cases) / 4
    for fault in SCENARIOS:
        every, chosen = ([case for case in group if case.fault == fault] for group in (cases, few))
        for field in ("task", "precision", "optimizer"):
            assert {getattr(case, field) for case in chosen} == {getattr(case, field) for case in every}
    assert len({(case.task, case.precision, case.optimizer) for case in few}) > 12
