"""What the README and docs/ print works as printed: Python blocks run, commands are taken, and the site builds."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from tests.arm import DETECT, POSE, ROOT, own_settings
from tests.data.sets import coco_values, keypoint_categories, picture

PAGES = {
    str(path.relative_to(ROOT)): path.read_text(encoding="utf-8")
    for path in [ROOT / "README.md", ROOT / "benchmarks" / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
}
SMALL = [
    (r"\bepochs=\d+, imgsz=160", "epochs=1, imgsz=64, workers=0, plots=False"),
    (r"\bepochs=\d+", "epochs=1"),
    (r"imgsz=\d+", "imgsz=64"),
    (r", device=\[0, 1\]", ""),
    ("train=64, val=16, size=128", "train=20, val=4, size=64"),
    ("yolo26n.pt", DETECT),
    ("yolo26n-pose.yaml", POSE),
    ("yolo26n.yaml", DETECT),
]
"""What is made smaller in a block or a command before it runs."""
RUNNER = """
import contextlib, io, json, sys, traceback
from pathlib import Path
path = Path("said.json")
said = json.loads(path.read_text()) if path.exists() else {}
for page, blocks in json.loads(Path("blocks.json").read_text()).items():
    names, output = {"__name__": "__main__"}, io.StringIO()
    try:
        with contextlib.redirect_stdout(output):
            for block in blocks:
                exec(compile(block, page, "exec"), names)
    except Exception:
        said[page] = {"error": traceback.format_exc(), "output": output.getvalue()}
    else:
        said[page] = {"error": "", "output": output.getvalue()}
path.write_text(json.dumps(said))
"""


def blocks(text: str, language: str) -> list[str]:
    """Return a page's blocks in a language; one that includes a file is that file's test's."""
    found = re.findall(rf"```{language}\n(.*?)```", text, flags=re.DOTALL)
    return [block for block in found if "--8<--" not in block]


def commands() -> list[tuple[str, str]]:
    """Return every command line with the page that prints it."""
    found = []
    for page, text in PAGES.items():
        for block in blocks(text, "bash"):
            lines = block.replace("\\\n", " ").splitlines()
            found += [(page, line) for line in lines if shlex.split(line, comments=True)]
    return found


CODE = {page: python for page, text in PAGES.items() if (python := blocks(text, "python"))}
TRAINING = [page for page, python in CODE.items() if ".train(" in "".join(python) and page != "README.md"]
"""Pages that train, and after the README, whose runs they go on from."""
COMMANDS = commands()


@pytest.fixture(scope="module")
def workshop(drawn, tmp_path_factory) -> Path:
    """A folder that has what the pages name: data sets, and the runs that their Python blocks leave behind."""
    folder = tmp_path_factory.mktemp("workshop")
    for name in ("coco8.yaml", "data.yaml"):
        shutil.copy(drawn["detect"], folder / name)
    for name in ("coco8-pose.yaml", "shapes-pose/data.yaml"):
        (folder / name).parent.mkdir(exist_ok=True)
        shutil.copy(drawn["pose"], folder / name)
    for json_file, images in (
        ("annotations.json", "images"),
        ("annotations/person_keypoints_train2017.json", "train2017"),
    ):
        points = {"keypoints": [12, 12, 2, 16, 16, 2, 20, 20, 2], "num_keypoints": 3}
        values = coco_values(categories=keypoint_categories())
        values["annotations"] = [{**one, "category_id": 5, **points} for one in values["annotations"]]
        (folder / json_file).parent.mkdir(exist_ok=True)
        (folder / json_file).write_text(json.dumps(values))
        for k in (1, 2):
            picture(folder / images / f"{k}.jpg", seed=k)
    (folder / "birds.yaml").write_text("train: annotations.json\nimages: images\nsplit: 0.5\n")
    own_settings(folder)
    _run_pages(folder, [page for page in CODE if page not in TRAINING])
    return folder


@pytest.fixture(scope="module")
def trained_workshop(workshop) -> Path:
    """The same, after all other trainings of the pages."""
    _run_pages(workshop, TRAINING)
    return workshop


def _run_pages(folder: Path, pages: list[str]) -> None:
    """Run the Python blocks of pages in one process, each page in names of its own."""
    small = {page: [_smaller(block) for block in CODE[page]] for page in pages}
    (folder / "blocks.json").write_text(json.dumps(small))
    # Under pytest and in GitHub's actions Ultralytics would put its runs beside its own tests.
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("PYTEST_", "GITHUB_", "RUNNER_"))}
    env = {**kept, "PYTHONPATH": str(ROOT), "YOLO_CONFIG_DIR": str(folder / "settings")}
    done = subprocess.run(
        [sys.executable, "-c", RUNNER], cwd=folder, env=env, capture_output=True, text=True, timeout=1500
    )
    assert done.returncode == 0, done.stderr[-3000:]


def _smaller(text: str) -> str:
    for pattern, replacement in SMALL:
        text = re.sub(pattern, replacement, text)
    return text


def said(folder: Path, page: str) -> str:
    """Return what a page's blocks printed, if nothing was raised in them."""
    result = json.loads((folder / "said.json").read_text())[page]
    assert not result["error"], result["error"]
    return result["output"]


@pytest.mark.parametrize("page", [page for page in CODE if page not in TRAINING])
def test_python_blocks_of_a_page_run_in_order(workshop, page):
    output = said(workshop, page)
    assert "headline" not in "".join(CODE[page]) or re.search(
        r"(?:Healthy|Too early to tell): \d+ steps?, none skipped", output
    )


@pytest.mark.slow
@pytest.mark.parametrize("page", TRAINING)
def test_python_blocks_of_a_page_that_trains_run_in_order(trained_workshop, page):
    output = said(trained_workshop, page)
    assert page != "docs/tutorial.md" or "(preprocess_batch) cost 1 of 5 steps" in output


@pytest.fixture
def as_printed(workshop, monkeypatch):
    """Run a ``gradsafe`` command in the workshop, up to where it would train for long or open a browser."""

    def ends(*_, **__):
        raise typer.Exit

    monkeypatch.chdir(workshop)
    monkeypatch.setenv("GRADSAFE_CACHE", str(workshop / "cache"))
    monkeypatch.setattr(typer, "launch", lambda *_, **__: 0)
    monkeypatch.setattr("yolo_gradsafe.models.YOLO.train", lambda *_, **__: None)
    monkeypatch.setattr("yolo_gradsafe.probe.run_probe", ends)
    monkeypatch.setattr("yolo_gradsafe.drill.run.run_cases", ends)
    monkeypatch.setattr("yolo_gradsafe.drill.demo.run_demo", lambda _: True)
    monkeypatch.setattr("yolo_gradsafe.cli.run._become", ends)

    def run(words: list[str]):
        from yolo_gradsafe.cli import app

        for word in words:
            if word.startswith("runs/") and not Path(word).exists():
                shutil.copytree(next(Path("runs/detect").glob("train*")), word)
        return CliRunner().invoke(app, words)

    return run


@pytest.mark.parametrize("line", dict.fromkeys(line for _, line in COMMANDS if line.startswith("gradsafe ")))
def test_gradsafe_takes_a_command_as_printed(as_printed, line):
    done = as_printed(shlex.split(_smaller(line), comments=True)[1:])
    if line.startswith("gradsafe replay"):  # the runs at hand have nothing to replay
        assert "there is no incident" in done.output
    elif "--strict" in line:  # one epoch is too few to tell
        assert "not known to have learned" in done.output
    else:
        assert done.exit_code == 0, done.output + str(done.exception)


@pytest.mark.parametrize("line", dict.fromkeys(line for _, line in COMMANDS if not line.startswith("gradsafe ")))
def test_other_commands_name_what_exists(workshop, line, monkeypatch):
    from yolo_gradsafe import adapter

    monkeypatch.chdir(workshop)
    program, *words = shlex.split(line, comments=True)
    if program in {"python", "bash"}:
        script = ROOT / words[0]
        assert script.is_file()
        assert all(word in script.read_text() for word in words[1:] if word.startswith("--"))
    elif program == "make":
        assert re.search(rf"^{words[0]}:", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
    elif program == "export":
        assert words[0].partition("=")[0] == "GRADSAFE_CONFIG"
    elif program == "yolo":
        assert words[0] == "train"
        assert adapter.parse_arguments(words[1:])["data"] in PAGES["docs/tutorial.md"]
    else:
        assert [program, *words[:1]] == ["pip", "install"]
        assert words[1].strip('"').split("[")[0] in {"yolo-gradsafe", ".", "ultralytics"}


SEARCHED = (
    "wandb",
    "hyperparameter",
    "freeze",
    "colab",
    "tune",
    "amp",
    "out of memory",
    "cvat",
    "inf",
    "clipped",
    "glossary",
)
"""What users look for by the words that they know."""


@pytest.mark.parametrize("words", SEARCHED)
def test_what_users_search_for_is_in_a_page(words):
    pages = [page for page, text in PAGES.items() if page.startswith("docs/") and _mentions(text, words)]
    assert pages, f"the search of the site finds nothing for {words!r}"


def _mentions(text: str, words: str) -> bool:
    return re.search(rf"\b{words}\b", text, flags=re.IGNORECASE) is not None


def test_every_public_name_has_a_place_in_the_reference():
    modules = ["yolo_gradsafe", *(f"yolo_gradsafe.{name}" for name in ("clipping", "data", "probe", "report"))]
    public = {f"{module}.{name}" for module in modules for name in import_module(module).__all__}
    pages = {page: text for page, text in PAGES.items() if page.startswith("docs/reference/python/")}
    described = [name for text in pages.values() for name in re.findall(r"^::: (\S+)$", text, flags=re.MULTILINE)]
    assert sorted(described) == sorted(public - {"yolo_gradsafe.__version__"})
    index = PAGES["docs/reference/python.md"]
    assert all(f"(python/{Path(page).name})" in index for page in pages)
    assert index.index("GradSafe") < index.index("YOLO")


def test_a_class_has_a_page_to_itself():
    pages = {page: text for page, text in PAGES.items() if page.startswith("docs/reference/python/")}
    for page, text in pages.items():
        names = re.findall(r"^::: \S+\.(\w+)$", text, flags=re.MULTILINE)
        assert page.endswith("-functions.md") or names == [re.findall("^# (.+)", text)[0]], page


def test_every_picture_and_page_that_the_readme_names_exists():
    named = re.findall(r"\]\((?!https?:)([^)#]+)", PAGES["README.md"])
    assert named
    assert [name for name in named if not (ROOT / name).exists()] == []


@pytest.mark.slow
@pytest.mark.skipif(
    not (find_spec("mkdocs") and find_spec("material") and find_spec("mkdocstrings")),
    reason="MkDocs is not installed: pip install -e '.[docs]'",
)
def test_the_site_builds_without_a_warning_and_loads_nothing_from_elsewhere(tmp_path):
    words = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    pages = sorted((tmp_path / "site").rglob("*.html"))
    assert len(pages) >= len([page for page in PAGES if page.startswith("docs/")])
    loads = re.compile(r"<(?:script|link|img|iframe)[^>]+(?:src|href)=[\"']?(?:https?:)?//", re.IGNORECASE)
    assert {page.name: found for page in pages if (found := loads.findall(page.read_text(encoding="utf-8")))} == {}
    index = json.loads((tmp_path / "site" / "search" / "search_index.json").read_text(encoding="utf-8"))["docs"]
    found = [words for words in SEARCHED if any(_mentions(f"{part['title']} {part['text']}", words) for part in index)]
    assert found == list(SEARCHED)
    for page in ("tour.html", "changelog.html", "problems/custom-loss-nan.html", "bad-step.html"):
        assert (tmp_path / "site" / page).is_file()
    options = (tmp_path / "site" / "reference" / "options.html").read_text(encoding="utf-8")
    assert "clip.max_norm" in options
    assert "generated:" not in options
