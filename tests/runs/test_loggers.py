"""What real loggers get of a real run, through Ultralytics' own integrations and beside them."""

from __future__ import annotations

import importlib.util
import json
import math
import struct
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import ultralytics
from ultralytics.utils.checks import parse_version

from tests.arm import Arm, Result
from yolo_gradsafe.telemetry.epoch_log import EpochLog

STEPS = {"loggers": {"steps": True, "every": 4}}
EPOCHS = [1, 2, 3]


def needs(package: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(not importlib.util.find_spec(package), reason=f"the dev extra brings {package}")


def column(result: Result, name: str) -> list[tuple[int, float]]:
    """Return a column of ``results.csv`` as points over the epoch."""
    return [(int(row["epoch"]), float(row[name])) for row in result.results]


def step_points(result: Result) -> list[int]:
    """Return the steps at which four more had gathered, and the last."""
    steps = [int(row["step"]) for row in result.steps]
    return [*steps[3::4], *([steps[-1]] if len(steps) % 4 else [])]


def close(points: list[tuple[int, float]]) -> Any:
    return [(step, pytest.approx(value, rel=1e-4)) for step, value in points]


COLUMNS = list(EpochLog().columns())


def equal_to_stock(train: Any, arm: dict[str, Any], guard: dict[str, Any]) -> Result:
    """Train an arm with a guard and without it; return the guarded one, whose weights and losses are stock's."""
    stock, result = train(Arm(**arm), "stock"), train(Arm(**arm, guard=guard), "guarded")
    assert result.error == stock.error
    assert result.digests == stock.digests
    assert result.losses() == stock.losses()
    return result


def scalars(run: Path) -> dict[str, list[tuple[int, float]]]:
    """Return what TensorBoard has of a run, as points over epoch or step, by tag."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run)).Reload()
    return {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


# TensorBoard --------------------------------------------------------------------------------------------------------


NO_GRAPH = """
import ultralytics.utils.callbacks.tensorboard as integration
integration._log_tensorboard_graph = lambda trainer: None
"""
"""Tracing the model for a picture of it takes longer than the training."""


@needs("tensorboard")
def test_tensorboard_gets_epochs_and_steps_and_the_weights_stay_stocks(train, drawn):
    result = equal_to_stock(train, {"data": str(drawn["detect"]), "loggers": ["tensorboard"], "code": NO_GRAPH}, STEPS)
    assert result.error == ""
    drawn_over = scalars(result.run)
    for name in COLUMNS:
        assert drawn_over[name] == close(column(result, name))
    assert drawn_over["gradsafe/incidents"] == [(epoch, 0.0) for epoch in EPOCHS]

    points = step_points(result)
    stages = [f"gradsafe_steps/{name}" for name in result.steps[0] if name.startswith("norm/")]
    assert len(stages) > 3
    for name in ("gradsafe_steps/grad_norm", "gradsafe_steps/threshold", "gradsafe_steps/verdict/clipped", *stages):
        assert [step for step, _ in drawn_over[name]] == points
    norms = [float(row["grad_norm"]) for row in result.steps]
    assert drawn_over["gradsafe_steps/grad_norm_max"][0] == (4, pytest.approx(max(norms[:4]), rel=1e-4))
    clipped = sum(count for _, count in drawn_over["gradsafe_steps/verdict/clipped"])
    assert clipped == sum(row["verdict"] == "clipped" for row in result.steps)


# What reads only trainer.metrics ------------------------------------------------------------------------------------

RAY = """
import json, sys, types
told, seen, left = [], [], []
report = lambda values: told.append({k: float(v) for k, v in values.items()})
tune = types.SimpleNamespace(
    get_context=lambda: types.SimpleNamespace(get_trial_id=lambda: "trial"), report=report)
session = types.SimpleNamespace(report=report, get_session=lambda: True)
ray = types.ModuleType("ray")
ray.tune, ray.train = tune, types.SimpleNamespace(_internal=types.SimpleNamespace(session=session))
air = types.ModuleType("ray.air")
air.session = session
sys.modules.update({"ray": ray, "ray.air": air})

def keys(trainer):
    return sorted(k for k in trainer.metrics if k.startswith("gradsafe/"))

def fit(trainer):
    seen.append(keys(trainer))

def start(trainer):
    left.append(keys(trainer))

def end(trainer):
    left.append(keys(trainer))
    open(trainer.save_dir / "told.json", "w").write(json.dumps({"told": told, "seen": seen, "left": left}))

callbacks.setdefault("on_fit_epoch_end", []).append(fit)
callbacks.setdefault("on_train_epoch_start", []).append(start)
callbacks.setdefault("teardown", []).append(end)
"""
"""The part of Ray Tune's API that Ultralytics' integration calls; a callback of the user's that looks, too."""
KEYS = sorted([*COLUMNS, "gradsafe/incidents"])


def test_ray_tune_gets_its_keys_and_results_csv_does_not_shift(train, drawn):
    arm = Arm(
        str(drawn["detect"]),
        args={"val": False},  # trainer.metrics is then not made anew for each epoch
        guard={},
        nan_pixel=[(2, 1)],
        loggers=["raytune"],
        code=RAY,
    )
    result = train(arm)
    assert result.error == ""
    said = json.loads((result.run / "told.json").read_text())

    # Ultralytics reports the final validation as one epoch more, or as the last once more.
    trained = said["told"][:3]
    assert [int(report["epoch"]) for report in trained] == EPOCHS
    for name in COLUMNS:
        assert [(int(report["epoch"]), report[name]) for report in trained] == close(column(result, name))
    assert [report["gradsafe/incidents"] for report in trained] == [0.0, 1.0, 0.0]
    assert said["seen"][:3] == [KEYS] * 3
    assert not any("gradsafe/skipped" in report for report in said["told"][3:])
    assert said["left"] == [[]] * 4, "at each epoch's start and at the end they are gone"

    lines = (result.run / "results.csv").read_text().splitlines()
    assert len({line.count(",") for line in lines}) == 1, "results.csv stays rectangular"
    assert "gradsafe/incidents" not in lines[0]


# MLflow -------------------------------------------------------------------------------------------------------------

MLFLOW = """
import os, pathlib
os.environ["MLFLOW_TRACKING_URI"] = pathlib.Path("store").resolve().as_uri()
os.environ["MLFLOW_ALLOW_FILE_STORE"] = os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
"""


def stored(run: Path) -> Path:
    """Return where MLflow keeps a run."""
    (found,) = (path.parent for path in (run.parent / "store").glob("*/*/params"))
    return found


def curve(run: Path, name: str) -> list[tuple[int, float]]:
    """Return the points of a metric that MLflow keeps of a run."""
    lines = [line.split() for line in (run / "metrics" / name).read_text().splitlines()]
    return [(int(step), float(value)) for _, value, step in (line[:3] for line in lines)]


@needs("mlflow")
@pytest.mark.slow
def test_mlflow_gets_epochs_steps_and_the_summary(train, drawn):
    result = train(
        Arm(str(drawn["detect"]), args={"plots": True}, guard=STEPS, loggers=["mlflow"], code=MLFLOW), "mlflow"
    )
    assert result.error == ""
    run = stored(result.run)
    shifted = [(epoch - 1, value) for epoch, value in column(result, "gradsafe/grad_norm_max")]
    assert curve(run, "gradsafe/grad_norm_max") == close(shifted), "Ultralytics counts from 0 here"
    assert [step for step, _ in curve(run, "gradsafe_steps/grad_norm")] == step_points(result)
    assert [step for step, _ in curve(run, "gradsafe_steps/norm/backbone")] == step_points(result)
    uploaded = {path.name for path in (run / "artifacts").rglob("*")}
    assert {"stability.yaml", "stability.png", "results.csv"} <= uploaded


LOST = (
    MLFLOW
    + """
def lose(trainer):
    import mlflow, shutil
    if trainer.epoch == 1:
        run = mlflow.active_run().info
        for functions in trainer.callbacks.values():  # Ultralytics' own calls would fail, too
            functions[:] = [function for function in functions if "mlflow" not in str(function.__module__)]
        shutil.rmtree(pathlib.Path("store") / run.experiment_id / run.run_id)
callbacks.setdefault("on_train_epoch_start", []).append(lose)
"""
)


@needs("mlflow")
@pytest.mark.slow
def test_a_run_that_is_lost_under_way_costs_one_warning(train, drawn):
    guard = {"loggers": {"steps": True, "every": 1}}
    result = train(Arm(str(drawn["detect"]), guard=guard, loggers=["mlflow"], code=LOST), "lost")
    assert result.error == ""
    assert len(result.results) == 3
    assert result.log.count("MLflow failed, so no more steps are sent to it") == 1
    assert not result.incidents()


# W&B ----------------------------------------------------------------------------------------------------------------

WANDB = """
import os
os.environ.update(WANDB_MODE="offline", WANDB_SILENT="true", WANDB_DIR=".", WANDB_ERROR_REPORTING="false")
"""


def records(run: Path) -> Iterator[Any]:
    """Read W&B's offline file: 7 bytes of header, then LevelDB's log format around protobuf records."""
    from wandb.proto.wandb_internal_pb2 import Record

    (path,) = run.glob("wandb/offline-run-*/run-*.wandb")
    data, at, part = path.read_bytes(), 7, b""
    while at + 7 <= len(data):
        if 32768 - at % 32768 < 7:  # what is too short for a header pads its block
            at += 32768 - at % 32768
            continue
        _, length, kind = struct.unpack("<IHB", data[at : at + 7])
        part += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # a whole record, or the last piece of one
            yield Record.FromString(part)
            part = b""


def history(record: Any) -> dict[str, Any]:
    """Return the row of a record; empty where it is none."""
    items = record.history.item if record.HasField("history") else ()
    return {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in items}


@needs("wandb")
@pytest.mark.skipif(parse_version(ultralytics.__version__) < (8, 4, 184), reason="W&B's rows are numbered by the epoch")
@pytest.mark.slow
def test_wandb_gets_epochs_and_steps_each_on_its_axis(train, drawn):
    result = train(Arm(str(drawn["detect"]), guard=STEPS, loggers=["wandb"], code=WANDB), "wandb")
    assert result.error == ""
    read = list(records(result.run))
    axes = {record.metric.glob_name: record.metric.step_metric for record in read if record.HasField("metric")}
    rows = [row for record in read if (row := history(record))]
    assert axes["gradsafe/*"] == axes["train/*"] == "epoch"
    assert axes["gradsafe_steps/*"] == "gradsafe_step"
    epochs = [row for row in rows if "gradsafe/grad_norm" in row]
    for name in COLUMNS:
        assert [(row["epoch"], row[name]) for row in epochs] == close(column(result, name))
    assert all(math.isfinite(row["train/box_loss"]) and "gradsafe/incidents" in row for row in epochs)
    steps = [row for row in rows if "gradsafe_steps/grad_norm" in row]
    assert [row["gradsafe_step"] for row in steps] == step_points(result)
    assert not any("epoch" in row for row in steps), "no step is mixed into an epoch's row"


# Ultralytics' Platform ----------------------------------------------------------------------------------------------


class Platform(ThreadingHTTPServer):
    """A stand-in for the Platform's server: remembers the events, and what was uploaded."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Answers)
        self.events: list[tuple[str, dict[str, Any]]] = []
        self.uploads: list[bytes] = []
        self.url = f"http://127.0.0.1:{self.server_address[1]}"

    def told(self, event: str) -> list[dict[str, Any]]:
        """Return the data of all events of a name."""
        return [data for name, data in self.events if name == event]


class _Answers(BaseHTTPRequestHandler):
    server: Platform

    def do_POST(self) -> None:
        sent = json.loads(self._content() or b"{}")
        if "event" in sent:
            self.server.events.append((sent["event"], sent["data"]))
        self._answer(
            {"modelId": "m", "runId": "r", "uploadUrl": f"{self.server.url}/upload", "gcsPath": "gs://best.pt"}
        )

    def do_PUT(self) -> None:
        self.server.uploads.append(self._content())
        self._answer({})

    def _content(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def _answer(self, values: dict[str, Any]) -> None:
        said = json.dumps(values).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(said)))
        self.end_headers()
        self.wfile.write(said)

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@pytest.fixture
def platform() -> Iterator[Platform]:
    with Platform() as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


@needs("ultralytics_platform")
@pytest.mark.slow
def test_the_platform_gets_each_column_once_an_epoch_and_the_best_model_at_the_end(train, drawn, platform):
    code = f"""
import os
os.environ["ULTRALYTICS_API_KEY"] = "key"
from ultralytics.utils.callbacks import platform
platform.PLATFORM_URL, platform.TESTS_RUNNING = "{platform.url}", False
"""
    arm = {"data": str(drawn["detect"]), "loggers": ["platform"], "code": code}
    stock = train(Arm(**arm), "stock")
    assert len(platform.told("epoch_end")) == 4, "stock talks to it, also of the last validation"
    before = len(platform.uploads)
    platform.events.clear()
    result = train(Arm(**arm, guard={}, nan_pixel=[(2, 1)]), "guarded")
    assert stock.error == result.error == ""
    epochs = [told for told in platform.told("epoch_end") if COLUMNS[0] in told["metrics"]]
    epochs.sort(key=lambda told: told["epoch"])
    assert [told["epoch"] for told in epochs] == [0, 1, 2]
    for name in COLUMNS:
        assert [(told["epoch"] + 1, told["metrics"][name]) for told in epochs] == close(column(result, name))
    assert [told["metrics"]["gradsafe/incidents"] for told in epochs] == [0.0, 1.0, 0.0]
    assert platform.uploads[before:] == [(result.run / "weights" / "best.pt").read_bytes()]
    (complete,) = platform.told("training_complete")
    assert complete["results"]["modelPath"] == "gs://best.pt"
    assert not any(name.startswith("gradsafe") for name in complete["results"]["metrics"]), "they are of an epoch"


# Several at once ----------------------------------------------------------------------------------------------------


@needs("wandb")
@needs("mlflow")
@needs("tensorboard")
@pytest.mark.slow
def test_three_at_once_each_get_all_of_it_and_the_weights_stay_stocks(train, drawn):
    arm = {
        "data": str(drawn["detect"]),
        "loggers": ["tensorboard", "mlflow", "wandb"],
        "code": NO_GRAPH + MLFLOW + WANDB,
    }
    result = equal_to_stock(train, arm, STEPS)
    assert result.error == ""
    drawn_over, rows = scalars(result.run), [row for record in records(result.run) if (row := history(record))]
    for name in COLUMNS:
        expected = close(column(result, name))
        assert drawn_over[name] == expected
        assert [(row["epoch"], row[name]) for row in rows if name in row] == expected
        assert [(epoch + 1, value) for epoch, value in curve(stored(result.run), name)] == expected


# Trackers that the dev extra does not bring: `make trackers` ---------------------------------------------------------


@needs("comet_ml")
@pytest.mark.slow
def test_comet_gets_each_column_once_an_epoch(train, drawn):
    code = "import os; os.environ.update(COMET_START_ONLINE='0', COMET_OFFLINE_DIRECTORY='comet')"
    result = train(Arm(str(drawn["detect"]), guard={}, loggers=["comet"], code=code), "comet")
    assert result.error == ""
    (archive,) = (result.run.parent / "comet").glob("*.zip")
    lines = [json.loads(line) for line in zipfile.ZipFile(archive).read("messages.json").splitlines()]
    metrics = [line["payload"]["metric"] for line in lines if line["type"] == "metric_msg"]
    for name in COLUMNS:
        assert [(m["epoch"], m["metricValue"]) for m in metrics if m["metricName"] == name] == close(
            column(result, name)
        )


@needs("clearml")
@pytest.mark.slow
def test_clearml_draws_the_columns_in_a_chart_of_their_own(train, drawn):
    code = "import os; os.environ.update(CLEARML_OFFLINE_MODE='1', CLEARML_CACHE_DIR='clearml')"
    result = train(Arm(str(drawn["detect"]), guard={}, loggers=["clearml"], code=code), "clearml")
    (archive,) = (result.run.parent / "clearml").glob("offline/*.zip")
    events = [e for line in zipfile.ZipFile(archive).read("metrics.jsonl").splitlines() for e in json.loads(line)]
    charts = {chart: {e["variant"] for e in events if e["metric"] == chart} for chart in ("lr", "gradsafe")}
    assert charts["gradsafe"] == {*COLUMNS, "gradsafe/incidents"}
    assert all(name.startswith("lr/") for name in charts["lr"])
    assert (result.run / "stability.json").is_file(), "although ClearML fails at the end in offline mode"


@needs("clearml")
@needs("comet_ml")
@needs("tensorboard")
@pytest.mark.slow
def test_clearml_comet_and_tensorboard_at_once_change_nothing_of_the_training(train, drawn):
    code = (
        NO_GRAPH
        + """
import os
os.environ.update(CLEARML_OFFLINE_MODE="1", CLEARML_CACHE_DIR="clearml")
os.environ.update(COMET_START_ONLINE="0", COMET_OFFLINE_DIRECTORY="comet")
"""
    )
    arm = {"data": str(drawn["detect"]), "loggers": ["tensorboard", "clearml", "comet"], "code": code}
    result = equal_to_stock(train, arm, {})
    drawn_over = scalars(result.run)
    (archive,) = (result.run.parent / "clearml").glob("offline/*.zip")
    events = [e for line in zipfile.ZipFile(archive).read("metrics.jsonl").splitlines() for e in json.loads(line)]
    assert {e["variant"] for e in events if e["metric"] == "gradsafe"} >= set(COLUMNS)
    for name in COLUMNS:
        assert drawn_over[name] == close(column(result, name))


@needs("dvclive")
@pytest.mark.slow
def test_dvclive_gets_each_column_once_an_epoch(train, drawn):
    code = """
import os, subprocess
os.environ["DVC_NO_ANALYTICS"] = "1"
for words in ("git init -q", "git -c user.name=a -c user.email=a@b commit -q --allow-empty -m start"):
    subprocess.run(words.split(), check=True)
from dvc.repo import Repo
Repo.init(".")
"""
    result = train(Arm(str(drawn["detect"]), guard={}, loggers=["dvc"], code=code), "dvc")
    assert result.error == ""
    folder = result.run.parent / "dvclive" / "plots" / "metrics"
    for name in COLUMNS:
        lines = (folder / f"{name}.tsv").read_text().splitlines()[1:]
        assert [(int(a) + 1, float(b)) for a, b in (line.split() for line in lines)] == close(column(result, name))


@needs("neptune")
@pytest.mark.skipif(
    not importlib.util.find_spec("ultralytics.utils.callbacks.neptune"), reason="later Ultralytics have no Neptune"
)
@pytest.mark.slow
def test_neptune_gets_each_column_once_an_epoch_and_the_weights_stay_stocks(train, drawn):
    arm = {
        "data": str(drawn["detect"]),
        "loggers": ["neptune"],
        "code": "import os; os.environ['NEPTUNE_MODE'] = 'offline'",
    }
    result = equal_to_stock(train, arm, {})
    assert result.error == ""
    (log,) = (result.run.parent / ".neptune").glob("offline/*/data-1.log")
    points: dict[str, list[tuple[int, float]]] = {}
    for entry in json_objects(log.read_text()):
        if entry["obj"]["type"] == "LogFloats":
            name, values = "/".join(entry["obj"]["path"]), entry["obj"]["values"]
            points.setdefault(name, []).extend((v["step"], v["value"]) for v in values)
    for name in COLUMNS:
        assert points[name] == close(column(result, name))


def json_objects(text: str) -> Iterator[Any]:
    """Read the objects of a file that has one after another."""
    decoder, at = json.JSONDecoder(), 0
    while at < len(text.rstrip()):
        found, at = decoder.raw_decode(text, at)
        yield found
        at += len(text[at:]) - len(text[at:].lstrip())
