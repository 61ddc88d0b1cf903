"""Drift: the differences between what libvirt has and what `vcloud up` gave it. Each difference has
a sentence for `status` and `verify`, and the step that mends it with the least disturbance.

The expected definition of a domain is what libvirt returned right after vcloud had defined it
(`Manifest.defined`), because each release of libvirt adds other devices and defaults. The expected
definition of a network or a filter is what vcloud renders.
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
    """All differences of a vApp on its host. A VM that does not run has none, because `up` defines
    it again when it starts it.

    Args:
        manifest: it says how libvirt read the definitions of the VMs.
        state: the vApp as it is on the host.
        wanted: the design that the networks and the filter are compared with; None: that of the
            manifest.
        terms: the terms of tenancy that the VMs must have; None: those of the manifest.
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
                *_terms_drift(
                    vm, domain, manifest.design.terms, terms, manifest.signed_of(vm.name)
                ),
                *_vm_drift(vm, domain, manifest, state),
                *_pin_drift(vm, domain, given.get(vm.name, ()), pinned.get(vm.name, ())),
            )
        ),
    )


def has_other_terms(design: Design, state: VappState) -> bool:
    """Whether a VM of the vApp runs with other terms of tenancy than those of the design."""
    wanted = terms_text(design.terms)
    return any(
        domain.running and any(found != wanted for found in domain.terms)
        for domain in state.domains
        if domain.is_of(design.instance.name)
    )


def _terms_drift(
    vm: Vm, domain: DomainState, given: Terms, wanted: Terms | None, generation: int
) -> Iterator[Drift]:
    """`given` are the terms of tenancy that the last run gave the VMs. `wanted` are those that they
    must have; None: the same. `generation` is that of the VM's own terms. A VM that an earlier release
    made has no terms; that is wrong only if the vApp has demands.
    """
    terms = wanted or given
    text = terms_text(terms)
    if any(found != text for found in domain.terms):
        what = (
            "the terms of tenancy in its metadata, which the host's hook reads, are not those of the vApp"
            if terms == given
            else "the vApp has another owner, other labels or other rules of tenancy"
        )
        unknown = not any(domain.terms) and not terms.demands
        yield Drift(vm.name, what, Verb.MEND_VM, unknown=unknown)
    elif domain.unsigned:
        what = "no operator has signed its present terms of tenancy"
        yield Drift(vm.name, what, Verb.MEND_VM, unknown=not terms.demands)
    elif generation and any(found < generation for found in domain.generations):
        what = "somebody has put back older terms of tenancy than vcloud gave it"
        yield Drift(vm.name, what, Verb.MEND_VM)
    elif not all(domain.generations):
        what = "its signed terms of tenancy have no generation, so older ones could be put back"
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
        yield Drift(found.name, "the network has no autostart", Verb.MAKE_NETWORK)


def _vm_drift(vm: Vm, domain: DomainState, manifest: Manifest, state: VappState) -> Iterator[Drift]:
    if domain.marks == NO_VM and vm.image.recipe:
        # The mark also held the host key. Only a guest that gets its identity again can get a new
        # host key.
        yield Drift(
            vm.name,
            "vcloud's mark in its metadata was removed, and with it its host key",
            Verb.CONFIGURE_VM,
        )
    expected = manifest.definition_of(vm.name)
    if expected is None:
        what = "vcloud defines it again, to note how libvirt reads its definition"
        yield Drift(vm.name, what, Verb.MEND_VM, unknown=True)
        return
    yield from _running_drift(vm, domain, expected)
    if state.connected(vm):
        yield from _card_drift(vm, domain, state)
    if not domain.persistent:
        yield Drift(vm.name, "it runs, but its definition was removed", Verb.MEND_VM)
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
        yield Drift(
            vm.name,
            "it has autostart, so it starts with its host before its rules are loaded",
            Verb.MEND_VM,
        )


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
    """The disks that a running VM has. Its definition must have the same ones, even if somebody
    replaced a disk by a snapshot or a copy. Otherwise the next start would lose what the VM has
    written there.
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
        if not part.startswith(f"channel {SSH_PORT_PREFIX}")  # a running `vcloud ssh`
    }
    for part in dict.fromkeys((*expected, *found)):
        before, now = expected.get(part), found.get(part)
        if before == now:
            continue
        if part.startswith("interface ") and now:
            verb: Verb | None = Verb.MEND_VM
        elif part.startswith("disk ") and before and now:
            verb = None  # Somebody began a snapshot or a copy, and must decide how to end it.
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
    """The parts without the SMBIOS strings of the gate. A VM of a user's own image that woke from a
    memory image has these strings until it is started again.
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
    """Differences of the NICs of a running VM that its parts do not show."""
    for nic in vm.nics:
        card = domain.live.cards.get(nic.mac)
        if card is None:
            continue  # The missing NIC is reported elsewhere.
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
