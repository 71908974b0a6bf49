"""`runtime run`: the runtime in this process, until it is told to stop."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import gc
import logging
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, NoReturn

import click
import msgspec

from runtime import pattern
from runtime.cli.failures import Failure
from runtime.cli.options import config_option
from runtime.cli.version import installed_version
from runtime.errors import EXIT_FAILED, EXIT_OK
from runtime.example import example_of

if TYPE_CHECKING:
    from runtime.app import App
    from runtime.settings import Settings


@click.command()
@config_option
@click.option("--once", is_flag=True, help="End when all finite sources have ended and nothing waits.")
def run(config: str, once: bool) -> None:
    """Run the functions.

    With --once the exit code is 1 when there are new dead letters.
    """
    from runtime import config as configuration  # noqa: PLC0415 - see runtime.cli
    from runtime.cli import logs  # noqa: PLC0415

    _open_streams()
    settings = configuration.load(config)
    logs.set_up(settings.log.level, settings.log.format)
    runner = asyncio.Runner(loop_factory=_loop_factory())
    try:
        code = runner.run(serve(settings, once=once))
    except BaseException:
        runner.close()
        raise
    _leave(code)


def _open_streams() -> None:
    """Open the streams that the process was started without: a file would get their number, and what is printed."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            null = os.open(os.devnull, os.O_RDWR)  # gets the lowest number that is free: this one
            setattr(sys, name, open(null, "w" if number else "r", closefd=False))  # noqa: SIM115 - as long as the process


def _leave(code: int) -> NoReturn:
    """End the process: all is recorded, and code that swallows its cancellation or hangs in a thread is not waited for."""
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)


def _loop_factory() -> type[asyncio.AbstractEventLoop] | None:
    """Return uvloop's loop where it is installed."""
    try:
        import uvloop  # noqa: PLC0415 - not on every platform
    except ImportError:
        return None
    return uvloop.Loop


async def serve(settings: Settings, *, once: bool) -> int:
    """Run until a signal (or, with `once`, until nothing is left to do) and return the exit code."""
    from runtime.admin.server import make_server  # noqa: PLC0415 - see runtime.cli
    from runtime.app import App  # noqa: PLC0415
    from runtime.cli import logs  # noqa: PLC0415

    app = App(settings, reconfigured=lambda new: logs.set_up(new.log.level, new.log.format))
    admin = make_server(app)
    stopping = asyncio.Event()
    _listen_for_signals(stopping, app)
    await _start(app, admin.start)
    dead = (await app.stats())["dead"]
    announce(banner(app, admin.address), err=_prints_data(settings))
    gc.freeze()  # what is loaded stays; a flow of events makes less garbage than the collector expects
    gc.set_threshold(50_000, 20, 100)
    await _until(stopping, app, once=once)
    if app.failed.is_set():
        return EXIT_FAILED  # at once: what could still be done could not be recorded
    new = (await app.stats())["dead"] - dead
    await app.stop()
    await admin.stop()
    if once and new > 0:
        click.echo(f"error: {new} new dead letter{'' if new == 1 else 's'}", err=True)
        return EXIT_FAILED
    return EXIT_OK


def _listen_for_signals(stopping: asyncio.Event, app: App) -> None:
    """Set `stopping` at the first SIGTERM or SIGINT; the second ends the process at once."""

    def on_signal() -> None:
        if stopping.is_set():
            app.journal.unmark_all()  # what is cut off now has not killed the process
            os._exit(EXIT_FAILED)
        stopping.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, on_signal)


async def _start(app: App, start_admin: Callable[[], Awaitable[None]]) -> None:
    """Start the app, then the admin API; when one of them fails, let go of what was started.

    Raises:
        Failure: an address is in use or not of this machine.
    """
    try:
        await app.start()
        await start_admin()
    except OSError as error:
        with contextlib.suppress(Exception):
            await app.stop(0.0)
        hint = "; stop what listens there, or change `listen`" if error.errno == errno.EADDRINUSE else ""
        raise Failure(f"cannot listen: {error.strerror or error}{hint}") from error
    except Exception:
        with contextlib.suppress(Exception):
            await app.stop(0.0)
        raise


async def _until(stopping: asyncio.Event, app: App, *, once: bool) -> None:
    """Return when a signal came or, with `once`, when nothing is left to do."""
    waits: list[asyncio.Task[object]] = [asyncio.create_task(stopping.wait()), asyncio.create_task(app.failed.wait())]
    if once:
        waits.append(asyncio.create_task(app.finished()))
    done, pending = await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    for task in pending:
        task.cancel()
    for task in done:
        task.result()


def banner(app: App, admin: str) -> list[str]:
    """Return what is running and where, as lines for people."""
    generation = app.generation
    functions = generation.graph.functions
    files = len({function.file for function in functions})
    lines = [f"function-runtime {installed_version()}"]
    told = f"{len(functions)} in {files} file{'' if files == 1 else 's'}, generation {generation.number}"
    rows = [("functions", told), *app.addresses(), ("admin", admin)]
    example = try_line(app)
    if example:
        rows.append(("try", example))
    width = max(len(name) for name, _ in rows) + 2
    return lines + [f"  {name:{width}}{text}" for name, text in rows]


def try_line(app: App) -> str | None:
    """Return a curl line that sends an event: to the first plain route, or of the first type a function takes."""
    web = {name: url for name, url in app.addresses() if app.settings.sources[name].plugin == "http"}
    for name, url in web.items():
        options = app.settings.sources[name].options
        if "auth" in options:
            continue
        curl, url = (f"curl --unix-socket '{url[5:]}' -d", "http://localhost") if url.startswith("unix:") else ("curl -d", url)  # noqa: PLW2901
        for path, route in (options.get("routes") or {}).items():
            if "{" not in path and "POST" in route.get("methods", ["POST"]) and not {"auth", "signature"} & route.keys():
                return f"{curl} '{_example(app, route['type'])}' {url}{path}"
        literal = (text for function in app.generation.graph.functions for text in function.on if pattern.is_literal(text))
        text = next(literal, None) if options.get("events", True) else None
        if text:
            return f"{curl} '{_example(app, text)}' '{url}/events/{text}?wait=5'"  # quoted: zsh would take ? for a file pattern
    return None


def _example(app: App, type: str) -> str:
    """Return JSON that the first function of a type is likely to take, safe between single quotes; `{…}` when it does not tell."""
    plan = app.generation.graph.plan(type)
    payload = next((plan.functions[root].parameters.payload for root in plan.roots), Any)
    example = example_of(payload)
    return msgspec.json.encode(example).decode().replace("'", "\\u0027") if example else "{…}"


def _prints_data(settings: Settings) -> bool:
    """Return whether stdout belongs to a sink, and people are to be told on stderr."""
    return any(sink.plugin == "console" for sink in settings.sinks.values())


def announce(lines: list[str], *, err: bool = False) -> None:
    """Print lines on stdout (or stderr), whether or not anybody reads it."""
    try:
        click.echo("\n".join(lines), err=err)
    except (OSError, ValueError):
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115, PTH123 - so that the last flush at exit succeeds
