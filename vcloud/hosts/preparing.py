"""Looks at a host, and runs on it the steps that prepare it (`vcloud.plan.preparation`).

A plain host may have neither Python nor libvirt, so a look consists of programs that every Debian
has, each called without a shell.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

from vcloud.enforce.install import wanted_on
from vcloud.errors import HostError
from vcloud.hosts.executed import Executed
from vcloud.hosts.operators import trusted_in
from vcloud.hosts.shell import LocalShell, Shell
from vcloud.plan.preparation import (
    GROUP,
    OPERATORS,
    POOL_FOLDER,
    QEMU_CONF,
    SSHD,
    Command,
    SeenHost,
    Step,
    Wanted,
    left_of,
    looked_at,
    open_folders,
    packages_for,
    steps_of,
)
from vcloud.plan.seen_host import (
    PACKAGE_FORMAT,
    STAT_FORMAT,
    files_in,
    hidden_in,
    logins_in,
    packages_in,
    release_in,
    uid_in,
)
from vcloud.printable import on_one_line

TAIL = 300
"""Characters of a failed command's last words that are shown."""
HERE = ("hook", "reporter")
"""The steps that `vcloud doctor --fix` does on its own machine."""
LOCK_MANAGER = r"^[[:space:]]*lock_manager[[:space:]]*="


def look_at(shell: Shell, wanted: Wanted, *, may_ask_sudo: bool = False) -> SeenHost:
    """What is on a host. Changes nothing there. `may_ask_sudo`: sudo is asked whether the user may
    become root; where it refuses, it reports that to the host's root.

    Raises HostError where the host does not answer.
    """
    user, uid = _word(shell, "-un"), uid_in(shell.run(["id", "-u"]).stdout)
    asked = _if_there(shell, ["sudo", "-n", "true"]) if may_ask_sudo and uid != 0 else None
    sudo = asked is not None and asked.code == 0
    as_root = ["sudo", "-n"] if sudo else []
    release = release_in(shell.run(["cat", "/etc/os-release"]).stdout)
    paths = looked_at(wanted)
    listed = shell.run([*as_root, "env", "LC_ALL=C", "stat", "-L", "-c", STAT_FORMAT, "--", *paths])
    ours = [file.path for file in wanted.files]
    digests = shell.run([*as_root, "sha256sum", "--", *ours])
    operators = shell.run([*as_root, "cat", OPERATORS])
    seen = SeenHost(
        user,
        uid,
        sudo,
        frozenset(_word(shell, "-Gn").split()),
        release,
        files=files_in(listed.stdout, digests.stdout, paths),
        hidden=hidden_in(listed.stderr, paths),
        operators=_text(operators) if operators.code == 0 else None,
        trusted=frozenset(one.fingerprint for one in trusted_in(_text(operators))),
    )
    seen = replace(seen, filesystem=_filesystem(shell))
    return _with_programs(shell, as_root, seen)


def _with_programs(shell: Shell, as_root: list[str], seen: SeenHost) -> SeenHost:
    """The same with what dpkg, sshd and qemu.conf tell."""
    names = packages_for(seen.release, shared=seen.is_shared)
    listed = _if_there(shell, ["dpkg-query", "-W", "-f", PACKAGE_FORMAT, *names])
    limits = None
    if seen.may_be_root and not isinstance(shell, LocalShell):
        asked = _if_there(shell, [*as_root, SSHD, "-T"])
        limits = logins_in(asked.stdout) if asked else None
    manager = None
    if seen.is_shared:
        asked = shell.run([*as_root, "grep", "-Eq", LOCK_MANAGER, QEMU_CONF])
        manager = {0: True, 1: False}.get(asked.code)
    architecture = _if_there(shell, ["dpkg", "--print-architecture"])
    return replace(
        seen,
        packages=packages_in(listed.stdout) if listed else None,
        architecture=on_one_line(_text(architecture).strip()[:40]) if architecture else "",
        logins=limits,
        has_lock_manager=manager,
    )


def do_steps(shell: Shell, name: str, steps: Iterable[Step], report: Callable[[str], None]) -> None:
    """Runs the commands of all steps that are left, in their order.

    Args:
        name: the host's.
        report: is called with one sentence before each command.

    Raises HostError that says which steps are done, and which failed.
    """
    done: list[str] = []
    for step in left_of(steps):
        for command in step.commands:
            report(f"{name}: {command}")
            _run(shell, name, step, command, done)
        done.append(step.name)


def _run(shell: Shell, name: str, step: Step, command: Command, done: list[str]) -> None:
    before = f"Done before: {', '.join(done)}." if done else "Nothing was changed before it."
    try:
        ended = shell.run(command.argv, stdin=command.stdin, timeout=command.seconds)
    except HostError as error:
        raise HostError(
            f"the step '{step.name}' on {name} broke off: {error.what}", f"{before} {error.hint}"
        ) from None
    if ended.code != 0:
        said = on_one_line((ended.stderr or ended.stdout).decode(errors="replace").strip()[-TAIL:])
        raise HostError(
            f"the step '{step.name}' failed on {name}: `{command}` ended with {ended.code}: {said}",
            before,
        )


def install_here() -> tuple[str, ...]:
    """Installs the hook and the reporter on this machine, or replaces those of another release. Returns
    the paths of what it wrote. libvirt looks for hooks when it starts, so one that had none must be
    restarted.

    Raises HostError: it is not run by root, something is missing, or somebody else could change the
    programs.
    """
    shell, wanted = LocalShell("this machine"), wanted_on()
    seen = look_at(shell, wanted)
    if seen.uid != 0:
        raise HostError(
            "the hook and the reporter can be installed by root only",
            "As root: vcloud doctor --fix.",
        )
    _refuse_without(shell)
    if opened := sorted(open_folders(seen)):
        raise HostError(
            f"others than root may write to '{opened[0]}', so nothing that runs as root is installed below it",
            f"chown root {opened[0]}; chmod go-w {opened[0]}",
        )
    steps = [step for step in steps_of(seen, wanted) if step.name in HERE]
    do_steps(shell, shell.name, steps, lambda _: None)
    left = {step.name for step in left_of(steps)}
    hook = (wanted.hook.path,) if "hook" in left else ()
    return hook + ((wanted.reporter.path, wanted.rule.path) if "reporter" in left else ())


def _refuse_without(shell: LocalShell) -> None:
    """Raises HostError where something is missing that the hook or the reporter needs."""
    for argv, what, package in (
        (["test", "-d", "/etc/libvirt"], "'/etc/libvirt' is missing", "libvirt-daemon-system"),
        (
            ["grep", "-q", f"^{GROUP}:", "/etc/group"],
            f"this machine has no group '{GROUP}'",
            "libvirt-daemon-system",
        ),
        (["test", "-x", "/usr/bin/python3"], "'/usr/bin/python3' is missing", "python3"),
        (["test", "-x", "/usr/sbin/visudo"], "'visudo' is not installed", "sudo"),
    ):
        if shell.run(argv).code != 0:
            raise HostError(what, f"apt-get install {package}")


def _word(shell: Shell, option: str) -> str:
    """What id(1) prints."""
    return on_one_line(_text(shell.run(["id", option])).strip())


def _filesystem(shell: Shell) -> str:
    """The file system of the pool's folder, or of the nearest one above it that exists."""
    folder = POOL_FOLDER
    while folder:
        done = shell.run(["stat", "-f", "-L", "-c", "%T", "--", folder])
        if done.code == 0:
            return _text(done).strip()
        folder = folder.rpartition("/")[0]
    return ""


def _if_there(shell: Shell, argv: list[str]) -> Executed | None:
    """A program that the host may not have. None where it cannot be run (sh(1): 126, 127)."""
    try:
        done = shell.run(argv)
    except HostError:
        return None
    return None if done.code in (126, 127) else done


def _text(done: Executed) -> str:
    return done.stdout[: 1 << 20].decode(errors="replace")
