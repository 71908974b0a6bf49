"""The process under strace, which records what it asks of the disk and answers for it."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path

import pytest
from faults.ledger import until
from running import COMMAND

needs_strace = pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")

CALL = re.compile(r'\d+ +(pwrite64|fdatasync|fsync|ftruncate)\(\d+<(.*?)>(?:, "(.*)")?(?:, (\d+))?(?:, (\d+))?')


def traced(log: Path, *options: str, command: Sequence[str] = COMMAND) -> tuple[str, ...]:
    """Return a command under strace; the process is the started one, strace only looks on."""
    return ("strace", "-DD", "-f", "-q", "-o", str(log), *options, *command)


def recorded(log: Path, command: Sequence[str] = COMMAND) -> tuple[str, ...]:
    """Return a command whose writes and syncs are recorded with what was written."""
    return traced(log, "--seccomp-bpf", "-y", "-xx", "-s", "100000", "-e", "trace=pwrite64,fdatasync,fsync,ftruncate", command=command)


def injecting(log: Path, fault: str, command: Sequence[str] = COMMAND) -> tuple[str, ...]:
    """Return a command with a fault in it, as strace writes it: `fdatasync:error=EIO:when=9`."""
    call = fault.partition(":")[0]
    return traced(log, "-e", f"trace={call}", "-e", f"inject={fault}", command=command)


def power_cut(log: Path, process: int, path: Path, before: bytes) -> None:
    """Leave in the files of a journal what the disk is sure to have: what was written to each before its last sync."""
    until(lambda: re.search(rf"^{process} +\+\+\+ killed by", tail(log), re.MULTILINE) is not None)
    lines = log.read_text().splitlines()
    for file in path.parent.glob(f"{path.name}*"):
        file.unlink()
    path.write_bytes(durable(lines, path, before))
    wal = path.with_name(f"{path.name}-wal")
    wal.write_bytes(durable(lines, wal, b""))


def tail(log: Path) -> str:
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - 10_000))
        return file.read().decode()


def durable(lines: Iterable[str], path: Path, synced: bytes) -> bytes:
    """Return the synced content of a file, which was `synced` before."""
    content = bytearray(synced)
    for line in lines:
        call = CALL.match(line)
        if call is None or text(call[2]) != bytes(path):
            continue
        name, written, first, second = call[1], call[3], call[4], call[5]
        if name == "pwrite64":
            put(content, int(second), text(written))
        elif name == "ftruncate":
            del content[int(first) :]
        else:
            synced = bytes(content)
    return synced


def text(escaped: str) -> bytes:
    """Return what strace wrote as \\x12\\x34."""
    return bytes.fromhex(escaped.replace("\\x", ""))


def put(content: bytearray, offset: int, piece: bytes) -> None:
    content.extend(bytes(max(0, offset - len(content))))
    content[offset : offset + len(piece)] = piece
