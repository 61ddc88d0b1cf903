"""The small values: what they print is what they read, and nothing hostile is one of them."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from ipaddress import IPv4Address, IPv6Address

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from vcloud.documents.field import FieldError, Shape, shown
from vcloud.images import recipe
from vcloud.spec import types
from vcloud.values import Protocol, Service, prefix_of

RESTRICTED: list[Callable[[object], object]] = [
    types.parse_name,
    types.PART_NAME.parse,
    types.DISK_NAME.parse,
    types.DISK_REFERENCE.parse,
    types.PARAMETER_NAME.parse,
    types.CLASS_NAME.parse,
    types.ID.parse,
    types.LABEL.parse,
    types.END.parse,
    types.PROFILE.parse,
    types.PACKAGE.parse,
    types.SNI.parse,
    types.URL.parse,
    types.SHA256.parse,
    types.parse_owner,
    types.parse_mode,
    types.parse_guest_path,
    types.parse_local_path,
    types.parse_source,
    types.parse_service,
    types.parse_prefix,
    types.parse_ports,
    types.parse_size,
    types.parse_duration,
]
SHAPES = [one for each in (types, recipe) for one in vars(each).values() if isinstance(one, Shape)]
ports = st.integers(1, types.LAST_PORT)


@given(st.integers(1, types.LARGEST >> 20))
def test_a_size_reads_as_it_prints(mebibytes: int) -> None:
    assert types.parse_size(types.format_size(mebibytes << 20)) == mebibytes << 20
    assert types.parse_size(mebibytes) == mebibytes << 20


@pytest.mark.parametrize("unit", ["M", "G", "T"])
def test_a_size_may_be_written_as_other_tools_write_it(unit: str) -> None:
    forms = [f"8{unit}", f"8{unit}B", f"8{unit}iB"]
    assert len({types.parse_size(form) for form in forms}) == 1
    for wrong in (f"8{unit}i", f"8{unit}b", f"8 {unit}B", f"0{unit}B", "8B", "8iB"):
        with pytest.raises(FieldError):
            types.parse_size(wrong)


@given(st.integers(1, types.LONGEST))
def test_a_duration_reads_as_it_prints(seconds: int) -> None:
    assert types.parse_duration(types.format_duration(seconds)) == seconds
    assert types.parse_duration(seconds) == seconds


@given(st.sampled_from([Protocol.TCP, Protocol.UDP]), ports, ports)
def test_a_service_reads_as_it_prints(protocol: Protocol, one: int, other: int) -> None:
    service = Service(protocol, min(one, other), max(one, other))
    assert types.parse_service(str(service)) == service


def test_icmp_reads_as_it_prints() -> None:
    assert str(types.parse_service("icmp")) == "icmp"


@pytest.mark.parametrize(
    "written",
    [
        "192.168.7.0/24",
        "192.168.7.10",
        "169.254.169.254/32",
        "fd00:7::/64",
        "2001:DB8::1",
        "fc00::/7",
    ],
)
def test_addresses_outside_are_an_end_of_a_flow(written: str) -> None:
    assert types.parse_prefix(written) == written
    assert prefix_of(written) is not None


@pytest.mark.parametrize(
    ("written", "said"),
    [
        (
            "192.168.7.1/24",
            "Write 192.168.7.0/24 for the whole prefix, or 192.168.7.1 for this address.",
        ),
        ("0.0.0.0/0", "would mean every address"),
        ("::/0", "would mean every address"),
        ("127.0.0.1", "no machine outside"),
        ("::ffff:192.168.7.1", "no machine outside"),
        ("fe80::1", "no machine outside"),
        ("ff02::1", "no machine outside"),
        ("192.168.7.0/33", "is not an address or a prefix"),
        ("fd00::1%eth0", "is not an address or a prefix"),
        ("192.168.007.1", "is not an address or a prefix"),
    ],
)
def test_what_is_no_prefix_outside_is_refused(written: str, said: str) -> None:
    with pytest.raises(FieldError) as refused:
        types.parse_prefix(written)
    assert said in f"{refused.value.what} {refused.value.hint}"


HOSTILE = [part * 10_000 for part in ("::", "a:", "1.", "a-", "/a", "a/", "a.", "11", "aa", "--")]


@pytest.mark.parametrize("shape", SHAPES, ids=[shape.wanted[:40] for shape in SHAPES])
def test_a_shape_is_judged_in_time_that_grows_with_the_text_only(shape: Shape) -> None:
    """20,000 characters take milliseconds; with the square of the length they would take seconds."""
    before = time.process_time()
    for text in HOSTILE:
        assert not re.fullmatch(shape.pattern, f"{text}!")
    assert time.process_time() - before < 1


@given(st.ip_addresses(v=6))
@example(IPv6Address("2001:db8::1:0:0:1"))
def test_every_way_to_write_an_address_is_one(address: IPv6Address) -> None:
    last = IPv4Address(int(address) & 0xFFFFFFFF)
    dotted = address.exploded[:30] + str(last)
    for written in (str(address), address.exploded, str(address).upper(), dotted):
        assert types.PREFIX.parse(written) == written
        assert types.PREFIX.parse(f"{written}/128")
    with pytest.raises(FieldError):
        types.PREFIX.parse(f"0{address.exploded}")


@pytest.mark.parametrize("parse", RESTRICTED)
@given(
    text=st.text(max_size=20),
    sign=st.sampled_from([*"'\"`<>&;|${}()[]\\\n\r\t\0#!*? \u00a0\u202e\u2028\uff0f", "\ud800"]),
    rest=st.text(max_size=20),
)
def test_no_restricted_value_holds_what_breaks_out_of_other_languages(
    parse: Callable[[object], object], text: str, sign: str, rest: str
) -> None:
    """Quotes, brackets, separators, white space and control characters end values in XML, nft, YAML
    and shells.
    """
    if parse is types.URL.parse and sign in "&?":
        return
    if parse is types.SNI.parse and sign == "*":
        return
    with pytest.raises(FieldError):
        parse(text + sign + rest)


@pytest.mark.parametrize("parse", RESTRICTED)
@given(
    value=st.one_of(
        st.none(),
        st.booleans(),
        st.floats(),
        st.lists(st.integers(), max_size=2),
        st.just({}),
        st.just(object()),
    )
)
def test_what_is_neither_text_nor_a_whole_number_is_refused(
    parse: Callable[[object], object], value: object
) -> None:
    with pytest.raises(FieldError):
        parse(value)


@pytest.mark.parametrize(
    ("parse", "text"),
    [
        (types.parse_name, "shop-2"),
        (types.PART_NAME.parse, "web"),
        (types.DISK_NAME.parse, "a" * 20),
        (types.DISK_REFERENCE.parse, "db.data"),
        (types.LABEL.parse, "cost.center_1"),
        (types.END.parse, "zone:db"),
        (types.PROFILE.parse, "pci-dss@4.0.1"),
        (types.PACKAGE.parse, "libstdc++6"),
        (types.SNI.parse, "*.pay.example"),
        (types.URL.parse, "https://images.example:8443/a/b.qcow2?v=1&x=%20"),
        (types.parse_owner, "www-data:adm"),
        (types.parse_guest_path, "/etc/nginx/conf.d/shop.conf"),
        (types.parse_local_path, "/srv/images/debian_13.qcow2"),
        (types.parse_source, "files/shop.conf"),
    ],
)
def test_the_positive_twin_of_each_restriction(
    parse: Callable[[object], object], text: str
) -> None:
    assert parse(text) == text


@pytest.mark.parametrize(
    "text",
    [
        "a" * 22,
        "web-",
        "-web",
        "9web",
        "Web",
        "web_1",
        "web.1",
        "",
        "wéb",
        "internet",
        "firewall",
        "ips",
        "host",
        "uplink",
        "localhost",
        "ip6-localhost",
        "ip6-loopback",
        "ip6-allnodes",
        "ip6-allrouters",
    ],
)
def test_a_vm_is_called_like_a_host(text: str) -> None:
    with pytest.raises(FieldError):
        types.PART_NAME.parse(text)


@pytest.mark.parametrize(
    "path", ["/etc/../shadow", "/./etc", "/etc/", "//etc", "etc", "/", "/etc/.."]
)
def test_guest_paths_are_normalized(path: str) -> None:
    with pytest.raises(FieldError):
        types.parse_guest_path(path)


@given(st.text(max_size=300))
def test_text_for_people_is_one_printable_line(text: str) -> None:
    allowed = text.isprintable() and len(text) <= types.TEXT_LENGTH
    if allowed:
        assert types.parse_text(text) == text
    else:
        with pytest.raises(FieldError):
            types.parse_text(text)


@given(st.text(alphabet=st.characters(max_codepoint=0x2FF), max_size=80))
def test_content_has_no_control_characters_but_tab_and_newline(text: str) -> None:
    if re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", text):
        with pytest.raises(FieldError):
            types.parse_content(text)
    else:
        assert types.parse_content(text) == text


@given(st.text())
def test_what_messages_quote_is_short_and_printable(text: str) -> None:
    assert shown(text).isprintable()
    assert len(shown(text)) < 700


def test_names_are_refused_as_an_error_for_the_user() -> None:
    """The command line passes names straight to the parser."""
    with pytest.raises(FieldError) as raised:
        types.parse_name("../shop")
    assert raised.value.exit == 2
    assert raised.value.hint


KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGbY0sBqUZc0cQ1PSh0gXcCE0qU2oRTzYgXQzZ9uBvY1"


@pytest.mark.parametrize("line", [KEY, f"{KEY} me@here", f"{KEY} with spaces\n"])
def test_public_keys_are_taken(line: str) -> None:
    assert types.parse_public_key(line) == line.strip()


@pytest.mark.parametrize(
    "line",
    [
        f"no-pty {KEY}",
        f'command="id" {KEY}',
        f"{KEY}\n{KEY}",
        f"{KEY[:40]}",
        KEY.replace("AAAAC3", "AAAAB3"),
        "ssh-dss AAAA",
        f"{KEY} \x07",
    ],
)
def test_options_second_keys_and_broken_keys_are_refused(line: str) -> None:
    with pytest.raises(FieldError):
        types.parse_public_key(line)
