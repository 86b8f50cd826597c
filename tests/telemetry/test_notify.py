"""Somebody is told of incidents, and whatever they do with it, training neither waits nor ends."""

from __future__ import annotations

import json
import pickle
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from tests.fake_trainer import Core, Tiny, nan_batch
from yolo_gradsafe import ConfigError, GradSafe
from yolo_gradsafe.config import Config
from yolo_gradsafe.telemetry.notify import WAITING, Notifier, Webhook
from yolo_gradsafe.telemetry.schema import Incident, Kind


def incident(kind: Kind = Kind.BAD_BATCH) -> Incident:
    return Incident(kind=kind, epoch=2, step=7, batch=3, message="The loss was nan.", action="The step was skipped.")


@pytest.fixture
def heard():
    """A server on this machine, and what was posted to it."""
    posts: list[dict] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            posts.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_):
            """Say nothing."""

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/hook", posts
    server.shutdown()


def trained(folder, **options) -> tuple[GradSafe, Core]:
    """Train a few steps, of which one is bad, with a guard of these options."""
    off = {"check_data": False, "pictures": 0, "archive": False, "diagnoses": 0}
    core = Core.__new__(Core)
    core.raw = Tiny(folder)
    guard = GradSafe(forensics=off, report={"plot": False, "console": False}, **options)
    guard.attach(core.raw)
    core.session = guard._session(core.raw)
    core.raw.begin_epoch()
    core.train(3)
    core.raw.take(nan_batch())
    core.train(2, start=3)
    return guard, core


def test_a_function_hears_of_each_incident_as_it_is_recorded(tmp_path):
    heard: list[dict] = []
    _, core = trained(tmp_path / "run", on_incident=heard.append)
    core.session.finish()
    lines = (tmp_path / "run" / "stability" / "incidents.jsonl").read_text().splitlines()
    assert [one["kind"] for one in heard] == [json.loads(line)["kind"] for line in lines] == ["bad_batch"]
    assert heard[0]["run"] == str(tmp_path / "run")
    assert (heard[0]["loss"], heard[0]["step"]) == ("nan", 4)


def test_an_address_hears_of_it_with_a_sentence_for_chat(tmp_path, heard):
    address, posts = heard
    _, core = trained(tmp_path / "run", on_incident=address)
    core.session.finish()
    [post] = posts
    assert post["kind"] == "bad_batch"
    assert post["text"].startswith(f"GradSafe: {tmp_path / 'run'}, epoch 1, batch 4: ")
    written = (tmp_path / "run" / "stability" / "options.yaml").read_text()
    assert "/hook" not in written, "an address may hold a secret"
    assert Config.load(tmp_path / "run" / "stability" / "options.yaml").loggers.on_incident == "http://127.0.0.1/..."


@pytest.mark.parametrize("what", ["raises", "hangs"])
def test_a_function_that_fails_or_hangs_holds_nothing_up(tmp_path, caplog, what):
    release = threading.Event()

    def listener(_):
        if what == "raises":
            raise RuntimeError("planted")
        release.wait(60)

    start = time.perf_counter()
    guard, core = trained(tmp_path / "run", **{"on_incident": listener, "loggers.on_incident_seconds": 0.2})
    core.session.finish()
    release.set()
    assert time.perf_counter() - start < 30
    core.guard = guard
    assert len((tmp_path / "run" / "stability" / "steps.csv").read_text().splitlines()) == 7, "all steps were taken"
    assert ("on_incident failed, training goes on: RuntimeError: planted" in caplog.text) is (what == "raises")


def test_more_than_can_wait_is_lost_and_a_failure_is_told_once():
    told: list[str] = []
    hold, calls = threading.Event(), []

    def slow(one):
        hold.wait(30)
        calls.append(one)
        raise RuntimeError("planted")

    notifier = Notifier([slow], "run", 30.0, told.append)
    for _ in range(3 * WAITING):
        notifier.tell(incident())
    hold.set()
    time.sleep(0.5)
    notifier.close()
    assert WAITING <= len(calls) <= WAITING + 1
    assert told == ["on_incident failed, training goes on: RuntimeError: planted"]


def test_an_address_hears_of_a_kind_once_a_minute_and_a_dead_one_is_an_error(heard):
    address, posts = heard
    hook = Webhook(address, 5.0)
    values = {"kind": "spike", "epoch": 1, "batch": 1, "message": "a", "action": "b", "culprit": "", "run": "r"}
    for kind in ("spike", "spike", "bad_batch", "spike"):
        hook({**values, "kind": kind})
    assert [post["kind"] for post in posts] == ["spike", "bad_batch"]
    with pytest.raises(OSError, match="refused"):
        Webhook("http://127.0.0.1:9/", 1.0)(values)


def test_it_is_off_by_default_and_a_wrong_address_is_an_option_error():
    assert Config().loggers.on_incident is None
    with pytest.raises(ConfigError, match=r"loggers\.on_incident"):
        GradSafe(on_incident="file:///etc/passwd")


def told(_):
    """Stand for a function that other processes can import."""


def test_a_guard_travels_with_a_function_that_can_and_without_one_that_cannot(caplog):
    assert pickle.loads(pickle.dumps(GradSafe(on_incident=told)))._on_incident is told
    assert pickle.loads(pickle.dumps(GradSafe(on_incident=lambda _: None)))._on_incident is None
    assert "on_incident cannot be pickled" in caplog.text
