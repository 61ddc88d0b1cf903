"""What the appliances of a vApp report that are as they were delivered."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from vcloud.compile.guest.identity import identity_lines
from vcloud.compile.ips.files import ips_files
from vcloud.design.model import Vm
from vcloud.plan.manifest import Manifest
from vcloud.proof.firewall_report import TABLE, FirewallReport
from vcloud.proof.guest_network import Words, kept_digest
from vcloud.proof.ips_report import IpsReport

KERNEL = """\
link lo 00:00:00:00:00:00 -
up lo
qdisc lo noqueue 0
addr lo 127.0.0.1/8
addr lo ::1/128
route lo 127.0.0.0/8 table 255 kernel
route lo 127.0.0.1/32 table 255 kernel
route lo 127.255.255.255/32 table 255 kernel
route lo ::1/128 table 255 kernel
rule 4 0 table 255
rule 4 32766 table 254
rule 4 32767 table 253
rule 6 0 table 255
rule 6 32766 table 254
"""
MARKED = """\
rule {0} 1000 mark 1 table 254
rule {0} 1001 iif lo table 254
rule {0} 1002 blackhole
"""
HOOKS = """\
hook ip 0 -400 ipv4_conntrack_defrag nf_defrag_ipv4
hook ip 0 -300 nft_do_chain_inet nf_tables chain 1 vcloud hook_prerouting
hook ip 0 -200 ipv4_conntrack_in nf_conntrack
hook ip 2 0 nft_do_chain_inet nf_tables chain 1 vcloud hook_forward
hook ip 4 -225 apparmor_ip_postroute -
hook ip 4 100 nf_nat_inet_fn nf_nat
"""
TIME = "2026-11-29T23:08:45.920536+0000"


def things(manifest: Manifest, vm: Vm, more: str = "") -> tuple[Words, ...]:
    """What the kernel of an appliance has."""
    lines = identity_lines(manifest.design, vm, manifest.uplink)
    texts = KERNEL.splitlines() + more.splitlines()
    for line in lines:
        verb, *words = line.split()
        if verb == "nic":
            mac, name = words
            link_local = f"route {name} fe80::/64 kernel"
            texts += [
                f"link {name} {mac} -",
                f"up {name}",
                f"qdisc {name} pfifo_fast 0",
                link_local,
            ]
        elif verb == "route-mark":
            texts += [text for version in "46" for text in MARKED.format(version).splitlines()]
        elif verb in ("addr", "neigh", "route", "sysctl"):
            texts.append(line)
    return tuple(tuple(text.split(" ")) for text in texts)


@dataclass(frozen=True, slots=True)
class Reports:
    """What both appliances report."""

    manifest: Manifest
    firewall: FirewallReport
    ips: IpsReport

    def with_firewall(self, **changes: Any) -> Reports:
        return replace(self, firewall=replace(self.firewall, **changes))

    def with_ips(self, **changes: Any) -> Reports:
        return replace(self, ips=replace(self.ips, **changes))


def healthy(manifest: Manifest) -> Reports:
    design = manifest.design
    assert design.ips
    firewall = FirewallReport(
        digest="a",
        tables=(TABLE,),
        denied={},
        spoofed={},
        kept=manifest.firewall,
        identity=_kept(manifest, design.firewall),
        network=things(manifest, design.firewall, HOOKS),
    )
    names = [nic.ifname for nic in design.ips.nics]
    pairs = list(zip(names[::2], names[1::2], strict=True))
    rules = "\n".join(
        content.decode() for path, content in ips_files(design).items() if path.endswith(".rules")
    )
    ips = IpsReport(
        manifest.ips,
        complete=True,
        rules=sum(bool(line) and not line.startswith("#") for line in rules.splitlines()),
        wires=tuple(wire for one, two in pairs for wire in ((one, two, "ips"), (two, one, "ips"))),
        reloaded=TIME,
        changed=TIME.replace(":45.", ":44."),
        identity=_kept(manifest, design.ips),
        network=things(manifest, design.ips, "".join(f"frames {name}\n" for name in names)),
    )
    return Reports(manifest, firewall, ips)


def _kept(manifest: Manifest, vm: Vm) -> str:
    return kept_digest(identity_lines(manifest.design, vm, manifest.uplink))
