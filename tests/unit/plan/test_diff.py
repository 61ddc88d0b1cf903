"""Each change of a file, and each thing that happened to what stands, gives exactly the steps that
it needs.
"""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address, IPv4Interface

import pytest

from tests.standing import manifest_of, standing, with_domain, without_domain
from tests.vapps import design_of_text
from vcloud.design.model import Design
from vcloud.design.names import domain_uuid
from vcloud.errors import VcloudError
from vcloud.marks import NO_VM, NetworkMarks
from vcloud.plan.diff import plan_changes
from vcloud.plan.manifest import Phase, VmImage
from vcloud.plan.state import DomainState, NetworkState, VappState
from vcloud.plan.steps import COSTS, Cost, Plan, Verb
from vcloud.views.render import UPLINK

FILE = """\
vcloud: 1
name: shop
zones: {dmz: {}, app: {}}
vms:
  web: {image: nginx, zone: dmz, count: 2, memory: 256M}
  api: {image: nginx, zone: app, files: {/etc/key: first}, run: [echo one]}
flows:
  - {id: visits, from: internet, to: web, service: tcp/80, publish: 8080}
  - {id: orders, from: web, to: api, service: tcp/8000, why: the API}
"""
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA me@desk"
INSPECTED = "protection: {ips: {inspect: dmz}}\n"
EMPTY = VappState(None, (), (), filter_gone=True)


def design(old: str = "", new: str = "", text: str = FILE) -> Design:
    """The file's design, with one text in it replaced."""
    assert old in text
    return design_of_text(text.replace(old, new, 1) if old else text)


def plan(wanted: Design, state: VappState) -> Plan:
    return plan_changes(manifest_of(wanted), state, "h1")


def told(plan: Plan) -> list[tuple[str, str, str]]:
    return [(step.verb.value, step.subject, step.cost.value) for step in plan.steps]


def why(plan: Plan, subject: str) -> str:
    return next(step.why for step in plan.steps if step.subject == subject)


STANDING = standing(design())
LOAD_FIREWALL = ("load firewall", "firewall", "live")
CONFIGURE_ALL = [("configure VM", name, "live") for name in ("firewall", "web-1", "web-2", "api")]


def test_every_verb_has_a_cost() -> None:
    assert set(COSTS) == set(Verb)


def test_where_nothing_differs_nothing_is_done() -> None:
    assert plan(design(), STANDING).steps == ()


def test_on_an_empty_host_everything_is_new_and_the_protection_comes_last() -> None:
    """The order is that of making; links are raised by `vcloud.apply` after the last step."""
    assert told(plan(design("", "", FILE + INSPECTED), EMPTY)) == [
        ("define filter", "vcloud-shop", "live"),
        ("make network", "shop.dmz", "new"),
        ("make network", "shop.dmz.inner", "new"),
        ("make network", "shop.app", "new"),
        *(("make VM", name, "new") for name in ("firewall", "ips", "web-1", "web-2", "api")),
        ("load IPS", "ips", "live"),
        LOAD_FIREWALL,
    ]


def test_rules_that_nobody_has_loaded_yet_are_not_loaded_again() -> None:
    first = plan(design(text=FILE[: FILE.index("flows:")]), EMPTY)
    (loading,) = (step for step in first.steps if step.verb is Verb.LOAD_FIREWALL)
    assert loading.why == "rules are loaded: 'firewall' is started or configured"


@pytest.mark.parametrize(
    ("old", "new", "steps"),
    [
        pytest.param(
            "count: 2", "count: 3", [("make VM", "web-3", "new"), *CONFIGURE_ALL, LOAD_FIREWALL], id="a VM more: the others learn its name"
        ),
        pytest.param(
            "count: 2",
            "count: 1",
            [("remove VM", "shop.web-2", "remove"), *(step for step in CONFIGURE_ALL if step[1] != "web-2"), LOAD_FIREWALL],
            id="a VM less: the others forget it",
        ),
        pytest.param("memory: 256M", "memory: 320M", [("restart VM", "web-1", "restart"), ("restart VM", "web-2", "restart")], id="memory"),
        pytest.param("zone: app,", "zone: app, cpus: 2,", [("restart VM", "api", "restart")], id="CPUs"),
        pytest.param("zone: app,", "zone: app, disks: {data: 1G},", [("restart VM", "api", "restart")], id="a disk without a mount"),
        pytest.param("[echo one]", "[echo two]", [("make VM anew", "api", "recreate")], id="run commands"),
        pytest.param("/etc/key: first", "/etc/key: second", [("configure VM", "api", "live")], id="a file's content"),
        pytest.param("why: the API", "why: prices", [("record", "shop", "live")], id="a reason only"),
        pytest.param("flows:\n", "owner: retail\nflows:\n", [("record", "shop", "live")], id="lines that move: loaded rules name no line"),
        pytest.param("zone: app,", "zone: app, ready: {tcp: 8000},", [("record", "shop", "live")], id="when it counts as ready"),
        pytest.param("tcp/8000", "tcp/8001", [LOAD_FIREWALL], id="a flow's port"),
        pytest.param("publish: 8080", "publish: 8081", [LOAD_FIREWALL], id="a published port"),
        pytest.param("flows:\n", "flows:\n  - {id: news, from: api, to: internet, service: tcp/443}\n", [LOAD_FIREWALL], id="a flow more"),
        pytest.param(
            "  - {id: orders, from: web, to: api, service: tcp/8000, why: the API}\n", "", [LOAD_FIREWALL], id="a flow less"
        ),
    ],
)  # fmt: skip
def test_a_change_costs_what_it_must_and_no_more(
    old: str, new: str, steps: list[tuple[str, str, str]]
) -> None:
    assert told(plan(design(old, new), STANDING)) == steps


def called(state: VappState, name: str, other: str) -> VappState:
    """The same after `virsh domrename`."""
    return with_domain(state, name, lambda domain: replace(domain, name=other))


@pytest.mark.parametrize("name", ["db-backup", "shop.old"])
def test_a_renamed_domain_is_neither_made_anew_nor_removed(name: str) -> None:
    """Its disks are in use under the other name. libvirt tells both names by the UUID."""
    uuid = next(vm.uuid for vm in design().vms if vm.name == "api")
    inside = called(STANDING, "shop.api", name)
    outside = replace(without_domain(STANDING, "shop.api"), others={uuid: name})
    with pytest.raises(VcloudError, match=f"is called '{name}'") as refused:
        plan(design(), inside if name.startswith("shop.") else outside)
    assert f"virsh domrename {name} shop.api" in refused.value.hint
    assert plan(design(), replace(STANDING, others={"another uuid": name})).steps == ()


def test_somebodys_clone_of_a_vm_is_not_the_vapps() -> None:
    """virt-clone copies the mark, and libvirt gives the clone another UUID. A VM that the file named
    earlier has the UUID that follows from its name, and goes.
    """
    clone = replace(
        STANDING.domains[-1], name="shop.api-clone", uuid="11111111-2222-4333-8444-555555555555"
    )
    marked = replace(clone, marks=replace(clone.marks, vm="api-clone"))
    for other in (clone, marked):
        assert plan(design(), replace(STANDING, domains=(*STANDING.domains, other))).steps == ()
    former = replace(clone, uuid=domain_uuid("shop", "api-clone"))
    assert told(plan(design(), replace(STANDING, domains=(*STANDING.domains, former)))) == [
        ("remove VM", "shop.api-clone", "remove")
    ]


def test_a_firewall_whose_uplink_has_gone_starts_anew() -> None:
    found = plan(design(), replace(STANDING, uplink_gone=True))
    assert told(found) == [("restart VM", "firewall", "restart"), LOAD_FIREWALL]
    assert "uplink" in why(found, "firewall")


def test_a_new_image_makes_its_vms_anew() -> None:
    wanted = manifest_of(design(), images={"api": VmImage("another digest")})
    changes = plan_changes(wanted, STANDING, "h1")
    assert told(changes) == [("make VM anew", "api", "recreate")]
    assert why(changes, "api") == "its image changed"


def test_a_new_image_of_an_appliance_loads_its_rules_again() -> None:
    wanted = manifest_of(design(), images={"firewall": VmImage("another digest")})
    assert told(plan_changes(wanted, STANDING, "h1")) == [
        ("make VM anew", "firewall", "recreate"),
        LOAD_FIREWALL,
    ]


def test_a_users_own_image_learns_of_changes_at_boot() -> None:
    """It has no guest program of ours: cloud-init reads its files when it starts."""
    own = FILE.replace(
        "image: nginx, zone: app",
        "image: {url: 'https://images.example/a.qcow2', sha256: '" + "0" * 64 + "'}, zone: app",
    )
    changes = plan(design("first", "second", own), standing(design("", "", own)))
    assert told(changes) == [("restart VM", "api", "restart")]
    assert why(changes, "api") == "files: /etc/key; cloud-init applies this only at boot"


def test_a_zone_that_becomes_inspected_restarts_who_is_on_its_path() -> None:
    changes = plan(design("", "", FILE + INSPECTED), STANDING)
    assert told(changes) == [
        ("make network", "shop.dmz.inner", "new"),
        ("make VM", "ips", "new"),
        *(("restart VM", name, "restart") for name in ("firewall", "web-1", "web-2")),
        ("load IPS", "ips", "live"),
        LOAD_FIREWALL,
    ]
    assert why(changes, "web-1") == "NICs in dmz changed"
    assert (
        why(changes, "shop.dmz.inner") == "network between the IPS and the firewall in zone 'dmz'"
    )
    assert why(changes, "ips") == "inspects dmz"


def test_a_zone_that_is_no_longer_inspected_loses_its_ips_first_and_its_inner_network_last() -> (
    None
):
    """The firewall is plugged into it until it has restarted."""
    assert told(plan(design(), standing(design("", "", FILE + INSPECTED)))) == [
        ("remove VM", "shop.ips", "remove"),
        *(("restart VM", name, "restart") for name in ("firewall", "web-1", "web-2")),
        LOAD_FIREWALL,
        ("remove network", "shop.dmz.inner", "remove"),
    ]


def test_another_accelerator_restarts_every_vm() -> None:
    changes = plan_changes(manifest_of(design(), accelerator="kvm"), STANDING, "h1")
    assert told(changes) == [
        *(("restart VM", vm.name, "restart") for vm in design().vms),
        LOAD_FIREWALL,
    ]
    assert why(changes, "api") == "accelerator: tcg -> kvm"


def test_a_plan_says_which_flows_come_and_go() -> None:
    text = FILE.replace("id: orders", "id: prices").replace("publish: 8080", "publish: 8081")
    assert (
        why(plan(design("", "", text), STANDING), "firewall")
        == "allows prices; revokes orders; changes visits"
    )


def test_a_plan_says_what_changes_in_a_vm() -> None:
    assert (
        why(plan(design("memory: 256M", "memory: 320M"), STANDING), "web-1")
        == "memory: 256 -> 320 MiB"
    )
    assert (
        why(plan(design("[echo one]", "[echo two]"), STANDING), "api") == "its run commands changed"
    )
    assert (
        why(plan(design("/etc/key: first", "/etc/key: second"), STANDING), "api")
        == "files: /etc/key"
    )
    assert (
        why(plan(design("/etc/key: first", "/etc/other: first"), STANDING), "api")
        == "files: /etc/key, /etc/other"
    )


def without_network(state: VappState, name: str, *, defined: bool) -> VappState:
    networks = (
        replace(network, active=network.active and network.name != name)
        for network in state.networks
    )
    return replace(
        state, networks=tuple(network for network in networks if defined or network.name != name)
    )


@pytest.mark.parametrize(("defined", "reason"), [(True, "stopped"), (False, "removed")])
def test_a_network_that_went_is_made_again_and_who_ran_on_it_is_started_again(
    defined: bool, reason: str
) -> None:
    """Its bridge is a new one then: a VM that went on running has no port there, and no packet
    would reach it.
    """
    changes = plan(design(), without_network(STANDING, "shop.app", defined=defined))
    assert told(changes) == [
        ("make network", "shop.app", "new"),
        ("restart VM", "firewall", "restart"),
        ("restart VM", "api", "restart"),
        LOAD_FIREWALL,
    ]
    assert why(changes, "shop.app") == ("it is not active" if defined else "network of zone 'app'")
    assert why(changes, "api").startswith(f"it is cut off: the network 'shop.app' was {reason},")


@pytest.mark.parametrize(
    ("network", "cut_off"),
    [("shop.dmz", ["ips", "web-1", "web-2"]), ("shop.dmz.inner", ["firewall", "ips"])],
)
def test_the_two_sides_of_an_inspected_zone_cut_off_who_is_on_them(
    network: str, cut_off: list[str]
) -> None:
    inspected = design("", "", FILE + INSPECTED)
    changes = plan(inspected, without_network(standing(inspected), network, defined=True))
    assert list(changes.subjects(Verb.RESTART_VM)) == cut_off
    assert changes.subjects(Verb.LOAD_IPS) == ("ips",)


def test_who_does_not_run_only_starts_on_the_network_that_is_made_again() -> None:
    stopped = with_domain(STANDING, "shop.api", lambda domain: replace(domain, running=False))
    changes = plan(design(), without_network(stopped, "shop.app", defined=True))
    assert changes.subjects(Verb.START_VM) == ("api",)
    assert changes.subjects(Verb.RESTART_VM) == ("firewall",)


def test_another_address_outside_is_given_to_the_firewall_live() -> None:
    elsewhere = replace(
        UPLINK, address4=IPv4Interface("198.19.0.2/16"), gateway4=IPv4Address("198.19.0.1")
    )
    changes = plan_changes(manifest_of(design(), uplink=elsewhere), STANDING, "h1")
    assert told(changes) == [("configure VM", "firewall", "live"), LOAD_FIREWALL]
    assert why(changes, "firewall") == "addresses outside: + 198.19.0.2, - 198.18.0.2"


def test_another_network_outside_restarts_the_firewall() -> None:
    bridged = replace(UPLINK, network="", bridge="br0")
    assert told(plan_changes(manifest_of(design(), uplink=bridged), STANDING, "h1")) == [
        ("restart VM", "firewall", "restart"),
        LOAD_FIREWALL,
    ]


@pytest.mark.parametrize(
    ("paused", "reason"), [(False, "it is not running"), (True, "it is paused")]
)
def test_a_vm_that_does_not_run_is_started(paused: bool, reason: str) -> None:
    changes = plan(
        design(),
        with_domain(
            STANDING, "shop.api", lambda domain: replace(domain, running=paused, paused=paused)
        ),
    )
    assert told(changes) == [("start VM", "api", "new")]
    assert why(changes, "api") == reason


def saved(domain: DomainState) -> DomainState:
    return replace(domain, running=False, saved=True)


def test_a_vm_whose_memory_was_saved_is_restored() -> None:
    found = plan(design(), with_domain(STANDING, "shop.api", saved))
    assert told(found) == [("restore VM", "api", "new")]
    assert why(found, "api") == "its memory was saved"


def test_a_saved_appliance_is_loaded_again() -> None:
    found = plan(design(), with_domain(STANDING, "shop.firewall", saved))
    assert told(found) == [("restore VM", "firewall", "new"), LOAD_FIREWALL]


@pytest.mark.parametrize(
    ("old", "new", "verb"),
    [
        ("{image: nginx, zone: app", "{image: nginx, zone: app, memory: 256M", Verb.RESTART_VM),
        ("run: [echo one]", "run: [echo two]", Verb.REMAKE_VM),
        ("/etc/key: first", "/etc/key: second", Verb.RESTORE_VM),
    ],
)
def test_a_saved_memory_is_not_gone_on_with_where_the_change_takes_a_boot(
    old: str, new: str, verb: Verb
) -> None:
    assert plan(design(old, new), with_domain(STANDING, "shop.api", saved)).subjects(verb) == (
        "api",
    )


def test_a_vapp_is_saved_when_all_of_its_vms_are() -> None:
    some = with_domain(STANDING, "shop.api", saved)
    assert not STANDING.saved()
    assert not some.saved()
    assert replace(STANDING, domains=tuple(map(saved, STANDING.domains))).saved()
    assert not EMPTY.saved()


def test_an_appliance_that_was_started_is_loaded_again() -> None:
    """Its rules lived in its memory."""
    changes = plan(
        design(),
        with_domain(STANDING, "shop.firewall", lambda domain: replace(domain, running=False)),
    )
    assert told(changes) == [("start VM", "firewall", "new"), LOAD_FIREWALL]


def test_a_vm_that_somebody_undefined_is_made() -> None:
    assert told(plan(design(), without_domain(STANDING, "shop.api"))) == [("make VM", "api", "new")]


def interrupted(state: VappState) -> VappState:
    assert state.manifest is not None
    return replace(state, manifest=replace(state.manifest, phase=Phase.APPLYING))


def test_after_an_interrupted_run_the_protection_is_loaded_whatever_it_got_to() -> None:
    assert told(plan(design(), interrupted(STANDING))) == [LOAD_FIREWALL]


def test_a_vm_that_an_interrupted_run_left_half_made_is_made_anew() -> None:
    half = with_domain(
        interrupted(STANDING),
        "shop.web-2",
        lambda domain: replace(domain, marks=replace(domain.marks, digests=None)),
    )
    changes = plan(design(), half)
    assert told(changes) == [("make VM anew", "web-2", "recreate"), LOAD_FIREWALL]
    assert why(changes, "web-2") == "an earlier run did not finish making it"


def test_after_an_interrupted_change_each_domain_is_believed_and_not_the_manifest() -> None:
    """The run got to web-1 and not to web-2: only web-2 is left to do."""
    wanted = design("memory: 256M", "memory: 320M")
    state = interrupted(standing(wanted))
    old = STANDING.domain("shop.web-2")
    assert old is not None
    half = with_domain(state, "shop.web-2", lambda _: old)
    assert told(plan(wanted, half)) == [("restart VM", "web-2", "restart"), LOAD_FIREWALL]


def test_without_a_manifest_whole_vms_are_kept_and_looked_after() -> None:
    """Nobody knows how libvirt read their definitions, so they are defined again."""
    assert told(plan(design(), replace(STANDING, manifest=None))) == [
        *(("start VM", vm.name, "new") for vm in design().vms),
        *(("mend VM", vm.name, "live") for vm in design().vms),
        LOAD_FIREWALL,
    ]


@pytest.mark.parametrize(("vm", "more"), [("web-1", []), ("firewall", [LOAD_FIREWALL])])
@pytest.mark.parametrize("phase", list(Phase))
def test_a_vm_that_somebody_else_started_is_looked_after(
    vm: str, more: list[tuple[str, str, str]], phase: Phase
) -> None:
    """Its links are down, whoever started it: virsh, the host's own autostart, or a run of `up`
    that was killed.
    """
    state = with_domain(STANDING, f"shop.{vm}", lambda domain: replace(domain, token=""))
    assert state.manifest
    changes = plan(design(), replace(state, manifest=replace(state.manifest, phase=phase)))
    assert told(changes) == [
        ("start VM", vm, "new"),
        *(more if phase is Phase.READY else [LOAD_FIREWALL]),
    ]
    assert why(changes, vm).startswith("it was started")


def test_the_domain_of_somebody_else_is_an_error_that_names_the_way_out() -> None:
    foreign = with_domain(
        STANDING, "shop.api", lambda domain: replace(domain, uuid="f" * 32, marks=NO_VM)
    )
    with pytest.raises(
        VcloudError, match=r"domain 'shop\.api' exists already and is not vcloud's\n.*domrename"
    ):
        plan(design(), foreign)


def test_the_network_of_somebody_else_is_an_error_that_names_the_way_out() -> None:
    with pytest.raises(
        VcloudError, match=r"network 'shop\.dmz' exists already and is not vcloud's\n.*net-undefine"
    ):
        plan(design(), replace(EMPTY, networks=(NetworkState("shop.dmz", "f" * 32, True),)))


def test_things_of_other_vapps_are_left_alone() -> None:
    stranger = replace(
        STANDING.domains[0],
        name="shop.old",
        marks=replace(STANDING.domains[0].marks, vapp="shop.old"),
    )
    segment = NetworkState("shop.old-net", "f" * 32, True, NetworkMarks("other", "net"))
    state = replace(
        STANDING, domains=(*STANDING.domains, stranger), networks=(*STANDING.networks, segment)
    )
    assert plan(design(), state).steps == ()


def test_a_plan_can_be_asked_what_it_does() -> None:
    changes = plan(design("memory: 256M", "memory: 320M"), STANDING)
    assert changes.subjects(Verb.RESTART_VM) == ("web-1", "web-2")
    assert changes.has(Verb.RESTART_VM, Verb.MAKE_VM)
    assert not changes.has(Verb.REMOVE_VM)
    assert {step.cost for step in changes.steps} == {Cost.RESTART}


def test_what_cloud_init_gives_costs_a_restart_because_it_only_looks_at_boot() -> None:
    image = "{url: 'https://images.example/a.qcow2', sha256: '" + "0" * 64 + "'}"
    text = FILE.replace("api: {image: nginx,", f"api: {{image: {image},")
    stands = standing(design(text=text))
    changed = plan(design("first", "second", text), stands)
    assert [(step.subject, step.verb) for step in changed.steps] == [("api", Verb.RESTART_VM)]
    assert "/etc/key" in changed.steps[0].why
    paused = with_domain(stands, "shop.api", lambda domain: replace(domain, paused=True))
    assert plan(design("first", "second", text), paused).subjects(Verb.RESTART_VM) == ("api",)
    assert plan(design(text=text), stands).steps == ()
