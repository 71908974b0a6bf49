"""Functions after functions in one run, on the journal in memory: beside bare awaits, and others that run graphs."""

from __future__ import annotations

from benchmarks import bare
from benchmarks.children import child
from benchmarks.ours import MEMORY, events, project, rate, running
from benchmarks.peers import chains, durable
from benchmarks.sheet import Sheet

RUNS = 10_000
STEPS = 10


def functions(kind: str, size: int) -> str:
    """Return the file of a `chain` or `diamond` of so many functions, each of which returns what it gets."""
    lines = ["from runtime import function"]
    for name, after in chains.shape(kind, size).items():
        parameters = after or ["data"]
        option = f"after={after}" if after else 'on="go"'
        lines.append(f"@function({option})\nasync def {name}({', '.join(parameters)}): return {parameters[0]}")
    return "\n".join(lines)


async def ours(kind: str, size: int, runs: int) -> float:
    """Return runs per second, put in lists of 1,000."""
    with project(MEMORY, functions(kind, size)) as folder:
        async with running(folder) as app:
            await rate(app, events(500), 1000)
            return await rate(app, events(runs), 1000)


def measure(sheet: Sheet) -> None:
    """See above."""
    chain, diamond, single = f"chain of {STEPS}", f"diamond of {STEPS}", "a single function"
    sheet.compare(
        "runs/s",
        {
            chain: child(ours, "chain", STEPS, RUNS),
            diamond: child(ours, "diamond", STEPS, RUNS),
            single: child(ours, "chain", 1, 3 * RUNS),
            "ten bare awaits": child(bare.awaits, 10 * RUNS, STEPS),
            "Hamilton, chain": child(chains.hamilton, "chain", STEPS, RUNS // 5),
            "Hamilton, diamond": child(chains.hamilton, "diamond", STEPS, RUNS // 5),
            "DBOS on SQLite, ten steps": child(durable.dbos, 50, STEPS),
            "Prefect, ten tasks": child(chains.prefect, STEPS, 1),
        },
    )
    sheet.ratio(chain, "ten bare awaits", "≥ 0.25")
    sheet.ratio(chain, "Hamilton, chain", "≥ 30")
    sheet.ratio(diamond, "Hamilton, diamond", "≥ 20")
    for ours_, peer in ((chain, "Prefect, ten tasks"), (diamond, "Prefect, ten tasks")):
        sheet.ratio(ours_, peer, "≥ 1,000")
    for ours_, peer in ((chain, "DBOS on SQLite, ten steps"), (diamond, "DBOS on SQLite, ten steps")):
        sheet.ratio(ours_, peer, "≥ 1,000")
    steps = [(1 / whole - 1 / one) / (STEPS - 1) * one for whole, one in zip(sheet.values(chain), sheet.values(single), strict=True)]
    sheet.add("a further step of a chain / a whole event of one function", steps, "x", "< 1")
