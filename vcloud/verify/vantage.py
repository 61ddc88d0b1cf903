"""Places beside the VMs that probes are sent from: the host itself, and the outside world where it is known.

In a lab the outside world is its own namespace, with servers that answer on every port. On other hosts nothing outside is ours, so what
must pass is not sent there: each such check is `not run` and says so. What must not leave is sent to the uplink's gateway, where it would
end if the firewall were broken. What comes in is sent by the host.
"""

from __future__ import annotations

import secrets
import subprocess
from collections.abc import Sequence
from ipaddress import ip_address
from pathlib import Path

from vcloud.data import images_dir
from vcloud.design.model import Uplink
from vcloud.errors import VcloudError
from vcloud.hosts.connection import Host
from vcloud.hosts.uplink import NETWORK
from vcloud.lab import lab as labs
from vcloud.lab import layout
from vcloud.proof.checks import OUTSIDE, World

PROBE_SECONDS = 240
PROGRAM = "/run/vcloud-probe"


class Vantages:
    """The host and the outside world of one verification."""

    def __init__(self, host: Host, uplink: Uplink) -> None:
        self.host = host
        self._outside_is_host = uplink.network == NETWORK
        """Nobody else reaches an address behind the host's own translation."""
        self.lab = _lab_of(host)
        self.world = World(ip_address("203.0.113.10"), ip_address("2001:db8:203::10")) if self.lab else World(None, None)

    def send(self, vantage: str, lines: bytes) -> bytes:
        """Runs the probe program there. Raises VcloudError when it cannot."""
        if vantage == OUTSIDE and self.lab is not None and not self._outside_is_host:
            return _run([*labs.enter(self.lab, "outside"), str(guest_program()), "probe"], lines)
        return self._on_host(lines)

    def _on_host(self, lines: bytes) -> bytes:
        """The host has no probe program: it is brought along, and removed afterwards.

        Each call brings its own: the outside may be the host as well, both send side by side, and a program that runs cannot be written.
        """
        path = f"{PROGRAM}-{secrets.token_hex(8)}"
        shell = self.host.shell
        placed = shell.run(["sh", "-c", 'umask 077; cat >"$1" && chmod 700 "$1"', "sh", path], stdin=Path(guest_program()).read_bytes())
        if placed.code != 0:
            raise VcloudError(f"the probe program cannot be put on {self.host.name}: {placed.stderr.decode(errors='replace').strip()}")
        try:
            return shell.run([path, "probe"], stdin=lines, timeout=PROBE_SECONDS).stdout
        finally:
            shell.run(["rm", "-f", path])


def guest_program() -> Path:
    """The guest program that every shipped image carries, static and for any Linux of this architecture; built with the base image."""
    from vcloud.images.build import build
    from vcloud.images.recipe import load_recipe

    return build(load_recipe(images_dir() / "base")).folder / "guest"


def _lab_of(host: Host) -> layout.Lab | None:
    """The lab on this machine that the host belongs to."""
    config = host.ref.ssh_config
    for folder in sorted(layout.DEFAULT_FOLDER.glob("*")) if config is None else [config.parent]:
        lab = layout.Lab(folder.name, folder)
        if lab.inventory.is_file() and (host.ref.uri in lab.inventory.read_text()):
            return lab
    return None


def _run(argv: Sequence[str], stdin: bytes) -> bytes:
    try:
        return subprocess.run(argv, input=stdin, capture_output=True, check=True, timeout=PROBE_SECONDS).stdout
    except (OSError, subprocess.SubprocessError) as error:
        raise VcloudError(f"no probe could be sent from the outside world: {error}") from error
