"""Reading what the IPS reports and logs; tests/netns reads what the real programs print."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vcloud.proof.ips_report import NO_REPORT, Alert, alerts_after, parse_events, parse_ips_report

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
        Alert("applayer error", "tcp", 7, True),
        Alert("applayer error", "tcp", 8, True),
    }
    assert len(parse_alerts(whole)) == 2


def test_a_half_written_event_at_the_end_of_the_log_is_left_for_the_next_time() -> None:
    whole = b'{"event_type": "alert", "proto": "TCP", "src_port": 7, "dest_port": 8, "alert": {"signature_id": 5, "action": "blocked"}}'
    assert parse_alerts(whole + b"\n" + whole[:-1]) == (
        Alert("5", "tcp", 7, True),
        Alert("5", "tcp", 8, True),
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
                ["event_type", "alert", "drop", "src_port", "digest", "running", "rules", "message"]
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
