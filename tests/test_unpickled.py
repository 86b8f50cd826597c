"""Nothing that the plugin writes is unpickled: what ``SECURITY.md`` says of loading, held against the source."""

from __future__ import annotations

import ast
from collections.abc import Iterator

import pytest

from tests.arm import ROOT

FILES = sorted((ROOT / "yolo_gradsafe").rglob("*.py"))
ARBITRARY = {"cloudpickle", "dill", "joblib", "marshal", "pickle", "shelve"}
SAFE = {"_Loader", "getattr(yaml, 'CSafeLoader', yaml.SafeLoader)"}
"""Loaders of YAML that build plain data; ``config._Loader`` is one of PyYAML's ``SafeLoader``."""
STAND_INS = "yolo_gradsafe/checkpoint.py"
"""Reads checkpoints of others by an ``Unpickler`` that looks up a few harmless names: ``tests/test_checkpoint.py``."""
ONLY_WRITES = "yolo_gradsafe/guard.py"
"""Asks whether a function can be pickled."""


def calls(tree: ast.AST) -> Iterator[tuple[str, ast.Call]]:
    """Yield the calls with what is called, as it is written."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func).replace("numpy.", "np."), node


def keyword(call: ast.Call, name: str) -> str:
    """Return a keyword of a call as it is written, nothing where it is not given."""
    return next((ast.unparse(given.value) for given in call.keywords if given.arg == name), "")


def imports(tree: ast.AST) -> set[str]:
    """Return the packages that a file imports."""
    names = [alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names]
    names += [node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    return {name.partition(".")[0] for name in names}


def unsafe(tree: ast.AST) -> Iterator[str]:
    """Yield what a file does that could build objects or run code out of data."""
    yield from imports(tree) & ARBITRARY
    for name, call in calls(tree):
        safe = {
            "np.load": keyword(call, "allow_pickle") == "False",
            "torch.load": keyword(call, "weights_only") == "True",
            "yaml.load": len(call.args) == 2 and ast.unparse(call.args[1]) in SAFE,
            **dict.fromkeys(("eval", "exec", "os.system", "yaml.full_load", "yaml.unsafe_load"), False),
        }
        if not safe.get(name, True):
            yield ast.unparse(call)


def test_what_is_loaded_is_plain_data():
    files = {file.relative_to(ROOT).as_posix(): ast.parse(file.read_text()) for file in FILES}
    assert len(files) > 200
    assert not [name for name, _ in calls(files[ONLY_WRITES]) if name.startswith("pickle.") and name != "pickle.dumps"]
    del files[STAND_INS]
    found = {name: [*unsafe(tree)] for name, tree in files.items()}
    assert found.pop(ONLY_WRITES) == ["pickle"]
    assert not {name: words for name, words in found.items() if words}


@pytest.mark.parametrize(
    "code",
    [
        "import pickle",
        "from cloudpickle import load",
        "np.load(path)",
        "np.load(path, allow_pickle=True)",
        "torch.load(path, weights_only=False)",
        "yaml.load(text, yaml.Loader)",
        "yaml.load(text)",
        "eval(text)",
    ],
)
def test_what_is_not_plain_data_is_noticed(code):
    assert [*unsafe(ast.parse(code))]


def test_options_build_no_objects(tmp_path):
    from yolo_gradsafe import Config, ConfigError

    planted, file = tmp_path / "planted", tmp_path / "options.yaml"
    file.write_text(
        f"clip: !!python/object/apply:pathlib.Path.touch [!!python/object/apply:pathlib.Path ['{planted}']]"
    )
    with pytest.raises(ConfigError, match="not readable as YAML"):
        Config.load(file)
    assert not planted.exists()
