"""The page as a file: self-contained, escaped, small, quick to make; pictures from within the run only."""

from __future__ import annotations

import base64
import gzip
import hashlib
import io
import json
import re
import time
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure as Figures
from PIL import Image

from tests.report import scenes
from tests.report.runs import INF, INFO, NAN, bad, clipped, incident, row, write
from yolo_gradsafe.contact_sheet import RED, draw_sheet, save_picture
from yolo_gradsafe.report import page as pages
from yolo_gradsafe.report.beside import read_layers
from yolo_gradsafe.report.figures import Figure, course, figures
from yolo_gradsafe.report.page import pictures as pictures_module
from yolo_gradsafe.report.page import write_page
from yolo_gradsafe.report.page.cards import Card, cards
from yolo_gradsafe.report.page.curves import curves
from yolo_gradsafe.report.page.heatmap import COLUMNS, heatmap
from yolo_gradsafe.report.page.manual import manual
from yolo_gradsafe.report.page.pictures import Album
from yolo_gradsafe.report.page.series import level, line
from yolo_gradsafe.report.panels import ITEMS
from yolo_gradsafe.report.panels import accuracy as draw_accuracy
from yolo_gradsafe.report.parts import IncidentEntry
from yolo_gradsafe.report.records import read_steps
from yolo_gradsafe.report.summarize import summarize
from yolo_gradsafe.telemetry import Incident, RunPaths


class Page(HTMLParser):
    """What is in a page: elements with their attributes, and the text outside of scripts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.scripts: dict[str, str] = {}
        self._script: str | None = None
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag in {"script", "style"}:
            self._script = dict(attrs).get("id") or tag

    def handle_endtag(self, tag: str) -> None:
        if tag in {"script", "style"}:
            self._script = None

    def handle_data(self, data: str) -> None:
        if self._script:
            self.scripts[self._script] = self.scripts.get(self._script, "") + data
        else:
            self.text += data + " " * bool(data.strip())


def page(run: Path) -> Page:
    return Page(write_page(run, summarize(run)).read_text(encoding="utf-8"))


def test_first_screen(tmp_path):
    found = page(scenes.sick(tmp_path / "train7"))
    words = " ".join(found.text.split())
    assert "train7" in words
    assert "40 incidents: 40 of 2000 steps were skipped" in words
    for figure in ("Steps 2,000", "Gradient norm, median", "Clipped", "Incidents 40"):
        assert figure in words
    assert (
        words.index("Incidents 40")
        < words.index("What happened")
        < words.index("Advice")
        < words.index("Lower the learning rate.")
    )
    assert (
        words.index("Lower the learning rate.")
        < words.index("Curves drag")
        < words.index("Layers")
        < words.index("Options in force")
    )


def test_nothing_is_loaded_from_elsewhere(tmp_path):
    found = page(scenes.sick(tmp_path))
    for tag, attributes in found.elements:
        for name in ("src", "href", "srcset", "action", "data"):
            value = attributes.get(name) or ""
            assert not value or value.startswith(("data:", "#", "stability/batches/")), (tag, value)
    assert "url(" not in found.scripts["style"]
    assert "@import" not in found.scripts["style"]
    policy = next(a["content"] for t, a in found.elements if t == "meta" and "http-equiv" in a)
    assert policy.startswith("default-src 'none'")


def test_a_file_name_is_text(tmp_path):
    script = "</script><script>document.title='owned'</script>"
    hostile = incident(3, message=script, images=[scenes.HOSTILE, script], kind='"><b>', tensors=["<i>"])
    run = write(
        tmp_path,
        30,
        lambda n: row(n, items={f"box{script}": 1.0}),
        [hostile],
        options=f"a: '{script}'".replace("'owned'", ""),
    )
    found = page(run)
    assert found.text.count(scenes.HOSTILE) == 1
    pictures = [attributes["src"] for tag, attributes in found.elements if tag == "img"]
    assert [source for source in pictures if not source.startswith("data:image/svg+xml;base64,")] == []
    assert sum(tag == "script" for tag, _ in found.elements) == 4
    assert not any(name.startswith("on") for _, attributes in found.elements for name in attributes)
    names = [s["name"] for p in json.loads(found.scripts["data"])["panels"] for s in p["series"]]
    assert f"box{script}" in names


@pytest.mark.parametrize(
    "change",
    [
        lambda n: bad(n, threshold=INF, loss=-INF),
        lambda n: row(n, grad_norm=0.0, lr=0.0, loss=0.0),
        lambda n: row(n, grad_norm=1e42 if n == 9 else 1e-30, threshold=INF),
        lambda n: row(n, items={}),
        lambda n: row(n, loss=-float(n), grad_norm=NAN),
    ],
)
@pytest.mark.parametrize("steps", [0, 1, 30, 1500])
def test_any_numbers_make_a_page(tmp_path, change, steps):
    json.loads(page(write(tmp_path, steps, change)).scripts["data"])


@pytest.mark.parametrize("name", ["healthy", "sick", "crashed", "empty"])
def test_any_run_makes_a_page(tmp_path, name):
    run = getattr(scenes, name)(tmp_path / "run")
    found = page(run)
    assert summarize(run).headline in found.text
    panels = {p["id"] for p in json.loads(found.scripts["data"])["panels"]}
    assert panels == {"healthy": {"norm", "loss", "rate", "stages"}, "sick": {"norm", "loss", "rate", "amp", "stages"},
                      "crashed": {"norm", "loss", "rate", "stages"}, "empty": set()}[name]  # fmt: skip


def test_a_long_run_is_quick_and_small(tmp_path):
    run = scenes.endless(tmp_path)
    summary = summarize(run)
    start = time.perf_counter()
    path = write_page(run, summary)
    assert time.perf_counter() - start < 20
    assert path.stat().st_size < 6.7e6
    panels = json.loads(Page(path.read_text(encoding="utf-8")).scripts["data"])["panels"]
    norm = next(s for s in panels[0]["series"] if s["kind"] == "faint")
    assert max(v for v in norm["y"] if v) == pytest.approx(summary.grad_norm.max, rel=1e-4)
    assert panels[0]["skipped"] == [9973 * n for n in range(1, 11)]


def test_backoffs_of_the_learning_rate_are_marked(tmp_path):
    def change(step):
        return row(step, lr=0.001 if 10 <= step < 20 else 0.01, lr_factor=0.1 if 10 <= step < 20 else 1.0)

    run = write(tmp_path, 30, change)
    rate = next(p for p in curves(read_steps(RunPaths(run)), summarize(run)) if p["id"] == "rate")
    series = {s["name"]: s for s in rate["series"]}
    assert series["backoff"]["x"] == [10]
    assert set(series["without backoff"]["y"]) == {0.01}
    assert dict(zip(series["learning rate"]["x"], series["learning rate"]["y"], strict=True)) == {
        1: 0.01, 9: 0.01, 10: 0.001, 19: 0.001, 20: 0.01, 30: 0.01}  # fmt: skip


def test_records_without_backoff_can_be_read(tmp_path):
    run = write(tmp_path, 30)
    path = RunPaths(run).steps
    lines = [line.split(",") for line in path.read_text(encoding="utf-8").splitlines()]
    place = lines[0].index("lr_factor")
    path.write_text("\n".join(",".join(c[:place] + c[place + 1 :]) for c in lines) + "\n", encoding="utf-8")
    assert set(read_steps(RunPaths(run))["lr_factor"].to_list()) == {1.0}
    assert "rate" in page(run).scripts["data"]


def test_levels_are_drawn_where_they_change():
    x, y = np.arange(1.0, 1001), np.repeat([8.0, 4.0], 500)
    (series,) = level("scale", "s1", x, y)
    assert (series.x, series.y) == ([1, 500, 501, 1000], [8.0, 8.0, 4.0, 4.0])
    y[600:610] = NAN
    (series,) = level("scale", "s1", x, y)
    assert None in series.y


def test_a_noisy_series_is_its_course_with_the_noise_behind_it():
    x = np.arange(1.0, 100_001)
    y = np.sin(x)
    y[12_345] = 1e6
    faint, course = line("norm", "s1", x, y)
    assert (faint.kind, course.kind) == ("faint", "line")
    assert 1e6 in faint.y
    assert max(abs(v) for v in course.y) < 2
    assert len(faint.x) <= 3000


def test_heat_map(tmp_path):
    write(tmp_path, 10)
    scenes.layers(tmp_path, 1000, ["model.0", "model.1", "model.2"], dying="model.1")
    found = heatmap(read_layers(RunPaths(tmp_path)))
    assert found["layers"] == ["model.0", "model.1", "model.2"]
    assert (found["span"], len(found["epochs"])) == (5, 200)
    assert len(found["epochs"]) <= COLUMNS
    norm = found["measures"][0]
    assert norm["z"][0][0] > 0.5
    assert norm["z"][1][150] is None
    assert [150, 1] in norm["zero"]
    assert heatmap(read_layers(RunPaths(tmp_path / "none"))) is None


@pytest.mark.parametrize("text", ["", "epoch,layer\n1,model.0\n", "\x00\xff", "a,b\n1,2\n", '"open\nquote'])
def test_spoilt_layers_are_as_good_as_none(tmp_path, text):
    write(tmp_path, 10)
    RunPaths(tmp_path).layers.write_text(text, encoding="utf-8")
    assert heatmap(read_layers(RunPaths(tmp_path))) is None


# Pictures


def test_pictures_are_made_small(tmp_path):
    scenes.picture(tmp_path / "a.jpg", "one")
    text = Album(tmp_path).data("a.jpg")
    with Image.open(io.BytesIO(base64.b64decode(text.partition(",")[2]))) as image:
        assert max(image.size) <= 900


def test_pictures_come_from_within_the_run(tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    scenes.picture(tmp_path / "secret.jpg", "secret")
    (run / "link.jpg").symlink_to(tmp_path / "secret.jpg")
    (run / "fake.jpg").write_text("<svg onload=alert(1)>", encoding="utf-8")
    (run / "notes.txt").write_text("text", encoding="utf-8")
    album = Album(run)
    for name in (
        "../secret.jpg",
        str(tmp_path / "secret.jpg"),
        "link.jpg",
        "fake.jpg",
        "notes.txt",
        "",
        "gone.jpg",
        "a\0b.jpg",
    ):
        assert album.data(name) == ""


def test_pictures_over_the_budget_are_links(tmp_path, monkeypatch):
    monkeypatch.setattr(pictures_module, "BUDGET", 60_000)
    entries = []
    for number in range(6):
        name = f"stability/batches/e001_b{number:04d} a.jpg"
        scenes.picture(tmp_path / name, f"{number}")
        fields = {"kind": "bad_batch", "epoch": 1, "step": number, "batch": 1, "message": "", "action": ""}
        entries.append(IncidentEntry(**fields, picture=name))
    found = cards(entries, tmp_path).shown
    assert found[0].picture
    assert not found[-1].picture
    assert found[-1].link == "stability/batches/e001_b0005%20a.jpg"
    assert sum(len(card.picture) for card in found) <= 60_000


def framed(path: Path, place: int) -> None:
    """Draw a sheet of four images, the one at a place green and framed, a red box on another."""
    tiles = [np.full((150, 200, 3), 90, np.uint8) for _ in range(4)]
    tiles[place][:] = (0, 160, 0)
    tiles[3 - place][30:110, 40:130] = RED
    save_picture(draw_sheet(tiles, "epoch 1, batch 1: planted", 2, {place}), path)


@pytest.mark.parametrize("place", [0, 1, 3])
def test_the_culprit_is_cut_out_of_its_batch(tmp_path, place):
    framed(tmp_path / "a.jpg", place)
    text = Album(tmp_path).detail("a.jpg")
    with Image.open(io.BytesIO(base64.b64decode(text.partition(",")[2]))) as image:
        assert image.size == pytest.approx((200, 150), abs=8)
        middle = np.asarray(image.convert("RGB"), float)[8:-8, 8:-8].reshape(-1, 3)
    assert np.abs(middle - (0, 160, 0)).max() < 30, "all of it is the framed image"


def test_no_culprit_is_cut_out_where_none_is_framed(tmp_path):
    scenes.picture(tmp_path / "a.jpg", "one")
    assert Album(tmp_path).detail("a.jpg") == ""


# Cards


def told(tmp_path: Path, *found: Incident, steps: int = 30, **more: object) -> list[Card]:
    write(tmp_path, steps, lambda n: bad(n) if n in {i.step for i in found} else row(n), list(found), **more)  # type: ignore[arg-type]
    summary = summarize(tmp_path)
    return cards(summary.incidents, tmp_path, summary.outcomes).shown


def test_a_card_tells_cause_cost_and_whether_it_helped(tmp_path):
    (tmp_path / "stability" / "batches").mkdir(parents=True)
    framed(tmp_path / "stability/batches/e001_b0005.jpg", 1)
    (tmp_path / "args.yaml").write_text("data: my data.yaml\n")
    (card,) = told(
        tmp_path,
        incident(5, cause="image", images=["/data/a.jpg"], remedies=("skipped",), steps_lost=1,
                 picture="stability/batches/e001_b0005.jpg"),
        info=replace(INFO, amp="fp32"),
    )  # fmt: skip
    assert card.why == "The image file"
    assert card.outcome[0] == ("Cost", "1 step lost")
    assert card.outcome[1] == ("Did it help?", "It held: 25 healthy steps since")
    assert "weights are NaN from there on" in dict(card.outcome)["Stock Ultralytics"]
    assert card.change.command == "gradsafe check 'my data.yaml'"
    assert card.detail.startswith("data:image/jpeg")


def test_a_line_of_code_is_shown_as_code(tmp_path):
    told(tmp_path, incident(5, cause="loss", source="my_loss.py:7", source_text="return torch.log(x) < 1"))
    text = write_page(tmp_path, summarize(tmp_path)).read_text(encoding="utf-8")
    assert "<span>my_loss.py:7</span><pre><code>return torch.log(x) &lt; 1</code></pre>" in text


def test_what_was_done_about_an_incident_is_on_its_card(tmp_path):
    lines = [incident(5), incident(5, kind="rollback", action="rolled back to step 3"), incident(9, kind="lr_ramp")]
    run = write(tmp_path, 30, incidents=lines)
    found = cards(summarize(run).incidents, run)
    assert [card.label for card in found.shown] == ["Bad batch", "Learning rate raised again"]
    assert found.shown[0].done == ["The step was skipped.", "Rolled back: rolled back to step 3"]
    assert summarize(run).headline.startswith("Survived 1 incident")


def test_what_an_incident_says_itself_is_not_said_twice(tmp_path):
    action = "skipped the step, rolled back to step 3 (2 steps lost), lowered the learning rate to 0.1"
    lines = [
        incident(5, kind="diverging", action=action, remedies=("skipped", "rolled_back", "lr_lowered")),
        incident(5, kind="rollback", action="rolled back to step 3 (2 steps lost)"),
        incident(5, kind="lr_backoff", action="lowered the learning rate to 0.1 times its planned value"),
        incident(5, kind="precision", action="training continues in bf16"),
    ]
    run = write(tmp_path, 30, incidents=lines)
    done = cards(summarize(run).incidents, run).shown[0].done
    assert done == [f"S{action[1:]}", "Precision changed: training continues in bf16"]


def test_more_cards_than_a_browser_shows(tmp_path):
    entry = summarize(write(tmp_path, 9, incidents=[incident(3)])).incidents[0]
    many = [entry.model_copy(update={"step": step}) for step in range(1000)]
    found = cards(many, tmp_path)
    assert (len(found.shown), found.more) == (300, 700)


def test_incidents_of_another_version_are_shown(tmp_path):
    run = write(tmp_path, 30)
    new = {"kind": "teleported", "epoch": 1, "step": 2, "batch": 2, "message": "m", "action": "a", "culprit": None}
    old = {key: value for key, value in new.items() if key != "culprit"}
    lines = [json.dumps(new), json.dumps({**old, "step": 4}), '{"kind": "half', re.escape("no json")]
    RunPaths(run).incidents.write_text("\n".join(lines), encoding="utf-8")
    assert [card.label for card in cards(summarize(run).incidents, run).shown] == ["Teleported", "Teleported"]


def test_half_a_character_in_a_name_is_no_fault(tmp_path):
    run = write(tmp_path, 9, incidents=[replace(incident(3), images=["/data/\udcff.jpg"])])
    assert "/data/?.jpg" in page(run).text


def test_a_page_of_a_typical_run_is_small_and_its_script_is_the_one_that_was_fetched(tmp_path):
    run = scenes.healthy(tmp_path / "run")
    assert write_page(run, summarize(run)).stat().st_size < 1.5e6
    folder = Path(pages.__file__).parent / "assets" / "plotly"
    source = json.loads((folder / "SOURCE.json").read_text())
    script = gzip.decompress((folder / "plotly-cartesian.min.js.gz").read_bytes())
    assert hashlib.sha256(script).hexdigest() == source["sha256"]
    assert f"v{source['version']}".encode() in script[:200]
    assert "MIT" in (folder / "LICENSE").read_text()


# Figures


def explained(run: Path) -> dict[str, Figure]:
    return {figure.key: figure for figure in figures(summarize(run))}


def scored(run: Path, fitness: list[float], **more: object) -> Path:
    """Record a run of ten steps an epoch, each epoch validated."""
    write(run, 10 * len(fitness), **more)  # type: ignore[arg-type]
    (run / "results.csv").write_text(scenes.results(fitness), encoding="utf-8")
    return run


def test_every_figure_is_explained_by_mouse_keyboard_and_touch(tmp_path):
    run = scored(tmp_path, [0.1, 0.4])
    found = page(run)
    attributes = [attributes for _, attributes in found.elements]
    links = {a["href"]: a["aria-describedby"] for a in attributes if a.get("class") == "explain"}
    assert list(explained(run)) == ["accuracy", "steps", "norm", "clipped", "incidents"]
    assert links == {f"#about-{key}": f"tip-{key}" for key in explained(run)}
    places = {a.get("id") for a in attributes}
    assert places >= {f"tip-{key}" for key in explained(run)} | {f"about-{key}" for key in explained(run)}
    for figure in explained(run).values():
        assert found.text.count(figure.meaning) == 2, "at the figure, and below, where a tap leads"
        title = manual([figure.page])[figure.page].title
        assert f"More in the documentation: {title}." in " ".join(found.text.split()).replace(" .", ".")


@pytest.mark.parametrize(
    ("optimizer", "says"),
    [("AdamW", "hardly ever a reason to care"), ("SGD", "lower lr0 by the same factor"), ("MuSGD", "then lower lr0"),
     ("Mine", "change lr0 first")],
)  # fmt: skip
def test_100_percent_clipped_is_explained_for_the_optimizer(tmp_path, optimizer, says):
    run = write(tmp_path, 30, clipped, info=replace(INFO, optimizer=optimizer))
    figure = explained(run)["clipped"]
    assert figure.value == "100 %"
    assert "That is usual" in figure.meaning
    assert says in figure.meaning


def test_few_clipped_steps_are_no_reason_to_care(tmp_path):
    few = write(tmp_path / "few", 30, lambda n: clipped(n) if n == 9 else row(n))
    assert "nothing to change" in explained(few)["clipped"].meaning
    none = write(tmp_path / "none", 30)
    assert "No step was over it" in explained(none)["clipped"].meaning
    off = write(tmp_path / "off", 30, lambda n: row(n, threshold=INF))
    assert "Clipping is off" in explained(off)["clipped"].meaning


@pytest.mark.parametrize(
    ("fitness", "says"),
    [
        ([0.1, 0.2, 0.4], "mAP50 rose from 0.15 in epoch 1 to 0.6 in epoch 3."),
        ([0.1, 0.4, 0.2], "mAP50 rose from 0.15 in epoch 1 to 0.6 in epoch 2, and was 0.3 at the end."),
        ([0.4], "mAP50 was 0.6 in epoch 1."),
    ],
)
def test_the_course_of_the_accuracy_is_told(tmp_path, fitness, says):
    assert course(summarize(scored(tmp_path, fitness))) == says


def test_whether_it_learned_is_never_an_empty_block(tmp_path):
    text = page(scored(tmp_path, [0.1, 0.2, 0.4, 0.5, 0.55, 0.6])).text
    learned = text[text.index("Did it learn?") : text.index("Advice")]
    assert "Yes." in learned
    assert "mAP50 rose from 0.15 in epoch 1 to 0.9 in epoch 6." in learned


@pytest.mark.parametrize(
    ("epochs", "says"),
    [
        (12, ["No.", "lr0=0.3 is too high", "accuracy stayed at 0 for 12 epochs"]),
        (2, ["Unknown.", "2 epochs are too few to tell"]),
    ],
)
def test_a_run_that_did_not_learn_or_may_not_have_says_why(tmp_path, epochs, says):
    run = write(tmp_path, 10 * epochs, lambda n: row(n, lr=0.3), info=replace(INFO, epochs=epochs, batches=10))
    (run / "args.yaml").write_text("lr0: 0.3\n", encoding="utf-8")
    (run / "results.csv").write_text(scenes.results([0.0] * epochs), encoding="utf-8")
    text = " ".join(page(run).text.split())
    learned = text[text.index("Did it learn?") :][:200]
    places = [learned.find(part) for part in says]
    assert -1 not in places
    assert places == sorted(places)


def test_an_accuracy_of_nothing_names_no_best_epoch(tmp_path):
    figure = explained(scored(tmp_path, [0.0] * 6))["accuracy"]
    assert (figure.value, figure.detail) == ("0", "up to epoch 6, the last")


# Panels


def panels(run: Path) -> dict[str, dict]:
    return {panel["id"]: panel for panel in curves(read_steps(RunPaths(run)), summarize(run))}


def test_accuracy_lies_on_the_axis_of_the_steps(tmp_path):
    panel = panels(scored(tmp_path, [0.1, 0.2, 0.4]))["accuracy"]
    accuracy, fitness = panel["series"]
    assert (accuracy["name"], accuracy["x"], accuracy["y"]) == ("mAP50", [10, 20, 30], [0.15, 0.3, 0.6])
    assert (fitness["name"], fitness["y"]) == ("fitness", [0.1, 0.2, 0.4])


@pytest.mark.parametrize(("factor", "log"), [(0.01, True), (0.8, False), (1.0, False)])
def test_a_rate_that_was_lowered_far_has_a_logarithmic_axis(tmp_path, factor, log):
    run = write(tmp_path, 30, lambda n: row(n, lr=0.01 * factor if n > 9 else 0.01, lr_factor=factor if n > 9 else 1.0))
    assert panels(run)["rate"]["log"] is log


def test_losses_and_accuracy_have_the_colours_of_the_picture(tmp_path):
    found = page(scored(tmp_path, [0.1, 0.2]))
    style = dict(re.findall(r"--(s\d): (#\w+)", found.scripts["style"].partition('[data-theme="dark"]')[0]))
    assert [style[f"s{n}"] for n in range(1, 10)] == list(ITEMS)
    names = [series["color"] for series in panels(tmp_path)["loss"]["series"]]
    assert names == ["ink", "s1", "s2", "s3"]
    axes = Figures().subplots()
    draw_accuracy(axes, np.array([1.0, 2.0]), np.array([0.1, 0.2]), np.array([0.1, 0.2]), "mAP50")
    assert [line.get_color() for line in axes.lines] == [
        style[s["color"]] for s in panels(tmp_path)["accuracy"]["series"]
    ]
