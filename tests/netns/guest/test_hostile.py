"""Identity documents that nobody should write."""

from __future__ import annotations

import subprocess

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.netns.guest.machines import (
    GUEST_MAC,
    NIC,
    WORKLOAD,
    Machine,
)

pytestmark = pytest.mark.netns


@pytest.mark.parametrize(
    "line",
    [
        "format-disk /dev/vda",
        "hostname",
        "hostname ",
        "hostname a b",
        "hostname -a",
        "hostname a..b",
        "hostname " + "a" * 65,
        "hostname a;reboot",
        "machine-id 0123",
        "machine-id " + "g" * 32,
        "clock now",
        "clock 1",
        "clock -1.0",
        "clock 1.0000000001",
        "clock 99999999999.0",
        "seed !!!!",
        "seed AAAA",
        "seed QUFBQUFBQUFBQUFBQUFBQQ",
        f"mac {GUEST_MAC} 52:54:00:00:00",
        f"mac eth0 {GUEST_MAC}",
        f"mac {GUEST_MAC}",
        "nic 52:54:00:00:00 eth0",
        "nic 52-54-00-00-00-02 eth0",
        f"nic {GUEST_MAC} ../../etc",
        f"nic {GUEST_MAC} sixteencharacter",
        f"nic {GUEST_MAC} eth%d",
        f"nic {GUEST_MAC} lo",
        f"nic {GUEST_MAC} one\nnic {GUEST_MAC} two",
        f"nic {GUEST_MAC} one\nnic 52:54:00:00:00:99 one",
        "sysctl ../../etc/passwd 1",
        "sysctl net//ipv4 1",
        "sysctl /net/ipv4/ip_forward 1",
        "sysctl net/ipv4/ip_forward",
        "addr eth9 10.0.0.1/32",
        f"{NIC}\naddr eth0 10.0.0.1",
        f"{NIC}\naddr eth0 10.0.0.1/33",
        f"{NIC}\naddr eth0 10.0.0.256/32",
        f"{NIC}\naddr eth0 fd00::1/129",
        f"{NIC}\naddr eth0 fd00::1%eth0/64",
        f"{NIC}\naddr eth0 " + "1" * 4000 + "/1",
        f"{NIC}\nneigh eth0 10.0.0.1 zz:54:00:00:00:02",
        f"{NIC}\nroute eth0 10.0.0.1/24",
        f"{NIC}\nroute eth0 fd00::1/64",
        f"{NIC}\nroute eth0 10.0.0.0/24 via",
        f"{NIC}\nroute eth0 10.0.0.0/24 via fd00::1",
        f"{NIC}\nroute eth0 10.0.0.0/24 dev eth0",
        f"{NIC}\nroute eth0 10.0.0.0/24 table 0",
        f"{NIC}\nroute eth0 10.0.0.0/24 table 255",
        f"{NIC}\nroute eth0 10.0.0.0/24 table 4294967296",
        f"{NIC}\nroute eth0 10.0.0.0/24 via 10.0.0.1 src 10.0.0.2 table 3 more",
        "rule 10.0.0.1 lookup 3",
        "rule 10.0.0.0/24 table 3",
        "route-mark 0",
        "route-mark 4294967296",
        "route-mark 1 2",
        "dir relative 0755 root:root",
        "dir /etc/../root 0755 root:root",
        "dir /etc/x 0888 root:root",
        "dir /etc/x 755755 root:root",
        "dir /etc/x 0755 root",
        "dir /etc/x 0755 root:nobody-of-that-name",
        "file /etc/x 0644 root:root A",
        "file /etc/x 0644 root:root AA=A",
        "file /etc//x 0644 root:root AAAA",
        "file /etc/" + "x" * 300 + " 0644 root:root AAAA",
        "disk serial data",
        "disk ../vda /data",
        "HOSTNAME a",
        " hostname a",
        "hostname a\r",
        "hostname a\x00b",
        "\x1b[2J",
    ],
)
@pytest.mark.usefixtures("cable")
def test_a_hostile_line_is_refused_by_number(guest: Machine, line: str) -> None:
    answer = guest.identity("hostname before", "", line)
    assert answer.startswith(f"error {3 + line.count(chr(10))} ")
    assert answer.isprintable()


@pytest.mark.usefixtures("cable")
def test_a_malformed_document_has_no_effect_at_all(guest: Machine) -> None:
    assert guest.identity(
        "hostname web-1", *WORKLOAD, "sysctl net/ipv4/ip_forward 1", "route eth0 nowhere"
    ).startswith("error 12 route")
    assert guest.enter("hostname").stdout != "web-1\n"
    assert guest.ip("link", "show", "g0")
    assert guest.setting("ipv4/ip_forward") == "0"
    assert not guest.file("/etc/vcloud").exists()


@pytest.mark.usefixtures("cable")
def test_the_kernels_own_words_reach_the_reader(guest: Machine) -> None:
    answer = guest.identity(NIC, "addr eth0 10.8.0.2/32", "route eth0 10.9.0.0/24 src 10.8.0.77")
    assert answer == "error 3 route: Invalid argument (Invalid prefsrc address)"


WORDS = st.sampled_from(
    [
        "hostname",
        "machine-id",
        "clock",
        "seed",
        "nic",
        "sysctl",
        "addr",
        "neigh",
        "route",
        "rule",
        "dir",
        "file",
        "disk",
        "eth0",
        "eth1",
        "lo",
        "via",
        "src",
        "table",
        "10.8.0.2/32",
        "10.8.0.1",
        "fd00:8::2/128",
        "fd00:8::1",
        "::/0",
        "0.0.0.0/0",
        "net/ipv4/ip_forward",
        "0",
        "1",
        "254",
        "4294967295",
        "0644",
        "1.5",
        "-",
        "root:root",
        "postgres:postgres",
        *("/etc/x", "/etc/x/y", GUEST_MAC, "AAAA", "0" * 32, "A" * 64),
    ]
)
LINES = st.one_of(
    st.lists(WORDS, max_size=9).map(" ".join),
    st.binary(max_size=60).map(lambda raw: raw.decode("latin-1")),
    st.tuples(WORDS, st.text(max_size=30)).map(" ".join),
)


@pytest.mark.usefixtures("cable")
@settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(lines=st.lists(LINES, max_size=8), named=st.booleans())
def test_no_document_crashes_the_program(guest: Machine, lines: list[str], named: bool) -> None:
    document = "\n".join([NIC, *lines] if named else lines)
    result = subprocess.run(
        guest.argv("identity"),
        input=document.encode("utf-8", "surrogatepass"),
        capture_output=True,
        check=False,
        timeout=300,
    )
    assert result.returncode in (0, 1), (result, document)
    assert (
        result.stdout == b"ok\n" if result.returncode == 0 else result.stdout.startswith(b"error ")
    )
    assert result.stdout.count(b"\n") == 1
