"""The nft ruleset of the firewall VM, as text. The reasons for its shape:

- Every packet must match a flow, also a packet of an established connection: conntrack tells only
  its direction. So a flow that is revoked ends at once with the transaction that revokes it, an
  allowed connection survives any number of transactions, and nothing has to be flushed.
- Flows are elements of maps, so the cost of a packet does not grow with their number. Each flow has
  a chain of its own with a counter.
- An ICMP error does not carry the ports of the vApp's flow. It passes by the mark that the last
  allowed packet left on the connection.
- A new TCP connection need not begin with SYN (`nf_conntrack_tcp_loose`). A packet in mid-stream
  passes exactly where its SYN would have passed, and so connections survive a restart of the
  firewall. Only a packet from the client can bring a connection back, because a packet that comes
  from the port of a service proves nothing.
- Base chains have `policy drop`: while the kernel replaces the table, a packet may be lost but none
  slips through.
- Counters and the sets of denied packets are empty after each load. Sets that are filled at run
  time are called `dyn_*`, so that digests can leave them out.
"""

from __future__ import annotations

import hashlib

from vcloud.compile.environment import render
from vcloud.compile.firewall.rules import build_ruleset
from vcloud.design.model import Design, Uplink

FIREWALL_SYSCTLS: tuple[tuple[str, str], ...] = (
    # Forwarding first: when it is switched on, the kernel resets other settings to its defaults for
    # routers.
    ("net/ipv4/ip_forward", "1"),
    ("net/ipv6/conf/all/forwarding", "1"),
    ("net/ipv6/conf/default/forwarding", "1"),
    # The ruleset checks sources by NIC and MAC. This is a second check. It can be strict, because
    # every VM has a route of its own.
    ("net/ipv4/conf/all/rp_filter", "1"),
    ("net/ipv4/conf/all/accept_source_route", "0"),
    ("net/ipv6/conf/all/accept_source_route", "0"),
    # A packet between two VMs of a zone leaves by the NIC that it came in by. The kernel must not
    # advise them to talk directly.
    ("net/ipv4/conf/all/send_redirects", "0"),
    ("net/ipv4/conf/default/send_redirects", "0"),
    ("net/ipv4/conf/all/accept_redirects", "0"),
    ("net/ipv4/conf/default/accept_redirects", "0"),
    ("net/ipv6/conf/all/accept_redirects", "0"),
    ("net/ipv6/conf/default/accept_redirects", "0"),
    ("net/ipv6/conf/all/accept_ra", "0"),
    ("net/ipv6/conf/default/accept_ra", "0"),
    # A NIC answers ARP for its own address only.
    ("net/ipv4/conf/all/arp_ignore", "1"),
    ("net/ipv4/conf/all/arp_announce", "2"),
    ("net/netfilter/nf_conntrack_max", "65536"),
    ("net/netfilter/nf_conntrack_tcp_loose", "1"),
)
"""Keys (with slashes) and values, in the order in which they must be set. Load the ruleset first:
it loads conntrack, which has such keys.
"""

_NO_DIGEST = "0" * 64


def render_firewall(design: Design, uplink: Uplink) -> str:
    """The whole ruleset, as one transaction that replaces the table. The same design and uplink
    give the same bytes.

    The comment of the table holds the vApp's name and a digest: the sha256 of the text with zeros
    in place of the digest.
    """
    text = render(
        "nftables/firewall.nft.j2", rules=build_ruleset(design, uplink), digest=_NO_DIGEST
    )
    return text.replace(_NO_DIGEST, hashlib.sha256(text.encode()).hexdigest(), 1)
