"""A real runtime in a process of its own, as a user starts it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import httpx

COMMAND = (sys.executable, "-m", "runtime", "run")


def environment() -> dict[str, str]:
    """Return the environment of a user: bytecode is cached, output is not held back."""
    ours = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return ours | {"PYTHONUNBUFFERED": "1"}


class Running:
    """A runtime that has printed its banner; `web` and `admin` are its addresses, `log` what it has written on stderr."""

    def __init__(self, folder: Path, command: Sequence[str] = COMMAND) -> None:
        self.folder = folder
        self.process = subprocess.Popen(
            command,
            cwd=folder,
            env=environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self._log: list[str] = []
        self._reader = threading.Thread(target=self._read_log, daemon=True)
        self._reader.start()
        self.banner: dict[str, str] = {}
        try:
            self._read_banner()
        except AssertionError:
            self._close_streams()
            raise
        self.api = httpx.Client(base_url=self.banner["admin"], timeout=30)

    @property
    def log(self) -> str:
        return "".join(self._log)

    @property
    def web(self) -> str:
        return self.banner["web"]

    def _read_log(self) -> None:
        assert self.process.stderr is not None
        self._log.extend(self.process.stderr)

    def _read_banner(self) -> None:
        """Read stdout up to the line that names the admin address, which comes when all is up; then let it flow."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            name, _, value = line.strip().partition(" ")
            self.banner[name] = value.strip()
            if name == "admin":
                break
        else:
            self._reader.join(5)
            raise AssertionError(f"the runtime ended with {self.process.wait()}:\n{self.log}")
        threading.Thread(target=self.process.stdout.read, daemon=True).start()

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Send a signal and return the exit code."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, number)
        code = self.process.wait(60)
        self._reader.join(5)
        return code

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.api.close()
        self.stop(signal.SIGKILL)
        self._close_streams()

    def _close_streams(self) -> None:
        for stream in (self.process.stdout, self.process.stderr):
            if stream is not None:
                stream.close()


def run(folder: Path, *arguments: str, timeout: float = 60, **more: object) -> subprocess.CompletedProcess[str]:
    """Run a command of the runtime to its end."""
    command = (sys.executable, "-m", "runtime", *arguments)
    return subprocess.run(command, cwd=folder, env=environment(), capture_output=True, text=True, timeout=timeout, check=False, **more)  # type: ignore[call-overload,no-any-return]
