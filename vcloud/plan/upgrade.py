"""Reads the manifests of earlier releases. Each function turns a body of one format into a body of
the next.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import PurePath
from typing import Any


def from_1(body: dict[str, Any]) -> dict[str, Any]:
    """Format 2 compares digests of rendered texts, keeps no path of the operator's machine, and has
    digests of networks and of the filter. In place of a line, every part of its design has an
    origin.

    The digests are left empty here. `vcloud.plan.formats` fills in those of domains and networks from
    the design: every release that wrote format 1 rendered the same as this one, which
    tests/unit/plan/test_formats.py holds. Its filter let through more than that of this release, so
    the next `up` defines it again. Raises ValueError where the body is not of format 1.
    """
    try:
        for vm in _vms(body["design"]):
            for key in ("name", "recipe", "source"):
                vm["image"][key] = PurePath(vm["image"][key]).name
        design = body["design"]
        for part in (
            *_vms(design),
            *design["flows"],
            *design["inspection"]["detectors"],
            design["inspection"],
        ):
            # Line 0: nothing in the file asked for this part.
            line = part.pop("line")
            part["origin"] = (
                {"kind": "file", "file": design["file"], "line": line}
                if line
                else {"kind": "product"}
            )
        vms = [[name, {**digests, "hardware": ""}] for name, digests in body["vms"]]
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"it is no manifest of format 1: {error!r}") from None
    return {**body, "vms": vms, "networks": [], "filter": ""}


def from_2(body: dict[str, Any]) -> dict[str, Any]:
    """Format 3 is kept sealed on hosts, and says more:

    - A token in the running domain shows that `up` has connected a VM. For a VM that an earlier
      release connected, libvirt's id is used until the next `up`.
    - It notes how libvirt read the definitions. The next `up` fills this in.
    - It says which protocols the services of a flow carry. The IPS of earlier releases did not
      check how a connection begins.
    - It says which build of its image a VM was made from. Earlier releases knew only the recipe.

    Raises ValueError where the body is not of format 2.
    """
    try:
        flows = [
            {**flow, "apps": [None] * len(flow["services"])} for flow in body["design"]["flows"]
        ]
        images = [
            [vm, {"recipe": recipe, "content": "", "packages": "", "built": ""}]
            for vm, recipe in body["images"]
        ]
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"it is no manifest of format 2: {error!r}") from None
    design = {**body["design"], "flows": flows}
    return {**body, "design": design, "images": images, "connected": [], "defined": []}


def from_3(body: dict[str, Any]) -> dict[str, Any]:
    """Format 4 says whether the vApp is being moved to another host. A release that does not know this
    could start a copy that does not count. So it must not read the manifest.
    """
    return {**body, "move": None}


def _vms(design: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield from design["workloads"]
    yield design["firewall"]
    if design["ips"] is not None:
        yield design["ips"]
