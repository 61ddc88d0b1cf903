"""Ways into VMs that need no network: the guest agent, a channel of the hypervisor for ssh, the
serial console.
"""

from __future__ import annotations

import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from vcloud.design.model import Role
from vcloud.errors import GuestError, UsageError
from vcloud.fleet.fleet import open_home
from vcloud.guests import console
from vcloud.guests.forwarding import Forward
from vcloud.guests.ssh import Sshd, authorize, serve_proxy
from vcloud.hosts import machines
from vcloud.hosts.connection import Host
from vcloud.hosts.executed import Executed
from vcloud.hosts.manifests import read_manifest
from vcloud.hosts.observe import observe_domain, observe_vapp
from vcloud.plan.manifest import Manifest
from vcloud.plan.state import DomainState

KEY_FOLDER = "/run/vcloud/ssh"
"""In the guest. Its files are lost when the VM restarts."""


@contextmanager
def _running(vapp: str, vm: str, connect: str | None) -> Iterator[tuple[Host, DomainState]]:
    """The host and the domain of a running VM. Raises UsageError if the VM does not run, or does
    not exist; then the hint names the VMs of the vApp.
    """
    with open_home(connect, vapp) as fleet:
        host = fleet.home
        domain = observe_domain(host, f"{vapp}.{vm}")
        if domain is None or not domain.is_of(vapp):
            names = [found.vm for found in observe_vapp(host, vapp).domains if found.is_of(vapp)]
            hint = (
                f"There are: {', '.join(sorted(names))}."
                if names
                else "vcloud list shows the vApps."
            )
            raise UsageError(f"there is no VM '{vapp}/{vm}' on {host.name}", hint)
        if not domain.running:
            raise UsageError(
                f"'{vapp}/{vm}' does not run",
                f"`vcloud start {vapp}/{vm}` starts it, and so does `vcloud up`.",
            )
        yield host, domain


def execute_in(
    vapp: str, vm: str, argv: Sequence[str], connect: str | None, stdin: bytes, timeout: int
) -> Executed:
    """Runs a command in a VM through its guest agent, for at most `timeout` seconds."""
    with _running(vapp, vm, connect) as (host, domain):
        return machines.agent_of(host, domain.name).execute_at_length(
            list(argv), stdin=stdin, timeout=timeout
        )


def ssh_into(
    vapp: str,
    vm: str,
    user: str,
    argv: Sequence[str],
    connect: str | None,
    options: Sequence[str] = (),
) -> int:
    """Runs the system's ssh over a channel of the hypervisor. `options` are more options of ssh.
    Returns ssh's exit code. Raises as `login` does.
    """
    with login(vapp, vm, user, connect, options) as command:
        return subprocess.call(with_command(command, argv))


def with_command(ssh: Sequence[str], argv: Sequence[str]) -> list[str]:
    """The command of ssh, with the one that it runs in the VM. After `--`, ssh takes nothing of that for
    an option of its own, such as one that starts a program here.
    """
    return [*ssh, "--", *argv] if argv else [*ssh]


@contextmanager
def login(
    vapp: str, vm: str, user: str, connect: str | None, options: Sequence[str] = ()
) -> Iterator[list[str]]:
    """The command of the system's ssh that logs in to a VM over a channel of the hypervisor, without
    what it runs there.

    ssh checks the pinned host key of the VM, and logs in with a key that exists for this session
    only. Raises UsageError if the VM has no sshd or no pinned key.
    """
    with _running(vapp, vm, connect) as (_, domain):
        if domain.marks.role != Role.WORKLOAD:
            raise UsageError(
                f"'{vapp}/{vm}' is an appliance, which has no sshd",
                f"Use: vcloud exec {vapp}/{vm} -- COMMAND, or vcloud console {vapp}/{vm}.",
            )
        if not domain.marks.host_key:
            raise UsageError(
                f"no host key is pinned for '{vapp}/{vm}'",
                "`vcloud up` finishes the VM and pins its key.",
            )
        pinned = domain.marks.host_key
    with tempfile.TemporaryDirectory(prefix="vcloud-ssh-") as folder:
        yield _ssh_argv(Path(folder), vapp, vm, user, options, connect, pinned)


def _ssh_argv(
    folder: Path,
    vapp: str,
    vm: str,
    user: str,
    options: Sequence[str],
    connect: str | None,
    pinned: str,
) -> list[str]:
    key, known = folder / "key", folder / "known_hosts"
    subprocess.run(
        ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "vcloud", "-f", str(key)],
        check=True,
        stdin=subprocess.DEVNULL,
    )
    alias = f"{vapp}.{vm}"
    known.write_text(f"{alias} {pinned}\n")
    proxy = [
        sys.executable,
        "-m",
        "vcloud",
        "_channel",
        vapp,
        vm,
        str(key) + ".pub",
        *(("--connect", connect) if connect else ()),
    ]
    # The user's own ssh_config is left out (-F /dev/null, ControlPath none). It could offer other
    # keys, trust other hosts, or use another open connection.
    settings = {
        "HostKeyAlias": alias,
        "UserKnownHostsFile": str(known),
        "GlobalKnownHostsFile": "/dev/null",
        "StrictHostKeyChecking": "yes",
        "IdentityFile": str(key),
        "IdentitiesOnly": "yes",
        # A hostile VM must not ask the user for a password.
        "PreferredAuthentications": "publickey",
        "ControlPath": "none",
        "ConnectTimeout": "120",
        "GatewayPorts": "no",
        "ExitOnForwardFailure": "yes",
        "ProxyCommand": shlex.join(proxy).replace("%", "%%"),
    }
    flags = [part for name, value in settings.items() for part in ("-o", f"{name}={value}")]
    return ["ssh", "-F", "/dev/null", *flags, *options, "-l", user, alias]


def forwarding_options(forwards: Sequence[Forward], *, only: bool, told: str = "") -> list[str]:
    """The options of ssh for these forwarded ports. With `only`, nothing is run in the VM. ssh prints
    the text `told` on stdout when it listens.
    """
    options = [part for forward in forwards for part in forward.argv]
    if told:
        said = shlex.join(["printf", "%s\\n", told]).replace("%", "%%")
        options += ["-o", "PermitLocalCommand=yes", "-o", f"LocalCommand={said}"]
    return [*options, "-N"] if only else options


def pump(vapp: str, vm: str, key: Path, connect: str | None) -> None:
    """Carries stdin and stdout to and from a new sshd in the VM. The sshd lets in the public key in
    the file `key`.
    """
    with _running(vapp, vm, connect) as (host, domain):
        agent = machines.agent_of(host, domain.name)
        allowed = authorize(agent, KEY_FOLDER, key.read_text())
        try:
            serve_proxy(host, domain.name, Sshd(allowed, addresses=_addresses(host, vapp, vm)))
        except BaseException:
            # The user must see the first error, not one of this clean-up.
            with suppress(GuestError):
                agent.execute(["rm", "-f", allowed])
            raise
        # Now the key of this session cannot be used any more.
        agent.execute(["rm", "-f", allowed])


def _addresses(host: Host, vapp: str, vm: str) -> tuple[str, ...]:
    """The VM's own addresses, and its name, by the manifest; empty where there is none."""
    manifest = read_manifest(host, vapp)
    known = manifest.vm(vm) if isinstance(manifest, Manifest) else None
    if known is None:
        return ()
    both = (address for nic in known.nics for address in (nic.address4, nic.address6))
    return (vm, *(str(address) for address in both if address is not None))


def attach_console(vapp: str, vm: str, connect: str | None) -> None:
    """Connects this terminal with the serial console of a VM."""
    with _running(vapp, vm, connect) as (host, domain):
        console.attach(host, domain.name)
