"""The hook on a host that trusts operators: terms that are older than the newest it knows of a VM do not
count again.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from tests.netns.host.hooked import (
    ALONE,
    BANK,
    LEASES,
    OPERATORS,
    SHOP,
    Host,
    domain,
    hooked,
    made,
    starts,
    trust,
    uuid_of,
    with_disk,
)
from vcloud.hosts.operator_key import Operator
from vcloud.hosts.signing import signed
from vcloud.signature import NEWEST
from vcloud.tenancy import Terms

pytestmark = [pytest.mark.netns, pytest.mark.timeout(900)]

CORE = "bank.core"
OLDER = "are older than the newest that this host knows"


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    with hooked(tmp_path_factory.mktemp("hook")) as host:
        yield host


@pytest.fixture(scope="module")
def operator(tmp_path_factory: pytest.TempPathFactory) -> Operator:
    return made(tmp_path_factory.mktemp("keys") / "alice")


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Operator:
    return made(tmp_path_factory.mktemp("keys") / "mallory")


@pytest.fixture
def host(built: Host, operator: Operator) -> Iterator[Host]:
    """It trusts the operator."""
    trust(built, operator)
    yield built
    built.clear()


def given(operator: Operator, terms: Terms, generation: int, name: str = CORE) -> str:
    """A domain with signed terms of this generation; 0: none, as earlier releases signed them."""
    xml = domain(name, terms)
    if generation:
        xml = xml.replace("<t:terms", f'<t:terms generation="{generation}"')
    return signed(operator, xml)


def asked(
    operator: Operator | None,
    notice: Mapping[Any, Any] | str,
    terms: Terms = BANK,
    boot: str = "",
) -> str:
    """A question of the vApp that tells the newest generations of its VMs, and a boot of the host."""
    text = notice if isinstance(notice, str) else json.dumps({"boot": boot, "vms": notice})
    element = f'<q:question xmlns:q="https://vcloud.dev/ns/1/question">{text}</q:question>'
    xml = domain("question", terms).replace("</metadata>", f"{element}</metadata>")
    return signed(operator, xml)


def known(host: Host) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(host.run("cat", f"{LEASES}/known"))
    return found


def stopped(host: Host, xml: str, name: str = CORE) -> None:
    assert host.call(xml, name, "release", "end") == (0, "")


def runs_with(host: Host, xml: str, name: str = CORE) -> None:
    assert starts(host, xml, name) == ""
    folder = "/run/libvirt/qemu"
    host.run("sh", "-c", f"sleep 600 >/dev/null 2>&1 & echo $! >{folder}/{name}.pid")
    host.has_now(name, xml)
    assert host.call(xml, name, "started", "begin") == (0, "")


def test_older_terms_do_not_count_again_once_newer_ones_have_started(
    host: Host, operator: Operator
) -> None:
    before, after = given(operator, BANK, 4), given(operator, ALONE, 5)
    assert starts(host, before, CORE) == ""
    assert starts(host, after, CORE) == ""
    stopped(host, after)
    said = starts(host, before, CORE)
    assert f"the terms of tenancy of 'bank.core' {OLDER}" in said
    assert "(generation 4, and 5)" in said
    assert "`vcloud up` gives it its own" in said
    assert OLDER in starts(host, given(operator, BANK, 0), CORE), "of an earlier release"
    assert starts(host, after, CORE) == "", "the newest count as often as one likes"
    assert starts(host, given(operator, BANK, 6), CORE) == ""
    other = given(operator, BANK, 1, "bank.web")
    assert starts(host, other, "bank.web") == "", "each VM has generations of its own"


def test_the_generation_is_signed(host: Host, operator: Operator) -> None:
    xml = given(operator, BANK, 4)
    for changed in (
        xml.replace('generation="4"', 'generation="5"'),
        xml.replace('generation="4"', ""),
        given(operator, BANK, 0).replace("<tenancy:terms", '<tenancy:terms generation="5"'),
    ):
        assert "not for this VM as it is now" in starts(host, changed, CORE)
    for text in ("0", "04", "-1", "x", "", str(NEWEST + 1), "9" * 5000):
        said = starts(host, xml.replace('"4"', f'"{text}"'), CORE)
        assert "no whole number from 1 on" in said
    assert starts(host, xml, CORE) == ""
    assert starts(host, given(operator, BANK, 3), CORE) != "", "it is known from then on"


def test_a_notice_of_a_trusted_operator_counts_where_nothing_starts(
    host: Host, operator: Operator, stranger: Operator
) -> None:
    old = given(operator, BANK, 4)
    notice = {uuid_of(CORE): 5}
    forged = asked(operator, {uuid_of(CORE): 4}).replace(": 4}}", ": 5}}")
    assert ": unsigned: " in starts(host, asked(stranger, notice), "question")
    assert ": unsigned: " in starts(host, asked(None, notice), "question")
    assert ": unsigned: " in starts(host, forged, "question")
    assert starts(host, old, CORE) == "", "none of these is the operator's"
    stopped(host, old)
    assert ", generation 5: yes: " in starts(host, asked(operator, notice), "question")
    assert OLDER in starts(host, old, CORE)
    assert starts(host, given(operator, BANK, 5), CORE) == ""
    assert ", generation 5: yes: " in starts(host, asked(operator, {uuid_of(CORE): 3}), "question")
    assert ", generation 0: yes: " in starts(host, asked(operator, "", SHOP), "question")


@pytest.mark.parametrize(
    "notice",
    [
        "[]",
        "{",
        '{"x": 5}',
        '{"vms": {"x": 5}}',
        '{"vms": [], "boot": ""}',
        '{"vms": {}, "boot": 5}',
        {uuid_of(CORE): -1},
        {uuid_of(CORE): 1.5},
        {uuid_of(CORE): True},
        {uuid_of(CORE): NEWEST + 1},
        f'{{"vms": {{"{uuid_of(CORE)}": 1, "{uuid_of(CORE)}": 5}}}}',
        "[" * 5000,
    ],
)
def test_what_is_no_notice_changes_nothing(
    host: Host, operator: Operator, notice: dict[str, Any] | str
) -> None:
    said = starts(host, asked(operator, notice), "question")
    assert ": no: the notice of 'bank' cannot be read" in said
    assert starts(host, given(operator, BANK, 1), CORE) == ""


def test_no_vapp_tells_of_the_vms_of_another(host: Host, operator: Operator) -> None:
    shop = given(operator, SHOP, 4, "shop.web")
    assert starts(host, shop, "shop.web") == ""
    said = starts(host, asked(operator, {uuid_of("shop.web"): 5}), "question")
    assert "a notice of 'bank' names 'shop.web' of 'shop'" in said
    assert starts(host, shop, "shop.web") == ""


def test_older_terms_that_a_running_vm_gets_let_nobody_in(host: Host, operator: Operator) -> None:
    shop = given(operator, SHOP, 1, "shop.web")
    old, new = given(operator, BANK, 4), given(operator, ALONE, 5)
    runs_with(host, old)
    assert starts(host, shop, "shop.web") == ""
    stopped(host, shop, "shop.web")
    host.has_now(CORE, new)
    assert "'bank' shares its host with no other vApp" in starts(host, shop, "shop.web")
    # What it started with was signed, and yet counts no more.
    host.has_now(CORE, old)
    said = starts(host, shop, "shop.web")
    assert f"the terms of tenancy of 'bank.core' {OLDER}" in said
    assert "`vcloud up` with the file of 'bank' gives it new ones" in said
    assert starts(host, given(operator, BANK, 6, "bank.web"), "bank.web") == "", "its own vApp"
    host.has_now(CORE, given(operator, BANK, 7))
    assert starts(host, shop, "shop.web") == ""


def test_terms_that_a_vm_ended_with_are_known_without_another_start(
    host: Host, operator: Operator
) -> None:
    old, new = given(operator, BANK, 4), given(operator, ALONE, 5)
    runs_with(host, old)
    host.run("sh", "-c", "cd /run/libvirt/qemu; kill $(cat bank.core.pid); rm bank.core.*")
    stopped(host, new)
    assert OLDER in starts(host, old, CORE)


def test_generations_stay_known_when_the_disks_are_gone(host: Host, operator: Operator) -> None:
    host.run("sh", "-c", "mkdir -p /run/pool; touch /run/pool/core")
    xml = signed(operator, with_disk(given(operator, BANK, 5), "/run/pool/core"))
    assert starts(host, xml, CORE) == ""
    stopped(host, xml)
    host.run("rm", "-r", "/run/pool/core")
    assert starts(host, given(operator, SHOP, 1, "shop.web"), "shop.web") == ""
    assert known(host)[uuid_of(CORE)]["disks"] == []
    assert OLDER in starts(host, given(operator, BANK, 4), CORE)
    assert starts(host, domain(CORE, None), CORE) == "", "nothing of the VM is left"


def test_only_so_many_vms_without_disks_are_known_and_the_oldest_go_first(
    host: Host, operator: Operator
) -> None:
    for first in (1, 601):
        notice = {uuid_of(f"vm {number}"): number for number in range(first, first + 600)}
        assert ": yes: " in starts(host, asked(operator, notice), "question")
    assert {one["generation"] for one in known(host).values()} == {*range(201, 1201)}
    notice = {uuid_of(f"vm {number}"): 1 for number in range(1001)}
    assert "at most 1000 members" in starts(host, asked(operator, notice), "question")


def test_a_list_of_vms_of_an_earlier_release_counts_and_has_no_generations(
    host: Host, operator: Operator
) -> None:
    host.run("sh", "-c", f"mkdir -p {LEASES} /run/pool; touch /run/pool/core")
    entry = {"name": CORE, "vapp": "bank", "disks": ["/run/pool/core"]}
    host.run("sh", "-c", f"cat >{LEASES}/known", stdin=json.dumps({uuid_of(CORE): entry}))
    assert "has the name of 'bank.core'" in starts(host, domain(CORE, None), CORE)
    admit = asked(operator, {uuid_of(CORE): 0}, boot=boot_of(host))
    assert ", generation 0: yes: " in starts(host, admit, "question")
    assert starts(host, given(operator, BANK, 0), CORE) == ""
    assert starts(host, given(operator, BANK, 1), CORE) == ""
    assert known(host) == {uuid_of(CORE): entry | {"generation": 1, "boot": boot_of(host)}}
    host.run("rm", "-r", "/run/pool")


def test_without_operators_nobody_can_raise_a_generation(host: Host, operator: Operator) -> None:
    """Otherwise whoever wrote a high one would lock a VM out as soon as operators are trusted."""
    host.run("rm", OPERATORS)
    high = domain(CORE, BANK).replace("<t:terms", f'<t:terms generation="{NEWEST}"')
    runs_with(host, high)
    assert ": yes: " in starts(host, asked(None, {uuid_of(CORE): NEWEST}), "question")
    trust(host, operator)
    assert starts(host, given(operator, BANK, 1, "bank.web"), "bank.web") == ""
    host.run("sh", "-c", "cd /run/libvirt/qemu; kill $(cat bank.core.pid); rm bank.core.*")
    stopped(host, high)
    assert starts(host, given(operator, BANK, 1), CORE) == ""


# Admission after a boot


def boot_of(host: Host) -> str:
    return host.run("cat", "/proc/sys/kernel/random/boot_id").strip()


@pytest.fixture
def booted(host: Host, operator: Operator) -> str:
    """A VM that the host ran in its boot before, whose disk is there."""
    host.run("sh", "-c", "mkdir -p /run/pool; touch /run/pool/core")
    xml = signed(operator, with_disk(given(operator, BANK, 5), "/run/pool/core"))
    runs_with(host, xml)
    host.run("sh", "-c", "rm -r /run/libvirt/qemu/*; rm /var/lib/vcloud/leases/*.json")
    (entry,) = known(host).values()
    assert entry["boot"] == boot_of(host)
    text = json.dumps({uuid_of(CORE): entry | {"boot": "another"}})
    host.run("sh", "-c", f"cat >{LEASES}/known", stdin=text)
    return xml


def test_a_vm_of_an_earlier_boot_starts_when_an_operator_has_admitted_it(
    host: Host, operator: Operator, stranger: Operator, booted: str
) -> None:
    notice, now = {uuid_of(CORE): 5}, boot_of(host)
    for question in (
        asked(operator, notice),
        asked(operator, notice, boot="another"),
        asked(operator, {uuid_of("bank.web"): 5}, boot=now),
        asked(stranger, notice, boot=now),
        asked(operator, notice, boot="another").replace("another", now),
    ):
        starts(host, question, "question")
        said = starts(host, booted, CORE)
        assert "'bank.core' was not admitted since this host has booted" in said
        assert "`vcloud host admit`" in said
    newcomer = given(operator, SHOP, 1, "shop.web")
    assert starts(host, newcomer, "shop.web") == "", "the host does not know it from before"
    assert ": yes: " in starts(host, asked(operator, notice, boot=now), "question")
    assert starts(host, booted, CORE) == ""
    stopped(host, booted)
    assert starts(host, booted, CORE) == "", "once for each boot"


def test_a_host_that_trusts_nobody_starts_vms_after_a_boot_as_ever(host: Host, booted: str) -> None:
    assert "was not admitted" in starts(host, booted, CORE)
    host.run("rm", OPERATORS)
    assert starts(host, booted, CORE) == ""
