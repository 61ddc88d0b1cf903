"""What an operator signs of a VM, so that nobody changes its terms of tenancy, or gives them to another
VM, unseen.

The signature is one of OpenSSH's (https://github.com/openssh/openssh-portable/blob/master/PROTOCOL.sshsig)
by an Ed25519 key. It stands in an attribute of the element with the terms. What is signed is not
stored: it is read from the XML again (`statement`) by whoever checks it.

The text of this module is part of the hook. So it imports only Python's standard library, and runs
on Python 3.9.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from xml.etree.ElementTree import Element

from vcloud.tenancy import QUESTION_NAMESPACE

SIGNATURE = "signature"
"""The attribute: OpenSSH's armored signature without its first and last line, on one line."""
GENERATION = "generation"
"""The attribute: a number that grows each time the terms of a VM are signed anew. A host counts no
terms that are older than the newest it knows (`vcloud.enforce.hook_terms`). Terms without it have
generation 0, such as those that an earlier release signed.
"""
NEWEST = 2**53 - 1
"""The largest generation: the largest whole number that every reader of JSON keeps exactly."""
SSH_NAMESPACE = "vcloud-terms"
"""A signature that the same key has made for another purpose does not count."""
PRINCIPAL = "operator"
"""Whose key it must be, in the host's list of allowed signers."""
STATEMENT_FORMAT, WITHOUT_GENERATION = 2, 1
"""The format of what is signed, and the one of terms without a generation, which stays readable."""
BEGIN, END = "-----BEGIN SSH SIGNATURE-----", "-----END SSH SIGNATURE-----"
SOURCES = ("file", "dev", "dir", "protocol", "name", "pool", "volume")
"""Attributes that say what a disk is. libvirt adds others when the VM runs."""
NIC_SOURCES = ("bridge", "dev", "path", "type")
"""Of these the first that a NIC without a network has says where it leads."""
FOREIGN = (
    "crypto",
    "filesystem",
    "graphics",
    "hostdev",
    "lease",
    "memory",
    "pstore",
    "redirdev",
    "shmem",
    "smartcard",
    "tpm",
    "vsock",
)
"""Other devices that lead out of a VM, or to files of the host. A VM of a vApp has none."""
LOCAL = ("null", "pty", "unix")
"""Kinds of character devices that lead to nobody but libvirt. Another kind is foreign."""
SOCKETS = ("/run/libvirt/", "/var/run/libvirt/", "/var/lib/libvirt/")
"""Where libvirt puts the sockets of character devices."""
RANDOM = ("/dev/random", "/dev/urandom")
"""Sources of entropy. Another file of the host could be read by the guest."""
EMULATORS = "/usr/"
"""Where programs are that only root may change."""
CHARACTER = ("channel", "console", "parallel", "serial")
BOOT = ("kernel", "initrd", "cmdline", "loader", "nvram", "init")
"""What a VM boots from instead of its disk."""
QEMU = "{http://libvirt.org/schemas/domain/qemu/1.0}"
COMMAND_LINE = QEMU + "commandline"
"""Arguments that somebody gives QEMU past libvirt."""
QUESTION = f"{{{QUESTION_NAMESPACE}}}question"
"""In the metadata of a domain that never starts: may a VM of its terms start here? What is signed as a
question starts nothing. The element may hold a notice, as JSON: in `vms` the UUIDs of VMs of the vApp,
with the generations of their newest terms, and in `boot` the boot of the host in which they may start.
"""
NIC_PROGRAMS = ("backend", "downscript", "portForward", "script")
"""Elements of a NIC that name programs, files or ports of the host."""
FOREIGN_PARTS = (
    "sysinfo[@type='fwcfg']",
    "os/acpi/table",
    "os/nvram/source",
    "memoryBacking/source[@type='file']",
    "memoryBacking/access[@mode='shared']",
)
"""Parts of a domain that give the guest files of the host, or its memory to other programs."""
_GENERATION = re.compile(r"[1-9][0-9]{0,15}")


def generation_of(terms: Element | None) -> int:
    """The generation of an element with terms; 0 where it says none. Raises ValueError."""
    text = None if terms is None else terms.get(GENERATION)
    if text is None:
        return 0
    if not _GENERATION.fullmatch(text) or int(text) > NEWEST:
        raise ValueError("their generation is no whole number from 1 on")
    return int(text)


def statement(domain: Element, terms: str, generation: int = 0) -> bytes:
    """What is signed of a domain whose terms of tenancy have this text and generation. It is the same for a
    definition and for the VM that runs with it, so it has nothing that libvirt changes at the start, and
    not the links of NICs, which vcloud raises later.
    """
    devices = domain.find("devices")
    found = [] if devices is None else list(devices)
    question = domain.find(f"metadata/{QUESTION}")
    notice = "" if question is None else question.text or ""
    newer = {"generation": generation, "notice": notice}
    return json.dumps(
        {
            "format": STATEMENT_FORMAT if any(newer.values()) else WITHOUT_GENERATION,
            **(newer if any(newer.values()) else {}),
            "question": question is not None,
            "uuid": (domain.findtext("uuid") or "").strip().lower(),
            "name": domain.findtext("name") or "",
            "terms": terms,
            "boot": sorted([tag, domain.findtext(f"os/{tag}") or ""] for tag in BOOT),
            "disks": sorted(_disk(one) for one in found if one.tag == "disk"),
            "nics": sorted(_nic(one) for one in found if one.tag == "interface"),
            "foreign": sorted(_foreign(domain, found)),
        },
        sort_keys=True,
    ).encode()


def names_layers(domain: Element) -> bool:
    """Whether the domain says itself what its disks are based on. A VM of a vApp never does, and what
    a running one is based on is libvirt's own finding, so this is no part of the statement.
    """
    return domain.find("devices/disk/backingStore//source") is not None


def armored(signature: str) -> str:
    """The signature as `ssh-keygen -Y verify` reads it."""
    return f"{BEGIN}\n{signature}\n{END}\n"


def _disk(disk: Element) -> list[str]:
    target, source, driver = disk.find("target"), disk.find("source"), disk.find("driver")
    where = "" if target is None else target.get("dev", "")
    form = "" if driver is None else driver.get("type", "")
    found = {} if source is None else source.attrib
    parts = [f"{key}={found[key]}" for key in SOURCES if found.get(key)]
    return [where, disk.get("device", "disk"), form, *parts]


def _nic(nic: Element) -> list[str]:
    mac, source, filtered, port = (nic.find(tag) for tag in ("mac", "source", "filterref", "port"))
    return [
        "" if mac is None else mac.get("address", "").lower(),
        "" if filtered is None else filtered.get("filter", ""),
        "no" if port is None else port.get("isolated", "no"),
        *_leads_to(nic.get("type", ""), {} if source is None else source.attrib),
    ]


def _leads_to(kind: str, source: Mapping[str, str]) -> list[str]:
    # While a VM runs, libvirt gives the NIC of a network that is a bridge of the host the type
    # `bridge`, and keeps the network's name. A NIC on a bridge of its own has no such name: libvirt
    # drops it when it reads a definition.
    if source.get("network"):
        return [f"network={source['network']}"]
    return [kind, next((f"{key}={source[key]}" for key in NIC_SOURCES if source.get(key)), "")]


def _foreign(domain: Element, devices: Sequence[Element]) -> Iterator[str]:
    """What a VM of a vApp never has, because it leads out of the VM or to files of the host."""
    log = f"console.{domain.findtext('name') or ''}.log"
    for one in devices:
        kind = one.get("type", "")
        if one.tag in FOREIGN:
            yield one.tag
        elif one.tag in CHARACTER:
            yield from _foreign_ends(one, log)
        elif one.tag == "rng":
            backend = one.find("backend")
            model = "" if backend is None else backend.get("model", "")
            source = "" if backend is None else (backend.text or "").strip()
            if model == "egd" or (model == "random" and source not in ("", *RANDOM)):
                yield f"rng: {model} {source}".strip()
        elif one.tag == "input" and (
            kind in ("evdev", "passthrough") or one.find("source") is not None
        ):
            yield f"input: {kind}"
        elif one.tag == "audio" and kind not in ("", "none"):
            yield f"audio: {kind}"
        elif one.tag == "interface":
            yield from (f"interface: {tag}" for tag in NIC_PROGRAMS if one.find(tag) is not None)
        elif one.tag == "video" and _has_helper(one):
            yield "video: helper"
        elif one.tag == "emulator" and not _is_below(one.text or "", (EMULATORS,)):
            yield "emulator"
    for element in domain:
        if element.tag.startswith("{"):
            # `commandline` alone, as earlier releases signed it.
            yield element.tag[len(QEMU) :] if element.tag.startswith(QEMU) else element.tag
    yield from (path for path in FOREIGN_PARTS if domain.find(path) is not None)


def _foreign_ends(device: Element, log: str) -> Iterator[str]:
    """Where a character device leads that is not to libvirt. libvirt writes what a VM says on its
    console into the file with the name `log`.
    """
    kind, port = device.get("type", "pty"), device.find("target")
    if kind not in LOCAL:
        yield f"{device.tag}: {kind}"
    for source in device.findall("source"):
        path = source.get("path", "")
        if source.get("mode") == "connect":
            yield f"{device.tag}: connect"
        elif kind == "unix" and path and not _is_own_socket(path, port):
            yield f"{device.tag}: socket"
    for one in device.findall("log"):
        if one.get("file", "").rpartition("/")[2] != log:
            yield f"{device.tag}: log"


def _is_own_socket(path: str, port: Element | None) -> bool:
    """Whether it is a socket as libvirt makes it for this port of the guest."""
    name = "" if port is None else port.get("name", "")
    return bool(name) and path.endswith(f"/{name}") and _is_below(path, SOCKETS)


def _is_below(path: str, folders: tuple[str, ...]) -> bool:
    return path.strip().startswith(folders) and ".." not in path.split("/")


def _has_helper(video: Element) -> bool:
    """Whether a program or a device of the host draws the screen."""
    driver = video.find("driver")
    helped = driver is not None and driver.get("name") == "vhostuser"
    return helped or video.find("model/acceleration[@rendernode]") is not None
