"""Real servers for tests: each starts on a free port, in a folder of its own, and can be killed and started again there.

A server is found by itself: its program, when it is installed, or else the address in an environment variable; without
either the test is skipped, which is a failure with `CI=true` when docs/connectors.md promises it.
"""

from __future__ import annotations

import os
import pwd
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import ClassVar, NoReturn

import pytest

PASSWORD = "open-sesame"  # of the user `runtime`, where a server asks for one
USER = "runtime"
HERE = Path(__file__).resolve().parent
PATIENCE = 30.0  # seconds that a server may take to start


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


def program(name: str, *places: str) -> str | None:
    """Return the path of a program: beside the Python that runs, in one of the places (the last that fits), or on the PATH."""
    found = sorted(path for place in places for path in Path("/").glob(place.lstrip("/")))
    for path in (Path(sys.executable).with_name(name), *reversed(found)):
        if path.is_file():
            return str(path)
    return shutil.which(name)


@cache
def promised() -> set[str]:
    """Return the servers that docs/connectors.md promises to test against."""
    text = (HERE.parent / "docs" / "connectors.md").read_text()
    return set(re.findall(r"^\| `(\w+)` \| .+ \| `TEST_\w+` \|", text, re.MULTILINE))


def unavailable(name: str, why: str) -> NoReturn:
    """Skip the test, or fail it where the server is promised."""
    if os.environ.get("CI") == "true" and name in promised():
        pytest.fail(f"docs/connectors.md promises tests against {name}: {why}")
    pytest.skip(why)


class Server:
    """A server of ours, in a process group of its own; `url` is where it listens.

    `start` returns when it answers, `kill` sends SIGKILL, `stop` asks it to end. A server that was given by its address
    cannot be killed.
    """

    name: ClassVar[str]
    program: ClassVar[str]
    places: ClassVar[Sequence[str]] = ()
    user: ClassVar[str] = ""  # that root has to become

    def __init__(self, path: str, url: str = "") -> None:
        self.path = path
        self._given = url
        self._process: subprocess.Popen[bytes] | None = None
        if not url:
            self.port = free_port()
            self.folder = Path(tempfile.mkdtemp(prefix=f"{self.name}-"))
            self._become = self.user if self.user and os.geteuid() == 0 else None
            if self._become:
                shutil.chown(self.folder, self._become, pwd.getpwnam(self._become).pw_gid)
            self.prepare()

    @classmethod
    def variable(cls) -> str:
        """The environment variable that holds the address of another one."""
        return f"TEST_{cls.name.upper()}_URL"

    @classmethod
    def find(cls, kind: str = "") -> str:
        """Return the path of its program; empty when there is only an address. Without either the test is skipped."""
        path = program(cls.program, *cls.places)
        if path is None and not os.environ.get(cls.variable()):
            unavailable(kind or cls.name, f"{cls.program} is not installed, and {cls.variable()} is not set")
        return path or ""

    @classmethod
    def serving(cls) -> Iterator[Server]:
        """Yield a server that runs, and end it; for fixtures."""
        path = cls.find()
        server = cls(path, "" if path else os.environ[cls.variable()])
        try:
            server.start()
            yield server
        finally:
            server.remove()

    @property
    def url(self) -> str:
        return self._given or self.address()

    def address(self) -> str:
        raise NotImplementedError

    def prepare(self) -> None:
        """Write what it needs into `folder`, once."""

    def command(self) -> Sequence[str]:
        raise NotImplementedError

    def environment(self) -> dict[str, str]:
        return {}

    def answers(self) -> bool:
        """Return whether it serves; by default whether its port is open."""
        with socket.socket() as probe:
            probe.settimeout(1)
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    @property
    def is_running(self) -> bool:
        return bool(self._given) or (self._process is not None and self._process.poll() is None)

    def run(self, *command: str) -> None:
        """Run a program of the server to its end."""
        done = subprocess.run(command, user=self._become, env=self._environment(), cwd=self.folder, capture_output=True, check=False)
        assert done.returncode == 0, f"{command}: {done.stdout.decode()}{done.stderr.decode()}"

    def _environment(self) -> dict[str, str]:
        return {"PATH": os.environ["PATH"], "HOME": str(self.folder), "LC_ALL": "C.UTF-8"} | self.environment()

    def start(self) -> None:
        """Start it, unless it runs, and return when it answers."""
        if self.is_running:
            return
        with (self.folder / "output").open("ab") as output:
            self._process = subprocess.Popen(
                self.command(),
                cwd=self.folder,
                env=self._environment(),
                user=self._become,
                group=pwd.getpwnam(self._become).pw_gid if self._become else None,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        self._wait(self.answers)

    def _wait(self, holds: Callable[[], bool]) -> None:
        end = time.monotonic() + PATIENCE
        while not holds():
            said = (self.folder / "output").read_text(errors="replace")[-2000:]
            assert self.is_running, f"{self.name} has ended: {said}"
            assert time.monotonic() < end, f"{self.name} does not answer: {said}"
            time.sleep(0.02)

    def kill(self) -> None:
        """End it at once, as a crash does."""
        self._signal(signal.SIGKILL)

    def stop(self) -> None:
        """Ask it to end, and wait for that."""
        self._signal(signal.SIGTERM)

    def _signal(self, number: int) -> None:
        if self._given:
            pytest.skip(f"{self.name} at {self._given} cannot be killed")
        if self._process is not None:
            if self._process.poll() is None:
                os.killpg(self._process.pid, number)
            self._process.wait(PATIENCE)
            self.killed()

    def killed(self) -> None:
        """Clear up what a crash leaves behind that another start would stumble over."""

    def remove(self) -> None:
        """End it and remove its folder."""
        if not self._given:
            self.kill()
            shutil.rmtree(self.folder, ignore_errors=True)


class Nats(Server):
    """With JetStream on the disk."""

    name = "nats"
    program = "nats-server"

    def address(self) -> str:
        return f"nats://127.0.0.1:{self.port}"

    def command(self) -> Sequence[str]:
        return (self.path, "-a", "127.0.0.1", "-p", str(self.port), "-js", "-sd", str(self.folder / "store"))


class GuardedNats(Nats):
    """Which asks for a password."""

    def command(self) -> Sequence[str]:
        return (*super().command(), "--user", USER, "--pass", PASSWORD)


class Redis(Server):
    """Each write on the disk before it is answered."""

    name = "redis"
    program = "redis-server"

    def address(self) -> str:
        return f"redis://127.0.0.1:{self.port}"

    def command(self) -> Sequence[str]:
        options = {"bind": "127.0.0.1", "port": self.port, "dir": self.folder, "appendonly": "yes", "appendfsync": "always", "save": ""}
        return (self.path, *(word for name, value in options.items() for word in (f"--{name}", str(value))))

    def answers(self) -> bool:
        with socket.socket() as probe:
            probe.settimeout(1)
            if probe.connect_ex(("127.0.0.1", self.port)):
                return False
            try:
                probe.sendall(b"PING\r\n")
                return probe.recv(100)[:5] in (b"+PONG", b"-NOAU")  # it may be loading
            except OSError:  # or has no time to answer
                return False


class GuardedRedis(Redis):
    """Which asks for a password."""

    def command(self) -> Sequence[str]:
        return (*super().command(), "--requirepass", PASSWORD)


class Rabbitmq(Server):
    """With a name service of its own, so that nothing stays behind; the user is `guest`."""

    name = "rabbitmq"
    program = "rabbitmq-server"
    places = ("/usr/lib/rabbitmq/bin/rabbitmq-server", "/usr/lib/rabbitmq/lib/*/sbin/rabbitmq-server", "/opt/rabbitmq/sbin/rabbitmq-server")

    def prepare(self) -> None:
        self._names = free_port()
        self._dist = free_port()
        (self.folder / "plugins").write_text("[].\n")
        (self.folder / "rabbitmq.conf").write_text(f"listeners.tcp.1 = 127.0.0.1:{self.port}\nlog.console.level = warning\n")

    def address(self) -> str:
        return f"amqp://guest:guest@127.0.0.1:{self.port}/"

    def environment(self) -> dict[str, str]:
        return {
            "ERL_EPMD_PORT": str(self._names),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODENAME": f"test{self.port}@localhost",
            "RABBITMQ_DIST_PORT": str(self._dist),
            "RABBITMQ_CONFIG_FILE": str(self.folder / "rabbitmq"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(self.folder / "plugins"),
            "RABBITMQ_MNESIA_BASE": str(self.folder / "data"),
            "RABBITMQ_LOG_BASE": str(self.folder / "log"),
            "RABBITMQ_LOGS": "-",
            "RABBITMQ_PID_FILE": str(self.folder / "pid"),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "+S 1:1 +sbwt none -kernel inet_dist_use_interface {127,0,0,1}",
        }

    def answers(self) -> bool:
        """Return whether it takes part in a handshake: its port is open before it does."""
        with socket.socket() as probe:
            probe.settimeout(1)
            if probe.connect_ex(("127.0.0.1", self.port)):
                return False
            probe.sendall(b"AMQP\x00\x00\x09\x01")
            try:
                return probe.recv(1) == b"\x01"
            except OSError:
                return False

    def command(self) -> Sequence[str]:
        return ("/bin/sh", "-c", f"epmd & exec '{self.path}'")


class Mosquitto(Server):
    """With sessions and retained messages on the disk, saved at its end."""

    name = "mosquitto"
    program = "mosquitto"
    places = ("/usr/sbin/mosquitto",)

    def prepare(self) -> None:
        lines = [
            f"listener {self.port} 127.0.0.1",
            "persistence true",
            f"persistence_location {self.folder}/",
            "autosave_interval 0",  # by itself it would write everything anew after each change
            "max_queued_messages 0",  # no limit: otherwise what is more than a thousand is dropped
            *self.access(),
            *(["user root"] if os.geteuid() == 0 else []),
        ]
        (self.folder / "conf").write_text("\n".join(lines) + "\n")

    def access(self) -> Sequence[str]:
        return ["allow_anonymous true"]

    def address(self) -> str:
        return f"mqtt://127.0.0.1:{self.port}"

    def command(self) -> Sequence[str]:
        return (self.path, "-c", str(self.folder / "conf"))

    def kill(self) -> None:
        """Ask it to end: what it has acknowledged is in memory until then, and with a crash it would lose it."""
        self.stop()


class GuardedMosquitto(Mosquitto):
    """Which asks for a password."""

    def access(self) -> Sequence[str]:
        words = str(self.folder / "passwords")
        made = subprocess.run((program("mosquitto_passwd") or "mosquitto_passwd", "-b", "-c", words, USER, PASSWORD), check=False)
        if made.returncode:
            unavailable(self.name, "mosquitto_passwd is not installed")
        return ["allow_anonymous false", f"password_file {words}"]


class Postgres(Server):
    """One cluster, with TLS for who asks; root becomes `postgres`, or it does not run. The user is `runtime`, with a password."""

    name = "postgres"
    program = "postgres"
    places = ("/usr/lib/postgresql/*/bin/postgres",)
    user = "postgres"

    def prepare(self) -> None:
        words = self.folder / "password"
        words.write_text(PASSWORD)
        words.chmod(0o644)
        initdb = str(Path(self.path).resolve().with_name("initdb"))
        self.run(initdb, "-D", str(self.folder / "data"), "-U", USER, f"--pwfile={words}", "-A", "scram-sha-256", "-E", "UTF8", "--no-sync")
        certificate = self.folder / "server.pem"
        certificate.write_bytes((HERE / "plugins" / "webhook.pem").read_bytes())
        certificate.chmod(0o600)
        if self._become:
            shutil.chown(certificate, self._become)

    def address(self) -> str:
        return f"postgres://{USER}:{PASSWORD}@127.0.0.1:{self.port}/postgres"

    def command(self) -> Sequence[str]:
        options: dict[str, object] = {"listen_addresses": "127.0.0.1", "port": self.port, "unix_socket_directories": "", "fsync": "off"}
        options |= {"ssl": "on", "ssl_cert_file": self.folder / "server.pem", "ssl_key_file": self.folder / "server.pem"}
        return (
            self.path,
            "-D",
            str(self.folder / "data"),
            *(word for name, value in options.items() for word in ("-c", f"{name}={value}")),
        )

    def answers(self) -> bool:
        """Return whether it takes connections: while it recovers it answers, but with an error."""
        with socket.socket() as probe:
            probe.settimeout(1)
            if probe.connect_ex(("127.0.0.1", self.port)):
                return False
            body = b"\x00\x03\x00\x00user\x00runtime\x00database\x00postgres\x00\x00"
            try:
                probe.sendall((len(body) + 4).to_bytes(4, "big") + body)
                return probe.recv(1) == b"R"
            except OSError:
                return False

    def kill(self) -> None:
        """End it at once, and with it those that serve connections: each has a process group of its own, and may do one thing more."""
        found = None if self._process is None else subprocess.run(("pgrep", "-P", str(self._process.pid)), capture_output=True, check=False)
        super().kill()
        for child in found.stdout.split() if found else ():
            with suppress(ProcessLookupError):
                os.kill(int(child), signal.SIGKILL)

    def killed(self) -> None:
        (self.folder / "data" / "postmaster.pid").unlink(missing_ok=True)


class Kafka(Server):
    """The mock cluster of librdkafka, in a process; a kill takes its brokers off the net, and they keep what they have."""

    name = "kafka"
    program = "python"  # with confluent_kafka in it

    @classmethod
    def find(cls, kind: str = "") -> str:
        try:
            import confluent_kafka  # noqa: F401
        except ImportError:
            unavailable("kafka", "confluent-kafka is not installed")
        return sys.executable

    def address(self) -> str:
        return self._brokers

    def start(self) -> None:
        if self._process is None:
            self._process = subprocess.Popen(
                (self.path, str(HERE / "kafka_mock.py")), stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
            )
            self._brokers = self._said()
        else:
            self._tell("up")

    def kill(self) -> None:
        self._tell("down")

    stop = kill

    def _tell(self, word: str) -> None:
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.stdin.write(f"{word}\n".encode())
        self._process.stdin.flush()
        assert self._said() == word

    def _said(self) -> str:
        assert self._process is not None
        assert self._process.stdout is not None
        return self._process.stdout.readline().decode().strip()

    def remove(self) -> None:
        if self._process is not None:
            with self._process as process:
                process.kill()
        shutil.rmtree(self.folder, ignore_errors=True)


class S3(Server):
    """The server of moto, in a process; a kill takes it off the net, and it keeps what it has."""

    name = "s3"
    program = "python"  # with moto in it

    @classmethod
    def find(cls, kind: str = "") -> str:
        path = "" if find_spec("moto") is None else sys.executable
        if not path and not os.environ.get(cls.variable()):
            unavailable("s3", f"moto is not installed, and {cls.variable()} is not set")
        return path

    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        if self._given:
            return
        if self._process is None:
            command = (self.path, str(HERE / "s3_mock.py"), str(self.port))
            self._process = subprocess.Popen(
                command, env=self._environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
            )
        self._tell("up")

    def kill(self) -> None:
        if self._given:
            pytest.skip(f"{self.name} at {self._given} cannot be killed")
        self._tell("down")

    stop = kill

    def _tell(self, word: str) -> None:
        assert self._process is not None
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{word}\n".encode())
        self._process.stdin.flush()
        assert self._process.stdout.readline().decode().strip() == word

    def remove(self) -> None:
        if self._process is not None:
            with self._process as process:
                process.kill()
        if not self._given:
            shutil.rmtree(self.folder, ignore_errors=True)


class GuardedS3(S3):
    """Which knows nobody."""

    def environment(self) -> dict[str, str]:
        return {"INITIAL_NO_AUTH_ACTION_COUNT": "0"}


@pytest.fixture(scope="session")
def nats_server() -> Iterator[Server]:
    yield from Nats.serving()


@pytest.fixture(scope="session")
def guarded_nats_server() -> Iterator[Server]:
    yield from GuardedNats.serving()


@pytest.fixture(scope="session")
def redis_server() -> Iterator[Server]:
    yield from Redis.serving()


@pytest.fixture(scope="session")
def guarded_redis_server() -> Iterator[Server]:
    yield from GuardedRedis.serving()


@pytest.fixture(scope="session")
def rabbitmq_server() -> Iterator[Server]:
    yield from Rabbitmq.serving()


@pytest.fixture(scope="session")
def mosquitto_server() -> Iterator[Server]:
    yield from Mosquitto.serving()


@pytest.fixture(scope="session")
def guarded_mosquitto_server() -> Iterator[Server]:
    yield from GuardedMosquitto.serving()


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[Server]:
    yield from Postgres.serving()


@pytest.fixture(scope="session")
def kafka_server() -> Iterator[Server]:
    yield from Kafka.serving()


@pytest.fixture(scope="session")
def s3_server() -> Iterator[Server]:
    yield from S3.serving()


@pytest.fixture(scope="session")
def guarded_s3_server() -> Iterator[Server]:
    yield from GuardedS3.serving()
