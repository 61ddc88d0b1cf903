"""Reading what a guest reports of its kernel's network, and comparing it with an identity."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vcloud.proof.guest_network import CLAIM_OF, Claim, differences, kept_digest, parse_network
from vcloud.untrusted import UnreadableError

IDENTITY = (
    "hostname firewall",
    "machine-id 0123456789abcdef0123456789abcdef",
    "nic 52:54:00:00:00:01 dmz",
    "sysctl net/ipv4/ip_forward 1",
    "addr dmz 10.8.0.1/24",
    "addr dmz fd00:8::1/128",
    "neigh dmz 10.8.0.2 52:54:00:00:00:02",
    "route dmz 10.8.0.2/32",
    "route dmz 0.0.0.0/0 via 10.8.0.9 src 10.8.0.1 table 100",
    "rule 10.8.0.1 table 100",
)
FOUND = """\
link lo 00:00:00:00:00:00 -
up lo
link dmz 52:54:00:00:00:01 -
up dmz
qdisc lo noqueue 0
qdisc dmz mq 0
addr lo 127.0.0.1/8
addr lo ::1/128
addr dmz 10.8.0.1/24
addr dmz fd00:8::1/128
addr dmz fe80::5054:ff:fe00:1/64
neigh dmz 10.8.0.2 52:54:00:00:00:02
neigh lo 127.0.0.1 00:00:00:00:00:00 noarp
neigh dmz 224.0.0.22 01:00:5e:00:00:16 noarp
neigh dmz 239.200.1.2 01:00:5e:48:01:02 noarp
neigh dmz ff02::1:ff00:1 33:33:ff:00:00:01 noarp
neigh dmz 10.8.0.255 ff:ff:ff:ff:ff:ff noarp
neigh dmz 255.255.255.255 ff:ff:ff:ff:ff:ff noarp
route dmz 10.8.0.2/32
route dmz 0.0.0.0/0 via 10.8.0.9 src 10.8.0.1 table 100
route dmz 10.8.0.0/24 kernel
route dmz fd00:8::1/128 kernel
route dmz fe80::/64 kernel
route dmz 10.8.0.1/32 table 255 kernel
route dmz 10.8.0.255/32 table 255 kernel
route dmz fd00:8::1/128 table 255 kernel
route dmz fe80::5054:ff:fe00:1/128 table 255 kernel
route dmz ff00::/8 table 255 kernel
route lo ::1/128 table 255 kernel
rule 4 0 table 255
rule 4 1000 from 10.8.0.1/32 table 100
rule 4 32766 table 254
rule 4 32767 table 253
rule 6 0 table 255
rule 6 32766 table 254
sysctl net/ipv4/ip_forward 1
"""


def named(found: str, *, frames: bool = False) -> dict[Claim, tuple[str, ...]]:
    things = parse_network({"network": found.splitlines()})
    compared = differences(IDENTITY, things, frames=frames)
    return {claim: texts for claim, texts in compared.items() if texts}


def test_what_an_identity_makes_and_the_kernel_adds_is_no_difference() -> None:
    assert named(FOUND) == {}


@pytest.mark.parametrize(
    "thing",
    [
        "route dmz 10.9.0.0/24 kernel",
        "route lo 10.8.0.0/24 kernel",
        "route dmz 10.8.0.7/32 table 255 kernel",
        "route dmz 0.0.0.0/0 kernel",
        "route dmz ::/0 table 255 kernel",
        "qdisc dmz mq 8001",
        "qdisc dmz ingress ffff",
        "addr dmz 10.8.0.7/24",
        "neigh dmz 10.8.0.9 52:54:00:00:00:99",
        "neigh dmz 10.8.0.9 52:54:00:00:00:99 noarp",
        "neigh dmz 10.8.0.9 52:54:00:00:00:99 extern",
        "neigh dmz 10.8.0.9 ff:ff:ff:ff:ff:ff noarp",
        "neigh dmz 10.8.0.9 00:00:00:00:00:00 noarp",
        "neigh dmz 224.0.0.22 52:54:00:00:00:99 noarp",
        "neigh dmz 224.0.0.22 01:00:5e:00:00:16",
        "neigh dmz ff02::1:ff00:1 52:54:00:00:00:99 noarp",
        "neigh dmz example.org 52:54:00:00:00:99 noarp",
        "neigh dmz 10.8.1.255 ff:ff:ff:ff:ff:ff noarp",
        "addr lo 127.0.0.2/8",
        "hook ip 2 0 nft_do_chain_inet nf_tables chain 2 vcloud hook_forward",
        "hook ip 2 0 nft_do_chain_inet nf_tables chain 1 mine hook_forward",
        "hook ip 2 0 nf_conntrack evil",
    ],
)
def test_what_only_resembles_the_kernels_own_is_foreign(thing: str) -> None:
    assert [*named(FOUND + thing).values()] == [(f"foreign: {thing}",)]


def test_the_same_thing_twice_is_one_too_many() -> None:
    twice = FOUND + "rule 4 1000 from 10.8.0.1/32 table 100"
    assert named(twice) == {Claim.ROUTING: ("foreign: rule 4 1000 from 10.8.0.1/32 table 100",)}


@pytest.mark.parametrize("line", [line for line in FOUND.splitlines() if line.startswith(("link", "up", "neigh dmz 10.8.0.2 ", "rule", "sysctl", "route dmz 10.8.0.2/", "addr dmz 10"))])  # fmt: skip
def test_each_thing_that_is_missing_is_named(line: str) -> None:
    found = named(FOUND.replace(f"{line}\n", ""))
    texts = [text for texts in found.values() for text in texts]
    expected = "net/ipv4/ip_forward is unknown, not 1" if "sysctl" in line else f"missing: {line}"
    assert expected in texts


def test_a_setting_with_another_value_is_named_once_with_both() -> None:
    found = named(FOUND.replace("ip_forward 1", "ip_forward 0"))
    assert found == {Claim.SETTINGS: ("net/ipv4/ip_forward is 0, not 1",)}


def test_where_one_program_must_read_frames_neither_none_nor_two_do() -> None:
    assert named(FOUND, frames=True) == {Claim.FRAMES: ("missing: frames dmz",)}
    assert named(FOUND + "frames dmz\n", frames=True) == {}
    assert named(FOUND + "frames dmz\nframes dmz\n", frames=True) == {
        Claim.FRAMES: ("foreign: frames dmz",)
    }


@pytest.mark.parametrize(
    "report",
    [
        {},
        {"network": "link"},
        {"network": [7]},
        {"network": [""]},
        {"network": ["unknown thing"]},
        {"network": ["link  dmz"]},
        {"network": ["link \x1b[31m"]},
        {"network": ["link caf\xe9"]},
        {"network": ["link " + "x" * 2000]},
    ],
)
def test_what_is_no_list_of_things_is_unreadable(report: dict[str, object]) -> None:
    with pytest.raises(UnreadableError):
        parse_network(report)


@given(
    st.lists(
        st.tuples(
            st.sampled_from(sorted(CLAIM_OF)),
            st.lists(st.from_regex(r"[!-~]{1,9}", fullmatch=True)),
        ),
        max_size=9,
    )
)
def test_no_words_at_all_break_the_comparison(things: list[tuple[str, list[str]]]) -> None:
    texts = [" ".join((kind, *words)) for kind, words in things]
    assert any(differences(IDENTITY, parse_network({"network": texts})).values())


def test_what_is_kept_for_the_next_boot_is_neither_once_used_nor_secret() -> None:
    secret = ("file /etc/key 0600 root:root c2VjcmV0",)
    assert kept_digest(IDENTITY) == kept_digest(
        [line for line in IDENTITY if "machine-id" not in line]
    )
    assert kept_digest((*IDENTITY, *secret)) == kept_digest(
        (*IDENTITY, secret[0].replace("c2", ""))
    )
    assert kept_digest((*IDENTITY, *secret)) != kept_digest(IDENTITY)
