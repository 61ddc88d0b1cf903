"""Builds an image from its recipe: installs Debian packages into a folder, makes a disk of the
folder, and adds kernel and initramfs.

All programs run as root in a mount and PID namespace of their own (`unshare`). The kernel kills
them when this process ends (`setpriv --pdeathsig`). So a killed build leaves no mount and no
process, only a folder, which `vcloud.images.cache` removes.
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
"""Size of the root disk as the guest sees it. The qcow2 file takes only as much space as was
written.
"""
JOURNAL_MIB = 8
"""Size of the ext4 journal of the root disk."""
CONTENT_JOURNAL_MIB = 16
"""Size of the ext4 journal of a data disk with content."""
BLOCK, INODE, BYTES_PER_INODE = 4096, 256, 16384
"""Bytes. These are the defaults of mke2fs for a disk of ordinary size; for a small disk mke2fs
would choose smaller blocks.
"""
CONTENT_SPARE = 48 << 20
"""Bytes for the journal and the tables of a data disk with content."""
ROOT = "root.tar.zst"
"""The packed root in the folder of an image. Derived images start from it."""
GUEST_FOLDER = "usr/lib/vcloud"
KERNEL = "boot/vmlinuz"
KERNEL_PACKAGE = f"{GUEST_FOLDER}/kernel-package"
"""A file with the name and version of the kernel's package. The kernel is unpacked and not
installed, see images/base/image.yaml.
"""
CMDLINE = "console=ttyS0 quiet loglevel=3 cryptomgr.notests net.ifnames=0 lsm=lockdown,capability,landlock,yama,apparmor panic=1 root=/dev/vda rw"
"""The kernel's command line. The options save time without KVM: cryptomgr.notests skips self-tests
of 1 s, and the list of security modules lacks BPF, for which systemd would compile a program for 2
s. net.ifnames=0 is there because the identity of a VM names its NICs, and not udev.
"""
COMPILER_OPTIONS = (
    "-static",
    "-Os",
    "-s",
    "-idirafter",
    "/usr/include",
    "-idirafter",
    "/usr/include/x86_64-linux-gnu",
)
"""musl does not ship the headers of the kernel, so the last options add those of the machine."""
FAILURE_LINES = 20
"""How many lines of its output the error of a failed build shows."""
EXCLUDED = (
    "/usr/share/doc/*",
    "/usr/share/man/*",
    "/usr/share/info/*",
    "/usr/share/locale/*",
    "/usr/share/lintian/*",
)
"""dpkg does not install these files into an image, except those in `KEPT`."""
KEPT = ("/usr/share/doc/*/copyright", "/usr/share/locale/locale.alias")
TOOLS = {
    "mmdebstrap": "mmdebstrap",
    "mke2fs": "e2fsprogs",
    "qemu-img": "qemu-utils",
    "musl-gcc": "musl-tools linux-libc-dev",
    "zstd": "zstd",
    "setpriv": "util-linux",
}
"""Programs that a build needs -> the Debian packages that contain them."""
ISOLATED = (
    "setpriv",
    "--pdeathsig",
    "KILL",
    "unshare",
    "--mount",
    "--pid",
    "--fork",
    "--kill-child",
    "--mount-proc",
)
"""Command words to put before a command, see the module's docstring."""
OUT_OF_SPACE = ("No space left on device", "You don't have enough free space")
"""Messages of programs that ran out of disk space."""
NO_NETWORK = (
    "Temporary failure resolving",
    "Could not connect",
    "Could not resolve",
    "Failed to fetch",
    "Unable to connect",
)
"""Messages of apt that could not reach the package archive."""


def build(
    recipe: Recipe,
    packages: tuple[str, ...] = (),
    *,
    cache: Cache | None = None,
    progress: Progress = lambda _: None,
) -> Image:
    """The image of a recipe: from the cache, or built now. `packages` are Debian packages that are
    added to it.

    Raises ImageError, which shows the end of the failed program's output and says what to do.
    """
    cache = cache or default_cache()
    key = digest(recipe, packages)
    if image := cache.get(recipe.name, key):
        return image
    base = _base_image(recipe, packages, cache, progress)
    return cache.fill(
        recipe.name,
        key,
        lambda folder: _Build(recipe, packages, folder, base, progress).run(key),
        progress,
    )


def _base_image(
    recipe: Recipe, packages: tuple[str, ...], cache: Cache, progress: Progress
) -> Image | None:
    """The image that the build starts from. If packages are added, it is the image of the recipe
    itself, otherwise that of the recipe's base.
    """
    if packages:
        return build(recipe, cache=cache, progress=progress)
    return build(recipe.base, cache=cache, progress=progress) if recipe.base else None


class _Build:
    """One build in its folder. If there is a base image, its packed root takes the place of the
    bootstrap.
    """

    def __init__(
        self,
        recipe: Recipe,
        added: tuple[str, ...],
        folder: Path,
        base: Image | None,
        progress: Progress,
    ) -> None:
        self.recipe = recipe
        self.added = added
        self.folder = folder
        self.base = base
        self.progress = progress
        self.root = folder / "root"

    def run(self, key: str) -> Description:
        _check_host()
        self._report("installing packages")
        self._install()
        self._report("writing kernel and initramfs")
        self._write_kernel()
        self._write_initramfs()
        self._report("writing the disk")
        self._finish_root()
        for mount in self.recipe.disks.values():
            self._write_content(mount)
        self._write_disk()
        self._write_manifest()
        shutil.rmtree(self.root)
        return Description(
            self.recipe.name, key, CMDLINE, self.recipe.memory, dict(self.recipe.disks)
        )

    def _install(self) -> None:
        files = self.folder / "files.tar"
        files.write_bytes(self._files())
        hooks = [
            f"tar-in {shlex.quote(str(files))} /",
            *map(_in_chroot, (*self._commands(), self.recipe.check)),
        ]
        if self.base is None:
            packages = ",".join(self.recipe.packages)
            excludes = [f"path-exclude={path}" for path in EXCLUDED] + [
                f"path-include={path}" for path in KEPT
            ]
            start = [
                "--variant=minbase",
                f"--include={packages}",
                *(f"--dpkgopt={option}" for option in excludes),
            ]
        else:
            packed = shlex.quote(str(self.base.folder / ROOT))
            unpack = f'zstd -dc {packed} | tar -C "$1" --xattrs --numeric-owner -x'
            resolve = 'cat /etc/resolv.conf > "$1/etc/resolv.conf"'
            start = [
                "--variant=custom",
                "--skip=update",
                f"--setup-hook={unpack}",
                f"--setup-hook={resolve}",
            ]
            hooks = [*map(_in_chroot, self._package_commands()), *hooks]
        suite = SUITE if self.base is None else ""
        self._run_isolated(
            [
                "mmdebstrap",
                *start,
                *(f"--customize-hook={hook}" for hook in hooks),
                suite,
                str(self.root),
            ]
        )
        files.unlink()

    def _package_commands(self) -> Iterator[str]:
        """The commands that install packages into a derived image. In a root image mmdebstrap
        itself installs them.
        """
        if packages := self.added or self.recipe.packages:
            yield "apt-get -q update"
            yield f"apt-get -q install --yes --no-install-recommends -o Dpkg::Options::=--force-unsafe-io {shlex.join(packages)}"

    def _commands(self) -> tuple[str, ...]:
        return () if self.added else self.recipe.commands

    def _files(self) -> bytes:
        """A tar archive, owned by root, of the recipe's tree of files. In a root image also of the
        compiled guest programs.
        """
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
        self._run_isolated(["musl-gcc", *COMPILER_OPTIONS, "-o", str(program), *sources])
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
        (self.folder / "initrd.cpio").write_bytes(
            make_initramfs(init, modules, self.recipe.modules)
        )

    def _finish_root(self) -> None:
        """Removes everything that comes from the building machine, and packs the root."""
        etc = self.root / "etc"
        (etc / "hostname").write_text("vcloud\n")
        (etc / "resolv.conf").write_text("")
        (etc / "machine-id").write_text("")
        self._run_isolated(
            [
                "tar",
                "-C",
                str(self.root),
                "--xattrs",
                "--numeric-owner",
                "-I",
                "zstd -1 -T0",
                "-cf",
                str(self.folder / ROOT),
                ".",
            ]
        )

    def _write_disk(self) -> None:
        raw = str(self.folder / "disk.raw")
        # lazy_itable_init=0 writes the inode tables now. Otherwise every guest would do it after
        # its first boot. -m 0 reserves no space for root.
        options = [
            "-q",
            "-t",
            "ext4",
            "-m",
            "0",
            "-J",
            f"size={JOURNAL_MIB}",
            "-E",
            "lazy_itable_init=0",
        ]
        self._run_isolated(["mke2fs", *options, "-d", str(self.root), raw, ROOT_SIZE])
        self._run_isolated(
            ["qemu-img", "convert", "-O", "qcow2", raw, str(self.folder / "disk.qcow2")]
        )
        Path(raw).unlink()

    def _write_content(self, mount: str) -> None:
        """Makes the first content of a data disk from the image's own folder of that path.

        The content is a small ext4 file system in the root disk. The guest copies it to a blank
        data disk and grows it there.
        """
        top = self.root / mount[1:]
        if top.resolve() != self.root.resolve() / mount[1:]:
            raise ImageError(
                f"the image {self.recipe.name} has a symbolic link in the path {mount}, where a data disk is mounted",
                "Write the path of the real folder in `disks` of the recipe.",
            )
        if not top.is_dir() or not any(top.iterdir()):
            return
        content = self.root / f"{GUEST_FOLDER}/disks{mount}.ext4"
        content.parent.mkdir(parents=True, exist_ok=True)
        # A quarter more than the files take, as a margin. If even that is too little, mke2fs fails,
        # and so does the build.
        sizes = [-(-path.lstat().st_size // BLOCK) * BLOCK for path in top.rglob("*")]
        files = len(sizes) * 5 // 4
        size = sum(sizes) * 5 // 4 + files * INODE + CONTENT_SPARE
        inodes = str(max(size // BYTES_PER_INODE, files + 64))
        kind = [
            "-q",
            "-F",
            "-t",
            "ext4",
            "-T",
            "default",
            "-b",
            str(BLOCK),
            "-I",
            str(INODE),
            "-N",
            inodes,
        ]
        journal = ["-J", f"size={CONTENT_JOURNAL_MIB}", "-E", "lazy_journal_init=1"]
        self._run_isolated(
            ["mke2fs", *kind, *journal, "-d", str(top), str(content), f"{size >> 10}k"]
        )
        content.chmod(0o600)

    def _write_manifest(self) -> None:
        query = [
            "dpkg-query",
            f"--root={self.root}",
            "--show",
            "--showformat",
            "${Package}=${Version}\\n",
        ]
        installed = subprocess.run(query, capture_output=True, text=True, check=True).stdout
        lines = {*installed.splitlines(), *(self.root / KERNEL_PACKAGE).read_text().splitlines()}
        (self.folder / "manifest.txt").write_text("".join(f"{line}\n" for line in sorted(lines)))

    def _report(self, line: str) -> None:
        self.progress(f"{self.recipe.name}: {line}")

    def _run_isolated(self, command: Sequence[str]) -> list[str]:
        """Runs a program and returns the lines of its output. Raises ImageError with the last lines
        of the output.
        """
        lines: list[str] = []
        with subprocess.Popen(
            [*ISOLATED, *command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=os.environ | {"LC_ALL": "C.UTF-8", "DEBIAN_FRONTEND": "noninteractive"},
            umask=0o022,  # the caller's umask must not decide the modes of files in the image
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
        hint = "The disk is full. Free some space (`vcloud image rm` removes images), or set VCLOUD_CACHE_DIR to a folder on a larger disk."
    elif any(sign in output for sign in NO_NETWORK):
        hint = "The package archive cannot be reached. Check the network and /etc/apt of this machine, then try again."
    else:
        hint = f"Correct {recipe.folder / 'image.yaml'} or its files, then try again."
    end = "\n".join(f"    {line}" for line in lines[-FAILURE_LINES:])
    return ImageError(f"the image {recipe.name} cannot be built: {program} failed\n{end}", hint)


def _check_host() -> None:
    if os.geteuid() != 0:
        raise ImageError("building an image needs root", "Run the same command with sudo.")
    if missing := missing_tools():
        packages = " ".join(sorted(set(missing.values())))
        raise ImageError(
            f"building an image needs programs that are not installed: {', '.join(sorted(missing))}",
            f"Run: apt-get install {packages}",
        )


def missing_tools() -> dict[str, str]:
    """The programs that a build needs and that this machine lacks -> the Debian packages that
    contain them.
    """
    return {program: package for program, package in TOOLS.items() if shutil.which(program) is None}


def _in_chroot(command: str) -> str:
    """A hook for mmdebstrap that runs a command in the image. mmdebstrap runs a hook in a shell
    with the image's root as $1.
    """
    return f'chroot "$1" /bin/sh -exc {shlex.quote(command)}'


def _add(archive: tarfile.TarFile, name: str, path: Path) -> None:
    """Adds a file to the archive, without its folder.

    tar creates missing folders when it unpacks. An entry for a folder would replace a symbolic link
    of that name in the image.
    """
    entry = archive.gettarinfo(path, name)
    entry.uid = entry.gid = 0
    entry.uname = entry.gname = "root"
    entry.mode = mode_of(path)
    with path.open("rb") if entry.isreg() else io.BytesIO() as content:
        archive.addfile(entry, content)
