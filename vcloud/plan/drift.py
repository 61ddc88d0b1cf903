"""Drift: what libvirt has loaded and is not what `vcloud up` gave it. Each difference has a name, so
that `status` and `verify` can tell it, and the step that mends it with the least disturbance.

What a domain should say was read back from libvirt right after vcloud had defined it
(`Manifest.defined`), because libvirt adds devices and defaults of its own, and each release adds
others. What a network or a filter should say is what vcloud renders.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from xml.etree import ElementTree

from vcloud.compile.artifacts import comparable_filters, comparable_networks
from vcloud.compile.guest.gate import gate_credentials
from vcloud.compile.libvirt.devices import filter_of, starts_linked
from vcloud.compile.libvirt.domain import SSH_PORT_PREFIX, terms_text
from vcloud.compile.libvirt.network import vapp_networks
from vcloud.design.model import Design, Nic, Vm
from vcloud.design.names import filter_name
from vcloud.marks import NO_VM
from vcloud.plan.facts import EMULATOR, Facts, domain_facts, filters_facts, network_facts
from vcloud.plan.host_difference import HostKind
from vcloud.plan.manifest import Manifest
from vcloud.plan.state import DomainState, NetworkState, VappState
from vcloud.plan.steps import Drift, Verb
from vcloud.tenancy import Terms
from vcloud.values import processors_shown

SHOWN = 160
"""Characters of a part's text that a message shows."""


def drift_of(
    manifest: Manifest,
    state: VappState,
    wanted: Design | None = None,
    terms: Terms | None = None,
    cores: Mapping[str, tuple[int, ...]] | None = None,
) -> tuple[Drift, ...]:
    """All differences of a vApp that `vcloud up` has made. A VM that does not run has none: `up`
    defines it again when it starts it.

    Args:
        manifest: it says how libvirt read the definitions of the VMs.
        state: what stands.
        wanted: the design that the networks and the filter are compared with; None: that of the
            manifest.
        terms: the terms of tenancy that the VMs are to have; None: those of the manifest.
        cores: VM -> the processors to which its virtual CPUs are to be pinned; None: as in the
            manifest.
    """
    around = wanted or manifest.design
    given = dict(manifest.cores)
    pinned = given if cores is None else cores
    return (
        *_filter_drift(around, state),
        *_network_drift(around, state),
        *(
            found
            for vm in manifest.design.vms
            if (domain := state.domain(vm.domain)) is not None and domain.running
            for found in (
                *_terms_drift(vm, domain, manifest.design.terms, terms),
                *_vm_drift(vm, domain, manifest, state),
                *_pin_drift(vm, domain, given.get(vm.name, ()), pinned.get(vm.name, ())),
            )
        ),
    )


def has_other_terms(design: Design, state: VappState) -> bool:
    """Whether a VM of the vApp runs with other terms of tenancy than it is to have."""
    wanted = terms_text(design.terms)
    return any(
        domain.running and any(found != wanted for found in domain.terms)
        for domain in state.domains
        if domain.is_of(design.instance.name)
    )


def _terms_drift(
    vm: Vm, domain: DomainState, given: Terms, wanted: Terms | None
) -> Iterator[Drift]:
    """`given` are the terms of tenancy that the last run gave the VMs, and `wanted` those that they
    are to have; None: the same. An earlier release gave a VM none. Nothing is wrong then, unless the
    vApp has demands.
    """
    terms = wanted or given
    text = terms_text(terms)
    if any(found != text for found in domain.terms):
        what = (
            "its terms of tenancy, which the host's hook reads, are not those of the vApp"
            if terms == given
            else "the vApp has another owner, other labels or other rules of tenancy"
        )
        unknown = not any(domain.terms) and not terms.demands
        yield Drift(vm.name, what, Verb.MEND_VM, unknown=unknown)
    elif domain.unsigned:
        what = "no operator has signed its terms of tenancy for the VM as it is"
        yield Drift(vm.name, what, Verb.MEND_VM, unknown=not terms.demands)


def _filter_drift(design: Design, state: VappState) -> Iterator[Drift]:
    texts = comparable_filters(design)
    wanted = filters_facts(map(_parsed, texts.values()))
    # A vApp that has no open zone any more keeps the filter of such zones until `vcloud down`.
    found = {part: text for part, text in (state.filter or {}).items() if part.split()[0] in texts}
    if state.filter is not None and found != wanted:
        name = filter_name(design.instance.name)
        yield Drift(
            name, "the network filter has other rules than vcloud gave it", Verb.DEFINE_FILTER
        )


def _network_drift(design: Design, state: VappState) -> Iterator[Drift]:
    rendered = comparable_networks(design)
    for _, network in vapp_networks(design):
        found = state.network(network.name)
        if found is not None:
            yield from _one_network_drift(found, network_facts(_parsed(rendered[network.name])))


def _one_network_drift(found: NetworkState, expected: Facts) -> Iterator[Drift]:
    if found.active:
        for what in _differences(expected, found.live):
            yield Drift(found.name, f"of the active network, {what}", Verb.REMAKE_NETWORK)
    for what in _differences(expected, found.kept):
        yield Drift(found.name, f"in the network's definition, {what}", Verb.MAKE_NETWORK)
    if not found.autostart:
        yield Drift(found.name, "the network does not start with its host", Verb.MAKE_NETWORK)


def _vm_drift(vm: Vm, domain: DomainState, manifest: Manifest, state: VappState) -> Iterator[Drift]:
    if domain.marks == NO_VM and vm.image.recipe:
        # Only a guest whose identity is delivered anew can get another host key.
        yield Drift(vm.name, "its mark was removed, and with it its host key", Verb.CONFIGURE_VM)
    expected = manifest.definition_of(vm.name)
    if expected is None:
        what = "it is defined again, to note how libvirt reads its definition"
        yield Drift(vm.name, what, Verb.MEND_VM, unknown=True)
        return
    yield from _running_drift(vm, domain, expected)
    if state.connected(vm):
        yield from _card_drift(vm, domain, state)
    if not domain.persistent:
        yield Drift(vm.name, "it runs, and its definition was removed", Verb.MEND_VM)
    else:
        for what in _differences(
            {**expected, **_running_disks(domain, expected)}, domain.kept.parts
        ):
            yield Drift(vm.name, f"in its definition, {what}", Verb.MEND_VM)
        for nic in vm.nics:
            card = domain.kept.cards.get(nic.mac)
            if card is not None and card.up != starts_linked(vm):
                word = "up" if card.up else "down"
                yield Drift(
                    vm.name, f"its definition has the link in {_place(nic)} {word}", Verb.MEND_VM
                )
    if domain.autostart:
        yield Drift(vm.name, "it starts with its host, before its rules are there", Verb.MEND_VM)


def _pin_drift(
    vm: Vm, domain: DomainState, given: tuple[int, ...], wanted: tuple[int, ...]
) -> Iterator[Drift]:
    """A running VM without cores of its own may be pinned anywhere: vcloud keeps it off the cores of
    others.
    """
    pins = pins_of(wanted)
    if given != wanted:
        shown = processors_shown(wanted)
        what = (
            f"its CPUs get the host's processors {shown} for themselves"
            if wanted
            else "its CPUs have no cores of their own any more"
        )
        yield Drift(vm.name, what, Verb.MEND_VM, pins=True)
    elif wanted and domain.live.pins != pins:
        what = f"the running VM is not pinned to the host's processors {processors_shown(wanted)}"
        yield Drift(vm.name, what, Verb.MEND_VM, pins=True)
    elif domain.persistent and domain.kept.pins != pins:
        what = "in its definition, CPUs are pinned otherwise than vcloud pinned them"
        yield Drift(vm.name, what, Verb.MEND_VM, pins=True)


def pins_of(cores: tuple[int, ...]) -> Mapping[str, frozenset[int]]:
    """The pins of a VM whose virtual CPUs have these processors, as `DomainFacts.pins`."""
    pins = {str(number): frozenset({core}) for number, core in enumerate(cores)}
    return {**pins, EMULATOR: frozenset(cores)} if cores else {}


def _running_disks(domain: DomainState, expected: Facts) -> Facts:
    """The disks that a running VM has. Its definition is to have the same ones, also where somebody
    put a snapshot or a copy in the place of a disk: the next start would lose what is written there.
    """
    return {
        part: text
        for part, text in domain.live.parts.items()
        if part.startswith("disk ") and part in expected
    }


def _running_drift(vm: Vm, domain: DomainState, expected: Facts) -> Iterator[Drift]:
    found = {
        part: text
        for part, text in _without_gate(domain.live.parts).items()
        if not part.startswith(f"channel {SSH_PORT_PREFIX}")  # of a `vcloud ssh` that goes on
    }
    for part in dict.fromkeys((*expected, *found)):
        before, now = expected.get(part), found.get(part)
        if before == now:
            continue
        if part.startswith("interface ") and now:
            verb: Verb | None = Verb.MEND_VM
        elif part.startswith("disk ") and before and now:
            verb = None  # A snapshot or a copy that somebody began: only they know how it ends.
        else:
            verb = Verb.RESTART_VM
        card = domain.live.cards.get(part.removeprefix("interface "))
        yield Drift(
            vm.name,
            f"in the running VM, {_difference(part, before, now)}",
            verb,
            card=card.tap if card else "",
            tells=_tells(before, now),
        )


TOLD = {"source(": HostKind.CARD, "port(": HostKind.ISOLATION, "filterref(": HostKind.FILTER}
"""How a word of a NIC's facts begins -> what differs on the host, too, where the word does."""


def _tells(before: str | None, now: str | None) -> frozenset[HostKind]:
    """The differences on the host that follow from those of a NIC in libvirt."""
    if before is None:
        return frozenset({HostKind.PORT})  # a card that vcloud did not plug in
    other = {*before.split()} ^ {*(now or "").split()}
    return frozenset(
        kind for begin, kind in TOLD.items() if any(word.startswith(begin) for word in other)
    )


def _without_gate(parts: Facts) -> Facts:
    """The parts of a VM of a user's own image as if it had booted: one that woke from a memory image
    still has the SMBIOS strings of the gate, until it is started again.
    """
    if parts.get("sysinfo") != _gate():
        return parts
    left = {part: text for part, text in parts.items() if part != "sysinfo"}
    return left | {"os": left.get("os", "").replace("smbios(mode=sysinfo) ", "")}


@functools.cache
def _gate() -> str:
    """The part of a domain that holds the gate's SMBIOS strings."""
    domain = ElementTree.Element("domain")
    sysinfo = ElementTree.SubElement(domain, "sysinfo", {"type": "smbios"})
    strings = ElementTree.SubElement(sysinfo, "oemStrings")
    for credential in gate_credentials():
        ElementTree.SubElement(strings, "entry").text = credential
    return domain_facts(domain).parts["sysinfo"]


def _card_drift(vm: Vm, domain: DomainState, state: VappState) -> Iterator[Drift]:
    """Differences of the NICs of a running VM that are not in its parts."""
    for nic in vm.nics:
        card = domain.live.cards.get(nic.mac)
        if card is None:
            continue  # It is missing, which is told already.
        if not card.up:
            yield Drift(vm.name, f"its link in {_place(nic)} is cut", Verb.MEND_VM)
        network = state.network(card.network) or state.uplink_of(card.network)
        if network is not None and network.active and card.port not in network.ports:
            yield Drift(
                vm.name,
                f"its NIC in {_place(nic)} is on no bridge, because the network '{network.name}' was restarted",
                Verb.RESTART_VM,
                card=card.tap,
                tells=frozenset({HostKind.CARD}),
            )
        if (name := filter_of(vm, nic)) and (card.tap, name) not in state.bindings:
            yield Drift(
                vm.name,
                f"the network filter is not bound to its NIC in {_place(nic)}",
                Verb.MEND_VM,
                card=card.tap,
                tells=frozenset({HostKind.FILTER}),
            )


def _place(nic: Nic) -> str:
    return f"zone '{nic.zone}'"


def _differences(expected: Facts, found: Facts) -> Iterator[str]:
    for part in dict.fromkeys((*expected, *found)):
        if expected.get(part) != found.get(part):
            yield _difference(part, expected.get(part), found.get(part))


def _difference(part: str, before: str | None, now: str | None) -> str:
    if before is None:
        return f"there is '{part}', which vcloud did not put there"
    if now is None:
        return f"'{part}' is missing"
    gone = [word for word in before.split() if word not in now.split()]
    new = [word for word in now.split() if word not in before.split()]
    return f"'{part}' is {' '.join(new)[:SHOWN]}, not {' '.join(gone)[:SHOWN]}"


def _parsed(text: str) -> ElementTree.Element:
    return ElementTree.fromstring(text)  # noqa: S314 - vcloud rendered it
