"""The inventory file of the user, which `vcloud host add` and `host remove` change.

A change is written in one rename, under a lock, and only if the new text says exactly the hosts that
it should say.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from vcloud.documents.reader import LARGEST
from vcloud.errors import SpecError, UsageError
from vcloud.hosts.inventory import LABS, HostRef, configuration_folder, hosts_in
from vcloud.hosts.inventory_text import UnknownFormError, line_of, with_host, without_host
from vcloud.whole_file import write_whole


@dataclass(frozen=True, slots=True)
class InventoryFile:
    """An inventory as it was read."""

    path: Path
    content: bytes | None
    """None: there is no such file yet."""
    hosts: tuple[HostRef, ...]

    def named(self, name: str) -> HostRef | None:
        return next((host for host in self.hosts if host.name == name), None)


def inventory_path(environment: Mapping[str, str] = os.environ) -> Path:
    """The file that a change is written to: VCLOUD_INVENTORY, or ~/.config/vcloud/hosts.yaml.

    Raises UsageError while a lab runs, whose inventory vcloud reads in place of the user's own.
    """
    if named := environment.get("VCLOUD_INVENTORY"):
        return Path(named)
    own = configuration_folder(environment) / "hosts.yaml"
    labs = sorted(Path(environment.get("VCLOUD_LAB_DIR") or LABS).glob("*/hosts.yaml"))
    if labs:
        raise UsageError(
            f"the lab '{labs[0].parent.name}' runs, and while it does, its inventory counts in place of {own}",
            f"To change that file all the same: export VCLOUD_INVENTORY={own}. Or end the lab: vcloud lab down.",
        )
    return own


def read_inventory(path: Path) -> InventoryFile:
    """The inventory in a file, which need not exist. Raises UsageError, SpecError."""
    try:
        with path.open("rb") as file:
            content = file.read(LARGEST + 1)
    except FileNotFoundError:
        return InventoryFile(path, None, ())
    except OSError as error:
        raise UsageError(f"the inventory {path} cannot be read: {error.strerror}") from None
    if _has_only_comments(content):
        return InventoryFile(path, content, ())
    return InventoryFile(path, content, hosts_in(content, path))


def add_host(inventory: InventoryFile, host: HostRef) -> None:
    """Writes one host more into the file. Raises UsageError where nothing was written."""
    entry: dict[str, str | Mapping[str, str]] = {"uri": host.uri}
    if host.ssh_config:
        entry["ssh_config"] = str(host.ssh_config)
    if host.labels:
        entry["labels"] = dict(host.labels)
    if host.operator_key:
        entry["operator_key"] = str(host.operator_key)
    text = _decoded(inventory)
    _change(
        inventory,
        lambda: with_host(text, host.name, entry),
        (*inventory.hosts, host),
        line_of(host.name, entry),
    )


def remove_host(inventory: InventoryFile, name: str) -> Path | None:
    """Takes a host out of the file. An inventory without hosts is none: where it was the last one,
    the file gets another name, which is returned. Raises UsageError where nothing was changed.
    """
    left = tuple(host for host in inventory.hosts if host.name != name)
    if not left:
        with _locked(inventory):
            return _set_aside(inventory.path)
    text = _decoded(inventory)
    _change(inventory, lambda: without_host(text, name), left, "")
    return None


def _has_only_comments(content: bytes) -> bool:
    return all(not line.strip() or line.lstrip().startswith(b"#") for line in content.splitlines())


def _decoded(inventory: InventoryFile) -> str:
    # Bytes that are no UTF-8 stay what they are, and the reader then refuses them.
    return (inventory.content or b"").decode(errors="surrogateescape")


def _change(
    inventory: InventoryFile,
    edit: Callable[[], str],
    expected: tuple[HostRef, ...],
    line: str,
) -> None:
    """`line` is what a person may write into the file instead; empty: nothing is to be written."""
    with _locked(inventory):
        try:
            content = edit().encode(errors="surrogateescape")
            if hosts_in(content, inventory.path) != expected:
                raise UnknownFormError
        except (UnknownFormError, SpecError):
            raise UsageError(
                f"{inventory.path} is written in a way that vcloud does not change, so that nothing in it is lost",
                f"Write this below `hosts` by hand: {line}" if line else "Change it by hand.",
            ) from None
        _replace(inventory.path, content)


@contextlib.contextmanager
def _locked(inventory: InventoryFile) -> Iterator[None]:
    """Nobody else changes the file meanwhile. Raises UsageError where somebody has since it was read."""
    folder = inventory.path.parent
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        number = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise UsageError(f"'{folder}' cannot be used: {error.strerror}") from None
    try:
        fcntl.flock(number, fcntl.LOCK_EX)
        if read_inventory(inventory.path).content != inventory.content:
            raise UsageError(
                f"somebody else has changed {inventory.path} meanwhile",
                "Run the same command again.",
            )
        yield
    finally:
        os.close(number)


def _replace(path: Path, content: bytes) -> None:
    try:
        # A link, as people have to a folder of theirs under version control, stays one.
        write_whole(path.resolve(), content)
    except OSError as error:
        raise UsageError(f"the inventory {path} cannot be written: {error.strerror}") from None


def _set_aside(path: Path) -> Path:
    taken = (path.with_name(f"{path.name}.removed{number or ''}") for number in range(1000))
    new = next(place for place in taken if not place.exists())
    try:
        path.rename(new)
    except OSError as error:
        raise UsageError(f"the inventory {path} cannot be renamed: {error.strerror}") from None
    return new
