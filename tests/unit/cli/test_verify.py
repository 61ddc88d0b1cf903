"""`vcloud verify` before and after the run itself."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from vcloud.cli.app import app
from vcloud.cli.verify import check_writable
from vcloud.errors import UsageError


def test_a_report_that_can_be_written_leaves_nothing_before_the_run(tmp_path: Path) -> None:
    new, old = tmp_path / "new.xml", tmp_path / "old.xml"
    old.write_text("of an earlier run")
    check_writable(new)
    check_writable(old)
    assert not new.exists()
    assert old.read_text() == "of an earlier run"


def test_a_server_that_is_written_wrongly_is_said_before_the_run() -> None:
    """The host does not exist: nobody got as far as to ask it. The twin gets so far."""
    runs = {
        server: CliRunner()
        .invoke(app, ["verify", "shop", "-c", "test:///none", "--outside", server])
        .exception
        for server in ("192.0.2.300", "192.0.2.30")
    }
    assert isinstance(runs["192.0.2.300"], UsageError)
    assert not isinstance(runs["192.0.2.30"], UsageError)


@pytest.mark.parametrize("name", ["no/such/folder.xml", "folder", "folder.xml/below", "x" * 300])
def test_a_report_that_cannot_be_written_is_said_before_the_run(tmp_path: Path, name: str) -> None:
    """The host does not exist: nobody got as far as to ask it."""
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder.xml").touch()
    with pytest.raises(UsageError, match="cannot be written"):
        check_writable(tmp_path / name)
    done = CliRunner().invoke(
        app, ["verify", "shop", "-c", "test:///none", "--junit", str(tmp_path / name)]
    )
    assert isinstance(done.exception, UsageError)
    assert "cannot be written" in done.exception.what
