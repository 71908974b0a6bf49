"""Commands: functions in any language, what they may do wrong, and that none outlives the runtime."""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, ClassVar

import pytest
import pytest_asyncio
from faults.ledger import until

from runtime.contracts import Executor
from runtime.errors import CommandError, DataError, Skip
from runtime.executors.command import IDLE, Commands
from runtime.flow.failure import error_of
from runtime.settings import CommandSettings, FunctionSettings
from runtime.specs import FunctionSpec, make_external
from runtime.testing import ExecutorSuite, SuiteCall, VirtualClock

needs_proc = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks for processes in /proc")
PYTHON = (sys.executable, "-I", "-S")

BEHAVING = """
import json, os, sys, time
def deeper(): raise ValueError("no luck")
def wait(data):
    while not os.path.exists(data): time.sleep(0.01)
    return "old"
def fail(data):
    try:
        deeper()
    except ValueError as error:
        print("deeper", file=sys.stderr, flush=True)
        time.sleep(0.05)  # another pipe, which may be slower
        return {"error": str(error)}
does = {
    "echo": lambda data: data, "after": lambda data: data, "fail": fail, "wait": wait, "replaced": lambda data: "new",
    "skip": lambda data: {"skip": "not needed"},
    "reject": lambda data: {"reject": {"message": "not you", "status": 409}},
    "emit": lambda data: {"emit": [{"type": "noted", "data": {"n": n}, "key": "k", "priority": 7, "delay": 5} for n in data]},
    "large": lambda data: "x" * data, "hang": lambda data: time.sleep(60), "die": lambda data: os._exit(3),
}[sys.argv[1]]
for line in sys.stdin:
    sys.stdout.write(json.dumps(does(json.loads(line).get("data"))) + "\\n")
    sys.stdout.flush()
"""


def command(*words: str, name: str = "thumb", settings: dict[str, Any] | None = None, **more: Any) -> FunctionSpec:
    """Return a function that is a command; `after` and other options are given by name as in the configuration."""
    own = {key: more.pop(key) for key in ("mode", "env", "cwd", "sandbox", "max_calls") if key in more}
    table = FunctionSettings(overrides={"on": "go"} | more, settings=settings or {}, target=CommandSettings(command=words, **own))
    return make_external(name, table, f"runtime.toml [functions.{name}]", 1)


def shell(text: str, **more: Any) -> FunctionSpec:
    return command("sh", "-c", text, **more)


class TestCommand(ExecutorSuite):
    typed: ClassVar[bool] = False
    generators: ClassVar[bool] = False
    contexts: ClassVar[bool] = False
    states: ClassVar[bool] = False
    resources: ClassVar[bool] = False

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[Executor]:
        commands = Commands(VirtualClock(), Path())
        yield commands.call
        await commands.close()

    def function(self, behaviour: str) -> FunctionSpec:
        after: dict[str, Any] = {"after": "first"} if behaviour == "after" else {}
        name = "wait" if behaviour == "replaced" else behaviour
        return command(*PYTHON, "-c", BEHAVING, behaviour, name=name, **after)


@pytest_asyncio.fixture
async def commands(tmp_path: Path) -> AsyncIterator[Commands]:
    made = Commands(VirtualClock(), tmp_path)
    yield made
    await made.close()


Ask = Callable[..., Awaitable[Any]]


@pytest.fixture
def ask(commands: Commands) -> Ask:
    """Return what calls a function on an event with some data, within reason."""

    async def ask(function: FunctionSpec, data: Any = "the data", **more: Any) -> Any:
        return await asyncio.wait_for(commands.call(SuiteCall(function, data, **more)), 20)

    return ask


async def failure(ask: Ask, function: FunctionSpec, data: Any = "the data") -> CommandError:
    with pytest.raises(CommandError) as caught:
        await ask(function, data)
    return caught.value


def is_there(pid: str) -> bool:
    """Return whether a process is running; a zombie is there no more for those who wait for an orphan, which init reaps."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def zombies() -> list[str]:
    """Return the children of this process that have ended and were not reaped."""
    states = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(FileNotFoundError, ProcessLookupError):
            states[path.parent.name] = path.read_text().rpartition(")")[2].split()[:2]
    return [pid for pid, state in states.items() if state == ["Z", str(os.getpid())]]


# --- what is sent and answered ------------------------------------------------------------------------------------


async def test_a_command_gets_a_cloudevent_a_line_with_the_data_it_is_for(ask: Ask) -> None:
    cat = shell("exec cat")
    event = {"specversion": "1.0", "id": "suite-1", "source": "suite", "type": "go", "partitionkey": "ada"}
    assert await ask(cat, "the data") == event | {"data": "the data"}
    after = shell("exec cat", after="first", name="later")
    assert (await ask(after, results={"first": [1]}))["data"] == [1]
    join = shell("exec cat", after=["first", "second"], name="join")
    assert (await ask(join, results={"first": 1, "second": 2, "third": 3}))["data"] == {"first": 1, "second": 2}


async def test_a_process_answers_one_event_after_the_other_and_others_are_started_under_load(ask: Ask, tmp_path: Path) -> None:
    own = shell(f"while read -r line; do echo $$; while [ ! -e {tmp_path}/go ]; do sleep 0.01; done; done", name="own")
    waiting = shell(f"while read -r line; do while [ ! -e {tmp_path}/go ]; do sleep 0.01; done; echo $$; done")
    calls = [asyncio.ensure_future(ask(waiting)) for _ in range(3)]
    await asyncio.sleep(0)
    (tmp_path / "go").touch()
    pids = set(await asyncio.gather(*calls))
    assert len(pids) == 3
    assert {await ask(waiting) for _ in range(5)} <= pids
    assert await ask(own) == await ask(own)


async def test_the_event_is_on_stdin_once_and_the_exit_code_decides(ask: Ask) -> None:
    assert (await ask(shell("cat", mode="once"), 7))["data"] == 7
    assert await ask(shell("printf '{\n \"a\":\n 1}\n\n'", mode="once")) == {"a": 1}
    assert await ask(shell("true", mode="once")) is None
    error = await failure(ask, shell("echo 5; exit 3", mode="once"))
    assert str(error) == (
        '"thumb" (runtime.toml [functions.thumb]), the command sh: expected an answer, found that it ended with exit code 3'
    )
    with pytest.raises(Skip, match="not needed"):
        await ask(shell("""echo '{"skip": "not needed"}'""", mode="once"))


async def test_env_cwd_settings_and_sandbox_reach_the_process(ask: Ask, tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    text = """read -r line; printf '["%s", "%s", "%s", "%s", %s]\n' "$PLACE" "$(pwd)" "$WALL" "$FUNCTION_NAME" "$FUNCTION_SETTINGS" """
    more = {"env": {"PLACE": "here"}, "cwd": "deep", "sandbox": ("env", "WALL=stone"), "settings": {"days": 7}}
    assert await ask(shell(text, **more)) == ["here", str(tmp_path / "deep"), "stone", "thumb", {"days": 7}]
    bare = await ask(shell("""read -r line; printf '["%s"]\n' "$(pwd)" """, name="bare"))
    assert bare == [str(tmp_path)], "the folder of the configuration file"


async def test_a_relative_program_is_relative_to_the_folder_of_the_configuration(ask: Ask, tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    program = tmp_path / "program"
    program.write_text("#!/bin/sh\nread -r line\necho 5\n")
    program.chmod(0o755)
    assert await ask(command("./program", cwd="deep")) == 5


@pytest.mark.skipif(shutil.which("node") is None and os.environ.get("CI") != "true", reason="node is not installed")
async def test_what_unicode_takes_for_the_end_of_a_line_does_not_end_it_in_javascript(ask: Ask) -> None:
    script = """
    const lines = require("readline").createInterface({ input: process.stdin });
    lines.on("line", (line) => console.log(JSON.stringify(JSON.parse(line).data)));
    """
    assert await ask(command("node", "-e", script), "a\u2028b\u2029c\u0085d\r\ne") == "a\u2028b\u2029c\u0085d\r\ne"


# --- how long a process lives -------------------------------------------------------------------------------------

ECHO_PID = "while read -r line; do echo $$; done"


@needs_proc
async def test_a_process_that_had_nothing_to_do_for_long_is_ended(commands: Commands, ask: Ask) -> None:
    clock = commands._clock
    assert isinstance(clock, VirtualClock)
    idle = await ask(shell(ECHO_PID))
    await clock.advance(IDLE / 2)
    assert await ask(shell(ECHO_PID)) == idle
    await clock.advance(IDLE * 3 / 4)
    assert await ask(shell(ECHO_PID)) == idle, "it is counted from the last event"
    await clock.advance(2 * IDLE)
    await asyncio.to_thread(until, lambda: not is_there(idle))
    assert await ask(shell(ECHO_PID)) != idle


@needs_proc
async def test_a_process_is_replaced_when_it_has_served_has_died_is_configured_anew_or_saved(ask: Ask, tmp_path: Path) -> None:
    served = shell(ECHO_PID, max_calls=2)
    pids = [await ask(served) for _ in range(4)]
    assert pids[0] == pids[1] != pids[2] == pids[3]

    mortal = shell("read -r line; echo $$", name="mortal")
    assert await ask(mortal) != await ask(mortal)

    before = await ask(shell(ECHO_PID, name="configured"))
    assert await ask(shell(ECHO_PID, name="configured", env={"A": "B"})) != before
    await asyncio.to_thread(until, lambda: not is_there(before))

    script = tmp_path / "script.sh"
    script.write_text("while read -r line; do echo 1; done")
    saved = command("sh", "script.sh", name="saved")
    assert [await ask(saved), await ask(saved)] == [1, 1]
    script.write_text("while read -r line; do echo 22; done")
    assert await ask(saved) == 22


@needs_proc
async def test_the_processes_of_a_function_that_was_removed_end_with_their_work(commands: Commands, ask: Ask, tmp_path: Path) -> None:
    kept, idle = await ask(shell(ECHO_PID, name="kept")), await ask(shell(ECHO_PID, name="idle"))
    wait = f"while read -r line; do while [ ! -e {tmp_path}/go ]; do sleep 0.01; done; echo $$; done"
    busy = asyncio.ensure_future(ask(shell(wait, name="busy")))
    while "busy" not in commands._crews:
        await asyncio.sleep(0)
    commands.adopt([shell(ECHO_PID, name="kept"), shell("exec cat", name="idle")])
    (tmp_path / "go").touch()
    pid = await busy
    await asyncio.to_thread(until, lambda: not is_there(idle) and not is_there(pid))
    assert await ask(shell(ECHO_PID, name="kept")) == kept


@needs_proc
async def test_an_idle_process_that_dies_is_not_missed(ask: Ask) -> None:
    pid = await ask(shell(ECHO_PID))
    os.kill(pid, signal.SIGKILL)
    await asyncio.to_thread(until, lambda: not Path(f"/proc/{pid}").exists())
    await asyncio.sleep(0)
    assert await ask(shell(ECHO_PID)) != pid


# --- what may go wrong --------------------------------------------------------------------------------------------

WHO = '"thumb" (runtime.toml [functions.thumb]), the command'


@pytest.mark.parametrize(
    ("function", "text"),
    [
        (
            command("no-such-program", "secret"),
            (
                "no-such-program: expected a program that can be executed, found no no-such-program, or not what its first line "
                "names; install it, or correct the path"
            ),
        ),
        (
            command("/dev/null"),
            (
                "/dev/null: expected a program that can be executed, found that /dev/null is none; "
                "chmod +x it, or name the interpreter before it"
            ),
        ),
        (command("sh", cwd="nowhere"), "sh: expected a working directory, found none; correct `cwd`, or make the folder"),
        (shell("exit 3"), "sh: expected an answer, found that it ended with exit code 3"),
        (shell("exit 0"), "sh: expected an answer, found that it ended with exit code 0"),
        (shell("read -r line; echo no >&2; exit 4"), 'sh: expected an answer, found that it ended with exit code 4; its last words: "no"'),
        (shell("read -r line; kill -9 $$"), "sh: expected an answer, found that it was killed by SIGKILL"),
        (shell("read -r line; exec >&-; sleep 9"), "sh: expected an answer, found that it has closed its stdout"),
        (shell("read -r line; echo hello; sleep 9"), 'sh: expected a line of JSON, found "hello"; print logs on stderr'),
        (shell("read -r line; printf '[1'"), 'sh: expected a line of JSON, found "[1"; print logs on stderr'),
        (shell(r"read -r line; printf '\377\n'"), 'sh: expected a line of JSON, found "\ufffd"; print logs on stderr'),
        (shell("read -r line; printf '1\n2\n'; sleep 9"), 'sh: expected one line, found "1" and "2"; print logs on stderr'),
        (
            shell("cat >&2; echo junk", mode="once"),
            'sh: expected JSON and nothing else on stdout, found "junk"; print logs on stderr',
        ),
        (shell("""read -r line; echo '{"error": "no luck"}'"""), "sh: no luck"),
    ],
)
async def test_what_goes_wrong_is_told_and_is_no_secret(ask: Ask, function: FunctionSpec, text: str) -> None:
    error = await failure(ask, function)
    assert str(error) == f"{WHO} {text}"


async def test_an_error_remembers_the_last_lines_on_stderr(ask: Ask) -> None:
    record = error_of(await failure(ask, shell("read -r line; echo one >&2; echo two >&2; exit 1")))
    assert record.type == "CommandError"
    assert record.traceback.endswith("The last lines on stderr:\none\ntwo\n")


async def test_an_answer_without_a_newline_counts_when_the_process_ends(ask: Ask) -> None:
    assert await ask(shell("read -r line; printf 5")) == 5


async def test_an_event_of_many_kilobytes_reaches_a_process_that_reads_late_and_one_that_does_not_read(ask: Ask) -> None:
    assert len((await ask(shell("sleep 0.1; exec cat"), "x" * 300_000))["data"]) == 300_000
    assert await ask(shell("echo 5; exit 0", name="deaf", mode="once"), "x" * 300_000) == 5


async def test_megabytes_on_stderr_hold_up_nothing_and_fill_no_log(ask: Ask, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "functions.thumb")
    line = "y" * 100
    text = f"read -r line; yes {line} | head -c 3000000 >&2; echo 5; head -c 3000000 /dev/zero >&2; read -r line"
    assert await ask(shell(text)) == 5
    told = [record.message for record in caplog.records]
    assert told[0] == line
    assert sum(map(len, told)) < 2_000_000
    assert told[-1].endswith("further lines on stderr are left out")


@needs_proc
async def test_an_answer_nobody_asked_for_ends_the_process(ask: Ask, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "functions.thumb")
    eager = shell("read -r line; echo $$; sleep 0.05; echo again; exec sleep 60")
    pid = await ask(eager)
    await asyncio.to_thread(until, lambda: bool(caplog.records))
    assert [record.message for record in caplog.records] == [
        'ended, since it wrote on stdout what nobody had asked for: "again"; print logs on stderr'
    ]
    await asyncio.to_thread(until, lambda: not is_there(pid))
    assert await ask(eager) != pid


async def test_an_answer_beyond_all_limits_is_an_error(ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runtime.executors.child.ANSWER", 1_000_000)
    error = await failure(ask, shell("read -r line; exec cat /dev/zero"))
    assert str(error) == f"{WHO} sh: expected an answer of at most 1000000 bytes, found more; send less"


async def test_data_that_cannot_be_encoded_fails_for_good(ask: Ask) -> None:
    with pytest.raises(DataError, match='what "thumb" is given cannot be encoded'):
        await ask(shell("exec cat", after="first"), results={"first": object()})


@needs_proc
async def test_a_grandchild_neither_hangs_a_call_nor_outlives_it(ask: Ask, tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    for number, text in enumerate(
        (
            f"read -r line; sleep 60 & echo $! >> {pids}; exit 3",
            f"read -r line; setsid sh -c 'echo $$ > {pids}; exec sleep 60' & while [ ! -s {pids} ]; do sleep 0.01; done; exit 3",
        )
    ):
        assert "exit code 3" in str(await failure(ask, shell(text, name=f"thumb{number}")))
        if not number:
            await asyncio.to_thread(until, lambda: not is_there(pids.read_text().strip()))
            pids.unlink()
    os.kill(int(pids.read_text()), signal.SIGKILL)  # one that leaves its group is its own master


@needs_proc
async def test_a_timeout_kills_the_command_and_all_it_has_started(commands: Commands, tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    stubborn = shell(f"trap '' TERM; read -r line; sleep 60 & echo $$ $! > {pids}.new; mv {pids}.new {pids}; wait")
    calling = asyncio.ensure_future(commands.call(SuiteCall(stubborn)))
    await asyncio.to_thread(until, pids.exists)
    calling.cancel()
    with pytest.raises(asyncio.CancelledError):
        await calling
    await asyncio.to_thread(until, lambda: not any(is_there(pid) for pid in pids.read_text().split()))
    await asyncio.to_thread(until, lambda: not zombies())


async def test_processes_that_have_ended_are_forgotten(commands: Commands, ask: Ask) -> None:
    for function in (shell("cat", mode="once"), shell("exit 3"), shell(ECHO_PID, max_calls=1)):
        with suppress(CommandError):
            await ask(function)
    while commands._children:
        await asyncio.sleep(0.01)


@needs_proc
async def test_the_end_leaves_no_process_behind(tmp_path: Path) -> None:
    commands = Commands(VirtualClock(), tmp_path)
    stubborn = shell("trap '' TERM; while true; do read -r line && echo $$; done")
    pid = await commands.call(SuiteCall(stubborn))
    busy = asyncio.ensure_future(commands.call(SuiteCall(shell("exec sleep 60", name="busy"))))
    await asyncio.sleep(0)
    await asyncio.wait_for(commands.close(), 10)
    assert not is_there(pid)
    assert isinstance((await asyncio.gather(busy, return_exceptions=True))[0], CommandError)
    assert not zombies()
