"""What is built anew, in which order, and which images of the cache nobody needs any more."""

from __future__ import annotations

from pathlib import Path

import pytest

from vcloud.data import images_dir
from vcloud.images.cache import Cache, Image
from vcloud.images.description import Description
from vcloud.images.recipe import load_recipe
from vcloud.images.refresh import Buildable, outdated, refresh, source_of


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "cache")


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    """A recipe of a user's own, over a shipped one."""
    folder = tmp_path / "api"
    folder.mkdir()
    (folder / "image.yaml").write_text("base: nginx\n")
    return folder


def put(cache: Cache, what: Buildable, *, source: str | None = None) -> Image:
    """An image of the cache, as if it had been built."""

    def make(folder: Path) -> Description:
        for name in ("disk.qcow2", "vmlinux"):
            (folder / name).write_text(what.label)
        return Description(
            what.recipe.name,
            what.digest,
            source=str(what.recipe.folder) if source is None else source,
            added=what.added,
        )

    return cache.fill(what.recipe.name, what.digest, make, lambda _: None)


def own(cache: Cache, digest: str, source: str) -> Image:
    """A user's qcow2 in the cache."""

    def make(folder: Path) -> Description:
        (folder / "disk.qcow2").write_text(digest)
        return Description("own", digest, content=digest, source=source)

    return cache.fill("own", digest, make, lambda _: None)


def test_what_an_image_starts_from_is_built_first_and_once(
    cache: Cache, recipe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is built here: the machine lacks every program for it. So the first image fails, and
    those that start from it are not tried.
    """
    monkeypatch.setenv("PATH", "/nowhere")
    said: list[tuple[str, str]] = []
    wanted = [
        Buildable(load_recipe(recipe), ("less",)),
        Buildable(load_recipe(images_dir() / "nginx")),
    ]
    results = refresh(wanted, cache, lambda subject, text: said.append((subject, text)))
    assert [result.what.label for result in results] == ["base", "nginx", "api", "api with less"]
    assert all(result.error and result.after is None for result in results)
    assert [str(result.error) for result in results[1:]] == [
        "the image nginx starts from base, which could not be built",
        "the image api starts from nginx, which could not be built",
        "the image api with less starts from api, which could not be built",
    ]
    assert {subject for subject, _ in said} == {"image base"}


def test_what_an_image_starts_from_is_not_built_again_if_it_is_new(
    cache: Cache, recipe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    for name in ("base", "nginx"):
        put(cache, Buildable(load_recipe(images_dir() / name)))
    results = refresh([Buildable(load_recipe(recipe))], cache, lambda *_: None)
    assert [(result.what.label, result.error is None) for result in results] == [
        ("base", True),
        ("nginx", True),
        ("api", False),
    ]
    named = refresh([Buildable(load_recipe(images_dir() / "nginx"))], cache, lambda *_: None)
    assert [(result.what.label, result.error is None) for result in named] == [
        ("base", True),
        ("nginx", False),
    ]
    for image in cache.list():
        path = image.folder / "image.json"
        path.write_text(path.read_text().replace(image.built, "2026-01-01T00:00:00.000+00:00"))
    old = refresh([Buildable(load_recipe(recipe))], cache, lambda *_: None)
    assert all(result.error for result in old)
    assert len(cache.list()) == 2, "and what was there stays"


def test_an_image_is_built_from_the_recipe_that_it_came_from_while_that_is_as_it_was(
    cache: Cache, recipe: Path
) -> None:
    what = Buildable(load_recipe(recipe), ("less",))
    image = put(cache, what)
    assert source_of(image) == what
    (recipe / "image.yaml").write_text("base: nginx\nmemory: 512M\n")
    assert source_of(image) is None
    (recipe / "image.yaml").unlink()
    assert source_of(image) is None


def test_an_image_of_an_earlier_release_is_known_by_the_shipped_recipe_that_it_is(
    cache: Cache, recipe: Path
) -> None:
    nginx = Buildable(load_recipe(images_dir() / "nginx"))
    assert source_of(put(cache, nginx, source="")) == nginx
    assert source_of(put(cache, Buildable(load_recipe(recipe)), source="")) is None


def names(images: tuple[Image, ...]) -> set[str]:
    return {image.entry for image in images}


def test_images_of_recipes_that_are_gone_or_others_now_are_outdated(
    cache: Cache, recipe: Path
) -> None:
    kept = put(cache, Buildable(load_recipe(images_dir() / "nginx")))
    first = put(cache, Buildable(load_recipe(recipe)))
    added = put(cache, Buildable(load_recipe(recipe), ("less",)))
    assert outdated(cache.list()) == ()
    (recipe / "image.yaml").write_text("base: nginx\nmemory: 512M\n")
    second = put(cache, Buildable(load_recipe(recipe)))
    assert names(outdated(cache.list())) == {first.entry, added.entry}
    (recipe / "image.yaml").unlink()
    assert names(outdated(cache.list())) == {first.entry, added.entry, second.entry}
    assert kept in cache.list()


def test_a_recipe_with_a_mistake_keeps_its_image(cache: Cache, recipe: Path) -> None:
    put(cache, Buildable(load_recipe(recipe)))
    (recipe / "image.yaml").write_text("base: nginx\nmemory: [\n")
    assert outdated(cache.list()) == ()


def test_of_users_qcow2_files_only_those_go_that_have_a_newer_one(cache: Cache) -> None:
    def put_own(digit: str, source: str) -> Image:
        return own(cache, digit * 64, source)

    old, other, unknown = put_own("1", "/a.qcow2"), put_own("2", "/b.qcow2"), put_own("3", "")
    put_own("4", "")
    assert outdated(cache.list()) == ()
    new = put_own("5", "/a.qcow2")
    assert new.built > old.built
    assert outdated(cache.list()) == (old,)
    assert {other.entry, unknown.entry} <= names(cache.list())
