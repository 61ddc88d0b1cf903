"""How long the firewall's kernel remembers a connection of which it sees no packet."""

from __future__ import annotations

CONNTRACK_TIMEOUTS: tuple[tuple[str, int], ...] = (
    # Connections that got no answer, or have ended, are forgotten soon, to make room for others. 5 s
    # are longer than the pauses before the first three repetitions of a SYN or of its answer.
    ("tcp_timeout_syn_sent", 5),
    ("tcp_timeout_syn_recv", 5),
    ("tcp_timeout_unacknowledged", 60),
    ("tcp_timeout_max_retrans", 60),
    ("tcp_timeout_fin_wait", 30),
    ("tcp_timeout_close_wait", 30),
    ("tcp_timeout_last_ack", 20),
    # Connections in these two states count for nobody's share, so only the number of new connections
    # in each second limits them.
    ("tcp_timeout_time_wait", 2),
    ("tcp_timeout_close", 2),
    # An idle connection is kept for 2 h 4 min (RFC 5382), not for the kernel's 5 days. If the client
    # goes on later, its packet is looked up like that of a new connection.
    ("tcp_timeout_established", 7440),
    ("udp_timeout", 20),
    ("udp_timeout_stream", 120),
    ("icmp_timeout", 10),
    ("icmpv6_timeout", 10),
    ("generic_timeout", 10),
)
"""Names of the kernel's settings (`nf_conntrack_...`), and seconds."""
