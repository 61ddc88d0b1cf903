"""Reading what the IPS reports and logs; tests/netns reads what the real programs print."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vcloud.proof.ips_report import (
    NO_REPORT,
    Alert,
    IpsReport,
    alerts_after,
    parse_events,
    parse_ips_report,
)

DEEP = b"[" * 100_000


def parse_alerts(output: bytes, since: str = "") -> tuple[Alert, ...]:
    return alerts_after(parse_events(output), since)


@pytest.mark.parametrize(
    "event",
    [
        b"null",
        b"[1]",
        DEEP,
        b'{"event_type": "alert"}',
        b'{"event_type": "alert", "alert": []}',
        b'{"event_type": "alert", "alert": {"signature_id": 5}, "src_port": "x"}',
        b'{"event_type": ["drop"], "drop": 1}',
        b'{"event_type": "drop", "drop": 1}',
    ],
    ids=lambda event: repr(event[:60]),
)
def test_an_event_that_makes_no_sense_is_passed_over(event: bytes) -> None:
    whole = b'{"event_type": "drop", "proto": "TCP", "src_port": 7, "dest_port": 8, "drop": {"reason": "applayer error"}}'
    assert set(parse_alerts(event + b"\n" + whole)) >= {
        Alert("applayer error", "tcp", 7, "", 8, True),
        Alert("applayer error", "tcp", 8, "", 7, True),
    }
    assert len(parse_alerts(whole)) == 2


def test_a_half_written_event_at_the_end_of_the_log_is_left_for_the_next_time() -> None:
    whole = b'{"event_type": "alert", "proto": "TCP", "src_port": 7, "dest_port": 8, "alert": {"signature_id": 5, "action": "blocked"}}'
    assert parse_alerts(whole + b"\n" + whole[:-1]) == (
        Alert("5", "tcp", 7, "", 8, True),
        Alert("5", "tcp", 8, "", 7, True),
    )


def test_events_of_earlier_runs_prove_nothing_today() -> None:
    """Ports come again; the IPS says by its own clock when it saw what."""

    def event(when: str, sid: int) -> bytes:
        return json.dumps(
            {
                "timestamp": when,
                "event_type": "alert",
                "proto": "TCP",
                "src_port": 4000,
                "alert": {"signature_id": sid},
            }
        ).encode()

    log = (
        event("2030-01-01T00:00:01.000001+0000", 1)
        + b"\n"
        + event("2030-01-01T00:00:01.000002+0000", 2)
    )
    assert {alert.rule for alert in parse_alerts(log)} == {"1", "2"}
    assert {alert.rule for alert in parse_alerts(log, "2030-01-01T00:00:01.000001+0000")} == {"2"}


def test_an_event_says_who_sent_what_and_what_became_of_it() -> None:
    alert = {"signature_id": 5, "signature": "a leak", "action": "blocked"}
    ends = {"src_ip": "10.0.0.2", "src_port": 7, "dest_ip": "10.0.0.3", "dest_port": 8}
    log = json.dumps(
        {"timestamp": "t", "event_type": "alert", "proto": "TCP", "alert": alert} | ends
    ).encode()
    (event,) = parse_events(log + b"\n" + log.replace(b"alert", b"stats"))
    assert (event.kind, event.rule, event.message, event.blocked) == ("alert", "5", "a leak", True)
    assert (event.source, event.source_port, event.target, event.target_port) == (
        "10.0.0.2",
        7,
        "10.0.0.3",
        8,
    )


@pytest.mark.parametrize(
    ("written", "address"),
    [
        ("2001:0db8:0203:0000:0000:0000:0000:0005", "2001:db8:203::5"),
        ("10.0.0.3", "10.0.0.3"),
        ("somewhere", ""),
    ],
)
def test_the_other_end_of_a_connection_is_known_by_its_short_address(
    written: str, address: str
) -> None:
    ends = {"src_ip": "10.0.0.2", "src_port": 7, "dest_ip": written, "dest_port": 8}
    event = {"event_type": "drop", "proto": "UDP", "drop": {"reason": "rules"}} | ends
    assert parse_alerts(json.dumps(event).encode()) == (
        Alert("rules", "udp", 7, address, 8, True, "10.0.0.2"),
        Alert("rules", "udp", 8, "10.0.0.2", 7, True, address),
    )


def counters(drops: object, unsent: object) -> object:
    return {"message": {"capture": {"kernel_drops": drops, "afpacket": {"send_errors": unsent}}}}


@pytest.mark.parametrize(
    ("said", "lost"),
    [
        (counters(3, 4), 7),
        (counters(0, 0), 0),
        (None, 0),
        (counters(-1, 0), 0),
        (counters("3", 0), 0),
        ({"message": {"capture": {"kernel_drops": 3}}}, 0),
    ],
)
def test_what_suricata_lost_is_what_its_ring_and_its_cards_did_not_take(
    said: object, lost: int
) -> None:
    report = {"digest": "d", "identity": "", "network": [], "running": True, "counters": said}
    assert parse_ips_report(json.dumps(report).encode()).lost == lost


@given(st.binary(max_size=200))
def test_no_bytes_at_all_break_the_reading(output: bytes) -> None:
    assert list(parse_events(output)) == []
    assert parse_ips_report(output) == NO_REPORT


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    *("event_type", "alert", "drop", "src_port", "digest", "running", "rules"),
                    *("message", "wires", "reloaded", "changed", "network", "identity"),
                ]
            ),
            inner,
        )
    ),
    max_leaves=8,
)


@given(JSON)
def test_no_json_at_all_breaks_the_reading(document: object) -> None:
    output = json.dumps(document).encode()
    assert not parse_ips_report(output).complete
    assert all(event.kind in ("alert", "drop") for event in parse_events(output))


WHOLE = {
    "digest": "abc",
    "identity": "012",
    "network": ["up lo"],
    "running": True,
    "rules": {"message": [{"id": 0, "rules_loaded": 40, "rules_failed": 0}], "return": "OK"},
    "reloaded": {"message": [{"id": 0, "last_reload": "2026-11-29T23:08:45.920536+0000"}]},
    "counters": {"message": {"capture": {"kernel_drops": 3, "afpacket": {"send_errors": 4}}}},
    "wires": [
        [{"message": word, "return": "OK"} for word in ("v-dmz", "f-dmz", "ips")],
        [{"message": "Unable to get value", "return": "NOK"}],
    ],
    "changed": "2026-11-29T23:08:44.819466+0000",
}


def read(**changes: object) -> IpsReport:
    return parse_ips_report(json.dumps(WHOLE | changes).encode())


def test_a_whole_report_is_read() -> None:
    assert read() == IpsReport(
        digest="abc",
        complete=True,
        lost=7,
        rules=40,
        wires=(("v-dmz", "f-dmz", "ips"),),
        reloaded="2026-11-29T23:08:45.920536+0000",
        changed="2026-11-29T23:08:44.819466+0000",
        identity="012",
        network=(("up", "lo"),),
    )


@pytest.mark.parametrize(
    "changes",
    [
        {"running": False},
        {"rules": None},
        {"rules": {"message": []}},
        {"rules": {"message": [{"rules_loaded": 0, "rules_failed": 0}]}},
        {"rules": {"message": [{"rules_loaded": 40, "rules_failed": 1}]}},
        {"rules": {"message": [40]}},
        {"rules": {"message": "40"}},
        {"running": "x" * 100_000},
    ],
    ids=lambda changes: str(changes)[:60],
)
def test_suricata_that_does_not_run_with_all_rules_is_not_complete(
    changes: dict[str, object],
) -> None:
    assert read().complete
    assert not read(**changes).complete


@pytest.mark.parametrize(
    ("changes", "field", "value"),
    [
        ({"reloaded": {"message": [{"last_reload": "tomorrow"}]}}, "reloaded", ""),
        ({"reloaded": {"message": [7]}}, "reloaded", ""),
        ({"changed": 7}, "changed", ""),
        ({"wires": 7}, "wires", ()),
        ({"wires": [[{"message": 7, "return": "OK"}] * 3]}, "wires", ()),
        ({"wires": [[{"message": "x", "return": "OK"}] * 2]}, "wires", ()),
        ({"counters": {"message": "stats not yet synchronized"}}, "lost", 0),
    ],
    ids=lambda value: str(value)[:40],
)
def test_an_answer_of_another_form_counts_as_none(
    changes: dict[str, object], field: str, value: object
) -> None:
    assert getattr(read(**changes), field) == value
    assert getattr(read(), field) != value


@pytest.mark.parametrize("key", ["digest", "identity", "network"])
def test_without_what_the_report_itself_says_there_is_none(key: str) -> None:
    assert read(**{key: 7}) == NO_REPORT


@pytest.mark.parametrize("output", [b"", b"[]", b"null", b"suricata: not found", DEEP])
def test_an_ips_that_says_nothing_sensible_has_no_report(output: bytes) -> None:
    assert parse_ips_report(output) == NO_REPORT
