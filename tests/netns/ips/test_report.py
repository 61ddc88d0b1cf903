"""What the IPS reports about itself, and each change by hand that its report makes visible."""

from __future__ import annotations

import socket
import time

from tests.netns.ips.lab import OUTSIDE4, IpsLab
from tests.netns.ips.traffic import API, CARD, DESIGN, is_stopped, upload
from vcloud.compile.ips.files import FOLDER, ips_digest, ips_files
from vcloud.proof.guest_network import Words
from vcloud.proof.ips_report import IpsReport, parse_ips_report

LEAKS = f"{FOLDER}/rules/leaks.rules"
RULES = sum(
    bool(line) and not line.startswith(b"#")
    for path, content in ips_files(DESIGN).items()
    if path.endswith(".rules")
    for line in content.splitlines()
)


def read(lab: IpsLab) -> IpsReport:
    return parse_ips_report(lab.chroot("/usr/lib/vcloud/ips-report").stdout)


def reload(lab: IpsLab) -> None:
    """What a person does at Suricata's socket."""
    done = lab.chroot("/usr/lib/vcloud/guest", "suricata", "ruleset-reload-rules")
    assert done.returncode == 0, done.stdout


def test_what_runs_as_it_was_delivered_says_so(shared: IpsLab) -> None:
    assert DESIGN.ips
    report = read(shared)
    names = [nic.ifname for nic in DESIGN.ips.nics]
    pairs = list(zip(names[::2], names[1::2], strict=True))
    assert report.complete
    assert report.digest == ips_digest(ips_files(DESIGN))
    assert report.rules == RULES
    assert {*report.wires} == {
        wire for one, two in pairs for wire in ((one, two, "ips"), (two, one, "ips"))
    }
    assert "" < report.changed <= report.reloaded
    assert {words for words in report.network if words[0] == "frames"} == {
        ("frames", name) for name in names
    }


def test_rules_that_are_gone_from_memory_are_seen_although_the_files_are_right(own: IpsLab) -> None:
    """As are others in their place, and loading the files again mends it."""
    own.load(ips_files(DESIGN))
    file, whole = own.path(LEAKS), own.path(LEAKS).read_text()
    comments = "".join(line for line in whole.splitlines(True) if line.startswith("#"))
    others = whole.replace("drop ", "alert ")
    for content, rules in ((comments, "fewer"), (others, "as many")):
        file.write_text(content)
        reload(own)
        file.write_text(whole)
        assert own.tcp(API[0], OUTSIDE4, 8000, upload(CARD.encode())).arrived
        report = read(own)
        assert report.digest == ips_digest(ips_files(DESIGN))
        assert report.complete
        assert (report.rules < RULES) is (rules == "fewer")
        assert report.changed > report.reloaded
    reload(own)
    report = read(own)
    assert report.rules == RULES
    assert report.changed <= report.reloaded
    assert is_stopped(own.tcp(API[0], OUTSIDE4, 8000, upload(CARD.encode())))


def test_a_live_load_and_a_restart_are_told_as_later_than_their_files(own: IpsLab) -> None:
    files = ips_files(DESIGN)
    own.load(files)
    for name in ("rules/attacks.rules", "suricata.yaml"):
        path = f"{FOLDER}/{name}"
        before = read(own)
        own.load({**files, path: files[path] + b"# changed\n"})
        after = read(own)
        assert before.reloaded < after.changed <= after.reloaded
        own.load(files)


def test_a_wire_that_only_taps_is_seen(own: IpsLab) -> None:
    files = ips_files(DESIGN)
    path = f"{FOLDER}/suricata.yaml"
    own.load({**files, path: files[path].replace(b"copy-mode: ips", b"copy-mode: tap", 2)})
    assert sorted(mode for *_, mode in read(own).wires) == ["ips"] * 4 + ["tap"] * 2


def new_things(lab: IpsLab, *argv: str) -> set[Words]:
    before = {*read(lab).network}
    lab.ips.run(*argv)
    return {*read(lab).network} - before


def test_what_could_carry_packets_past_suricata_is_seen(shared: IpsLab) -> None:
    bridge = (
        "ip link add br0 type bridge; ip link set v-app master br0; ip link set f-app master br0"
    )
    new = new_things(shared, "sh", "-ec", bridge)
    shared.ips.run("ip", "link", "del", "br0")
    assert {words[1:2] + words[3:] for words in new if words[0] == "link"} == {
        ("br0", "bridge"),
        ("v-app", "veth", "master", "br0"),
        ("f-app", "veth", "master", "br0"),
    }
    queue = ("tc", "qdisc", "add", "dev", "v-dmz", "clsact")
    assert ("qdisc", "v-dmz", "clsact", "ffff") in new_things(shared, *queue)
    shared.ips.run("tc", "qdisc", "del", "dev", "v-dmz", "clsact")
    with shared.ips.socket(socket.AF_PACKET, socket.SOCK_RAW) as raw:
        raw.bind(("v-cde", 3))
        assert read(shared).network.count(("frames", "v-cde")) == 2
    assert read(shared).network.count(("frames", "v-cde")) == 1


def test_the_report_of_an_ips_that_does_not_run_still_tells_the_rest(own: IpsLab) -> None:
    own.load(ips_files(DESIGN))
    own.chroot("sh", "-c", "kill -9 $(cat /run/suricata/suricata.pid)")
    deadline = time.monotonic() + 120
    while (report := read(own)).complete:
        assert time.monotonic() < deadline
    assert report.digest == ips_digest(ips_files(DESIGN))
    assert (report.rules, report.wires) == (0, ())
    assert ("up", "v-dmz") in report.network
