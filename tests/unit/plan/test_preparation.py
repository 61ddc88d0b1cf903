"""What a host still needs, judged from what was seen of it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from vcloud.plan.preparation import (
    LOGINS,
    OPERATORS,
    PACKAGES,
    POOL_FOLDER,
    SOCKETS,
    OwnFile,
    Release,
    SeenFile,
    SeenHost,
    Step,
    Wanted,
    folders_above,
    left_of,
    looked_at,
    packages_for,
    steps_of,
    why_not,
)

HOOK = OwnFile("/etc/libvirt/hooks/qemu.d/vcloud", b"hook", 0o755, "/etc/libvirt/hooks/vcloud.new")
REPORTER = OwnFile("/usr/local/libexec/vcloud/r", b"reporter", 0o755, "/usr/local/libexec/r.new")
RULE = OwnFile("/etc/sudoers.d/vcloud", b"rule", 0o440, "/etc/sudoers.d/vcloud.new", ("visudo",))
WANTED = Wanted(HOOK, REPORTER, RULE)
TRUSTING = replace(WANTED, operator="vcloud ssh-ed25519 KEY\n", fingerprint="SHA256:x")
APT = "apt-get -o DPkg::Lock::Timeout=120 -o DPkg::Options::=--force-confold"
FOLDER = SeenFile("directory", 0, 0o755)
TWELVE = Release("debian", "12", "Debian 12")


def standing(file: OwnFile) -> SeenFile:
    return SeenFile("regular file", 0, file.mode, file.digest)


PLAIN = SeenHost("root", 0, release=TWELVE, architecture="amd64", packages={}, logins=(10, 10))
"""A host as Debian's installer leaves it."""
READY = replace(
    PLAIN,
    packages=dict.fromkeys(PACKAGES, "ii"),
    files={
        **{path: FOLDER for file in WANTED.files for path in folders_above(file.path)},
        **{file.path: standing(file) for file in WANTED.files},
        POOL_FOLDER: SeenFile("directory", 0, 0o711),
        SOCKETS["libvirtd"]: SeenFile("socket", 0, 0o666),
    },
    logins=(LOGINS, LOGINS),
    hook_answers=True,
)


def left(seen: SeenHost, wanted: Wanted = WANTED) -> list[str]:
    return [step.name for step in left_of(steps_of(seen, wanted))]


def named(seen: SeenHost, name: str, wanted: Wanted = WANTED) -> Step:
    (step,) = (one for one in steps_of(seen, wanted) if one.name == name)
    return step


def without(seen: SeenHost, path: str) -> SeenHost:
    return replace(seen, files={key: one for key, one in seen.found.items() if key != path})


def with_file(path: str, found: SeenFile) -> SeenHost:
    return replace(READY, files={**READY.found, path: found})


def test_a_plain_host_needs_everything_in_this_order() -> None:
    assert left(PLAIN) == [
        "packages",
        "libvirt",
        "pool folder",
        "hook",
        "reporter",
        "limits",
        "restart",
    ]
    assert [*why_not(PLAIN, steps_of(PLAIN, WANTED))] == []


def test_a_prepared_host_needs_nothing() -> None:
    assert left(READY) == []
    assert all(not step.commands for step in steps_of(READY, WANTED))


def test_exactly_the_missing_packages_are_installed() -> None:
    seen = replace(READY, packages=dict.fromkeys(PACKAGES, "ii") | {"nftables": "rc", "sudo": "un"})
    step = named(seen, "packages")
    assert [str(command) for command in step.commands] == [
        f"{APT} update",
        f"env DEBIAN_FRONTEND=noninteractive {APT} install -y --no-install-recommends nftables sudo",
    ]
    assert left(seen) == ["packages"]
    assert left(replace(READY, packages=dict.fromkeys(PACKAGES, "hi"))) == [], "held, and installed"


@pytest.mark.parametrize("state", ["iU", "iF", "iH", "iW", "it"])
def test_what_a_broken_off_installation_left_is_configured_first(state: str) -> None:
    seen = replace(READY, packages=dict.fromkeys(PACKAGES, "ii") | {"qemu-utils": state})
    assert named(seen, "packages").commands[0].argv == ("dpkg", "--configure", "-a")


def test_each_release_has_the_packages_of_its_libvirt() -> None:
    thirteen = Release("debian", "13", "Debian 13")
    assert "libvirt-daemon-driver-nwfilter" not in packages_for(TWELVE)
    assert "libvirt-daemon-driver-nwfilter" in packages_for(thirteen)
    assert "libvirt-daemon-plugin-lockd" not in packages_for(thirteen)
    assert "libvirt-daemon-plugin-lockd" in packages_for(thirteen, shared=True)


@pytest.mark.parametrize(
    ("found", "stands"),
    [
        (standing(HOOK), True),
        (replace(standing(HOOK), digest="0" * 64), False),
        (replace(standing(HOOK), mode=0o775), False),
        (replace(standing(HOOK), mode=0o644), False),
        (replace(standing(HOOK), uid=1000), False),
        (SeenFile("directory", 0, 0o755), False),
        (replace(standing(HOOK), digest=""), None),
    ],
)
def test_a_hook_counts_only_as_vcloud_writes_it(found: SeenFile, stands: bool | None) -> None:
    assert named(with_file(HOOK.path, found), "hook").done is stands


def test_libvirt_is_restarted_where_it_has_not_seen_the_hook() -> None:
    """libvirt looks for hooks when its daemon starts. A newer hook in the same place is seen at once."""
    assert left(without(replace(READY, hook_answers=None), HOOK.path)) == ["hook", "restart"]
    assert left(replace(READY, hook_answers=False)) == ["restart"]
    older = with_file(HOOK.path, replace(standing(HOOK), digest="0" * 64))
    assert left(older) == ["hook"]


def test_the_daemon_that_has_the_vms_is_restarted() -> None:
    modular = replace(
        with_file(SOCKETS["virtqemud"], SeenFile("socket", 0, 0o666)), hook_answers=False
    )
    assert str(named(modular, "restart").commands[0]) == "systemctl restart virtqemud.service"
    assert "libvirtd" in str(named(replace(READY, hook_answers=False), "restart").commands[0])


def test_a_file_is_judged_beside_its_place_and_put_there_in_one_step() -> None:
    step = named(without(READY, RULE.path), "reporter")
    rule = [command.argv for command in step.commands if RULE.beside in command.argv]
    assert rule == [
        ("install", "-m", "440", "-o", "root", "-g", "root", "/dev/stdin", RULE.beside),
        ("sync", RULE.beside),
        ("visudo", RULE.beside),
        ("mv", "-f", "-T", RULE.beside, RULE.path),
    ]
    assert not [command for command in step.commands if RULE.path in command.argv[:-1]]


def test_a_key_that_is_to_be_trusted_comes_after_the_others() -> None:
    assert "operator" not in left(READY)
    assert left(READY, TRUSTING) == ["operator"]
    others = replace(READY, operators="# ours\nvcloud ssh-ed25519 OTHER")
    (text,) = {one.stdin for one in named(others, "operator", TRUSTING).commands if one.stdin}
    assert text == b"# ours\nvcloud ssh-ed25519 OTHER\nvcloud ssh-ed25519 KEY\n"
    assert named(others, "operator", TRUSTING).commands[-1].argv[-1] == OPERATORS
    assert left(replace(others, trusted=frozenset({"SHA256:x"})), TRUSTING) == []


def test_a_pool_that_others_may_have_needs_virtlockd_and_another_does_not() -> None:
    shared = replace(READY, filesystem="nfs4", has_lock_manager=False)
    assert left(shared) == ["virtlockd", "restart"]
    assert left(replace(shared, has_lock_manager=True)) == []
    assert left(replace(shared, has_lock_manager=None)) == [], "nobody could look"
    assert left(replace(shared, filesystem="ext2/ext3")) == []


def test_sshd_s_limits_are_raised_and_never_lowered() -> None:
    assert left(replace(READY, logins=(LOGINS, 10))) == ["limits"]
    assert left(replace(READY, logins=(5 * LOGINS, LOGINS))) == []
    assert left(replace(READY, logins=None)) == []


def test_a_user_with_sudo_prepares_and_joins_the_group() -> None:
    ann = replace(READY, user="ann", uid=1000, sudo=True, packages={})
    assert left(ann) == ["packages", "group"]
    commands = [one.argv for step in steps_of(ann, WANTED) for one in step.commands]
    assert all(argv[:2] == ("sudo", "-n") for argv in commands)
    assert ("sudo", "-n", "usermod", "-aG", "libvirt", "ann") in commands
    assert left(replace(ann, groups=frozenset({"libvirt"}))) == ["packages"]


def test_why_a_host_cannot_be_prepared_is_told_all_at_once() -> None:
    writable = {**PLAIN.found, "/usr/local": SeenFile("directory", 0, 0o775)}
    seen = replace(
        PLAIN, user="ann", uid=1000, files=writable, release=Release("alpine", "3", "Alpine")
    )
    problems = dict(why_not(seen, steps_of(seen, WANTED)))
    assert [*problems] == [
        "'ann' is not root there, and may not become root by sudo without a password",
        "it runs Alpine, and vcloud prepares Debian 12 and 13 only",
        "others than root may write to '/usr/local', so nothing that runs as root is installed below it",
    ]
    assert all(problems.values())


@pytest.mark.parametrize(
    "release", [None, Release("debian", "11", "Debian 11"), Release("debian", "", "Debian sid")]
)
def test_another_release_is_refused_and_gets_no_packages(release: Release | None) -> None:
    seen = replace(PLAIN, release=release)
    assert named(seen, "packages").done is None
    assert "packages" not in left(seen)
    assert len([*why_not(seen, steps_of(seen, WANTED))]) == 1


def test_another_architecture_is_refused() -> None:
    seen = replace(PLAIN, architecture="riscv64")
    ((what, _),) = why_not(seen, steps_of(seen, WANTED))
    assert "riscv64" in what


def test_who_sees_less_is_told_of_nothing_that_may_be_there() -> None:
    """An ordinary user may not look into some folders."""
    ann = replace(
        without(READY, RULE.path), user="ann", uid=1000, groups=frozenset({"libvirt"}), logins=None
    )
    assert left(replace(ann, hidden=frozenset({RULE.path}))) == []
    assert left(ann) == ["reporter"]


def test_all_folders_above_what_root_runs_are_looked_at() -> None:
    assert folders_above("/a/b/c") == ("/", "/a", "/a/b")
    assert {"/", "/etc/libvirt/hooks", "/usr/local", HOOK.path} <= set(looked_at(WANTED))
