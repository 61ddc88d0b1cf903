"""Builds an image from its recipe: Debian packages into a folder, the folder into a disk, kernel and initramfs beside it.

Everything runs as root in a mount and process namespace of its own (`unshare`) that dies with this process (`setpriv --pdeathsig`), so
that even a killed build leaves no mount and no process, only a folder that `vcloud.images.cache` removes.
"""

from __future__ import annotations

import io
import os
import shlex
import shutil
import subprocess
import tarfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from vcloud.errors import ImageError
from vcloud.images.cache import Cache, Description, Image, default_cache
from vcloud.images.initramfs import make_initramfs
from vcloud.images.kernel import unpack_kernel
from vcloud.images.recipe import SOURCES, Recipe, digest, mode_of

Progress = Callable[[str], None]

SUITE = "trixie"
ROOT_SIZE = "4G"
"""Of the root disk as the guest sees it; the file is as large as what is written."""
JOURNAL_MIB = 8
CONTENT_JOURNAL_MIB = 16
BLOCK, INODE, BYTES_PER_INODE = 4096, 256, 16384
"""Bytes; the defaults of mke2fs for a disk of usual size."""
CONTENT_ROOM = 48 << 20
"""Bytes that a data disk with content has at least for its journal and its tables."""
ROOT = "root.tar.zst"
"""The packed root in the image's folder: what images start from that are derived from this one."""
GUEST_FOLDER = "usr/lib/vcloud"
KERNEL = "boot/vmlinuz"
KERNEL_PACKAGE = f"{GUEST_FOLDER}/kernel-package"
"""Name and version of the kernel, which is unpacked and not installed: see images/base/image.yaml."""
CMDLINE = (
    "console=ttyS0 quiet loglevel=3 cryptomgr.notests net.ifnames=0 lsm=lockdown,capability,landlock,yama,apparmor panic=1 root=/dev/vda rw"
)
"""Cards are named by the identity, not by udev. There are no self-tests, which cost 1 s without KVM, and no BPF security module, for
which systemd would compile a program for 2 s."""
COMPILE = ("-static", "-Os", "-s", "-idirafter", "/usr/include", "-idirafter", "/usr/include/x86_64-linux-gnu")
"""The last two give the kernel's own headers, which musl does not bring."""
TAIL = 20
"""Lines of output that a failed build shows."""
NOT_IN_GUESTS = ("/usr/share/doc/*", "/usr/share/man/*", "/usr/share/info/*", "/usr/share/locale/*", "/usr/share/lintian/*")
IN_GUESTS = ("/usr/share/doc/*/copyright", "/usr/share/locale/locale.alias")
TOOLS = {
    "mmdebstrap": "mmdebstrap",
    "mke2fs": "e2fsprogs",
    "qemu-img": "qemu-utils",
    "musl-gcc": "musl-tools linux-libc-dev",
    "zstd": "zstd",
    "setpriv": "util-linux",
}
ISOLATED = ("setpriv", "--pdeathsig", "KILL", "unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc")
OUT_OF_SPACE = ("No space left on device", "You don't have enough free space")
NO_NETWORK = ("Temporary failure resolving", "Could not connect", "Could not resolve", "Failed to fetch", "Unable to connect")


def build(recipe: Recipe, packages: tuple[str, ...] = (), *, cache: Cache | None = None, progress: Progress = lambda _: None) -> Image:
    """The image of a recipe, from the cache or made now. `packages` are Debian packages on top of it.

    Raises ImageError with the end of the output and the way out.
    """
    cache = cache or default_cache()
    key = digest(recipe, packages)
    if image := cache.get(recipe.name, key):
        return image
    base = _base_image(recipe, packages, cache, progress)
    return cache.fill(recipe.name, key, lambda folder: _Build(recipe, packages, folder, base, progress).run(key), progress)


def _base_image(recipe: Recipe, packages: tuple[str, ...], cache: Cache, progress: Progress) -> Image | None:
    """What the build starts from: the recipe itself where packages are added to it, else the recipe's base."""
    if packages:
        return build(recipe, cache=cache, progress=progress)
    return build(recipe.base, cache=cache, progress=progress) if recipe.base else None


class _Build:
    """One build in its folder. With a base image, the base's packed root takes the place of the bootstrap."""

    def __init__(self, recipe: Recipe, added: tuple[str, ...], folder: Path, base: Image | None, progress: Progress) -> None:
        self.recipe = recipe
        self.added = added
        self.folder = folder
        self.base = base
        self.progress = progress
        self.root = folder / "root"

    def run(self, key: str) -> Description:
        _check_host()
        self._say("installing packages")
        self._install()
        self._say("writing kernel and initramfs")
        self._write_kernel()
        self._write_initramfs()
        self._say("writing the disk")
        self._finish_root()
        for mount in self.recipe.disks.values():
            self._write_content(mount)
        self._write_disk()
        self._write_manifest()
        shutil.rmtree(self.root)
        return Description(self.recipe.name, key, CMDLINE, self.recipe.memory, dict(self.recipe.disks))

    def _install(self) -> None:
        files = self.folder / "files.tar"
        files.write_bytes(self._files())
        hooks = [f"tar-in {shlex.quote(str(files))} /", *map(_in_chroot, (*self._commands(), self.recipe.check))]
        if self.base is None:
            packages = ",".join(self.recipe.packages)
            excludes = [f"path-exclude={path}" for path in NOT_IN_GUESTS] + [f"path-include={path}" for path in IN_GUESTS]
            start = ["--variant=minbase", f"--include={packages}", *(f"--dpkgopt={option}" for option in excludes)]
        else:
            packed = shlex.quote(str(self.base.folder / ROOT))
            unpack = f'zstd -dc {packed} | tar -C "$1" --xattrs --numeric-owner -x'
            resolve = 'cat /etc/resolv.conf > "$1/etc/resolv.conf"'
            start = ["--variant=custom", "--skip=update", f"--setup-hook={unpack}", f"--setup-hook={resolve}"]
            hooks = [*map(_in_chroot, self._package_commands()), *hooks]
        suite = SUITE if self.base is None else ""
        self._do(["mmdebstrap", *start, *(f"--customize-hook={hook}" for hook in hooks), suite, str(self.root)])
        files.unlink()

    def _package_commands(self) -> Iterator[str]:
        """In a derived image, which has no bootstrap to name its packages to."""
        if packages := self.added or self.recipe.packages:
            yield "apt-get -q update"
            yield f"apt-get -q install --yes --no-install-recommends -o Dpkg::Options::=--force-unsafe-io {shlex.join(packages)}"

    def _commands(self) -> tuple[str, ...]:
        return () if self.added else self.recipe.commands

    def _files(self) -> bytes:
        """The recipe's tree as an archive owned by root, and in the root image the compiled guest programs."""
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w") as archive:
            for name, path in () if self.added else self.recipe.files():
                _add(archive, name, path)
            if self.base is None:
                for source in SOURCES:
                    _add(archive, f"{GUEST_FOLDER}/{source}", self._compile(source))
        return buffer.getvalue()

    def _compile(self, source: str) -> Path:
        program = self.folder / source
        sources = sorted(str(path) for path in (self.recipe.folder / source).glob("*.c"))
        self._do(["musl-gcc", *COMPILE, "-o", str(program), *sources])
        return program

    def _write_kernel(self) -> None:
        kernel = self.folder / "vmlinux"
        if self.base is not None and self.base.kernel is not None:
            os.link(self.base.kernel, kernel)
            return
        packed = self.root / KERNEL
        kernel.write_bytes(unpack_kernel(packed.read_bytes()))
        packed.unlink()

    def _write_initramfs(self) -> None:
        (modules,) = (self.root / "usr/lib/modules").iterdir()
        init = (self.root / GUEST_FOLDER / "initramfs").read_bytes()
        (self.folder / "initrd.cpio").write_bytes(make_initramfs(init, modules, self.recipe.modules))

    def _finish_root(self) -> None:
        """Nothing of the building machine stays."""
        etc = self.root / "etc"
        (etc / "hostname").write_text("vcloud\n")
        (etc / "resolv.conf").write_text("")
        (etc / "machine-id").write_text("")
        self._do(["tar", "-C", str(self.root), "--xattrs", "--numeric-owner", "-I", "zstd -1 -T0", "-cf", str(self.folder / ROOT), "."])

    def _write_disk(self) -> None:
        raw = str(self.folder / "disk.raw")
        options = ["-q", "-t", "ext4", "-m", "0", "-J", f"size={JOURNAL_MIB}", "-E", "lazy_itable_init=0"]
        self._do(["mke2fs", *options, "-d", str(self.root), raw, ROOT_SIZE])
        self._do(["qemu-img", "convert", "-O", "qcow2", raw, str(self.folder / "disk.qcow2")])
        Path(raw).unlink()

    def _write_content(self, mount: str) -> None:
        """What a blank data disk begins with: the image's own folder of that path, as a small file system that the guest lets grow."""
        top = self.root / mount[1:]
        if top.resolve() != self.root.resolve() / mount[1:]:
            raise ImageError(f"the image {self.recipe.name} has a link in {mount}, where a data disk is mounted", "Name the folder itself.")
        if not top.is_dir() or not any(top.iterdir()):
            return
        content = self.root / f"{GUEST_FOLDER}/disks{mount}.ext4"
        content.parent.mkdir(parents=True, exist_ok=True)
        sizes = [-(-path.lstat().st_size // BLOCK) * BLOCK for path in top.rglob("*")]
        files = len(sizes) * 5 // 4
        size = sum(sizes) * 5 // 4 + files * INODE + CONTENT_ROOM
        inodes = str(max(size // BYTES_PER_INODE, files + 64))
        kind = ["-q", "-F", "-t", "ext4", "-T", "default", "-b", str(BLOCK), "-I", str(INODE), "-N", inodes]
        journal = ["-J", f"size={CONTENT_JOURNAL_MIB}", "-E", "lazy_journal_init=1"]
        self._do(["mke2fs", *kind, *journal, "-d", str(top), str(content), f"{size >> 10}k"])
        content.chmod(0o600)

    def _write_manifest(self) -> None:
        query = ["dpkg-query", f"--root={self.root}", "--show", "--showformat", "${Package}=${Version}\\n"]
        installed = subprocess.run(query, capture_output=True, text=True, check=True).stdout
        lines = {*installed.splitlines(), *(self.root / KERNEL_PACKAGE).read_text().splitlines()}
        (self.folder / "manifest.txt").write_text("".join(f"{line}\n" for line in sorted(lines)))

    def _say(self, line: str) -> None:
        self.progress(f"{self.recipe.name}: {line}")

    def _do(self, command: Sequence[str]) -> list[str]:
        """Run a program and return its output's lines. Raises ImageError with the end of its output."""
        lines: list[str] = []
        with subprocess.Popen(
            [*ISOLATED, *command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=os.environ | {"LC_ALL": "C.UTF-8", "DEBIAN_FRONTEND": "noninteractive"},
            umask=0o022,
            text=True,
            errors="replace",
        ) as process:
            try:
                for line in process.stdout or ():
                    lines.append(line.rstrip())
            except BaseException:
                process.kill()
                raise
        if process.returncode:
            raise _failure(self.recipe, command[0], lines)
        return lines


def _failure(recipe: Recipe, program: str, lines: Sequence[str]) -> ImageError:
    output = "\n".join(lines)
    if any(sign in output for sign in OUT_OF_SPACE):
        hint = "There is no space left: free some, or set VCLOUD_CACHE_DIR to a larger disk. `vcloud image rm` removes images."
    elif any(sign in output for sign in NO_NETWORK):
        hint = "The package archive cannot be reached: check the network and /etc/apt of this machine, then try again."
    else:
        hint = f"Correct {recipe.folder / 'image.yaml'} or its files, then try again."
    end = "\n".join(f"    {line}" for line in lines[-TAIL:])
    return ImageError(f"the image {recipe.name} cannot be built: {program} failed\n{end}", hint)


def _check_host() -> None:
    if os.geteuid() != 0:
        raise ImageError("building an image needs root", "Run the same command with sudo.")
    if missing := missing_tools():
        packages = " ".join(sorted(set(missing.values())))
        raise ImageError("building an image needs programs that are not installed", f"apt-get install {packages}")


def missing_tools() -> dict[str, str]:
    """Programs that building an image needs and this machine lacks, each with the Debian packages that bring it."""
    return {program: package for program, package in TOOLS.items() if shutil.which(program) is None}


def _in_chroot(command: str) -> str:
    """A hook of mmdebstrap, which hands hooks to a shell with the image's root as $1."""
    return f'chroot "$1" /bin/sh -exc {shlex.quote(command)}'


def _add(archive: tarfile.TarFile, name: str, path: Path) -> None:
    """Folders are left to be made by the unpacking: an entry of its own would replace the image's links to folders."""
    entry = archive.gettarinfo(path, name)
    entry.uid = entry.gid = 0
    entry.uname = entry.gname = "root"
    entry.mode = mode_of(path)
    with path.open("rb") if entry.isreg() else io.BytesIO() as content:
        archive.addfile(entry, content)
