"""The virtual cables of a lab. There is an uplink segment and a management segment; each is a
bridge in the namespace `switch`.
"""

from __future__ import annotations

from vcloud.design.addressing import mac_of
from vcloud.lab import namespaces
from vcloud.lab.layout import GATEWAY, MANAGEMENT4, UPLINK4, UPLINK6, Host, Lab

SEGMENT_SYSCTLS = {
    f"net.ipv{family}.conf.{scope}.{key}": value
    for scope in ("all", "default")
    for family, key, value in (
        (4, "rp_filter", 0),
        (6, "accept_ra", 0),
        (6, "accept_dad", 0),
        (6, "dad_transmits", 0),
    )
}
"""Sysctls of hosts and of the simulated internet. Addresses are usable at once (no duplicate
address detection), hosts ignore router advertisements, and the kernel does not drop spoofed packets
that a test wants to see.
"""

UNFILTERED = {
    f"net.bridge.bridge-nf-call-{table}": 0 for table in ("arptables", "ip6tables", "iptables")
}
"""Sysctls that keep bridged frames out of the host's IP firewall, as libvirt recommends for hosts.
"""


def ensure_switch(lab: Lab) -> None:
    """Creates the two bridges. The operator has address .1 of the management segment, on the bridge
    itself. The uplink bridge has no address.
    """
    namespaces.ensure(
        lab.switch,
        {
            # The switch only forwards frames, so its bridges need no link-local address.
            "net.ipv6.conf.all.disable_ipv6": 1,
            "net.ipv6.conf.default.disable_ipv6": 1,
            **UNFILTERED,
        },
    )
    missing = {"uplink", "management"} - namespaces.links(lab.switch)
    # With multicast snooping, a bridge without a querier may drop the multicast packets of IPv6
    # neighbour discovery.
    namespaces.configure(
        lab.switch,
        [
            *(
                f"link add {bridge} type bridge stp_state 0 mcast_snooping 0"
                for bridge in sorted(missing)
            ),
            f"link set lo up {namespaces.owned_by(lab.folder)}",
            "link set uplink up",
            "link set management up",
            f"address replace {MANAGEMENT4[GATEWAY]}/{MANAGEMENT4.prefixlen} dev management",
        ],
    )


def ensure_wire(lab: Lab, port: str, bridge: str, namespace: str, link: str) -> None:
    """A virtual cable (veth pair) from a port of a bridge in `switch` to the interface `link` in
    `namespace`.

    If one end is missing, both ends are created again. The new interface gets the same MAC address,
    so that the neighbour tables of others stay right.
    """
    ports = namespaces.links(lab.switch)
    if port not in ports or link not in namespaces.links(namespace):
        mac = mac_of(lab.name, namespace, link)
        # Deleting one end of a veth pair deletes the other end, too.
        old = [f"link delete {port}"] if port in ports else []
        namespaces.configure(
            lab.switch,
            [*old, f"link add {port} type veth peer name {link} address {mac} netns {namespace}"],
        )
    namespaces.configure(lab.switch, [f"link set {port} master {bridge} up"])


def remove_host(host: Host) -> None:
    """Ends all processes of a host, and deletes its network namespace with all that is in it.

    The cables go first: the kernel deletes both ends of a cable at once, but a namespace only some
    time after its last process has ended.
    """
    cut(host)
    if namespaces.exists(host.namespace):
        namespaces.delete(host.namespace)


def cut(host: Host) -> None:
    """Takes away the cables of a host. What runs on it runs on."""
    for port in sorted(namespaces.links(host.lab.switch) & {*_ports(host)}):
        namespaces.configure(host.lab.switch, [f"link delete {port}"])


def is_cut(host: Host) -> bool:
    """Whether one of the cables of a host is missing."""
    return not namespaces.links(host.lab.switch).issuperset(_ports(host))


def _ports(host: Host) -> tuple[str, str]:
    """The ports of a host on the bridges of both segments."""
    return f"{host.name}-management", f"{host.name}-uplink"


def ensure_host(host: Host) -> None:
    """Connects a host to both segments.

    `eth0` is on the management segment. `eth1` is a port of the host's bridge `uplink0`, to which
    the firewalls of vApps are connected, too.
    """
    namespace = host.namespace
    namespaces.ensure(namespace, SEGMENT_SYSCTLS | UNFILTERED)
    management, uplink = _ports(host)
    ensure_wire(host.lab, management, "management", namespace, "eth0")
    ensure_wire(host.lab, uplink, "uplink", namespace, "eth1")
    bridge = (
        []
        if "uplink0" in namespaces.links(namespace)
        else ["link add uplink0 type bridge stp_state 0 mcast_snooping 0"]
    )
    namespaces.configure(
        namespace,
        [
            *bridge,
            f"link set lo up {namespaces.owned_by(host.lab.folder)}",
            "link set eth0 up",
            "link set eth1 master uplink0 up",
            "link set uplink0 up",
            f"address replace {host.management4}/{MANAGEMENT4.prefixlen} dev eth0",
            f"address replace {host.uplink4}/{UPLINK4.prefixlen} dev uplink0",
            f"address replace {host.uplink6}/{UPLINK6.prefixlen} dev uplink0 nodad",
            f"route replace default via {UPLINK4[GATEWAY]}",
            f"route replace default via {UPLINK6[GATEWAY]}",
        ],
    )
