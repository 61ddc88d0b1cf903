"""Recipes: what is read, what is refused, and what changes a digest."""

from __future__ import annotations

import os
import re
import socket
from pathlib import Path

import pytest
import yaml

from vcloud.data import images_dir
from vcloud.errors import ImageError, SpecError
from vcloud.images.recipe import digest, load_recipe


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "api"
    (folder / "files/etc").mkdir(parents=True)
    (folder / "files/etc/api.conf").write_text("answer=42\n")
    return folder


def write(folder: Path, text: str) -> Path:
    (folder / "image.yaml").write_text(text)
    return folder


@pytest.mark.parametrize(
    "folder",
    sorted(path.parent for path in images_dir().glob("*/image.yaml")),
    ids=lambda folder: folder.name,
)
def test_every_shipped_recipe_loads(folder: Path) -> None:
    recipe = load_recipe(folder)
    assert recipe.name == folder.name
    assert recipe.memory >= 64 << 20


def test_an_empty_recipe_is_its_base(folder: Path) -> None:
    recipe = load_recipe(write(folder, ""))
    assert recipe.base is not None
    assert recipe.base.name == "base"
    assert (recipe.memory, recipe.modules) == (recipe.base.memory, recipe.base.modules)


def test_a_recipe_adds_to_its_base_or_changes_it(folder: Path) -> None:
    recipe = load_recipe(
        write(folder, "base: postgres\nmodules: [tun]\ndisks: {logs: /var/log}\nmemory: 1G\n")
    )
    assert recipe.base is not None
    assert recipe.modules == (*recipe.base.modules, "tun")
    assert dict(recipe.disks) == {"data": "/var/lib/postgresql", "logs": "/var/log"}
    assert recipe.memory == 1 << 30


def test_a_base_may_be_a_folder_of_ones_own(folder: Path) -> None:
    other = folder.parent / "other"
    other.mkdir()
    write(other, "memory: 200MiB\n")
    recipe = load_recipe(write(folder, "base: ../other\n"))
    assert recipe.base is not None
    assert (recipe.base.folder, recipe.memory) == (other, 200 << 20)


def test_a_recipe_that_is_its_own_base_is_refused(folder: Path) -> None:
    with pytest.raises(
        SpecError, match=r"image\.yaml:2: base: the image recipe .* is its own base"
    ):
        load_recipe(write(folder, "memory: 1G\nbase: ../api\n"))


@pytest.mark.parametrize("base", ["nothing", "./nothing", "./files", "./loop"])
def test_a_base_that_is_no_recipe_is_named_with_its_line(folder: Path, base: str) -> None:
    (folder / "loop").symlink_to("loop")
    with pytest.raises(
        SpecError, match=r"image\.yaml:1: base: there is no image recipe in "
    ) as failure:
        load_recipe(write(folder, f"base: {base}\n"))
    assert "nginx" in failure.value.problems[0].hint


def test_a_missing_recipe_names_the_shipped_ones(tmp_path: Path) -> None:
    with pytest.raises(ImageError) as failure:
        load_recipe(tmp_path / "nothing")
    assert "nginx" in failure.value.hint


def test_all_problems_come_at_once_with_their_lines_and_the_nearest_key(folder: Path) -> None:
    with pytest.raises(SpecError) as failure:
        load_recipe(write(folder, "pakages: [nginx]\nmemory: much\n\ndisks: {data: var/lib}\n"))
    problems = {(problem.field, problem.line) for problem in failure.value.problems}
    assert problems == {("pakages", 1), ("memory", 2), ("disks.data", 4)}
    assert any("'packages'" in problem.hint for problem in failure.value.problems)


@pytest.mark.parametrize(
    "text",
    [
        "packages: [--allow-unauthenticated]",
        "packages: ['nginx; reboot']",
        "packages: [nginx-]",
        "packages: nginx",
        "modules: [../evil]",
        "disks: {data: /a/../b}",
        "disks: {Data: /a}",
        "memory: 384",
        "commands: ['']",
        "- a list",
        "packages: [",
        "packages: !!python/object/apply:os.system [true]",
    ],
)
def test_what_is_not_a_recipe_is_refused(folder: Path, text: str) -> None:
    with pytest.raises(SpecError):
        load_recipe(write(folder, text))


@pytest.mark.parametrize(
    ("line", "field", "what"),
    [
        ('base: "./a\\0b"', "base", "'./a\\x00b' is not a path that vcloud supports"),
        ("check: !!int abc", "check", "the YAML tag tag:yaml.org,2002:int is not allowed"),
        ("? 2001-99-99", "2001-99-99", "unknown key"),
        ("check: [a]", "check", "expected text, but this is a list"),
        ("disks: {A: /a}", "disks.A", "'A' is not a valid disk name"),
        ("disks: {a: {}}", "disks.a", "expected text, but this is a mapping"),
        ("commands: run", "commands", "expected a list, but this is 'run'"),
        ("commands: [null]", "commands[0]", "expected text, but this is empty"),
        ("commands: ['']", "commands[0]", "the command is empty"),
        ("memory: 1M", "memory", "'1M' is not between 64M and 64T"),
        (
            "check: yes",
            "check",
            "some YAML readers take yes without quotes as true, others as text",
        ),
        ("check: a\0b", "", "the file contains the control character '\\x00'"),
        (
            "packages: [a, nginx]\ncheck: x\ncheck: y",
            "packages[0]",
            "'a' is not a valid Debian package",
        ),
    ],
)
def test_a_wrong_recipe_is_described_as_a_vapp_file_is(
    folder: Path, line: str, field: str, what: str
) -> None:
    with pytest.raises(SpecError) as failure:
        load_recipe(write(folder, f"# a recipe\n{line}\n"))
    problem = failure.value.problems[0]
    assert (problem.file, problem.line, problem.field) == (str(folder / "image.yaml"), 2, field)
    assert problem.what.startswith(what)


def test_a_recipe_without_an_end_fills_no_memory(folder: Path) -> None:
    write(folder, "base: base\n")
    with (folder / "image.yaml").open("ab") as file:
        file.truncate(1 << 40)
    with pytest.raises(SpecError, match="larger than 8 MiB"):
        load_recipe(folder)


@pytest.mark.parametrize("name", ["x" * 240, "a b", "ü", "a\nb"])
def test_a_recipe_may_have_any_name_that_a_folder_may_have(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    recipe = load_recipe(write(tmp_path / name, ""))
    assert re.fullmatch(r"[A-Za-z0-9._-]{1,100}", recipe.name)


@pytest.mark.parametrize("text", ["- a list\n", "just text\n"])
def test_a_recipe_is_a_mapping(folder: Path, text: str) -> None:
    with pytest.raises(SpecError, match="must be a mapping") as failure:
        load_recipe(write(folder, text))
    assert failure.value.problems[0].hint == "For example: base: base"


@pytest.mark.parametrize(
    "folder",
    sorted(path.parent for path in images_dir().glob("*/image.yaml")),
    ids=lambda folder: folder.name,
)
def test_shipped_recipes_say_the_same_to_every_reader_of_yaml(folder: Path) -> None:
    written = yaml.safe_load((folder / "image.yaml").read_text())
    recipe = load_recipe(folder)
    assert recipe.commands == tuple(written.get("commands", ()))
    assert recipe.check == written.get("check", "true")


def test_a_pipe_among_the_files_is_refused_and_not_waited_for(folder: Path) -> None:
    os.mkfifo(folder / "files" / "pipe")
    with pytest.raises(
        ImageError, match="pipe is neither a file, nor a folder, nor a symbolic link"
    ):
        digest(load_recipe(write(folder, "")))


def test_a_socket_among_the_files_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind("files/talk")
        with pytest.raises(ImageError, match="talk is neither"):
            list(load_recipe(write(folder, "")).files())


@pytest.mark.parametrize(
    "package", ["nginx", "libstdc++6", "g++", "nginx=1.26.3-3+deb13u1", "libc6:amd64"]
)
def test_package_names_as_apt_knows_them_are_taken(folder: Path, package: str) -> None:
    assert load_recipe(write(folder, f"packages: ['{package}']")).packages == (package,)


def test_a_digest_does_not_depend_on_comments_umask_and_order_of_added_packages(
    folder: Path,
) -> None:
    before = digest(load_recipe(write(folder, "packages: [nginx]\n")), ("a1", "b1"))
    (folder / "files/etc/api.conf").chmod(0o664)
    after = digest(load_recipe(write(folder, "# why\npackages: [nginx]\n")), ("b1", "a1"))
    assert before == after


@pytest.mark.parametrize("change", ["content", "mode", "name", "link", "command", "base"])
def test_whatever_goes_into_an_image_changes_its_digest(folder: Path, change: str) -> None:
    before = digest(load_recipe(write(folder, "packages: [nginx]\n")))
    file = folder / "files/etc/api.conf"
    match change:
        case "content":
            file.write_text("answer=43\n")
        case "mode":
            file.chmod(0o600)
        case "name":
            file.rename(file.with_name("other.conf"))
        case "link":
            file.with_name("link").symlink_to("api.conf")
        case "command":
            write(folder, "packages: [nginx]\ncommands: ['true']\n")
        case "base":
            write(folder, "base: nginx\npackages: [nginx]\n")
    assert digest(load_recipe(folder)) != before


def test_added_packages_change_the_digest(folder: Path) -> None:
    recipe = load_recipe(write(folder, ""))
    assert digest(recipe, ("curl",)) != digest(recipe)
