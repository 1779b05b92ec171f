"""Real servers in processes of their own on the loopback interface: ports that are free, and waiting for them."""

from __future__ import annotations

import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path


def free_ports(number: int) -> list[int]:
    """So many ports that nobody listens on."""
    sockets = [socket.socket() for _ in range(number)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


@contextmanager
def running(
    command: Sequence[str], port: int, folder: Path, environment: dict[str, str], seconds: float
) -> Iterator[str]:
    """The address of a server that speaks the Open Inference Protocol, once it is ready; it is ended afterwards.

    Args:
        command: what starts it.
        port: what it listens on.
        folder: where it runs, and its log is written.
        environment: of its process.
        seconds: that it may take to become ready.
    """
    url, log = f"http://127.0.0.1:{port}", folder / "log"
    with log.open("wb") as file:
        process = subprocess.Popen(command, stdout=file, stderr=file, env=environment, cwd=folder)
    try:
        _wait(url, process, log, time.monotonic() + seconds)
        yield url
        process.terminate()
        assert process.wait(60) == 0, log.read_text()[-2000:]
    finally:
        if process.poll() is None:
            process.kill()
            process.wait(10)


def _wait(url: str, process: subprocess.Popen[bytes], log: Path, until: float) -> None:
    import httpx

    while time.monotonic() < until:
        assert process.poll() is None, log.read_text()[-2000:]
        try:
            if httpx.get(f"{url}/v2/health/ready", trust_env=False).status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.1)
    raise AssertionError(f"the server does not become ready: {log.read_text()[-2000:]}")
