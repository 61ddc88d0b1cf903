"""Compares what the appliances and libvirt report with what they were given. Pure.

An appliance only reports about itself. The packets of the other checks test independently of these
reports.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from vcloud.compile.guest.identity import identity_lines
from vcloud.compile.ips.files import ips_digest, ips_files
from vcloud.compile.libvirt.network import vapp_networks
from vcloud.design.model import Design, Vm
from vcloud.design.names import filter_name
from vcloud.plan.drift import drift_of
from vcloud.plan.manifest import Manifest, digest_of
from vcloud.plan.reasons import BROUGHT_BACK
from vcloud.plan.state import VappState
from vcloud.proof.checks import Check, Kind, Outcome
from vcloud.proof.firewall_report import TABLE, FirewallReport
from vcloud.proof.guest_network import Claim, differences, kept_digest
from vcloud.proof.ips_report import IpsReport, Wire
from vcloud.proof.observed import Verdict

SILENT = "it does not answer"
NO_SURICATA = "Suricata does not answer"
OTHERWISE = "this release renders it differently; `vcloud up` delivers it"
"""The reason if a part of an appliance cannot be compared with what was delivered."""
UNNOTED = "no run of `vcloud up` that ended has noted how libvirt reads its definition; `vcloud up` notes it"
"""The reason if a VM's definition cannot be compared."""
SHOWN = 12
"""Characters of a digest that are shown."""
NAMED = 8
"""At most so many differences of one claim are named."""
CLAIMS = {
    Claim.LINKS: "has the links that it was given, and no others",
    Claim.QUEUES: "has no traffic control that could redirect packets",
    Claim.ROUTING: "has the addresses, neighbours, routes and policy rules that it was given",
    Claim.SETTINGS: "has the kernel settings that it was given",
    Claim.HOOKS: "lets nothing but vcloud's rules see its packets",
    Claim.FRAMES: "runs no foreign program that reads or sends frames",
}
EXCUSABLE = frozenset({"ips/running", "ips/memory"})
"""Claims that may be false for a moment while a busy Suricata starts or reads its rules."""
_RULE = re.compile(rb"^(?:alert|drop|pass|reject)\b", re.MULTILINE)


def config_verdicts(
    manifest: Manifest,
    loaded: str,
    firewall: FirewallReport | None,
    ips: IpsReport | None,
    reason: str = "",
) -> Iterator[Verdict]:
    """One verdict for each claim about the configuration of an appliance.

    Args:
        manifest: what was delivered.
        loaded: the digest that the firewall printed when its ruleset was loaded; empty if none was
            loaded.
        firewall: what the firewall reports now; None if it does not answer.
        ips: what the IPS reports now; None if it does not answer. Not used if the vApp has no IPS.
        reason: why the firewall does not answer, if that is known.
    """
    silent = f"{SILENT}: {reason}" if reason else SILENT
    yield _verdict(
        "firewall/ruleset",
        "the firewall's ruleset is the one that was loaded",
        # An empty digest on both sides would be equal, too.
        None if firewall is None else loaded != "" and firewall.digest == loaded,
        f"digest {firewall.digest[:SHOWN]}" if firewall else silent,
    )
    yield _verdict(
        "firewall/kept",
        "the firewall keeps the ruleset that was delivered for its next boot",
        None if firewall is None else firewall.kept == manifest.firewall,
        f"digest {firewall.kept[:SHOWN] or 'none'}" if firewall else silent,
    )
    yield _verdict(
        "firewall/tables",
        "the firewall has no other tables",
        None if firewall is None else firewall.tables == (TABLE,),
        f"tables: {', '.join(firewall.tables) or 'none'}" if firewall else silent,
    )
    yield from _guest_verdicts(manifest, manifest.design.firewall, firewall, silent)
    if manifest.design.ips is not None:
        yield from _ips_verdicts(manifest, manifest.design.ips, ips)


def _ips_verdicts(manifest: Manifest, vm: Vm, ips: IpsReport | None) -> Iterator[Verdict]:
    yield _verdict(
        "ips/files",
        "the IPS's rules are the ones that were delivered",
        None if ips is None else ips.digest == manifest.ips,
        f"digest {ips.digest[:SHOWN]}" if ips else SILENT,
    )
    yield _verdict(
        "ips/running",
        "the IPS runs with all of its rules",
        None if ips is None else ips.complete,
        _rules_of(ips) if ips else SILENT,
    )
    memory = "Suricata has the delivered rules in its memory"
    inline = (
        "Suricata forwards packets between the NICs that it was given, and inspects all of them"
    )
    if ips is None or not (ips.rules or ips.wires):
        for key, claim in (("memory", memory), ("inline", inline)):
            yield _verdict(f"ips/{key}", claim, None, SILENT if ips is None else NO_SURICATA)
    else:
        files = ips_files(manifest.design)
        yield (
            _named("ips/memory", memory, tuple(_in_memory(ips, _count_rules(files))))
            if ips_digest(files) == manifest.ips
            else _not_compared("ips/memory", memory)
        )
        yield _named("ips/inline", inline, tuple(_rewired(ips.wires, _delivered_wires(vm))))
    yield from _guest_verdicts(manifest, vm, ips, SILENT)


def _rules_of(ips: IpsReport) -> str:
    return (
        f"all rules loaded, {ips.lost} packets lost"
        if ips.complete
        else "stopped, or without some rules"
    )


def _count_rules(files: Mapping[str, bytes]) -> int:
    return sum(
        len(_RULE.findall(content)) for path, content in files.items() if path.endswith(".rules")
    )


def _in_memory(ips: IpsReport, delivered: int) -> Iterator[str]:
    if ips.rules != delivered:
        yield f"{ips.rules} rules, not {delivered}"
    if not (ips.reloaded and ips.changed):
        yield "Suricata does not say when it read its rules"
    elif ips.changed > ips.reloaded:
        # If somebody gave Suricata other files and then put the right ones back, the files changed
        # after Suricata read them.
        yield f"Suricata read its rules at {ips.reloaded}, before the files changed at {ips.changed}"


def _delivered_wires(vm: Vm) -> frozenset[Wire]:
    names = [nic.ifname for nic in vm.nics]
    pairs = zip(names[::2], names[1::2], strict=True)
    return frozenset(
        wire for outer, inner in pairs for wire in ((outer, inner, "ips"), (inner, outer, "ips"))
    )


def _rewired(wires: tuple[Wire, ...], delivered: frozenset[Wire]) -> Iterator[str]:
    yield from (f"missing: {_wire_text(wire)}" for wire in sorted(delivered - {*wires}))
    yield from (f"foreign: {_wire_text(wire)}" for wire in sorted({*wires} - delivered))


def _wire_text(wire: Wire) -> str:
    return f"from {wire[0]} to {wire[1]} in mode {wire[2]}"


def _guest_verdicts(
    manifest: Manifest, vm: Vm, report: FirewallReport | IpsReport | None, silent: str
) -> Iterator[Verdict]:
    """Verdicts on the parts of an appliance that its identity configures. `silent` is the detail if
    it does not answer.
    """
    is_ips = vm is manifest.design.ips
    whose = f"the {'IPS' if is_ips else 'firewall'}"
    # In the IPS, Suricata takes the packets before netfilter would see them.
    claims = [claim for claim in Claim if not (is_ips and claim is Claim.HOOKS)]
    texts = {f"{vm.role.value}/{claim}": f"{whose} {CLAIMS[claim]}" for claim in claims}
    key, kept = f"{vm.role.value}/identity", f"{whose} keeps its identity for its next boot"
    identity = identity_lines(manifest.design, vm, manifest.uplink)
    delivered = manifest.digests_of(vm.name)
    if delivered is None or delivered.identity != digest_of(identity):
        yield from (_not_compared(*item) for item in ((key, kept), *texts.items()))
    elif report is None:
        for item in ((key, kept), *texts.items()):
            yield _verdict(*item, None, silent)
    else:
        holds = report.identity == kept_digest(identity)
        yield _verdict(key, kept, holds, f"digest {report.identity[:SHOWN] or 'none'}")
        found = differences(identity, report.network, frames=is_ips)
        for claim, item in zip(claims, texts.items(), strict=True):
            yield _named(*item, found[claim])


def libvirt_verdicts(manifest: Manifest, state: VappState) -> Iterator[Verdict]:
    """One verdict for each VM and network, and for the filter: whether libvirt has it as vcloud gave
    it. A VM that does not run, and what is not there, has no drift, and is not as it was given.

    After a run that was killed, the manifest does not say how libvirt reads the definitions of the
    VMs that the run was going to define. Nobody can compare these.
    """
    design = manifest.design
    unnoted = {vm.name for vm in design.vms if manifest.definition_of(vm.name) is None}
    drift = [found for found in drift_of(manifest, state) if not found.unknown]
    absent = dict(_absent(manifest, state))
    subjects = (
        *(vm.name for vm in design.vms),
        *(network.name for _, network in vapp_networks(design)),
        filter_name(design.instance.name),
    )
    for subject in subjects:
        found = [one.what for one in drift if one.subject == subject]
        found += [absent[subject]] if subject in absent else []
        key, claim = f"libvirt/{subject}", f"libvirt has '{subject}' as vcloud defined it"
        if subject in unnoted and not found:
            yield _not_compared(key, claim, UNNOTED)
        else:
            yield _verdict(key, claim, not found, "; ".join(found) or "as defined")


def _absent(manifest: Manifest, state: VappState) -> Iterator[tuple[str, str]]:
    """What of a vApp does not run or is not there, and how libvirt shows that."""
    design = manifest.design
    for vm in design.vms:
        domain = state.domain(vm.domain)
        if domain is None:
            yield vm.name, f"there is no domain '{vm.domain}'"
        elif domain.uuid != vm.uuid:
            yield vm.name, f"the domain '{vm.domain}' is not the one that vcloud made"
        elif domain.paused or not domain.running:
            yield vm.name, "it is paused" if domain.paused else "it does not run"
        elif domain.brought_back:
            yield vm.name, BROUGHT_BACK
        elif not state.connected(vm):
            yield vm.name, "it was started, but not by `vcloud up`"
        elif vm is design.firewall and state.uplink_gone:
            yield vm.name, "the uplink's network is stopped or removed"
    for _, network in vapp_networks(design):
        standing = state.network(network.name)
        if standing is None:
            yield network.name, "there is no such network"
        elif standing.uuid != network.uuid:
            yield network.name, "the network of that name is not the one that vcloud made"
        elif not standing.active:
            yield network.name, "it is not active"
    name = filter_name(design.instance.name)
    if state.filter_foreign:
        yield name, "the network filter of that name is not the one that vcloud made"
    elif state.filter_gone:
        yield name, "there is no such network filter"
    elif state.filter is None:
        yield name, "libvirt does not tell its rules"


def tenancy_verdicts(design: Design, wrong: tuple[str, ...]) -> Iterator[Verdict]:
    """The verdict on the tenancy of a vApp that has demands. `wrong` are the sentences that say
    which demand is broken, or that the host does not enforce it.
    """
    if design.terms.demands:
        claim = "only permitted vApps run on its host, and the host lets no others start"
        yield _named("tenancy/host", claim, wrong)


def placement_verdicts(design: Design, wrong: tuple[str, ...]) -> Iterator[Verdict]:
    """The verdict on the host of a vApp with rules of placement. `wrong` are the rules that the
    host breaks.
    """
    if design.placement.rules:
        yield _named("placement/host", "its host meets its rules of placement", wrong)


def _named(key: str, claim: str, found: tuple[str, ...]) -> Verdict:
    """The verdict on a claim that holds if nothing differs."""
    more = f"; and {len(found) - NAMED} more" if len(found) > NAMED else ""
    return _verdict(key, claim, not found, "; ".join(found[:NAMED]) + more or "nothing differs")


def _not_compared(key: str, claim: str, reason: str = OTHERWISE) -> Verdict:
    return Verdict(_check(key, claim), Outcome.NOT_RUN, reason, final=True)


def _verdict(key: str, claim: str, holds: bool | None, detail: str) -> Verdict:
    """The verdict on a claim; `holds` is None if the appliance did not answer."""
    if holds is None:
        return Verdict(_check(key, claim), Outcome.ERROR, detail)
    outcome = Outcome.PASS if holds else Outcome.FAIL
    return Verdict(_check(key, claim), outcome, detail, excusable=key in EXCUSABLE)


def _check(key: str, claim: str) -> Check:
    return Check(
        id=f"config/{key}",
        kind=Kind.CONFIG,
        claim=claim,
        vantage="host",
        probe=None,
        passes=True,
        proves=f"ctl:{key.partition('/')[0]}",
    )
