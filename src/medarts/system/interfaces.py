"""The network interface by which this host reaches another one."""

import ipaddress
import socket
import sys
from contextlib import suppress

import psutil


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
    if sys.platform == "win32":
        return None
    of_all = psutil.net_if_addrs().items()
    return next((name for name, its in of_all if any(one.address.partition("%")[0] == address for one in its)), None)
