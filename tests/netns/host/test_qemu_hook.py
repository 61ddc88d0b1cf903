"""The hook as a program on a host: with folders and processes of its own, in namespaces."""

from __future__ import annotations

import hashlib
import json
import random
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from xml.etree import ElementTree

import pytest

from tests.netns.host.hooked import ALONE, BANK, LEASES, POLICY, SHOP, Host, domain, hooked, uuid_of
from vcloud.enforce.install import hook_text
from vcloud.tenancy import Terms

pytestmark = [pytest.mark.netns, pytest.mark.timeout(900)]

UNREADABLE = ("{", "[]", "{}", '{"format": 2}', '{"format": 1, "boot": 5}', "\0")


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    with hooked(tmp_path_factory.mktemp("hook")) as host:
        yield host


@pytest.fixture
def host(built: Host) -> Iterator[Host]:
    yield built
    built.clear()


def test_a_dedicated_vapp_keeps_others_away_as_long_as_it_runs(host: Host) -> None:
    host.runs("bank.core", ALONE)
    host.runs("bank.web", ALONE)
    said = host.starts("shop.web", SHOP)
    assert said == (
        "vcloud: 'shop.web' may not run on this host: "
        "'bank' shares its host with no other vApp, and 'shop' is one\n"
    )
    assert set(host.leases()) == {"bank.core", "bank.web"}
    host.ends("bank.web", ALONE)
    assert host.starts("shop.web", SHOP) != ""
    host.ends("bank.core", ALONE)
    assert host.starts("shop.web", SHOP) == ""


def test_it_may_not_come_to_others_either(host: Host) -> None:
    host.runs("shop.web", SHOP)
    assert "'bank' shares its host with no other vApp" in host.starts("bank.core", ALONE)
    assert host.starts("bank.core", BANK) == ""


def test_a_vm_that_vcloud_does_not_manage_comes_as_the_host_says(host: Host) -> None:
    host.runs("laptop", None)
    assert host.starts("bank.core", ALONE) == ""
    host.call(domain("bank.core", ALONE), "bank.core", "release", "end")
    host.run("sh", "-c", f"cat >{POLICY}", stdin='{"unmanaged": "deny"}')
    assert "'laptop' is one" in host.starts("bank.core", ALONE)
    host.ends("laptop", None)
    host.runs("bank.core", ALONE)
    assert "denies VMs that vcloud does not manage" in host.starts("laptop", None)


def test_what_has_ended_without_a_word_counts_for_nothing(host: Host) -> None:
    """Its process was killed together with libvirtd; the host lost power, and has another release's
    leases; libvirtd died before QEMU was started, or has not come to it for long.
    """
    host.runs("bank.core", ALONE)
    (lease,) = host.leases().values()
    host.run("sh", "-c", "kill -9 $(cat /run/libvirt/qemu/bank.core.pid)")
    assert host.starts("shop.web", SHOP) == ""
    alive = [1, int(host.run("cat", "/proc/1/stat").rpartition(")")[2].split()[19])]
    starting = {**lease, "qemu": None, "daemon": alive}
    for other, stands in (
        (starting, True),
        ({**starting, "daemon": [1, 1]}, False),
        ({**starting, "daemon": [4_000_000, 0]}, False),
        ({**starting, "since": lease["since"] - 1000}, False),
        ({**starting, "boot": "another"}, False),
        ({"format": 9, "boot": "another"}, False),
    ):
        host.clear()
        path = f"{LEASES}/{lease['uuid']}.json"
        host.run("sh", "-c", f"mkdir -p {LEASES}; cat >{path}", stdin=json.dumps(other))
        assert bool(host.starts("shop.web", SHOP)) is stands, other


def test_one_that_is_just_starting_counts_while_its_libvirtd_lives(host: Host) -> None:
    assert host.start_by_one_daemon(("bank.core", ALONE), ("shop.web", SHOP), between=";") == [0, 1]
    assert host.starts("shop.web", SHOP) == ""


@pytest.mark.parametrize("text", UNREADABLE)
def test_a_lease_that_cannot_be_read_keeps_vapps_away_and_nobody_else(
    host: Host, text: str
) -> None:
    path = f"{LEASES}/{uuid_of('x')}.json"
    host.run("sh", "-c", f"mkdir -p {LEASES}; cat >{path}", stdin=text)
    said = host.starts("shop.web", SHOP)
    assert "it is not known who runs on this host" in said
    assert path in said
    assert host.starts("laptop", None) == ""
    host.run("sh", "-c", f"cat >{POLICY}", stdin='{"unmanaged": "deny"}')
    assert path in host.starts("laptop", None)


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"unmanaged": "perhaps"}'])
def test_a_policy_that_cannot_be_read_keeps_all_away(host: Host, text: str) -> None:
    """It may deny VMs that vcloud does not manage."""
    host.run("sh", "-c", f"cat >{POLICY}", stdin=text)
    for name, terms in (("shop.web", SHOP), ("laptop", None)):
        assert POLICY in host.starts(name, terms)
    host.run("sh", "-c", f"rm {POLICY}; ln -s /nowhere {POLICY}")
    assert POLICY in host.starts("laptop", None)


def test_a_vm_that_runs_without_a_lease_may_be_anybodys(host: Host) -> None:
    """Such as one that ran before the hook was installed. libvirt tells of it when it has restarted."""
    host.runs("bank.core", ALONE)
    host.run("sh", "-c", f"rm -r {LEASES}")
    assert "'bank.core' runs, and has no lease" in host.starts("shop.web", SHOP)
    assert host.starts("laptop", None) == ""
    assert host.call(domain("bank.core", ALONE), "bank.core", "reconnect", "begin") == (0, "")
    assert "'bank' shares its host" in host.starts("shop.web", SHOP)


def test_a_vm_whose_terms_nobody_can_read_is_not_taken_for_one_without_rules(host: Host) -> None:
    """It was started by another release, or edited while it ran."""
    host.runs("bank.core", ALONE)
    other = domain("bank.core", ALONE, '{"format": 2}')
    for xml in (other, domain("bank.core", None), "<", "</domstatus>"):
        host.has_now("bank.core", xml)
        assert "it is not known who runs on this host" in host.starts("shop.web", SHOP)
        assert host.starts("laptop", None) == ""
    host.has_now("bank.core", domain("bank.core", ALONE))
    assert "'bank' shares its host" in host.starts("shop.web", SHOP)
    host.run("sh", "-c", f"rm -r {LEASES}")
    host.has_now("bank.core", other)
    assert host.call(other, "bank.core", "reconnect", "begin") == (0, "")
    assert "it is not known who runs on this host" in host.starts("shop.web", SHOP)


def test_terms_that_a_running_vm_has_been_given_count_at_once(host: Host) -> None:
    host.runs("bank.core", ALONE)
    host.has_now("bank.core", domain("bank.core", BANK))
    assert host.starts("shop.web", SHOP) == ""
    host.clear()
    host.runs("bank.core", BANK)
    host.has_now("bank.core", domain("bank.core", ALONE))
    assert "'bank' shares its host" in host.starts("shop.web", SHOP)
    # Where libvirt tells nothing, what it had when it started counts.
    host.run("rm", "/run/libvirt/qemu/bank.core.xml")
    assert host.starts("shop.web", SHOP) == ""


def test_a_question_is_answered_and_changes_nothing(host: Host) -> None:
    """It never starts, whatever the answer is."""

    def asked(terms: Terms) -> str:
        question = '<q:question xmlns:q="https://vcloud.dev/ns/1/question"/></metadata>'
        xml = domain("question", terms).replace("</metadata>", question)
        code, said = host.call(xml, "question", "prepare", "begin")
        assert code == 1
        return said

    begins = f"vcloud: hook {hashlib.sha256(hook_text()).hexdigest()}, generation 0: "
    assert asked(SHOP) == f"{begins}yes: \n"
    assert host.leases() == {}
    host.runs("bank.core", ALONE)
    no = "no: 'shop' may not run on this host: 'bank' shares its host with no other vApp"
    assert asked(SHOP).startswith(begins + no)
    assert asked(ALONE) == f"{begins}yes: \n"
    assert [*host.leases()] == ["bank.core"]
    host.run("sh", "-c", f"echo '{{' >{LEASES}/x.json")
    assert asked(SHOP).startswith(
        f"{begins}unknown: 'shop' was not started, because it is not known"
    )


def test_what_was_refused_or_only_asked_closes_no_class(host: Host) -> None:
    """libvirt releases what it has not started, too."""
    host.runs("bank.core", ALONE)
    first = replace(SHOP, conflicts=("banks",), remembered=("banks",))
    question = '<q:question xmlns:q="https://vcloud.dev/ns/1/question"/></metadata>'
    for xml in (
        domain("shop.web", first),
        domain("shop.web", first).replace("</metadata>", question),
    ):
        assert host.call(xml, "shop.web", "prepare", "begin")[0] == 1
        assert host.call(xml, "shop.web", "release", "end") == (0, "")
    host.ends("bank.core", ALONE)
    assert host.starts("bank.core", replace(BANK, conflicts=("banks",))) == ""


def test_a_class_that_the_host_remembers_is_closed_until_root_says_that_it_is_clean(
    host: Host,
) -> None:
    first = replace(SHOP, conflicts=("banks", "shops"), remembered=("banks", "shops"))
    second = replace(BANK, conflicts=("banks",))

    def scrub(name: str, stage: str) -> tuple[int, str]:
        done = subprocess.run(
            host.enter(str(host.hook), name, "scrub", stage), capture_output=True, text=True
        )
        return done.returncode, done.stdout or done.stderr

    assert scrub("", "list") == (0, "{}\n")
    host.runs("shop.web", first)
    said = scrub("banks", "begin")
    assert said == (
        1,
        "vcloud: the host is not clean, because 'shop.web' of 'shop' runs on it\n",
    )
    host.ends("shop.web", first)
    assert "has carried 'shop' of conflict class 'banks'" in host.starts("bank.core", second)
    assert json.loads(scrub("", "list")[1]) == {"banks": ["shop"], "shops": ["shop"]}
    assert json.loads(scrub("shops", "begin")[1]) == {"shops": ["shop"]}
    assert "has carried 'shop'" in host.starts("bank.core", second)
    assert json.loads(scrub("banks", "begin")[1]) == {"banks": ["shop"]}
    assert host.starts("bank.core", second) == ""
    host.run("sh", "-c", f"echo '[' >{LEASES}/carried")
    assert scrub("", "begin")[0] == 1


def test_a_vapp_whose_own_vms_lost_their_terms_can_still_start_the_others(host: Host) -> None:
    """`vcloud up` gives them new ones. Nobody else may start meanwhile."""
    host.runs("bank.core", ALONE)
    mark = '<v:vm xmlns:v="https://vcloud.dev/ns/1" vapp="bank" name="x"/>'
    bare = domain("bank.core", None).replace("</domain>", f"<metadata>{mark}</metadata></domain>")
    host.has_now("bank.core", bare)
    said = host.starts("shop.web", SHOP)
    assert "it is not known who runs on this host" in said
    assert "`vcloud up` with the file of 'bank' gives it new ones" in said
    assert host.starts("bank.edge", ALONE) == ""
    # It is known whose VM it was when it started, if somebody has taken its mark, too.
    for xml in (domain("bank.core", None), domain("bank.core", ALONE).replace("<v:vm", "<v:gone")):
        host.has_now("bank.core", xml)
        assert "it is not known who runs on this host" in host.starts("shop.web", SHOP)
        assert host.starts("bank.edge", ALONE) == ""
    # The mark of another vApp's VM does not make it one of this vApp's.
    host.clear()
    host.runs("shop.web", SHOP)
    host.has_now("shop.web", bare.replace("bank.core", "shop.web"))
    assert "it is not known who runs on this host" in host.starts("bank.edge", ALONE)


def test_a_long_reason_is_cut_between_two_letters_and_fits_into_libvirts_message(
    host: Host,
) -> None:
    host.runs("bank.core", replace(BANK, together=((("owner", "\u00e9" * 199),),) * 3))
    said = host.starts("shop.web", SHOP)
    assert 600 < len(said.encode()) < 700
    assert "\ufffd" not in said


@pytest.mark.parametrize(
    "text",
    [
        *("", "{", "{}", "null", "[" * 100_000),
        '{"format": 9, "vapp": "shop"}',
        '{"format": true, "vapp": "shop"}',
        '{"format": 1, "vapp": "bank", "vapp": "shop"}',
        '{"format": 1, "vapp": "shop"' + " " * 70_000 + "}",
    ],
)
def test_terms_that_cannot_be_read_are_refused(host: Host, text: str) -> None:
    code, said = host.call(domain("shop.web", SHOP, text), "shop.web", "prepare", "begin")
    assert code == 1
    assert "cannot be read" in said
    assert host.leases() == {}


def test_the_mark_of_a_vapp_without_terms_or_with_those_of_another_is_refused(host: Host) -> None:
    own = domain("shop.web", SHOP)
    element = own[own.index("<t:terms") : own.index("</metadata>")]
    for xml in (own.replace(element, ""), own.replace(element, element * 2)):
        assert "terms of tenancy, not one" in host.call(xml, "shop.web", "prepare", "begin")[1]
    for xml in (own.replace('vapp="shop"', 'vapp="bank"'), own.replace("v:vm", "v:other")):
        assert "is none of its VMs" in host.call(xml, "shop.web", "prepare", "begin")[1]


def test_nothing_but_a_start_ever_fails(host: Host) -> None:
    """Not even with nonsense: libvirt would end VMs that run."""
    for xml in (domain("shop.web", SHOP), domain("shop.web", SHOP, "{"), "<", "", "\0"):
        for operation, stage in (
            *(("start", "begin"), ("started", "begin"), ("stopped", "end"), ("release", "end")),
            *(
                ("reconnect", "begin"),
                ("attach", "begin"),
                ("migrate", "begin"),
                ("restore", "begin"),
            ),
            *(("prepare", "end"), ("", ""), ("new", "begin")),
        ):
            assert host.call(xml, "shop.web", operation, stage) == (0, "")


@pytest.mark.parametrize(
    ("breaks", "mends"),
    [
        ("mount --bind /bin/false /usr/bin/python3", "umount /usr/bin/python3"),
        (f"rm -rf {LEASES}; touch {LEASES}", f"rm {LEASES}"),
        (f"mkdir -p {LEASES}/lock", f"rm -r {LEASES}"),
    ],
    ids=["no Python", "no folder", "no lock"],
)
def test_what_is_broken_on_the_host_stops_starts_and_ends_nobody(
    host: Host, breaks: str, mends: str
) -> None:
    host.run("sh", "-c", f"rm -rf {LEASES}; {breaks}")
    try:
        for operation, stage in (("started", "begin"), ("reconnect", "begin"), ("release", "end")):
            assert host.call(domain("shop.web", SHOP), "shop.web", operation, stage)[0] == 0
        assert host.call(domain("shop.web", SHOP), "shop.web", "prepare", "begin")[0] == 1
    finally:
        host.run("sh", "-c", mends)
    assert host.starts("shop.web", SHOP) == ""


def test_a_message_holds_nothing_that_a_terminal_obeys(host: Host) -> None:
    xml = domain("x\u009b31m", SHOP, "{")
    said = host.call(xml, "x\u009b31m", "prepare", "begin")[1]
    assert said.rstrip("\n").isprintable()
    assert "'x?31m'" in said


def test_a_class_is_closed_after_its_vapp_has_gone(host: Host) -> None:
    first = replace(SHOP, conflicts=("banks",), remembered=("banks",))
    host.runs("shop.web", first)
    host.ends("shop.web", first)
    second = replace(BANK, conflicts=("banks",))
    assert "until `vcloud host scrub`" in host.starts("bank.core", second)
    assert host.starts("shop.web", first) == ""


def race(host: Host, count: int) -> None:
    for _ in range(count):
        found = host.start_by_one_daemon(("shop.web", SHOP), ("bank.core", ALONE), between="&")
        assert sorted(found) == [0, 1]
        assert len(host.leases()) == 1
        host.clear()


def test_of_two_that_start_at_the_same_instant_one_wins(host: Host) -> None:
    race(host, 10)


@pytest.mark.long
def test_of_two_that_start_at_the_same_instant_one_wins_every_time(host: Host) -> None:
    race(host, 100)


def mutated(host: Host, count: int, seed: int) -> None:
    """No change of a domain's XML makes a vApp that may not run one that may, but by taking all signs
    of vcloud from it.
    """
    source, whole = random.Random(seed), domain("shop.web", SHOP)  # noqa: S311 - no secret
    host.runs("bank.core", ALONE)
    passed = 0
    for _ in range(count):
        letters = list(whole)
        for _ in range(source.randint(1, 4)):
            at = source.randrange(len(letters))
            letters[at : at + source.choice((0, 1, 1, 8))] = source.choice(
                ("", "<", "&", "x", '"', "é", "/>")
            )
        # Now and then the metadata has another name, which libvirt would take as it is.
        xml = "".join(letters).replace("metadata", source.choice(("metadata",) * 9 + ("other",)))
        code, said = host.call(xml, "shop.web", "prepare", "begin")
        assert "the hook failed" not in said, xml
        assert code == 1 or not is_ours(xml), xml
        if code == 0:
            passed += 1
            host.call(xml, "shop.web", "release", "end")
    assert passed


def is_ours(xml: str) -> bool:
    """Whether there is any sign of vcloud in the metadata."""
    metadata = ElementTree.fromstring(xml).find("metadata")  # noqa: S314 - our own
    return metadata is not None and any(
        (child.tag == "{https://vcloud.dev/ns/1}vm" and "vapp" in child.attrib)
        or child.tag == "{https://vcloud.dev/ns/1/tenancy}terms"
        for child in metadata
    )


def test_changed_xml_gives_no_way_in(host: Host) -> None:
    mutated(host, 200, 1)


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_much_changed_xml_gives_no_way_in(host: Host) -> None:
    mutated(host, 10_000, 2)
