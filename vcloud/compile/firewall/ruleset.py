"""The nft ruleset of the firewall VM, as text. The reasons for its shape:

- Every packet must match a flow, also a packet of an established connection: conntrack tells only
  its direction. So a flow that is revoked ends at once with the transaction that revokes it, an
  allowed connection survives any number of transactions, and nothing has to be flushed.
- Flows are elements of maps, so the cost of a packet does not grow with their number. Each flow has
  a chain of its own with a counter.
- A packet with an option of IPv4, or with an extension header of IPv6, is dropped in any direction:
  there data could stand that neither a flow nor a rule of the IPS names. A packet in fragments is
  judged as the whole packet.
- A flow to the internet leads to public addresses (`design.internet`). Where one leads to a prefix,
  that is looked up first. Both hold for answers, too.
- A VM that a flow leads outside reaches what the vApp publishes at its own address. Such a packet has
  both flows: that outwards (`leaving`), and the one that publishes.
- An ICMP error does not carry the ports of the vApp's flow. It passes by the mark that the last
  allowed packet left on the connection. Its sender is the VM to which the packet went that the
  error quotes, or somebody outside if the packet went there. So it is no way from a VM to another
  one that no flow joins. From a VM pass only the kinds that an end sends: what routers send over
  IPv4 (time exceeded, parameter problem) Suricata does not assign to a connection, so the rules
  that except a flow from a leak detector do not read it. nft calls other packets related too (of the helpers of conntrack, of which
  there are none); such a packet must match a flow like any other.
- A new TCP connection need not begin with SYN (`nf_conntrack_tcp_loose`). A packet in mid-stream
  passes exactly where its SYN would have passed, and so connections survive a restart of the
  firewall. Only a packet from the client can bring a connection back, because a packet that comes
  from the port of a service proves nothing.
- Forwarding depends on the ruleset. Three chains look at a packet, each leaves a mark, and each asks
  for the mark of the one before: `hook_prerouting` looks at the source, `hook_flows` at the flow,
  `hook_forward` at the route. The kernel itself routes a packet of others only with the mark that a
  flow's chain has set (`route-mark` of the identity). So nothing passes without the ruleset, and
  nothing that no flow allows passes where one or more of its chains are gone.
- Who begins connections has a share of the kernel's table of connections: each address of a VM, and
  the clients outside in groups. It is looked up only for the first packets of what a flow allows,
  because nothing else is entered there. A load begins to count anew.
- The kernel counts a connection to a share only while it is new (newer kernels take no other into
  `ct count`). At that time nobody knows whether a client's address is true. So clients that have
  completed a connection lately have a share apart from strangers, and what strangers do not complete
  is forgotten soon while there is little room (`hurried`).
- What VMs share beside that table (memory for fragments, answers to pings, lines of the log) each NIC has a
  share of, too.
- No connection of a VM is shown outside with a published port as its source: for the kernel's table of
  connections, what a client sends to that port would be an answer for this VM.
- Where a zone is told what no flow allows, the answer goes to the VM that sent the packet, whose source
  was checked before. Only the firewall itself sends resets to its zones, because it has no service.
- Base chains have `policy drop`: while the kernel replaces the table, a packet may be lost but none
  slips through.
- Counters and the sets of denied packets are empty after each load. Sets that are filled at run
  time are called `dyn_*`, so that digests can leave them out.
"""

from __future__ import annotations

import hashlib

from vcloud.compile.environment import render
from vcloud.compile.firewall.rules import TABLE, build_ruleset
from vcloud.compile.firewall.timeouts import CONNTRACK_TIMEOUTS
from vcloud.design.model import Design, Uplink

FRAGMENT_TIMEOUT, FRAGMENT_MEMORY = 2, 32 << 20
"""Seconds that the kernel waits for the rest of a packet, and bytes for all such packets."""

FIREWALL_SYSCTLS: tuple[tuple[str, str], ...] = (
    # Forwarding first: when it is switched on, the kernel resets other settings to its defaults for
    # routers.
    ("net/ipv4/ip_forward", "1"),
    ("net/ipv6/conf/all/forwarding", "1"),
    ("net/ipv6/conf/default/forwarding", "1"),
    # The ruleset checks sources by NIC and MAC. This is a second check. It can be strict, because
    # every VM has a route of its own.
    ("net/ipv4/conf/all/rp_filter", "1"),
    # Only with its mark does a packet have a route back, either.
    ("net/ipv4/conf/all/src_valid_mark", "1"),
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
    # Nobody's packets are taken for the firewall's own, and it answers for nobody else.
    ("net/ipv4/conf/all/proxy_arp", "0"),
    ("net/ipv4/conf/all/route_localnet", "0"),
    ("net/ipv4/conf/all/accept_local", "0"),
    ("net/ipv6/conf/all/proxy_ndp", "0"),
    # A NIC answers ARP for its own address only.
    ("net/ipv4/conf/all/arp_ignore", "1"),
    ("net/ipv4/conf/all/arp_announce", "2"),
    # Room for the neighbours that VMs make up, at the rate at which the ruleset lets them ask, until
    # the kernel forgets them after about a minute. When the table is full, it forgets the gateway.
    *(
        (f"net/{ip}/neigh/default/gc_thresh{number}", f"{neighbours}")
        for ip in ("ipv4", "ipv6")
        for number, neighbours in ((2, 16384), (3, 32768))
    ),
    # Incomplete packets are kept for a short time, and at the rates that the ruleset lets them come
    # there is room for those of five NICs and the outside that all flood.
    *(
        (key, f"{value}")
        for key, value in (
            ("net/ipv4/ipfrag_time", FRAGMENT_TIMEOUT),
            ("net/netfilter/nf_conntrack_frag6_timeout", FRAGMENT_TIMEOUT),
            ("net/ipv4/ipfrag_high_thresh", FRAGMENT_MEMORY),
            ("net/ipv4/ipfrag_low_thresh", FRAGMENT_MEMORY * 3 // 4),
            ("net/netfilter/nf_conntrack_frag6_high_thresh", FRAGMENT_MEMORY),
            ("net/netfilter/nf_conntrack_frag6_low_thresh", FRAGMENT_MEMORY * 3 // 4),
        )
    ),
    ("net/netfilter/nf_conntrack_max", f"{TABLE}"),
    ("net/netfilter/nf_conntrack_buckets", f"{TABLE // 2}"),
    ("net/netfilter/nf_conntrack_tcp_loose", "1"),
    # A packet outside the window of its connection is not one of the connection.
    ("net/netfilter/nf_conntrack_tcp_be_liberal", "0"),
    *((f"net/netfilter/nf_conntrack_{key}", f"{seconds}") for key, seconds in CONNTRACK_TIMEOUTS),
)
"""Keys (with slashes) and values, in the order in which they must be set. Load the ruleset first:
it loads conntrack, which has such keys.
"""

FIREWALL_NIC_SYSCTLS = (
    ("net/ipv4/conf/{}/rp_filter", "1"),
    ("net/ipv4/conf/{}/accept_source_route", "0"),
    ("net/ipv6/conf/{}/accept_source_route", "0"),
    ("net/ipv4/conf/{}/send_redirects", "0"),
    ("net/ipv4/conf/{}/proxy_arp", "0"),
    ("net/ipv4/conf/{}/proxy_arp_pvlan", "0"),
    ("net/ipv4/conf/{}/route_localnet", "0"),
    ("net/ipv4/conf/{}/accept_local", "0"),
    ("net/ipv6/conf/{}/proxy_ndp", "0"),
    ("net/ipv6/conf/{}/forwarding", "1"),
)
"""The same for each NIC: a NIC has taken its values from the defaults before these were set, and for
most keys the kernel uses the larger one of a NIC's value and that of `all`.
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
