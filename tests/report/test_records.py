"""Records as a crash leaves them, and the paths by which a run can be named."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from tests.report import scenes
from tests.report.runs import INFO, bad, incident, row, write
from yolo_gradsafe.report.compare import compare, gather
from yolo_gradsafe.report.console import table
from yolo_gradsafe.report.live import look
from yolo_gradsafe.report.parts import ReportError
from yolo_gradsafe.report.records import loss_items, read_steps
from yolo_gradsafe.report.summarize import summarize
from yolo_gradsafe.telemetry import Recorder, RunPaths


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return write(tmp_path / "train", 30, lambda step: bad(step) if step == 5 else row(step), [incident(5), incident(6)])


def cut(path: Path, characters: int) -> None:
    path.write_bytes(path.read_bytes()[:-characters])


@pytest.mark.parametrize("name", ["", "stability", "stability/steps.csv", "stability/run.json", "results.csv"])
def test_a_run_is_known_by_its_folder_or_a_file_in_it(run, name):
    (run / "results.csv").touch()
    assert summarize(run / name).steps.total == 30


def test_a_run_is_known_from_within(run, monkeypatch):
    monkeypatch.chdir(run / "stability")
    assert summarize(Path()).steps.total == 30


def test_a_run_may_be_called_stability(tmp_path):
    assert summarize(write(tmp_path / "stability", 3)).steps.total == 3


@pytest.mark.parametrize("name", ["empty", "missing"])
def test_folder_without_records_is_named(run, name):
    (run / "empty").mkdir()
    with pytest.raises(ReportError, match=name):
        summarize(run / name)


def test_running_or_killed_run(tmp_path):
    summary = summarize(write(tmp_path, 12, info=None, options=None))
    assert (summary.status, summary.health, summary.options) == ("unfinished", "healthy", {})
    assert summary.headline == "Healthy so far: 12 steps, none skipped."
    assert summary.files == ["stability/steps.csv"]


def test_columns_that_earlier_versions_lacked_say_what_these_knew(run):
    path = RunPaths(run).steps
    lines = [line.split(",") for line in path.read_text().splitlines() if '"' not in line]
    later = {lines[0].index(name) for name in ("lr_factor", "update_ratio")}
    old = [",".join(cell for n, cell in enumerate(cells) if n not in later) for cells in lines]
    path.write_text("\n".join(old) + "\n")
    steps = read_steps(RunPaths(run))
    assert steps.height == 29, "all but the one with a list of images"
    assert steps["lr_factor"].unique().to_list() == [1.0]
    assert steps["update_ratio"].is_nan().all()


def test_run_without_steps(tmp_path):
    summary = summarize(write(tmp_path, 0))
    assert summary.headline == "No step was recorded."
    assert summary.files == ["stability/run.json", "stability/options.yaml"]


def test_every_prefix_of_the_steps_can_be_read(tmp_path):
    run = write(tmp_path, 3, lambda step: bad(step) if step == 2 else row(step))
    path = RunPaths(run).steps
    text = path.read_bytes()
    for length in range(len(text) + 1):
        path.write_bytes(text[:length])
        assert read_steps(RunPaths(run)).height == max(0, text[:length].count(b"\n") - 1)


def test_half_a_line_is_left_out(run):
    paths = RunPaths(run)
    cut(paths.steps, 20)
    cut(paths.incidents, 20)
    summary = summarize(run)
    assert (summary.steps.total, len(summary.incidents)) == (29, 1)


def test_half_a_line_costs_a_resumed_run_no_more_than_itself(run):
    paths = RunPaths(run)
    cut(paths.steps, 20)
    recorder = Recorder(run).start(resume=True)
    for step in range(31, 41):
        recorder.step(row(step))
    recorder.flush()
    assert summarize(run).steps.total == 39


def test_an_open_quote_does_not_swallow_what_follows(run):
    path = RunPaths(run).steps
    lines = path.read_text(encoding="utf-8").splitlines()
    lines[5] = lines[5][: lines[5].index('"') + 4]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    assert summarize(run).steps.total == 29


@pytest.mark.parametrize("text", ["", "{", "null", '{"batch": "many"}', "\x00\x00"])
def test_spoilt_run_json_is_as_good_as_none(run, text):
    RunPaths(run).info.write_text(text, encoding="utf-8")
    assert summarize(run).status == "unfinished"


@pytest.mark.parametrize("text", ["", "a: [", "- 1", "just text"])
def test_spoilt_options_are_as_good_as_none(run, text):
    RunPaths(run).options.write_text(text, encoding="utf-8")
    assert summarize(run).options == {}


def test_bytes_that_are_no_text_cost_their_line_only(run):
    path = RunPaths(run).steps
    path.write_bytes(path.read_bytes() + b"\xff\xfe\x00\x00\n")
    assert summarize(run).steps.total == 30


def test_a_table_of_something_else_has_no_steps(run):
    RunPaths(run).steps.write_text("epoch,time\n1,2\n", encoding="utf-8")
    summary = summarize(run)
    assert (summary.steps.total, summary.damaged_steps, len(summary.incidents)) == (0, 1, 2)


@pytest.mark.parametrize("damage", [b'"', b'a"b', b'","', b"\n", b'\n"\n', b'"\n"', b"\x00\xff", b'""x""'])
@pytest.mark.parametrize("place", [0.2, 0.5, 0.97])
def test_damage_in_the_middle_of_the_steps_costs_those_lines(run, damage, place):
    path = RunPaths(run).steps
    data = path.read_bytes()
    header = data.index(b"\n") + 1
    cut_at = header + int(place * (len(data) - header))
    path.write_bytes(data[:cut_at] + damage + data[cut_at:])
    summary = summarize(run)
    assert 26 <= summary.steps.total <= 30
    assert summary.damaged_steps <= 3
    assert (summary.damaged_steps > 0) == ("cannot be read" in table(summary))


def spoil(path: Path, chance: random.Random) -> None:
    """Damage a file as disks and crashes do."""
    data = bytearray(path.read_bytes())
    at = chance.randrange(len(data))
    what = chance.choice(["cut", "flip", "empty", "fill", "quote", "break", "head", "twice"])
    if what == "flip":
        for _ in range(chance.randrange(1, 9)):
            data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    elif what == "fill":
        data[at : at + 40] = chance.randbytes(40)
    elif what in ("quote", "break"):
        data[at:at] = b'"' if what == "quote" else b"\n"
    else:
        data = {"cut": data[:at], "empty": bytearray(), "head": data[at:], "twice": data + data}[what]
    path.write_bytes(bytes(data))


@pytest.mark.parametrize("seed", range(60))
def test_no_damage_costs_the_report(tmp_path, seed):
    run = scenes.healthy(tmp_path / "run", 20)
    write(run, 20, lambda n: bad(n) if n == 9 else row(n), [incident(9), incident(12)])
    scenes.layers(run, 2)
    (run / "results.csv").write_text(scenes.results([0.1, 0.2]), encoding="utf-8")
    (run / "args.yaml").write_text("lr0: 0.01\ndata: a.yaml\n", encoding="utf-8")
    paths, chance = RunPaths(run), random.Random(seed)
    files = [
        paths.steps,
        paths.layers,
        paths.incidents,
        paths.info,
        paths.options,
        run / "results.csv",
        run / "args.yaml",
    ]
    for path in chance.sample(files, chance.choice([1, 2, len(files)])):
        spoil(path, chance)
    try:
        summary = summarize(run)
    except ReportError as error:  # a flipped digit may make it the record of a newer version
        if "newer gradsafe" in str(error):
            return
        raise
    assert table(summary)
    assert look(paths).summary.headline == summary.headline
    compare(gather([run, run]))


def test_loss_items_are_those_of_the_task(tmp_path):
    run = write(tmp_path, 3, lambda step: row(step, items={"giou_loss": 1.0, "l1_loss": float("nan")}))
    steps = read_steps(RunPaths(run))
    assert loss_items(steps) == ["giou_loss", "l1_loss"]
    assert steps["giou_loss"].to_list() == [1.0, 1.0, 1.0]


def test_fields_of_a_later_version_are_ignored(run):
    path = RunPaths(run).incidents
    entry = {**json.loads(path.read_text(encoding="utf-8").splitlines()[0]), "colour": "red"}
    path.write_text(json.dumps(entry) + "\n", encoding="utf-8")
    assert len(summarize(run).incidents) == 1


def test_a_file_name_that_is_no_unicode_keeps_its_incident(tmp_path):
    run = write(tmp_path, 9, incidents=[incident(3, images=["/data/\udcff.jpg"])])
    summary = summarize(run)
    assert summary.incidents[0].images == ["/data/?.jpg"]
    summary.save(run / "stability.json")
    assert INFO.model in (run / "stability.json").read_text(encoding="utf-8")
