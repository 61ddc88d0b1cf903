"""A file of another tool is recognised, and the user reads how its parts are called here."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tests.vapps import SHOP, SMALL, vapp_of
from vcloud.errors import Exit, SpecError
from vcloud.spec.foreign import KNOWN
from vcloud.spec.load import parse_only_name

FILES = {
    "docker compose": "version: '3'\nservices:\n  web:\n    image: nginx\n    ports: [8080:80]\n",
    "containerlab": "name: srl\ntopology:\n  nodes:\n    srl1: {kind: srl}\n",
    "Ludus": "ludus:\n  - vm_name: 'x'\n    ram_gb: 8\n",
    "kcli": "vm1:\n  numcpus: 2\n  nets: [default]\n",
    "Vagrant": "# -*- mode: ruby -*-\nVagrant.configure('2') do |config|\n  config.vm.box = 'debian'\nend\n",
}


@pytest.mark.parametrize("tool", FILES)
def test_a_file_of_another_tool_is_recognised(tool: str) -> None:
    with pytest.raises(SpecError) as raised:
        vapp_of(FILES[tool])
    said = str(raised.value)
    assert f"this is a file of {tool}, and no vApp file\n  {tool}" in said
    assert "a vApp file\n" in said
    assert raised.value.exit is Exit.INVALID
    assert len(raised.value.problems) == 1
    with pytest.raises(SpecError, match="no vApp file"):
        parse_only_name(FILES[tool].encode(), "x.yaml")


def test_the_line_is_named() -> None:
    with pytest.raises(SpecError) as raised:
        vapp_of(FILES["docker compose"])
    assert raised.value.problems[0].line == 2
    assert "vcloud import FILE" in str(raised.value)


def test_every_tool_is_tried() -> None:
    assert {kind.tool for kind in KNOWN} == FILES.keys()


@pytest.mark.parametrize("key", ["services", "topology", "ludus", "x-services"])
def test_a_vapp_file_is_never_taken_for_another(key: str) -> None:
    assert vapp_of(f"{SMALL}x-note: 'Vagrant.configure'\n").name == "small"
    assert vapp_of(SHOP.read_text()).name == "shop"
    if key.startswith("x-"):
        assert vapp_of(f"{SMALL}{key}: 1\n").name == "small"
        return
    with pytest.raises(SpecError, match="unknown key"):
        vapp_of(f"{SMALL}{key}: {{}}\n")


def test_a_file_of_no_tool_gets_the_usual_messages() -> None:
    with pytest.raises(SpecError, match="required key 'vcloud' is missing"):
        vapp_of("name: shop\nzones: {dmz: {}}\n")


def test_hostile_text_takes_no_time(tmp_path: Path) -> None:
    begun = time.monotonic()
    for text in (" " * 300_000, "a" * 300_000, "\n".join(["a" * 80] * 4000), "a: \t" * 60_000):
        with pytest.raises(SpecError):
            vapp_of(text, tmp_path)
    assert time.monotonic() - begun < 60
