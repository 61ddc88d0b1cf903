"""The tree `files/` of a recipe, also of a hostile one; and what an image packs of itself."""

from __future__ import annotations

import io
import os
import tarfile
from pathlib import Path

import pytest

from vcloud.errors import ImageError
from vcloud.images.recipe import digest, load_recipe
from vcloud.images.taken import unpack_files
from vcloud.images.tree import DEEPEST, Entry, add_to, entries


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    folder = tmp_path / "api"
    (folder / "files/etc").mkdir(parents=True)
    (folder / "files/etc/api.conf").write_text("answer=42\n")
    (folder / "files/etc-more").write_text("more\n")
    (folder / "files/link").symlink_to("/etc/shadow")
    (folder / "image.yaml").write_text("")
    return folder


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    folder = tmp_path / "home"
    folder.mkdir()
    (folder / "key").write_text("secret\n")
    return folder


def packed(recipe: Path) -> dict[str, str]:
    """Name -> content or target of each entry."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for entry in entries(recipe):
            add_to(archive, entry)
    buffer.seek(0)
    with tarfile.open(fileobj=buffer) as archive:
        return {
            member.name: content.read().decode()
            if (content := archive.extractfile(member) if member.isreg() else None)
            else f"-> {member.linkname}"
            for member in archive
        }


def test_files_and_links_are_packed_as_they_are(recipe: Path) -> None:
    assert packed(recipe) == {
        "etc/api.conf": "answer=42\n",
        "etc-more": "more\n",
        "link": "-> /etc/shadow",
    }
    assert packed(recipe.parent) == {}, "a recipe needs no files"


def test_a_link_in_the_place_of_files_is_refused(recipe: Path, secret: Path) -> None:
    (recipe / "files").rename(recipe / "kept")
    for target in (secret, "../home", "kept"):
        (recipe / "files").symlink_to(target)
        with pytest.raises(ImageError, match="is a symbolic link or a file") as failure:
            digest(load_recipe(recipe))
        assert "Copy" in failure.value.hint
        (recipe / "files").unlink()
    (recipe / "kept").rename(recipe / "files")
    assert digest(load_recipe(recipe))


def test_a_link_to_a_folder_is_not_entered(recipe: Path, secret: Path) -> None:
    (recipe / "files/home").symlink_to(secret)
    assert packed(recipe)["home"] == f"-> {secret}"
    assert "home/key" not in packed(recipe)


@pytest.mark.parametrize("kind", ["link", "folder link", "pipe"])
def test_what_is_exchanged_while_the_tree_is_read_leads_nowhere(
    recipe: Path, secret: Path, kind: str
) -> None:
    """The tree was looked at, and then somebody puts something else in the place."""
    (recipe / "files/only").mkdir()
    file = recipe / "files/only/key"
    file.write_text("own\n")
    walk = (entry for entry in entries(recipe) if entry.name == "only/key")
    entry = next(walk)
    with entry.opened() as content:
        assert content.read() == b"own\n"
    file.unlink()
    match kind:
        case "link":
            file.symlink_to(secret / "key")
        case "folder link":
            file.parent.rmdir()
            file.parent.symlink_to(secret)
        case "pipe":
            os.mkfifo(file)
    with pytest.raises(ImageError), entry.opened():
        pass


def test_a_recipe_that_leads_out_of_its_folder_is_refused(recipe: Path, secret: Path) -> None:
    (secret / "image.yaml").write_text("memory: 200M\n")
    (recipe / "image.yaml").unlink()
    (recipe / "image.yaml").symlink_to(secret / "image.yaml")
    with pytest.raises(ImageError, match="leads out of the recipe's folder"):
        load_recipe(recipe)
    (recipe / "image.yaml").unlink()
    (recipe / "real.yaml").write_text("memory: 200M\n")
    (recipe / "image.yaml").symlink_to("real.yaml")
    assert load_recipe(recipe).memory == 200 << 20


def test_a_tree_without_end_is_refused(recipe: Path) -> None:
    deep = recipe / "files" / "/".join(["d"] * DEEPEST)
    deep.mkdir(parents=True)
    (deep / "file").write_text("deep")
    assert packed(recipe)[f"{'d/' * DEEPEST}file"] == "deep"
    (deep / "more").mkdir()
    with pytest.raises(ImageError, match="deeper than"):
        list(entries(recipe))


def archive_of(*members: tuple[str, bytes, bytes]) -> io.BytesIO:
    """An archive of (name, type, content or target)."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, kind, text in members:
            member = tarfile.TarInfo(name)
            member.type = kind
            if kind == tarfile.REGTYPE:
                member.size = len(text)
                archive.addfile(member, io.BytesIO(text))
            else:
                member.linkname = text.decode()
                archive.addfile(member)
    buffer.seek(0)
    return buffer


@pytest.mark.parametrize("name", ["../out", "/out", "a/../../out", "a/.."])
def test_a_name_that_leads_out_of_an_image_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ImageError, match="leads out of the image"):
        unpack_files(archive_of((name, tarfile.REGTYPE, b"x")), tmp_path / "in")
    assert not (tmp_path / "out").exists()


def test_only_regular_files_are_taken_out_of_an_image(tmp_path: Path, secret: Path) -> None:
    unpack_files(
        archive_of(
            ("a/b", tarfile.REGTYPE, b"own"),
            ("link", tarfile.SYMTYPE, str(secret).encode()),
            ("link/key", tarfile.REGTYPE, b"owned"),
            ("hard", tarfile.LNKTYPE, str(secret / "key").encode()),
            ("disk", tarfile.BLKTYPE, b""),
        ),
        tmp_path / "in",
    )
    assert (tmp_path / "in/a/b").read_text() == "own"
    assert (tmp_path / "in/link/key").read_text() == "owned"
    assert not (tmp_path / "in/link").is_symlink()
    assert not (tmp_path / "in/hard").exists()
    assert not (tmp_path / "in/disk").exists()
    assert (secret / "key").read_text() == "secret\n"


@pytest.mark.parametrize("data", [b"no archive", b"\0" * 512 + b"rest", b"x" * 5000])
def test_what_is_no_archive_is_a_sentence(tmp_path: Path, data: bytes) -> None:
    try:
        unpack_files(io.BytesIO(data), tmp_path / "in")
    except ImageError as error:
        assert "cannot be read" in error.what  # noqa: PT017 - an empty archive is no error
    assert not (tmp_path / "in").exists()


def test_an_entry_knows_what_the_digest_says_of_it(recipe: Path) -> None:
    found: dict[str, Entry] = {}
    prints = {}
    for entry in entries(recipe):
        found[entry.name], prints[entry.name] = entry, entry.fingerprint()
    assert prints["link"] == "-> /etc/shadow"
    assert prints["etc/api.conf"] != prints["etc-more"]
    assert found["etc/api.conf"].mode & 0o022 == 0
