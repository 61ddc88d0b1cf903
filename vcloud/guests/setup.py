"""What vcloud does in a VM of a shipped image between its first answer and its being ready, all
through the guest agent.
"""

from __future__ import annotations

import base64
import io
import secrets
import tarfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from vcloud import untrusted
from vcloud.compile.guest.gate import wake_program, wake_values
from vcloud.compile.guest.identity import host_key_lines, woken_nic_lines
from vcloud.design.model import Vm
from vcloud.errors import GuestError
from vcloud.hosts.agent import Agent
from vcloud.untrusted import UnreadableError

GUEST = "/usr/lib/vcloud/guest"
FIREWALL_LOAD = "/usr/lib/vcloud/firewall-load"
IPS_LOAD = "/usr/lib/vcloud/ips-load"
OPEN_GATE = (GUEST, "start-services")
ENTROPY_BYTES = 64
IDENTITY_TIMEOUT = 120
LOAD_TIMEOUT = 180
SERVICES_TIMEOUT = 300
RUN_TIMEOUT = 900
TAIL = 2000
"""Characters of a failed command's output that are shown."""


@dataclass(frozen=True, slots=True)
class HostKey:
    """An SSH host key. Outside the guest, only the public half is ever stored."""

    private: bytes
    public: str

    def __repr__(self) -> str:
        return f"HostKey({self.public!r}, ***)"


def new_host_key() -> HostKey:
    """A new Ed25519 key."""
    key = Ed25519PrivateKey.generate()
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.OpenSSH,
        serialization.NoEncryption(),
    )
    public = key.public_key().public_bytes(
        serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH
    )
    return HostKey(private, public.decode())


def give_identity(agent: Agent, vm: Vm, lines: Sequence[str], key: HostKey | None) -> None:
    """Gives a VM its name, addresses and files, the time and fresh entropy, in one exchange.

    Args:
        agent: the VM's guest agent.
        vm: the VM.
        lines: its identity, as `vcloud.compile.guest.identity` writes it.
        key: the host key that the VM gets; None if it keeps the one that it has.

    Raises:
        GuestError: the guest refused a line; the message has the line's number.
    """
    document = [
        f"seed {base64.b64encode(secrets.token_bytes(ENTROPY_BYTES)).decode()}",
        f"clock {time.time():.6f}",
        *((*woken_nic_lines(vm), *host_key_lines(key.private, key.public)) if key else ()),
        *lines,
    ]
    done = agent.execute(
        [GUEST, "identity"], stdin=("\n".join(document) + "\n").encode(), timeout=IDENTITY_TIMEOUT
    )
    if done.code != 0:
        # The guest names only the number of the line, because the line may hold a secret.
        raise GuestError(
            f"'{vm.name}' refused its identity: {_text(done.stdout or done.stderr)}",
            f"See its console: vcloud logs {path_of(vm)}.",
        )


def open_gate(agent: Agent, vm: Vm) -> None:
    """Lets the VM's services start, and waits until systemd has started all of them. Raises
    GuestError.
    """
    done = agent.execute(OPEN_GATE, timeout=SERVICES_TIMEOUT)
    if done.code != 0:
        raise GuestError(
            f"the services of '{vm.name}' did not start: {_text(done.stdout or done.stderr)}",
            f"Look inside: vcloud exec {path_of(vm)} -- systemctl --failed.",
        )


def open_gate_of_own_image(agent: Agent, vm: Vm) -> None:
    """Lets a VM of a user's own image that has just woken from a memory image continue its boot
    with an identity of its own.

    The VM gets fresh entropy, its machine id and the time; cloud-init does the rest. Raises
    GuestError.
    """
    values = wake_values(secrets.token_bytes(ENTROPY_BYTES), vm.machine_id, time.time())
    done = agent.execute(["python3", "-c", wake_program()], stdin=values, timeout=IDENTITY_TIMEOUT)
    if done.code != 0:
        raise GuestError(f"'{vm.name}' does not continue its boot: {_text(done.stderr)}")


def run_commands(agent: Agent, vm: Vm) -> None:
    """Runs the `run:` lines of the file in order, each with the guest's shell. Raises GuestError
    for the first that fails.
    """
    for number, line in enumerate(vm.run):
        done = agent.execute(["/bin/sh", "-c", line], timeout=RUN_TIMEOUT)
        if done.code != 0:
            raise GuestError(
                f"run[{number}] of '{vm.name}' ended with {done.code}: {_text(done.stderr or done.stdout)}",
                "Correct the line and run `vcloud up` again: the VM is then made anew.",
            )


def wait_ready(agent: Agent, vm: Vm) -> None:
    """Waits until the VM is ready as the file defines it. Raises GuestError when the time is up."""
    deadline = time.monotonic() + vm.ready.timeout
    if vm.ready.tcp:
        done = agent.execute(
            [GUEST, "wait-tcp", str(vm.ready.tcp), str(vm.ready.timeout)],
            timeout=vm.ready.timeout + 30,
        )
        if done.code != 0:
            raise GuestError(
                f"nothing listens on tcp/{vm.ready.tcp} in '{vm.name}' after {vm.ready.timeout} s",
                f"Look inside: vcloud exec {path_of(vm)} -- ss -tln.",
            )
    while vm.ready.command:
        done = agent.execute(["/bin/sh", "-c", vm.ready.command], timeout=vm.ready.timeout)
        if done.code == 0:
            return
        if time.monotonic() > deadline:
            raise GuestError(
                f"'{vm.name}' is not ready after {vm.ready.timeout} s: its command ended with {done.code}: {_text(done.stderr)}"
            )
        time.sleep(0.5)


def load_firewall(agent: Agent, ruleset: str) -> str:
    """Checks the ruleset and loads it in one transaction. Returns the digest of the ruleset that is
    loaded now.

    Raises GuestError if the firewall refuses the ruleset. The old one stays loaded then.
    """
    done = agent.execute([FIREWALL_LOAD], stdin=ruleset.encode(), timeout=LOAD_TIMEOUT)
    if done.code != 0:
        raise GuestError(
            f"the firewall refused its ruleset; the old one stays loaded: {_text(done.stderr or done.stdout)}",
            "This is a bug in vcloud: please report it with `vcloud render`.",
        )
    return _text(done.stdout)


def load_ips(agent: Agent, files: Mapping[str, bytes]) -> None:
    """Checks the IPS's files and loads them. Raises GuestError if the IPS refuses them. The old
    ones stay loaded then.
    """
    done = agent.execute([IPS_LOAD], stdin=_tar(files), timeout=LOAD_TIMEOUT)
    if done.code != 0:
        raise GuestError(
            f"the IPS refused its rules; the old ones stay loaded: {_text(done.stdout + done.stderr)}",
            "See vcloud logs and `vcloud render`.",
        )
    try:
        answer = untrusted.parse_json(done.stdout.strip().rpartition(b"\n")[2])
        loaded, failed = (
            untrusted.number(answer, "rules_loaded"),
            untrusted.number(answer, "rules_failed"),
        )
    except UnreadableError:
        raise GuestError(
            f"the IPS does not say which rules it runs with: {_text(done.stdout)}",
            "See vcloud logs.",
        ) from None
    if failed or not loaded:
        raise GuestError(
            f"the IPS runs without all of its rules: {loaded} are loaded, {failed} failed"
        )


def _tar(files: Mapping[str, bytes]) -> bytes:
    """A tar archive of the files, with paths relative to the folder that holds all of them."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for path, content in sorted(files.items()):
            entry = tarfile.TarInfo(str(PurePosixPath(path).relative_to("/etc/vcloud/ips")))
            entry.size, entry.mode = len(content), 0o644
            archive.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


def _text(output: bytes) -> str:
    """The end of a program's output, for a message."""
    return output.decode(errors="replace").strip()[-TAIL:]


def path_of(vm: Vm) -> str:
    """The VM as the command line names it: `shop/web-1`."""
    return vm.domain.replace(".", "/", 1)
