"""`runtime run`, as a user starts and stops it."""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import httpx
import pytest
from running import Running, environment, run

from runtime.cli.version import installed_version

FUNCTIONS = """
from pathlib import Path
import msgspec
from runtime import function

class Order(msgspec.Struct):
    id: str
    total: float = 1.0

@function(on="order.placed", retries=0, emits="order.checked")
async def check(order: Order, context) -> Order:
    context.log.info("checked %s", order.id, extra={"order": order.id})
    if order.total < 0:
        raise ValueError("no negative totals")
    return order

@function(on="hang")
async def hang(data):
    import asyncio
    Path("hanging").touch()
    await asyncio.Event().wait()
"""

FINITE = """
[sources.file]
plugin = "jsonl"
path = "orders.jsonl"
type = "order.placed"
[sinks.out]
plugin = "jsonl"
path = "out/checked.jsonl"
on = "order.checked"
[admin]
listen = "127.0.0.1:0"
"""

WEB = """
[sources.web]
plugin = "http"
listen = "127.0.0.1:0"
[admin]
listen = "127.0.0.1:0"
"""


def project(folder: Path, config: str, *orders: Mapping[str, object]) -> Path:
    (folder / "functions").mkdir()
    (folder / "functions" / "orders.py").write_text(FUNCTIONS)
    (folder / "runtime.toml").write_text(config)
    (folder / "orders.jsonl").write_text("".join(json.dumps(order) + "\n" for order in orders))
    return folder


# --- once ---------------------------------------------------------------------------------------------


def test_once_ends_when_all_is_done(tmp_path: Path) -> None:
    done = run(project(tmp_path, FINITE, *({"id": str(number)} for number in range(50))), "run", "--once")
    assert done.returncode == 0, done.stderr
    lines = (tmp_path / "out" / "checked.jsonl").read_text().splitlines()
    assert sorted(int(json.loads(line)["data"]["id"]) for line in lines) == list(range(50))


def test_once_ends_with_1_when_there_are_new_dead_letters(tmp_path: Path) -> None:
    done = run(project(tmp_path, FINITE, {"id": "1"}, {"id": "2", "total": -1}, {"no": "id"}), "run", "--once")
    assert done.returncode == 1
    assert done.stderr.endswith("error: 2 new dead letters\n")
    (tmp_path / "orders.jsonl").write_text('{"id": "2", "total": -1}\n')
    assert run(tmp_path, "run", "--once").stderr.endswith("error: 1 new dead letter\n")


def test_once_with_no_finite_source_has_nothing_to_wait_for(tmp_path: Path) -> None:
    assert run(project(tmp_path, WEB), "run", "--once").returncode == 0


# --- what it imports ----------------------------------------------------------------------------------

TOLD = """
import os, sys
leave = os._exit
def tell(code):
    print(*sorted(sys.modules), file=sys.stderr, flush=True)
    leave(code)
os._exit = tell
from runtime.cli import main
main(["run", "--once"])
"""
UNUSED = {
    *("aiohttp", "grpc", "google.protobuf", "cronsim", "httpx", "pydantic", "attrs", "sqlite3", "urllib.request", "rich"),
    *("runtime.posting", "runtime.proto", "runtime.executors.post", "runtime.executors.grpc", "runtime.isolated", "runtime.testing"),
    *("runtime.cli.inspection", "runtime.cli.new", "runtime.cli.plugins", "runtime.cli.talk", "runtime.cli.client"),
    *("runtime_plugins.cron", "runtime_plugins.files", "runtime_plugins.jsonl", "runtime_plugins.webhook"),
}


def test_what_is_not_configured_is_not_imported(tmp_path: Path) -> None:
    folder = project(tmp_path, WEB)
    done = subprocess.run(
        [sys.executable, "-c", TOLD], cwd=folder, env=environment(), capture_output=True, text=True, timeout=60, check=True
    )
    imported = set(done.stderr.splitlines()[-1].split())
    assert {"runtime.app", "runtime.journal.sqlite.journal", "runtime_plugins.http"} <= imported
    assert not UNUSED & imported


# --- what it tells ------------------------------------------------------------------------------------


def test_the_banner_says_what_runs_and_where(tmp_path: Path) -> None:
    done = run(project(tmp_path, FINITE), "run", "--once")
    title, functions, admin = done.stdout.splitlines()
    assert title == f"function-runtime {installed_version()}"
    assert functions == "  functions  2 in 1 file, generation 1"
    assert re.fullmatch(r"  admin      http://127\.0\.0\.1:\d+", admin)


def test_the_banner_has_a_line_to_try_that_works(tmp_path: Path) -> None:
    by_type = run(project(tmp_path, WEB), "run", "--once").stdout.splitlines()
    assert re.fullmatch(r"  web        http://127\.0\.0\.1:\d+", by_type[2])
    assert re.fullmatch(r"  try        curl -d '\{\"id\":\"a\"\}' 'http://127\.0\.0\.1:\d+/events/order\.placed\?wait=5'", by_type[4])
    (tmp_path / "runtime.toml").write_text(f'{WEB}[sources.web.routes."/orders"]\ntype = "order.placed"\n')
    by_route = run(tmp_path, "run", "--once").stdout.splitlines()
    assert re.fullmatch(r"  try        curl -d '\{\"id\":\"a\"\}' http://127\.0\.0\.1:\d+/orders", by_route[4])
    (tmp_path / "runtime.toml").write_text(f"{WEB}[sources.web.auth]\nbearer = 'k'\n")
    assert len(run(tmp_path, "run", "--once").stdout.splitlines()) == 4
    (tmp_path / "runtime.toml").write_text(WEB.replace("127.0.0.1:0", "unix:web.sock", 1))
    by_path = run(tmp_path, "run", "--once").stdout.splitlines()
    path = re.escape(str(tmp_path / "web.sock"))
    assert re.fullmatch(rf"  web        unix:{path}", by_path[2])
    assert re.fullmatch(
        rf"  try        curl --unix-socket '{path}' -d '\{{.+\}}' 'http://localhost/events/order\.placed\?wait=5'", by_path[4]
    )


def test_the_log_is_on_stderr_and_json_when_asked_for(tmp_path: Path) -> None:
    done = run(project(tmp_path, f'{FINITE}[log]\nformat = "json"\n', {"id": "7"}), "run", "--once")
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    (checked,) = [line for line in lines if line["logger"] == "functions.check"]
    assert (checked["level"], checked["message"], checked["order"]) == ("info", "checked 7", "7")


def test_it_runs_also_when_nobody_reads_the_banner(tmp_path: Path) -> None:
    project(tmp_path, FINITE, {"id": "1"})
    command = [sys.executable, "-m", "runtime", "run", "--once"]
    with subprocess.Popen(command, cwd=tmp_path, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert "Traceback" not in process.stderr.read()
        assert process.wait(30) == 0
    assert (tmp_path / "out" / "checked.jsonl").read_text().count("\n") == 1


# --- how it stops -------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_it_with_0(tmp_path: Path, number: signal.Signals) -> None:
    with Running(project(tmp_path, WEB)) as running:
        assert httpx.post(f"{running.web}/events/order.placed?wait=5", json={"id": "1"}).json() == {"id": "1", "total": 1.0}
        assert running.stop(number) == 0
        assert "Traceback" not in running.log


def test_a_second_signal_stops_at_once_what_hangs(tmp_path: Path) -> None:
    with Running(project(tmp_path, f"{WEB}[runtime]\ngrace = 50\n")) as running:
        assert httpx.post(f"{running.web}/events/hang", json=1).status_code == 202
        until_refused(running.web, first=tmp_path / "hanging", process=running.process)
        assert running.process.poll() is None
        assert running.stop() == 1


def until_refused(url: str, *, first: Path, process: subprocess.Popen[str]) -> None:
    """Wait for the file, ask the process to stop, and wait until it listens no more: then it has taken the signal."""
    import time

    while not first.exists():
        time.sleep(0.01)
    process.terminate()
    with suppress(httpx.TransportError):
        while True:
            httpx.get(url)
            time.sleep(0.01)


# --- why it does not start ----------------------------------------------------------------------------


def test_an_address_that_is_taken_is_told_and_is_exit_1(tmp_path: Path) -> None:
    project(tmp_path, WEB)
    with socket.create_server(("127.0.0.1", 0)) as other:
        address = f"127.0.0.1:{other.getsockname()[1]}"
        for config in (WEB.replace("127.0.0.1:0", address, 1), f'{WEB.rpartition("listen")[0]}listen = "{address}"\n'):
            (tmp_path / "runtime.toml").write_text(config)
            done = run(tmp_path, "run")
            assert (done.returncode, done.stdout) == (1, "")
            assert done.stderr.endswith(
                f"error: cannot listen: {address}: Address already in use; stop what listens there, or change `listen`\n"
            )
            assert "Traceback" not in done.stderr


@pytest.mark.parametrize("once", [True, False])
def test_functions_that_do_not_load_are_told_and_are_exit_2(tmp_path: Path, once: bool) -> None:
    project(tmp_path, WEB)
    (tmp_path / "functions" / "broken.py").write_text("from runtime import function\n\n@function(onn='x')\ndef f(data): ...\n")
    done = run(tmp_path, "run", *(["--once"] if once else []))
    assert (done.returncode, done.stdout) == (2, "")
    assert 'error: functions/broken.py:4: @function "f": unknown option `onn` (did you mean "on"?); allowed: ' in done.stderr
    assert "Traceback" not in done.stderr


def test_options_that_a_plugin_does_not_take_are_told_and_are_exit_2(tmp_path: Path) -> None:
    done = run(project(tmp_path, '[sources.web]\nplugin = "http"\nlitsen = "127.0.0.1:0"\n[sinks.out]\nplugin = "nothing"\n'), "run")
    assert (done.returncode, done.stdout) == (2, "")
    assert "error: runtime.toml [sources.web] litsen: " in done.stderr
    assert "error: runtime.toml [sinks.out] plugin: " in done.stderr
    assert "Traceback" not in done.stderr


def test_off_loopback_it_does_not_start_without_a_token(tmp_path: Path) -> None:
    done = run(project(tmp_path, '[admin]\nlisten = "0.0.0.0:0"\n'), "run")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: runtime.toml [admin] token: ")


def test_functions_that_swallow_their_cancellation_do_not_keep_it_from_stopping(tmp_path: Path) -> None:
    (tmp_path / "functions").mkdir()
    (tmp_path / "functions" / "stubborn.py").write_text(
        "import asyncio, time\nfrom pathlib import Path\nfrom runtime import function\n"
        "@function(on='go', timeout=0.2, retries=0)\nasync def stubborn(data):\n    Path('started').touch()\n    while True:\n"
        "        try:\n            await asyncio.sleep(60)\n        except asyncio.CancelledError:\n            pass\n"
        "@function(on='go', timeout=0.2, retries=0)\ndef blocked(data):\n    time.sleep(60)\n"
    )
    (tmp_path / "runtime.toml").write_text(
        '[runtime]\ngrace = 0.2\n[sources.web]\nplugin = "http"\nlisten = "127.0.0.1:0"\n[admin]\nlisten = "127.0.0.1:0"\n'
    )
    with Running(tmp_path) as running:
        assert httpx.post(f"{running.web}/events/go", json=1).status_code == 202
        wait_for(tmp_path / "started")
        assert running.stop() == 0


def wait_for(path: Path) -> None:
    end = time.monotonic() + 20
    while not path.exists():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_health_answers_while_running_steps_get_their_time(tmp_path: Path) -> None:
    (tmp_path / "functions").mkdir()
    (tmp_path / "functions" / "slow.py").write_text(
        "import asyncio\nfrom pathlib import Path\nfrom runtime import function\n"
        "@function(on='go')\nasync def slow(data):\n    Path('started').touch()\n"
        "    while not Path('open').exists():\n        await asyncio.sleep(0.01)\n    return 'done'\n"
    )
    (tmp_path / "runtime.toml").write_text('[sources.web]\nplugin = "http"\nlisten = "127.0.0.1:0"\n[admin]\nlisten = "127.0.0.1:0"\n')
    with Running(tmp_path) as running, ThreadPoolExecutor(1) as pool:
        asked = pool.submit(httpx.post, f"{running.web}/events/go?wait=30", json=1, timeout=40)
        wait_for(tmp_path / "started")
        running.process.send_signal(signal.SIGTERM)
        for _ in range(5):
            assert running.api.get("/health").status_code == 200
        (tmp_path / "open").touch()
        assert asked.result(30).json() == "done"
        assert running.process.wait(30) == 0
