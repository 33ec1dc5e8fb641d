"""A cable to a host that is not there: a network namespace, and a link that can be cut.

What is sent into a cut cable is gone, and neither side is told, as when a switch dies.
"""

from __future__ import annotations

import os
import shutil
import subprocess


class NoNetwork(Exception):  # noqa: N818 - a reason to skip, not an error
    """There can be none here; the message says why."""


class Cable:
    """Between this host, at `here`, and a namespace, at `there`. Raises NoNetwork."""

    def __init__(self) -> None:
        if shutil.which("ip") is None:
            raise NoNetwork("needs the program ip of iproute2")
        if os.geteuid() != 0:
            raise NoNetwork("only root may make network namespaces")
        # Names and addresses that no other test has at the same time.
        number = os.getpid()
        self._name = f"tnr{number}"
        self._near, self._far = f"{self._name}n", f"{self._name}f"
        network = f"10.213.{number >> 6 & 255}"
        first = (number & 63) * 4
        self.here, self.there = f"{network}.{first + 1}", f"{network}.{first + 2}"
        self._ip("netns", "add", self._name)
        try:
            self._lay()
        except NoNetwork:
            self.close()
            raise

    def _lay(self) -> None:
        inside = ("-n", self._name)
        ends = ("type", "veth", "peer", "name", self._far, "netns", self._name)
        self._ip("link", "add", self._near, *ends)
        self._ip("addr", "add", f"{self.here}/30", "dev", self._near)
        self._ip(*inside, "addr", "add", f"{self.there}/30", "dev", self._far)
        self._ip(*inside, "link", "set", "lo", "up")
        self._ip(*inside, "link", "set", self._far, "up")
        self.mend()

    @property
    def beyond(self) -> tuple[str, ...]:
        """What a command begins with that is to be run on the other host."""
        return ("ip", "netns", "exec", self._name)

    def cut(self) -> None:
        """Lets nothing through."""
        self._ip("link", "set", self._near, "down")

    def mend(self) -> None:
        """Lets everything through."""
        self._ip("link", "set", self._near, "up")

    def close(self) -> None:
        """Takes the other host away, and the cable with it."""
        self._ip("netns", "del", self._name)

    def _ip(self, *words: str) -> None:
        done = subprocess.run(["ip", *words], capture_output=True, text=True, check=False)
        if done.returncode:
            raise NoNetwork(f"no network namespaces here: {done.stderr.strip()}")
