"""What is told of one host."""

from __future__ import annotations

import pytest

from vcloud.hosts.inventory import HostRef
from vcloud.hosts.links import link_of
from vcloud.views.host_facts import OURS, UNKNOWN, HostFacts, Installed


@pytest.mark.parametrize(
    ("uri", "encrypted"),
    [
        ("qemu+ssh://root@h1/system", True),
        ("qemu+libssh2://root@h1/system", True),
        ("qemu+tls://h1/system", True),
        ("qemu://h1/system", True),
        ("qemu+tcp://h1/system", False),
        ("qemu+ext:///system?command=/x", False),
        ("qemu+tls://h1/system?no_verify=1", False),
        ("qemu+libssh2://root@h1/system?known_hosts_verify=normal", True),
        ("qemu+libssh2://root@h1/system?known_hosts_verify=auto", False),
        ("qemu+libssh://root@h1/system?known_hosts_verify=ignore", False),
        ("qemu:///system", None),
        ("qemu+unix:///system?socket=/x", None),
    ],
)
def test_whether_a_link_is_encrypted_is_read_from_the_uri(uri: str, encrypted: bool | None) -> None:
    assert link_of(HostRef("h1", uri))[1] is encrypted


def test_what_is_not_known_is_told_as_that() -> None:
    facts = HostFacts(
        name="h1",
        uri="qemu+ssh://root@h1/system",
        link="ssh, encrypted",
        encrypted=True,
        labels={"site": "eu"},
        facts={"ksm": "off"},
        overcommit=1.5,
        cpu_overcommit=16,
        processors=4,
        memory=8 << 30,
        free_memory=2 << 30,
        storage=None,
        versions={"libvirt": "9.0.0", "system": ""},
        hook=Installed(OURS, "ab" * 32),
        reporter=Installed(UNKNOWN),
        trusted_operators=None,
    )
    told = dict(facts.rows())
    assert told["ksm"] == "off"
    assert told["smt"] == told["system"] == told["reporter"] == UNKNOWN
    assert told["hook"] == "this release's abababababab"
    assert told["memory"] == "2048 of 8192 MiB free (promised 1.5 times)"
    assert told["trusted operators"] == "it asks for no signatures"
    assert facts.as_data()["hook"] == {"state": OURS, "digest": "ab" * 32}
