"""The world beyond the uplink: customers, and servers that answer on every port. It has no way out."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import vcloud
from vcloud.errors import HostError
from vcloud.lab import namespaces, segments
from vcloud.lab.layout import GATEWAY, SERVERS4, SERVERS6, UPLINK4, UPLINK6, Lab
from vcloud.lab.texts import outside_ruleset

RESPONDER_PORT = 7
READY = "ready"
"""The responder's only line on standard output, once it listens."""


def ensure_outside(lab: Lab) -> None:
    """All server addresses are local by one route each; what is neither there nor on the uplink is unreachable."""
    here = lab.outside
    namespaces.ensure(here, {**segments.QUIET, "net.ipv4.ip_forward": 1, "net.ipv6.conf.all.forwarding": 1})
    segments.ensure_wire(lab, "outside", "uplink", here, "uplink")
    namespaces.configure(
        here,
        [
            "link set lo up",
            "link set uplink up",
            f"address replace {UPLINK4[GATEWAY]}/{UPLINK4.prefixlen} dev uplink",
            f"address replace {UPLINK6[GATEWAY]}/{UPLINK6.prefixlen} dev uplink nodad",
            f"route replace local {SERVERS4} dev lo src {UPLINK4[GATEWAY]}",
            f"route replace local {SERVERS6} dev lo src {UPLINK6[GATEWAY]}",
            "route replace unreachable 0.0.0.0/0",
            "route replace unreachable ::/0",
        ],
    )
    namespaces.run([*namespaces.enter(here), "nft", "-f", "-"], outside_ruleset(RESPONDER_PORT))
    if not responder_runs(lab):
        _start_responder(lab)


def responder_runs(lab: Lab) -> bool:
    return {f"0.0.0.0:{RESPONDER_PORT}", f"[::]:{RESPONDER_PORT}"} <= namespaces.listening(lab.outside)


def _start_responder(lab: Lab) -> None:
    argv = [*namespaces.enter(lab.outside), sys.executable, "-m", "vcloud.lab.responder", str(RESPONDER_PORT), str(lab.responder_log)]
    with (lab.folder / "responder.log").open("a") as log:
        responder = subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            env=namespaces.ENVIRONMENT,
            cwd=Path(vcloud.__file__).parents[1],
            start_new_session=True,
        )
    assert responder.stdout is not None  # noqa: S101  (it is a pipe)
    with responder.stdout as output:
        if output.readline().strip() != READY:
            raise HostError("The responder of the outside world did not start.", f"See {lab.folder}/responder.log.")
