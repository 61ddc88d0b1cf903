"""How long the firewall's kernel remembers a connection of which it sees no packet."""

from __future__ import annotations

CONNTRACK_TIMEOUTS: tuple[tuple[str, int], ...] = (
    # A connection that is not answered, or has ended, soon makes room for others.
    # Longer than the pauses before the first three repetitions of a SYN or of its answer.
    ("tcp_timeout_syn_sent", 5),
    ("tcp_timeout_syn_recv", 5),
    ("tcp_timeout_unacknowledged", 60),
    ("tcp_timeout_max_retrans", 60),
    ("tcp_timeout_fin_wait", 30),
    ("tcp_timeout_close_wait", 30),
    ("tcp_timeout_last_ack", 20),
    # The kernel counts these two to nobody's share, so only their number in each second is limited.
    ("tcp_timeout_time_wait", 2),
    ("tcp_timeout_close", 2),
    # What may be silent: 2 h 4 min (RFC 5382), not the kernel's 5 days. A client that goes on
    # later is looked up as one that begins.
    ("tcp_timeout_established", 7440),
    ("udp_timeout", 20),
    ("udp_timeout_stream", 120),
    ("icmp_timeout", 10),
    ("icmpv6_timeout", 10),
    ("generic_timeout", 10),
)
"""Names of the kernel's settings (`nf_conntrack_...`), and seconds."""
