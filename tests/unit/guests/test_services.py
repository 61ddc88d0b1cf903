"""What a guest tells of its services and files. It may be hostile."""

from __future__ import annotations

import pytest

from vcloud.guests.services import MOST_UNITS, Services, parse_services
from vcloud.guests.setup import changed_files


@pytest.mark.parametrize(
    ("said", "services"),
    [
        (b"", Services((), (), (), silent=False)),
        (
            b"failed nginx.service 12\nfailed a.service\nrestarting api@1.service\nstarting db.service\nsilent 80\n",
            Services(
                (("nginx.service", 12), ("a.service", 0)),
                ("api@1.service",),
                ("db.service",),
                silent=True,
            ),
        ),
        (
            b"failed \x1b[2Jx.service\nfailed\nfailed a b\n\xff\n",
            Services((), (), (), silent=False),
        ),
    ],
)
def test_services_are_read_and_what_no_unit_could_be_called_is_left_out(
    said: bytes, services: Services
) -> None:
    assert parse_services(said) == services


def test_a_guest_that_names_units_without_end_is_cut_short() -> None:
    said = b"".join(b"failed u%d.service\n" % number for number in range(10_000))
    assert len(parse_services(said).failed) == MOST_UNITS


def test_changed_files_are_read_and_what_no_path_could_be_is_left_out() -> None:
    said = b"ok\nchanged /etc/a.conf\nchanged relative\nchanged /etc/a b\nchanged /\xff\nmore\n"
    assert changed_files(said) == {"/etc/a.conf"}
    assert changed_files(b"ok\n") == frozenset()


def test_what_failed_long_ago_says_nothing_about_what_is_done_now() -> None:
    services = parse_services(b"failed backup.service 3600\n")
    assert not services.failed_since(60)
    assert services.failed_since(3600)
