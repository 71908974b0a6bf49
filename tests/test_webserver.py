"""The web server while nobody asks; what it answers to real clients is in tests/plugins/test_http.py and tests/admin/test_api.py."""

from __future__ import annotations

import asyncio
import selectors

import pytest
import uvicorn

from runtime.web import AsgiApp, Receive, Scope, Send
from runtime.webserver import _Server


class Skipping(selectors.DefaultSelector):
    """A selector that waits for no time: what it is asked to wait has passed at once."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        assert timeout is not None, "something waits for ever"
        self.now += max(0.0, timeout)
        return super().select(0)


class SkippingLoop(asyncio.SelectorEventLoop):
    """A loop whose time is that of its selector."""

    def __init__(self) -> None:
        self._skipping = Skipping()
        super().__init__(self._skipping)

    def time(self) -> float:
        return self._skipping.now


async def app(scope: Scope, receive: Receive, send: Send) -> None: ...


def test_an_idle_server_wakes_once_a_second_and_ends_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks: list[float] = []
    tick = uvicorn.Server.on_tick

    async def noted(self: uvicorn.Server, counter: int) -> bool:
        ticks.append(asyncio.get_running_loop().time())
        return await tick(self, counter)

    monkeypatch.setattr(uvicorn.Server, "on_tick", noted)

    async def live(app: AsgiApp) -> float:
        server = _Server(uvicorn.Config(app))
        serving = asyncio.create_task(server.main_loop())
        await asyncio.sleep(9.5)
        dates = [value for name, value in server.server_state.default_headers if name == b"date"]
        assert len(dates) == 1
        server.should_exit = True
        server.leaving.set()
        await serving
        return asyncio.get_running_loop().time()

    with asyncio.Runner(loop_factory=SkippingLoop) as runner:
        ended = runner.run(live(app))
    assert ticks == pytest.approx([*range(10), 9.5], abs=0.01)
    assert ended == pytest.approx(9.5, abs=0.01)
