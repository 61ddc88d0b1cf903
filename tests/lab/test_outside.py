"""The outside world of a lab: it answers, writes down who asked, and cannot be left."""

from __future__ import annotations

import hashlib
import json
import os
import socket
import uuid
from pathlib import Path

import pytest

from tests.lab.places import (
    at,
    command,
    log,
)
from vcloud.lab import lab as labs
from vcloud.lab import namespaces
from vcloud.lab.layout import Lab

pytestmark = pytest.mark.netns


SCANNED = {str(["203.0.113.77", port]) for port in range(1, 501)}


@pytest.mark.parametrize("server", ["203.0.113.10", "[2001:db8:203::10]"])
@pytest.mark.parametrize("port", [80, 443, 65535])
def test_servers_answer_http_on_every_port(lab: Lab, server: str, port: int) -> None:
    path = f"/{uuid.uuid4()}"
    answer = json.loads(
        at(lab, "h1", "curl", "-sS", "-m", "30", "--data", "hello", f"http://{server}:{port}{path}")
    )
    host = lab.host(1)
    source = str(host.uplink6 if ":" in server else host.uplink4)
    sha256 = hashlib.sha256(b"hello").hexdigest()
    assert answer == {
        "method": "POST",
        "path": path,
        "size": 5,
        "sha256": sha256,
        "source": source,
        "server": server.strip("[]"),
        "port": port,
    }
    (line,) = log(lab, event="http", path=path)
    assert line["complete"]
    assert line["to"] == [server.strip("[]"), port]


def test_large_and_chunked_bodies_arrive_whole(lab: Lab, tmp_path: Path) -> None:
    body = tmp_path / "body"
    body.write_bytes(os.urandom(3_000_000))
    sha256 = hashlib.sha256(body.read_bytes()).hexdigest()
    for headers in ([], ["-H", "Transfer-Encoding: chunked"]):
        answer = json.loads(
            at(
                lab,
                "customer",
                "curl",
                "-sS",
                "-m",
                "120",
                *headers,
                "-T",
                str(body),
                "http://203.0.113.20/upload",
            )
        )
        assert (answer["size"], answer["sha256"]) == (3_000_000, sha256)


def test_body_that_ends_early_is_logged_as_incomplete(lab: Lab) -> None:
    path = f"/{uuid.uuid4()}"
    request = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nonly this"
    at(lab, "h1", "nc", "-N", "-w", "30", "203.0.113.10", "80", text=request)
    (line,) = log(lab, event="http", path=path)
    assert not line["complete"]
    assert line["size"] == len("only this")


@pytest.mark.parametrize("server", ["203.0.113.20", "2001:db8:203::20"])
def test_servers_echo_other_tcp_data_udp_and_ping(lab: Lab, server: str) -> None:
    word = str(uuid.uuid4())
    sha256 = hashlib.sha256(word.encode()).hexdigest()
    assert at(lab, "h2", "nc", "-N", "-w", "30", server, "2525", text=word) == word
    assert at(lab, "h2", "nc", "-u", "-w", "30", "-W", "1", server, "5353", text=word) == word
    assert log(lab, event="tcp", to=[server, 2525], sha256=sha256)
    assert log(lab, event="udp", to=[server, 5353], sha256=sha256)
    at(lab, "h2", "ping", "-c", "1", "-W", "30", server)


def test_scan_leaves_a_line_for_every_port(lab: Lab) -> None:
    """Also a connection that is reset at once is evidence that packets came through."""
    at(lab, "h1", "nmap", "-n", "-Pn", "-sT", "-p1-500", "203.0.113.77")
    namespaces.wait_for(
        "The log of the scan",
        lambda: len({str(line["to"]) for line in log(lab, event="open")} & SCANNED) == 500,
        60,
    )


@pytest.mark.parametrize("where", ["h1", "outside"])
def test_nothing_leaves_the_lab(lab: Lab, where: str) -> None:
    """The servers answer on the same path on which the machine's own addresses and the real
    internet do not.
    """
    own = json.loads(command(["ip", "-j", "address", "show", "up"]).stdout)
    addresses = [
        entry["local"]
        for link in own
        for entry in link.get("addr_info", ())
        if entry["scope"] == "global"
    ]
    at(lab, where, "ping", "-c", "1", "-W", "30", "203.0.113.10")
    for address in (*addresses, "192.0.2.254", "2001:db8:ffff::1"):
        assert (
            command([*labs.enter(lab, where), "ping", "-c", "1", "-W", "1", address]).returncode
            != 0
        )


def test_machine_has_no_way_into_the_lab(lab: Lab) -> None:
    links = {link["ifname"] for link in json.loads(command(["ip", "-j", "link"]).stdout)}
    assert not links & {
        "uplink0",
        "uplink",
        "management",
        "eth1",
        "outside",
        "h1-uplink",
        "h1-management",
    }
    routes = (
        command(["ip", "route", "show", "table", "all"]).stdout
        + command(["ip", "-6", "route", "show", "table", "all"]).stdout
    )
    assert not any(
        prefix in routes
        for prefix in ("198.18.", "198.19.", "203.0.113.", "2001:db8:198", "2001:db8:203")
    )
    for host in lab.hosts():
        with socket.socket() as knock:
            knock.settimeout(
                0
            )  # the first packet, if there were one, would take the machine's default route
            knock.bind(("127.0.0.1", 0))
            assert knock.connect_ex((str(host.management4), 22)) != 0
    assert command([str(lab.ssh), "h1", "true"]).returncode == 0
