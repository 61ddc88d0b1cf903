"""Files that change while services run, and services that are down, as the guest program sees them."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable

import pytest

from tests.netns.guest.dbus import (
    ERROR,
    JOB,
    METHOD_RETURN,
    dbus_message,
    dbus_string,
    job_removed,
    moment,
    systemd,
    unit_list,
)
from tests.netns.guest.machines import Machine, encode

pytestmark = pytest.mark.netns

STATES = ("failed", "auto-restart", "condition", "start-pre", "start", "start-post")
KEPT = "/etc/vcloud/changed"


def file(path: str, content: str, mode: str = "0644") -> str:
    return f"file {path} {mode} root:root {encode(content)}"


def started(guest: Machine) -> None:
    """The machine as it is once its services have been started."""
    folder = guest.file("/etc/systemd/system")
    folder.mkdir(parents=True)
    (folder / "default.target").symlink_to("/usr/lib/systemd/system/multi-user.target")


def jobs(result: str = "done") -> Callable[[str, tuple[str, ...]], list[bytes]]:
    """A systemd in which every job ends so, and no unit is down."""

    def answer(call: str, arguments: tuple[str, ...]) -> list[bytes]:
        if call.endswith("Unit") and len(arguments) == 2:
            return [
                dbus_message(METHOD_RETURN, "", dbus_string(JOB)),
                job_removed(JOB, result),
            ]
        return [dbus_message(METHOD_RETURN, "", unit_list())]

    return answer


def units(
    *listed: tuple[str, str], ago: float = 0
) -> Callable[[str, tuple[str, ...]], list[bytes]]:
    """A systemd with these units, which failed so many seconds before now."""
    began = time.monotonic() - ago

    def answer(call: str, _: tuple[str, ...]) -> list[bytes]:
        body = moment(time.monotonic() - began) if call == "Get" else unit_list(*listed)
        return [dbus_message(METHOD_RETURN, "", body)]

    return answer


# Which files have changed


def test_files_that_were_written_before_services_started_are_nobodys_news(guest: Machine) -> None:
    assert guest.identity(file("/etc/a.conf", "one"), file("/etc/b.conf", "one")) == "ok"
    assert not guest.file(KEPT).exists()


def test_each_file_that_changes_comes_or_goes_is_told_and_no_other(guest: Machine) -> None:
    guest.identity(
        file("/etc/same", "one"),
        file("/etc/content", "one"),
        file("/etc/mode", "one"),
        file("/etc/gone", "one"),
    )
    started(guest)
    told = guest.identity(
        file("/etc/same", "one"),
        file("/etc/content", "two"),
        file("/etc/mode", "one", "0600"),
        file("/etc/new", "one"),
    )
    assert told.splitlines() == [
        "ok",
        *(f"changed /etc/{name}" for name in ("content", "mode", "new", "gone")),
    ]


def test_what_changed_is_told_again_until_the_units_know_it(guest: Machine) -> None:
    """A run that is cut off in between leaves it to the next one, which changes nothing more."""
    guest.identity(file("/etc/a.conf", "one"))
    started(guest)
    for _ in range(2):
        assert guest.identity(file("/etc/a.conf", "two")) == "ok\nchanged /etc/a.conf"
    with systemd(guest, jobs()):
        assert guest.guest("change-units", stdin="reload a.service\n").stdout == "ok\n"
    assert guest.identity(file("/etc/a.conf", "two")) == "ok"


def test_a_document_that_is_refused_in_the_middle_keeps_what_it_changed(guest: Machine) -> None:
    guest.identity(file("/etc/a.conf", "one"))
    started(guest)
    assert "no such user" in guest.identity(
        file("/etc/a.conf", "two"), f"file /etc/b.conf 0644 nobody:root {encode('one')}"
    )
    assert guest.identity(file("/etc/a.conf", "two")) == "ok\nchanged /etc/a.conf"


# Units that read them


def test_units_are_reloaded_and_restarted_in_order_whatever_befell_them(guest: Machine) -> None:
    with systemd(guest, jobs()) as calls:
        result = guest.guest("change-units", stdin="reload a.service\nrestart b@x.timer\n")
    assert (result.returncode, result.stdout) == (0, "ok\n")
    assert calls == [
        ("ResetFailedUnit", ("a.service",)),
        ("ReloadOrRestartUnit", ("a.service", "replace")),
        ("ResetFailedUnit", ("b@x.timer",)),
        ("RestartUnit", ("b@x.timer", "replace")),
    ]


def test_a_unit_that_fails_is_told_with_its_line_and_the_list_is_kept(guest: Machine) -> None:
    guest.identity(file("/etc/a.conf", "one"))
    started(guest)
    guest.identity(file("/etc/a.conf", "two"))
    with systemd(guest, jobs("failed")):
        result = guest.guest("change-units", stdin="restart a.service\n")
    assert (result.returncode, result.stdout) == (1, "error 1 a.service: failed\n")
    assert guest.file(KEPT).read_text() == "/etc/a.conf\n"


def test_a_unit_that_is_not_there_is_told_in_the_words_of_systemd(guest: Machine) -> None:
    unknown = dbus_message(ERROR, "", dbus_string("Unit a.service not found."))
    with systemd(guest, lambda *_: [unknown]):
        result = guest.guest("change-units", stdin="reload a.service\n")
    assert result.stdout == "error 1 a.service: Unit a.service not found.\n"


@pytest.mark.parametrize(
    "line", ["reload", "stop a.service", f"reload {'a' * 201}", "restart " + 5000 * "a"]
)
def test_a_line_that_is_no_order_is_refused(guest: Machine, line: str) -> None:
    with systemd(guest, jobs()) as calls:
        assert guest.guest("change-units", stdin=f"{line}\n").returncode == 1
    assert not [call for call, _ in calls if call.endswith(("RestartUnit", "StartUnit"))]


@pytest.mark.parametrize(
    ("path", "anew"), [("/etc/systemd/system/a.service", True), ("/etc/a.conf", False)]
)
def test_systemd_reads_its_units_anew_where_one_of_them_has_changed(
    guest: Machine, path: str, anew: bool
) -> None:
    started(guest)
    guest.identity(file(path, "one"))
    with systemd(guest, jobs()) as calls:
        guest.guest("change-units", stdin="restart a.service\n")
    assert (calls[0] == ("Reload", ())) is anew


# Services that are down


def test_services_names_those_that_failed_and_those_that_fail_again_and_again(
    guest: Machine,
) -> None:
    listed = units(
        ("nginx.service", "failed"),
        ("api.service", "auto-restart"),
        ("db.service", "start"),
        ("sys-kernel.mount", "failed"),
        ago=70,
    )
    with systemd(guest, listed) as calls:
        told = guest.guest("services").stdout.splitlines()
    assert told[:2] == ["restarting api.service", "starting db.service"]
    assert [line.rpartition(" ")[0] for line in told[2:]] == ["failed nginx.service"]
    assert 70 <= int(told[2].split()[2]) < 100
    assert calls == [
        ("ListUnitsFiltered", STATES),
        ("Get", ("org.freedesktop.systemd1.Unit", "InactiveEnterTimestampMonotonic")),
    ]


@pytest.mark.usefixtures("lan")
def test_services_tells_whether_anything_listens(guest: Machine) -> None:
    with systemd(guest, units()):
        assert guest.guest("services", "8080").stdout == "silent 8080\n"
        with guest.listening("tcp 127.0.0.1 8080"):
            assert guest.guest("services", "8080").stdout == ""


def test_nobody_waits_for_a_port_after_a_service_has_failed(guest: Machine) -> None:
    assert guest.identity() == "ok"
    began = time.monotonic()
    with systemd(guest, units(("nginx.service", "failed"))):
        assert guest.guest("wait-tcp", "80", "600", "5").returncode == 3
    assert 3 <= time.monotonic() - began < 300


@pytest.mark.parametrize(("ago", "code"), [("0", 1), ("100", 3)])
def test_a_service_that_failed_before_the_run_began_is_nobodys_news(
    guest: Machine, ago: str, code: int
) -> None:
    assert guest.identity() == "ok"
    with systemd(guest, units(("backup.service", "failed"), ago=60)):
        assert guest.guest("wait-tcp", "80", "60" if code == 3 else "6", ago).returncode == code


def test_a_service_that_is_started_again_is_waited_for(guest: Machine) -> None:
    assert guest.identity() == "ok"
    with systemd(guest, units(("api.service", "auto-restart"))):
        assert guest.guest("wait-tcp", "80", "5").returncode == 1


@pytest.mark.usefixtures("lan")
def test_a_service_that_failed_stops_nobody_whose_port_listens(guest: Machine) -> None:
    with (
        systemd(guest, units(("other.service", "failed"))),
        guest.listening("tcp 127.0.0.1 80"),
        subprocess.Popen(guest.argv("wait-tcp", "80", "600")) as waiting,
    ):
        assert waiting.wait(timeout=500) == 0
