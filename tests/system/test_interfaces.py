"""The network interface towards another host is found by the address that this host has there."""

import socket
import sys
from typing import Any

import pytest

from medarts.system.interfaces import interface_of, is_loopback, own_address


@pytest.mark.skipif(sys.platform == "win32", reason="Windows names no interfaces")
def test_an_interface_is_found_by_its_address():
    assert own_address("127.0.0.1", 29500) == "127.0.0.1"
    name = interface_of("127.0.0.1")
    assert name in [name for _, name in socket.if_nameindex()]
    assert name.startswith("lo")
    assert interface_of("203.0.113.1") is None


def test_where_there_is_no_way_there_is_no_address(monkeypatch):
    def no_name(*arguments: Any, **others: Any) -> Any:
        raise socket.gaierror("Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", no_name)
    assert own_address("node-a", 29500) == ""


def test_addresses_that_no_other_host_can_reach():
    assert [is_loopback(address) for address in ("", "127.0.1.1", "::1")] == [True] * 3
    assert not is_loopback("10.77.0.1")
    assert not is_loopback("fe80::1")
