"""What follows in a guest when one of its files changes."""

from __future__ import annotations

import pytest

from tests.vapps import design_of_text, shop
from vcloud.design.model import Change, Vm
from vcloud.design.readers import all_changes, changes_of, naming_lines

RELOAD, RESTART = Change.RELOAD, Change.RESTART


def vm_with(files: str, image: str = "nginx", run: str = "[]") -> Vm:
    text = f"""\
vcloud: 1
name: one
zones: {{dmz: {{}}}}
vms:
  web: {{image: {image}, zone: dmz, run: {run}, files: {{{files}}}}}
"""
    return design_of_text(text).workloads[0]


SITE = "/etc/nginx/conf.d/site.conf"


@pytest.mark.parametrize(
    ("image", "path", "follows"),
    [
        ("nginx", SITE, [(RELOAD, "nginx.service")]),
        ("nginx", "/etc/nginx/nginx.conf", [(RELOAD, "nginx.service")]),
        ("nginx", "/etc/nginxx.conf", []),
        ("nginx", "/etc/motd", []),
        ("postgres", "/etc/postgresql/17/main/conf.d/a.conf", [(RESTART, "postgresql.service")]),
        ("postgres", "/etc/postgresql/17/main/pg_hba.conf", [(RELOAD, "postgresql.service")]),
        ("shop-api", "/etc/shop-api.conf", [(RESTART, "shop-api.service")]),
        ("base", "/etc/sysctl.d/90-a.conf", [(RESTART, "systemd-sysctl.service")]),
        ("nginx", "/etc/sysctl.d/90-a.conf", [(RESTART, "systemd-sysctl.service")]),
        ("base", "/etc/systemd/system/job.timer", [(RESTART, "job.timer")]),
        ("nginx", "/etc/systemd/system/nginx.service.d/a.conf", [(RESTART, "nginx.service")]),
        ("base", "/etc/systemd/system/job.target", []),
    ],
)
def test_shipped_images_know_which_unit_reads_which_folder(
    image: str, path: str, follows: list[tuple[Change, str]]
) -> None:
    vm = vm_with(f"{path}: one", image)
    assert list(changes_of(vm, None, path)) == follows


@pytest.mark.parametrize(
    ("says", "follows"),
    [
        ("restart: nginx", [(RESTART, "nginx.service")]),
        ("reload: [app, a.timer]", [(RELOAD, "app.service"), (RELOAD, "a.timer")]),
        ("reload: app, restart: db", [(RELOAD, "app.service"), (RESTART, "db.service")]),
        ("reload: []", []),
        ("mode: '0600'", [(RELOAD, "nginx.service")]),
    ],
)
def test_what_the_file_says_takes_the_place_of_what_the_image_says(
    says: str, follows: list[tuple[Change, str]]
) -> None:
    vm = vm_with(f"{SITE}: {{content: one, {says}}}")
    assert list(changes_of(vm, None, SITE)) == follows


def test_a_file_that_is_gone_has_the_readers_that_it_had() -> None:
    before = vm_with("/etc/a: {content: one, reload: app}, /etc/nginx/b: one")
    after = vm_with("")
    assert changes_of(after, before, "/etc/a") == ((RELOAD, "app.service"),)
    assert changes_of(after, before, "/etc/nginx/b") == ((RELOAD, "nginx.service"),)
    assert changes_of(after, None, "/etc/a") == ()


def test_names_of_other_vms_reach_a_server_that_looks_them_up_only_once() -> None:
    web = next(vm for vm in shop().workloads if vm.tier == "web")
    assert changes_of(web, None, "/etc/hosts") == ((RELOAD, "nginx.service"),)


def test_a_unit_is_told_once_and_restarted_where_one_file_asks_for_that() -> None:
    vm = vm_with("/etc/nginx/a: one, /etc/nginx/b: {content: one, restart: nginx}, /etc/c: one")
    assert all_changes(vm, None, {"/etc/nginx/a"}) == ((RELOAD, "nginx.service"),)
    assert all_changes(vm, None, {"/etc/nginx/a", "/etc/nginx/b", "/etc/c"}) == (
        (RESTART, "nginx.service"),
    )


def test_a_path_that_only_a_hostile_guest_could_tell_leads_to_nothing() -> None:
    vm = vm_with(f"{SITE}: one")
    for path in ("/etc/systemd/system/a b.service", "/etc/systemd/system/../x.service", "/", ""):
        assert changes_of(vm, None, path) == ()


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ("psql -f /etc/shop/schema.sql", True),
        ("cp -r /etc/shop /srv", True),
        ("cat /etc/shop/*.sql", True),
        ("ls '/etc/shop/'", True),
        ("psql -f /etc/shop/other.sql", False),
        ("ls /etc/shopping", False),
        ("ls /etc", False),
    ],
)
def test_a_run_line_that_names_a_file_or_its_folder_is_known(line: str, named: bool) -> None:
    assert naming_lines("/etc/shop/schema.sql", ["true", line]) == ((1,) if named else ())
