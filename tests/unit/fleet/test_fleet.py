"""Hosts of a lab of which some do not answer, or have copies of the same vApp: libvirt's test driver."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from tests.standing import manifest_of
from tests.vapps import TWO_HOMES, design_of_text
from vcloud.apply.superseded import forget_replaced
from vcloud.errors import Exit, HostError, SilentError, UnreachableError, UsageError, VcloudError
from vcloud.fleet.fleet import Copies, Fleet, refuse_living
from vcloud.hosts.connection import Host, open_host
from vcloud.hosts.inventory import HostRef
from vcloud.hosts.manifests import read_manifest, write_manifest
from vcloud.hosts.refusals import explain_refusal
from vcloud.plan.manifest import Manifest
from vcloud.views.listing import _with_superseded

MANIFEST = manifest_of(design_of_text(TWO_HOMES))
VAPP = MANIFEST.design.vapp
SILENT = SilentError("h3 does not answer ssh", "Check that the host is up.")


@pytest.fixture
def hosts(tmp_path: Path) -> Iterator[tuple[Host, Host]]:
    """Two hosts of their own."""
    node = tmp_path / "node.xml"
    node.write_text("<node/>")
    with ExitStack() as opened:
        first, second = (
            opened.enter_context(open_host(HostRef(name, f"test://{node}")))
            for name in ("h1", "h2")
        )
        yield first, second


def has(host: Host, generation: int, *replaced: str) -> None:
    write_manifest(host, replace(MANIFEST, generation=generation, replaced=replaced))


def test_a_dead_host_hides_no_vapp_and_an_unreachable_one_may_have_it(
    hosts: tuple[Host, Host],
) -> None:
    with pytest.raises(UnreachableError, match="h3 may have it") as caught:
        Fleet(hosts, {"h3": SILENT}).home_of(VAPP)
    assert "--host-is-dead h3" in caught.value.hint
    assert caught.value.exit == Exit.REFUSED
    assert Fleet(hosts, dead=["h3"]).copies_of(VAPP) == Copies(None)
    has(hosts[1], 5)
    assert Fleet(hosts, {"h3": SILENT}).copies_of(VAPP) == Copies(hosts[1], (), {"h3": SILENT})


def test_of_two_copies_the_newest_counts(hosts: tuple[Host, Host]) -> None:
    first, second = hosts
    has(first, 5, "h2")
    has(second, 9)
    assert Fleet(hosts).copies_of(VAPP) == Copies(first, (second,))
    has(first, 5)
    assert Fleet(hosts).copies_of(VAPP) == Copies(second, (first,))
    has(first, 9)
    with pytest.raises(UsageError, match="which copy is the newest is not known") as caught:
        Fleet(hosts).home_of(VAPP)
    assert "--connect h1|h2" in caught.value.hint
    assert Fleet([first]).copies_of(VAPP) == Copies(first), "the user has named it"


def test_a_run_that_changes_nothing_else_forgets_hosts_that_have_no_copy_any_more(
    hosts: tuple[Host, Host],
) -> None:
    """The host that was not asked stays noted; so does everything where nobody was asked."""
    first, _ = hosts
    has(first, 5, "h2", "h3")
    for empty, left in ((), ("h2", "h3")), (("h4",), ("h2", "h3")), (("h2", "h4"), ("h3",)):
        seen = read_manifest(first, VAPP)
        assert isinstance(seen, Manifest)
        forget_replaced(Fleet(hosts).only(first, (), empty), VAPP, seen)
        found = read_manifest(first, VAPP)
        assert found == replace(seen, replaced=left)
    forget_replaced(Fleet([hosts[1]], empty=["h2"]), VAPP, None)
    assert read_manifest(hosts[1], VAPP) is None


@pytest.mark.parametrize(
    ("name", "what", "code"),
    [
        ("h1", "h1 answers, so it is not dead", Exit.INVALID),
        ("h9", "names 'h9', and the hosts are h1, h2, h3", Exit.INVALID),
        ("h2", "it is not known that h2 is dead: libvirt does not run on h2", Exit.REFUSED),
    ],
)
def test_a_host_that_answers_is_never_taken_for_dead(name: str, what: str, code: Exit) -> None:
    unreachable = {"h2": HostError("libvirt does not run on h2"), "h3": SILENT}
    refuse_living(["h3"], ["h1"], unreachable)
    refuse_living([], ["h1"], unreachable)
    with pytest.raises(VcloudError, match=what) as caught:
        refuse_living(["h3", name], ["h1"], unreachable)
    assert caught.value.exit == code


@pytest.mark.parametrize(
    ("said", "silent"),
    [
        ("ssh: connect to host h1 port 22: Connection timed out", True),
        ("ssh: connect to host h1 port 22: No route to host", True),
        ("Connection closed by UNKNOWN port 65535", True),
        ("kex_exchange_identification: Connection closed by remote host", True),
        (
            "Unable to negotiate with h1 port 22: no matching host key type: Connection reset by peer",
            False,
        ),
        ("~/.ssh/config: line 3: Bad configuration option: Connection reset by peer", False),
        ("ssh: connect to host h1 port 22: Connection refused", False),
        ("(UNKNOWN) [10.0.0.1] 22 (ssh) : Connection refused; Connection closed by h1", False),
        ("Host key verification failed.", False),
        ("root@h1: Permission denied (publickey).", False),
        ("Failed to connect socket to '/run/libvirt/libvirt-sock'", False),
        ("Could not resolve hostname h1", False),
        ("something that nobody has thought of", False),
    ],
)
def test_only_silence_may_be_death(said: str, silent: bool) -> None:
    error = explain_refusal(HostRef("h1", "qemu+ssh://root@h1/system"), said)
    assert isinstance(error, SilentError) == silent


def test_a_list_names_the_copy_that_is_superseded() -> None:
    rows = [
        ({"vapp": "shop", "host": "h1", "state": "ready"}, replace(MANIFEST, replaced=("h2",))),
        ({"vapp": "shop", "host": "h2", "state": "ready"}, replace(MANIFEST, generation=9)),
        ({"vapp": "bank", "host": "h2", "state": "unreadable"}, None),
        ({"vapp": "bank", "host": "h1", "state": "ready"}, MANIFEST),
    ]
    assert [row["state"] for row in _with_superseded(rows)] == [
        "ready",
        "older copy, superseded by h1",
        "unreadable",
        "ready",
    ]
