"""Hostile commands of a recipe, run by root on this machine: each fails, and beside it something of
the same kind that a recipe may do works.
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from tests.netns.build import tree
from tests.netns.namespaces import held
from vcloud.errors import ImageError
from vcloud.images.ids import COUNT
from vcloud.images.inside import FIRST_TO_GO, NICE
from vcloud.images.jail import IMAGE, KEPT_LINES, FailedCommandError, Jail
from vcloud.images.watch import Limits
from vcloud.images.way_out import Policy


@pytest.fixture(scope="module")
def attack(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tree.compiled(tmp_path_factory.mktemp("attack"))


@pytest.fixture(scope="module")
def jail(tmp_path_factory: pytest.TempPathFactory, attack: Path) -> Jail:
    return tree.make(tmp_path_factory.mktemp("jail") / "build", attack)


@pytest.fixture
def secret() -> Iterator[Path]:
    """A file of this machine that everybody may read, in a folder that everybody may enter."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        path = Path(folder, "secret")
        path.write_text("of this machine\n")
        yield path


@contextmanager
def listening(family: int, place: str | tuple[str, int]) -> Iterator[socket.socket]:
    """A server of this machine that says one line to everybody."""
    with socket.socket(family) as server:
        server.bind(place)
        server.listen()

        def serve() -> None:
            while True:
                try:
                    client, _ = server.accept()
                except OSError:
                    return
                with client, contextlib.suppress(OSError):
                    client.sendall(b"HTTP/1.0 200 OK\r\n\r\nof this machine\n")
                    client.shutdown(socket.SHUT_WR)
                    client.recv(4096)

        threading.Thread(target=serve, daemon=True).start()
        yield server
        server.shutdown(socket.SHUT_RDWR)


READING = [
    "cat /proc/1/root{path}",
    "cat /proc/1/cwd/..{path}",
    "cat ../../../../../..{path}",
    "mkdir /tmp/inner; chroot /tmp/inner /bin/sh -c true; cd /proc/self/fd/0/../../..; cat .{path}",
    "exec 3</; cp -r /bin /tmp/bin; chroot /tmp /bin/sh -c 'cat /proc/self/fd/3/../../..{path}; cd ../../..; cat .{path}'",
    "ln {path} /tmp/link; cat /tmp/link",
    "ln -s {path} /tmp/link; cat /tmp/link",
    "for f in /proc/[0-9]*/root; do cat $f{path}; done",
    "mount -o bind / /tmp && cat /tmp{path}",
]


@pytest.mark.parametrize("script", READING)
def test_no_file_of_the_machine_is_read(jail: Jail, secret: Path, script: str) -> None:
    assert "of this machine" not in tree.said(jail, script.format(path=secret))
    own = tree.said(jail, f"mkdir -p {secret.parent}; echo its own >{secret}; cat {secret}")
    assert own == "its own"
    assert secret.read_text() == "of this machine\n"


def test_it_is_nobody_on_this_machine(jail: Jail) -> None:
    """Its root has numbers that no user has, and its files have them too."""
    tree.said(jail, "touch /etc/made; chmod 4755 /etc/made")
    made = (jail.work / "root/etc/made").stat()
    assert made.st_uid == jail.ids.users >= COUNT
    assert made.st_gid == jail.ids.groups >= COUNT
    assert tree.said(jail, "stat -c '%u %g %a' /etc/made") == "0 0 4755"
    assert jail.folder.stat().st_mode & 0o077 == 0, "a setuid file in it is out of reach"


KERNEL = "trace memory enter disk null mount mountproc newmount tree unmount hostname sysctl messages terminal unshare users"


def test_the_kernel_refuses_what_only_root_of_the_machine_may(jail: Jail, attack: Path) -> None:
    tried = KERNEL.split()
    assert tree.said(jail, f"attack {KERNEL}").splitlines() == [f"{name} refused" for name in tried]
    # The same program does all this where it is root of the machine, in namespaces of its own. It
    # has no terminal there, either.
    with held("uts") as pid:
        enter = ["nsenter", f"--target={pid}", "--mount", "--net", "--pid", "--uts"]
        possible = [name for name in tried if name != "terminal"]
        possible[0] = "trace:1"
        done = subprocess.run([*enter, str(attack), *possible], capture_output=True, text=True)
    assert done.stdout.splitlines() == [f"{name.partition(':')[0]} done" for name in possible]


def test_processes_of_the_machine_are_neither_seen_nor_signalled(jail: Jail) -> None:
    with subprocess.Popen(["sleep", "600"]) as victim:
        heard = tree.said(
            jail, f"kill -9 {victim.pid}; attack kill:{victim.pid} trace:{victim.pid}; kill -9 -1"
        )
        assert victim.poll() is None
        assert "trace refused" in heard
        victim.kill()
    # It may signal its own.
    assert "kill done" in tree.said(jail, "sleep 600 & attack kill:$!")
    # Process 1, the shell, and those that it starts.
    assert int(tree.said(jail, "ls -d /proc/[0-9]* | wc -l")) <= 4


def test_what_it_starts_ends_with_it(jail: Jail) -> None:
    began = time.monotonic()
    tree.said(jail, "setsid nohup sleep 4711 & (sleep 4711 &) ; echo done")
    assert time.monotonic() - began < 60, "a process that holds the output was waited for"
    assert not running("sleep 4711")
    # It does run, and for as long as the command does.
    done = threading.Thread(target=tree.said, args=(jail, "sleep 4712 & mkfifo /tmp/p; cat /tmp/p"))
    done.start()
    deadline = time.monotonic() + 120
    while not running("sleep 4712"):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    with (jail.work / "root/tmp/p").open("w") as end:
        end.write("end")
    done.join()
    assert not running("sleep 4712")


def running(words: str) -> bool:
    found = False
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            found |= (
                path.read_bytes().replace(b"\0", b" ").decode(errors="replace").strip() == words
            )
        except OSError:
            continue
    return found


@pytest.mark.parametrize("script", ["yes", "cat /dev/zero"])
def test_output_without_end_is_not_kept(jail: Jail, script: str) -> None:
    kept = jail.run(["/bin/sh", "-c", f"{script} | head -c 30000000; echo; echo end"], view=IMAGE)
    assert len(kept) <= KEPT_LINES
    assert kept[-1] == "end"
    assert sum(map(len, kept)) < 1 << 20


def test_control_characters_do_not_reach_the_terminal(jail: Jail) -> None:
    assert tree.said(jail, r"printf '\033]0;owned\007 plain\n'") == " ]0;owned  plain"


def test_a_file_has_at_most_the_size_of_the_disk(jail: Jail) -> None:
    write = "dd if=/dev/zero of=/tmp/large bs=1k count={} 2>/dev/null; stat -c %s /tmp/large"
    assert tree.said(jail, write.format(2000), largest=1 << 20).splitlines()[-1] == str(1 << 20)
    assert tree.said(jail, write.format(1000), largest=1 << 20) == "1024000"
    holes = "dd if=/dev/null of=/tmp/holes bs=1 seek=1000G 2>/dev/null; stat -c %s /tmp/holes"
    assert "1073741824000" not in tree.said(jail, holes, largest=1 << 20)


def test_it_cannot_take_all_processes_of_the_machine(jail: Jail) -> None:
    limit = "grep processes /proc/self/limits"
    assert tree.said(jail, limit).split()[2:4] == ["4096", "4096"]
    assert "not permitted" in tree.said(jail, "ulimit -p 9999 || ulimit -u 9999").lower()


def test_secrets_in_the_environment_stay_with_the_user(
    jail: Jail, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VCLOUD_TEST_TOKEN", "very secret")
    heard = tree.said(jail, "env; cat /proc/*/environ | tr '\\0' '\\n'")
    assert "very secret" not in heard
    assert "HOME=/root" in heard


def test_the_loopback_of_the_machine_is_out_of_reach(jail: Jail) -> None:
    with listening(socket.AF_INET, ("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        nobody, friend = Policy(), Policy(archives=frozenset({("127.0.0.1", port)}))
        fetch = f"wget -q -O - http://127.0.0.1:{port}/"
        direct = f"http_proxy= ; {fetch}; nc -w 2 127.0.0.1 {port} </dev/null"
        for script in (direct, fetch, fetch.replace("127.0.0.1", "localhost")):
            assert "of this machine" not in tree.said(jail, script, way_out=nobody)
        assert "of this machine" in tree.said(jail, fetch, way_out=friend)
        assert "of this machine" not in tree.said(jail, direct, way_out=friend)


def test_sockets_without_a_file_are_out_of_reach(jail: Jail, attack: Path) -> None:
    name = f"vcloud-test-{os.getpid()}"
    with listening(socket.AF_UNIX, f"\0{name}"):
        assert tree.said(jail, f"attack abstract:{name}") == "abstract refused"
        here = subprocess.run([str(attack), f"abstract:{name}"], capture_output=True, text=True)
        assert here.stdout == "abstract done\n"


@pytest.mark.parametrize("name", ["proc", "dev", "run"])
@pytest.mark.parametrize("target", ["/etc", "../../../../etc", "/proc/1/root", "/work", "/"])
def test_links_in_the_place_of_its_folders_lead_to_nothing_of_the_machine(
    jail: Jail, secret: Path, name: str, target: str
) -> None:
    jail.run(["sh", "-c", f"rmdir /work/root/{name} && ln -s {target} /work/root/{name}"])
    try:
        heard = tree.said(
            jail, f"cat {secret}; ls / /usr/bin; cat /proc/1/root{secret}; cat /etc/own"
        )
    except ImageError as error:
        heard = error.what
    finally:
        jail.run(["sh", "-c", f"rm /work/root/{name} && mkdir /work/root/{name}"])
    assert "its own" in heard or f"the image has no place for /{name}" in heard
    assert "of this machine" not in heard
    assert "mmdebstrap" not in heard


def test_a_link_in_the_place_of_a_disk_is_not_read(jail: Jail, secret: Path) -> None:
    (jail.work / "disk.raw").symlink_to(secret)
    with pytest.raises(OSError, match="symbolic links"):
        jail.open_file("disk.raw")
    (jail.work / "disk.raw").unlink()
    (jail.work / "real.raw").write_text("a disk")
    with jail.open_file("real.raw") as content:
        assert content.read() == b"a disk"


def test_only_where_it_is_asked_for_a_command_may_mount(jail: Jail) -> None:
    """mmdebstrap mounts in the jail, before anything of a recipe runs."""
    assert jail.run(["sh", "-c", "mount -t tmpfs x /tmp && echo done"], mounts=True) == ["done"]
    with pytest.raises(FailedCommandError):
        jail.run(["sh", "-c", "mount -t tmpfs x /tmp && echo done"])


def test_programs_of_the_machine_cannot_be_changed(jail: Jail) -> None:
    with pytest.raises(FailedCommandError):
        jail.run(["sh", "-c", "echo owned >/etc/owned || echo owned >/usr/owned"])
    assert jail.run(["sh", "-c", "echo fine >/work/fine && cat /work/fine"]) == ["fine"]


def test_removing_a_build_removes_what_it_points_to_nowhere(
    tmp_path: Path, attack: Path, secret: Path
) -> None:
    jail = tree.make(tmp_path / "build", attack)
    tree.said(jail, f"ln -s {secret.parent} /tmp/link; mkdir -p /a/b; chmod 0 /a")
    jail.remove()
    assert not jail.folder.exists()
    assert secret.exists()


@contextmanager
def small_disk(folder: Path, size: int) -> Iterator[Path]:
    """A disk of its own in that folder, with room for 4,000 files."""
    folder.mkdir()
    options = f"size={size},nr_inodes=4000"
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "t", str(folder)], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_recipe_that_fills_the_disk_is_ended_before_it_is_full(
    tmp_path: Path, attack: Path
) -> None:
    write = "i=0; while [ $i -lt {} ]; do dd if=/dev/zero of=/tmp/$i bs=64k count=16 2>/dev/null; i=$((i+1)); sleep 0.02; done; echo written"
    with small_disk(tmp_path / "disk", 256 << 20) as disk:
        jail = tree.make(disk / "build", attack)
        jail = replace(jail, limits=Limits(spare_disk=100 << 20))
        assert tree.said(jail, write.format(8)) == "written"
        with pytest.raises(ImageError, match=r"left less than \d+ MiB free on the disk of"):
            tree.said(jail, write.format(250))
        assert not running("sleep 0.02")
        assert os.statvfs(disk).f_bavail > 0
        jail.remove()


def test_a_recipe_that_makes_files_without_end_is_ended(tmp_path: Path, attack: Path) -> None:
    write = "i=0; while [ $i -lt {} ]; do touch /tmp/$i; i=$((i+1)); done; sleep {}; echo written"
    with small_disk(tmp_path / "disk", 256 << 20) as disk:
        jail = replace(tree.make(disk / "build", attack), limits=Limits(spare_files=3000))
        assert tree.said(jail, write.format(100, 1)) == "written"
        with pytest.raises(ImageError, match="room for fewer than 3000 files"):
            tree.said(jail, write.format(1500, 60))
        jail.remove()


def test_a_recipe_that_takes_all_processes_is_ended(jail: Jail) -> None:
    """Each process is of another user: the kernel's own limit is one for each user."""
    bounded = replace(jail, limits=Limits(processes=60))
    start = "i=0; while [ $i -lt {} ]; do attack user:$((i+1)) & i=$((i+1)); done; {}"
    with pytest.raises(ImageError, match="had more than 60 processes"):
        tree.said(bounded, start.format(150, "sleep 4714"))
    assert not running("attack user 1")
    assert not running("sleep 4714")
    assert tree.said(bounded, start.format(20, "sleep 1; echo done")).endswith("done")


def test_a_recipe_that_takes_the_memory_is_ended(jail: Jail) -> None:
    available = next(
        int(line.split()[1]) << 10
        for line in Path("/proc/meminfo").read_text().splitlines()
        if line.startswith("MemAvailable")
    )
    # So much that others who end or begin meanwhile make no difference, and no more.
    bounded = replace(jail, limits=Limits(spare_memory=available - (768 << 20)))
    with pytest.raises(ImageError, match="MiB of memory to the machine"):
        tree.said(bounded, "attack eat:2048; sleep 60")
    assert tree.said(jail, "attack eat:16") == "eat done"


def test_a_recipe_that_does_not_end_is_ended(jail: Jail) -> None:
    with pytest.raises(ImageError, match=r"ran for more than 0.05 minutes"):
        tree.said(replace(jail, limits=Limits(seconds=3)), "setsid sleep 4715 & yes")
    assert not running("sleep 4715")
    assert tree.said(replace(jail, limits=Limits(seconds=600)), "echo done") == "done"


def test_programs_of_the_machine_go_before_it(jail: Jail) -> None:
    script = "read -r _ _ _ _ _ _ _ _ _ _ _ _ _ _ _ _ _ _ nice _ </proc/self/stat; echo $nice"
    told = tree.said(jail, f"{script}; cat /proc/self/oom_score_adj")
    assert told.split() == [str(min(19, os.nice(0) + NICE)), FIRST_TO_GO]
    assert Path("/proc/self/oom_score_adj").read_text().strip() != FIRST_TO_GO
