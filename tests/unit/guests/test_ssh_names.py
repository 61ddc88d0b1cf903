"""VMs as hosts of plain ssh, scp and Ansible: what is written, and that nothing hostile gets there."""

from __future__ import annotations

import json
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from tests.standing import standing, with_domain
from tests.vapps import design_of_text
from vcloud.errors import UsageError
from vcloud.guests.ssh_files import include, write_files
from vcloud.guests.ssh_names import (
    SshFolder,
    SshHost,
    ansible_inventory,
    ini_inventory,
    ssh_config_text,
    ssh_hosts,
    with_include,
)
from vcloud.plan.state import VappState

TEXT = """\
vcloud: 1
name: shop
zones: {dmz: {}, app: {}}
vms:
  web: {image: nginx, zone: dmz, count: 2}
  api: {image: nginx, zone: app}
"""
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"
FOLDER = SshFolder(Path("/home/me/.ssh/vcloud"))


def pinned(key: str = KEY) -> VappState:
    state = standing(design_of_text(TEXT))
    for domain in state.domains:
        marks = replace(domain.marks, host_key=key)
        state = with_domain(state, domain.name, lambda one, marks=marks: replace(one, marks=marks))
    return state


def names(state: VappState) -> list[str]:
    return [host.name for host in ssh_hosts(state)]


def test_each_workload_with_a_pinned_key_is_a_host() -> None:
    assert names(pinned()) == ["web-1.shop", "web-2.shop", "api.shop"]
    assert names(pinned("")) == []


@pytest.mark.parametrize(
    "key", [f"{KEY}\n  ProxyCommand sh", f"{KEY} x", "ssh-ed25519 *", f"@cert-authority {KEY}"]
)
def test_a_key_of_another_form_is_no_key(key: str) -> None:
    assert names(pinned(key)) == []


def test_openssh_reads_what_is_written(tmp_path: Path) -> None:
    """A path with a space and a percent sign, as ssh itself prints them."""
    folder = SshFolder(tmp_path / "a %h b")
    hosts = tuple(ssh_hosts(pinned()))
    write_files(hosts, folder, "box 1")
    asked = subprocess.run(
        ["ssh", "-G", "-F", str(folder.config), "web-2.shop"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    read = dict(line.split(" ", 1) for line in asked.splitlines() if " " in line)
    assert read["user"] == "root"
    assert read["stricthostkeychecking"] in ("yes", "true")
    assert (
        read["proxycommand"]
        .replace("%%", "%")
        .endswith(f"_channel shop web-2 '{folder.key}.pub' --connect 'box 1'")
    )
    found = subprocess.run(
        ["ssh-keygen", "-F", "web-2.shop", "-f", str(folder.known_hosts)],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert KEY in found
    assert folder.key.stat().st_mode & 0o777 == 0o600
    key = folder.key.read_bytes()
    write_files(hosts, folder, None)
    assert folder.key.read_bytes() == key


def test_a_vm_gets_no_agent_and_asks_for_no_password(tmp_path: Path) -> None:
    """Also where the user gives his agent to every host."""
    folder = SshFolder(tmp_path / "vcloud")
    write_files(tuple(ssh_hosts(pinned())), folder, None)
    own = tmp_path / "config"
    own.write_text("Host *\n    ForwardAgent yes\n    ForwardX11 yes\n")
    include(folder, own)
    for options, agent in (((), "no"), (("-o", "ForwardAgent=yes"), "yes")):
        asked = subprocess.run(
            ["ssh", "-G", "-F", str(own), *options, "api.shop"],
            capture_output=True,
            text=True,
            check=True,
        ).stdout.splitlines()
        assert f"forwardagent {agent}" in asked
        assert "forwardx11 no" in asked
        assert "preferredauthentications publickey" in asked


def test_a_path_that_ssh_cannot_read_is_refused() -> None:
    for path in ('/home/"', "/home/\nHost *"):
        with pytest.raises(UsageError):
            ssh_config_text(ssh_hosts(pinned()), SshFolder(Path(path)), ["vcloud"], None)


def test_the_include_stands_first_and_only_once(tmp_path: Path) -> None:
    own = "Host *\n    User me\n"
    once = with_include(own, FOLDER.config)
    assert once == f'Include "{FOLDER.config}"\n{own}'
    assert with_include(once, FOLDER.config) == once
    (tmp_path / "dotfiles").write_text(own)
    (tmp_path / "dotfiles").chmod(0o640)
    (tmp_path / "config").symlink_to("dotfiles")
    assert include(FOLDER, tmp_path / "config")
    assert not include(FOLDER, tmp_path / "config")
    assert (tmp_path / "config").is_symlink()
    assert (tmp_path / "dotfiles").read_text() == once
    assert (tmp_path / "dotfiles").stat().st_mode & 0o777 == 0o640


def test_ansible_gets_groups_of_vapps_and_of_tiers() -> None:
    found = ansible_inventory(ssh_hosts(pinned()), FOLDER)
    assert json.loads(json.dumps(found))["all"] == {"children": ["shop"]}
    assert found["shop"] == {"children": ["shop__api", "shop__web"]}
    assert found["shop__web"] == {"hosts": ["web-1.shop", "web-2.shop"]}
    text = ini_inventory(ssh_hosts(pinned()), FOLDER)
    assert "[shop:children]\nshop__api\nshop__web\n" in text
    assert "web-1.shop ansible_user=root ansible_ssh_common_args='-F /home/me" in text


def test_two_groups_of_one_name_are_refused() -> None:
    hosts = [SshHost("a--b", "x", "x", KEY), SshHost("a", "b", "b", KEY)]
    with pytest.raises(UsageError, match="the group 'a__b'"):
        ansible_inventory(hosts, FOLDER)
    assert ansible_inventory(hosts[:1], FOLDER)
