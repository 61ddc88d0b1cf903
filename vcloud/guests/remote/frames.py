"""Sends Ethernet frames. Each line of the input has a card and a frame in hexadecimal. The card is
its MAC address, or `to:ADDRESS`, which means the card on whose segment this IPv4 address is; such a
frame gets the card's own MAC address as its source. The program prints `forbidden` if only root may
send frames, and `elsewhere` if no card is on the segment. It is a separate program for places other
than shipped images.
"""

import fcntl
import socket
import struct
import sys

SIOCGIFADDR, SIOCGIFNETMASK, SIOCGIFHWADDR = 0x8915, 0x891B, 0x8927


def asked(card: str, request: int) -> bytes:
    """The address of a card from the kernel: a struct sockaddr, see netdevice(7). Empty if there is
    none. /sys is not used, because it shows the cards of the namespace in which it was mounted.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        try:
            return fcntl.ioctl(any_socket, request, struct.pack("256s", card.encode()))[16:]
        except OSError:
            return b""


def mac_of(card: str) -> bytes:
    return asked(card, SIOCGIFHWADDR)[2:8]


def beside(address: str) -> str:
    """The card on whose segment the address is; empty if there is none. A frame does not leave its
    segment.
    """
    (target,) = struct.unpack("!I", socket.inet_aton(address))
    for card in cards:
        found = [asked(card, request)[4:8] for request in (SIOCGIFADDR, SIOCGIFNETMASK)]
        if all(found):
            own, mask = (struct.unpack("!I", one)[0] for one in found)
            if target & mask == own & mask:
                return card
    return ""


def sent(card: str, frame: bytes) -> str:
    """Sends a frame. Returns an empty text, or `forbidden` if only root may send it."""
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
