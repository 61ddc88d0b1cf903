"""Security updates arrive: an image with other packages is built, shown, and brought to the VM that
stands; another operator's machine changes nothing; and what the old one took on the host is freed as
soon as nobody needs it.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from tests.vm.conftest import taken_down_in_the_end
from tests.vm.driver import Operator, volumes, write_vapp
from vcloud.data import images_dir
from vcloud.images.build import build
from vcloud.images.cache import Cache
from vcloud.images.recipe import load_recipe

pytestmark = [pytest.mark.vm, pytest.mark.timeout(3000)]

RECIPE = """\
base: base
commands:
  - mkdir -p /usr/lib/vcloud/packages
  - echo "app=1.$(date +%s%N)" >/usr/lib/vcloud/packages/app
"""
"""An application that comes from elsewhere, with another version at each build."""
BUILT = "2026-08-01T08:00:00.000+00:00"
PACKAGE = "cat /usr/lib/vcloud/packages/app"
FOREIGN = """<domain type='qemu'><name>foreign</name><memory unit='MiB'>64</memory>
<os><type arch='x86_64'>hvm</type></os><devices><disk type='file' device='disk'>
<driver name='qemu' type='qcow2'/><source file='{}'/><target dev='vda' bus='virtio'/></disk></devices></domain>"""


@dataclass(frozen=True, slots=True)
class Two:
    """Two people with a machine each. The second one has built nothing but what is shipped."""

    first: Operator
    second: Operator
    file: Path
    folder: Path

    def image(self) -> Any:
        """The first one's image of the application, as `vcloud image list` shows it."""
        (row,) = [
            row
            for row in self.first.run("image", "list", "-o", "json").data
            if row["name"] == "app"
        ]
        return row


@pytest.fixture(scope="module")
def two(operator: Operator, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Two]:
    """With a vApp that stands on an image that is old by now."""
    folder = tmp_path_factory.mktemp("refresh")
    (folder / "app").mkdir()
    (folder / "app/image.yaml").write_text(RECIPE)
    vm = {
        "image": "./app",
        "zone": "one",
        "memory": "256M",
        "disks": {"data": {"size": "64M", "mount": "/srv/d"}},
    }
    file = write_vapp(
        folder / "aged.yaml",
        {"vcloud": 1, "name": "aged", "zones": {"one": {}}, "vms": {"solo": vm}},
    )
    people = Two(person(operator, folder / "1"), person(operator, folder / "2"), file, folder)
    people.first.run("image", "build", f"{folder}/app")
    note(folder / "1/cache/images", "app", built=BUILT)
    with taken_down_in_the_end(people.first) as bring:
        bring("aged", file)
        yield people


def person(operator: Operator, folder: Path) -> Operator:
    """Somebody with a cache of their own, in which the shipped images are of today."""
    cache = Cache(folder / "cache/images")
    cache.folder.mkdir(parents=True)
    for name in ("base", "firewall"):
        image = build(load_recipe(images_dir() / name))
        subprocess.run(
            ["cp", "--archive", "--link", str(image.folder), str(cache.folder)], check=True
        )
        note(cache.folder, name, checked=datetime.now(UTC).isoformat(timespec="milliseconds"))
    return operator.elsewhere(folder / "home", VCLOUD_CACHE_DIR=str(folder / "cache"))


def note(cache: Path, name: str, **changes: str) -> None:
    """Changes what a cache says of an image. The file may be shared with another cache."""
    (path,) = cache.glob(f"{name}-*/image.json")
    text = json.dumps(json.loads(path.read_text()) | changes)
    path.unlink()
    path.write_text(text)


def test_an_image_with_other_packages_comes_to_the_vm_and_the_old_copy_goes(two: Two) -> None:
    first, old = two.first, two.image()
    before = first.inside("aged/solo", f"echo kept >/srv/d/row && sync && {PACKAGE}").strip()
    days = (datetime.now(UTC).date() - datetime.fromisoformat(BUILT).date()).days
    plan = first.run("plan", str(two.file), "-o", "json").data
    assert plan["steps"] == []
    assert (
        f"the image ./app of solo is {days} days old (of 2026-08-01); `vcloud image refresh`"
        in (" ".join(plan["notes"]))
    )
    (aged,) = [
        finding
        for finding in first.run("doctor", "-o", "json").data
        if "in use" in finding["detail"]
    ]
    assert (aged["check"], aged["result"]) == ("images", "note")
    assert f"is app of aged/solo, {days} days old" in aged["detail"]

    refreshed = first.run("image", "refresh", "app", "-o", "json").data
    assert [(row["name"], len(row["changes"])) for row in refreshed] == [("base", 0), ("app", 1)]
    (change,) = refreshed[1]["changes"]
    assert f"app={change['before']}" == before
    assert two.image()["content"] != old["content"]

    (step,) = first.run("plan", str(two.file), "-o", "json").data["steps"]
    assert (step["verb"], step["subject"]) == ("make VM anew", "solo")
    assert step["why"] == (
        f"its image was built anew: 1 package differs (app {change['before']} -> {change['after']}), "
        f"of {two.image()['built'][:10]} in place of 2026-08-01"
    )
    assert two.second.run("plan", str(two.file), "-o", "json").data["steps"] == []

    first.up(two.file, "--cold")
    assert first.inside("aged/solo", f"{PACKAGE} /srv/d/row") == f"app={change['after']}\nkept\n"
    assert first.run("plan", str(two.file), "-o", "json").data == {
        **plan,
        "notes": [],
        "host_side": plan["host_side"],
    }
    the_old_copy_stays_while_somebody_elses_vm_needs_it(two, old["content"])


def the_old_copy_stays_while_somebody_elses_vm_needs_it(two: Two, content: str) -> None:
    """Two VMs that were never started: one with a disk in a folder of its owner's, one with a disk in
    vcloud's own pool that libvirt did not make.
    """
    first = two.first
    (disk,) = [
        name for name in volumes(first, "image-app-") if name.endswith(".qcow2") and content in name
    ]
    pool = Path(first.virsh("vol-path", "--pool", "vcloud", disk).strip()).parent
    bases = {
        "/var/lib/libvirt/images/theirs.qcow2": str(pool / disk),
        f"{pool}/theirs.qcow2": f'json:{{"driver": "qcow2", "file": {{"driver": "file", "filename": "{pool / disk}"}}}}',
    }
    for path, base in bases.items():
        first.at("h1", "qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", base, path)
        xml = two.folder / "foreign.xml"
        xml.write_text(FOREIGN.format(path))
        first.virsh("define", str(xml))
        first.run("image", "prune", "--yes")
        assert len(of_content(first, content)) >= 3, path
        first.virsh("undefine", "foreign")
        first.at("h1", "rm", path)
    done = first.run("image", "prune", "--yes", "-o", "json").data
    assert of_content(first, content) == []
    assert {name for name in done["host"]["files"] if content in name}
    assert done["host"]["bytes"] > 100 << 20
    assert of_content(first, two.image()["content"]), "the VM stands on it"


def of_content(operator: Operator, content: str) -> list[str]:
    return [name for name in volumes(operator, "image-", "kernel-", "initrd-") if content in name]


def test_a_vm_is_made_anew_from_what_the_host_has_without_a_build_or_an_upload(two: Two) -> None:
    """By somebody whose machine has no image of the application."""
    before = two.first.inside("aged/solo", PACKAGE)
    there = volumes(two.first, "image-", "kernel-", "initrd-")
    changed = two.file.read_text().replace(
        "memory: 256M", "memory: 256M\n    run: [touch /srv/ran]"
    )
    assert changed != two.file.read_text()
    file = two.folder / "changed.yaml"
    file.write_text(changed)
    done = two.second.up(file, "--cold")
    assert "installing packages" not in done.err
    assert "uploading" not in done.err
    assert two.second.inside("aged/solo", f"ls /srv/ran >/dev/null && {PACKAGE}") == before
    assert volumes(two.first, "image-", "kernel-", "initrd-") == there
    assert two.second.run("plan", str(file), "-o", "json").data["steps"] == []
