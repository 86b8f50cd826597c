"""Renders the pages of ``docs/`` that figures of a report name: ``python scripts/render_docs.py``.

A report is one file that opens offline, and the documentation has no public address, so these pages come at the end of
it. They are kept as HTML in ``yolo_gradsafe/report/page/assets/docs``, a file each, because Markdown is not needed to
make a report.
"""

from __future__ import annotations

import base64
import posixpath
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit
from xml.etree.ElementTree import Element, SubElement

import yaml
from markdown import Markdown
from markdown.treeprocessors import Treeprocessor

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
FOLDER = ROOT / "yolo_gradsafe" / "report" / "page" / "assets" / "docs"
PAGES = ("verdicts.md", "how-to/read-the-report.md", "problems/clipped-100-percent.md")
"""What is rendered. A page is known to ``report/figures.py`` by its file's name without the ending."""
LARGEST = 16_000
"""Bytes of a picture that comes along; larger ones are left out."""
PICTURES = {".svg": "image/svg+xml", ".png": "image/png"}


def main() -> None:
    """Write all pages, and remove what is there of others."""
    files = rendered()
    FOLDER.mkdir(parents=True, exist_ok=True)
    for file in FOLDER.iterdir():
        if file.name not in files:
            file.unlink()
    for name, text in files.items():
        (FOLDER / name).write_text(text, encoding="utf-8", newline="\n")
        print(f"{name}: {len(text.encode()):,} bytes")


def rendered() -> dict[str, str]:
    """Return the pages as they are kept, by the names of their files."""
    return {f"{_key(page)}.html": render((DOCS / page).read_text(encoding="utf-8"), page) for page in PAGES}


def render(text: str, page: str) -> str:
    """Return a page as HTML: its title as ``<h1>`` in the first line, then all else.

    Args:
        text: The page in Markdown.
        page: Where it lies in ``docs/``.
    """
    extensions = _extensions()
    markdown = Markdown(extensions=list(extensions), extension_configs=extensions)
    markdown.treeprocessors.register(_WithinAReport(page), "within a report", 1)  # after the table of contents
    body = markdown.convert(text)
    return f"<h1>{markdown.toc_tokens[0]['name']}</h1>\n{body}\n"


class _WithinAReport(Treeprocessor):
    """Makes a page a part of another: anchors that are its own, links that lead somewhere, nothing beside it."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.page = page

    def run(self, root: Element) -> None:
        """Change the page in place."""
        for element in list(root.iter()):
            if element.tag in {"h2", "h3", "h4", "h5"}:  # the report's own sections are h2
                element.tag = f"h{int(element.tag[1]) + 1}"
            elif element.tag == "a":
                _lead_somewhere(element, self.page)
            elif element.tag == "img":
                _come_along(element, self.page)
            if "id" in element.attrib:
                element.set("id", _anchor(self.page, element.attrib["id"]))
        for block in list(root):
            if block.tag == "h1" or (block.tag == "p" and _is_empty(block)):
                root.remove(block)
            elif block.tag == "table" or block.find("img") is not None:
                _scroll(root, block)


def _lead_somewhere(link: Element, page: str) -> None:
    """Lead to the place in the report; a page that does not come along is only named."""
    address = urlsplit(link.attrib["href"])
    target = _resolved(page, address.path) if address.path else page
    if address.scheme:
        return
    if target in PAGES:
        link.set("href", f"#{_anchor(target, address.fragment)}")
    else:
        link.tag = "span"
        link.attrib.clear()
        SubElement(link, "span").text = f" ({posixpath.normpath(posixpath.join('docs', target))})"


def _come_along(picture: Element, page: str) -> None:
    """Put a small picture into the page itself; of a large one nothing is left."""
    file = DOCS / _resolved(page, picture.attrib["src"])
    if file.stat().st_size > LARGEST:
        picture.tag = "span"
        picture.attrib.clear()
    else:
        data = base64.b64encode(file.read_bytes()).decode()
        picture.set("src", f"data:{PICTURES[file.suffix]};base64,{data}")


def _is_empty(block: Element) -> bool:
    return block.find(".//img") is None and not "".join(block.itertext()).strip()


def _scroll(root: Element, block: Element) -> None:
    """Let a block scroll that a phone is too narrow for."""
    wide = Element("div", {"class": "scroll"})
    wide.tail, block.tail = block.tail, None
    root[list(root).index(block)] = wide
    wide.append(block)


def _anchor(page: str, place: str) -> str:
    return "-".join(filter(None, ["docs", _key(page), place]))


def _resolved(page: str, path: str) -> str:
    return posixpath.normpath(posixpath.join(posixpath.dirname(page), path))


def _key(page: str) -> str:
    return PurePosixPath(page).stem


def _extensions() -> dict[str, dict[str, object]]:
    """Return the site's Markdown extensions with their settings, without what a report has no style for."""
    site = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    found = dict(_named(site["markdown_extensions"]))
    found["toc"] |= {"permalink": False}
    found["pymdownx.highlight"] |= {"use_pygments": False}
    found["pymdownx.snippets"] |= {"base_path": [str(ROOT)]}
    return found


def _named(entries: list[str | dict[str, dict[str, object]]]) -> Iterator[tuple[str, dict[str, object]]]:
    for entry in entries:
        yield from [(entry, {})] if isinstance(entry, str) else entry.items()


if __name__ == "__main__":
    main()
