"""The server of the admin API, behind its guard."""

from __future__ import annotations

from typing import TYPE_CHECKING

from runtime.admin.api import make_api
from runtime.admin.guard import Guard
from runtime.config import parse_listen
from runtime.webserver import WebServer

if TYPE_CHECKING:
    from runtime.app import App


def make_server(app: App) -> WebServer:
    """Return the server of an app's admin API, not started."""
    settings = app.settings.admin
    host, _ = parse_listen(settings.listen)
    return WebServer(Guard(make_api(app), host, settings.token or ""), settings.listen)
