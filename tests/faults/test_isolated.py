"""Isolated functions in the real process: what kills a worker costs one attempt, and nothing is left behind."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from faults.ledger import until
from running import Running, run

FUNCTIONS = """
import os, time
from runtime import Context, function

@function(on="die", isolate=True, retries=1, backoff=0)
def die(data): os._exit(3)

@function(on="fine", isolate=True)
def fine(data): return VALUE

@function(on="hang", isolate=True, timeout=0.3, retries=0)
def hang(data):
    with open(data, "w") as file:
        file.write(str(os.getpid()))
    while True:
        pass

@function(on="wait", isolate=True)
def wait(data, context: Context):
    with open(data, "w") as file:
        file.write(str(os.getpid()))
    while not os.path.exists(data + ".go"):
        time.sleep(0.01)
    context.emit("waited", VALUE)
    return VALUE

@function(on="waited")
async def waited(data): return data
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "functions").mkdir()
    (tmp_path / "functions" / "isolated.py").write_text("VALUE = 1\n" + FUNCTIONS)
    (tmp_path / "runtime.toml").write_text('[sources.web]\nplugin = "http"\nlisten = "127.0.0.1:0"\n[admin]\nlisten = "127.0.0.1:0"\n')
    return tmp_path


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def sent(runtime: Running, type: str, data: object = None, *, wait: float | None = None) -> dict[str, object]:
    event = {"specversion": "1.0", "type": type, "source": "test", "id": type, "data": data}
    path = "/api/events" if wait is None else f"/api/events?wait={wait}"
    headers = {"content-type": "application/cloudevents+json"}
    answer = runtime.api.post(path, json=event, headers=headers)
    return {"status": answer.status_code, "body": answer.json()}


def ended(runtime: Running, id: str) -> bool:
    return runtime.api.get(f"/api/events/{id}").json()["status"] in ("done", "dead")


def test_a_worker_that_dies_costs_its_attempts_and_no_crash_of_the_runtime(project: Path) -> None:
    with Running(project) as runtime:
        sent(runtime, "die")
        until(lambda: ended(runtime, "die"))
        (step,) = runtime.api.get("/api/events/die").json()["steps"]
        assert (step["status"], step["attempts"], step["error"]["type"]) == ("failed", 2, "WorkerDied")
        assert 'the worker process of "die" (functions/isolated.py:7) ended with exit code 3' in step["error"]["message"]
        assert sent(runtime, "fine", wait=10) == {"status": 200, "body": 1}
        assert runtime.stop() == 0


def test_a_timeout_kills_the_process_of_what_never_lets_go(project: Path) -> None:
    with Running(project) as runtime:
        sent(runtime, "hang", str(project / "pid"))
        until(lambda: ended(runtime, "hang"))
        (step,) = runtime.api.get("/api/events/hang").json()["steps"]
        assert (step["status"], step["error"]["type"]) == ("failed", "StepTimeout")
        until(lambda: not is_alive(int((project / "pid").read_text())))
        assert runtime.stop() == 0


def test_a_reload_drops_no_call_and_the_next_is_on_the_new_code(project: Path) -> None:
    with Running(project) as runtime:
        mark = project / "pid"
        sent(runtime, "wait", str(mark))
        until(mark.exists)
        (project / "functions" / "isolated.py").write_text("VALUE = 2\n" + FUNCTIONS)
        until(lambda: runtime.api.get("/health").json()["generation"] == 2)
        assert sent(runtime, "fine", wait=10) == {"status": 200, "body": 2}
        (project / "pid.go").touch()
        until(lambda: ended(runtime, "wait"))
        (step,) = runtime.api.get("/api/events/wait").json()["steps"]
        assert (step["status"], step["attempts"], step["result"]) == ("done", 1, 1)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_no_worker_outlives_the_runtime(project: Path, number: int) -> None:
    (project / "runtime.toml").write_text((project / "runtime.toml").read_text() + "[runtime]\ngrace = 0.2\n")
    with Running(project) as runtime:
        mark = project / "pid"
        sent(runtime, "wait", str(mark))
        until(lambda: mark.exists() and bool(mark.read_text()))
        worker = int(mark.read_text())
        assert runtime.stop(number) == (0 if number == signal.SIGTERM else -signal.SIGKILL)
        until(lambda: not is_alive(worker))


def test_an_isolated_function_is_invoked_in_a_process_of_its_own(project: Path) -> None:
    done = run(project, "invoke", "fine")
    assert (done.returncode, done.stdout) == (0, "1\n")
    died = run(project, "invoke", "die")
    assert died.returncode == 1
    assert "ended with exit code 3 in the middle of the call" in died.stderr
