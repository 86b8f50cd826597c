"""Fetches the one script that the pages draw with: ``python scripts/fetch_plotly.py [VERSION]``.

It is Plotly's cartesian build from npm's registry, checked against the registry's own checksum, compressed, and kept
with its licence and where it came from in ``yolo_gradsafe/report/page/assets/plotly``. The Python package of that name,
which is 64 MB, is not needed.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import io
import json
import sys
import tarfile
import urllib.request
from pathlib import Path

PACKAGE = "plotly.js-cartesian-dist-min"
SCRIPT = "plotly-cartesian.min.js"
FOLDER = Path(__file__).parent.parent / "yolo_gradsafe" / "report" / "page" / "assets" / "plotly"


def main(version: str = "latest") -> None:
    """Fetch a version, and write what is kept of it."""
    about = json.loads(_read(f"https://registry.npmjs.org/{PACKAGE}/{version}"))
    tarball = _read(about["dist"]["tarball"])
    kind, _, digest = about["dist"]["integrity"].partition("-")
    if base64.b64encode(hashlib.new(kind, tarball).digest()).decode() != digest:
        raise SystemExit(f"{about['dist']['tarball']} is not what the registry says it is")
    with tarfile.open(fileobj=io.BytesIO(tarball)) as archive:
        script, licence = (archive.extractfile(f"package/{name}").read() for name in (SCRIPT, "LICENSE"))
    FOLDER.mkdir(parents=True, exist_ok=True)
    (FOLDER / f"{SCRIPT}.gz").write_bytes(gzip.compress(script, 9, mtime=0))
    (FOLDER / "LICENSE").write_bytes(licence)
    source = {
        "package": PACKAGE,
        "version": about["version"],
        "license": about["license"],
        "url": about["dist"]["tarball"],
        "integrity": about["dist"]["integrity"],
        "sha256": hashlib.sha256(script).hexdigest(),
    }
    (FOLDER / "SOURCE.json").write_text(json.dumps(source, indent=2) + "\n")
    print(f"{PACKAGE} {about['version']}: {len(script) / 1e6:.2f} MB, sha256 {source['sha256']}")


def _read(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=60) as answer:
        return answer.read()


if __name__ == "__main__":
    main(*sys.argv[1:2])
