"""Prints what only root can see of this host, as one JSON document. It changes nothing.

The document has what can lead frames past a vApp's appliances or filters: bridges, their ports,
addresses, routes and packet filters, programs in the path of packets, and the processes that hold
taps or disks. Of QEMU's processes it has on which processors they may run, and what keeps their memory
to themselves. It names no command line, environment or content of a file, so it holds no secrets.
It is sent and installed as one text, with those of `host_processes` and `host_isolation`
(`vcloud.enforce.install`). libvirt is not asked: what it knows is compared later, with what is here.

A part that cannot be looked at is left out and named in `unseen` with the reason, because "nothing
found" would be wrong.

Sent through stdin by somebody who is not root, it runs its installed copy with sudo instead.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import json
import os
import platform
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from vcloud.enforce.host_isolation import guests, kernel_state
from vcloud.enforce.host_processes import (
    FOLDERS,
    Data,
    loop_devices,
    machines,
    read_processes,
    without_own_files,
)

FORMAT = 4
"""Raised with every change of what is printed."""
INSTALLED = "/usr/local/libexec/vcloud/host-report"
ENVIRONMENT = {"LC_ALL": "C", "PATH": ":".join(FOLDERS)}
SECONDS = 15
"""After this time the kernel ends the program."""
MOST_READ = 16 << 20
"""Bytes of one program's output that are read."""
MOST_PRINTED = 8 << 20
LISTINGS = {
    "devices": ("ip", "-j", "-d", "address", "show"),
    "queues": ("tc", "-j", "qdisc", "show"),
    "static": ("bridge", "-j", "fdb", "show"),
    "routes": ("ip", "-j", "route", "show", "table", "all"),
    "rules": ("nft", "-j", "list", "ruleset", "bridge"),
    "hooks": ("nft", "list", "chains"),
    "redirects": ("tc", "-j", "actions", "list", "action", "mirred"),
    "forwards": ("nft", "-j", "list", "ruleset", "netdev"),
}
"""What is listed -> the command that lists it."""
PORT_FLAGS = (
    *("state", "isolated", "locked", "mab", "learning", "flood", "mcast_flood", "bcast_flood"),
    *("hairpin", "guard", "root_block", "fastleave", "proxy_arp", "proxy_arp_wifi", "vlan_tunnel"),
    *("mcast_to_unicast", "neigh_suppress", "neigh_vlan_suppress", "group_fwd_mask", "backup_port"),
)
BRIDGE_FLAGS = (
    *("vlan_filtering", "stp_state", "group_fwd_mask", "no_linklocal_learn", "ageing_time"),
    *("nf_call_iptables", "nf_call_ip6tables", "nf_call_arptables"),
)
LEGACY_TABLES = ("ebtable_nat", "ebtable_filter", "ebtable_broute")
"""Modules of the kernel with the tables of ebtables-legacy, which nft does not list."""
ETH_P_ALL = 3
BPF_PROG_QUERY = 16
TCX = {"ingress": 46, "egress": 47}
"""Attach types of programs that tc does not list (linux/bpf.h, Linux 6.6)."""
BPF_NUMBERS = {"x86_64": 321, "aarch64": 280, "riscv64": 280, "s390x": 351, "ppc64le": 361}
"""The number of bpf(2)."""


class UnseenError(Exception):
    """A part of the host could not be looked at."""


def main() -> None:
    if os.geteuid() != 0:
        if is_sent():
            run_installed()
        sys.exit("the reporter must run as root")
    signal.alarm(SECONDS)
    print_report(report())


def is_sent() -> bool:
    """Whether the program came through stdin: `python3 -I -`."""
    return sys.argv[0] == "-"


def run_installed() -> None:
    # Where nothing is installed, sudo would only report the user to root.
    if not os.access(INSTALLED, os.X_OK):
        sys.exit(f"{INSTALLED} is not installed there, and vcloud is not root")
    for folder in FOLDERS:
        sudo = folder + "/sudo"
        if os.access(sudo, os.X_OK):
            os.execv(sudo, [sudo, "-n", INSTALLED])  # noqa: S606
    sys.exit("sudo is not installed there, and vcloud is not root")


def print_report(found: Data) -> None:
    text = json.dumps(found, separators=(",", ":"))
    if len(text) > MOST_PRINTED:
        sys.exit("the report is too large")
    print(text)


def report() -> Data:
    running = {name: start(argv) for name, argv in LISTINGS.items()}
    unseen: dict[str, str] = {}
    processes, sockets = read_processes()
    listed = {
        name: attempt(unseen, name, functools.partial(listing, name, process))
        for name, process in running.items()
    }
    devices, names = reduced_devices(listed["devices"] or [])
    if listed["queues"] is not None:
        add_queues(devices, listed["queues"])
    attempt(unseen, "programs", lambda: add_programs(devices))
    attempt(unseen, "legacy rules", look_for_legacy_tables)
    addresses = {device["address"] for device in devices.values()}
    return {
        "format": FORMAT,
        "program": own_digest(),
        "devices": list(devices.values()),
        "static": static_entries(listed["static"] or [], devices, addresses),
        "routes": routes_of(devices, listed["routes"] or []),
        "rules": bridge_rules(listed["rules"]),
        "hooks": device_hooks(listed["hooks"] or ""),
        "redirects": [
            *actions_of(devices, listed["redirects"] or []),
            *forwards_of(devices, listed["forwards"] or {}),
        ],
        "processes": without_own_files(processes) + loop_devices(),
        "machines": machines(),
        "sockets": packet_sockets(sockets, names, devices),
        "guests": guests(processes, unseen),
        "kernel": kernel_state(),
        "unseen": unseen,
    }


def own_digest() -> str:
    """SHA-256 of the installed file; empty where the program came through stdin."""
    return "" if is_sent() else hashlib.sha256(Path(__file__).read_bytes()).hexdigest()


def attempt(unseen: dict[str, str], part: str, look: Callable[[], Any]) -> Any:
    try:
        return look()
    except UnseenError as error:
        unseen[part] = str(error)
        return None


# The listings of other programs


def start(argv: Iterable[str]) -> subprocess.Popen[bytes] | None:
    """Begins a command whose program is in a folder that only root may change; None: it is not
    installed.
    """
    program, *words = argv
    for folder in FOLDERS:
        path = folder + "/" + program
        if os.access(path, os.X_OK):
            return subprocess.Popen(
                [path, *words],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=ENVIRONMENT,
                cwd="/",
            )
    return None


def listing(name: str, process: subprocess.Popen[bytes] | None) -> Any:
    """What a command has printed: a value of JSON, or text where it was not asked for JSON."""
    program = LISTINGS[name][0]
    if process is None or process.stdout is None:
        raise UnseenError(f"{program} is not installed")
    with process:
        text = process.stdout.read(MOST_READ + 1)
        if len(text) > MOST_READ:
            process.kill()
            raise UnseenError("there is too much of it")
    if process.returncode != 0:
        raise UnseenError(f"{program} ended with {process.returncode}")
    if "-j" not in LISTINGS[name]:
        return text.decode(errors="replace")
    try:
        return json.loads(text or b"[]")
    except ValueError:
        raise UnseenError(f"{program} printed no JSON") from None


def reduced_devices(listed: list[Data]) -> tuple[dict[str, Data], dict[int, str]]:
    """Bridges, their ports, taps, and what is stacked on any of these; and the names by number."""
    names = {item["ifindex"]: item["ifname"] for item in listed if item}
    found = {device["name"]: device for device in map(reduced_device, filter(None, listed))}
    kept = {
        name
        for name, device in found.items()
        if device["kind"] in ("bridge", "tun", "openvswitch") or device["master"]
    }
    return {
        name: device for name, device in found.items() if name in kept or device["lower"] in kept
    }, names


def reduced_device(item: Data) -> Data:
    info = item.get("linkinfo", {})
    kind = info.get("info_kind", "")
    port = info.get("info_slave_data", {}) if info.get("info_slave_kind") == "bridge" else {}
    bridge = info.get("info_data", {}) if kind == "bridge" else {}
    mtu = str(item.get("mtu", ""))
    return {
        "name": item.get("ifname", ""),
        "index": item.get("ifindex", 0),
        "kind": kind,
        "address": item.get("address", ""),
        "up": "UP" in item.get("flags", []),
        "master": item.get("master", ""),
        "lower": "" if kind == "veth" else item.get("link", "") or "",
        "port": reduced_flags(port, PORT_FLAGS, mtu),
        "bridge": reduced_flags(bridge, BRIDGE_FLAGS, mtu),
        "addresses": [
            f"{address['local']}/{address.get('prefixlen', '')}"
            for address in item.get("addr_info", [])
            if address.get("local")
        ],
        "xdp": bool(item.get("xdp")),
        "queues": [],
        "programs": [],
    }


def reduced_flags(found: Data, names: Iterable[str], mtu: str) -> Data:
    """Flags of a bridge or of a port, with the MTU; empty where the device is none."""
    flags = {key: str(found[key]).lower() for key in names if key in found}
    return {**flags, "mtu": mtu} if flags else flags


def add_queues(devices: dict[str, Data], listed: list[Data]) -> None:
    for item in listed:
        if item.get("dev") in devices:
            devices[item["dev"]]["queues"].append(f"{item.get('kind')} {item.get('handle')}")


def static_entries(listed: list[Data], devices: dict[str, Data], addresses: set[str]) -> list[Data]:
    """Entries of forwarding databases that somebody has written: neither learnt, nor the own
    address of a device.
    """
    return [
        {"device": item["ifname"], "mac": item.get("mac", "")}
        for item in listed
        if item.get("ifname") in devices
        and item.get("master")
        and item.get("state") in ("static", "permanent")
        and item.get("mac") not in addresses
    ]


def routes_of(devices: dict[str, Data], listed: list[Data]) -> list[Data]:
    """Routes through one of the devices that the kernel did not make by itself."""
    found = {
        (item["dev"], str(item.get("dst", "")))
        for item in listed
        if item.get("dev") in devices and item.get("protocol") != "kernel"
    }
    return [{"device": device, "to": target} for device, target in sorted(found)]


def bridge_rules(listed: Data | None) -> Data:
    """Chains and rules of the family `bridge`, in their order, without counters."""
    chains: list[Data] = []
    rules: list[Data] = []
    for item in (listed or {}).get("nftables", []):
        if "chain" in item:
            chain = item["chain"]
            chains.append({key: str(chain.get(key, "")) for key in ("table", "name", "hook")})
            chains[-1]["policy"] = str(chain.get("policy", ""))
        elif "rule" in item:
            rule = item["rule"]
            rules.append(
                {
                    "table": str(rule.get("table", "")),
                    "chain": str(rule.get("chain", "")),
                    "parts": [part for part in rule.get("expr", []) if "counter" not in part],
                }
            )
    return {"chains": chains, "rules": rules}


def look_for_legacy_tables() -> None:
    found = [name for name in LEGACY_TABLES if Path("/sys/module", name).exists()]
    if found:
        raise UnseenError(f"the kernel has tables of ebtables-legacy: {', '.join(found)}")


def device_hooks(text: str) -> list[Data]:
    """Chains of any family that see packets at single devices. nft 1.0.6 leaves the devices out of
    its JSON.
    """
    found: list[Data] = []
    table = chain = ""
    for words in (line.split() for line in text.splitlines()):
        if words[:1] == ["table"]:
            table = " ".join(words[1:3])
        elif words[:1] == ["chain"]:
            chain = words[1]
        elif "hook" in words and "priority" in words:
            names = words[words.index("hook") + 2 : words.index("priority")]
            found += [
                {"chain": f"{table} {chain}", "device": name.strip('",')}
                for name in names
                if name not in ("device", "devices", "=", "{", "}")
            ]
    return found


def actions_of(devices: dict[str, Data], listed: list[Data]) -> list[Data]:
    """Actions of tc that send frames of any device of the host to one of the devices. An action that
    no filter uses sends nothing.
    """
    return [
        {"device": action["to_dev"], "by": f"action mirred {action.get('index')} of tc"}
        for item in listed
        for action in item.get("actions", [])
        if action.get("to_dev") in devices and action.get("bind")
    ]


def forwards_of(devices: dict[str, Data], listed: Data) -> list[Data]:
    """Rules of nft's family `netdev` that send frames of any device of the host to one of the
    devices.
    """
    items = listed.get("nftables", [])
    named = {
        (found["table"], "@" + found["name"]): texts_in(found.get("elem", []))
        for found in (item.get("map") or item.get("set") for item in items)
        if found
    }
    found: set[tuple[str, str]] = set()
    for rule in (item["rule"] for item in items if "rule" in item):
        texts = texts_in([part for part in rule.get("expr", []) if {"fwd", "dup"} & part.keys()])
        for text in tuple(texts):
            texts |= named.get((rule["table"], text), set())
        place = f"nft's chain 'netdev {rule['table']} {rule['chain']}'"
        found |= {(text, place) for text in texts if text in devices}
    return [{"device": device, "by": place} for device, place in sorted(found)]


def texts_in(value: Any) -> set[str]:
    """Every text in a value of JSON."""
    if isinstance(value, str):
        return {value}
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return {text for item in inner for text in texts_in(item)}


# What no program lists


def add_programs(devices: dict[str, Data]) -> None:
    """Programs that the kernel runs for the packets of a device and tc does not list (tcx)."""
    number = BPF_NUMBERS.get(platform.machine())
    if number is None:
        raise UnseenError(f"the number of bpf(2) on {platform.machine()} is not known")
    libc = ctypes.CDLL(None, use_errno=True)
    for device in devices.values():
        for place, kind in TCX.items():
            query = (ctypes.c_uint32 * 16)(device["index"], kind)
            if (
                libc.syscall(number, BPF_PROG_QUERY, ctypes.byref(query), ctypes.sizeof(query)) == 0
                and query[6]  # the number of programs: there was no room for their ids
            ):
                device["programs"].append(place)


def packet_sockets(
    sockets: dict[int, Data], names: dict[int, str], devices: dict[str, Data]
) -> list[Data]:
    """Sockets that read or send whole frames at one of the devices or, with the device `*`, read
    those of all devices (packet(7)).
    """
    found: list[Data] = []
    for line in Path("/proc/net/packet").read_text().splitlines()[1:]:
        fields = line.split()
        protocol, index, inode = int(fields[3], 16), int(fields[4]), int(fields[8])
        device = names.get(index, "")
        if index == 0 and protocol == ETH_P_ALL:
            device = "*"
        if device == "*" or device in devices:
            owner = sockets.get(inode, {"pid": 0, "program": ""})
            found.append({"device": device, **owner})
    return found


if __name__ == "__main__":
    main()
