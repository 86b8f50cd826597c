"""Makes the parts of the reference that come from the code: a page names one as ``<!-- generated: NAME -->``.

Nothing here trains or imports torch: options and files are read from their JSON schemas and docstrings, the command
line from the command itself.
"""

from __future__ import annotations

import ast
import html
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "yolo_gradsafe"

MARK = re.compile(r"^<!-- generated: (?P<name>\w+)(?: (?P<argument>[\w./]+))? -->$", re.MULTILINE)
_BOUNDS = {"exclusiveMinimum": ">", "minimum": ">=", "exclusiveMaximum": "<", "maximum": "<="}
_PREFIX = re.compile(r"^\(\w+\) (?:(?:>=?|<=?) [\d.]+(?: or null)?, |[\d.]+ to [\d.]+, )?")


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Put what is generated in the place of its marks; called by MkDocs for every page.

    Raises:
        KeyError: A mark names nothing that can be generated.
    """
    return MARK.sub(lambda mark: GENERATORS[mark["name"]](*filter(None, [mark["argument"]])), markdown)


def options() -> str:
    """Return every option with its type, range, default, unit and reason, a table a section."""
    from yolo_gradsafe.config import Config

    schema = Config.model_json_schema()
    return "\n".join(_option_lines(schema, schema, ""))


def presets() -> str:
    """Return which defaults each preset changes."""
    from yolo_gradsafe.config import Config, preset_names

    defaults = _flat(Config.load().model_dump())
    lines = ["| preset | sets |", "| --- | --- |"]
    for name in preset_names():
        values = _flat(Config.load(name).model_dump(exclude_unset=True))
        changed = [f"`{key}: {_yaml(value)}`" for key, value in values.items() if defaults.get(key) != value]
        lines.append(f"| `{name}` | {_cell('<br>'.join(changed)) or 'nothing: the defaults, with their comments'} |")
    return "\n".join(lines)


def commands() -> str:
    """Return the command line as Typer describes it."""
    words = [sys.executable, "-m", "typer", "yolo_gradsafe.cli", "utils", "docs", "--name", "gradsafe"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True)
    _, first, rest = html.unescape(done.stdout).partition("\n## ")
    return first.lstrip("\n") + rest


def notebook(path: str) -> str:
    """Return a notebook as Markdown: its text, its code, and what was printed and drawn when it was saved."""
    lines = []
    for cell in json.loads((ROOT / path).read_text(encoding="utf-8"))["cells"]:
        source = "".join(cell["source"])
        lines += [source] if cell["cell_type"] == "markdown" else [f"```python\n{source}\n```"]
        lines += [_output(output) for output in cell.get("outputs", [])]
    return "\n\n".join(lines)


def record(name: str) -> str:
    """Return the fields of a dataclass in ``telemetry/schema.py``."""
    tree = ast.parse((PACKAGE / "telemetry" / "schema.py").read_text(encoding="utf-8"))
    (found,) = [node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == name]
    lines = [f"{ast.get_docstring(found)}\n", "| name | type | what it is |", "| --- | --- | --- |"]
    for node, after in zip(found.body, [*found.body[1:], None], strict=True):
        if isinstance(node, ast.AnnAssign):
            documented = isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
            words = str(after.value.value) if documented else ""
            lines.append(f"| `{ast.unparse(node.target)}` | {ast.unparse(node.annotation)} | {_cell(words)} |")
    return "\n".join(lines)


def summary() -> str:
    """Return the fields of ``stability.json``, a table a part, from its JSON schema."""
    from yolo_gradsafe.report.summary import Summary

    schema = Summary.json_schema()
    lines = []
    for title, part in [("", schema), *schema["$defs"].items()]:
        if "properties" not in part:
            continue
        lines += [f"\n### {title}\n\n{part['description']}"] if title else []
        lines += ["", "| name | type | what it is |", "| --- | --- | --- |"]
        for name, field in part["properties"].items():
            lines.append(f"| `{name}` | {_cell(_type(field))} | {_cell(field.get('description', ''))} |")
    return "\n".join(lines)


GENERATORS = {f.__name__: f for f in (options, presets, commands, notebook, record, summary)}


def _option_lines(section: dict[str, Any], schema: dict[str, Any], path: str) -> Iterator[str]:
    """Yield a section's table, then its sections."""
    fields = {f"{path}{name}": field for name, field in section["properties"].items()}
    sections = {name: field for name, field in fields.items() if "$ref" in field}
    plain = {name: field for name, field in fields.items() if name not in sections}
    if plain:
        yield "| option | type and range | default | what it is, and why |\n| --- | --- | --- | --- |"
    for name, field in plain.items():
        words = _PREFIX.sub("", field["description"])
        default = _cell(_yaml(field["default"]))
        yield f"| `{name}` | {_cell(_type(field))} | `{default}` | {_cell(words)} |"
    for name, field in sections.items():
        yield f"\n{'##' if '.' not in name else '###'} {name}\n\n{field['description']}.\n"
        yield from _option_lines(schema["$defs"][field["$ref"].rsplit("/", 1)[1]], schema, f"{name}.")


def _output(output: dict[str, Any]) -> str:
    """Return an output of a cell: a picture, a table, or text without the terminal's colours."""
    data = output.get("data", {})
    if "image/png" in data:
        return f"![What the cell drew](data:image/png;base64,{''.join(data['image/png']).strip()})"
    if "text/html" in data:
        return re.sub(r"<style>.*?</style>", "", "".join(data["text/html"]), flags=re.DOTALL)
    text = "".join(output.get("text", data.get("text/plain", "")))
    plain = re.sub("\x1b" + r"\[[0-9;]*m", "", text).rstrip()
    return f"```text\n{plain}\n```"


def _type(field: dict[str, Any]) -> str:
    """Say in words what a field of a JSON schema takes."""
    if "$ref" in field:
        part = field["$ref"].rsplit("/", 1)[1]
        return "options of `clip`" if part == "RuleOptions" else f"[{part}](#{part.lower()})"
    if "anyOf" in field:
        return " or ".join(_type(choice) for choice in field["anyOf"])
    if "enum" in field or "const" in field:
        return ", ".join(f"`{value}`" for value in field.get("enum", [field.get("const")]))
    kind = field.get("type", "any")
    if kind == "array":
        return f"array of {_type(field['items'])}"
    if kind == "object" and isinstance(field.get("additionalProperties"), dict):
        return f"object of {_type(field['additionalProperties'])}"
    bounds = [f"{sign} {field[key]:g}" for key, sign in _BOUNDS.items() if key in field]
    return " ".join([kind, *bounds])


def _flat(values: dict[str, Any], path: str = "") -> dict[str, Any]:
    """Return nested options by their dotted names; a dict that is no section stays a value."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        nested = isinstance(value, dict) and name not in {"options", "stages"}
        flat |= _flat(value, f"{path}{name}.") if nested else {f"{path}{name}": value}
    return flat


def _yaml(value: Any) -> str:
    """Write a default as it stands in YAML."""
    return json.dumps(value).replace('"', "")


def _cell(text: str) -> str:
    """Make a text fit for a cell of a table."""
    return " ".join(text.split()).replace("|", "\\|")
