"""The nft ruleset of the firewall VM, as text. The reasons for its shape:

- Every packet must match a flow, also a packet of an established connection: the ruleset takes only
  the direction from conntrack. So the connections of a removed flow end at once with the
  transaction that removes it, an allowed connection survives any number of transactions, and
  nothing has to be flushed.
- Flows are elements of maps, so the cost of a packet does not grow with their number. Each flow has
  a chain of its own with a counter.
- A packet with an IPv4 option, or with an IPv6 extension header, is dropped in any direction: such
  a header could carry data that neither a flow nor a rule of the IPS names. Fragments are
  reassembled first, and judged as one packet.
- A flow to the internet leads to public addresses (`design.internet`). Flows to prefixes are looked
  up before flows to the internet. Both rules hold for answers, too.
- A VM with a flow to outside can reach the services that the vApp publishes at its own address. Two
  flows must allow such a packet: the flow to outside (`leaving`), and the flow that publishes the
  service.
- An ICMP error cannot be looked up by ports. It passes by the mark that the last allowed packet set
  on the connection. Its sender must be the VM to which the quoted packet went, or anybody outside
  if the packet went there. So an ICMP error cannot carry data between two VMs that no flow joins.
  From a VM, only the types pass that an end host sends. Suricata assigns the types that routers
  send over IPv4 (time exceeded, parameter problem) to no connection, so the rules that except a
  flow from a leak detector would not apply to them. The conntrack helpers make other packets
  "related", too, but no helper is loaded here; such a packet must match a flow like any other.
- A new TCP connection need not begin with SYN (`nf_conntrack_tcp_loose`). A packet in mid-stream
  passes exactly where its SYN would have passed, and so connections survive a restart of the
  firewall. After a restart, only a packet from the client brings a connection back, because a
  packet from the port of a service proves nothing.
- Forwarding depends on the ruleset. Three chains check a packet: `hook_prerouting` checks the
  source, `hook_flows` the flow, `hook_forward` the route. Each sets a mark, and requires the mark
  of the chain before it. The kernel itself forwards a packet only with the mark that a flow's chain
  has set (`route-mark` of the identity). So nothing passes without the ruleset. If some of its
  chains are gone, still no packet passes that no flow allows.
- Whoever begins connections has a limited share of the kernel's table of connections: each address
  of a VM has one, and each group of clients outside. The share is checked only for the first
  packets of an allowed connection, because no other packet adds an entry to the table. Each load of
  the ruleset starts the counts at zero.
- The kernel counts a connection to a share only while it is new (newer kernels take no other into
  `ct count`). At that time nobody knows whether a client's address is true. So clients that have
  completed a connection lately have a share apart from strangers, and what strangers do not complete
  is forgotten soon while there is little room (`hurried`).
- What VMs share beside that table (memory for fragments, answers to pings, lines of the log) each NIC has a
  share of, too.
- No connection of a VM is shown outside with a published port as its source: for the kernel's table of
  connections, what a client sends to that port would be an answer for this VM.
- In a zone with `denied: reject`, the answer goes to the VM that sent the packet; its source was
  checked before. Every reset that a zone gets from the firewall's own address is such an answer,
  because the firewall has no service.
- Base chains have `policy drop`. While the kernel replaces the table, a packet may be lost, but
  none passes unchecked.
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
    # The check of the source (rp_filter) also uses the mark, because packets without it have no
    # route.
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
    # The firewall accepts no packet that claims a source of its own, and answers ARP and ND for no
    # other machine.
    ("net/ipv4/conf/all/proxy_arp", "0"),
    ("net/ipv4/conf/all/route_localnet", "0"),
    ("net/ipv4/conf/all/accept_local", "0"),
    ("net/ipv6/conf/all/proxy_ndp", "0"),
    # A NIC answers ARP for its own address only.
    ("net/ipv4/conf/all/arp_ignore", "1"),
    ("net/ipv4/conf/all/arp_announce", "2"),
    # A hostile VM can make the kernel look for neighbours that do not exist. The ruleset limits the
    # rate, and the kernel forgets such a neighbour after about a minute; the table has room for all
    # of them. If the table were full, the kernel would forget the gateway.
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
    # A packet outside the TCP window of a connection does not belong to it.
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
