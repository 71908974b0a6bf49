"""The house keeps its order: imports point down, stages do not know each other, every room has its tests."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import runtime

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "runtime"

# Each line imports only from lines above it; parts of one line may know each other unless they are stages.
FLOORS = [
    ["errors", "event", "pattern", "proto", "stacks", "threads", "toml", "redaction"],
    ["codec", "headers"],
    ["cloudevents", "bindings", "records", "function", "protobuf"],
    ["parameters", "example", "settings"],
    ["specs", "resources", "targets"],
    ["options", "placeholders", "describe"],
    ["contracts", "graph", "config"],
    ["clock", "hookspecs", "notices", "watchdog", "web", "webserver", "posting"],
    ["loading"],
    ["folder", "offers"],
    ["plugins", "catalogue", "schema", "parts", "changes"],
    ["journal"],
    ["executors"],
    ["flow"],
    ["timeouts", "keeper"],
    ["worker"],
    ["engine", "isolated"],
    ["inlet"],
    ["supervisor", "sources", "reconfigure", "invoke", "check"],
    ["app"],
    ["admin"],
    ["testing"],
    ["cli"],
    ["__main__"],
]
FLOOR_OF = {name: floor for floor, names in enumerate(FLOORS) for name in names}
STAGES = {"intake", "dispatch", "router", "outcomes", "delivery"}


def modules() -> dict[str, Path]:
    found = {}
    for path in PACKAGE.rglob("*.py"):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = modules()


def imports(path: Path) -> Iterator[str]:
    """Yield the modules of ours that a file imports, wherever it does; what is only for type checkers is left out."""
    waiting: list[ast.AST] = [ast.parse(path.read_text())]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in MODULES)
        elif isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "runtime":
            assert not node.level, f"{path}: relative import"
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                yield whole if whole in MODULES else node.module
        waiting.extend(ast.iter_child_nodes(node))


def room(module: str) -> str:
    return module.split(".")[1]


@pytest.mark.parametrize("module", sorted(set(MODULES) - {"runtime"}))
def test_imports_point_down(module: str) -> None:
    for imported in imports(MODULES[module]):
        if imported == "runtime":
            continue
        if room(imported) == room(module):
            continue
        assert FLOOR_OF[room(imported)] <= FLOOR_OF[room(module)], f"{module} imports {imported}, which stands above it"


def test_no_module_imports_itself_in_a_circle() -> None:
    import graphlib

    graph = {module: set(imports(path)) - {"runtime"} for module, path in MODULES.items() if module != "runtime"}
    graph = {module: {one for one in wanted if one != module} for module, wanted in graph.items()}
    list(graphlib.TopologicalSorter(graph).static_order())


def test_stages_of_the_flow_do_not_know_each_other() -> None:
    for stage in STAGES:
        known = {imported.rpartition(".")[2] for imported in imports(PACKAGE / "flow" / f"{stage}.py")}
        assert not known & STAGES, f"flow/{stage}.py imports {known & STAGES}"


def test_only_admin_testing_and_the_command_line_know_the_app() -> None:
    knowing = {room(module) for module, path in MODULES.items() if "runtime.app" in set(imports(path))}
    assert knowing <= {"admin", "testing", "cli"}


def test_plugins_import_only_what_the_public_face_gives() -> None:
    for path in (ROOT / "plugins").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "runtime":
                assert node.module == "runtime", f"{path.name}:{node.lineno} imports from {node.module}"
                assert {alias.name for alias in node.names} <= set(runtime.__all__), f"{path.name}:{node.lineno}"


def test_the_public_face_is_what_it_says_and_light_to_import() -> None:
    assert sorted(runtime.__all__) == runtime.__all__
    assert all(hasattr(runtime, name) for name in runtime.__all__)
    told = "import sys; before = set(sys.modules); import runtime; print(*sorted(set(sys.modules) - before))"
    imported = subprocess.run([sys.executable, "-c", told], capture_output=True, text=True, check=True, cwd=ROOT).stdout.split()
    assert [name for name in imported if name.startswith("runtime.")] == ["runtime.errors", "runtime.event", "runtime.function"]
    assert not {"asyncio", "uvicorn", "starlette", "watchdog", "apsw", "sqlite3", "click", "pluggy"} & set(imported)


UNTESTED = {
    "runtime": "its face is tested here",
    "runtime.__main__": "every test of the command line starts it",
    "runtime.clock": "a thin face of the operating system's",
    "runtime.event": "tests/test_cloudevents.py",
    "runtime.headers": "tests/test_cloudevents.py: what stands in headers",
    "runtime.cli.version": "tests/cli/test_main.py: --version",
    "runtime.journal.sqlite.rows": "tests/journal/sqlite/test_journal.py",
    "runtime.journal.sqlite.writing": "tests/journal/sqlite/test_journal.py",
    "runtime.journal.sqlite.jobs": "tests/journal/sqlite/test_journal.py",
    "runtime.journal.sqlite.changes": "tests/journal/sqlite/test_journal.py",
    "runtime.journal.sqlite.mover": "tests/journal/sqlite/test_journal.py and tests/faults",
    "runtime.journal.sqlite.statement": "tests/journal/sqlite/test_journal.py",
    "runtime.journal.sqlite.known": "tests/journal/sqlite/test_journal.py",
    "runtime.journal.sqlite.reading": "tests/journal/sqlite/test_journal.py",
    "runtime.journal.sqlite.writer": "tests/journal/sqlite/test_journal.py and tests/faults",
    "runtime.journal.sqlite.files": "tests/journal/sqlite/test_journal.py and tests/faults",
    "runtime.journal.sqlite.schema": "tests/journal/sqlite/test_journal.py and tests/faults",
    "runtime.settings": "tests/test_config.py reads them all",
    "runtime.placeholders": "tests/test_config.py",
    "runtime.toml": "tests/test_config.py: the messages",
    "runtime.records": "the journal suite is about nothing else",
    "runtime.specs": "tests/test_function.py: the options are what it checks",
    "runtime.hookspecs": "tests/test_plugins.py asks every hook",
    "runtime.folder": "tests/test_reconfigure.py: what is imported anew, and what is kept",
    "runtime.changes": "tests/test_reconfigure.py",
    "runtime.parts": "tests/test_app.py and tests/test_reconfigure.py",
    "runtime.sources": "tests/test_app.py and tests/test_reconfigure.py",
    "runtime.offers": "tests/test_plugins.py: what is wrong with a plugin",
    "runtime.contracts": "the suites in runtime.testing are about nothing else",
    "runtime.proto.function_runtime_pb2": "tests/executors/test_grpc.py: it is what the .proto says",
    "runtime.targets": "tests/test_config.py and tests/executors: the messages",
    "runtime.posting": "tests/plugins/test_webhook.py and tests/executors/test_service.py: by real servers",
    "runtime.protobuf": "tests/plugins/test_grpc.py and tests/executors/test_grpc.py: both ways, by real servers",
    "runtime.redaction": "tests/plugins/test_webhook.py and tests/executors/test_service.py",
    "runtime.executors.post": "tests/executors/test_service.py",
    "runtime.executors.remote": "tests/executors/test_service.py and tests/executors/test_grpc.py",
    "runtime.executors.child": "tests/executors/test_command.py: what a process may do",
    "runtime.executors.kinds": "tests/test_invoke.py and tests/test_worker.py: every function is called through it",
    "runtime.timeouts": "tests/test_worker.py: what takes too long",
    "runtime.flow.executing": "tests/flow/test_dispatch.py: the machine counts what executes",
    "runtime.flow.order": "tests/flow/test_dispatch.py",
    "runtime.flow.results": "tests/test_worker.py: what is no data",
    "runtime.threads": "tests/executors/test_thread.py",
    "runtime.engine": "every test that uses tests/support.py runs on it",
    "runtime.flow.gates": "tests/flow/test_dispatch.py",
    "runtime.flow.keys": "tests/flow/test_dispatch.py",
    "runtime.flow.lanes": "tests/flow/test_dispatch.py: they are what dispatch is made of",
    "runtime.flow.retries": "tests/flow/test_generations.py",
    "runtime.flow.run": "tests/test_worker.py: what a run decides shows only when it is executed",
    "runtime.flow.intake": "tests/test_inlet.py: a source sees it through its inlet",
    "runtime.flow.router": "tests/test_worker.py",
    "runtime.flow.outcomes": "tests/test_worker.py",
    "runtime.flow.failure": "tests/test_worker.py: retries and their delays",
    "runtime.loading.generation": "tests/loading/test_loader.py",
    "runtime.loading.files": "tests/loading/test_importer.py: which files there are",
    "runtime.loading.units": "tests/loading/test_importer.py",
    "runtime.loading.modules": "tests/loading/test_importer.py",
    "runtime.loading.stage": "tests/loading/test_importer.py: what sys.modules and tracebacks show",
    "runtime.admin.shapes": "tests/admin/test_api.py: the shapes are its answers",
    "runtime.admin.listing": "tests/admin/test_api.py",
    "runtime.admin.problems": "tests/admin/test_api.py",
    "runtime.admin.reading": "tests/admin/test_api.py",
    "runtime.admin.showing": "tests/admin/test_api.py and tests/testing/test_harness.py",
    "runtime.admin.server": "tests/admin/test_api.py",
    "runtime.cli": "tests/cli",
    "runtime.executors.crossing": "tests/executors/test_process.py",
    "runtime.executors.pools": "tests/executors/test_process.py",
    "runtime.executors.workers": "tests/executors/test_process.py",
    "runtime.executors.zygotes": "tests/executors/test_process.py",
    "runtime.isolated.line": "tests/executors/test_process.py: what is logged in a worker",
    "runtime.isolated.serving": "tests/executors/test_process.py runs it in real processes",
    "runtime.isolated.zygote": "tests/executors/test_process.py and tests/faults/test_isolated.py",
    "runtime.testing.inlet": "tests/testing/test_sources.py",
    "runtime.testing.process": "tests/testing/test_sources.py and tests/plugins: it runs every source that can be run alone",
    "runtime.testing.recorder": "tests/testing/test_harness.py",
    "runtime.testing.rehearsal": "tests/testing/test_harness.py",
    "runtime.testing.clock": "tests/testing/test_journals.py, and every test that does not wait",
}


def test_every_module_has_a_test_file_or_a_reason() -> None:
    for module, path in MODULES.items():
        parts = module.split(".")[1:]
        test = ROOT / "tests" / Path(*parts[:-1]) / f"test_{parts[-1]}.py" if parts else None
        if path.name == "__init__.py" and module not in ("runtime", "runtime.cli"):
            continue
        assert (test is not None and test.exists()) or module in UNTESTED, (
            f"{module} has no tests/{'/'.join(parts[:-1])}/test_{parts[-1]}.py"
        )
    for path in (ROOT / "plugins").glob("[!_]*.py"):
        assert (ROOT / "tests" / "plugins" / f"test_{path.name}").exists(), f"plugins/{path.name} has no test file"


def test_modules_and_functions_stay_readable() -> None:
    longest = {"runtime.flow.dispatch": 440}  # one mechanism each, told in its essay
    for module, path in MODULES.items():
        text = path.read_text()
        assert text.count("\n") <= longest.get(module, 400), f"{module} is too long"
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                assert (node.end_lineno or 0) - node.lineno <= 70, f"{path.name}:{node.lineno} {node.name} is too long"


def test_no_path_of_a_machine_and_no_open_ends_are_committed() -> None:
    listed = subprocess.run(["git", "ls-files"], capture_output=True, text=True, cwd=ROOT, check=False).stdout.split()
    for name in listed:
        path = ROOT / name
        if path.suffix in (".py", ".md", ".toml", "") and path.is_file() and path != Path(__file__):
            text = path.read_text(errors="replace")
            assert not re.search(r"\b(TODO|FIXME|XXX)\b", text), name
            assert path.parts[-2] == "loading" or not re.search(r"(?<![\w./])/(home|root|work|Users)/", text), name
