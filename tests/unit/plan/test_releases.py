"""What another release of vcloud has made is compared by what was rendered, and what a newer one
has made is never built upon.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.standing import manifest_of, standing, with_domain
from tests.unit.plan.test_diff import (
    FILE,
    INSPECTED,
    LOAD_FIREWALL,
    STANDING,
    design,
    plan,
    told,
    why,
)
from tests.vapps import design_of_text
from vcloud.errors import HostError
from vcloud.plan.diff import plan_changes
from vcloud.plan.formats import FORMAT, Unreadable
from vcloud.plan.reasons import RELEASE
from vcloud.plan.state import NetworkState, VappState
from vcloud.plan.steps import COSTS, UNDO, Cost, Verb

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA me@desk"


def test_a_vm_that_this_release_renders_differently_is_restarted() -> None:
    """A device more in the template, for example: nothing of the file differs, and the digest of
    the rendered domain does.
    """
    old = with_marks(STANDING, "shop.api", hardware="digest of another text")
    changes = plan(design(), old)
    assert told(changes) == [("restart VM", "api", "restart")]
    assert why(changes, "api") == RELEASE


def with_marks(state: VappState, name: str, **digests: str) -> VappState:
    """The same where an earlier release rendered other texts for one VM, as its mark and the
    manifest say.
    """
    assert state.manifest
    vm = name.partition(".")[2]
    vms = tuple(
        (other, replace(found, **digests) if other == vm else found)
        for other, found in state.manifest.vms
    )
    manifest = replace(state.manifest, vms=vms)
    marks = dict(vms)
    changed = with_domain(
        state, name, lambda domain: replace(domain, marks=replace(domain.marks, digests=marks[vm]))
    )
    return replace(changed, manifest=manifest)


def test_a_network_that_this_release_renders_differently_is_made_anew_and_its_vms_restart() -> None:
    def other(network: NetworkState) -> NetworkState:
        return (
            replace(network, marks=replace(network.marks, digest="another"))
            if network.name == "shop.app"
            else network
        )

    changes = plan(design(), replace(STANDING, networks=tuple(map(other, STANDING.networks))))
    assert told(changes) == [
        ("make network anew", "shop.app", "restart"),
        ("restart VM", "firewall", "restart"),
        ("restart VM", "api", "restart"),
        LOAD_FIREWALL,
    ]
    assert why(changes, "shop.app") == RELEASE
    assert "is made anew" in why(changes, "api")


def test_a_filter_that_this_release_renders_differently_is_defined_again_live() -> None:
    assert STANDING.manifest
    changes = plan(
        design(), replace(STANDING, manifest=replace(STANDING.manifest, filter="another"))
    )
    assert told(changes) == [("define filter", "vcloud-shop", "live")]
    assert why(changes, "vcloud-shop") == RELEASE


def test_a_filter_that_somebody_removed_is_defined_again() -> None:
    changes = plan(design(), replace(STANDING, filter_gone=True))
    assert told(changes) == [("define filter", "vcloud-shop", "live")]
    assert why(changes, "vcloud-shop") == "it was removed"


def test_rules_that_this_release_renders_differently_are_loaded_again() -> None:
    assert STANDING.manifest
    changes = plan(
        design(), replace(STANDING, manifest=replace(STANDING.manifest, firewall="another"))
    )
    assert told(changes) == [LOAD_FIREWALL]
    assert why(changes, "firewall") == f"rules are loaded again: {RELEASE}"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        pytest.param(
            {"old": "count: 2", "new": "count: 3"},
            "/etc/hosts: + web-3 (reload nginx)",
            id="a VM more",
        ),
        pytest.param(
            {"old": "count: 2", "new": "count: 1"},
            "/etc/hosts: - web-2 (reload nginx)",
            id="a VM less",
        ),
        pytest.param(
            {"old": "zones:", "new": f"authorized_keys: ['{KEY}']\nzones:"},
            "authorized keys changed",
            id="a key",
        ),
    ],
)
def test_a_plan_names_what_a_guest_is_told_anew(change: dict[str, str], words: str) -> None:
    assert why(plan(design(**change), STANDING), "api") == words


FOLLOWED = """\
vcloud: 1
name: shop
zones: {dmz: {}}
vms:
  web:
    image: nginx
    zone: dmz
    files: {/etc/nginx/a.conf: one, /etc/b: {content: one, restart: [app], run: "b --check"}, /etc/c: one}
    run: [cat /etc/b, cat /etc/c, cat /etc/b /etc/c]
"""


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("a.conf: one", "a.conf: two", "files: /etc/nginx/a.conf (reload nginx)"),
        (
            "content: one",
            "content: two",
            "files: /etc/b (run its command, restart app); run[0], run[2] name changed files and do not run again",
        ),
        (
            "/etc/nginx/a.conf: one, ",
            "",
            "files: /etc/nginx/a.conf (reload nginx)",
        ),
    ],
)
def test_a_plan_says_what_follows_a_changed_file_and_what_does_not(
    old: str, new: str, words: str
) -> None:
    stands = standing(design_of_text(FOLLOWED))
    assert why(plan(design_of_text(FOLLOWED.replace(old, new)), stands), "web") == words


@pytest.mark.parametrize(
    ("change", "vm", "words"),
    [
        ({"old": "app: {}}", "new": "app: {}, new: {}}"}, "firewall", "all traffic between zones"),
        ({"old": "memory: 256M", "new": "memory: 320M"}, "web-1", ""),
    ],
)
def test_a_plan_says_what_stands_still_while_an_appliance_restarts(
    change: dict[str, str], vm: str, words: str
) -> None:
    changes = plan(design(**change), STANDING)
    (step,) = [
        step for step in changes.steps if step.subject == vm and step.verb is Verb.RESTART_VM
    ]
    assert words in step.why
    assert ("stops until it runs again" in step.why) is bool(words)


def test_a_reload_that_is_asked_for_says_so() -> None:
    changes = plan_changes(manifest_of(design()), STANDING, "h1", reload=True)
    assert told(changes) == [LOAD_FIREWALL]
    assert why(changes, "firewall") == "rules are loaded again: --reload asks for it"


# Made by a newer release


def test_nothing_is_planned_upon_a_manifest_that_a_newer_release_made() -> None:
    newer = replace(STANDING, manifest=None, unreadable=Unreadable(FORMAT + 1, "9.1", None))
    with pytest.raises(
        HostError, match=rf"vcloud 9\.1 \(format {FORMAT + 1}; this release reads up to {FORMAT}\)"
    ) as refused:
        plan(design(), newer)
    assert "Nothing was changed" in refused.value.hint


def test_nothing_is_planned_upon_a_domain_or_network_that_a_newer_release_marked() -> None:
    """The manifest may be lost, so that only the marks tell."""
    domain = with_domain(
        STANDING, "shop.api", lambda domain: replace(domain, marks=replace(domain.marks, format=99))
    )
    networks = tuple(
        replace(network, marks=replace(network.marks, format=99)) for network in STANDING.networks
    )
    for state in (domain, replace(STANDING, networks=networks)):
        with pytest.raises(HostError, match=r"a newer release of vcloud made the (domain|network)"):
            plan(design(), replace(state, manifest=None))


def test_a_damaged_manifest_is_written_again_from_what_the_domains_say() -> None:
    damaged = replace(STANDING, manifest=None, unreadable=Unreadable(0, "", None))
    assert told(plan(design(), damaged)) == [
        *(("start VM", vm.name, "new") for vm in design().vms),
        *(("mend VM", vm.name, "live") for vm in design().vms),
        LOAD_FIREWALL,
    ]


def test_every_step_tells_its_host_and_what_undoes_it() -> None:
    changes = plan(design("", "", FILE + INSPECTED), STANDING)
    assert {step.host for step in changes.steps} == {"h1"}
    assert set(UNDO) == set(Verb)
    lost = [
        verb
        for verb in Verb
        if COSTS[verb] in (Cost.RECREATE, Cost.REMOVE) and verb is not Verb.REMOVE_NETWORK
    ]
    assert [verb for verb in Verb if not UNDO[verb]] == lost
