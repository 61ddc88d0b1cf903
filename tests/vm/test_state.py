"""All state lives in libvirt: any machine sees and manages the same, two operators do not collide,
and what is not vcloud's is not touched.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.vm.driver import TINY, Operator, remains, write_vapp

pytestmark = [pytest.mark.vm, pytest.mark.timeout(3000)]

NAME = "tiny"
FOREIGN_DOMAIN = """\
<domain type="qemu">
  <name>tiny.solo</name>
  <uuid>11111111-2222-4333-8444-555555555555</uuid>
  <memory unit="MiB">64</memory>
  <os><type arch="x86_64" machine="q35">hvm</type></os>
</domain>
"""
FOREIGN_NETWORK = """\
<network>
  <name>tiny.one</name>
  <uuid>11111111-2222-4333-8444-666666666666</uuid>
  <bridge name="foreign0"/>
</network>
"""


@pytest.fixture
def tiny(operator: Operator, tmp_path: Path) -> Iterator[Path]:
    """The file of a vApp of one VM; whatever a test made of it is gone afterwards."""
    yield write_vapp(tmp_path / "tiny.yaml", TINY)
    if remains(operator, NAME):
        operator.run("down", "--yes", NAME, code=None)
    assert remains(operator, NAME) == []


# Two operators


def test_of_two_ups_at_once_one_is_refused_with_a_sentence_and_a_stranger_takes_down_what_stands(
    operator: Operator, tiny: Path, tmp_path: Path
) -> None:
    other = operator.elsewhere(tmp_path / "other")
    both = [operator.start("up", "--yes", str(tiny)), other.start("up", "--yes", str(tiny))]
    ended = [(*process.communicate(timeout=2400), process.returncode) for process in both]
    assert sorted(code for *_, code in ended) == [0, 1]
    (refused,) = [err for _, err, code in ended if code == 1]
    assert "'tiny' on h1 is locked by `vcloud up`" in refused
    assert "Traceback" not in refused
    assert operator.status(NAME)["healthy"]
    assert "tiny is gone" in other.run("down", "--yes", NAME).out
    assert remains(operator, NAME) == []
    gone = other.run("down", "--yes", NAME, code=2)
    assert "there is no vApp 'tiny'" in gone.err


@pytest.mark.long
def test_a_down_while_an_up_is_at_work_is_refused(operator: Operator, tiny: Path) -> None:
    process = operator.start("up", "--yes", "--cold", str(tiny))
    assert process.stderr is not None
    try:
        for line in process.stderr:
            if "firewall: booting" in line:
                break
        assert "locked by `vcloud up`" in operator.run("down", "--yes", NAME, code=1).err
    finally:
        _, errors = process.communicate(timeout=2400)
    assert process.returncode == 0, errors
    assert operator.status(NAME)["healthy"]


# What is not vcloud's


@pytest.mark.parametrize(
    ("kind", "xml", "name"),
    [("domain", FOREIGN_DOMAIN, "tiny.solo"), ("network", FOREIGN_NETWORK, "tiny.one")],
    ids=["domain", "network"],
)
def test_a_foreign_thing_of_the_same_name_is_refused_and_not_touched(
    operator: Operator, tiny: Path, tmp_path: Path, kind: str, xml: str, name: str
) -> None:
    define, dump, undefine = {
        "domain": ("define", "dumpxml", "undefine"),
        "network": ("net-define", "net-dumpxml", "net-undefine"),
    }[kind]
    file = tmp_path / "foreign.xml"
    file.write_text(xml)
    operator.virsh(define, str(file))
    try:
        before = operator.virsh(dump, name)
        for command in (("plan", str(tiny)), ("up", "--yes", str(tiny))):
            refused = operator.run(*command, code=1)
            assert f"the {kind} '{name}' exists already and is not vcloud's" in refused.err
        assert remains(operator, NAME) == [name]
        assert operator.run("down", "--yes", NAME, code=None).code != 0
        assert operator.virsh(dump, name) == before
    finally:
        operator.virsh(undefine, name)


def test_down_of_a_vapp_leaves_a_foreign_domain_beside_it(
    operator: Operator, tiny: Path, tmp_path: Path
) -> None:
    """Its name begins like the vApp's VMs, but it is somebody else's."""
    operator.up(tiny)
    file = tmp_path / "foreign.xml"
    file.write_text(FOREIGN_DOMAIN.replace("tiny.solo", "tiny.other"))
    operator.virsh("define", str(file))
    try:
        assert "nothing to do" in operator.up(tiny).out
        operator.run("down", "--yes", NAME)
        assert remains(operator, NAME) == ["tiny.other"]
    finally:
        operator.virsh("undefine", "tiny.other")


def test_a_host_that_is_not_there_is_said_in_a_sentence(operator: Operator, tmp_path: Path) -> None:
    missing = operator.elsewhere(tmp_path, VCLOUD_INVENTORY="")
    done = missing.run(
        "list", "--connect", f"qemu+unix:///system?socket=/run/none-{os.getpid()}", code=1
    )
    assert done.err.startswith("error: ")
