"""All files of the IPS: Suricata's configuration, rules, and scripts.

One process bridges every inspected zone, a pair of cards each. What the configuration holds to:

- Fail closed. Nothing but Suricata forwards frames, exception policies drop, and nothing is bypassed. A restart drops the connections
  of before (they are in mid-stream for the new process); a change of rules alone is loaded live and keeps them.
- No bound on what is looked at: streams and bodies are searched to their end. A connection that is silent for an hour is forgotten and,
  when it speaks again, dropped.
- The log never holds what was found: no payload, no packet, no body, no URL.
- A connection between two inspected zones, or within one, crosses the IPS twice, as one flow of Suricata's. The second time its TCP
  timestamps look old and Suricata would drop a few packets as invalid, so that such connections must be made without
  (`net/ipv4/tcp_timestamps` is 0 in workloads: vcloud.compile.guest.identity); a connection that has them gets slower.
- Whatever can change live stands in rules, scripts and `vars.yaml`; `suricata.yaml` depends on the inspected zones alone.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from typing import Final

from vcloud.compile.environment import render
from vcloud.compile.ips.rules import SHIPPED
from vcloud.compile.leaks.rules import LeakRules, leak_rules, zone_variable
from vcloud.design.model import Design, Vm
from vcloud.values import Mode

FOLDER: Final = "/etc/vcloud/ips"
UNUSED_PARSERS: Final = (
    *(
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
    ),
    *("sip", "smb", "snmp", "telnet", "tftp"),
)
_UNSAFE: Final = re.compile(r"[^ -~]")
"""In a comment."""
LUA_STATES: Final = 256
"""Made ahead; more are made when they are needed, slower and with a warning."""


def ips_files(design: Design) -> dict[str, bytes]:
    """Absolute path in the IPS -> content, of every file that `ips-load` takes. Empty for a design without IPS."""
    if design.ips is None:
        return {}
    leaks = leak_rules(design)
    action = "drop" if design.inspection.mode is Mode.PREVENT else "alert"
    texts = {
        "suricata.yaml": _configuration(design.ips),
        "vars.yaml": _variables(design, leaks),
        "classification.config": render("suricata/classification.config.j2"),
        "rules/attacks.rules": _rules_file(
            design, f"attacks, {design.inspection.mode}", tuple(shipped.rule.text(action) for shipped in SHIPPED)
        ),
        "rules/leaks.rules": _rules_file(design, "leaks", leaks.lines),
        **{f"lua/{name}": text for name, text in leaks.scripts},
    }
    return {f"{FOLDER}/{name}": text.encode() for name, text in sorted(texts.items())}


def ips_digest(files: Mapping[str, bytes]) -> str:
    """What `ips-load` and `ips-report` print as the digest of these files: sha256 over the list that sha256sum makes of them."""
    lines = sorted((f".{path.removeprefix(FOLDER)}", hashlib.sha256(content).hexdigest()) for path, content in files.items())
    return hashlib.sha256("".join(f"{digest}  {path}\n" for path, digest in lines).encode()).hexdigest()


def _configuration(ips: Vm) -> str:
    cards = [nic.ifname for nic in ips.nics]
    pairs = zip(cards[::2], cards[1::2], strict=True)
    wires = [wire for outer, inner in pairs for wire in ((outer, inner), (inner, outer))]
    return render("suricata/suricata.yaml.j2", folder=FOLDER, wires=wires, disabled=UNUSED_PARSERS, lua_states=LUA_STATES)


def _variables(design: Design, leaks: LeakRules) -> str:
    zones = [(zone_variable(zone.name), zone.prefix4, zone.prefix6) for zone in design.zones]
    return render("suricata/vars.yaml.j2", zones=zones, groups=leaks.groups)


def _rules_file(design: Design, what: str, lines: tuple[str, ...]) -> str:
    return render("suricata/rules.j2", vapp=design.vapp, file=_UNSAFE.sub("_", design.file), what=what, lines=lines)
