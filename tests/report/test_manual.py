"""The pages of the documentation within a report: those of ``docs/`` as they are now, and no link of theirs is dead."""

from __future__ import annotations

import html
import re
from collections import Counter
from pathlib import Path

import pytest
import yaml

from tests.arm import ROOT
from tests.report import scenes
from tests.report.test_page import Page, page
from yolo_gradsafe.report.figures import figures
from yolo_gradsafe.report.page.manual import manual
from yolo_gradsafe.report.summarize import summarize

pytest.importorskip("pymdownx", reason="what MkDocs needs is not installed: pip install -e '.[docs]'")

from scripts import render_docs


def said(page: str) -> tuple[str, list[str]]:
    """Return the words of a page and its links: another version of Markdown may write other tags."""
    words = html.unescape(re.sub("<[^>]+>", " ", page))
    return " ".join(words.split()), re.findall(r'(?:href|id)="([^"]*)"', page)


def test_the_pages_are_those_of_docs():
    kept = {file.name: said(file.read_text(encoding="utf-8")) for file in render_docs.FOLDER.iterdir()}
    now = {name: said(page) for name, page in render_docs.rendered().items()}
    assert kept == now, "docs/ has changed since: run .venv/bin/python scripts/render_docs.py"


@pytest.fixture
def found(tmp_path) -> Page:
    return page(scenes.sick(tmp_path / "run"))


def test_every_page_is_named_by_a_figure_and_has_the_title_of_the_site(tmp_path):
    named = {figure.page for figure in figures(summarize(scenes.sick(tmp_path / "run")))}
    assert {f"{name}.html" for name in named} == {file.name for file in render_docs.FOLDER.iterdir()}
    nav = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    files = {Path(path).stem: path for path in render_docs.PAGES}
    for name, entry in manual(named).items():
        assert f"- {html.unescape(entry.title)}: {files[name]}\n" in nav


def test_every_anchor_is_there_once_and_every_link_leads_to_one(found):
    ids = Counter(attributes["id"] for _, attributes in found.elements if "id" in attributes)
    assert [name for name, count in ids.items() if count > 1] == []
    links = {attributes["href"] for tag, attributes in found.elements if tag == "a"}
    anchors = {link[1:] for link in links if link.startswith("#")}
    assert anchors <= set(ids)
    assert len([anchor for anchor in anchors if anchor.startswith("docs-")]) >= 5


def test_nothing_is_loaded_from_elsewhere():
    text = "".join(render_docs.rendered().values())
    assert re.findall(r"""src="(?!data:image/)""", text) == []
    assert not re.search("<(?:script|link|iframe|style)", text)


@pytest.mark.parametrize(
    ("markdown", "made"),
    [
        ("[a](../verdicts.md)", '<a href="#docs-verdicts">a</a>'),
        ("[a](../verdicts.md#the-rungs)", '<a href="#docs-verdicts-the-rungs">a</a>'),
        ("[a](#here)", '<a href="#docs-read-the-report-here">a</a>'),
        ("[`a`](resume.md#b), c", "<span><code>a</code><span> (docs/how-to/resume.md)</span></span>, c"),
        ("[a](../../examples/tour.ipynb)", "<span>a<span> (examples/tour.ipynb)</span></span>"),
        ("[a](https://example.com/?a=1&b=2)", '<a href="https://example.com/?a=1&amp;b=2">a</a>'),
        ("## A & `<b>`", '<h3 id="docs-read-the-report-a-b">A &amp; <code>&lt;b&gt;</code></h3>'),
        ("## A {#b}", '<h3 id="docs-read-the-report-b">A</h3>'),
        ("a ![large](../report.png) b", "<p>a <span></span> b</p>"),
        ("```bash\nls && a > b\n```", '<code class="language-bash">ls &amp;&amp; a &gt; b</code>'),
    ],
)
def test_a_page_becomes_a_part_of_another(markdown, made):
    title, _, body = render_docs.render(f"# This & that\n\n{markdown}\n", "how-to/read-the-report.md").partition("\n")
    assert title == "<h1>This &amp; that</h1>"
    assert made in body
    assert "<h1" not in body


def test_small_pictures_come_along_and_large_ones_do_not():
    small = render_docs.render("# T\n\n![a](ladder.svg)\n", "verdicts.md")
    assert re.search(r'<div class="scroll"><p><img alt="a" src="data:image/svg\+xml;base64,[\w+/=]+" /></p>', small)
    assert render_docs.render("# T\n\n![a](report.png)\n", "verdicts.md").strip() == "<h1>T</h1>"


def test_the_extensions_are_those_of_the_site():
    site = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))["markdown_extensions"]
    assert list(render_docs._extensions()) == [entry if isinstance(entry, str) else next(iter(entry)) for entry in site]
