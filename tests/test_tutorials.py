"""The tutorials are followed from top to bottom, as a user would: files are saved, commands typed, and what they show is compared."""

from __future__ import annotations

import ast
import re
import signal
import socket
import subprocess
import sysconfig
import threading
import time
import venv
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest
from running import environment

DOCS = Path(__file__).resolve().parent.parent / "docs"
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
STEP = re.compile(rf"{BLOCK.pattern}|^Press Ctrl-C", BLOCK.flags)
FILE = re.compile(r"# (\w[\w./-]*\.(?:py|toml|ini))\n")

PORTS = ("8080", "8090")  # of the page; those of a test are free ones
WEB = '[sources.web]\nplugin = "http"\nlisten = "127.0.0.1:8080"\n'  # what holds without a configuration
ADMIN = '\n[admin]\nlisten = "127.0.0.1:8090"\n'

VARIES = {
    r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}": "UUID",
    r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d[.,]\d+Z?": "TIME",
    r"\b\d+(?:\.\d+)? ?(m?s)\b": r"N \1",
    r"function-runtime \d\S*": "function-runtime VERSION",
    r"===+": "===",
    r"  +": "  ",
    r" +$": "",
}


def alike(text: str) -> str:
    """Return output without what differs from one time to the next: ids, times, durations, the width of columns."""
    for pattern, word in VARIES.items():
        text = re.sub(pattern, word, text, flags=re.MULTILINE)
    return text.strip() + "\n"


def fits(output: str, shown: str) -> bool:
    """Return whether output is what the page shows; there, a line `…` stands for any lines, and `…` in a line for any text."""
    lines = [r"(?:.*\n)*?" if line == "…" else re.escape(line).replace("…", ".*") + r"\n" for line in alike(shown).splitlines()]
    return re.fullmatch("".join(lines), alike(output)) is not None


def until(holds: Callable[[], bool]) -> bool:
    """Return whether something holds within ten seconds."""
    end = time.monotonic() + 10
    while not (held := holds()) and time.monotonic() < end:
        time.sleep(0.02)
    return held


def free_ports(count: int) -> list[str]:
    """Return ports that nobody listens on."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(closing(socket.create_server(("127.0.0.1", 0)))) for _ in range(count)]
        return [str(one.getsockname()[1]) for one in sockets]


def install(place: Path) -> None:
    """Make a virtual environment that has what this one has, so that nothing has to be fetched."""
    venv.create(place)
    (packages,) = place.glob("lib/python*/site-packages")
    (packages / "tests.pth").write_text(f"import site; site.addsitedir({sysconfig.get_path('purelib')!r})\n")
    for name in ("runtime", "pip", "pytest"):
        script = place / "bin" / name
        script.write_text(f"#!{place}/bin/python\nimport runpy\n\nrunpy.run_module({name!r}, run_name='__main__')\n")
        script.chmod(0o755)


class Reader:
    """Somebody who does what a page says, with one terminal for `runtime run` and one for everything else."""

    def __init__(self, home: Path) -> None:
        install(home / "venv")
        (home / ".curlrc").write_text("silent\nshow-error\n")  # as on a terminal, where the answer takes the place of the meter
        self.home, self.folder = home, home
        self.environment = environment() | {
            "PATH": f"{home}/venv/bin:{environment()['PATH']}",
            "COLUMNS": "80",
            "CURL_HOME": str(home),
            "PIP_NO_INDEX": "1",
            "PIP_NO_BUILD_ISOLATION": "0",  # so says pip: the build may use what is installed
        }
        self.ports = dict(zip(PORTS, free_ports(len(PORTS)), strict=True))
        self.process: subprocess.Popen[str] | None = None
        self.log: list[str] = []
        self.output: Callable[[], str] = str  # what the next text of the page is about

    def follow(self, page: str) -> None:
        """Do what each block says."""
        for tag, text in STEP.findall(page):
            if tag == "text":
                self.see(text)
            elif not tag:
                self.stop(signal.SIGINT)
            elif tag != "sh":
                self.save(text)
            elif text == "runtime run\n":
                self.start()
            else:
                self.type(text)

    def see(self, shown: str) -> None:
        """Compare what the last command has shown with the page; otherwise the page tells lines of the first terminal."""
        expected = f"…\n{shown}…\n" if self.output == self.read_log else shown
        assert until(lambda: fits(self.output(), expected)), f"expected\n{shown}\nfound\n{self.output()}"
        self.output = self.read_log

    def save(self, text: str) -> None:
        """Save a file, and let the runtime notice one that it watches."""
        name = FILE.match(text)
        assert name, f"the first line has to name the file:\n{text}"
        path = self.folder / name[1]
        path.parent.mkdir(parents=True, exist_ok=True)
        seen = len(self.log)
        path.write_text(self.here(text + ADMIN) if path.name == "runtime.toml" else text)
        if self.process and path.parent.name == "functions":
            assert until(lambda: any("runtime.loading" in line for line in self.log[seen:])), f"{name[1]} was not noticed"

    def start(self) -> None:
        """Start the runtime in the first terminal."""
        config = self.folder / "runtime.toml"
        if not config.exists():
            config.write_text(self.here(WEB + ADMIN))
        self.log = []
        self.process = subprocess.Popen(
            [self.home / "venv/bin/runtime", "run"],
            cwd=self.folder,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert self.process.stdout
        self.reading = threading.Thread(target=self.log.extend, args=(self.process.stdout,), daemon=True)
        self.reading.start()
        assert until(lambda: any(line.startswith("  admin") for line in self.log)), self.read_log()
        self.output = self.read_log

    def stop(self, number: int) -> None:
        """End the runtime in the first terminal by a signal."""
        assert self.process, "nothing runs"
        with self.process as process:
            process.send_signal(number)
            code = process.wait(30)
            self.reading.join(5)
        self.process = None
        assert code in (0, -number), self.read_log()

    def read_log(self) -> str:
        """Return what stands in the first terminal."""
        return self.there("".join(self.log))

    def type(self, text: str) -> None:
        """Type commands in the second terminal; those that only look are repeated until they show what they should."""
        output = self.run(text)
        looks = all(line.startswith(("runtime events", "runtime show")) for line in text.splitlines())
        self.output = (lambda: self.run(text)) if looks else (lambda: output)

    def run(self, text: str) -> str:
        typed = self.here(text).replace("python3 -m venv .venv", f"ln -s {self.home}/venv .venv")
        done = subprocess.run(
            ["bash", "-c", f"trap 'pwd > {self.home}/pwd' EXIT\n{typed}"],
            cwd=self.folder,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=30,
            check=False,
        )
        output = self.there(done.stdout)
        assert done.returncode == 0 or "error:" in output, f"{text}\nended with {done.returncode}\n{output}"
        self.folder = Path((self.home / "pwd").read_text().strip())
        return output

    def here(self, text: str) -> str:
        """Return text with the ports of the page as those of this test."""
        for shown, used in self.ports.items():
            text = text.replace(f":{shown}", f":{used}")
        return text

    def there(self, text: str) -> str:
        """Return text with the ports of this test as those of the page."""
        for shown, used in self.ports.items():
            text = text.replace(f":{used}", f":{shown}")
        return text


@pytest.fixture
def reader(tmp_path: Path) -> Iterator[Reader]:
    reader = Reader(tmp_path)
    yield reader
    if reader.process:
        reader.stop(signal.SIGKILL)


@pytest.mark.parametrize(
    ("output", "shown", "same"),
    [
        ("at 2026-11-24T13:55:47.294363Z, in 0.5 s", "at 2027-01-01T00:00:00.000001Z, in 12 s", True),
        ("one\ntwo\nthree\n", "…\nthree\n", True),
        ("one\ntwo\nthree\n", "one\n…\n", True),
        ("one two three", "one … three", True),
        ("one\ntwo\nthree\n", "one\nthree\n", False),
        ("one\ntwo\n", "one\n", False),
        ("attempts 2", "attempts 1", False),
    ],
)
def test_only_what_varies_may_differ_from_the_page(output: str, shown: str, same: bool) -> None:
    assert fits(output, shown) is same


def test_a_source_and_a_sink_take_five_lines() -> None:
    sections = [text for text in (DOCS / "first-plugin.md").read_text().split("\n## ") if re.match("A .* in five lines", text)]
    assert len(sections) == 2
    for section in sections:
        ((_, code),) = BLOCK.findall(section)
        (kind,) = [node for node in ast.parse(code).body if isinstance(node, ast.ClassDef)]
        assert (kind.end_lineno or 0) - kind.lineno + 1 == 5, kind.name


@pytest.mark.parametrize("page", ["first-function.md", "first-plugin.md"])
def test_what_a_tutorial_says_is_what_a_reader_sees(page: str, reader: Reader) -> None:
    reader.follow((DOCS / page).read_text())
