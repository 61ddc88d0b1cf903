"""What guests, hosts and files say reaches no terminal as it is."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

import vcloud
from vcloud.cli.options import Format
from vcloud.cli.output import emit
from vcloud.printable import escaped_json, on_one_line, printable

HOSTILE = (
    "\x1b[31mred\x1b[0m",
    "\x1b]0;title\x07",
    "\x9b31m",
    "a\rb",
    "a\bb",
    "a\x7fb",
    "a\u202eb",
    "a\u2066b",
    "a\u200bb",
    "a\u2028b",
    "a\x85b",
    "a\udcffb",
    "a\x00b",
)
HARMLESS = ("", "Grüße, 世界 ✓ a\u0301", "[bold]text[/bold] :smile: \\[x]", "'quoted' \\x1b")
FOLDER = Path(vcloud.__file__).parent
SPEAKS_ITSELF = {
    "cli/output.py": "the one place",
    "guests/console.py": "a console is the VM's own terminal",
    "enforce/host_report.py": "runs on hosts",
    "enforce/qemu_hook.py": "runs on hosts",
    "lab/responder.py": "runs in a lab",
}


@pytest.mark.parametrize("text", HOSTILE)
def test_what_acts_on_a_terminal_becomes_a_question_mark(text: str) -> None:
    assert printable(text).isprintable()
    assert "?" in printable(text)
    assert on_one_line(text).isprintable()


@pytest.mark.parametrize("text", HARMLESS)
def test_what_does_not_stays_as_it_is(text: str) -> None:
    assert printable(text) == on_one_line(text) == escaped_json(text) == text


def test_lines_stay_lines_where_they_may() -> None:
    assert printable("a\n\tb\n") == "a\n\tb\n"
    assert on_one_line("a\n\tb\r\nc") == "a  b c"


@given(st.text())
def test_any_text_becomes_printable(text: str) -> None:
    assert on_one_line(text).isprintable()
    assert len(printable(text)) == len(text)


@pytest.mark.parametrize("output", [Format.JSON, Format.YAML])
@pytest.mark.parametrize("text", [text for text in HOSTILE if "\udcff" not in text] + ["ä", "a\nb"])
def test_data_means_the_same_and_is_printable(
    text: str, output: Format, capsys: pytest.CaptureFixture[str]
) -> None:
    emit({text: [text]}, output)
    out = capsys.readouterr().out
    assert out.replace("\n", "").isprintable()
    assert (json.loads if output is Format.JSON else yaml.safe_load)(out) == {text: [text]}


def on_terminal(code: str) -> str:
    """What a terminal gets on stdout and stderr."""
    ours, theirs = os.openpty()
    with os.fdopen(ours, "rb", buffering=0) as screen:
        subprocess.run(
            [sys.executable, "-c", f"from vcloud.cli.output import *\n{code}"],
            stdout=theirs,
            stderr=theirs,
            stdin=subprocess.DEVNULL,
            check=True,
            cwd=FOLDER.parent,
            env={key: value for key, value in os.environ.items() if key != "NO_COLOR"}
            | {"TERM": "xterm", "COLUMNS": "200"},
        )
        os.close(theirs)
        shown = b""
        try:
            while part := screen.read(4096):
                shown += part
        # So Linux says that the other side has ended.
        except OSError:
            pass
    return shown.decode()


EVENT = "\\x1b]0;owned\\x07 [bold]x[/bold] \\u202e \\x9b2J"


@pytest.mark.parametrize(
    "code",
    [
        "say({event!r})",
        "say_error({event!r})",
        "tell({event!r})",
        "table('', ['a'], [[{event!r}]])",
        "pass_on({event!r}.encode(), b'')",
        "pass_on(b'', {event!r}.encode())",
        "write({event!r}.encode())",
        "emit([{event!r}], Format.YAML)",
        "emit([{event!r}], Format.JSON)",
        "with Progress() as progress: progress.report({event!r}, 's')",
        "with Progress() as progress: progress.report('s', {event!r})",
        "with Progress() as progress: progress.note({event!r})",
    ],
)
def test_no_way_of_output_lets_a_guest_act_on_the_terminal(code: str) -> None:
    shown = on_terminal(code.format(event=EVENT.encode().decode("unicode_escape")))
    assert "[bold]x[/bold]" in shown
    assert "owned" in shown
    assert [part for part in ("\x1b]", "\u202e", "\x9b", "\x07") if part in shown] == []


def test_a_pipe_gets_the_output_of_a_program_as_it_is() -> None:
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            r"from vcloud.cli.output import pass_on; pass_on(b'\x1b[31m\xff', b'\x9b')",
        ],
        capture_output=True,
        check=True,
        cwd=FOLDER.parent,
    )
    assert (done.stdout, done.stderr) == (b"\x1b[31m\xff", b"\x9b")


def speaks(tree: ast.AST) -> bool:
    """Whether a module prints by itself."""
    return any(
        ast.unparse(node.func) in ("print", "typer.echo", "typer.secho", "typer.confirm", "Console")
        or ast.unparse(node.func).endswith((".stdout.write", ".stderr.write", "buffer.write"))
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
    )


def test_only_one_module_prints() -> None:
    found = {
        str(path.relative_to(FOLDER))
        for path in FOLDER.rglob("*.py")
        if "remote" not in path.parts and speaks(ast.parse(path.read_text()))
    }
    assert found == set(SPEAKS_ITSELF)
