"""The commands that talk to a running runtime: `emit`, `events`, `show`, `retry`, `discard`."""

from __future__ import annotations

import secrets
import time
from typing import Any

import click

from runtime.cli.client import Address, address_options, event_path, find_runtime, get, post
from runtime.cli.failures import Failure, usage
from runtime.cli.options import data_option, json_option, print_json, read_data


@click.command()
@click.argument("type")
@data_option
@click.option("--key", metavar="K", help="Events of one key run one at a time.")
@click.option("--priority", type=click.IntRange(0, 9), help="9 (urgent) to 0 (bulk); 4 when nothing is said.")
@click.option("--wait", is_flag=True, help="Wait for the result and print it.")
@click.option("--timeout", type=click.FloatRange(0, 86400, min_open=True), default=60.0, show_default=True, help="Seconds to --wait.")
@json_option
@address_options
def emit(
    type: str, data: str | None, key: str | None, priority: int | None, wait: bool, timeout: float, as_json: bool, **where: Any
) -> None:
    """Send an event of TYPE to the running runtime and print its id."""
    event: dict[str, Any] = {"specversion": "1.0", "id": _new_id(), "source": "cli", "type": type}
    optional = {"partitionkey": key, "priority": priority}
    event |= {name: value for name, value in optional.items() if value is not None}
    value = read_data(data)
    if data is not None:
        event |= {"datacontenttype": "application/json", "data": value}
    answer = post(find_runtime(**where), "/api/events", event, media_type="application/cloudevents+json", wait=timeout if wait else None)
    if wait or as_json:
        print_json(answer)
    else:
        click.echo(answer["id"])


def _new_id() -> str:
    """Return a new uuid7."""
    from runtime.records import uid_of  # noqa: PLC0415 - see runtime.cli

    return uid_of(time.time(), secrets.randbits(60))


@click.command()
@click.option("--status", metavar="S", help="queued, running, retrying, done, dead, discarded or unrouted.")
@click.option("--type", "type", metavar="P", help="A type, or a pattern like order.*")
@click.option("--function", metavar="F", help="Those with a step of this name.")
@click.option("--limit", type=int, default=100, show_default=True, metavar="N")
@json_option
@address_options
def events(status: str | None, type: str | None, function: str | None, limit: int, as_json: bool, **where: Any) -> None:
    """List events, the newest first."""
    answer = get(find_runtime(**where), "/api/events", status=status, type=type, function=function, limit=limit)
    if as_json:
        print_json(answer)
        return
    from runtime.cli.drawing import table  # noqa: PLC0415 - see runtime.cli

    rows: list[tuple[str, ...]] = [("STATUS", "TYPE", "ID", "TIME", "ATTEMPTS", "ERROR")]
    rows += [(*(str(event[name]) for name in ("status", "type", "id", "time", "attempts")), _error(event)) for event in answer["events"]]
    click.echo(table(rows))


def _error(shape: dict[str, Any]) -> str:
    """Return the error of an event or step as one line of text."""
    error = shape["error"]
    if error is None:
        return shape.get("reason") or ""
    return " ".join(": ".join(part for part in (error["type"], error["message"]) if part).split())


@click.command()
@click.argument("id")
@json_option
@address_options
def show(id: str, as_json: bool, **where: Any) -> None:
    """Show one event: its steps, attempts, times and errors."""
    event = get(find_runtime(**where), event_path(id))
    if as_json:
        print_json(event)
        return
    from runtime.cli.drawing import table  # noqa: PLC0415 - see runtime.cli

    names = (
        "id",
        "uid",
        "type",
        "source",
        "status",
        "reason",
        "key",
        "priority",
        "attempts",
        "accepted",
        "due",
        "ended",
        "causation",
    )
    rows: list[tuple[str, ...]] = [(name, str(event[name])) for name in names if event[name] is not None]
    rows.append(("waited", _waited(event)))
    rows += [("effects", ", ".join(event["effects"]))] if event["effects"] else []
    rows += [("others", ", ".join(event["others"]))] if event["others"] else []
    click.echo(table(rows))
    if event["steps"]:
        head = ("STEP", "STATUS", "ATTEMPTS", "STARTED", "FINISHED", "ERROR")
        steps = [tuple(_cell(step[name]) for name in ("function", "status", "attempts", "started", "finished")) for step in event["steps"]]
        click.echo("\n" + table([head, *((*cells, _error(step)) for cells, step in zip(steps, event["steps"], strict=True))]))
    for step in event["steps"]:
        if step["error"] and step["error"]["traceback"]:
            click.echo(f"\n{step['function']}:\n{step['error']['traceback'].rstrip()}")


def _waited(event: dict[str, Any]) -> str:
    """Return how long an event has waited until something of it ran, and for what in all."""
    parts = [f"{wait['seconds']:.3f} s for {wait['for']}" for wait in event["waits"]]
    return f"{event['waited']:.3f} s" + (f" ({', '.join(parts)})" if parts else "")


def _cell(value: Any) -> str:
    return "-" if value is None else str(value)


@click.command()
@click.argument("ids", nargs=-1, metavar="[ID]...")
@click.option("--dead", is_flag=True, help="All dead letters, or those that --function and --type name.")
@click.option("--unrouted", is_flag=True, help="All unrouted events, through the present graph.")
@click.option("--function", metavar="F", help="Those in which this function failed.")
@click.option("--type", "type", metavar="P", help="A type, or a pattern like order.*")
@json_option
@address_options
def retry(ids: tuple[str, ...], dead: bool, unrouted: bool, function: str | None, type: str | None, as_json: bool, **where: Any) -> None:
    """Redrive dead letters from the step that failed."""
    if dead and unrouted:
        raise usage("give --dead or --unrouted, not both")
    status = "unrouted" if unrouted else "dead" if dead else None
    change(find_runtime(**where), "retry", "retried", ids, {"status": status, "function": function, "type": type}, as_json=as_json)


@click.command()
@click.argument("ids", nargs=-1, metavar="[ID]...")
@click.option("--dead", is_flag=True, help="All dead letters, or those that --function and --type name.")
@click.option("--function", metavar="F", help="Those in which this function failed.")
@click.option("--type", "type", metavar="P", help="A type, or a pattern like order.*")
@json_option
@address_options
def discard(ids: tuple[str, ...], dead: bool, function: str | None, type: str | None, as_json: bool, **where: Any) -> None:
    """End dead letters for good; they stay readable for a while."""
    body = {"status": "dead" if dead else None, "function": function, "type": type}
    change(find_runtime(**where), "discard", "discarded", ids, body, as_json=as_json)


def change(address: Address, verb: str, done: str, ids: tuple[str, ...], body: dict[str, str | None], *, as_json: bool) -> None:
    """Retry or discard the events named, or those a filter means, and print how many.

    Of several ids all are tried; the failures are told together.
    """
    if bool(ids) == bool(body["status"]):
        raise usage(f"give the IDs of events to {verb}, or --dead for all dead letters")
    if ids and (body["function"] or body["type"]):
        raise usage("--function and --type narrow --dead; they do not go with IDs")
    count, failures = 0, []
    if not ids:
        count = post(address, f"/api/{verb}", {name: value for name, value in body.items() if value is not None})[done]
    for id in ids:
        try:
            count += post(address, event_path(id, verb))[done]
        except Failure as failure:
            if failure.exit_code != 1:
                raise
            failures.append(failure)
    if as_json:
        print_json({done: count})
    else:
        click.echo(f"{done} {count}")
    if failures:
        raise Failure("\nerror: ".join(failure.message for failure in failures))
