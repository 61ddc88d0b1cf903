"""Other configurations, changes while traffic passes, failures and ends."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from dataclasses import replace
from pathlib import Path

import pytest

from tests.design_builder import with_flows
from tests.netns.ips.lab import OUTSIDE4, OUTSIDE6, IpsLab, Seen, receive
from tests.netns.ips.traffic import (
    API,
    CARD,
    CARDS,
    DESIGN,
    FLOWS,
    GOLDEN,
    HOSTILE,
    HOSTILE_TEXTS,
    NO_CARD,
    ORDERS,
    WEB,
    _detector,
    is_stopped,
    send,
    upload,
    with_detectors,
)
from vcloud.compile.ips.files import FOLDER, ips_digest, ips_files
from vcloud.compile.ips.rules import SHIPPED, VAPP
from vcloud.compile.leaks.payloads import payloads_of
from vcloud.compile.leaks.rules import rule_sids
from vcloud.guests.setup import ips_archive
from vcloud.proof.ips_report import parse_ips_report
from vcloud.values import Action, Mode, Protocol


@pytest.mark.parametrize("at_least", [2, 4])
def test_card_numbers_are_counted_over_the_whole_connection(own: IpsLab, at_least: int) -> None:
    detector = replace(CARDS, at_least=at_least)
    own.load(ips_files(with_detectors(DESIGN, detector)))
    numbers = [
        number.encode()
        for number in ("4012888888881881", "5555555555554444", "378282246310005", CARD)
    ][:at_least]
    apart = (b"x" * 100_000).join(b" " + number + b" " for number in numbers)
    assert not own.tcp(API[0], OUTSIDE4, 80, upload(apart)).arrived
    assert own.tcp(
        API[0], OUTSIDE4, 80, upload(apart.replace(numbers[-1], NO_CARD.encode()))
    ).arrived
    assert own.tcp(API[0], OUTSIDE4, 80, upload(apart.replace(numbers[-1], numbers[0]))).arrived, (
        "the same number twice is one"
    )


def test_probes_of_detectors_prove_them(own: IpsLab) -> None:
    detectors = (
        replace(CARDS, at_least=2),
        ORDERS,
        _detector("key", "-----BEGIN [A-Z ]*PRIVATE KEY-----", 1, ("app",)),
    )
    own.load(ips_files(with_detectors(DESIGN, *detectors)))
    for detector in detectors:
        for probe in payloads_of(detector):
            ends = (OUTSIDE4, API[0]) if probe.request else (API[0], OUTSIDE4)
            assert not send(own, probe, probe.stopped, *ends).arrived
            assert send(own, probe, probe.passed, *ends) == Seen(arrived=True, alerts=())


def test_hostile_patterns_mean_what_they_say(own: IpsLab) -> None:
    detectors = tuple(
        _detector(f"d{number}", regex, 1, ("app",)) for number, regex in enumerate(HOSTILE)
    )
    assert own.load(ips_files(with_detectors(DESIGN, *detectors)))["rules_failed"] == 0
    sids = rule_sids(detectors)
    for detector, text in list(zip(detectors, HOSTILE_TEXTS, strict=True)):
        if detector.regex == "drop#$HOME_NET":  # matches nothing: `$` is an end
            assert own.tcp(API[0], OUTSIDE4, 8000, text.encode()).arrived
            continue
        assert own.tcp(API[0], OUTSIDE4, 8000, text.encode()).blocked == {sids[detector.id, "tcp"]}


def test_detect_logs_attacks_and_drops_nothing_but_leaks(own: IpsLab) -> None:
    """A detector's own action decides; an action of `alert` logs."""
    alerting = replace(ORDERS, action=Action.ALERT)
    own.load(ips_files(with_detectors(DESIGN, CARDS, alerting, mode=Mode.DETECT)))
    for shipped in SHIPPED:
        if shipped.rule.source == VAPP or shipped.payload.protocol is not Protocol.TCP:
            continue
        seen = send(own, shipped.payload, shipped.payload.stopped, OUTSIDE4, WEB[0])
        assert (seen.arrived, seen.logged, seen.blocked) == (True, {shipped.rule.sid}, set())
    assert is_stopped(own.tcp(API[0], OUTSIDE4, 80, upload(CARD.encode())))
    logged = own.tcp(API[0], OUTSIDE4, 80, upload(b"SHOP-12345678 " * 3))
    assert logged.arrived
    assert logged.logged


@pytest.mark.parametrize(
    "folder",
    sorted(GOLDEN.glob("*/expected/ips/etc/vcloud/ips")),
    ids=lambda folder: folder.parts[-6],
)
def test_suricata_accepts_what_was_reviewed(own: IpsLab, folder: Path) -> None:
    shutil.copytree(folder, own.path("/etc/vcloud/ips"))
    own.path("/run/suricata").mkdir()
    done = own.chroot(
        "suricata",
        "-T",
        "--init-errors-fatal",
        "-l",
        "/run/suricata",
        "-c",
        "/etc/vcloud/ips/suricata.yaml",
    )
    assert done.returncode == 0, done.stderr.decode()


# --- life


def test_nothing_passes_before_it_has_rules_nor_after_it_dies(own: IpsLab) -> None:
    def pings(patience: int = 60) -> bool:
        return (
            own.machine(WEB[0])
            .run("ping", "-c", "5", "-i", "0.4", "-W", str(patience), OUTSIDE4, check=False)
            .returncode
            == 0
        )

    assert not pings(1)
    assert own.report()["running"] is False
    own.load(ips_files(DESIGN))
    assert pings()
    own.chroot("sh", "-c", "kill -9 $(cat /run/suricata/suricata.pid)")
    assert not pings(1)
    assert own.report()["running"] is False
    assert own.chroot("/usr/lib/vcloud/ips-start").returncode == 0
    assert pings()


START = "/usr/lib/vcloud/ips-start"


def stop(own: IpsLab) -> None:
    own.chroot("sh", "-c", ". /usr/lib/vcloud/ips-common && stop")
    assert own.report()["running"] is False


@pytest.mark.parametrize("broken", ["rules/attacks.rules", "suricata.yaml", "../ips.digest"])
def test_suricata_starts_only_with_the_files_that_it_has_loaded(own: IpsLab, broken: str) -> None:
    """For a rule file that a crash has left empty it only writes a line to its log, and forwards
    every packet.
    """
    own.load(ips_files(DESIGN))
    stop(own)
    file = own.path(f"{FOLDER}/{broken}")
    content = file.read_bytes()
    file.write_bytes(b"")
    refused = own.chroot(START)
    assert refused.returncode == 1
    assert b"not those that it had loaded" in refused.stderr
    assert own.report()["running"] is False
    file.write_bytes(content)
    assert own.chroot(START).returncode == 0
    assert is_stopped(own.tcp(API[0], OUTSIDE4, 8000, upload(CARD.encode())))
    stop(own)
    file.write_bytes(b"")
    assert own.load(ips_files(DESIGN))["action"] == "start", "a load brings them back"


def test_suricata_is_stopped_where_it_has_no_rules(own: IpsLab) -> None:
    """Also if the digest is right: it runs only while its rules are loaded."""
    own.load(ips_files(DESIGN))
    stop(own)
    for file in own.path(f"{FOLDER}/rules").iterdir():
        file.write_bytes(b"")
    own.chroot("sh", "-c", '. /usr/lib/vcloud/ips-common && digest > "$kept"')
    assert own.chroot(START).returncode == 1
    assert own.report()["running"] is False


def test_files_from_the_future_are_read_again(own: IpsLab) -> None:
    """As after the host's clock was set back, when Suricata starts again: its files seem to have
    changed after it read them.
    """
    files = ips_files(DESIGN)
    own.load(files)
    assert own.load(files)["action"] == "none"
    (own.path(FOLDER) / "suricata.yaml").chmod(0o600)
    stale = parse_ips_report(json.dumps(own.report()).encode())
    assert stale.changed > stale.reloaded
    assert own.load(files)["action"] == "reload"
    again = parse_ips_report(json.dumps(own.report()).encode())
    assert again.changed < again.reloaded
    assert own.load(files)["action"] == "none"


def test_rules_that_are_gone_from_suricatas_memory_are_read_again(own: IpsLab) -> None:
    files = ips_files(DESIGN)
    own.load(files)
    rules = own.path(f"{FOLDER}/rules")
    (name,) = [path.name for path in rules.iterdir() if b"\ndrop" in b"\n" + path.read_bytes()][:1]
    few = {**files, f"{FOLDER}/rules/{name}": b""}
    loaded = own.load(few)["rules_loaded"]
    (rules / name).write_bytes(files[f"{FOLDER}/rules/{name}"])
    answer = own.load(files)
    assert answer["action"] == "reload"
    assert answer["rules_loaded"] != loaded


@pytest.mark.parametrize("option", ["size=4M", "ro"])
def test_a_full_or_read_only_disk_is_no_refusal(own: IpsLab, tmp_path: Path, option: str) -> None:
    own.load(ips_files(DESIGN))
    before, place = own.report()["digest"], f"{own._root}/etc/vcloud"
    own.ips.run("cp", "-a", place, str(tmp_path / "kept"))
    own.ips.run("mount", "-t", "tmpfs", "-o", "size=4M", "tmpfs", place)
    own.ips.run("cp", "-a", f"{tmp_path}/kept/.", place)
    own.ips.run("sh", "-c", f"cat /dev/zero > {place}/filler", check=False)
    own.ips.run("mount", "-o", f"remount,{option}", place)
    sent = ips_archive(ips_files(with_detectors(DESIGN, ORDERS)))
    done = own.chroot("/usr/lib/vcloud/ips-load", stdin=sent)
    assert (done.returncode, done.stdout) == (73, b"")
    assert b"cannot" in done.stderr
    assert own.report()["digest"] == before
    assert is_stopped(own.tcp(API[0], OUTSIDE4, 8000, upload(CARD.encode())))
    own.ips.run("umount", "-l", place)
    assert own.load(ips_files(with_detectors(DESIGN, ORDERS)))["action"] == "reload"


def test_files_that_cannot_be_noted_are_in_force_and_not_started_with(own: IpsLab) -> None:
    """Nothing can take the place of a file that is immutable."""
    own.load(ips_files(DESIGN))
    noted = str(own.path(f"{FOLDER}.digest"))
    subprocess.run(["chattr", "+i", noted], check=True)
    try:
        sent = ips_archive(ips_files(with_detectors(DESIGN, ORDERS)))
        done = own.chroot("/usr/lib/vcloud/ips-load", stdin=sent)
    finally:
        subprocess.run(["chattr", "-i", noted], check=True)
    assert (done.returncode, done.stdout) == (74, b"")
    assert b"cannot be noted" in done.stderr
    assert own.tcp(API[0], OUTSIDE4, 8000, upload(CARD.encode())).arrived, "the new rules count"
    stop(own)
    assert own.chroot(START).returncode == 1
    assert own.load(ips_files(DESIGN))["action"] == "start"
    assert is_stopped(own.tcp(API[0], OUTSIDE4, 8000, upload(CARD.encode())))


def test_new_rules_are_loaded_live_and_open_connections_live_on(own: IpsLab) -> None:
    own.load(ips_files(DESIGN))
    with own.connection(API[0], OUTSIDE4, 8000) as (client, server):
        client.sendall(b"before")
        assert receive(server, 6) == b"before"
        changed = ips_files(with_detectors(DESIGN, CARDS, _detector("word", "secret", 1, ("app",))))
        answer = own.load(changed)
        assert (answer["action"], answer["rules_failed"], answer["digest"]) == (
            "reload",
            0,
            ips_digest(changed),
        )
        client.sendall(b"after!")
        assert receive(server, 6) == b"after!"
        client.sendall(b"secret")
        server.settimeout(1)
        with pytest.raises(TimeoutError):
            receive(server, 6)
    assert own.load(changed)["action"] == "none"


def test_a_zone_that_changes_its_addresses_is_known_after_a_live_load(own: IpsLab) -> None:
    """Variables are loaded with the rules."""
    moved = {
        path: content.replace(str(DESIGN.zone("app").prefix4).encode(), b"192.0.2.0/24")
        if path.endswith("vars.yaml")
        else content
        for path, content in ips_files(DESIGN).items()
    }
    own.load(moved)
    assert own.tcp(API[0], OUTSIDE4, 8000, upload(CARD.encode())).arrived
    assert own.load(ips_files(DESIGN))["action"] == "reload"
    assert is_stopped(own.tcp(API[0], OUTSIDE4, 8000, upload(CARD.encode())))


def test_a_revoked_exception_ends_on_open_connections_too(own: IpsLab) -> None:
    own.load(ips_files(with_detectors(DESIGN, replace(CARDS, excepted=("parcels", "acquirer")))))
    request = upload(CARD.encode())
    with own.connection(API[0], OUTSIDE4, 80) as (client, server):
        client.sendall(request)
        assert receive(server, len(request)) == request
        own.load(ips_files(DESIGN))
        client.sendall(request)
        server.settimeout(1)
        with pytest.raises(TimeoutError):
            receive(server, len(request))


def test_a_restart_drops_the_connections_of_before(own: IpsLab) -> None:
    """They are in mid-stream for the new process, which has not seen what they carried."""
    files = ips_files(DESIGN)
    own.load(files)
    with own.connection(WEB[0], OUTSIDE4, 8000) as (client, server):
        other = {
            **files,
            f"{FOLDER}/suricata.yaml": files[f"{FOLDER}/suricata.yaml"] + b"# changed\n",
        }
        assert own.load(other)["action"] == "restart"
        client.sendall(b"still there?")
        server.settimeout(1)
        with pytest.raises(TimeoutError):
            receive(server, 1)
    assert own.tcp(WEB[0], OUTSIDE4, 8000, b"a new one").arrived


@pytest.mark.parametrize(
    "broken", ["rules/attacks.rules", "lua/card-number-buffer.lua", "suricata.yaml"]
)
def test_refused_files_change_nothing(own: IpsLab, broken: str) -> None:
    """Neither while it runs nor at the first start; the reason is told."""
    files = ips_files(DESIGN)
    bad = {**files, f"{FOLDER}/{broken}": b"drop nonsense here\n"}
    with pytest.raises(AssertionError, match=r"\w"):
        own.load(bad)
    assert own.report()["running"] is False
    own.load(files)
    with pytest.raises(AssertionError, match=r"\w"):
        own.load(bad)
    report = own.report()
    assert (report["running"], report["digest"]) == (True, ips_digest(files))
    assert is_stopped(own.tcp(API[0], OUTSIDE4, 8000, upload(CARD.encode())))
    left = sorted(path.name for path in own.path(FOLDER).parent.iterdir())
    assert left == ["ips", "ips.digest"]


def test_the_report_counts_what_was_dropped(own: IpsLab) -> None:
    own.load(ips_files(DESIGN))
    assert is_stopped(own.tcp(API[0], OUTSIDE4, 8000, upload(CARD.encode())))
    deadline = time.monotonic() + 120
    while (counters := own.report()["counters"])["return"] != "OK" or not counters["message"][
        "ips"
    ]["blocked"]:  # type: ignore[index]
        assert time.monotonic() < deadline
        time.sleep(0.5)
    assert counters["message"]["capture"]["kernel_drops"] == 0  # type: ignore[index]
    events = own.chroot("/usr/lib/vcloud/ips-report", "events", "5").stdout.decode().splitlines()
    assert 0 < len(events) <= 5
    assert all(event.startswith('{"timestamp"') for event in events)


def test_a_full_disk_stops_the_log_and_not_the_protection(own: IpsLab) -> None:
    own.ips.run(
        "mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(own._root / "var/log/suricata")
    )
    own.load(ips_files(DESIGN))
    own.path("/var/log/suricata/filler").write_bytes(b"x" * 40_000)
    for _ in range(60):
        own.udp(API[0], OUTSIDE4, 9000, b"fine")
        with own.connection(API[0], OUTSIDE4, 8000) as (client, server):
            client.sendall(upload(CARD.encode()))
            server.settimeout(0.1)
            with pytest.raises(TimeoutError):
                receive(server, 1)
    assert own.tcp(API[0], OUTSIDE4, 8000, upload(NO_CARD.encode())).arrived


def test_flows_that_change_change_the_exceptions_live(own: IpsLab) -> None:
    own.load(ips_files(DESIGN))
    wider = with_flows(DESIGN, FLOWS.replace("tcp/443", "tcp/8000-8100 tcp/443"))
    assert own.load(ips_files(wider))["action"] == "reload"
    assert own.tcp(API[0], OUTSIDE4, 8050, upload(CARD.encode())).arrived
    assert is_stopped(own.tcp(API[0], OUTSIDE4, 8200, upload(CARD.encode())))


def test_an_exception_for_a_prefix_is_one_for_its_addresses_outside_only(own: IpsLab) -> None:
    """Neither for what another flow names in it, nor for the other version of IP, nor for the zones
    of the vApp that are in it.
    """
    whole = f"archive: api -> {OUTSIDE4}/24 tcp/8000".replace(".5/", ".0/")
    part = "branch: api -> 203.0.113.0/29 tcp/8000"
    inside = "archive: api -> 10.0.0.0/8 tcp/8000"
    card = upload(CARD.encode())
    for flows, target, passes in (
        (whole, OUTSIDE4, True),
        (whole, OUTSIDE6, False),
        (f"{whole}\n{part}", OUTSIDE4, False),
        (inside, WEB[0], False),
        (inside, WEB[1], False),
        ("archive: api -> internet tcp/8000", OUTSIDE4, True),
        (f"archive: api -> internet tcp/8000\n{part}", OUTSIDE4, False),
        (f"archive: api -> internet tcp/8000\n{part}", OUTSIDE6, True),
    ):
        design = with_detectors(with_flows(DESIGN, flows), replace(CARDS, excepted=("archive",)))
        assert own.load(ips_files(design))["rules_failed"] == 0
        seen = own.tcp(API[":" in target], target, 8000, card)
        assert seen.arrived is passes, (flows, target)
        assert own.tcp(API[":" in target], target, 8000, upload(NO_CARD.encode())).arrived
