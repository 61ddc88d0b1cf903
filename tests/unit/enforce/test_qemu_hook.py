"""The hook as a program that any host can run. tests/netns/host runs it, tests/lab has it in libvirt."""

from __future__ import annotations

import ast
import subprocess
import sys

from vcloud.enforce.install import PYTHON, hook_text
from vcloud.marks import NAMESPACE


def test_it_is_one_file_for_python_3_9_and_imports_only_the_standard_library() -> None:
    tree = ast.parse(hook_text(), feature_version=(3, 9))
    imports = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
    modules = {
        name.partition(".")[0]
        for node in imports
        for name in (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [str(node.module)]
        )
    }
    assert {"json", "fcntl", "__future__"} <= modules <= {*sys.stdlib_module_names, "__future__"}
    assert hook_text().startswith(b"#!/bin/sh\n")
    assert hook_text().count(PYTHON.as_posix().encode()) == 3


def test_it_runs_without_vcloud() -> None:
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-", "shop.web", "stopped", "end"],
        input=hook_text(),
        capture_output=True,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


def test_it_finds_the_mark_that_vcloud_leaves() -> None:
    from vcloud.enforce.hook_terms import MARK, TERMS

    assert f"{{{NAMESPACE}}}vm" == MARK
    assert TERMS.startswith(f"{{{NAMESPACE}/")
