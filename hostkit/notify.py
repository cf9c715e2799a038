"""sd_notify(3): telling systemd that the service is ready, alive and what it does."""

import os
import socket
import time
from collections.abc import Mapping


class Notifier:
    """Sends to the socket that NOTIFY_SOCKET names; does nothing without one."""

    def __init__(self, environ: Mapping[str, str] = os.environ) -> None:
        path = environ.get("NOTIFY_SOCKET", "")
        # A leading @ stands for the abstract namespace, sd_notify(3).
        self._address = "\0" + path[1:] if path.startswith("@") else path
        try:
            pid = int(environ.get("WATCHDOG_PID", str(os.getpid())))
            usec = int(environ.get("WATCHDOG_USEC", "0"))
        except ValueError:
            pid, usec = 0, 0
        self.watchdog_interval = usec / 1e6 / 2 if usec > 0 and pid == os.getpid() else 0.0
        """Seconds between keep-alives, half of what systemd waits for; 0 without a watchdog."""
        self._last_status = ""

    def send(self, message: str) -> bool:
        """Send one message such as ``READY=1``; False when the manager's queue is full.

        A message that can never be delivered counts as sent: it is not worth failing for.
        """
        if not self._address:
            return True
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as client:
            client.setblocking(False)
            try:
                client.sendto(message.encode(), self._address)
            except BlockingIOError:
                return False
            except OSError:
                return True
        return True

    def ready(self) -> bool:
        """The service is up; False when this has to be said again."""
        return self.send("READY=1")

    def alive(self) -> None:
        """Feed the watchdog."""
        self.send("WATCHDOG=1")

    def reloading(self) -> None:
        """Settings are read again; ``ready`` ends it. The time is for ``Type=notify-reload``,
        systemd.service(5)."""
        now = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        self.send(f"RELOADING=1\nMONOTONIC_USEC={now}")

    def stopping(self) -> None:
        """The service is going down on purpose."""
        self.send("STOPPING=1")

    def status(self, text: str) -> None:
        """The line that ``systemctl status`` shows."""
        text = " ".join(text.split())
        if text != self._last_status and self.send(f"STATUS={text}"):
            self._last_status = text
