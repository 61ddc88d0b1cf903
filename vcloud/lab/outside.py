"""The simulated internet of a lab: customers, and servers that answer on every port. No packet can
leave it.
"""

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
"""The port on which the responder listens. nft sends packets for every other port there, see
`texts.outside_ruleset`.
"""
READY = "ready"
"""The responder prints only this line to its standard output, when it listens."""


def ensure_outside(lab: Lab) -> None:
    """Creates the namespace of the simulated internet and starts its responder, as far as they are
    missing.

    One local route per address family makes all addresses of servers local. All other addresses,
    except those on the uplink segment, are unreachable.
    """
    here = lab.outside
    namespaces.ensure(
        here,
        {**segments.SEGMENT_SYSCTLS, "net.ipv4.ip_forward": 1, "net.ipv6.conf.all.forwarding": 1},
    )
    segments.ensure_wire(lab, "outside", "uplink", here, "uplink")
    namespaces.configure(
        here,
        [
            f"link set lo up {namespaces.owned_by(lab.folder)}",
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
    return {f"0.0.0.0:{RESPONDER_PORT}", f"[::]:{RESPONDER_PORT}"} <= namespaces.listening(
        lab.outside
    )


def _start_responder(lab: Lab) -> None:
    argv = [
        *namespaces.enter(lab.outside),
        sys.executable,
        "-m",
        "vcloud.lab.responder",
        str(RESPONDER_PORT),
        str(lab.responder_log),
    ]
    with (lab.folder / "responder.log").open("a") as log:
        responder = subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            env=namespaces.ENVIRONMENT,
            # So `-m` finds this very vcloud, installed or not.
            cwd=Path(vcloud.__file__).parents[1],
            start_new_session=True,
        )
    assert responder.stdout is not None  # noqa: S101  (tells mypy that stdout is a pipe)
    with responder.stdout as output:
        if output.readline().strip() != READY:
            raise HostError(
                "The responder of the simulated internet did not start.",
                f"See the log {lab.folder}/responder.log.",
            )
