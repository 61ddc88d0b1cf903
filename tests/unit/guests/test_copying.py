"""`vcloud cp` over a real ssh to this machine: whole or not at all, in both directions."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from vcloud.cli.copy import place_of
from vcloud.cli.output import Progress
from vcloud.errors import GuestError, UsageError
from vcloud.guests.copying import Place, copy_in, receive, send


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """A folder with a file that has a hostile name, a link and a program."""
    folder = tmp_path / "here it is"
    (folder / "sub").mkdir(parents=True)
    (folder / "sub/$(touch x); 'a'\n").write_text("one")
    (folder / "program").write_text("#!/bin/sh\n")
    (folder / "program").chmod(0o755)
    (folder / "link").symlink_to("program")
    return folder


@pytest.fixture
def there(tmp_path: Path) -> Path:
    (tmp_path / "there").mkdir()
    return tmp_path / "there"


def told(_: int) -> None:
    pass


def tree(folder: Path) -> list[tuple[str, str]]:
    found = sorted(path for path in folder.rglob("*") if not path.is_dir())
    return [
        (
            str(path.relative_to(folder)),
            str(path.readlink()) if path.is_symlink() else path.read_text(),
        )
        for path in found
    ]


def test_a_folder_goes_in_and_comes_back(login: list[str], here: Path, there: Path) -> None:
    send(login, here, str(there), told)
    assert tree(there / here.name) == tree(here)
    assert os.access(there / here.name / "program", os.X_OK)
    found = receive(login, str(there / here.name), there / "back", told)
    assert (found.files, found.left) == (3, ())
    assert tree(there / "back") == tree(here)
    assert names_in(there) == ["back", here.name]


def test_a_file_is_replaced_and_a_folder_is_not(login: list[str], here: Path, there: Path) -> None:
    (there / "program").write_text("old")
    send(login, here / "program", str(there), told)
    assert (there / "program").read_text() == "#!/bin/sh\n"
    receive(login, str(there / "program"), here / "link", told)
    assert (here / "link").is_file()
    assert not (here / "link").is_symlink()
    (there / here.name).mkdir()
    with pytest.raises(UsageError, match="exists already"):
        send(login, here, str(there), told)
    with pytest.raises(UsageError, match="exists already"):
        receive(login, str(there), here.parent, told)
    assert names_in(there / here.name) == []


def test_what_is_not_there_is_said_and_leaves_nothing(
    login: list[str], here: Path, there: Path
) -> None:
    with pytest.raises(UsageError, match="there is no"):
        receive(login, str(there / "missing"), there / "x", told)
    with pytest.raises(UsageError, match="no folder"):
        send(login, here / "program", str(there / "missing/x"), told)
    with pytest.raises(UsageError, match="names no file"):
        receive(login, "/", there, told)
    assert names_in(there) == []


def test_a_copy_that_breaks_off_leaves_nothing_under_the_name(
    login: list[str], here: Path, there: Path
) -> None:
    class BrokenError(Exception):
        pass

    def broken(_: int) -> None:
        raise BrokenError

    with pytest.raises(BrokenError):
        receive(login, str(here), there / "x", broken)
    with pytest.raises(BrokenError):
        send(login, here, str(there), broken)
    assert not (there / here.name).exists()
    assert not (there / "x").exists()


def test_a_guest_that_sends_no_archive_is_an_error(there: Path) -> None:
    with pytest.raises(GuestError):
        receive(["sh", "-c", "echo nonsense"], "/x", there / "x", told)
    assert names_in(there) == []


def test_only_a_file_is_replaced_and_never_a_pipe_or_a_device(
    login: list[str], here: Path, there: Path
) -> None:
    os.mkfifo(there / "pipe")
    (there / "null").symlink_to("/dev/null")
    for name in ("pipe", "null"):
        with pytest.raises(UsageError, match="exists already"):
            receive(login, str(here / "program"), there / name, told)
        with pytest.raises(UsageError, match="exists already"):
            send(login, here / "program", str(there / name), told)
    assert (there / "pipe").is_fifo()
    assert (there / "null").is_symlink()
    assert names_in(there) == ["null", "pipe"]
    (there / "file").write_text("old")
    send(login, here / "program", str(there / "file"), told)
    assert (there / "file").read_text() == "#!/bin/sh\n"


@pytest.mark.parametrize(("after", "ends"), [("head -c 20000 /dev/zero", True), ("yes", False)])
def test_a_guest_that_does_not_stop_sending_is_an_error(
    here: Path, there: Path, after: str, *, ends: bool
) -> None:
    guest = ["sh", "-c", f'tar -C "{here}" -cf - program && {after}']
    if ends:
        receive(guest, "/program", there / "x", told)
        assert names_in(there) == ["x"]
        return
    with pytest.raises(GuestError, match="does not stop"):
        receive(guest, "/program", there / "x", told)
    assert names_in(there) == []


def test_a_source_that_cannot_be_copied_is_refused_before_a_host_is_asked(tmp_path: Path) -> None:
    place, progress = Place("shop", "web-1", "/x"), Progress(quiet=True)
    os.mkfifo(tmp_path / "pipe")
    for source in (tmp_path / "pipe", tmp_path / ("n" * 300), tmp_path / "missing"):
        with pytest.raises(UsageError, match=source.name[:20]):
            copy_in(source, place, "no-host", progress)


def test_a_place_in_a_vm_is_told_from_a_path_here() -> None:
    assert place_of("shop/web-1:/etc") == Place("shop", "web-1", "/etc")
    assert place_of("./shop:x") is None
    assert place_of("/a:b") is None
    assert place_of("file") is None
    with pytest.raises(UsageError, match="has no path"):
        place_of("shop/web-1:")


def test_a_place_takes_the_name_from_a_file_and_its_parameter_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    vapp, values = tmp_path / "vapp.yaml", tmp_path / "values.yaml"
    vapp.write_text("vcloud: 1\nname: ${n}\nparameters: {n: shop}\n")
    values.write_text("n: other\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("VCLOUD_FILE", raising=False)
    assert place_of("web-1:/x") == Place("shop", "web-1", "/x")
    assert place_of("web-1:/x", None, [values]) == Place("other", "web-1", "/x")
