"""Two hosts of tests: network namespaces, joined by a link that can be cut; they share the disk."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

starts_clusters = pytest.mark.skipif(
    os.environ.get("MEDARTS_TEST_CLUSTER") != "1",
    reason="it starts hosts, torchrun or Ray, which takes minutes; MEDARTS_TEST_CLUSTER=1 runs it",
)

ENTER = 'mount --bind "$0" /etc/hosts && hostname "$1" && shift && exec "$@"'


@dataclass(frozen=True, slots=True)
class Host:
    """A network namespace with a name and an address of its own.

    Attributes:
        namespace: name of the namespace.
        name: that the host has for itself and for the other one.
        address: of its end of the link.
        names: the file that is its /etc/hosts.
    """

    namespace: str
    name: str
    address: str
    names: Path

    @property
    def within(self) -> tuple[str, ...]:
        """What begins a command that is to run on this host."""
        own = ("unshare", "--uts", "sh", "-c", ENTER, str(self.names), self.name)
        return ("ip", "netns", "exec", self.namespace, *own)  # which has mounts of its own, too

    def cut(self) -> None:
        """Cuts the link."""
        ip("-n", self.namespace, "link", "set", "cable", "down")

    def mend(self) -> None:
        """Joins the hosts again."""
        ip("-n", self.namespace, "link", "set", "cable", "up")


def why_no_hosts() -> str:
    """Returns why this process cannot make network namespaces; nothing if it can."""
    if sys.platform != "linux":
        return "network namespaces are of Linux"
    try:
        made = subprocess.run(["ip", "netns", "add", "medarts-trial"], capture_output=True, text=True, check=False)
        subprocess.run(["ip", "netns", "delete", "medarts-trial"], capture_output=True, check=False)
    except OSError as error:
        return f"ip does not run: {error}"
    return made.stderr.strip() and f"no network namespaces: {made.stderr.strip()}"


def ip(*words: str) -> None:
    """Runs ip(8)."""
    subprocess.run(["ip", *words], check=True, capture_output=True)


@contextmanager
def two_hosts(folder: Path) -> Iterator[tuple[Host, Host]]:
    """Gives node-a at 10.77.0.1 and node-b at 10.77.0.2, and ends all that runs on them.

    As Debian sets up hosts, each finds a loopback address by its own name, and the other one by an entry in /etc/hosts.

    Args:
        folder: for their files.
    """
    hosts = []
    for number, letter in enumerate("ab", 1):
        name, names = f"node-{letter}", folder / f"hosts-of-node-{letter}"
        others = "".join(f"10.77.0.{other}\tnode-{each}\n" for other, each in enumerate("ab", 1) if other != number)
        names.write_text(f"127.0.0.1\tlocalhost\n127.0.1.1\t{name}\n{others}")
        hosts.append(Host(f"medarts-{os.getpid()}-{letter}", name, f"10.77.0.{number}", names))
    first, second = hosts
    made = []
    try:
        for host in hosts:
            ip("netns", "add", host.namespace)
            made.append(host)
        cable = ("cable", "type", "veth", "peer", "name", "cable", "netns", second.namespace)
        ip("-n", first.namespace, "link", "add", *cable)
        for host in hosts:
            ip("-n", host.namespace, "address", "add", f"{host.address}/24", "dev", "cable")
            for device in ("cable", "lo"):
                ip("-n", host.namespace, "link", "set", device, "up")
        yield first, second
    finally:
        for host in made:
            left = subprocess.run(["ip", "netns", "pids", host.namespace], capture_output=True, text=True, check=True)
            for pid in left.stdout.split():
                os.kill(int(pid), signal.SIGKILL)
            ip("netns", "delete", host.namespace)
