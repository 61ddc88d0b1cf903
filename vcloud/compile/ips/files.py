"""All files of the IPS: Suricata's configuration, rules and scripts.

One Suricata process bridges all inspected zones, with a pair of NICs for each zone. The
configuration has these properties:

- It fails closed. Only Suricata forwards frames, its exception policies drop, and nothing bypasses
  it. A restart drops the connections that exist (the new process sees them in mid-stream). A change
  of rules alone is loaded live and keeps them.
- It searches without a limit: streams and bodies to their end. A connection that is silent for an
  hour is forgotten, and dropped when it continues.
- The log never holds the data that a rule found: no payload, no packet, no body, no URL.
- A connection between two inspected zones, or within one, crosses the IPS twice, as one flow of
  Suricata's. The second time its TCP timestamps look old, and Suricata would drop a few packets as
  invalid. So workloads make connections without timestamps (`net/ipv4/tcp_timestamps` is 0:
  `vcloud.compile.guest.identity`). A connection with timestamps works, but more slowly.
- It takes in no frame of a VM whose source is in no zone of the VM's side. Suricata would take such a
  packet for one of the VM's peer, and a VM could so end the search of its own connections: the
  firewall, which knows the sources, comes only behind it.
- Everything that can change live is in rules, scripts and `vars.yaml`. `suricata.yaml` depends only
  on the inspected zones and their prefixes.
- No file holds a line or the name of the vApp file, so that editing comments or renaming the file
  reloads nothing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Final

from vcloud.compile.environment import render
from vcloud.compile.ips.apps import app_rules
from vcloud.compile.ips.rules import SHIPPED
from vcloud.compile.leaks.rules import leak_rules, zone_variable
from vcloud.design.model import Design, Vm, Zone
from vcloud.values import Mode

FOLDER: Final = "/etc/vcloud/ips"
# The rules need http, http2, tls, ssh, smtp and dns.
UNUSED_PARSERS: Final = (
    "bittorrent-dht",
    "dcerpc",
    "dhcp",
    "dnp3",
    "enip",
    "ftp",
    "ike",
    "imap",
    "krb5",
    "modbus",
    "mqtt",
    "nfs",
    "ntp",
    "pgsql",
    "quic",
    "rdp",
    "rfb",
    "sip",
    "smb",
    "snmp",
    "telnet",
    "tftp",
)
KNOWN_FRAMES: Final = "arp or ip or ip6"
"""Suricata looks into frames of other kinds, such as MPLS, for packets of a connection. The receiver
would not.
"""
LUA_STATES: Final = 256
"""Lua states that Suricata makes when it starts. It makes more when it needs them, but slowly and
with a warning.
"""


def ips_files(design: Design) -> dict[str, bytes]:
    """Absolute path in the IPS -> content, for every file that `ips-load` installs. Empty for a
    design without IPS.
    """
    if design.ips is None:
        return {}
    leaks, apps = leak_rules(design), app_rules(design)
    groups = tuple(sorted({*leaks.groups, *apps.groups}))
    action = "drop" if design.inspection.mode is Mode.PREVENT else "alert"
    texts = {
        "suricata.yaml": _configuration(design, design.ips),
        "vars.yaml": _variables(design, groups),
        "classification.config": render("suricata/classification.config.j2"),
        "rules/attacks.rules": _rules_file(
            f"attacks, {design.inspection.mode}",
            (*apps.lines, *(shipped.rule.text(action) for shipped in SHIPPED)),
        ),
        "rules/leaks.rules": _rules_file("leaks", leaks.lines),
        **{f"lua/{name}": text for name, text in (*apps.scripts, *leaks.scripts)},
    }
    return {f"{FOLDER}/{name}": text.encode() for name, text in sorted(texts.items())}


def ips_digest(files: Mapping[str, bytes]) -> str:
    """The digest that `ips-load` and `ips-report` print for these files: the sha256 of the list
    that sha256sum prints of them.
    """
    # By path, as `ips-common` sorts them in the C locale.
    lines = sorted(
        (f".{path.removeprefix(FOLDER)}", hashlib.sha256(content).hexdigest())
        for path, content in files.items()
    )
    return hashlib.sha256(
        "".join(f"{digest}  {path}\n" for path, digest in lines).encode()
    ).hexdigest()


def _configuration(design: Design, ips: Vm) -> str:
    # Two NICs for each inspected zone: the VMs' side, then the firewall's side (`Design.ips`).
    pairs = zip(ips.nics[::2], ips.nics[1::2], strict=True)
    wires = [
        wire
        for vms, firewall in pairs
        for wire in (
            (vms.ifname, firewall.ifname, _own_frames(design.zone(vms.zone))),
            (firewall.ifname, vms.ifname, KNOWN_FRAMES),
        )
    ]
    return render(
        "suricata/suricata.yaml.j2",
        folder=FOLDER,
        wires=wires,
        disabled=UNUSED_PARSERS,
        lua_states=LUA_STATES,
    )


def _own_frames(zone: Zone) -> str:
    """Frames that come from a zone itself, as a filter (pcap-filter(7)). A frame to the gateway's own
    address may have any source: it belongs to no flow, and the firewall counts it.
    """
    own4 = f"src net {zone.prefix4} or dst host {zone.gateway.address4}"
    own6 = f"src net {zone.prefix6} or src net fe80::/10 or src host :: or dst host {zone.gateway.address6}"
    return f"arp or (ip and ({own4})) or (ip6 and ({own6}))"


def _variables(design: Design, groups: tuple[tuple[str, str], ...]) -> str:
    zones = sorted((zone_variable(zone.name), zone.prefix4, zone.prefix6) for zone in design.zones)
    return render("suricata/vars.yaml.j2", zones=zones, groups=groups)


def _rules_file(what: str, lines: tuple[str, ...]) -> str:
    return render("suricata/rules.j2", what=what, lines=lines)
