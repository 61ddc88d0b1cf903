"""What the command itself costs, beside an empty program of two commands made with the same
library; and the compiler on long lists.
"""

from __future__ import annotations

import functools
import statistics
import sys
from pathlib import Path

import pytest

from tests.bench.table import command, compare, show, timed
from tests.vm.driver import ROOT, VCLOUD
from vcloud.compile.artifacts import compile_vapp
from vcloud.pipeline import design_of, load_file
from vcloud.views.render import UPLINK

RUNS = 21
EMPTY = """\
import typer

app = typer.Typer()


@app.command()
def one() -> None:
    pass


@app.command()
def two() -> None:
    pass


app()
"""


def test_help_and_validate(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    empty = tmp_path / "empty.py"
    empty.write_text(EMPTY)
    shop = str(ROOT / "templates/vapps/shop.yaml")
    commands = {
        "empty typer app --help": (sys.executable, str(empty), "--help"),
        "vcloud --help": (*VCLOUD, "--help"),
        "vcloud validate shop.yaml": (*VCLOUD, "validate", shop),
    }
    found: dict[str, list[float]] = {label: [] for label in commands}
    for _ in range(RUNS):  # in turns, so that a machine that slows down does so for all
        for label, argv in commands.items():
            found[label] += timed(functools.partial(command, *argv))
    with capsys.disabled():
        show("whole processes", found, "empty typer app --help")
        empty_app, shown, validated = (statistics.median(found[label]) for label in commands)
        compare({"help": shown / empty_app, "validate": validated / empty_app})


@pytest.mark.parametrize("flows", [100, 1000, 10_000])
def test_compile_many_flows(flows: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A thousand times the flows must not cost much more than a thousand times the time."""
    lines = [
        "vcloud: 1",
        "name: many",
        "zones: {a: {}, b: {}}",
        "vms:",
        "  x: {image: base, zone: a, count: 50}",
        "  y: {image: base, zone: b}",
    ]
    lines += [
        "flows:",
        *(
            f"  - {{id: f{number}, from: x, to: y, service: tcp/{number + 1}}}"
            for number in range(flows // 50)
        ),
    ]
    file = tmp_path / "many.yaml"
    file.write_text("\n".join(lines) + "\n")
    load = timed(lambda: load_file(file, {}))
    design = design_of(load_file(file, {}))
    compiled = timed(lambda: compile_vapp(design, UPLINK))
    with capsys.disabled():
        show(f"{flows} paths", {"load": load, "compile": compiled}, "load")
