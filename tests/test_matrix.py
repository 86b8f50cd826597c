"""The tests that depend on the version: what is listed exists, and what is counted is right."""

from __future__ import annotations

import re
import sys
from xml.etree import ElementTree

import pytest

from tests import matrix

REPORT = """<testsuites><testsuite>
<testcase name="one"/><testcase name="two"><skipped/></testcase>
<testcase name="three"><failure>AssertionError: an epoch was redone (Fitness collapse)</failure></testcase>
<testcase name="four"><error>ImportError</error></testcase>
</testsuite></testsuites>"""


@pytest.mark.parametrize("node", matrix.TESTS)
def test_what_is_listed_exists(node):
    path, _, name = node.partition("::")
    assert (matrix.ROOT / path).exists()
    function = name.partition("[")[0]
    assert not function or re.search(rf"^def {function}\(", (matrix.ROOT / path).read_text(), re.MULTILINE)


@pytest.mark.parametrize(("release", "failed", "limited"), [("8.4.104", 1, 1), ("8.4.140", 2, 0)])
def test_a_known_limit_is_no_failure(release, failed, limited):
    [known] = [one for one in matrix.RELEASES if one.ultralytics == release]
    row = matrix.count(known, release, "2.9.1+cu128", 60.0, ElementTree.fromstring(REPORT))
    assert (row.passed, row.skipped, row.failed, row.limited, row.torch) == (1, 1, failed, limited, "2.9.1")
    assert "four" in matrix.table([row])


def test_an_interpreter_that_is_not_here_gives_way_to_the_one_that_runs():
    assert matrix.find_python("2.6", "") == sys.executable
    assert matrix.find_python("2.6", "3.0") is None
    assert matrix.version_of(sys.executable) == "{}.{}".format(*sys.version_info)
