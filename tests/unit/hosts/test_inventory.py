"""The choice of hosts: who wins over whom, and what is said about what is wrong."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Network
from pathlib import Path

import pytest

from vcloud.errors import Exit, SpecError, UsageError
from vcloud.hosts.inventory import HostRef, choose_host, choose_hosts, load_inventory

TWO = """
hosts:
  h1:
    uri: qemu+ssh://root@h1/system
    ssh_config: ssh_config
    uplink: {network: uplink, prefix4: 198.18.0.0/16, gateway4: 198.18.0.1, prefix6: "2001:db8:198:18::/64", gateway6: "2001:db8:198:18::1"}
  h2: {uri: qemu+ssh://root@h2/system, templates: 512M, overcommit: 1.5, cpu_overcommit: 4, labels: {site: eu, rack: "4"}}
"""
ONE = "hosts: {alone: {uri: qemu+ssh://root@alone/system}}"


@pytest.fixture
def inventory(tmp_path: Path) -> Path:
    path = tmp_path / "hosts.yaml"
    path.write_text(TWO)
    return path


@pytest.fixture
def nowhere(tmp_path: Path) -> dict[str, str]:
    """An environment that names nothing, on a machine without labs."""
    return {"VCLOUD_LAB_DIR": str(tmp_path / "labs"), "HOME": str(tmp_path / "home")}


def lab(environment: dict[str, str], name: str, text: str = ONE) -> Path:
    path = Path(environment["VCLOUD_LAB_DIR"], name, "hosts.yaml")
    path.parent.mkdir(parents=True)
    path.write_text(text)
    return path


def test_an_inventory_is_read_whole(inventory: Path) -> None:
    first, second = load_inventory(inventory)
    assert (first.name, first.uri) == ("h1", "qemu+ssh://root@h1/system")
    assert first.ssh_config == inventory.parent / "ssh_config"
    assert first.uplink is not None
    assert first.uplink.gateway4 == IPv4Address("198.18.0.1")
    assert first.uplink.prefix6 == IPv6Network("2001:db8:198:18::/64")
    assert second == HostRef(
        "h2",
        "qemu+ssh://root@h2/system",
        memory_image_space=512 << 20,
        overcommit=1.5,
        cpu_overcommit=4,
        labels=(("site", "eu"), ("rack", "4")),
    )
    assert first.overcommit == 1
    assert first.memory_image_space == 4 << 30


SERVERS = 'server4: 192.0.2.7, server6: "2001:db8::7"'


@pytest.mark.parametrize(
    ("text", "netns", "servers", "answers"),
    [
        (f"{SERVERS}, netns: world", "world", ("192.0.2.7", "2001:db8::7"), ()),
        (
            "server4: 192.0.2.7, answers: [tcp/443, udp/53]",
            None,
            ("192.0.2.7", "None"),
            ("tcp/443", "udp/53"),
        ),
        ('server6: "2001:db8::7"', None, ("None", "2001:db8::7"), ()),
    ],
)
def test_test_servers_outside_are_read_with_where_they_answer(
    tmp_path: Path, text: str, netns: str | None, servers: tuple[str, str], answers: tuple[str, ...]
) -> None:
    path = tmp_path / "hosts.yaml"
    path.write_text(f"hosts: {{h1: {{uri: qemu:///system, outside: {{{text}}}}}}}")
    (ref,) = load_inventory(path)
    assert ref.outside
    assert (ref.outside.netns, tuple(map(str, ref.outside.answers))) == (netns, answers)
    assert (str(ref.outside.server4), str(ref.outside.server6)) == servers


UPLINK = "hosts: {h1: {uri: qemu:///system, uplink: {bridge: b, prefix4: 10.0.0.0/8, gateway4: 10.0.0.1}}}"


@pytest.mark.parametrize(
    ("text", "field", "what"),
    [
        ("hosts: {h1: {url: qemu:///system}}", "hosts.h1.uri", "required key 'uri' is missing"),
        ("hosts: {}", "hosts", "this is empty; at least one entry is required"),
        ("hosts: {h1: {uri: nonsense}}", "hosts.h1.uri", "'nonsense' is not a libvirt URI"),
        (
            "hosts: {h1: {uri: 'qemu:///system x'}}",
            "hosts.h1.uri",
            "'qemu:///system x' is not a libvirt URI",
        ),
        (
            "hosts: {h1: {uri: 'qemu+ssh://[::1/system'}}",
            "hosts.h1.uri",
            "'qemu+ssh://[::1/system' is not a libvirt URI",
        ),
        ("hosts: {h1: {uri: 3}}", "hosts.h1.uri", "expected text, but this is a number"),
        ("hosts: {'a b': {uri: qemu:///system}}", 'hosts["a b"]', "'a b' is not a valid host name"),
        ("hosts: [1]", "hosts", "expected a mapping, but this is a list"),
        ("hosts: {h1: [1]}", "hosts.h1", "expected a mapping, but this is a list"),
        ("- h1", "", "the file must be a mapping of keys to values"),
        (
            UPLINK.replace("bridge: b, ", ""),
            "hosts.h1.uplink",
            "an uplink needs either network or bridge",
        ),
        (
            UPLINK.replace("bridge: b", "bridge: b, network: n"),
            "hosts.h1.uplink",
            "an uplink needs either network or bridge",
        ),
        (
            UPLINK.replace("10.0.0.1", "11.0.0.1"),
            "hosts.h1.uplink",
            "gateway4 11.0.0.1 is not in prefix4 10.0.0.0/8",
        ),
        (
            UPLINK.replace("10.0.0.1", "gateway"),
            "hosts.h1.uplink.gateway4",
            "'gateway' is not an IPv4 address such as 198.18.0.1",
        ),
        (
            UPLINK.replace("10.0.0.0/8", "10.0.0.1/8"),
            "hosts.h1.uplink.prefix4",
            "'10.0.0.1/8' is not an IPv4 prefix",
        ),
        (
            UPLINK.replace("10.0.0.1}", "10.0.0.1, gateway6: fe80::1}"),
            "hosts.h1.uplink",
            "prefix6 and gateway6 must be written together",
        ),
        (
            UPLINK.replace("bridge: b", "bridge: a-name-of-more-than-15"),
            "hosts.h1.uplink.bridge",
            "'a-name-of-more-than-15' is not a valid bridge name",
        ),
        (
            UPLINK.replace("10.0.0.0/8", "10.0.0.0/30"),
            "hosts.h1.uplink",
            "prefix4 10.0.0.0/30 is too small",
        ),
        (
            "hosts: {h1: {uri: qemu:///system, outside: {netns: world}}}",
            "hosts.h1.outside",
            "'outside' names no test server",
        ),
        (
            "hosts: {h1: {uri: qemu:///system, outside: {server4: 192.0.2.7, answers: [443]}}}",
            "hosts.h1.outside.answers[0]",
            "443 is a port without its protocol",
        ),
        (
            "hosts: {h1: {uri: qemu:///system, templates: lots}}",
            "hosts.h1.templates",
            "'lots' is not a size",
        ),
        (
            "hosts: {h1: {uri: qemu:///system, labels: {smt: off-now}}}",
            "hosts.h1.labels.smt",
            "vcloud reads 'smt' from the host",
        ),
        (
            "hosts: {h1: {uri: qemu:///system, labels: {Site: eu}}}",
            "hosts.h1.labels.Site",
            "'Site' is not a valid label name",
        ),
        (
            "hosts: {h1: {uri: qemu:///system, labels: {site: 4}}}",
            "hosts.h1.labels.site",
            "expected text",
        ),
        (
            "hosts: {h1: {uri: qemu:///system, cpu_overcommit: 0}}",
            "hosts.h1.cpu_overcommit",
            "0 is too small; the minimum is 1",
        ),
        (
            "hosts: {h1: {uri: qemu:///system, overcommit: 0.5}}",
            "hosts.h1.overcommit",
            "0.5 is too small; the minimum is 1",
        ),
        (
            "hosts: {h1: {uri: qemu:///system, overcommit: 100}}",
            "hosts.h1.overcommit",
            "100 is too large; the maximum is 10",
        ),
        (
            "hosts: {h1: {uri: qemu:///system, overcommit: much}}",
            "hosts.h1.overcommit",
            "expected a number, but this is 'much'",
        ),
        (
            "hosts: {h1: {uri: qemu:///system, templates: 0}}",
            "hosts.h1.templates",
            "'0' is not between 1M and 64T",
        ),
        (
            "hosts: {h1: {uri: qemu:///system, ssh_config: off}}",
            "hosts.h1.ssh_config",
            "some YAML readers take off without quotes as false",
        ),
        (
            "hosts: {h1: {uri: qemu:///system, templates: 0512}}",
            "hosts.h1.templates",
            "some YAML readers take 0512 without quotes as an octal",
        ),
        (
            "hosts: {h1: {uri: qemu:///a, uri: qemu:///b}}",
            "hosts.h1.uri",
            "this key was already used in line 2",
        ),
        (
            "hosts: {h1: {uri: 'qemu+ssh://h1:99999/system'}}",
            "hosts.h1.uri",
            "'qemu+ssh://h1:99999/system' is not a libvirt URI",
        ),
        (
            "hosts: {h1: {uri: 'qemu+ssh://h1:ssh/system'}}",
            "hosts.h1.uri",
            "'qemu+ssh://h1:ssh/system' is not a libvirt URI",
        ),
        (
            "hosts: {h1: !!str {uri: qemu:///system}}",
            "hosts.h1",
            "the YAML tag tag:yaml.org,2002:str is not allowed",
        ),
        ("hosts: {h1: {uri: [", "", "the file is not valid YAML: "),
        ("", "", "the file is empty"),
    ],
)
def test_a_problem_of_an_inventory_has_its_line_and_field(
    inventory: Path, text: str, field: str, what: str
) -> None:
    inventory.write_text(f"# my hosts\n{text}\n")
    with pytest.raises(SpecError) as caught:
        load_inventory(inventory)
    problem = caught.value.problems[0]
    assert (problem.file, problem.field) == (str(inventory), field)
    assert problem.line == (2 if field or text.startswith("-") else problem.line)
    assert problem.what.startswith(what)


def test_the_uplink_of_these_examples_is_valid(inventory: Path) -> None:
    """The positive twin of the problems above."""
    inventory.write_text(UPLINK)
    assert load_inventory(inventory)[0].uplink is not None


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("hosts: {h1: {url: qemu:///system}}", "Did you mean 'uri'?"),
        ("host: {h1: {uri: qemu:///system}}", "Did you mean 'hosts'?"),
        (UPLINK.replace("prefix4", "prefx4"), "Did you mean 'prefix4'?"),
        (
            UPLINK.replace("bridge: b", "bridge: b, dns: 1"),
            "Known keys: bridge, gateway4, gateway6, network, prefix4, prefix6.",
        ),
    ],
)
def test_an_unknown_key_gets_the_nearest_known_one(inventory: Path, text: str, hint: str) -> None:
    inventory.write_text(text)
    with pytest.raises(SpecError) as caught:
        load_inventory(inventory)
    assert hint in [
        problem.hint for problem in caught.value.problems if problem.what == "unknown key"
    ]


def test_all_problems_of_an_inventory_come_at_once(inventory: Path) -> None:
    inventory.write_text("hosts:\n  h1: {url: a}\n  h2: {uri: b}\n")
    with pytest.raises(SpecError) as caught:
        load_inventory(inventory)
    assert [(problem.line, problem.field) for problem in caught.value.problems] == [
        (2, "hosts.h1.uri"),
        (2, "hosts.h1.url"),
        (3, "hosts.h2.uri"),
    ]
    assert caught.value.exit == Exit.INVALID


def test_an_inventory_may_repeat_values_by_aliases(inventory: Path) -> None:
    inventory.write_text(
        "hosts: {h1: &one {uri: qemu:///a, templates: 1G}, h2: {<<: *one, uri: qemu:///b}}"
    )
    assert [(host.uri, host.memory_image_space) for host in load_inventory(inventory)] == [
        ("qemu:///a", 1 << 30),
        ("qemu:///b", 1 << 30),
    ]


@pytest.mark.parametrize(
    ("path", "said"), [("/dev/zero", "larger than 8 MiB"), (".", "cannot be read")]
)
def test_what_is_no_inventory_is_said(path: str, said: str) -> None:
    with pytest.raises((SpecError, UsageError), match=said):
        load_inventory(Path(path))


def test_a_missing_inventory_is_said(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be read"):
        load_inventory(tmp_path / "none.yaml")


def test_without_a_word_it_is_this_machine(nowhere: dict[str, str]) -> None:
    assert choose_host(None, nowhere) == HostRef("localhost", "qemu:///system")


def test_each_source_wins_over_those_after_it(nowhere: dict[str, str], inventory: Path) -> None:
    """A user's file < the lab that is up < VCLOUD_INVENTORY < LIBVIRT_DEFAULT_URI < VCLOUD_CONNECT
    < the flag.
    """
    own = Path(nowhere["HOME"], ".config", "vcloud", "hosts.yaml")
    own.parent.mkdir(parents=True)
    own.write_text("hosts: {mine: {uri: qemu+ssh://me@mine/system}}")
    assert [host.name for host in choose_hosts(None, nowhere)] == ["mine"]
    lab(nowhere, "first")
    assert [host.name for host in choose_hosts(None, nowhere)] == ["alone"]
    environment = nowhere | {"VCLOUD_INVENTORY": str(inventory)}
    assert [host.name for host in choose_hosts(None, environment)] == ["h1", "h2"]
    environment |= {"LIBVIRT_DEFAULT_URI": "qemu+ssh://root@there/system"}
    assert [host.name for host in choose_hosts(None, environment)] == ["there"]
    environment |= {"VCLOUD_CONNECT": "h2"}
    assert [host.name for host in choose_hosts(None, environment)] == ["h2"]
    assert [host.name for host in choose_hosts("h1", environment)] == ["h1"]


def test_a_uri_of_the_inventory_brings_its_uplink(nowhere: dict[str, str], inventory: Path) -> None:
    environment = nowhere | {"VCLOUD_INVENTORY": str(inventory)}
    assert choose_host("qemu+ssh://root@h1/system", environment).uplink is not None
    assert choose_host("qemu+ssh://root@h3/system", environment) == HostRef(
        "h3", "qemu+ssh://root@h3/system"
    )


def test_several_hosts_need_a_name(nowhere: dict[str, str], inventory: Path) -> None:
    environment = nowhere | {"VCLOUD_INVENTORY": str(inventory)}
    with pytest.raises(UsageError, match="2 hosts") as caught:
        choose_host(None, environment)
    assert "h1|h2" in caught.value.hint


def test_several_labs_need_a_name(nowhere: dict[str, str]) -> None:
    lab(nowhere, "first")
    lab(nowhere, "second")
    with pytest.raises(UsageError, match="several labs run: first, second"):
        choose_host(None, nowhere)
    assert choose_host("qemu:///system", nowhere) == HostRef("localhost", "qemu:///system")


@pytest.mark.parametrize("name", ["h3", "with space", ""])
def test_an_unknown_name_is_said_with_those_there_are(
    nowhere: dict[str, str], inventory: Path, name: str
) -> None:
    environment = nowhere | {"VCLOUD_INVENTORY": str(inventory)}
    with pytest.raises(UsageError) as caught:
        choose_host(name, environment)
    assert "h1" in str(caught.value)
    assert "h2" in str(caught.value)


def test_a_text_with_a_colon_that_is_no_uri_is_said(nowhere: dict[str, str]) -> None:
    with pytest.raises(UsageError, match="not a libvirt URI"):
        choose_host(":nonsense", nowhere)
