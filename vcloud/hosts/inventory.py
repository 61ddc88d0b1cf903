"""Which hosts vcloud uses. They come from the command line, the environment, a running lab or an
inventory file (hosts.yaml):

hosts:
  h1:
    uri: qemu+ssh://root@h1/system
    ssh_config: /path/of/an/ssh_config            # optional; default: ~/.ssh/config
    local_uri: qemu+unix:///system?socket=/...    # optional; the same host, for root on the same machine
    uplink:                                       # optional; default: a NAT network that vcloud creates
      network: uplink                             # or `bridge: br0`
      prefix4: 198.18.0.0/16
      gateway4: 198.18.0.1
      prefix6: "2001:db8:198:18::/64"             # optional, with gateway6
      gateway6: "2001:db8:198:18::1"
    outside:                                      # optional; what `vcloud verify` may use on the internet side
      server4: 203.0.113.10                       # a test server of yours; this or server6
      server6: "2001:db8:203::10"
      answers: [tcp/443, udp/53]                  # optional; where these servers answer (default: on every port)
      netns: vclab-outside                        # optional; a network namespace of this machine that reaches the uplink,
                                                  # from which probes of customers are sent (default: from the host)
    templates: 4G                                 # optional; disk space for memory images, which VMs wake from
    overcommit: 1.5                               # optional; VMs may be promised so many times the memory that is free
    cpu_overcommit: 4                             # optional; VMs may have so many CPUs for each processor (default: 16)
    labels: {site: eu, rack: b}                   # optional; `placement` of a vApp file asks for them
    operator_key: /path/of/a/key                  # optional; signs terms of tenancy (default: VCLOUD_OPERATOR_KEY)
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from pathlib import Path
from typing import Annotated, Final, TypeVar
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    PlainValidator,
    Strict,
    model_validator,
)

from vcloud.documents.field import FieldError, Shape, shown, text_of
from vcloud.documents.model import Kind, read_model
from vcloud.documents.reader import LARGEST
from vcloud.errors import UsageError
from vcloud.hosts.uri_aliases import uri_named
from vcloud.placement.capabilities import CPU_OVERCOMMIT, MOST_CPU_OVERCOMMIT, MOST_OVERCOMMIT
from vcloud.spec.types import HOST_NAME, LABEL, parse_services, parse_size, parse_text
from vcloud.values import HOST_FACTS, Service

LOCAL_URI = "qemu:///system"
LABS = Path("/var/lib/vcloud/labs")
"""The folder in which `vcloud lab up` stores the files of labs, each with an inventory."""
MEMORY_IMAGE_SPACE = 4 << 30
"""Bytes that the memory images of a host may take if the inventory does not say it."""
LONGEST_UPLINK_PREFIX: Final = 28
"""The longest possible prefix of an uplink. A /28 has 14 addresses for the gateway and the
firewalls.
"""
EXAMPLE = "hosts: {h1: {uri: qemu+ssh://root@h1/system}}"
_URI_WANTED: Final = "Write a libvirt URI, such as qemu+ssh://root@h1/system."


def _label(name: str) -> str:
    """The name of a label that the inventory may give a host."""
    if name in HOST_FACTS:
        raise FieldError(f"vcloud reads '{name}' from the host", "Remove it here.")
    return name


V = TypeVar("V", IPv4Address, IPv4Network, IPv6Address, IPv6Network)


def _uri(value: object) -> str:
    text = text_of(value)
    if not _has_scheme(text) or any(char.isspace() or not char.isprintable() for char in text):
        raise FieldError(f"'{shown(text)}' is not a libvirt URI", _URI_WANTED)
    return text


def _has_scheme(text: str) -> bool:
    try:
        parts = urlsplit(text)
        # A port of no possible value fails only when it is read.
        return bool(parts.scheme) and parts.port != 0
    except ValueError:
        return False


def _ip(kind: type[V], wanted: str) -> PlainValidator:
    """Reads an address or a prefix of this kind. `wanted` describes it in the error message, with
    an example.
    """

    def parse(value: object) -> V:
        if isinstance(value, kind):
            return value
        text = text_of(value)
        try:
            return kind(text)
        except ValueError:
            raise FieldError(f"'{shown(text)}' is not {wanted}") from None

    return PlainValidator(parse)


LibvirtName = Annotated[
    str,
    Shape(
        r"[A-Za-z0-9_.:-]{1,80}",
        "is not a valid libvirt network name",
        "Use 1 to 80 letters, digits and _ . : -.",
    ),
]
NamespaceName = Annotated[
    str,
    Shape(
        r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}",
        "is not a valid network namespace name",
        "`ip netns list` shows the names.",
    ),
]
BridgeName = Annotated[
    str,
    Shape(
        # Linux allows names of interfaces at most 15 characters (IFNAMSIZ).
        r"[A-Za-z0-9_.-]{1,15}",
        "is not a valid bridge name",
        "Use 1 to 15 letters, digits and _ . -.",
    ),
]
Uri = Annotated[str, PlainValidator(_uri)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class UplinkConfig(_Strict):
    """The network that connects the firewalls of a host with the internet.

    vcloud takes addresses from its prefixes. It creates neither the network nor the bridge.
    """

    network: LibvirtName | None = None
    """The name of a libvirt network. Either this or `bridge` must be given."""
    bridge: BridgeName | None = None
    """The name of a bridge of the host."""
    prefix4: Annotated[IPv4Network, _ip(IPv4Network, "an IPv4 prefix such as 198.18.0.0/16")] = (
        Field(examples=["198.18.0.0/16"])
    )
    gateway4: Annotated[IPv4Address, _ip(IPv4Address, "an IPv4 address such as 198.18.0.1")] = (
        Field(examples=["198.18.0.1"])
    )
    prefix6: (
        Annotated[IPv6Network, _ip(IPv6Network, "an IPv6 prefix such as 2001:db8::/64")] | None
    ) = None
    gateway6: (
        Annotated[IPv6Address, _ip(IPv6Address, "an IPv6 address such as 2001:db8::1")] | None
    ) = None

    @model_validator(mode="after")
    def _fits_together(self) -> UplinkConfig:
        if (self.network is None) == (self.bridge is None):
            raise FieldError(
                "an uplink needs either network or bridge", "Write exactly one of them."
            )
        if self.gateway4 not in self.prefix4:
            raise FieldError(
                f"gateway4 {self.gateway4} is not in prefix4 {self.prefix4}", "Correct one of them."
            )
        if self.prefix4.prefixlen > LONGEST_UPLINK_PREFIX:
            raise FieldError(
                f"prefix4 {self.prefix4} is too small",
                f"The smallest possible prefix is a /{LONGEST_UPLINK_PREFIX}.",
            )
        self._check_ipv6()
        return self

    def _check_ipv6(self) -> None:
        if (self.prefix6 is None) != (self.gateway6 is None):
            raise FieldError(
                "prefix6 and gateway6 must be written together",
                "Add the other one, or remove this one.",
            )
        if self.prefix6 is not None and self.prefix6.prefixlen > LONGEST_PREFIX6:
            raise FieldError(
                f"prefix6 {self.prefix6} is too small",
                f"vcloud chooses addresses in it by a hash. Give a prefix of /{LONGEST_PREFIX6} or shorter.",
            )
        # A link-local gateway (fe80::...) is in no prefix of the network.
        if self.prefix6 is None or self.gateway6 is None or self.gateway6.is_link_local:
            return
        if self.gateway6 not in self.prefix6:
            raise FieldError(
                f"gateway6 {self.gateway6} is not in prefix6 {self.prefix6}", "Correct one of them."
            )


LONGEST_PREFIX6 = 79
"""Bits of the longest IPv6 prefix of an uplink: vcloud takes the last 49 bits of an address from a
hash.
"""


class OutsideConfig(_Strict):
    """The internet side of a host, as `verify` uses it. If a host has none, `verify` sends the probes
    of customers from the host itself, and the VMs of the vApp send no probes to servers outside.
    """

    netns: NamespaceName | None = Field(None, examples=["vclab-outside"])
    """A network namespace of the machine that runs vcloud. None: the probes of customers are sent
    from the host.
    """
    server4: (
        Annotated[IPv4Address, _ip(IPv4Address, "an IPv4 address such as 203.0.113.10")] | None
    ) = Field(None, examples=["203.0.113.10"])
    """The address of a test server on the internet side."""
    server6: (
        Annotated[IPv6Address, _ip(IPv6Address, "an IPv6 address such as 2001:db8:203::10")] | None
    ) = None
    answers: Annotated[
        tuple[Annotated[Service, PlainValidator(parse_services)], ...],
        AfterValidator(lambda parsed: tuple(itertools.chain(*parsed))),
    ] = ()
    """Where these servers answer; none: on every port."""

    @model_validator(mode="after")
    def _names_a_server(self) -> OutsideConfig:
        if self.server4 is None and self.server6 is None:
            raise FieldError(
                "'outside' names no test server", "Write server4, server6 or both of them."
            )
        return self


class _HostEntry(_Strict):
    uri: Uri = Field(examples=["qemu+ssh://root@h1/system"])
    local_uri: Uri | None = None
    ssh_config: Annotated[str, PlainValidator(parse_text)] | None = None
    uplink: UplinkConfig | None = None
    outside: OutsideConfig | None = None
    operator_key: Annotated[str, PlainValidator(parse_text)] | None = None
    # Earlier releases called memory images templates. Inventories have this key, so it keeps its
    # name.
    templates: Annotated[int, PlainValidator(parse_size)] = MEMORY_IMAGE_SPACE
    overcommit: Annotated[float, Strict()] = Field(1, ge=1, le=MOST_OVERCOMMIT)
    cpu_overcommit: Annotated[float, Strict()] = Field(CPU_OVERCOMMIT, ge=1, le=MOST_CPU_OVERCOMMIT)
    labels: dict[
        Annotated[str, LABEL, AfterValidator(_label)], Annotated[str, PlainValidator(parse_text)]
    ] = Field(default_factory=dict, examples=[{"site": "eu"}])


class _File(_Strict):
    hosts: dict[Annotated[str, HOST_NAME], _HostEntry] = Field(
        min_length=1, examples=[{"h1": {"uri": "qemu+ssh://root@h1/system"}}]
    )


_KIND: Final = Kind(_File, EXAMPLE)


@dataclass(frozen=True, slots=True)
class HostRef:
    """How to reach a host, and what the inventory says about it. It holds no connection."""

    name: str
    uri: str
    ssh_config: Path | None = None
    """The file that is used in place of ~/.ssh/config."""
    uplink: UplinkConfig | None = None
    """None: the host uses the NAT network that vcloud creates."""
    local_uri: str = ""
    """The URI of the host's libvirt socket on this machine. Only the hosts of a lab have one; empty
    for other hosts.
    """
    memory_image_space: int = MEMORY_IMAGE_SPACE
    """Bytes that the memory images of the host may take; the key `templates` of the inventory."""
    outside: OutsideConfig | None = None
    """What `verify` may use on the internet side. None: nothing but the host itself."""
    overcommit: float = 1
    """How many times the memory that is free the host may promise to VMs."""
    cpu_overcommit: float = CPU_OVERCOMMIT
    """How many CPUs all VMs of the host may have for each processor."""
    labels: tuple[tuple[str, str], ...] = ()
    """What the inventory says of the host, for rules of placement."""
    operator_key: Path | None = None
    """The file of the key that signs terms of tenancy; None: as `vcloud.hosts.operator_key` says."""

    @property
    def is_this_machine(self) -> bool:
        """Whether its commands run on the machine where vcloud runs."""
        parts = urlsplit(self.uri)
        return not parts.hostname and not parts.scheme.endswith("+ssh")


@dataclass(frozen=True, slots=True)
class HostLabel:
    """A label that somebody gives a host on the command line."""

    host: str
    key: str
    value: str
    """Empty: the host is to lose the label."""


def labels_in(texts: Sequence[str]) -> tuple[tuple[str, str], ...]:
    """The labels that texts such as site=eu give a host. Raises UsageError that names all that is
    wrong.
    """
    found: dict[str, str] = {}
    wrong: list[FieldError] = []
    for text in texts:
        key, sign, value = text.partition("=")
        try:
            if not (sign and value):
                raise FieldError(f"'{shown(text)}' is no label", "Write NAME=VALUE: site=eu.")
            if found.get(key, value) != value:
                raise FieldError(f"the label '{shown(key)}' has two values", "Give it one.")
            found[_label(LABEL.parse(key))] = parse_text(value)
        except FieldError as error:
            wrong.append(error)
    if wrong:
        raise UsageError(
            "; ".join(error.what for error in wrong),
            " ".join(dict.fromkeys(error.hint for error in wrong if error.hint)),
        )
    return tuple(found.items())


def label_of(text: str) -> HostLabel:
    """The label that a text such as h2=site:backup gives a host. Raises UsageError."""
    host, sign, label = text.partition("=")
    key, colon, value = label.partition(":")
    if not (sign and colon and host):
        raise UsageError(
            f"'{shown(text)}' is no label of a host",
            "Write HOST=NAME:VALUE, such as h2=site:backup.",
        )
    return HostLabel(host, _label(LABEL.parse(key)), parse_text(value))


def load_inventory(path: Path) -> tuple[HostRef, ...]:
    """The hosts of an inventory file, in the order of the file.

    Raises:
        SpecError: the file has problems. The error holds all of them.
        UsageError: the file cannot be read.
    """
    try:
        with path.open("rb") as file:
            # A longer file is refused.
            data = file.read(LARGEST + 1)
    except OSError as error:
        what = f"the inventory {path} cannot be read: {error.strerror}"
        raise UsageError(
            what, "Correct the path or the permissions, or set VCLOUD_INVENTORY to another file."
        ) from None
    return hosts_in(data, path)


def hosts_in(data: bytes, path: Path) -> tuple[HostRef, ...]:
    """The hosts of an inventory, in the order of the file. Paths in it are relative to the folder of
    `path`. Raises SpecError with all problems.
    """
    entries = read_model(data, str(path), _KIND).sound().hosts
    return tuple(_ref(name, entry, path.parent) for name, entry in entries.items())


def _ref(name: str, entry: _HostEntry, folder: Path) -> HostRef:
    config = folder / Path(entry.ssh_config).expanduser() if entry.ssh_config else None
    return HostRef(
        name,
        entry.uri,
        config,
        entry.uplink,
        entry.local_uri or "",
        entry.templates,
        entry.outside,
        entry.overcommit,
        entry.cpu_overcommit,
        tuple(entry.labels.items()),
        folder / Path(entry.operator_key).expanduser() if entry.operator_key else None,
    )


def choose_host(connect: str | None, environment: Mapping[str, str] = os.environ) -> HostRef:
    """The one host that a command works on.

    Raises:
        UsageError: as `choose_hosts`; or there are several hosts and the user has named none.
    """
    hosts = choose_hosts(connect, environment)
    if len(hosts) > 1:
        raise UsageError(
            f"there are {len(hosts)} hosts, and this command works on one",
            f"Choose it: --connect {'|'.join(host.name for host in hosts)}.",
        )
    return hosts[0]


def choose_hosts(
    connect: str | None, environment: Mapping[str, str] = os.environ
) -> tuple[HostRef, ...]:
    """The hosts that a command works on.

    vcloud takes the first of these that is given: `connect` (a URI, or a host's name in the
    inventory, or an alias of libvirt's configuration), VCLOUD_CONNECT, LIBVIRT_DEFAULT_URI, all hosts of the inventory. If none is given,
    it takes this machine.

    The inventory is the file that VCLOUD_INVENTORY names. Without VCLOUD_INVENTORY it is the
    inventory of the running lab, and without a lab the user's own file,
    ~/.config/vcloud/hosts.yaml.

    Raises:
        UsageError: the inventory does not have the name, the inventory cannot be read, or several
            labs run.
        SpecError: the inventory has problems.
    """
    wanted = connect or environment.get("VCLOUD_CONNECT") or environment.get("LIBVIRT_DEFAULT_URI")
    if not wanted:
        return _inventory(environment) or (ref_of_uri(LOCAL_URI),)
    # Every URI has a colon, and no name of a host has one (`HOST_NAME`).
    if ":" not in wanted:
        hosts = _inventory(environment)
        if any(host.name == wanted for host in hosts) or uri_named(wanted, environment) == wanted:
            return (_named(wanted, hosts),)
        wanted = uri_named(wanted, environment)
    # The inventory may know more about this host, such as its uplink. Several running labs do not
    # matter, because the choice is clear without them.
    known = _inventory(environment, tolerant=True)
    return (
        next((host for host in known if wanted in (host.uri, host.local_uri)), ref_of_uri(wanted)),
    )


def ref_of_uri(uri: str) -> HostRef:
    """A host of which only the URI is known.

    Raises:
        UsageError: the text is not a URI.
    """
    try:
        return HostRef(urlsplit(_uri(uri)).hostname or "localhost", uri)
    except ValueError:
        # FieldError is a ValueError, too.
        what = f"'{shown(uri)}' is not a libvirt URI"
        raise UsageError(
            what,
            "Write a libvirt URI, such as qemu+ssh://root@h1/system, or a host's name in the inventory.",
        ) from None


def _named(name: str, hosts: tuple[HostRef, ...]) -> HostRef:
    for host in hosts:
        if host.name == name:
            return host
    known = ", ".join(host.name for host in hosts)
    raise UsageError(
        f"there is no host '{name}'"
        + (f" in the inventory, which has {known}" if known else ", because there is no inventory"),
        "Write a host's name from the inventory, or a libvirt URI, such as qemu+ssh://root@h1/system.",
    )


def _inventory(environment: Mapping[str, str], *, tolerant: bool = False) -> tuple[HostRef, ...]:
    """The hosts of the inventory that `choose_hosts` describes. Empty if there is no inventory.

    With `tolerant`, several running labs are no error; the result is then empty.
    """
    if named := environment.get("VCLOUD_INVENTORY"):
        return load_inventory(Path(named))
    labs = sorted(Path(environment.get("VCLOUD_LAB_DIR") or LABS).glob("*/hosts.yaml"))
    if len(labs) > 1 and not tolerant:
        names = ", ".join(path.parent.name for path in labs)
        raise UsageError(
            f"several labs run: {names}",
            f"Choose the inventory of one lab: export VCLOUD_INVENTORY={labs[0]}.",
        )
    if len(labs) == 1:
        return load_inventory(labs[0])
    own = configuration_folder(environment) / "hosts.yaml"
    # There are `labs` here only if several run. Then it is unknown which one is meant, and the own
    # file is not meant either.
    return load_inventory(own) if own.is_file() and not labs else ()


def configuration_folder(environment: Mapping[str, str]) -> Path:
    """The folder of the user's own files of vcloud."""
    configs = environment.get("XDG_CONFIG_HOME") or Path(environment.get("HOME", "/")) / ".config"
    return Path(configs) / "vcloud"
