"""What somebody changed by hand in libvirt is named, and gives the step that mends it with the least
disturbance. Each change has its twin: nothing is named where nothing differs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

import pytest

from tests.standing import standing, with_domain
from tests.unit.plan.test_diff import FILE, interrupted, plan, told, why
from tests.vapps import design_of_text
from vcloud.compile.artifacts import comparable_domain, comparable_networks
from vcloud.compile.guest.gate import gate_credentials
from vcloud.compile.libvirt.domain import terms_text
from vcloud.compile.libvirt.host import HostFacts
from vcloud.marks import NO_VM
from vcloud.plan.drift import drift_of
from vcloud.plan.facts import DomainFacts, domain_facts, network_facts
from vcloud.plan.state import DomainState, NetworkState, VappState
from vcloud.plan.steps import Drift, Verb
from vcloud.views.render import UPLINK

TEXT = FILE.replace("  api: {image: nginx,", "  api: {image: nginx, disks: {data: 1G},")
DESIGN = design_of_text(TEXT)
STANDING = standing(DESIGN)
API = next(vm for vm in DESIGN.vms if vm.name == "api")
OTHER_NIC = "<interface type='network'><mac address='52:54:00:00:00:09'/><source network='uplink'/></interface>"


def edited(change: Callable[[Element], object]) -> DomainFacts:
    """The facts of the API's domain after an edit of its XML."""
    root = ElementTree.fromstring(comparable_domain(API, UPLINK, HostFacts("tcg")))  # noqa: S314
    change(root)
    return domain_facts(root)


def at(root: Element, path: str) -> Element:
    found = root.find(path)
    assert found is not None
    return found


def devices(root: Element) -> Element:
    return at(root, "devices")


def without(root: Element, path: str, tag: str) -> None:
    parent = at(root, path)
    parent.remove(at(parent, tag))


EDITS: Mapping[str, tuple[Callable[[Element], object], str, Verb | None]] = {
    "memory": (lambda root: setattr(at(root, "memory"), "text", "1"), "memory", Verb.RESTART_VM),
    "another network": (
        lambda root: at(root, "devices/interface/source").set("network", "uplink"),
        "network=uplink",
        Verb.MEND_VM,
    ),
    "no isolation": (
        lambda root: without(root, "devices/interface", "port"),
        "port(isolated=yes)",
        Verb.MEND_VM,
    ),
    "no filter": (
        lambda root: without(root, "devices/interface", "filterref"),
        "filterref",
        Verb.MEND_VM,
    ),
    "a second NIC": (
        lambda root: devices(root).append(ElementTree.fromstring(OTHER_NIC)),  # noqa: S314
        "52:54:00:00:00:09",
        Verb.MEND_VM,
    ),
    "a NIC less": (
        lambda root: without(root, "devices", "interface"),
        "is missing",
        Verb.RESTART_VM,
    ),
    "a disk less": (
        lambda root: devices(root).remove(at(root, "devices/disk[2]")),
        "'disk vdb' is missing",
        Verb.RESTART_VM,
    ),
    "a disk elsewhere": (
        lambda root: at(root, "devices/disk[2]/source").set("file", "/tmp/other"),  # noqa: S108
        "/tmp/other",  # noqa: S108
        None,
    ),
    "a limit of a disk": (
        lambda root: at(root, "devices/disk[2]").append(
            ElementTree.fromstring("<iotune><total_iops_sec>500</total_iops_sec></iotune>")  # noqa: S314
        ),
        "'disk vdb iotune'",
        Verb.RESTART_VM,
    ),
    "no confinement of its process": (
        lambda root: root.append(Element("seclabel", {"type": "none", "model": "apparmor"})),
        "'seclabel'",
        Verb.RESTART_VM,
    ),
    "another user for its process": (
        lambda root: root.append(
            ElementTree.fromstring(  # noqa: S314
                "<seclabel type='static' model='dac' relabel='no'><label>+0:+0</label></seclabel>"
            )
        ),
        "'seclabel'",
        Verb.RESTART_VM,
    ),
    "a device that vcloud does not know": (
        lambda root: devices(root).append(Element("hostdev", {"mode": "subsystem"})),
        "'hostdev'",
        Verb.RESTART_VM,
    ),
    "an element that vcloud does not know": (
        lambda root: root.append(Element("commandline")),
        "'commandline'",
        Verb.RESTART_VM,
    ),
}


def linked(facts: DomainFacts) -> DomainFacts:
    """As the facts of a running VM are: links up, and known to their networks."""
    return replace(
        facts,
        cards={
            mac: replace(card, up=True, port=f"port of {mac}") for mac, card in facts.cards.items()
        },
    )


def drifted(state: VappState) -> list[tuple[str, str, Verb | None]]:
    assert state.manifest
    return [(found.subject, found.what, found.mend) for found in drift_of(state.manifest, state)]


def of_api(change: Callable[[DomainState], DomainState]) -> VappState:
    return with_domain(STANDING, "shop.api", change)


def test_where_nothing_differs_nothing_is_named() -> None:
    assert drifted(STANDING) == []


def test_what_libvirt_or_a_person_may_write_there_is_no_difference() -> None:
    def noted(root: Element) -> None:
        label = {"type": "dynamic", "model": "apparmor", "relabel": "yes"}
        root.append(Element("seclabel", label))
        for tag in ("title", "description"):
            note = ElementTree.SubElement(root, tag)
            note.text = "the API"

    state = of_api(lambda domain: replace(domain, live=linked(edited(noted))))
    assert drifted(state) == []


def test_an_uplink_that_was_stopped_and_started_is_named_by_what_libvirt_tells() -> None:
    """It has forgotten the port of the firewall."""
    state = with_domain(STANDING, "shop.firewall", on_network("vcloud-uplink"))
    known = NetworkState("vcloud-uplink", "", True, ports=frozenset({"port of the uplink"}))
    assert drifted(replace(state, uplink=known)) == []
    found = drifted(replace(state, uplink=replace(known, ports=frozenset())))
    assert [(subject, verb) for subject, _, verb in found] == [("firewall", Verb.RESTART_VM)]
    assert "'vcloud-uplink' was restarted" in found[0][1]


def on_network(name: str) -> Callable[[DomainState], DomainState]:
    """The last card of a VM is on this network."""

    def changed(domain: DomainState) -> DomainState:
        cards = dict(domain.live.cards)
        mac = DESIGN.firewall.nics[-1].mac
        cards[mac] = replace(cards[mac], network=name, port="port of the uplink")
        return replace(domain, live=replace(domain.live, cards=cards))

    return changed


@pytest.mark.parametrize("name", EDITS)
def test_an_edit_of_a_running_vm_is_named_and_mended(name: str) -> None:
    change, what, verb = EDITS[name]
    state = of_api(lambda domain: replace(domain, live=linked(edited(change))))
    found = drifted(state)
    assert what in found[0][1]
    if verb is None:
        assert found[0][2] is None, "only a person knows how a snapshot is to end"
        assert told(plan(DESIGN, state)) == [("mend VM", "api", "live")]
        assert why(plan(DESIGN, state), "api").startswith("in its definition,")
        followed = of_api(
            lambda domain: replace(domain, live=linked(edited(change)), kept=edited(change))
        )
        assert plan(DESIGN, followed).steps == (), "its definition follows the running VM"
    else:
        assert [(subject, mend) for subject, _, mend in found] == [("api", verb)]
        assert (verb.value, "api") in [step[:2] for step in told(plan(DESIGN, state))]
        assert what in why(plan(DESIGN, state), "api")


@pytest.mark.parametrize("name", EDITS)
def test_an_edit_of_a_definition_is_named_and_mended_live(name: str) -> None:
    change, what, _ = EDITS[name]
    state = of_api(lambda domain: replace(domain, kept=edited(change)))
    assert [(subject, mend) for subject, _, mend in drifted(state)] == [("api", Verb.MEND_VM)]
    assert told(plan(DESIGN, state)) == [("mend VM", "api", "live")]
    assert what in why(plan(DESIGN, state), "api")


def card(state: VappState, mac: str, *, live: bool, **fields: object) -> VappState:
    def change(domain: DomainState) -> DomainState:
        facts = domain.live if live else domain.kept
        cards = {**facts.cards, mac: replace(facts.cards[mac], **fields)}  # type: ignore[arg-type]
        return replace(domain, **{"live" if live else "kept": replace(facts, cards=cards)})

    return with_domain(state, "shop.api", change)


def test_links_are_looked_at_in_the_running_vm_and_in_its_definition() -> None:
    mac = API.nics[0].mac
    cut = card(STANDING, mac, live=True, up=False)
    assert drifted(cut) == [("api", "its link in zone 'app' is cut", Verb.MEND_VM)]
    raised = card(STANDING, mac, live=False, up=True)
    assert drifted(raised) == [
        ("api", "its definition has the link in zone 'app' up", Verb.MEND_VM)
    ]


def test_a_nic_whose_network_was_restarted_is_on_no_bridge() -> None:
    lost = card(STANDING, API.nics[0].mac, live=True, port="of an earlier time")
    assert [(subject, mend) for subject, _, mend in drifted(lost)] == [("api", Verb.RESTART_VM)]
    assert told(plan(DESIGN, lost)) == [("restart VM", "api", "restart")]


def test_a_domain_without_definition_and_one_that_starts_by_itself_are_mended_live() -> None:
    for change in ({"persistent": False}, {"autostart": True}):
        state = of_api(lambda domain, change=change: replace(domain, **change))
        assert told(plan(DESIGN, state)) == [("mend VM", "api", "live")]


def test_a_vm_whose_mark_was_removed_is_named_and_configured_live() -> None:
    state = of_api(lambda domain: replace(domain, marks=NO_VM))
    assert drifted(state) == [
        (
            "api",
            "vcloud's mark in its metadata was removed, and with it its host key",
            Verb.CONFIGURE_VM,
        )
    ]
    assert told(plan(DESIGN, state)) == [("configure VM", "api", "live")]


def test_a_filter_that_is_not_bound_or_says_something_else_is_mended_live() -> None:
    unbound = replace(
        STANDING,
        bindings=frozenset(
            (tap, name) for tap, name in STANDING.bindings if tap != API.nics[0].tap
        ),
    )
    assert told(plan(DESIGN, unbound)) == [("mend VM", "api", "live")]
    emptied = replace(
        STANDING, filter={"vcloud-shop": STANDING.filter["vcloud-shop"]} if STANDING.filter else {}
    )
    assert told(plan(DESIGN, emptied)) == [("define filter", "vcloud-shop", "live")]


def test_a_network_that_forwards_is_made_anew_and_one_with_another_definition_defined_again() -> (
    None
):
    zone = DESIGN.zones[1].network
    root = ElementTree.fromstring(comparable_networks(DESIGN)[zone.name])  # noqa: S314
    root.append(Element("forward", {"mode": "nat"}))
    changed = network_facts(root)

    def with_network(**fields: object) -> VappState:
        networks = tuple(
            replace(one, **fields) if one.name == zone.name else one  # type: ignore[arg-type]
            for one in STANDING.networks
        )
        return replace(STANDING, networks=networks)

    assert ("make network anew", zone.name, "restart") in told(
        plan(DESIGN, with_network(live=changed))
    )
    assert ("restart VM", "api", "restart") in told(plan(DESIGN, with_network(live=changed)))
    assert told(plan(DESIGN, with_network(kept=changed))) == [("make network", zone.name, "new")]
    assert told(plan(DESIGN, with_network(autostart=False))) == [("make network", zone.name, "new")]


def test_a_vm_that_somebody_started_with_more_than_it_was_given_is_restarted() -> None:
    def change(domain: DomainState) -> DomainState:
        memory = edited(EDITS["memory"][0])
        return replace(domain, token="", live=memory, kept=memory)

    assert ("restart VM", "api", "restart") in told(plan(DESIGN, of_api(change)))


def test_a_vm_of_an_earlier_release_is_defined_again_and_not_called_wrong() -> None:
    assert STANDING.manifest
    state = replace(STANDING, manifest=replace(STANDING.manifest, defined=()))
    assert state.manifest
    assert all(found.unknown for found in drift_of(state.manifest, state))
    assert {step.verb for step in plan(DESIGN, state).steps} == {Verb.MEND_VM}


@pytest.mark.parametrize("more", ["", "=x"])
def test_the_gate_of_an_own_image_that_woke_is_no_drift_and_other_strings_are(more: str) -> None:
    def woken(root: Element) -> None:
        ElementTree.SubElement(at(root, "os"), "smbios", {"mode": "sysinfo"})
        sysinfo = ElementTree.SubElement(root, "sysinfo", {"type": "smbios"})
        strings = ElementTree.SubElement(sysinfo, "oemStrings")
        for credential in gate_credentials():
            ElementTree.SubElement(strings, "entry").text = credential + more

    state = of_api(lambda domain: replace(domain, live=linked(edited(woken))))
    assert bool(drifted(state)) == bool(more)


@pytest.mark.parametrize(
    ("verb", "steps"),
    [
        (Verb.LOAD_FIREWALL, ["load firewall"]),
        (Verb.CONFIGURE_VM, ["configure VM", "load firewall"]),
        (Verb.RESTART_VM, ["restart VM", "load firewall"]),
    ],
)
def test_what_an_appliance_reports_is_mended_without_being_asked_for(
    verb: Verb, steps: list[str]
) -> None:
    reported = (Drift("firewall", "a foreign table", verb),)
    found = plan(DESIGN, replace(STANDING, reported=reported))
    assert [step[0] for step in told(found)] == steps
    assert "a foreign table" in found.steps[0].why
    late = plan(DESIGN, replace(interrupted(STANDING), reported=reported))
    assert [step[0] for step in told(late)] == steps
    assert "a foreign table" in late.steps[0].why or verb is Verb.LOAD_FIREWALL


def test_what_libvirt_adds_to_a_running_domain_is_no_drift() -> None:
    def as_running(root: Element) -> None:
        root.set("id", "7")
        root.append(Element("seclabel", {"type": "dynamic"}))
        for device in devices(root):
            device.append(Element("alias", {"name": "x"}))
            device.append(Element("address", {"type": "pci"}))
        nic = at(root, "devices/interface")
        nic.set("type", "bridge")
        at(nic, "source").attrib |= {"portid": "p", "bridge": "vb0"}
        at(root, "devices/disk/source").set("index", "1")
        at(root, "devices/disk").append(Element("backingStore", {"type": "file"}))
        devices(root).append(Element("controller", {"type": "pci", "index": "9"}))
        port = ElementTree.SubElement(devices(root), "channel", {"type": "unix"})
        ElementTree.SubElement(port, "target", {"name": "org.vcloud.ssh.0a1b2c3d"})

    state = of_api(lambda domain: replace(domain, live=linked(edited(as_running))))
    assert drifted(state) == []


# The generations of signed terms


def with_generations(*generations: int, recorded: int = 7, unsigned: bool = False) -> VappState:
    """A vApp of which the manifest records a generation for `api`, and api's domain has these."""
    state = standing(design_of_text(FILE))
    assert state.manifest
    manifest = replace(state.manifest, signed=(("api", recorded),) if recorded else ())
    given = terms_text(manifest.design.terms)
    return with_domain(
        replace(state, manifest=manifest),
        "shop.api",
        lambda domain: replace(
            domain, terms=(given, given), generations=generations, unsigned=unsigned
        ),
    )


@pytest.mark.parametrize(
    ("generations", "recorded", "what", "unknown"),
    [
        ((6, 7), 7, "somebody has put back older terms", False),
        ((7, 6), 7, "somebody has put back older terms", False),
        ((0, 0), 7, "somebody has put back older terms", False),
        ((0, 0), 0, "have no generation", True),
    ],
)
def test_older_terms_and_those_without_a_generation_are_seen_and_mended(
    generations: tuple[int, int], recorded: int, what: str, unknown: bool
) -> None:
    state = with_generations(*generations, recorded=recorded)
    assert state.manifest
    (drift,) = drift_of(state.manifest, state)
    assert what in drift.what
    assert (drift.subject, drift.mend, drift.unknown) == ("api", Verb.MEND_VM, unknown)


@pytest.mark.parametrize("generations", [(7, 7), (8, 8), ()])
def test_terms_of_the_recorded_generation_or_a_newer_one_are_right(
    generations: tuple[int, ...],
) -> None:
    """A run that was killed may have given newer ones. Without an operator's key nobody looks."""
    state = with_generations(*generations)
    assert state.manifest
    assert drift_of(state.manifest, state) == ()
    assert state.newest_signed() == max(generations, default=0)
    assert with_generations(9, unsigned=True).newest_signed() == 0, "anybody may have written it"
