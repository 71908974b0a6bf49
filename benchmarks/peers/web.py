"""Web frameworks: apps that answer a POST of a small JSON object with that object."""

from __future__ import annotations

from typing import Any

FUNCTION = """
import functions_framework

@functions_framework.http
def echo(request):
    return request.get_json()
"""


def fastapi() -> Any:
    """Return an app of FastAPI whose body is a model of pydantic, for uvicorn's `--factory`."""
    from fastapi import FastAPI
    from pydantic import BaseModel

    class Item(BaseModel):
        n: int

    app = FastAPI()

    async def echo(item: Item) -> Item:
        return item

    echo.__annotations__ = {"item": Item, "return": Item}  # the class is local, and annotations are text here
    app.post("/")(echo)
    return app
