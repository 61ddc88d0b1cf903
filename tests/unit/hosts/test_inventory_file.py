"""Changes of an inventory: it says exactly what it should, and loses no word of anybody's."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vcloud.errors import SpecError, UsageError
from vcloud.hosts.inventory import HostRef, load_inventory
from vcloud.hosts.inventory_file import add_host, inventory_path, read_inventory, remove_host

NEW = HostRef("new", "qemu+ssh://root@new/system", labels=(("site", "eu"), ("rack", "on")))
BLOCK = """\
# Our hosts, see the wiki.
hosts:
  # The old one.
  h1:
    uri: qemu+ssh://root@h1/system   # behind the door
    labels: {site: eu}
    # nothing more

  h2: {uri: qemu+ssh://root@h2/system}  # small

# The end.
"""
FORMS = {
    "block": BLOCK,
    "without an end of the last line": BLOCK.rstrip("\n").removesuffix("# The end.").rstrip("\n"),
    "windows": BLOCK.replace("\n", "\r\n"),
    "deep": BLOCK.replace("\n  ", "\n      "),
    "flow": "hosts: {h1: {uri: qemu:///a}, h2: {uri: qemu:///b}}  # all\n",
    "flow in lines": "hosts: {\n  h1: {uri: qemu:///a},  # one\n  h2: {uri: qemu:///b},\n}\n# end\n",
    "aliases": "hosts:\n  h1: &one {uri: qemu:///a, templates: 1G}\n  h2: {<<: *one, uri: qemu:///b}\n",
    "quotes": "'hosts':\n  \"h1\": {uri: qemu:///a}\n  'h2':\n    'uri': \"qemu:///b\"\n",
    "folded": "hosts:\n  h1: {uri: qemu:///a}\n  h2:\n    uri: >-\n      qemu:///b\n",
    "a byte order mark": f"\N{BYTE ORDER MARK}{BLOCK}",
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "hosts.yaml"


def written(path: Path, text: str) -> tuple[HostRef, ...]:
    path.write_bytes(text.encode())
    return load_inventory(path)


def comments(text: str) -> list[str]:
    return [line.partition("#")[2] for line in text.splitlines() if "#" in line]


@pytest.mark.parametrize("text", FORMS.values(), ids=FORMS.keys())
def test_a_host_more_changes_nothing_else(path: Path, text: str) -> None:
    before = written(path, text)
    add_host(read_inventory(path), NEW)
    assert load_inventory(path) == (*before, NEW)
    after = path.read_bytes().decode()
    assert comments(after) == comments(text)
    added = [line for line in after.splitlines() if line not in text.splitlines()]
    assert all("new" in line or "site" in line or "h2" in line for line in added)
    assert ("\r\n" in after) == ("\r\n" in text)


@pytest.mark.parametrize("text", FORMS.values(), ids=FORMS.keys())
def test_what_was_added_and_removed_again_leaves_the_text_as_it_was(path: Path, text: str) -> None:
    written(path, text)
    add_host(read_inventory(path), NEW)
    remove_host(read_inventory(path), "new")
    assert path.read_bytes().decode().rstrip() == text.rstrip()


@pytest.mark.parametrize("name", ["h1", "h2"])
@pytest.mark.parametrize("text", FORMS.values(), ids=FORMS.keys())
def test_a_host_less_leaves_the_others(path: Path, text: str, name: str) -> None:
    before = written(path, text)
    if name == "h1" and "&one" in text:
        with pytest.raises(UsageError, match="written in a way that vcloud does not change"):
            remove_host(read_inventory(path), name)
        assert path.read_bytes().decode() == text
        return
    remove_host(read_inventory(path), name)
    assert load_inventory(path) == tuple(host for host in before if host.name != name)
    assert name not in path.read_bytes().decode()


def test_comments_of_others_outlive_a_host(path: Path) -> None:
    written(path, BLOCK)
    remove_host(read_inventory(path), "h1")
    text = path.read_text()
    assert "# Our hosts, see the wiki." in text
    assert "# small" in text
    assert "# The end." in text


def test_the_last_host_takes_the_name_of_the_file_with_it(path: Path) -> None:
    """An inventory without hosts is none, and a file of comments is somebody's work."""
    text = "# precious\nhosts: {h1: {uri: qemu:///a}}\n"
    for number in ("", "1"):
        written(path, text)
        aside = remove_host(read_inventory(path), "h1")
        assert aside == path.with_name(f"hosts.yaml.removed{number}")
        assert aside.read_text() == text
        assert not path.exists()


@pytest.mark.parametrize("text", [None, "", "# only words\n", "# only words"])
def test_the_first_host_makes_the_file(tmp_path: Path, text: str | None) -> None:
    path = tmp_path / "folder" / "hosts.yaml"
    if text is not None:
        path.parent.mkdir()
        path.write_text(text)
    add_host(read_inventory(path), NEW)
    assert load_inventory(path) == (NEW,)
    assert path.read_text().startswith(text or "hosts:")
    assert path.stat().st_mode & 0o077 in (0, 0o044)


def test_all_that_a_new_host_may_have_is_written(path: Path) -> None:
    full = replace(NEW, ssh_config=Path("/a b/c"), operator_key=Path("/k: #1"))
    add_host(read_inventory(path), full)
    assert load_inventory(path) == (full,)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(
    value=st.text(
        st.characters(codec="utf-8", exclude_categories=["C", "Z"]), min_size=1, max_size=20
    ),
    name=st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,20}", fullmatch=True),
)
def test_any_label_is_written_so_that_it_is_read_again(path: Path, value: str, name: str) -> None:
    path.unlink(missing_ok=True)
    host = HostRef(name, "qemu+ssh://root@new/system", labels=(("site", value),))
    add_host(read_inventory(path), host)
    assert load_inventory(path) == (host,)


def test_a_file_with_problems_is_not_touched(path: Path) -> None:
    text = "hosts: {h1: {url: x}}\n"
    path.write_text(text)
    with pytest.raises(SpecError):
        read_inventory(path)
    assert path.read_text() == text


def test_a_file_that_cannot_be_changed_is_told_with_what_to_write(path: Path) -> None:
    path.write_bytes("# Größe\n".encode("latin-1"))
    before = path.read_bytes()
    with pytest.raises(UsageError, match="written in a way that vcloud does not change") as caught:
        add_host(read_inventory(path), NEW)
    assert (
        'new: {uri: qemu+ssh://root@new/system, labels: {site: eu, rack: "on"}}'
        in caught.value.hint
    )
    assert path.read_bytes() == before


def test_who_changes_it_in_between_loses_nothing(path: Path) -> None:
    written(path, BLOCK)
    mine, theirs = read_inventory(path), read_inventory(path)
    add_host(theirs, replace(NEW, name="theirs"))
    with pytest.raises(UsageError, match="somebody else has changed"):
        add_host(mine, NEW)
    assert [host.name for host in load_inventory(path)] == ["h1", "h2", "theirs"]


def test_of_many_at_once_each_is_written_or_told_to_come_again(path: Path) -> None:
    written(path, BLOCK)
    told: list[str] = []

    def add(name: str) -> None:
        try:
            add_host(read_inventory(path), replace(NEW, name=name))
        except UsageError as error:
            told.append(error.what)
        else:
            told.append(name)

    threads = [threading.Thread(target=add, args=(f"n{number}",)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    names = {host.name for host in load_inventory(path)} - {"h1", "h2"}
    assert names == {one for one in told if one.startswith("n")}
    assert len(told) == 8
    assert [*path.parent.iterdir()] == [path]


def test_a_link_stays_one_and_the_file_keeps_its_rights(path: Path, tmp_path: Path) -> None:
    real = tmp_path / "dotfiles"
    real.write_text(BLOCK)
    real.chmod(0o640)
    path.symlink_to(real)
    add_host(read_inventory(path), NEW)
    assert path.is_symlink()
    assert real.stat().st_mode & 0o777 == 0o640
    assert "new" in real.read_text()


def test_the_file_is_the_user_s_own_and_not_that_of_a_lab(tmp_path: Path) -> None:
    nowhere = {"VCLOUD_LAB_DIR": str(tmp_path / "labs"), "HOME": str(tmp_path)}
    own = tmp_path / ".config" / "vcloud" / "hosts.yaml"
    assert inventory_path(nowhere) == own
    (tmp_path / "labs" / "lab").mkdir(parents=True)
    (tmp_path / "labs" / "lab" / "hosts.yaml").write_text(BLOCK)
    with pytest.raises(UsageError, match="the lab 'lab' runs") as caught:
        inventory_path(nowhere)
    assert f"VCLOUD_INVENTORY={own}" in caught.value.hint
    assert inventory_path(nowhere | {"VCLOUD_INVENTORY": "/x"}) == Path("/x")
