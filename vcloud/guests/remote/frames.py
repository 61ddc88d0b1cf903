"""Sends Ethernet frames. Each line of the input has a card and a frame in hexadecimal. The card is
known by its MAC address, or as `to:ADDRESS`: the one beside this IPv4 address. Such a frame gets the
card's own MAC address. The program prints `forbidden` where only root may send frames, and `elsewhere`
where no card is beside the address. It is a program of its own, sent to places that are no shipped
image.
"""

import fcntl
import socket
import struct
import sys

SIOCGIFADDR, SIOCGIFNETMASK, SIOCGIFHWADDR = 0x8915, 0x891B, 0x8927


def asked(card: str, request: int) -> bytes:
    """What the kernel says of a card: a struct sockaddr, see netdevice(7). Empty if it has none. In
    /sys a process sees the cards of the namespace in which /sys was mounted, and not its own.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        try:
            return fcntl.ioctl(any_socket, request, struct.pack("256s", card.encode()))[16:]
        except OSError:
            return b""


def mac_of(card: str) -> bytes:
    return asked(card, SIOCGIFHWADDR)[2:8]


def beside(address: str) -> str:
    """The card whose own segment the address is in; empty if there is none. A frame goes no further."""
    (target,) = struct.unpack("!I", socket.inet_aton(address))
    for card in cards:
        found = [asked(card, request)[4:8] for request in (SIOCGIFADDR, SIOCGIFNETMASK)]
        if all(found):
            own, mask = (struct.unpack("!I", one)[0] for one in found)
            if target & mask == own & mask:
                return card
    return ""


def sent(card: str, frame: bytes) -> str:
    """Empty, or why nobody but root can send it."""
    try:
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as raw:
            raw.bind((card, 0))
            raw.send(frame)
    except PermissionError:
        return "forbidden"
    return ""


cards = [name for _, name in socket.if_nameindex()]
why = ""
for line in sys.stdin:
    where, text = line.split()
    frame = bytes.fromhex(text)
    if where.startswith("to:"):
        card = beside(where[3:])
        if not card:
            why = "elsewhere"
            continue
        frame = frame[:6] + mac_of(card) + frame[12:]
    else:
        mac = bytes.fromhex(where.replace(":", ""))
        card = next(name for name in cards if mac_of(name) == mac)
    why = sent(card, frame) or why
print(why)
