"""The identity of a VM that keeps the files on its disk."""

from __future__ import annotations

from tests.vapps import design_of_text
from vcloud.compile.guest.identity import identity_lines
from vcloud.plan.manifest import redacted
from vcloud.views.render import UPLINK

TEXT = """\
vcloud: 1
name: shop
zones: {dmz: {}}
vms:
  web: {image: nginx, zone: dmz, files: {/etc/key: a secret}}
"""


def test_only_the_paths_of_the_files_are_named_and_all_else_is_the_same() -> None:
    design = design_of_text(TEXT)
    (vm,), (known,) = design.workloads, redacted(design).workloads
    whole = identity_lines(design, vm, UPLINK)
    kept = identity_lines(redacted(design), known, UPLINK, keeps_files=True)
    assert [line for line in kept if line not in whole] == ["had /etc/key"]
    assert [line.split()[:2] for line in whole if line not in kept] == [["file", "/etc/key"]]
