"""The steps in a VM of a shipped image from the first answer of its guest agent until its services
start. All of them use the guest agent.
"""

from __future__ import annotations

import base64
import hashlib
import io
import re
import secrets
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from vcloud import untrusted
from vcloud.compile.guest.gate import wake_program, wake_values
from vcloud.compile.guest.identity import host_key_lines, woken_nic_lines
from vcloud.compile.ips.files import FOLDER, ips_digest
from vcloud.design.model import Vm
from vcloud.design.names import path_of
from vcloud.errors import GuestError
from vcloud.hosts.agent import ROOT_SHELL, Agent
from vcloud.hosts.executed import Executed
from vcloud.untrusted import UnreadableError

GUEST = "/usr/lib/vcloud/guest"
FIREWALL_LOAD = "/usr/lib/vcloud/firewall-load"
IPS_LOAD = "/usr/lib/vcloud/ips-load"
OPEN_GATE = (GUEST, "start-services")
ENTROPY_BYTES = 64
IDENTITY_TIMEOUT = 120
LOAD_TIMEOUT = 180
DIGEST = re.compile(r"[0-9a-f]{64}")
SERVICES_TIMEOUT = 300
RUN_TIMEOUT = 900
REFUSED, UNWRITTEN, UNKEPT = 65, 73, 74
"""Exit codes of `firewall-load` and `ips-load`: the rules were refused; they could not be written, so
nothing has changed; they are in force and could not be written for the next start.
"""
BUSY, LATE = 75, 76
"""Exit codes of guest programs that must not run twice at a time: an earlier one is still running;
a later run of vcloud was here before.
"""
RUN_LOCK = "/run/vcloud-run.lock"
RUN_WAIT = 120
"""Seconds that a command waits for one that was begun before."""
UNENDED = "a command of an earlier run has not ended"
IN_TURN = f"""
umask 077
exec 9>> "$2" || exit
if ! flock -w "$3" 9; then
	echo '{UNENDED}' >&2
	exit {BUSY}
fi
/bin/sh -c "$1"
code=$?
flock -u 9
exit "$code"
"""
"""Runs a command while no other one runs. If this shell is killed, the command goes on and keeps the
lock, which it has inherited. A program that a command leaves in the background does not keep it.
"""
PATH = re.compile(r"(?:/[!-.0-~]+){1,64}")
ROOT_DISK = "/dev/vda"
"""The disk that holds the root file system of every image of a recipe, without partitions."""
RESIZE_TIMEOUT = 600
"""Seconds."""
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


def give_identity(
    agent: Agent,
    vm: Vm,
    lines: Sequence[str],
    key: HostKey | None,
    generation: int,
    now: float | None,
) -> frozenset[str]:
    """Gives a VM its name, addresses and files, the time and fresh entropy, in one exchange.
    Returns the paths of files that have changed while services ran, and for which no service was
    reloaded yet.

    Args:
        agent: the VM's guest agent.
        vm: the VM.
        lines: its identity, as `vcloud.compile.guest.identity` writes it.
        key: the host key that the VM gets; None if it keeps the one that it has.
        generation: the number of this run (`Manifest.generation`).
        now: seconds since 1970 by the host's clock; None: the guest keeps its time.

    Raises:
        GuestError: the guest refused a line, whose number is in the message; or a later run has
            already given the VM an identity.
    """
    # The entropy comes first, because until then all VMs that woke from one memory image get the
    # same random numbers. A VM that gets a key is new, so it may have woken with the NIC of a
    # memory image.
    document = [
        f"seed {base64.b64encode(secrets.token_bytes(ENTROPY_BYTES)).decode()}",
        *([f"clock {now:.6f}"] if now is not None else []),
        *((*woken_nic_lines(vm), *host_key_lines(key.private, key.public)) if key else ()),
        *lines,
    ]
    done = agent.execute(
        [GUEST, "identity", str(generation)],
        stdin=("\n".join(document) + "\n").encode(),
        timeout=IDENTITY_TIMEOUT,
    )
    _require_turn(done, f"'{vm.name}'", vm.domain)
    if done.code != 0:
        # The guest names only the number of the line, because the line may hold a secret.
        raise GuestError(
            f"'{vm.name}' refused its identity: {tail_of(done.stdout or done.stderr)}",
            f"See its console: vcloud logs {path_of(vm.domain)}.",
        )
    return changed_files(done.stdout)


def changed_files(answer: bytes) -> frozenset[str]:
    """The paths in the guest's answer, which may be hostile. A text that cannot be a path is left
    out.
    """
    lines = answer.decode("ascii", errors="replace").splitlines()
    return frozenset(
        path
        for word, _, path in (line.partition(" ") for line in lines)
        if word == "changed" and PATH.fullmatch(path)
    )


def open_gate(agent: Agent, vm: Vm) -> None:
    """Lets the VM's services start, and waits until systemd has started all of them. Raises
    GuestError.
    """
    done = agent.execute(OPEN_GATE, timeout=SERVICES_TIMEOUT)
    if done.code != 0:
        raise GuestError(
            f"the services of '{vm.name}' did not start: {tail_of(done.stdout or done.stderr)}",
            f"Look inside: vcloud exec {path_of(vm.domain)} -- systemctl --failed.",
        )


def open_gate_of_own_image(agent: Agent, vm: Vm, now: float) -> None:
    """Lets a VM of a user's own image continue its boot with its own identity, after it has woken
    from a memory image.

    The VM gets fresh entropy, its machine id and the time (`now`, in seconds since 1970); cloud-init
    does the rest. Raises GuestError.
    """
    values = wake_values(secrets.token_bytes(ENTROPY_BYTES), vm.machine_id, now)
    done = agent.execute(["python3", "-c", wake_program()], stdin=values, timeout=IDENTITY_TIMEOUT)
    if done.code != 0:
        raise GuestError(f"'{vm.name}' does not continue its boot: {tail_of(done.stderr)}")


def as_by_root(line: str) -> list[str]:
    """The argv that runs a shell line with the environment of a login shell of root. The guest
    agent itself has another umask and no HOME.
    """
    return ["/bin/sh", "-c", f"{ROOT_SHELL}; {line}"]


def in_turn(line: str, lock: str = RUN_LOCK, wait: int = RUN_WAIT) -> list[str]:
    """A shell line of the file as argv, like `as_by_root`. It waits until the line of a run that was
    killed has ended: that one goes on in the guest.
    """
    return ["/bin/sh", "-c", IN_TURN, "sh", f"{ROOT_SHELL}; {line}", lock, str(wait)]


def fill_root(agent: Agent, vm: Vm) -> None:
    """Makes the root file system of a VM of a recipe as large as its disk, while it is mounted. Where
    it is, nothing happens. cloud-init does the same in a VM with an image of the user's own.

    Raises GuestError.
    """
    done = agent.execute(["/usr/sbin/resize2fs", ROOT_DISK], timeout=RESIZE_TIMEOUT)
    if done.code != 0:
        raise GuestError(
            f"the root file system of '{vm.name}' could not grow to {vm.root >> 20} MiB: {tail_of(done.stderr or done.stdout)}",
            "Its disk has the new size, and its files are as they were. Run `vcloud up` again.",
        )


def run_line(agent: Agent, vm: Vm, line: str) -> Executed:
    """Runs a shell line of the file in the guest, in its turn. Raises GuestError where one that was
    begun before does not end.
    """
    done = agent.execute(in_turn(line), timeout=RUN_WAIT + RUN_TIMEOUT)
    # The line may end with any code by itself.
    if done.code == BUSY and done.stderr.strip() == UNENDED.encode():
        _require_turn(done, f"'{vm.name}'", vm.domain)
    return done


def run_commands(agent: Agent, vm: Vm) -> None:
    """Runs the `run:` lines of the file in order, each with the guest's shell. Raises GuestError
    for the first that fails.
    """
    for number, line in enumerate(vm.run):
        done = run_line(agent, vm, line)
        if done.code != 0:
            raise GuestError(
                f"run[{number}] of '{vm.name}' ended with {done.code}: {tail_of(done.stderr or done.stdout)}",
                "Correct the line and run `vcloud up` again: the VM is then made anew.",
            )


def load_firewall(agent: Agent, ruleset: str, generation: int) -> str:
    """Checks the ruleset and loads it in one transaction. Returns the digest of the ruleset that is
    loaded now. `generation` is the number of this run (`Manifest.generation`).

    Raises GuestError if the firewall refuses the ruleset or cannot write it, or if another run is loading one or has
    loaded a later one. Then the old ruleset stays loaded.
    """
    sent = ruleset.encode()
    done = agent.execute([FIREWALL_LOAD, str(generation)], stdin=sent, timeout=LOAD_TIMEOUT)
    require_loaded(
        done,
        "the firewall",
        agent.name,
        "This is a bug in vcloud: please report it with `vcloud render`.",
    )
    in_force, _, loaded = tail_of(done.stdout).partition("\n")
    if not DIGEST.fullmatch(in_force) or loaded != hashlib.sha256(sent).hexdigest():
        raise GuestError(
            f"the firewall does not confirm that it loaded the ruleset that it was sent: {tail_of(done.stdout)}",
            f"See its console: vcloud logs {path_of(agent.name)}.",
        )
    return in_force


def load_ips(agent: Agent, files: Mapping[str, bytes], generation: int) -> None:
    """Checks the IPS's files and loads them. `generation` is the number of this run
    (`Manifest.generation`).

    Raises GuestError if the IPS refuses the files or cannot write them, or if another run is loading files or has loaded
    later ones. Then the old files stay loaded.
    """
    done = agent.execute(
        [IPS_LOAD, str(generation)], stdin=ips_archive(files), timeout=LOAD_TIMEOUT
    )
    require_loaded(done, "the IPS", agent.name, "See vcloud logs and `vcloud render`.")
    try:
        # The JSON is the last line that ips-load prints.
        answer = untrusted.parse_json(done.stdout.strip().rpartition(b"\n")[2])
        loaded, failed = (
            untrusted.number(answer, "rules_loaded"),
            untrusted.number(answer, "rules_failed"),
        )
        digest = untrusted.text(answer, "digest")
    except UnreadableError:
        raise GuestError(
            f"the IPS does not say which rules it runs with: {tail_of(done.stdout)}",
            "See vcloud logs.",
        ) from None
    if failed or not loaded:
        raise GuestError(
            f"the IPS runs without all of its rules: {loaded} are loaded, {failed} failed"
        )
    if digest != ips_digest(files):
        raise GuestError(
            "the IPS runs with other files than it was sent",
            f"See its console: vcloud logs {path_of(agent.name)}.",
        )


def require_loaded(done: Executed, who: str, domain: str, refused: str) -> None:
    """Raises GuestError where an appliance has not loaded its rules, or cannot keep them. `refused` is
    the way out where it has refused them.
    """
    _require_turn(done, who, domain)
    said = tail_of(done.stdout + done.stderr)
    if done.code == REFUSED:
        raise GuestError(f"{who} refused its rules; the old ones stay loaded: {said}", refused)
    disk = f"Its disk may be full, or only readable after an error. Restart the VM (virsh reboot {domain}), then run `vcloud up` again. If it does not help, see its console: vcloud logs {path_of(domain)}."
    if done.code == UNWRITTEN:
        what = f"{who} could not write its new rules; the old ones stay loaded: {said}"
        raise GuestError(what, disk)
    if done.code == UNKEPT:
        what = (
            f"{who} has its new rules in force, and could not write them for its next start: {said}"
        )
        raise GuestError(what, disk)
    if done.code != 0:
        raise GuestError(
            f"{who} has not loaded its rules as it should (exit code {done.code}): {said}",
            f"`vcloud status` tells which rules are in force. See also its console: vcloud logs {path_of(domain)}.",
        )


def _require_turn(done: Executed, who: str, domain: str) -> None:
    """Raises GuestError if a guest program did nothing because of a program of another run."""
    if done.code == BUSY:
        raise GuestError(
            f"{who} is still busy with an earlier command: {tail_of(done.stderr)}",
            f"Nothing was changed there. Run `vcloud up` again; if it does not help, restart the VM: virsh reboot {domain}.",
        )
    if done.code == LATE:
        raise GuestError(
            f"{who} has already got a command from a later run of vcloud: {tail_of(done.stderr or done.stdout)}",
            f"Nothing was changed there. If no other `vcloud up` is running, a clock was set back: restart the VM (virsh reboot {domain}), then run `vcloud up` again.",
        )


def ips_archive(files: Mapping[str, bytes]) -> bytes:
    """A tar archive of the files, with paths relative to the folder that holds all of them."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for path, content in sorted(files.items()):
            entry = tarfile.TarInfo(str(PurePosixPath(path).relative_to(FOLDER)))
            entry.size, entry.mode = len(content), 0o644
            archive.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


def tail_of(output: bytes) -> str:
    """The end of a program's output, for a message."""
    return output.decode(errors="replace").strip()[-TAIL:]
