"""Changes of the vApp of `tests.cards` by which it breaks controls: a part of its text, and what
stands in its place.
"""

from __future__ import annotations

Change = tuple[str, str]
BEFORE_STORE = "  - {id: store"


def flow(text: str) -> Change:
    """One flow more, as the third one."""
    return BEFORE_STORE, f"  - {{{text}, why: x}}\n{BEFORE_STORE}"


WITHOUT_WHY = (", why: the order API", "")
WITHOUT_ID = ("id: orders, ", "")
OPEN = ("vault: {", "vault: {open: true, ")
INTO_VAULT = flow("id: peek, from: internet, to: db, service: tcp/5432")
TWO_NICS = ("image: postgres, zone: vault", "image: postgres, zone: [vault, front]")
TELNET = ("service: tcp/5432, carries", "service: [tcp/5432, tcp/23], carries")
TELNET_IN_RANGE = ("service: tcp/5432, carries", "service: [tcp/5432, tcp/22-30], carries")
PLAIN = ("to: internet, service: tcp/443", "to: internet, service: tcp/4430, app: other")
MANY_OUT = flow("id: bulk, from: db, to: internet, service: tcp/8000-8100")
MANY_IN = flow("id: bulk, from: db, to: api, service: tcp/8000-8100, app: http")
DETECT_ONLY = ("protection:\n", "protection:\n  ips: {inspect: [vault], mode: detect}\n")
UNSAID = ("app: http, publish: 8080", "publish: 8080")
