"""vcloud's own files for plain ssh, scp, rsync and Ansible: ~/.ssh/vcloud."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Collection
from pathlib import Path

from vcloud.errors import NoVappError, UsageError
from vcloud.fleet.fleet import open_lab
from vcloud.guests.ssh_names import (
    SshFolder,
    SshHost,
    known_hosts_text,
    ssh_config_text,
    ssh_hosts,
    with_include,
)
from vcloud.hosts.manifests import vapp_names
from vcloud.hosts.observe import observe_vapp
from vcloud.whole_file import write_whole

CHANNEL = (sys.executable, "-m", "vcloud", "_channel")


def own_folder() -> SshFolder:
    return SshFolder(Path.home() / ".ssh/vcloud")


def hosts_of(vapps: Collection[str], connect: str | None) -> tuple[SshHost, ...]:
    """The VMs of these vApps that ssh can log in to; no vApps: those of all. Raises NoVappError,
    HostError, UsageError.
    """
    with open_lab(connect) as lab:
        there = sorted({name for host in lab.hosts for name in vapp_names(host)})
        for name in vapps:
            if name not in there:
                raise NoVappError(name, ", ".join(host.name for host in lab.hosts))
        found: list[SshHost] = []
        for name in vapps or there:
            home = lab.copies_of(name).home
            if home is not None:
                found += ssh_hosts(observe_vapp(home, name))
        return tuple(found)


def write_files(hosts: Collection[SshHost], folder: SshFolder, connect: str | None) -> str:
    """Writes the configuration, the pinned host keys and, the first time, a key. Each file is replaced
    in one rename. Returns the text of the configuration.

    Raises UsageError where they cannot be written.
    """
    text = ssh_config_text(hosts, folder, CHANNEL, connect)
    try:
        folder.path.mkdir(parents=True, exist_ok=True, mode=0o700)
        if not folder.key.exists():
            _make_key(folder)
        write_whole(folder.known_hosts, known_hosts_text(hosts).encode(), 0o600)
        write_whole(folder.config, text.encode(), 0o600)
    except OSError as error:
        raise UsageError(f"'{error.filename}' cannot be written: {error.strerror}") from None
    return text


def include(folder: SshFolder, config: Path | None = None) -> bool:
    """Makes ssh read the folder's configuration, by one line at the beginning of the user's own.
    Returns whether it was written now. Raises UsageError.
    """
    # A link, such as into a folder of dotfiles, stays a link.
    path = Path(os.path.realpath(config or folder.path.parent / "config"))
    try:
        before = path.read_text() if path.exists() else ""
        after = with_include(before, folder.config)
        if after != before:
            write_whole(path, after.encode())
        return after != before
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(
            f"'{path}' cannot be changed: {error}",
            f"Write this as its first line: Include {folder.config}",
        ) from None


def _make_key(folder: SshFolder) -> None:
    # Made beside, so that two commands at a time do not leave halves of two keys.
    with tempfile.TemporaryDirectory(dir=folder.path) as place:
        made = Path(place) / "key"
        subprocess.run(
            ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "vcloud", "-f", str(made)],
            check=True,
            stdin=subprocess.DEVNULL,
        )
        made.with_suffix(".pub").rename(f"{folder.key}.pub")
        made.rename(folder.key)
