"""The report that the host reporter (`vcloud.enforce.host_report`) makes of a host, as values. Pure.

The report may be forged. If a part of it has the wrong form, the whole report is refused, because a
part that is left out could hide a difference.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Final

from vcloud.untrusted import (
    Json,
    UnreadableError,
    as_mapping,
    as_text,
    flag,
    items,
    mapping,
    number,
    parse_json,
    text,
)
from vcloud.values import processors_in

FORMAT: Final = 4
"""The format of a report that this release reads. It must be the reporter's own."""
MOST_BYTES: Final = 8 << 20
"""Bytes that a report may have. With 1,000 taps it has about 1 MiB."""
MOST_CHARACTERS: Final = 4096
"""Characters that a text of a report may have. A path has no more (PATH_MAX)."""
NAMES_OF_DEVICES = frozenset({"iifname", "oifname", "iif", "oif", "ibrname", "obrname"})
"""What nft calls the name of a device or of its bridge."""
VERDICTS = frozenset({"return", "drop", "accept", "jump"})


@dataclass(frozen=True, slots=True)
class Device:
    """A bridge, a port of a bridge, a tap, or a device that is stacked on one of these."""

    name: str
    kind: str
    """The kernel's word, such as `bridge`, `tun` or `veth`; empty for most physical NICs."""
    mac: str
    up: bool
    master: str
    """Name of the bridge (or other device) that it is a port of; empty if it is no port."""
    lower: str
    """Name of the device that it is stacked on, as a VLAN is; empty if it is on none."""
    port: Mapping[str, str]
    """Its flags as a port of a bridge, and its MTU as `mtu`; empty if it is no port."""
    bridge: Mapping[str, str]
    """Its flags as a bridge, and its MTU as `mtu`; empty if it is no bridge."""
    addresses: tuple[str, ...]
    """Addresses of the host, with prefix lengths."""
    xdp: bool
    """An XDP program sees its packets."""
    queues: tuple[str, ...]
    """Kind and handle of each queueing discipline of tc."""
    programs: tuple[str, ...]
    """Places where a BPF program that tc does not list sees its packets: `ingress`, `egress`."""


Match = tuple[str, str, str]
"""A field of the Ethernet header in nft's words (`saddr`, `daddr`, `type`), `==` or `!=`, and a value. A
MAC address of which only the first bits count ends with their number: `33:33:00:00:00:00/16`.
"""


@dataclass(frozen=True, slots=True)
class Rule:
    """A rule of nft's family `bridge`."""

    table: str
    chain: str
    devices: tuple[tuple[str, str], ...]
    """Matches on devices: pairs of nft's keyword (`iifname`, ...) and the device name."""
    frames: frozenset[Match]
    """What the rule asks of the Ethernet header."""
    verdict: str
    """One of `VERDICTS`; empty if the rule has none of them."""
    target: str
    """The chain that the rule jumps to."""
    whole: bool
    """The rule has no other parts than those in the other fields."""
    words: frozenset[str]
    """Every text in the rule."""


@dataclass(frozen=True, slots=True)
class Chain:
    table: str
    name: str
    hook: str
    """nft's name of the hook; empty if frames come in by a jump only."""
    policy: str


@dataclass(frozen=True, slots=True)
class Disk:
    """A file that a process has open."""

    path: str
    file: str
    """Device and inode: equal for two paths to one file."""
    writes: bool
    here: bool
    """The path means this file on the host, and not only in the mount namespace of the process."""

    @property
    def name(self) -> str:
        return self.path.rpartition("/")[2]

    @property
    def folder(self) -> str:
        return self.path.rpartition("/")[0]


@dataclass(frozen=True, slots=True)
class Process:
    """A process that has taps or disk images open."""

    pid: int
    program: str
    name: str
    """The domain that QEMU was started for, by its command line; empty if it names none."""
    here: bool
    """It is in the host's own network namespace."""
    taps: tuple[str, ...]
    disks: tuple[Disk, ...]


@dataclass(frozen=True, slots=True)
class Thread:
    """A thread of a QEMU process."""

    name: str
    """QEMU calls that of the first virtual CPU `CPU 0/KVM` or `CPU 0/TCG`."""
    processors: frozenset[int]
    """Where it may run."""


@dataclass(frozen=True, slots=True)
class Guest:
    """What a QEMU process shares with others."""

    pid: int
    threads: tuple[Thread, ...]
    locked: int
    """Bytes that are never swapped out."""
    merges: bool
    """The kernel may merge some of its pages with equal ones of others."""
    label: str
    """By which a security module of the kernel knows it; empty: there is none."""


@dataclass(frozen=True, slots=True)
class Kernel:
    """Settings of the host's kernel, as its files say them; empty where it has no such file."""

    ksm: str = ""
    """`1`: it merges equal pages now."""
    ksm_pages: str = ""
    """How many merged pages it holds."""
    smt: str = ""
    """`1`: two threads of a core are two processors."""
    selinux: str = ""
    """`1`: SELinux enforces its policy. Otherwise it only logs."""


NO_SETTINGS: Final = Kernel()


@dataclass(frozen=True, slots=True)
class HostReport:
    """Everything that the reporter saw of a host."""

    program: str
    """SHA-256 of the installed reporter; empty where vcloud sent the reporter itself."""
    devices: Mapping[str, Device]
    chains: tuple[Chain, ...]
    rules: tuple[Rule, ...]
    """In their order within each chain."""
    hooks: tuple[tuple[str, str], ...]
    """(device, chain of nft that sees packets at this device)."""
    static: tuple[tuple[str, str], ...]
    """(device, MAC address): static entries in the forwarding databases of bridges."""
    routes: tuple[tuple[str, str], ...]
    """(device, target): routes that the kernel did not make by itself."""
    sockets: tuple[tuple[str, int, str], ...]
    """(device or `*` for all, process number or 0, program): packet sockets, which read and send
    whole frames.
    """
    processes: tuple[Process, ...]
    machines: Mapping[str, int]
    """Domain -> the number of its process, from libvirt's pid file."""
    unseen: tuple[tuple[str, str], ...]
    """(part, reason): what the reporter could not look at."""
    guests: tuple[Guest, ...] = ()
    """All processes of QEMU."""
    kernel: Kernel = NO_SETTINGS
    redirects: tuple[tuple[str, str], ...] = ()
    """(device, what sends frames of other devices of the host to it)."""


def parse_host_report(content: bytes) -> HostReport:
    """The report as values. Raises UnreadableError."""
    if len(content) > MOST_BYTES:
        raise UnreadableError(f"it has more than {MOST_BYTES} bytes")
    document = as_mapping(parse_json(content))
    form = number(document, "format")
    if form != FORMAT:
        raise UnreadableError(f"its format is {form}, and this release reads format {FORMAT}")
    rules = mapping(document, "rules")
    devices = tuple(map(_device, _items(document, "devices")))
    return HostReport(
        program=_text(document, "program"),
        devices={device.name: device for device in devices},
        chains=tuple(
            Chain(*(_text(item, key) for key in ("table", "name", "hook", "policy")))
            for item in _items(rules, "chains")
        ),
        rules=tuple(map(_rule, _items(rules, "rules"))),
        hooks=_pairs(document, "hooks", "chain"),
        static=_pairs(document, "static", "mac"),
        routes=_pairs(document, "routes", "to"),
        sockets=tuple(
            (_text(item, "device"), number(item, "pid"), _text(item, "program"))
            for item in _items(document, "sockets")
        ),
        processes=tuple(map(_process, _items(document, "processes"))),
        machines={
            _short(name): number(mapping(document, "machines"), name)
            for name in mapping(document, "machines")
        },
        unseen=tuple(sorted(_texts(mapping(document, "unseen")).items())),
        guests=tuple(map(_guest, _items(document, "guests"))),
        redirects=_pairs(document, "redirects", "by"),
        kernel=Kernel(*(_text(mapping(document, "kernel"), key.name) for key in fields(Kernel))),
    )


def _device(item: Json) -> Device:
    return Device(
        name=_text(item, "name"),
        kind=_text(item, "kind"),
        mac=_text(item, "address"),
        up=flag(item, "up"),
        master=_text(item, "master"),
        lower=_text(item, "lower"),
        port=_texts(mapping(item, "port")),
        bridge=_texts(mapping(item, "bridge")),
        addresses=_list_of_texts(item, "addresses"),
        xdp=flag(item, "xdp"),
        queues=_list_of_texts(item, "queues"),
        programs=_list_of_texts(item, "programs"),
    )


def _process(item: Json) -> Process:
    return Process(
        pid=number(item, "pid"),
        program=_text(item, "program"),
        name=_text(item, "name"),
        here=flag(item, "here"),
        taps=_list_of_texts(item, "taps"),
        disks=tuple(
            Disk(_text(disk, "path"), _text(disk, "file"), flag(disk, "writes"), flag(disk, "here"))
            for disk in _items(item, "disks")
        ),
    )


def _guest(item: Json) -> Guest:
    return Guest(
        pid=number(item, "pid"),
        threads=tuple(
            Thread(_text(one, "name"), _processors(one, "cpus")) for one in _items(item, "threads")
        ),
        locked=number(item, "locked"),
        merges=flag(item, "merges"),
        label=_text(item, "label"),
    )


def _processors(holder: Json, key: str) -> frozenset[int]:
    try:
        return processors_in(_text(holder, key))
    except ValueError as error:
        raise UnreadableError(str(error)) from None


def _rule(item: Json) -> Rule:
    devices, frames, verdict, target, whole = [], set(), "", "", True
    parts = _items(item, "parts")
    for part in parts:
        match part:
            case {
                "match": {"op": "==", "left": {"meta": {"key": str(key)}}, "right": str(right)}
            } if key in NAMES_OF_DEVICES:
                devices.append((key, right))
            case {
                "match": {
                    "op": "==" | "!=" as op,
                    "left": {"payload": {"protocol": "ether", "field": str(field)}},
                    "right": right,
                }
            } if value := _frame_value(right):
                frames.add((field, op, value))
            case {"jump": {"target": str(target)}} if not verdict:
                verdict = "jump"
            case {"return": None} | {"drop": None} | {"accept": None} if not verdict:
                verdict = next(iter(part))
            case _:
                whole = False
    return Rule(
        table=_text(item, "table"),
        chain=_text(item, "chain"),
        devices=tuple(devices),
        frames=frozenset(frames),
        verdict=verdict,
        target=target,
        whole=whole,
        words=frozenset(_words(parts)),
    )


def _frame_value(right: object) -> str:
    """The value of a match in the Ethernet header, as in `Match`; empty where it is none of these."""
    match right:
        case str():
            return right.lower()
        case {"prefix": {"addr": str(address), "len": int(length)}}:
            return f"{address.lower()}/{length}"
        case _:
            return ""


def _words(value: object) -> Iterator[str]:
    """Every text in a value of JSON."""
    waiting = [value]
    while waiting:
        found = waiting.pop()
        if isinstance(found, str):
            yield found
        elif isinstance(found, dict):
            waiting += found.values()
        elif isinstance(found, list):
            waiting += found


def _pairs(document: Json, key: str, second: str) -> tuple[tuple[str, str], ...]:
    return tuple((_text(item, "device"), _text(item, second)) for item in _items(document, key))


def _items(holder: Json, key: str) -> list[Json]:
    return [as_mapping(item, key) for item in items(holder, key)]


def _list_of_texts(holder: Json, key: str) -> tuple[str, ...]:
    return tuple(_short(as_text(item, key)) for item in items(holder, key))


def _texts(holder: Json) -> dict[str, str]:
    return {_short(key): _text(holder, key) for key in holder}


def _text(holder: Json, key: str) -> str:
    return _short(text(holder, key))


def _short(value: str) -> str:
    if len(value) > MOST_CHARACTERS:
        raise UnreadableError(f"a text has more than {MOST_CHARACTERS} characters")
    return value
