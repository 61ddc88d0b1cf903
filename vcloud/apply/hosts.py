"""Prepares a host and writes it into the inventory (`vcloud host add`), or takes it out (`host remove`).

The inventory is written last: a host that stands in it was prepared, and libvirt there asks vcloud's
hook. Whatever breaks off before, the same command goes on from there.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from vcloud.enforce.install import hook_digest, wanted_on
from vcloud.errors import HostError, Problem, RefusedError, UnreachableError, UsageError
from vcloud.hosts.connection import open_host
from vcloud.hosts.inventory import HostRef, labels_in, ref_of_uri
from vcloud.hosts.inventory_file import (
    InventoryFile,
    add_host,
    inventory_path,
    read_inventory,
    remove_host,
)
from vcloud.hosts.manifests import vapp_names
from vcloud.hosts.operator_key import load_operator
from vcloud.hosts.preparing import do_steps, look_at
from vcloud.hosts.shell import open_shell
from vcloud.hosts.tenancy import NOBODY, ask_hook, residents_of
from vcloud.hosts.uri_aliases import uri_named
from vcloud.plan.preparation import SOCKETS, SeenHost, Step, Wanted, left_of, steps_of, why_not
from vcloud.spec.types import HOST_NAME
from vcloud.tenancy import Terms

SSH_PORT = 22


@dataclass(frozen=True, slots=True)
class NewHost:
    """A host that somebody wants to add, and what is to be done for it."""

    inventory: InventoryFile
    ref: HostRef
    stands: bool
    """Whether the inventory has it."""
    steps: tuple[Step, ...]
    wanted: Wanted
    """What this release installs there."""

    @property
    def left(self) -> tuple[Step, ...]:
        return left_of(self.steps)


def look_at_new_host(
    name: str,
    uri: str,
    labels: Sequence[str],
    operator_key: Path | None,
    ssh_config: Path | None,
) -> NewHost:
    """What is to be done to add a host. Changes nothing.

    Raises:
        UsageError: a value is wrong, or another host has the name or the URI.
        SpecError: the inventory has problems.
        HostError: the host cannot be reached.
        RefusedError: vcloud cannot prepare it.
    """
    ref = _read(name, uri, labels, operator_key, ssh_config)
    inventory = read_inventory(inventory_path())
    known = inventory.named(ref.name)
    _refuse_taken(ref, known, inventory)
    wanted = _wanted(ref.operator_key)
    ref = known or ref
    steps = _steps(ref, wanted)
    return NewHost(inventory, ref, known is not None, steps, wanted)


def _read(
    name: str,
    uri: str,
    labels: Sequence[str],
    operator_key: Path | None,
    ssh_config: Path | None,
) -> HostRef:
    """The host that the command line describes. Raises UsageError that names all that is wrong."""
    wrong: list[UsageError] = []
    ref = HostRef(
        "",
        "",
        ssh_config.expanduser().absolute() if ssh_config else None,
        operator_key=operator_key.expanduser().absolute() if operator_key else None,
    )
    try:
        ref = replace(ref, name=HOST_NAME.parse(name))
    except UsageError as error:
        wrong.append(error)
    try:
        ref = replace(ref, uri=_checked(uri_named(uri)))
    except UsageError as error:
        wrong.append(error)
    try:
        ref = replace(ref, labels=labels_in(labels))
    except UsageError as error:
        wrong.append(error)
    if wrong:
        hints = dict.fromkeys(error.hint for error in wrong if error.hint)
        raise UsageError("; ".join(error.what for error in wrong), " ".join(hints))
    return ref


def make_host(new: NewHost, report: Callable[[str], None]) -> None:
    """Does what is left to do. `report` is called with one sentence before each command.

    Raises HostError that says what was done, where it broke off, and the next command. UsageError
    where the inventory could not be written.
    """
    again = _again(new)
    try:
        if new.left:
            if left_of(_steps(new.ref, new.wanted)) != new.left:
                raise HostError(f"{new.ref.name} has changed since what would be done was shown")
            shell = open_shell(new.ref)
            try:
                do_steps(shell, new.ref.name, new.steps, report)
            finally:
                shell.close()
            # Root may have set other limits for logins in a way that counts first.
            left = [one for one in left_of(_steps(new.ref, new.wanted)) if one.name != "limits"]
            if left:
                raise HostError(
                    f"{new.ref.name} is still not prepared: {'; '.join(step.missing for step in left)}"
                )
        _try_out(new.ref)
    except HostError as error:
        here = "" if new.stands else f" {new.ref.name} does not stand in the inventory yet."
        raise HostError(error.what, f"{error.hint}{here} To go on: {again}".strip()) from None
    if not new.stands:
        add_host(new.inventory, new.ref)


def removed_host(name: str, *, forget: bool) -> tuple[HostRef, Path, Path | None]:
    """Takes a host out of the inventory. Gives the host, the inventory, and its new name where it was
    the last host. `forget`: the host is not asked what stands there.

    Raises:
        UsageError: there is no such host, or the file cannot be changed.
        RefusedError: vApps stand there.
        UnreachableError: the host cannot be asked.
    """
    inventory = read_inventory(inventory_path())
    ref = inventory.named(name)
    if ref is None:
        names = ", ".join(host.name for host in inventory.hosts) or "no hosts"
        raise UsageError(f"there is no host '{name}' in {inventory.path}, which has {names}")
    if not forget and (vapps := _vapps_on(ref)):
        raise RefusedError(
            (
                Problem(
                    str(inventory.path),
                    0,
                    f"hosts.{name}",
                    f"vApps stand on {name}: {', '.join(vapps)}",
                    f"Remove them first, with their data disks: vcloud down {vapps[0]} --connect {name}.",
                ),
            )
        )
    return ref, inventory.path, remove_host(inventory, name)


def _vapps_on(ref: HostRef) -> list[str]:
    try:
        with open_host(ref) as host:
            running = {one.vapp for one in residents_of(host) if isinstance(one, Terms)}
            return sorted({*vapp_names(host), *running})
    except HostError as error:
        raise UnreachableError(
            f"{ref.name} cannot be asked which vApps stand there: {error.what}",
            f"{error.hint} If the host is gone for good: vcloud host remove {ref.name} --forget. "
            "Then no command finds the vApps that stand there, and if it comes back, they are still there.",
        ) from None


def _checked(uri: str) -> str:
    """The URI of a host that can be prepared. Raises UsageError."""
    parts = urlsplit(ref_of_uri(uri).uri)
    way_out = "Write qemu+ssh://root@HOST/system."
    if parts.password:
        raise UsageError("a URI with a password would put it into a file", way_out)
    local = parts.scheme == "qemu" and not parts.hostname
    if not local and not (parts.scheme == "qemu+ssh" and parts.hostname):
        raise UsageError(f"'{uri}' does not lead to a host over SSH", way_out)
    if parts.path != "/system" or parts.fragment:
        raise UsageError(f"'{uri}' does not name the libvirt of the whole system", way_out)
    if "no_verify" in parse_qs(parts.query, keep_blank_values=True):
        raise UsageError(
            f"'{uri}' says that nobody looks at the host's key (no_verify)", "Leave that part out."
        )
    return uri


def _refuse_taken(ref: HostRef, known: HostRef | None, inventory: InventoryFile) -> None:
    """Raises UsageError where the inventory has the name or the URI for something else."""
    other = next(
        (host for host in inventory.hosts if host.name != ref.name and _place(host) == _place(ref)),
        None,
    )
    if other is not None:
        raise UsageError(
            f"{inventory.path} has this host already, as '{other.name}' ({other.uri})",
            f"Use that name. To give it another: vcloud host remove {other.name}, then this command again.",
        )
    if known is None:
        return
    differs = [
        f"{what} {old}, not {new}"
        for what, old, new, given in (
            ("its URI is", known.uri, ref.uri, True),
            ("its labels are", _told(known), _told(ref), bool(ref.labels)),
            ("its ssh_config is", known.ssh_config, ref.ssh_config, bool(ref.ssh_config)),
            ("its operator's key is", known.operator_key, ref.operator_key, bool(ref.operator_key)),
        )
        if given and old != new
    ]
    if differs:
        raise UsageError(
            f"'{ref.name}' stands in {inventory.path} with other values: {'; '.join(differs)}",
            "Correct them in that file, or choose another name.",
        )


def _told(ref: HostRef) -> str:
    return " ".join(f"{key}={value}" for key, value in sorted(ref.labels)) or "none"


def _place(ref: HostRef) -> tuple[str, int, str]:
    """What is one host for two URIs."""
    parts = urlsplit(ref.uri)
    config = str(ref.ssh_config or "")
    return (parts.hostname or "").lower(), parts.port or SSH_PORT, config


def _wanted(key: Path | None) -> Wanted:
    if key is None:
        return wanted_on()
    operator = load_operator(key)
    return wanted_on(operator.line, operator.fingerprint)


def _steps(ref: HostRef, wanted: Wanted) -> tuple[Step, ...]:
    """All steps of the host. Raises HostError, and RefusedError where it cannot be prepared."""
    shell = open_shell(ref)
    try:
        seen = look_at(shell, wanted, may_ask_sudo=True)
    finally:
        shell.close()
    seen = replace(seen, hook_answers=_hook_answers(ref, seen, wanted))
    steps = steps_of(seen, wanted)
    if problems := tuple(why_not(seen, steps)):
        raise RefusedError(
            tuple(
                Problem(ref.uri, 0, "", f"{ref.name} cannot be prepared: {what}", hint)
                for what, hint in problems
            )
        )
    return steps


def _hook_answers(ref: HostRef, seen: SeenHost, wanted: Wanted) -> bool | None:
    """Whether libvirt asks the hook; None where it cannot be found out yet."""
    if wanted.hook.path not in seen.found or not _listens(seen):
        return None
    try:
        with open_host(ref) as host:
            return ask_hook(host, NOBODY).exists
    except HostError:
        return None


def _listens(seen: SeenHost) -> bool:
    return any(socket in seen.found for socket in SOCKETS.values())


def _try_out(ref: HostRef) -> None:
    """Raises HostError where libvirt there does not answer, or does not ask this release's hook."""
    with open_host(ref) as host:
        answer = ask_hook(host, NOBODY)
    if not answer.exists:
        raise HostError(
            f"libvirt on {ref.name} does not ask the hook",
            f"On {ref.name}, as root: systemctl restart libvirtd.",
        )
    if not answer.knows:
        raise HostError(f"the hook of {ref.name} refuses every VM of a vApp: {answer.refusal}")
    if answer.digest != hook_digest():
        raise HostError(f"the hook of {ref.name} is not that of this release")


def _again(new: NewHost) -> str:
    argv = ["vcloud", "host", "add", new.ref.name, new.ref.uri]
    if not new.stands:
        argv += [word for key, value in new.ref.labels for word in ("--label", f"{key}={value}")]
        argv += ["--ssh-config", str(new.ref.ssh_config)] if new.ref.ssh_config else []
        argv += ["--operator-key", str(new.ref.operator_key)] if new.ref.operator_key else []
    return shlex.join(argv)
