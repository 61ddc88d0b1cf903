"""The nft ruleset of the firewall VM. The reasons for its shape:

- Every packet, of established connections too, must find its flow: conntrack tells only the direction. So a revoked flow dies with
  the transaction that revokes it, an allowed connection lives through any number of them, and nothing has to be flushed.
- Flows are elements of maps, hence the cost of a packet does not grow with their number. Each ends in a chain of its own that counts.
- ICMP errors carry no ports of ours: they follow the connection's mark, which the last allowed packet left on it.
- A new TCP connection need not begin with SYN (`nf_conntrack_tcp_loose`): a packet in mid-stream passes exactly where its SYN would
  have passed, and so connections live through a restart of the firewall. Only the client's side can pick one up again, because a
  packet that merely comes from a service's port proves nothing.
- Base chains keep `policy drop`: while the kernel replaces the table, a packet may be lost but none slips through.
- Counters and denied sets begin anew with each load. All that is filled at run time is called `dyn_*`, so that digests can leave it out.
"""

from __future__ import annotations

import hashlib

from vcloud.compile.environment import render
from vcloud.compile.firewall.rules import build_ruleset
from vcloud.design.model import Design, Uplink

FIREWALL_SYSCTLS: tuple[tuple[str, str], ...] = (
    # Forwarding first: switching it on resets others to the kernel's defaults for routers.
    ("net/ipv4/ip_forward", "1"),
    ("net/ipv6/conf/all/forwarding", "1"),
    ("net/ipv6/conf/default/forwarding", "1"),
    # Sources are checked by the ruleset, per card and MAC; this is the second line. Every VM has a route of its own, so strict works.
    ("net/ipv4/conf/all/rp_filter", "1"),
    ("net/ipv4/conf/all/accept_source_route", "0"),
    ("net/ipv6/conf/all/accept_source_route", "0"),
    # A packet between two VMs of a zone leaves by the card it came in by: never advise them to meet directly.
    ("net/ipv4/conf/all/send_redirects", "0"),
    ("net/ipv4/conf/default/send_redirects", "0"),
    ("net/ipv4/conf/all/accept_redirects", "0"),
    ("net/ipv4/conf/default/accept_redirects", "0"),
    ("net/ipv6/conf/all/accept_redirects", "0"),
    ("net/ipv6/conf/default/accept_redirects", "0"),
    ("net/ipv6/conf/all/accept_ra", "0"),
    ("net/ipv6/conf/default/accept_ra", "0"),
    # A card answers ARP for its own address only.
    ("net/ipv4/conf/all/arp_ignore", "1"),
    ("net/ipv4/conf/all/arp_announce", "2"),
    ("net/netfilter/nf_conntrack_max", "65536"),
    ("net/netfilter/nf_conntrack_tcp_loose", "1"),
)
"""Key (with slashes) and value, in the order in which they must be set; the ruleset must be loaded before, as it brings conntrack."""

_NO_DIGEST = "0" * 64


def render_firewall(design: Design, uplink: Uplink) -> str:
    """The whole ruleset, as one transaction that replaces the one before. Same design and uplink, same bytes.

    The table's comment names the vApp and the sha256 of the text with zeros in the digest's place.
    """
    text = render("nftables/firewall.nft.j2", rules=build_ruleset(design, uplink), digest=_NO_DIGEST)
    return text.replace(_NO_DIGEST, hashlib.sha256(text.encode()).hexdigest(), 1)
