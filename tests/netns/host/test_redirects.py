"""What tc and nft do at devices of others is named where it sends frames to a device of the vApp."""

from __future__ import annotations

import pytest

from tests.netns.host.machine import DESIGN, Machine
from vcloud.plan.host_difference import HostKind

TAP = next(vm for vm in DESIGN.vms if vm.name == "web").nics[0].tap
BRIDGE = DESIGN.zone("dmz").network.bridge
OTHERS = "lab0"
"""The bridge of the uplink, which belongs to the host."""
WAYS = {
    "tc": (
        f"tc qdisc add dev {OTHERS} clsact",
        f"tc filter add dev {OTHERS} ingress protocol all u32 match u32 0 0 action mirred egress mirror dev {{to}}",
    ),
    "nft": (
        "nft add table netdev foreign",
        f"nft add chain netdev foreign in {{{{ type filter hook ingress device {OTHERS} priority 0; }}}}",
        "nft add rule netdev foreign in ip saddr 192.0.2.1 fwd to {to}",
    ),
    "nft by a map": (
        "nft add table netdev foreign",
        f"nft add chain netdev foreign in {{{{ type filter hook ingress device {OTHERS} priority 0; }}}}",
        "nft add map netdev foreign ways {{ typeof ip saddr : meta oif; }}",
        "nft add element netdev foreign ways {{ 192.0.2.1 : {to} }}",
        "nft add rule netdev foreign in fwd to ip saddr map @ways",
    ),
}
UNDOING = {
    "tc": f"tc qdisc delete dev {OTHERS} clsact",
    "nft": "nft delete table netdev foreign",
    "nft by a map": "nft delete table netdev foreign",
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("to", [TAP, BRIDGE, OTHERS])
def test_frames_of_another_device_are_named_where_they_go_to_the_vapp(
    host: Machine, way: str, to: str
) -> None:
    """The twin sends them to a device of the host."""
    for command in WAYS[way]:
        host.run(command.format(to=to))
    found = host.differences()
    host.run(UNDOING[way])
    expected = [] if to == OTHERS else [(HostKind.REDIRECT, to)]
    assert [(difference.kind, difference.device) for difference in found] == expected
