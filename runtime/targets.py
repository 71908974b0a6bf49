"""Targets: what is wrong with the address of a remote service and what goes with it.

Values may be secrets: a message shows the name of a header or a key of metadata, and never what it is set to.
"""

from __future__ import annotations

import importlib
import os
import re
import ssl
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

from runtime.settings import CommandSettings, GrpcSettings, Target

HEADER = re.compile(r"(?!ce-|content-|transfer-encoding$|host$|idempotency-key$)[\w!#$%&'*+.^`|~-]+", re.ASCII | re.IGNORECASE)
METADATA = re.compile(r"(?!grpc-|function$|content-type$|te$|user-agent$)[0-9a-z_.-]+(?<!-bin)")
ADDRESS = re.compile(r"(?:\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+):(?P<port>[0-9]{1,5})")


def fault_of_url(url: str) -> str:
    """Return what is wrong with the address of a service over HTTP, and nothing of the address itself; empty when nothing is."""
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if not usable or any(letter.isspace() or not letter.isprintable() for letter in url):
        return 'expected an address like "http://127.0.0.1:9000/price", found something else; correct it'
    if "@" in parts.netloc:
        return 'expected no user and no password in it, found some; write them as headers = { authorization = "…" }'
    return ""


def fault_of_grpc(address: str) -> str:
    """Return what is wrong with the address of a service over gRPC; empty when nothing is."""
    match = ADDRESS.fullmatch(address)
    if match is None or not 0 < int(match["port"]) < 65536:
        return 'expected HOST:PORT with a port of 1 … 65535, as in "127.0.0.1:50051" or "[::1]:50051", found something else; correct it'
    return ""


def fault_of_headers(headers: Mapping[str, str]) -> str:
    """Return what is wrong with headers; empty when nothing is."""
    for name, value in headers.items():
        if not HEADER.fullmatch(name):
            return f'"{name}" is no name of a header, or of one that the runtime sets itself; remove it'
        if not value.isascii() or not (value.isprintable() or not value):
            return f'"{name}": expected printable ASCII, found something else, perhaps a line break; correct it'
    return ""


def fault_of_metadata(metadata: Mapping[str, str]) -> str:
    """Return what is wrong with metadata; empty when nothing is."""
    for name, value in metadata.items():
        if not METADATA.fullmatch(name):
            return f'"{name}" is no lower-case name of metadata in text, or of one that the runtime sets itself; remove it'
        if not value.isascii() or not (value.isprintable() or not value):
            return f'"{name}": expected printable ASCII, found something else, perhaps a line break; correct it'
    return ""


def fault_of_target(target: Target, folder: Path) -> str:
    """Return what a target lacks on this machine, its client or its certificates; empty when nothing. Imports the client."""
    if isinstance(target, CommandSettings):
        return ""
    key, modules = ("grpc", ("grpc", "google.protobuf")) if isinstance(target, GrpcSettings) else ("http", ("aiohttp",))
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")  # otherwise it writes to stderr that a service has gone, past all logging
    try:
        for module in modules:
            importlib.import_module(module)
    except ImportError as error:
        return f"it needs a client that cannot be imported ({error}); run: pip install 'function-runtime[{key}]'"
    if isinstance(target, GrpcSettings) and target.ca is not None:
        path = folder / target.ca
        try:
            ssl.create_default_context(cafile=path)
        except OSError as error:
            return f"`ca`: expected certificates in PEM at {path}, found {type(error).__name__}: {error}; correct it"
    return ""
