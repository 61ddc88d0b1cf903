"""Which hosts there are, from the command line, the environment, a running lab or an inventory file.

hosts:
  h1:
    uri: qemu+ssh://root@h1/system
    ssh_config: /path/of/an/ssh_config            # optional; default: ~/.ssh/config
    local_uri: qemu+unix:///system?socket=/...    # optional; the same host, for root on the same machine
    uplink:                                       # optional; default: a NAT network that vcloud makes
      network: uplink                             # or `bridge: br0`
      prefix4: 198.18.0.0/16
      gateway4: 198.18.0.1
      prefix6: "2001:db8:198:18::/64"             # optional, with gateway6
      gateway6: "2001:db8:198:18::1"
    templates: 4G                                 # optional; how much room the memory that VMs wake from may take
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

import yaml
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints, ValidationError, model_validator

from vcloud.errors import UsageError
from vcloud.spec.types import parse_size

LOCAL_URI = "qemu:///system"
LABS = Path("/var/lib/vcloud/labs")
TEMPLATES = 4 << 30
"""Bytes that the templates of a host may take, where its inventory does not say."""
EXAMPLE = "hosts: {h1: {uri: qemu+ssh://root@h1/system}}"


def _uri(text: str) -> str:
    if not urlsplit(text).scheme or any(char.isspace() or not char.isprintable() for char in text):
        raise ValueError(f"'{text}' is no libvirt URI, such as qemu+ssh://root@h1/system")
    return text


HostName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$")]
LibvirtName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.:-]{1,80}$")]
BridgeName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.-]{1,15}$")]
Uri = Annotated[str, AfterValidator(_uri)]
Size = Annotated[int, BeforeValidator(parse_size)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class UplinkConfig(_Strict):
    """The segment on which the firewalls of a host meet the outside. vcloud takes addresses from its prefixes, and makes nothing there."""

    network: LibvirtName | None = None
    """A libvirt network ..."""
    bridge: BridgeName | None = None
    """... or a bridge of the host."""
    prefix4: IPv4Network
    gateway4: IPv4Address
    prefix6: IPv6Network | None = None
    gateway6: IPv6Address | None = None

    @model_validator(mode="after")
    def _fits_together(self) -> UplinkConfig:
        if (self.network is None) == (self.bridge is None):
            raise ValueError("name a network or a bridge, and not both")
        if (self.prefix6 is None) != (self.gateway6 is None):
            raise ValueError("prefix6 and gateway6 go together")
        if self.gateway4 not in self.prefix4:
            raise ValueError(f"gateway4 {self.gateway4} is not in prefix4 {self.prefix4}")
        if self.prefix6 is not None and self.gateway6 is not None and not (self.gateway6 in self.prefix6 or self.gateway6.is_link_local):
            raise ValueError(f"gateway6 {self.gateway6} is not in prefix6 {self.prefix6}")
        if self.prefix4.prefixlen > 28:
            raise ValueError(f"prefix4 {self.prefix4} is too small: /28 is the smallest")
        return self


class _Entry(_Strict):
    uri: Uri
    local_uri: Uri | None = None
    ssh_config: Path | None = None
    uplink: UplinkConfig | None = None
    templates: Size = TEMPLATES


class _File(_Strict):
    hosts: Annotated[dict[HostName, _Entry], Field(min_length=1)]


@dataclass(frozen=True, slots=True)
class HostRef:
    """How to reach a host, and where its outside is. Nothing has been opened."""

    name: str
    uri: str
    ssh_config: Path | None = None
    """Read instead of ~/.ssh/config."""
    uplink: UplinkConfig | None = None
    """None: vcloud's own NAT network."""
    local_uri: str = ""
    """The same host's socket on this machine, for a lab's tests; empty elsewhere."""
    templates: int = TEMPLATES
    """Bytes that its templates may take."""


def load_inventory(path: Path) -> tuple[HostRef, ...]:
    """The hosts of an inventory file, in the order of the file.

    Raises:
        UsageError: the file cannot be read, or is not an inventory; names every fault.
    """
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"the inventory {path} cannot be read: {error.strerror}", "VCLOUD_INVENTORY names another one.") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UsageError(f"the inventory {path} is not YAML: {error}", f"For example: {EXAMPLE}") from None
    if not isinstance(data, dict):
        raise UsageError(f"{path} is no inventory: it holds no keys", f"For example: {EXAMPLE}")
    try:
        entries = _File.model_validate(data).hosts
    except ValidationError as error:
        faults = "\n".join(f"{path}: {fault}" for fault in _faults(error))
        raise UsageError(faults, f"For example: {EXAMPLE}") from None
    return tuple(_ref(name, entry, path.parent) for name, entry in entries.items())


def _ref(name: str, entry: _Entry, folder: Path) -> HostRef:
    config = folder / entry.ssh_config.expanduser() if entry.ssh_config else None
    return HostRef(name, entry.uri, config, entry.uplink, entry.local_uri or "", entry.templates)


def _faults(error: ValidationError) -> Iterator[str]:
    for fault in error.errors():
        where = ".".join(str(part) for part in fault["loc"] if part != "[key]")
        if fault["type"] == "extra_forbidden":
            yield f"{where}: unknown key{_nearest(str(fault['loc'][-1]), len(fault['loc']), fault['loc'])}"
        elif fault["type"] == "missing":
            yield f"{where}: is missing"
        else:
            yield f"{where + ': ' if where else ''}{fault['msg'].removeprefix('Value error, ')}"


def _nearest(key: str, depth: int, place: tuple[Any, ...]) -> str:
    model = _File if depth == 1 else UplinkConfig if "uplink" in place[2:-1] else _Entry
    found = difflib.get_close_matches(key, model.model_fields, 1, 0.5)
    return f"; did you mean '{found[0]}'?" if found else f"; known are {', '.join(model.model_fields)}"


def choose_host(connect: str | None, environment: Mapping[str, str] = os.environ) -> HostRef:
    """The one host that is meant.

    Raises:
        UsageError: as `choose_hosts`, or several hosts are there and none is named.
    """
    hosts = choose_hosts(connect, environment)
    if len(hosts) > 1:
        raise UsageError(f"there are {len(hosts)} hosts and none is named", f"Name one: --connect {'|'.join(host.name for host in hosts)}.")
    return hosts[0]


def choose_hosts(connect: str | None, environment: Mapping[str, str] = os.environ) -> tuple[HostRef, ...]:
    """The hosts that are meant: `connect` (a URI or a name of the inventory), then VCLOUD_CONNECT, LIBVIRT_DEFAULT_URI, the inventory of
    VCLOUD_INVENTORY, of the lab that is up, or the user's own; without any of them this machine.

    Raises:
        UsageError: a name that no inventory has, an inventory that is wrong, or several labs that are up.
    """
    wanted = connect or environment.get("VCLOUD_CONNECT") or environment.get("LIBVIRT_DEFAULT_URI")
    if not wanted:
        return _inventory(environment) or (ref_of_uri(LOCAL_URI),)
    if ":" not in wanted:
        return (_named(wanted, _inventory(environment)),)
    known = _inventory(environment, tolerant=True)
    return (next((host for host in known if wanted in (host.uri, host.local_uri)), ref_of_uri(wanted)),)


def ref_of_uri(uri: str) -> HostRef:
    """A host that only its URI describes.

    Raises:
        UsageError: the text is no URI.
    """
    try:
        return HostRef(urlsplit(_uri(uri)).hostname or "localhost", uri)
    except ValueError as error:
        raise UsageError(str(error), "Give a libvirt URI or the name of a host in the inventory.") from None


def _named(name: str, hosts: tuple[HostRef, ...]) -> HostRef:
    for host in hosts:
        if host.name == name:
            return host
    known = ", ".join(host.name for host in hosts)
    raise UsageError(
        f"there is no host '{name}'" + (f" in the inventory; it has {known}" if known else ", and no inventory"),
        "Give one of its names or a libvirt URI, such as qemu+ssh://root@h1/system.",
    )


def _inventory(environment: Mapping[str, str], *, tolerant: bool = False) -> tuple[HostRef, ...]:
    """The hosts of the inventory that counts; none without one. A `tolerant` look takes an unclear choice for none."""
    if named := environment.get("VCLOUD_INVENTORY"):
        return load_inventory(Path(named))
    labs = sorted(Path(environment.get("VCLOUD_LAB_DIR") or LABS).glob("*/hosts.yaml"))
    if len(labs) > 1 and not tolerant:
        names = ", ".join(path.parent.name for path in labs)
        raise UsageError(f"several labs are up: {names}", f"Name one lab's inventory: export VCLOUD_INVENTORY={labs[0]}.")
    if len(labs) == 1:
        return load_inventory(labs[0])
    configs = Path(environment.get("XDG_CONFIG_HOME") or Path(environment.get("HOME", "/")) / ".config")
    own = configs / "vcloud" / "hosts.yaml"
    return load_inventory(own) if own.is_file() and not labs else ()
