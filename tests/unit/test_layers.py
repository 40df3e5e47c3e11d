"""Who may import what, and what a module may do when it is imported: read from the source.

An import counts wherever it stands: at the top, in a function, or for type checking only.
"""

import ast
import fnmatch
import re
import sys
from collections.abc import Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from itertools import permutations
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
OURS = ("services", "shared")
STAGES = ("fetcher", "parser", "rewriter", "deliverer")

CORE = ("message", "outcome", "errors", "clock", "ledger", "queues", "failpoint")
"""The modules of ``shared`` that stand on the standard library and each other."""

LIBRARIES = {
    "msgpack": ("shared.wire",),
    "pika": ("shared.broker.rabbitmq*",),
    "kombu": ("shared.broker.topology", "shared.broker.steward*"),
    "amqp": ("shared.broker.topology", "shared.broker.steward*"),
    "sqlalchemy": ("shared.state*",),
    "fsspec": ("shared.spool*",),
    "pydantic": ("shared.settings*",),
    "pydantic_core": ("shared.settings*",),
    "tzlocal": ("shared.settings.schedules",),
    "tomli": ("shared.settings.source",),
    "prometheus_client": ("shared.metrics",),
    "python_socks": ("shared.network.proxy",),
    "scramp": ("shared.authentication.scram",),
    "spnego": ("shared.authentication.ntlm",),
    "tenacity": ("shared.waiting", "shared.state.database", "services.fetcher.pop3.connection"),
    "click": ("services.command_line", "services.postmaster.*"),
    "rich": ("services.run", "services.postmaster.*"),
    "authlib": ("shared.oauth.token_server", "shared.oauth.code_flow"),
    "httpx2": ("shared.oauth.token_server",),
    "joserfc": ("shared.oauth.token_server",),
    "cryptography": ("shared.oauth.certificate", "shared.oauth.sealing"),
    "pop3_connector": ("services.__main__", "services.*.__main__"),  # ours: how a process begins
}
"""Which modules may import a library; no other library is imported at all."""

_OF_THE_LOG = ("shared.log.printable", "shared.log.Report", "shared.log.silent")
_NETWORK = (
    "shared.network.dial",
    "shared.network.proxy",
    "shared.network.same_host",
    "shared.network.explain",
    "shared.network.dialogue",
    "shared.network.tls",
    "shared.redaction.redaction",
    "shared.redaction.known_secrets",
    "shared.authentication",
)
_OF_DISKS = ("shared.disk.explain", "shared.disk.durable")
_OF_TASKS = (
    "shared.backoff",
    "shared.daemon_thread",
    "shared.supervision",
    "shared.waiting",
)
_OF_MARKS = ("shared.mark",)
HANDLERS_MAY = (
    *(f"shared.{name}" for name in CORE),
    "shared.group_commit",
    "shared.timetable",
    *_NETWORK,
    *_OF_THE_LOG,
    *_OF_TASKS,
    *_OF_DISKS,
    *_OF_MARKS,
)
"""What the modules of a stage import beside their own folder."""


def modules() -> dict[str, ast.Module]:
    """Return every module of the product by its dotted name."""
    files = [file for package in OURS for file in (ROOT / package).rglob("*.py")]
    files.append(ROOT / "pop3_connector.py")
    return {name_of(file): ast.parse(file.read_text()) for file in sorted(files)}


def name_of(file: Path) -> str:
    """Return the dotted name of a module."""
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = modules()
PACKAGES = {name for name in MODULES if any(m.startswith(f"{name}.") for m in MODULES)}


@cache
def imports(module: str) -> tuple[str, ...]:
    """Return what a module imports: ``a.b.c`` for ``from a.b import c``."""
    return tuple(_imports(module))


def _imports(module: str) -> Iterator[str]:
    for node in ast.walk(MODULES[module]):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = origin(module, node)
            yield from (f"{base}.{alias.name}" for alias in node.names)


def origin(module: str, node: ast.ImportFrom) -> str:
    """Return the absolute name of what stands after ``from``."""
    if not node.level:
        return node.module or ""
    above = module.split(".")
    keep = len(above) - node.level + (module in PACKAGES)
    return ".".join((*above[:keep], *([node.module] if node.module else [])))


def within(name: str, *places: str) -> bool:
    """Return whether a dotted name is one of these places or lies in it."""
    return any(name == place or name.startswith(f"{place}.") for place in places)


def in_wiring(module: str) -> bool:
    """Return whether a module puts the parts together: an entry point, or next to the stages."""
    beside = module.count(".") == 1 and module not in PACKAGES
    return module.endswith((".__main__", ".wiring")) or (beside and within(module, "services"))


def matches(module: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatch.fnmatchcase(module, pattern) for pattern in patterns)


def test_the_core_stands_on_the_standard_library_and_itself() -> None:
    core = tuple(f"shared.{name}" for name in CORE)
    for module in core:
        for name in imports(module):
            known = within(name, *core) or name.split(".")[0] in sys.stdlib_module_names
            assert known, f"{module} imports {name}"


def test_a_library_is_known_where_it_is_wrapped_and_nowhere_else() -> None:
    for module in MODULES:
        for name in imports(module):
            top = name.split(".")[0]
            if top in sys.stdlib_module_names or top in OURS:
                continue
            assert top in LIBRARIES, f"{module} imports {name}"
            assert matches(module, LIBRARIES[top]), f"{module} imports {name}"


def test_shared_knows_no_service() -> None:
    for module in (m for m in MODULES if within(m, "shared")):
        assert not [name for name in imports(module) if within(name, "services")], module


def test_services_do_not_know_each_other() -> None:
    for module in (m for m in MODULES if within(m, "services")):
        if in_wiring(module):
            continue
        own = ".".join(module.split(".")[:2])
        others = [n for n in imports(module) if within(n, "services") and not within(n, own)]
        assert not others, f"{module} imports {others}"


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_knows_the_core_and_its_own_folder(stage: str) -> None:
    own = f"services.{stage}"
    found = [m for m in MODULES if within(m, own) and not in_wiring(m)]
    assert found
    for module in found:
        for name in imports(module):
            if within(name, *OURS):
                assert within(name, own, *HANDLERS_MAY), f"{module} imports {name}"


def test_the_runner_knows_no_broker_in_particular() -> None:
    loop = ("runner", "stage", "settlement", "settler", "queue_publisher")
    for module in (f"shared.{name}" for name in loop):
        for name in imports(module):
            implementation = f"shared.broker.{name.split('.')[2]}" if name.count(".") > 1 else ""
            known = within(name, "shared.broker") and implementation in MODULES
            assert not known, f"{module} imports {name}"


def test_settings_are_read_by_those_who_wire() -> None:
    for module in MODULES:
        if in_wiring(module) or matches(module, ("services.postmaster*", "shared.settings*")):
            continue
        assert not [name for name in imports(module) if within(name, "shared.settings")], module


def test_a_stage_is_wired_by_its_own_package_and_by_what_begins_a_process() -> None:
    for module in MODULES:
        if in_wiring(module):
            continue
        for name in imports(module):
            others = matches(name, ("services.*.wiring", "services.*.wiring.*"))
            assert not others, f"{module} imports {name}"


@pytest.mark.parametrize(
    ("one", "other"),
    [
        *permutations(("smtp", "imap", "files"), 2),
        *(("servers", one) for one in ("smtp", "imap", "files")),
        ("files", "servers"),
    ],
)
def test_ways_to_deliver_share_no_code_of_each_other(one: str, other: str) -> None:
    own, foreign = (f"services.deliverer.{name}" for name in (one, other))
    found = [module for module in MODULES if within(module, own)]
    assert len(found) > 1
    assert not [m for m in found for name in imports(m) if within(name, foreign)]


def test_the_pop3_session_knows_nothing_of_the_fetcher_but_what_a_header_block_is() -> None:
    own, may = "services.fetcher.pop3", "services.fetcher.identity"
    found = [module for module in MODULES if within(module, own)]
    assert len(found) > 1
    for module in found:
        for name in imports(module):
            assert not within(name, "services") or within(name, own, may), f"{module}: {name}"


def test_no_module_imports_another_that_imports_it() -> None:
    """Neither at the top nor anywhere else, nor by way of third ones."""
    graph = {module: {known(name) for name in imports(module)} - {module} for module in MODULES}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as circle:
        pytest.fail(" <- ".join(circle.args[1]))


def known(name: str) -> str:
    """Return the module in which an imported name is found; of a library, its first part."""
    parts = name.split(".")
    ends = range(len(parts), 0, -1)
    return next((m for end in ends if (m := ".".join(parts[:end])) in MODULES), parts[0])


def test_the_map_in_the_docs_names_the_packages_that_there_are() -> None:
    drawn, above = list[str](), dict[int, str]()
    text = (ROOT / "docs/architecture.md").read_text()
    for line in text.partition("## Modules")[2].split("```")[1].splitlines():
        if found := re.match(r"( *)(\w+)/ ", line):
            indent, name = len(found[1]), found[2]
            above[indent] = name if not indent else f"{above[indent - 2]}.{name}"
            drawn.append(above[indent])
    assert sorted(drawn) == sorted(PACKAGES)


def at_import(tree: ast.Module) -> Iterator[ast.stmt]:
    """Yield the statements that run when a module is imported, but for the main clause."""
    for node in tree.body:
        if isinstance(node, ast.If) and "__name__" in ast.dump(node.test):
            continue
        yield node


HARMLESS = (
    *(ast.Import, ast.ImportFrom, ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef),
    *(ast.Assign, ast.AnnAssign),
)
WORK = ("open", "print", "connect", "create_engine", "getenv", "environ", "run", "gethostname")


def is_harmless(node: ast.stmt) -> bool:
    """Return whether a statement may stand at the top of a module.

    Docstrings may, and adding a command to a group of commands.
    """
    if isinstance(node, ast.Expr):
        adds = isinstance(node.value, ast.Call) and ".add_command(" in ast.unparse(node)
        return adds or isinstance(node.value, ast.Constant)
    if isinstance(node, ast.If):
        return ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING")
    return isinstance(node, HARMLESS)


def test_importing_a_module_does_no_work() -> None:
    for module in MODULES:
        for node in at_import(MODULES[module]):
            assert is_harmless(node), f"{module}:{node.lineno}: {ast.unparse(node)}"
            if isinstance(node, (ast.Assign, ast.AnnAssign)):
                names = {n.id for n in ast.walk(node) if isinstance(n, ast.Name)}
                names |= {n.attr for n in ast.walk(node) if isinstance(n, ast.Attribute)}
                assert not names.intersection(WORK), f"{module}:{node.lineno}: {ast.unparse(node)}"


EMPTY = ("list", "dict", "set", "defaultdict", "Counter", "deque", "OrderedDict", "bytearray")


def is_state(value: ast.expr | None) -> bool:
    """Return whether a value is an empty container, which can only be there to be filled later."""
    if isinstance(value, ast.List | ast.Set):
        return not value.elts
    if isinstance(value, ast.Dict):
        return not value.keys
    if isinstance(value, ast.Call):
        return ast.unparse(value.func).split(".")[-1] in EMPTY and not value.args
    return False


def test_a_module_holds_no_state() -> None:
    for module in MODULES:
        tree = MODULES[module]
        assert not [n.lineno for n in ast.walk(tree) if isinstance(n, ast.Global)], module
        for node in tree.body:
            if isinstance(node, (ast.Assign, ast.AnnAssign)):
                assert not is_state(node.value), f"{module}:{node.lineno}: {ast.unparse(node)}"


def test_a_module_says_its_purpose() -> None:
    for module in MODULES:
        tree = MODULES[module]
        assert ast.get_docstring(tree) or not tree.body, f"{module} has no docstring"
