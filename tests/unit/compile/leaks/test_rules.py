"""Detectors as rules, scripts and probes."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.card_numbers import PUBLISHED
from tests.design_builder import build_design
from vcloud.compile.leaks.card_number import (
    BRANDS,
    CANDIDATE,
    WIDEST_GAP,
    check_digit,
    example_numbers,
    is_card_number,
    separators_in,
    wrong_numbers,
)
from vcloud.compile.leaks.channels import CHANNELS
from vcloud.compile.leaks.kinds import KINDS, kind_of
from vcloud.compile.leaks.pattern import lua_text
from vcloud.compile.leaks.payloads import payloads_of, places_of
from vcloud.compile.leaks.rules import FIRST_RULE, LAST_RULE, leak_rules, rule_sids
from vcloud.compile.leaks.undecoded import UNDECODED
from vcloud.design.model import Design, Detector
from vcloud.design.origin import FromFile
from vcloud.patterns.example import NoExampleError, matching_text, near_miss
from vcloud.spec.model import MOST_ZONES
from vcloud.values import BUILT_IN_DETECTORS, CARD_NUMBER, Action


def detector(name: str = CARD_NUMBER, **changes: object) -> Detector:
    values: dict[str, object] = {
        "id": name,
        "kind": CARD_NUMBER,
        "regex": "",
        "at_least": 1,
        "zones": ("app",),
        "excepted": (),
        "action": Action.BLOCK,
        "origin": FromFile("shop.yaml", 7),
    }
    return Detector(**(values | changes))  # type: ignore[arg-type]


def pattern(regex: str, at_least: int = 1) -> Detector:
    return detector("ids", kind="regex", regex=regex, at_least=at_least)


def design_with(*detectors: Detector) -> Design:
    design = build_design(
        zones="dmz:inspected app:inspected cde:inspected",
        vms={"web": "dmz x2", "api": "app", "db": "cde"},
        flows="""
            acquirer: api -> internet tcp/443 udp/53
            orders: web -> api tcp/8000-8010
            parcels: api -> internet tcp/80
        """,
    )
    return replace(design, inspection=replace(design.inspection, detectors=detectors))


@pytest.mark.parametrize("number", PUBLISHED)
def test_published_test_numbers_are_cards_and_no_longer_with_another_check_digit(
    number: str,
) -> None:
    assert is_card_number(number)
    assert not is_card_number(number[:-1] + str((int(number[-1]) + 1) % 10))


@given(st.sampled_from(BRANDS), st.data())
def test_every_number_that_a_brand_issues_is_a_card(brand: object, data: st.DataObject) -> None:
    first, last = data.draw(st.sampled_from(brand.prefixes))  # type: ignore[attr-defined]
    length = data.draw(st.sampled_from(brand.lengths))  # type: ignore[attr-defined]
    rest = data.draw(st.text("0123456789", min_size=length - 5, max_size=length - 5))
    stem = f"{data.draw(st.integers(first, last))}{rest}"
    assert is_card_number(stem + check_digit(stem))


@pytest.mark.parametrize(
    "number", ["", "4", "1732406400123", "9999999999999999", "411111111111111111111111"]
)
def test_other_numbers_are_no_cards(number: str) -> None:
    assert not is_card_number(number)


def test_example_numbers_are_different_cards_and_wrong_ones_are_none() -> None:
    assert len(set(example_numbers(1000))) == 1000
    assert all(map(is_card_number, example_numbers(1000)))
    assert not any(map(is_card_number, wrong_numbers(1000)))


def test_each_detector_and_channel_keeps_its_sid_when_others_come_and_go() -> None:
    one, other = detector(), detector("other")
    alone, together = rule_sids((one,)), rule_sids((one, other))
    assert len(set(together.values())) == 2 * len(CHANNELS)
    assert all(FIRST_RULE <= sid <= LAST_RULE for sid in together.values())
    assert alone.items() <= together.items()


def test_pattern_and_scripts_agree_on_what_stands_between_digits() -> None:
    scripts = dict(leak_rules(design_with(detector())).scripts)
    for channel in CHANNELS:
        text, separators = (
            scripts[f"card-number-{channel.argument}{'-dotted' if channel.dotted else ''}.lua"],
            separators_in(channel),
        )
        assert (
            "".join("%" + {"\t": r"\t"}.get(separator, separator) for separator in separators)
            + "]*"
            in text
        )
        assert re.search(rf"\bwidest = \d+, \d+, {WIDEST_GAP}$", text, re.MULTILINE)
        for separator in separators:
            assert re.search(CANDIDATE, (separator * WIDEST_GAP).join("411111111111"))
            assert not re.search(CANDIDATE, (separator * (WIDEST_GAP + 1)).join("411111111111"))


def test_rules_leave_a_set_of_zones_and_say_which_detector_they_are() -> None:
    lines = leak_rules(design_with(detector(zones=("app", "cde")))).lines
    assert len(lines) == len(CHANNELS) + len(UNDECODED)
    assert all(
        " [$ZONE_APP,$ZONE_CDE] any -> ![$ZONE_APP,$ZONE_CDE] any " in line for line in lines
    )
    told = [f"channel {one.name}" for one in CHANNELS]
    told += [f"undecoded {one.name}" for one in UNDECODED]
    assert all(
        f"metadata:detector card-number, {what};" in line
        for line, what in zip(lines, told, strict=True)
    )
    assert not any("shop.yaml" in line or "line 7" in line for line in lines)


@pytest.mark.parametrize(("action", "word"), [(Action.BLOCK, "drop"), (Action.ALERT, "alert")])
def test_the_detectors_own_action_decides(action: Action, word: str) -> None:
    assert {line.split()[0] for line in leak_rules(design_with(detector(action=action))).lines} == {
        word
    }


def test_an_exception_marks_exactly_its_connections_and_is_asked_for_by_every_rule() -> None:
    lines = leak_rules(design_with(detector(excepted=("acquirer",)))).lines
    setters = [line for line in lines if "flowbits:set," in line]
    assert [line.split(" (")[0].split(" -> ")[1] for line in setters] == ["!$VAPP 443", "!$VAPP 53"]
    assert all("flow:to_server;" in line and "noalert;" in line for line in setters)
    bit = setters[0].split("flowbits:set,")[1].split(";")[0]
    asking = sum(f"flowbits:isnotset,{bit};" in line for line in lines)
    assert asking == len(CHANNELS) + len(UNDECODED)
    assert "pass" not in {line.split()[0] for line in lines}


def test_another_exception_has_another_bit_so_that_old_connections_lose_theirs() -> None:
    bits = {
        leak_rules(design_with(detector(excepted=(flow,))))
        .lines[-1]
        .split("flowbits:isnotset,")[1]
        .split(";")[0]
        for flow in ("acquirer", "parcels")
    }
    assert len(bits) == 2


def test_a_flow_between_vms_is_excepted_by_their_addresses_and_ports() -> None:
    design = design_with(detector(excepted=("orders",), zones=("dmz",)))
    setter = leak_rules(design).lines[0]
    nics = [vm.nics[0] for vm in design.workloads]
    assert all(
        str(address) in setter for nic in nics[:3] for address in (nic.address4, nic.address6)
    )
    assert not any(str(address) in setter for address in (nics[3].address4, nics[3].address6))
    assert "] 8000:8010 (" in setter


def test_an_exception_of_many_vms_stands_in_groups_that_suricata_can_read() -> None:
    design = build_design(
        zones="dmz:inspected app",
        vms={"web": "dmz x250", "api": "app"},
        flows="all: web -> web tcp/80\n up: web -> api udp/53",
    )
    design = replace(
        design,
        inspection=replace(
            design.inspection, detectors=(detector(zones=("dmz",), excepted=("all", "up")),)
        ),
    )
    rules = leak_rules(design)
    groups = dict(rules.groups)
    setters = [line.partition(" (")[0].split() for line in rules.lines if "flowbits:set," in line]
    assert all(len(text) < 8192 for text in (*rules.lines, *groups.values()))

    def members(text: str) -> set[str]:
        """The addresses that a list stands for."""
        words = text.strip("[]").split(",")
        return {
            address
            for word in words
            for address in (members(groups[word[1:]]) if word.startswith("$") else {word})
        }

    webs = {
        str(address)
        for vm in design.workloads[:250]
        for address in (vm.nics[0].address4, vm.nics[0].address6)
    }
    api = design.workloads[250].nics[0]
    assert [(rule[1], members(rule[2]), members(rule[5]), rule[6]) for rule in setters] == [
        ("tcp", webs, webs, "80"),
        ("udp", webs, {str(api.address4), str(api.address6)}, "53"),
    ]


def test_as_many_zones_as_are_allowed_leave_a_rule_short_enough_for_suricata() -> None:
    zones = tuple(f"a-zone-with-a-name-{number}" for number in range(MOST_ZONES))
    longest = detector("x" * 63, kind="regex", regex="/" * 200, at_least=1000, zones=zones)
    assert max(map(len, leak_rules(design_with(longest)).lines)) < 8192


@given(st.text(max_size=30))
def test_no_character_of_a_pattern_can_end_its_text_in_lua(text: str) -> None:
    written = lua_text(text)
    assert not re.search(r'["\n]|[^ -~]', written)
    # Lua reads a backslash and three digits as a byte.
    read = re.sub(rb"\\(\d{3})", lambda found: bytes([int(found[1])]), written.encode())
    assert read == text.encode("utf-8")


@pytest.mark.parametrize(
    "regex",
    [
        r"SHOP-[0-9]{8}",
        r"(?:AB|CD)x+[^a-z]\w\s\d",
        r"\bSECRET\b",
        r"DE\d{2}(?: ?\d{4}){4} ?\d{2}",
        r"-----BEGIN [A-Z ]*PRIVATE KEY-----",
        r"[^\d\s]{4}#.{3}",
        r"(?i:confidential)",
        r"a{2,}?b*c",
    ],
)
@pytest.mark.parametrize("at_least", [1, 3])
def test_the_payloads_of_a_pattern_hold_as_many_matches_as_it_wants_and_one_too_few(
    regex: str, at_least: int
) -> None:
    for pair in payloads_of(pattern(regex, at_least)):
        counts = [
            len(re.findall(regex, payload.decode())) for payload in (pair.stopped, pair.passed)
        ]
        assert counts[0] >= at_least > counts[1]


def test_a_pattern_without_example_has_no_test_payload_and_says_so() -> None:
    with pytest.raises(NoExampleError, match="found no text"):
        matching_text(r"(?=b)a")
    with pytest.raises(NoExampleError, match="just does not match"):
        near_miss(r"(?s).", "a")


def test_a_pattern_that_matches_every_http_message_has_no_test_payload() -> None:
    with pytest.raises(NoExampleError, match="any HTTP message"):
        payloads_of(pattern(r"[a-z]{4}: .{3}"))


def test_payloads_of_card_numbers_differ_in_the_last_check_digit() -> None:
    for pair in payloads_of(detector(at_least=3)):
        numbers = [
            re.findall(r"\d{13,}", payload.decode()) for payload in (pair.stopped, pair.passed)
        ]
        assert [sum(map(is_card_number, found)) for found in numbers] == [3, 2]


LINES = {"http-target", "http-request-header", "http-request-cookie"}
PLACES = LINES | {"http-request-body", "http2-body", "udp", "dns-name"}


@pytest.mark.parametrize(
    ("tried", "places"),
    [
        (detector(), PLACES),
        (detector(at_least=4), PLACES - {"dns-name"}),
        (pattern("SHOP-[0-9]{8}"), PLACES),
        (pattern("SHOP-[0-9]{8}", 300), PLACES - LINES - {"http2-body", "udp", "dns-name"}),
        (pattern("word=a bA"), PLACES - {"dns-name"}),
        (pattern("naïve-[0-9]{4}"), PLACES - {"dns-name"}),
        (pattern("^CONF-[0-9]{4}"), {"http2-body", "udp", "dns-name"}),
        (pattern(r"\nCONF-[0-9]{4}"), PLACES - {"dns-name"}),
    ],
)
def test_a_place_is_tried_only_where_the_detector_would_find_the_text_that_fits(
    tried: Detector, places: set[str]
) -> None:
    """What is sent there shows its text only to who decodes it; datagrams have no encoding."""
    found = places_of(tried)
    assert set(found) == places
    kind = kind_of(tried)
    for channel in places - {"udp", "dns-name"}:
        for payload in (found[channel].stopped, found[channel].passed):
            assert not kind.is_found(tried, payload.decode("latin-1"))


def test_every_kind_that_a_file_may_name_has_a_module_and_no_other() -> None:
    assert set(KINDS) == {*BUILT_IN_DETECTORS, "regex"}


@pytest.mark.parametrize("at_least", [1, 4])
@pytest.mark.parametrize("kind", sorted(KINDS))
def test_each_kind_finds_its_own_sample_and_not_the_one_much_like_it(
    kind: str, at_least: int
) -> None:
    sample = detector(
        "sample", kind=kind, regex="ID-[0-9]{6}" if kind == "regex" else "", at_least=at_least
    )
    found, not_found = kind_of(sample).sample_texts(sample)
    assert found != not_found
    assert kind_of(sample).is_found(sample, found)
    assert not kind_of(sample).is_found(sample, not_found)


def test_the_order_of_detectors_and_exceptions_in_the_file_changes_no_byte() -> None:
    one, other = detector(excepted=("acquirer", "parcels")), detector("other", zones=("app", "cde"))
    swapped = replace(one, excepted=one.excepted[::-1]), replace(other, zones=other.zones[::-1])
    assert leak_rules(design_with(one, other)) == leak_rules(design_with(*swapped[::-1]))


def test_an_exception_for_a_prefix_excepts_only_connections_to_it() -> None:
    """Neither those to other addresses outside, nor those to the zones inside the prefix."""
    design = build_design(
        zones="dmz:inspected app:inspected",
        vms={"web": "dmz", "api": "app"},
        flows="archive: api -> 10.0.0.0/8 tcp/443\nbranch: api -> 10.9.0.0/16 tcp/443",
    )
    one = detector(excepted=("archive",))
    design = replace(design, inspection=replace(design.inspection, detectors=(one,)))
    (line,) = (line for line in leak_rules(design).lines if "flow archive" in line)
    zones = sorted(str(zone.prefix4) for zone in design.zones)
    target = f"[[[10.0.0.0/8,!{zones[0]},!{zones[1]}]],!10.9.0.0/16]"
    assert f" any -> {target} 443 " in line


def test_an_exception_for_the_internet_is_none_for_a_prefix_that_another_flow_names() -> None:
    design = build_design(
        zones="dmz app:inspected",
        vms={"web": "dmz", "api": "app"},
        flows="acquirer: api -> internet tcp/443\nlan: api -> 192.168.0.0/16 tcp/443",
    )
    for excepted, target in (
        (("acquirer",), "[!$VAPP,!192.168.0.0/16]"),
        (("acquirer", "lan"), "!$VAPP"),
    ):
        one = replace(design.inspection, detectors=(detector(excepted=excepted),))
        lines = leak_rules(replace(design, inspection=one)).lines
        assert any(f" any -> {target} 443 " in line for line in lines if "acquirer" in line)


@pytest.mark.parametrize(
    ("other", "is_left_out"),
    [
        ("api -> 203.0.113.0/24 tcp/400-500", True),
        ("zone:app -> 203.0.113.0/24 tcp/443", True),
        ("api -> 203.0.113.0/24 udp/443", False),
        ("api -> 203.0.113.0/24 tcp/444-500", False),
        ("web -> 203.0.113.0/24 tcp/443", False),
        ("203.0.113.0/24 -> api tcp/443", False),
    ],
)
def test_an_exception_leaves_out_prefixes_of_flows_that_could_be_meant(
    other: str, is_left_out: bool
) -> None:
    """Not those of another direction, of another VM, or of other ports."""
    design = build_design(
        zones="dmz app:inspected",
        vms={"web": "dmz", "api": "app"},
        flows=f"acquirer: api -> internet tcp/443\nother: {other}",
    )
    one = replace(design.inspection, detectors=(detector(excepted=("acquirer",)),))
    (line,) = (
        line for line in leak_rules(replace(design, inspection=one)).lines if "acquirer" in line
    )
    assert (" any -> [!$VAPP,!203.0.113.0/24] 443 " in line) == is_left_out
    assert (" any -> !$VAPP 443 " in line) != is_left_out
