"""The network interface by which this host reaches another one."""

import ctypes
import ipaddress
import socket
import sys
from collections.abc import Iterator
from contextlib import suppress


class _Interface(ctypes.Structure):
    """The beginning of the ``struct ifaddrs`` of getifaddrs(3), which is the same on Linux, macOS and BSD."""


_Interface._fields_ = (
    ("next", ctypes.POINTER(_Interface)),
    ("name", ctypes.c_char_p),
    ("flags", ctypes.c_uint),
    ("address", ctypes.c_void_p),
)


def own_address(host: str, port: int) -> str:
    """Returns the address that this host has towards another one; an empty text where there is no way to it.

    Nothing is sent. Towards itself a host has the address that is asked for, which may be a loopback address.

    Args:
        host: name or address of the other one.
        port: any of it.
    """
    with suppress(OSError):
        for family, kind, protocol, _, address in socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM):
            with suppress(OSError), socket.socket(family, kind, protocol) as trial:
                trial.connect(address)
                return str(trial.getsockname()[0]).partition("%")[0]  # without the interface of a link-local one
    return ""


def is_loopback(address: str) -> bool:
    """Whether an address is one that no other host can reach; so is an empty text."""
    return not address or ipaddress.ip_address(address).is_loopback


def interface_of(address: str) -> str | None:
    """Returns the name of the network interface that has an address; None where none has, and on Windows."""
    return next((name for name, its in _addresses() if its == address), None)


def _addresses() -> Iterator[tuple[str, str]]:
    """Yields names of interfaces, and their addresses of IPv4 and IPv6."""
    if sys.platform == "win32":
        return
    library, first = ctypes.CDLL(None), ctypes.POINTER(_Interface)()
    if library.getifaddrs(ctypes.byref(first)):
        return
    try:
        each = first
        while each:
            entry = each.contents
            if entry.address:
                text = _text(entry.address)
                if text:
                    yield entry.name.decode(), text
            each = entry.next
    finally:
        library.freeifaddrs(first)


def _text(address: int) -> str:
    """Returns an address of the ``struct sockaddr`` at a place in memory; an empty text where it is of another kind."""
    # Linux has two bytes for the family, others one for the length and one for the family.
    head = ctypes.string_at(address, 2)
    family = int.from_bytes(head, sys.byteorder) if sys.platform == "linux" else head[1]
    for its, begin, length in ((socket.AF_INET, 4, 4), (socket.AF_INET6, 8, 16)):
        if family == its:
            return socket.inet_ntop(its, ctypes.string_at(address + begin, length))
    return ""
