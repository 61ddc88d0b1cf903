"""A real ssh and a real sshd, without a VM and without a network."""

from __future__ import annotations

import getpass
import shutil
import subprocess
from pathlib import Path

import pytest

from vcloud.guests.ssh import Sshd


@pytest.fixture
def login(tmp_path: Path) -> list[str]:
    """The command of a real ssh whose other end is a real `sshd -i` with the options of `Sshd`."""
    for name in ("host", "user"):
        subprocess.run(
            ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(tmp_path / name)], check=True
        )
    public = (tmp_path / "user.pub").read_text()
    allowed = tmp_path / "allowed"
    allowed.write_text(f"restrict,pty,port-forwarding {public}")
    server = Sshd(str(allowed), str(tmp_path / "host"), addresses=("own-name",))
    argv = [part.replace("StrictModes=yes", "StrictModes=no") for part in server.argv]
    proxy = tmp_path / "proxy"
    proxy.write_text(
        "#!/bin/sh\nmkdir -p /run/sshd\nexec "
        + " ".join(f"'{part}'" for part in argv)
        + " -f /dev/null\n"
    )
    proxy.chmod(0o755)
    (tmp_path / "known").write_text(f"guest {(tmp_path / 'host.pub').read_text()}")
    settings = {
        "ProxyCommand": str(proxy),
        "UserKnownHostsFile": str(tmp_path / "known"),
        "StrictHostKeyChecking": "yes",
        "IdentityFile": str(tmp_path / "user"),
        "IdentitiesOnly": "yes",
        "BatchMode": "yes",
        "ExitOnForwardFailure": "yes",
    }
    flags = [part for item in settings.items() for part in ("-o", "=".join(item))]
    assert shutil.which("ssh")
    return ["ssh", "-F", "/dev/null", *flags, f"{getpass.getuser()}@guest"]
