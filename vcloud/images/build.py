"""Builds an image from its recipe: installs Debian packages into a folder, makes a disk of the
folder, and adds kernel and initramfs.

Commands of recipes and the programs of their images run in a jail (`vcloud.images.jail`), in which
root has no rights on this machine. The programs that read the tree which those have written run in
the jail, too. This module itself never opens a file of the tree: it gets the bytes that it needs
through pipes.
"""

from __future__ import annotations

import lzma
import os
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath
from typing import IO

from vcloud.errors import ImageError
from vcloud.images.cache import Cache, Image, default_cache
from vcloud.images.description import Description
from vcloud.images.initramfs import load_order, make_initramfs
from vcloud.images.jail import BUILD, IMAGE, FailedCommandError, Jail
from vcloud.images.kernel import unpack_kernel
from vcloud.images.other_packages import FOLDER, other_packages
from vcloud.images.recipe import SOURCES, Recipe, digest
from vcloud.images.script import install_command
from vcloud.images.taken import (
    ARCHIVE_FORMAT,
    LARGEST_TAKEN,
    LARGEST_TEXT,
    content_of,
    unpack_files,
)
from vcloud.images.tools import check_machine
from vcloud.images.tree import add_program, add_to
from vcloud.images.way_out import LIST_ARCHIVES, machine_policy
from vcloud.programs import search_path
from vcloud.spec.types import format_size
from vcloud.values import RECIPE_ROOT

Progress = Callable[[str], None]

SUITE = "trixie"
ROOT_SIZE = format_size(RECIPE_ROOT)
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
ARCHIVES = "archives.txt"
"""The addresses of the package archives that mmdebstrap chose, in the folder of an image. Builds
that start from the image may reach these archives. Archives that its commands add in /etc/apt are
not allowed by that.
"""
GUEST_FOLDER = "usr/lib/vcloud"
KERNEL = "boot/vmlinuz"
KERNEL_PACKAGE = f"{GUEST_FOLDER}/kernel-package"
"""A file with the name and version of the kernel's package. The kernel is unpacked and not
installed, see images/base/image.yaml.
"""
CMDLINE = "console=ttyS0 quiet loglevel=3 cryptomgr.notests net.ifnames=0 lsm=lockdown,capability,landlock,yama,apparmor panic=1 root=/dev/vda rw"
"""The kernel's command line. The options save time without KVM: cryptomgr.notests skips self-tests
of 1 s, and the list of security modules has no BPF, because systemd would then take 2 s to compile
a BPF program. net.ifnames=0 keeps udev from naming the NICs, because the identity of a VM names
them.
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
"""musl does not ship the kernel's headers, so the last options add those of this machine."""
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
UNPACK = (
    *("/bin/sh", "-ec"),
    "mkdir /work/root && exec tar -C /work/root -I zstd --xattrs --xattrs-include=security.capability --numeric-owner -xpf -",
)
PACK = (
    *("tar", "-C", "/work/root", "--xattrs", "--xattrs-include=security.capability"),
    *("--numeric-owner", "-I", "zstd -1 -T0", "-cf", "-", "."),
)
"""File capabilities are extended attributes, which tar unpacks only with these options."""
CONTENT_SIZE = r"""
top=$(readlink -m "/work/root$1")
[ "$top" = "/work/root$1" ] || exit 3
[ -d "$top" ] && [ -n "$(ls -A "$top")" ] || exit 0
find "$top" -mindepth 1 -printf '%s\n' |
awk -v block="$2" '{ files++; bytes += int(($1 + block - 1) / block) * block } END { printf "%.0f %.0f\n", files, bytes }'
"""
"""Prints the number of files below a folder of the image, and the bytes of all their blocks. Exit
code 3: the path of the folder has a symbolic link.
"""
WRITE_CONTENT = 'mkdir -p "$1" && shift && mke2fs "$@" && chmod 600 "$CONTENT"'
DIED_WITH_BUILD = ("setpriv", "--pdeathsig", "KILL")
"""Put before the argv of a program of this machine, this makes the kernel end the program when this
process ends.
"""
LARGEST_FILE = 4 << 30
"""Bytes that one file of an image may have; its disk has no more."""
OTHER_PACKAGES = f"$(ls -d {FOLDER} 2>/dev/null || :)"
"""A shell expression that gives the folder if the image has it."""
OUT_OF_SPACE = ("No space left on device", "You don't have enough free space")
"""Messages of programs that ran out of disk space."""
REFUSED = ("not allowed by ruleset", "is not a public address", "is neither of HTTP nor of HTTPS")
"""Messages of `vcloud.images.way_out`."""
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


def build_anew(
    recipe: Recipe,
    packages: tuple[str, ...],
    base: Image | None,
    cache: Cache,
    progress: Progress,
) -> tuple[Image | None, Image]:
    """Builds the image of a recipe with the packages of today, even if the cache has it. `base` is the
    image that the build starts from.

    Returns the earlier image, and the image that the cache has now. The earlier image is kept if the
    new one has the same packages, or if the build fails. Raises as `build` does.
    """
    key = digest(recipe, packages)
    return cache.renew(
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
    """One build in its folder. If there is a base image, its packed root is used instead of a
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
        self.jail = Jail.make(folder / BUILD, check_machine())
        self.taken = folder / BUILD / "taken"
        """Files that were taken out of the image, at the same paths as there."""

    def run(self, key: str) -> Description:
        try:
            return self._made(key)
        except FailedCommandError as error:
            raise _failure(self.recipe, error.program, error.lines) from None

    def _made(self, key: str) -> Description:
        self._report("installing packages")
        self._install()
        self._report("writing kernel and initramfs")
        self._write_kernel_and_initramfs()
        self._report("writing the disk")
        self._pack_root()
        for mount in self.recipe.disks.values():
            self._write_content(mount)
        self._write_disk()
        self.jail.remove()
        return Description(
            self.recipe.name,
            key,
            CMDLINE,
            self.recipe.memory,
            dict(self.recipe.disks),
            source=str(self.recipe.folder),
            added=self.added,
        )

    def _install(self) -> None:
        if self.base is None:
            self._bootstrap()
        else:
            with (self.base.folder / ROOT).open("rb") as packed:
                self.jail.run(UNPACK, name="tar", data=packed)
            shutil.copy(self.base.folder / ARCHIVES, self.folder)
        policy = machine_policy(frozenset((self.folder / ARCHIVES).read_text().split()))
        commands = () if self.added else self.recipe.commands
        # In a root image, mmdebstrap has already installed the packages.
        packages = () if self.base is None else self.added or self.recipe.packages
        command = install_command(packages, (*commands, self.recipe.check), policy)
        with tempfile.TemporaryFile(dir=self.jail.folder) as files:
            self._pack_files(files)
            files.seek(0)
            self.jail.run(
                command,
                name="a command",
                view=IMAGE,
                data=files,
                way_out=policy,
                variables=policy.variables,
                largest=LARGEST_FILE,
            )

    def _bootstrap(self) -> None:
        """Makes the root from packages only. No command of a recipe runs here."""
        policy = machine_policy(local=True)
        packages = ",".join(self.recipe.packages)
        options = [f"path-exclude={path}" for path in EXCLUDED]
        options += [f"path-include={path}" for path in KEPT]
        self.jail.run(
            [
                "mmdebstrap",
                "--mode=root",
                "--variant=minbase",
                f"--include={packages}",
                *(f"--dpkgopt={option}" for option in options),
                # The jail has no /sys. The commands of the recipe need the lists of packages, and
                # `install_command` removes them in the end.
                "--skip=chroot/mount/sys,cleanup/apt/lists",
                SUITE,
                "/work/root",
            ],
            way_out=policy,
            variables=policy.variables_for_apt,
            mounts=True,
        )
        with (self.folder / ARCHIVES).open("xb") as sites:
            self.jail.run(LIST_ARCHIVES, view=IMAGE, output=sites)

    def _pack_files(self, target: IO[bytes]) -> None:
        """Writes a tar archive of the recipe's tree of files, all owned by root. For a root image
        it also has the compiled guest programs.
        """
        with tarfile.open(fileobj=target, mode="w") as archive:
            for entry in () if self.added else self.recipe.files():
                add_to(archive, entry)
            for source in SOURCES if self.base is None else ():
                add_program(archive, f"{GUEST_FOLDER}/{source}", self._compile(source))

    def _compile(self, source: str) -> Path:
        program = self.jail.folder / source
        sources = sorted(str(path) for path in (self.recipe.folder / source).glob("*.c"))
        self._run_here("musl-gcc", *COMPILER_OPTIONS, "-o", str(program), *sources)
        return program

    def _write_kernel_and_initramfs(self) -> None:
        kernel = self.folder / "vmlinux"
        wanted = ["usr/lib/modules/*/modules.dep", "usr/lib/modules/*/modules.builtin"]
        wanted += [f"{GUEST_FOLDER}/initramfs", KERNEL_PACKAGE, OTHER_PACKAGES]
        if self.base is not None and self.base.kernel is not None:
            # Both images are in one cache, so a hard link saves the space for a second kernel.
            os.link(self.base.kernel, kernel)
            self._take(wanted)
        else:
            self._take([*wanted, KERNEL], then=f"rm {KERNEL}")
            kernel.write_bytes(unpack_kernel((self.taken / KERNEL).read_bytes()))
        (self.folder / "initrd.cpio").write_bytes(self._initramfs())
        self._write_manifest()

    def _initramfs(self) -> bytes:
        try:
            # An image has exactly one kernel.
            (modules,) = (self.taken / "usr/lib/modules").iterdir()
            order = load_order(modules, self.recipe.modules)
            self._take([str(path.relative_to(self.taken)) for path in order])
            init = content_of(self.taken / GUEST_FOLDER / "initramfs")
            return make_initramfs(init, modules, self.recipe.modules)
        except (OSError, ValueError, lzma.LZMAError) as error:
            raise ImageError(
                f"the image {self.recipe.name} does not have the modules of exactly one kernel: {error}",
                "Its base brings the kernel. Correct packages and commands of the recipe.",
            ) from error

    def _take(self, names: Sequence[str], then: str = "true") -> None:
        """Takes files out of the image, with a program of the image. Shell patterns are expanded."""
        if not names:
            return
        with tempfile.TemporaryFile(dir=self.jail.folder) as archive:
            self.jail.run(
                [
                    "/bin/sh",
                    "-ec",
                    f"cd / && tar {ARCHIVE_FORMAT} -cf - -- {' '.join(names)} && {then}",
                ],
                name="tar",
                view=IMAGE,
                output=archive,
                largest=LARGEST_TAKEN,
            )
            archive.seek(0)
            unpack_files(archive, self.taken)

    def _pack_root(self) -> None:
        with (self.folder / ROOT).open("xb") as packed:
            self.jail.run(PACK, output=packed)

    def _write_disk(self) -> None:
        # lazy_itable_init=0 writes the inode tables now. Otherwise every guest would do it after
        # its first boot. -m 0 reserves no space for root.
        options = ["-q", "-t", "ext4", "-m", "0", "-J", f"size={JOURNAL_MIB}"]
        options += ["-E", "lazy_itable_init=0"]
        self.jail.run(["mke2fs", *options, "-d", "/work/root", "/work/disk.raw", ROOT_SIZE])
        with self.jail.open_file("disk.raw") as raw:
            source, target = f"/dev/fd/{raw.fileno()}", str(self.folder / "disk.qcow2")
            # Without -f, qemu-img would guess the format from bytes that a guest may have written.
            convert = ["convert", "-f", "raw", "-O", "qcow2", source, target]
            self._run_here("qemu-img", *convert, handles=(raw.fileno(),))

    def _write_content(self, mount: str) -> None:
        """Makes the first content of a data disk from the folder with this path in the image.

        The content is a small ext4 file system in the root disk. The guest copies it to a blank
        data disk and grows it there.
        """
        try:
            said = self.jail.run(["/bin/sh", "-c", CONTENT_SIZE, "size", mount, str(BLOCK)])
        except FailedCommandError:
            raise ImageError(
                f"the image {self.recipe.name} has a symbolic link in the path {mount}, where a data disk is mounted",
                "Write the path of the real folder in `disks` of the recipe.",
            ) from None
        if not said:
            return
        found, used = map(int, said[-1].split())
        content = f"/work/root/{GUEST_FOLDER}/disks{mount}.ext4"
        # A quarter is added as a margin. If even that is too little, mke2fs fails, and so does the
        # build.
        files = found * 5 // 4
        size = used * 5 // 4 + files * INODE + CONTENT_SPARE
        inodes = str(max(size // BYTES_PER_INODE, files + 64))
        kind = ["-q", "-F", "-t", "ext4", "-T", "default", "-b", str(BLOCK), "-I", str(INODE)]
        kind += ["-N", inodes, "-J", f"size={CONTENT_JOURNAL_MIB}", "-E", "lazy_journal_init=1"]
        kind += ["-d", f"/work/root{mount}", content, f"{size >> 10}k"]
        folder = str(PurePosixPath(content).parent)
        self.jail.run(
            ["/bin/sh", "-ec", WRITE_CONTENT, "content", folder, *kind],
            name="mke2fs",
            variables={"CONTENT": content},
        )

    def _write_manifest(self) -> None:
        query = ["dpkg-query", "--show", "--showformat", "${Package}=${Version}\\n"]
        with tempfile.TemporaryFile(dir=self.jail.folder) as said:
            self.jail.run(query, view=IMAGE, output=said, largest=LARGEST_TEXT)
            said.seek(0)
            installed = said.read().decode(errors="replace")
        kernel = self.taken / KERNEL_PACKAGE
        known = content_of(kernel).decode(errors="replace") if kernel.is_file() else ""
        lines = {*installed.splitlines(), *known.splitlines(), *other_packages(self.taken)}
        (self.folder / "manifest.txt").write_text("".join(f"{line}\n" for line in sorted(lines)))

    def _report(self, line: str) -> None:
        self.progress(f"{self.recipe.name}: {line}")

    def _run_here(self, program: str, *arguments: str, handles: tuple[int, ...] = ()) -> None:
        """Runs a program of this machine, outside of the jail. Its input must not come from a
        recipe.
        """
        done = subprocess.run(
            [*DIED_WITH_BUILD, program, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=os.environ | {"LC_ALL": "C.UTF-8", "PATH": search_path()},
            umask=0o022,  # the caller's umask must not decide the modes of files in the image
            pass_fds=handles,
            text=True,
            errors="replace",
            check=False,
        )
        if done.returncode:
            raise _failure(self.recipe, program, done.stdout.splitlines())


def _failure(recipe: Recipe, program: str, lines: Sequence[str]) -> ImageError:
    output = "\n".join(lines)
    if any(sign in output for sign in OUT_OF_SPACE):
        hint = "The disk is full. Free some space (`vcloud image rm` removes images), or set VCLOUD_CACHE_DIR to a folder on a larger disk."
    elif any(sign in output for sign in REFUSED):
        hint = "A build reaches public addresses by HTTP and HTTPS only. For a package archive in a local network: add it to /etc/apt of this machine, too."
    elif any(sign in output for sign in NO_NETWORK):
        hint = "The package archive cannot be reached. Check the network and /etc/apt of this machine, then try again."
    else:
        hint = f"Correct {recipe.folder / 'image.yaml'} or its files, then try again."
    end = "\n".join(f"    {line}" for line in lines[-FAILURE_LINES:])
    return ImageError(f"the image {recipe.name} cannot be built: {program} failed\n{end}", hint)
