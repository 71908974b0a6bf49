"""The server of moto, which keeps what it is given in memory, as a process: goes `up` and `down` as it is told."""

from __future__ import annotations

import sys

from moto.server import ThreadedMotoServer


def main() -> None:
    server: ThreadedMotoServer | None = None
    for line in sys.stdin:
        if line.strip() == "up" and server is None:
            server = ThreadedMotoServer("127.0.0.1", int(sys.argv[1]), verbose=False)
            server.start()
        elif line.strip() == "down" and server is not None:
            server.stop()
            server = None
        sys.stdout.write(line)
        sys.stdout.flush()


if __name__ == "__main__":
    main()
