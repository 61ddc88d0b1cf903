"""The rules of the house, held by programs. A program that is missing fails its test."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any

import pytest
from typer.core import TyperOption
from typer.main import get_command

from tests import claims
from vcloud.cli.app import app

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "vcloud"
MODULES = sorted(PACKAGE.rglob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("*.py"))
PURE_PACKAGES = (
    "documents",
    "spec",
    "patterns",
    "profiles",
    "design",
    "compile",
    "placement",
    "plan",
    "proof",
)
PURE = (
    *(f"vcloud.{name}" for name in PURE_PACKAGES),
    "vcloud.values",
    "vcloud.imports",
    "vcloud.marks",
    "vcloud.tenancy",
    "vcloud.signature",
    "vcloud.packages",
    "vcloud.errors",
    "vcloud.data",
    "vcloud.untrusted",
)
IMPURE = frozenset(
    {
        "libvirt",
        "libvirt_qemu",
        "paramiko",
        "rich",
        "typer",
        "subprocess",
        "socket",
        "urllib.request",
        "http",
    }
)
AROUND = frozenset(
    {
        "os",
        "time",
        "random",
        "secrets",
        "stat",
        "sys",
        "pathlib.Path",
        "datetime.datetime",
        "uuid.uuid4",
    }
)
HYPERVISOR = frozenset({"libvirt", "libvirt_qemu", "paramiko"})
LONGEST_MODULE = 500
PACKAGE_SOURCES = re.compile(
    r"\b(?:[\w-]+\.)*(?:debian|ubuntu|kernel|pypi|pythonhosted|npmjs|python)\.(?:org|com|net)\b",
    re.IGNORECASE,
)
"""Where packages come from is the user's choice, or their tools' default."""


def names(path: Path) -> str:
    return str(path.relative_to(ROOT))


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def imports(path: Path) -> Iterator[str]:
    """Every module that a file imports, wherever it stands in it but for what only a type checker
    reads.
    """
    tree = ast.parse(path.read_text())
    for_types = {
        inner for node in ast.walk(tree) if _is_type_checking(node) for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if node in for_types:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{names(path)}:{node.lineno} imports relatively"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _is_type_checking(node: ast.AST) -> bool:
    return (
        isinstance(node, ast.If)
        and isinstance(node.test, ast.Name)
        and node.test.id == "TYPE_CHECKING"
    )


def within(name: str, packages: tuple[str, ...] | frozenset[str]) -> bool:
    return any(name == package or name.startswith(f"{package}.") for package in packages)


def tracked_files() -> list[Path]:
    listed = run("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard")
    return [path for path in (ROOT / name for name in listed.split("\0") if name) if path.is_file()]


def run(*argv: str) -> str:
    """The program's output; its failure fails the test with what it said."""
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, f"{' '.join(argv[:4])}:\n{done.stdout}{done.stderr}"
    return done.stdout


def shell_scripts() -> list[str]:
    """Files that a shell runs, by their first line."""
    return [
        names(path)
        for path in tracked_files()
        if re.match(rb"#!\S*/(env )?(busybox )?(ba)?sh\n", _head(path))
    ]


def _head(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(80)


@pytest.mark.parametrize(
    "command",
    [
        ["ruff", "check"],
        ["ruff", "format", "--check"],
        ["mypy"],
        ["mypy", "--explicit-package-bases", "tests/bench"],
    ],
    ids=" ".join,
)
def test_the_linters_have_nothing_to_say(command: list[str]) -> None:
    """The benches are no part of `make test`, so their types are checked here."""
    run(sys.executable, "-m", *command)


def test_shellcheck_has_nothing_to_say() -> None:
    """Files that scripts read in are followed. SC2187 only says that busybox's shell is checked as
    dash.
    """
    scripts = shell_scripts()
    assert {".ci/run", "images/firewall/files/usr/lib/vcloud/firewall-load"} <= set(scripts)
    run("shellcheck", "--external-sources", "--source-path=SCRIPTDIR", "--exclude=SC2187", *scripts)


@pytest.mark.parametrize(
    "path", [path for path in MODULES if within(module_name(path), PURE)], ids=module_name
)
def test_the_core_is_pure(path: Path) -> None:
    """It imports of vcloud only what is pure too, and nothing that reaches a host, a process, the
    network or a terminal.
    """
    for name in imports(path):
        assert not name.startswith("vcloud.") or within(name, PURE), f"{names(path)} imports {name}"
        assert not within(name, IMPURE), f"{names(path)} imports {name}"


@pytest.mark.parametrize(
    "path",
    [path for path in MODULES if within(module_name(path), PURE) and path.stem != "data"],
    ids=module_name,
)
def test_the_core_depends_on_nothing_around_it(path: Path) -> None:
    """Same input, same bytes: it asks neither the clock, nor chance, nor the files and the
    environment of this machine.
    """
    assert not [name for name in imports(path) if within(name, AROUND)], names(path)


def test_documents_and_patterns_know_none_of_those_who_use_them() -> None:
    for package, known in {
        "documents": (),
        "patterns": ("vcloud.documents",),
        "spec": ("vcloud.documents", "vcloud.patterns", "vcloud.values", "vcloud.tenancy"),
    }.items():
        for path in (PACKAGE / package).glob("*.py"):
            ours = [name for name in imports(path) if within(name, ("vcloud",))]
            others = [
                name
                for name in ours
                if not within(name, (f"vcloud.{package}", "vcloud.errors", *known))
            ]
            assert not others, f"{names(path)} imports {others}"


def test_only_hosts_speaks_to_the_hypervisor() -> None:
    for path in MODULES:
        if not within(module_name(path), ("vcloud.hosts",)):
            assert not [name for name in imports(path) if within(name, HYPERVISOR)], names(path)


def test_nothing_imports_the_command_line_but_itself() -> None:
    for path in MODULES:
        if not within(module_name(path), ("vcloud.cli", "vcloud.__main__")):
            assert not [name for name in imports(path) if within(name, ("vcloud.cli",))], names(
                path
            )


def test_hosts_and_images_know_nothing_of_those_who_use_them() -> None:
    for path in MODULES:
        if within(module_name(path), ("vcloud.hosts", "vcloud.images")):
            assert not [
                name
                for name in imports(path)
                if within(name, ("vcloud.apply", "vcloud.verify", "vcloud.lab"))
            ], names(path)


@pytest.mark.parametrize("package", ["vcloud.verify", "vcloud.views", "vcloud.guests"])
def test_what_only_reads_does_not_import_what_changes(package: str) -> None:
    """`verify` and `status` must not build an image or start a lab, whatever happens."""
    for path in MODULES:
        if within(module_name(path), (package,)):
            assert not [
                name
                for name in imports(path)
                if within(name, ("vcloud.apply", "vcloud.lab", "vcloud.images"))
            ], names(path)


def test_no_modules_and_no_rooms_import_each_other_in_a_circle() -> None:
    """A room is a package of `vcloud`, with all that is below it, or a module beside the packages."""
    known = {module_name(path) for path in MODULES}
    arrows = {
        module_name(path): {
            name if name in known else name.rpartition(".")[0]
            for name in imports(path)
            if name.startswith("vcloud.")
        }
        & known
        for path in MODULES
    }
    TopologicalSorter(arrows).prepare()  # raises CycleError, which names the circle
    rooms: dict[str, set[str]] = {}
    for module, imported in arrows.items():
        rooms.setdefault(room(module), set()).update(map(room, imported))
    TopologicalSorter({name: others - {name} for name, others in rooms.items()}).prepare()


def room(module: str) -> str:
    return ".".join(module.split(".")[:2])


def test_only_the_command_line_ends_the_process() -> None:
    """`vcloud.guests.remote`, the reporter and the hook are programs of their own, which other machines run.
    `vcloud.images.inside` is one, too: it starts the commands of a build.
    """
    programs = (
        "vcloud.guests.remote",
        "vcloud.enforce.host_report",
        "vcloud.enforce.qemu_hook",
        "vcloud.images.inside",
    )
    for path in MODULES:
        if not within(module_name(path), ("vcloud.cli", *programs)):
            ends = re.findall(
                r"\b(?:sys\.exit|os\._exit|SystemExit|typer\.Exit)\b", path.read_text()
            )
            assert not ends, names(path)


def test_no_shell_interprets_a_string() -> None:
    for path in MODULES:
        assert not re.search(r"shell=True|os\.system|os\.popen", path.read_text()), names(path)


def test_a_packages_own_file_holds_its_reasons_and_nothing_else() -> None:
    for path in PACKAGE.rglob("__init__.py"):
        tree = ast.parse(path.read_text())
        assert ast.get_docstring(tree), names(path)
        others = [ast.unparse(node).partition(" = ")[0] for node in tree.body[1:]]
        assert others == (["__version__"] if path.parent == PACKAGE else []), names(path)


def test_every_module_says_what_it_is_and_is_short_enough_to_be_read() -> None:
    for path in MODULES:
        text = path.read_text()
        assert ast.get_docstring(ast.parse(text)) or path.name == "__main__.py", names(path)
        assert len(text.splitlines()) <= LONGEST_MODULE, names(path)
        assert path.stem not in ("utils", "util", "helpers", "misc", "common"), names(path)


def test_every_module_of_tests_is_short_enough_to_be_read() -> None:
    assert [
        names(path) for path in TESTS if len(path.read_text().splitlines()) > LONGEST_MODULE
    ] == []


def test_no_file_names_a_place_that_packages_come_from() -> None:
    for path in tracked_files():
        text = path.read_text(errors="replace")
        assert not PACKAGE_SOURCES.search(text), f"{names(path)}: {PACKAGE_SOURCES.findall(text)}"


def test_help_works_and_names_every_command() -> None:
    shown = [name for name, command in commands(get_command(app)) if not command.hidden]
    text = run(sys.executable, "-m", "vcloud", "--help")
    assert {
        "init",
        "validate",
        "plan",
        "up",
        "down",
        "status",
        "verify",
        "ssh",
        "image build",
        "lab up",
    } <= set(shown)
    for name in shown:
        assert re.search(rf"^\W*{name.split()[0]} ", text, re.MULTILINE), name
    assert "Exit codes:" in text


def test_every_command_explains_itself_and_its_options() -> None:
    for name, command in commands(get_command(app)):
        assert command.help, name
        assert not [
            option.name
            for option in command.params
            if isinstance(option, TyperOption) and not option.help
        ], name


def commands(group: Any, *path: str) -> Iterator[tuple[str, Any]]:
    """Every command with its full name."""
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, *path, name)
        else:
            yield " ".join((*path, name)), command


def test_an_installed_vcloud_brings_its_templates_and_images(tmp_path: Path) -> None:
    """The wheel's layout, laid out by hand from its configuration: the package finds its data
    there, not in the checkout.
    """
    included = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"][
        "targets"
    ]["wheel"]["force-include"]
    shutil.copytree(PACKAGE, tmp_path / "vcloud", ignore=shutil.ignore_patterns("__pycache__"))
    for source, target in included.items():
        shutil.copytree(ROOT / source, tmp_path / target)
    program = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n"
        "from vcloud.data import images_dir, templates_dir\n"
        "from vcloud.images.recipe import load_recipe\n"
        "from vcloud.profile_files import shipped\n"
        "assert 'pci-dss' in shipped()\n"
        "print(templates_dir() / 'vapps' / 'shop.yaml', *(load_recipe(folder).folder for folder in images_dir().iterdir()))"
    )
    found = [Path(name) for name in run(sys.executable, "-I", "-c", program).split()]
    assert len(found) > 5
    assert all(path.exists() and path.is_relative_to(tmp_path / "vcloud") for path in found)


def replaces_our_own_code(path: Path) -> Iterator[str]:
    """Calls in a test that put something else in the place of an attribute of vcloud."""
    tree = ast.parse(path.read_text())
    ours = {
        alias.asname or alias.name.partition(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
        if (getattr(node, "module", None) or alias.name).partition(".")[0] == "vcloud"
    }
    for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call) and node.args):
        named = getattr(call.func, "attr", getattr(call.func, "id", ""))
        if named not in ("setattr", "delattr", "patch", "object"):
            continue
        target = re.match(r"""f?['"]?(\w+)""", ast.unparse(call.args[0]))
        if target and target[1] in {*ours, "vcloud"}:
            yield f"{path}:{call.lineno}"


def test_no_test_replaces_our_own_code() -> None:
    """A test that does proves only that the replacement works."""
    assert [place for path in TESTS for place in replaces_our_own_code(path)] == []
    assert not [
        names(path)
        for path in TESTS
        if any(within(name, ("unittest.mock", "mock")) for name in imports(path))
    ]


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("monkeypatch.setattr('vcloud.hosts.pool.FOLDER', 1)", 1),
        ("monkeypatch.setattr(f'vcloud.{place}', 1)", 1),
        ("monkeypatch.setattr(pool, 'FOLDER', 1)", 1),
        ("monkeypatch.delattr(pool.StoragePool, 'path')", 1),
        ("mock.patch('vcloud.hosts.pool.FOLDER')", 1),
        ("monkeypatch.setattr(sys, 'argv', [])", 0),
        ("monkeypatch.setenv('VCLOUD_FILE', 'x')", 0),
    ],
)
def test_a_replacement_of_our_own_code_is_found(tmp_path: Path, line: str, found: int) -> None:
    path = tmp_path / "test_some.py"
    path.write_text(f"import sys\nfrom vcloud.hosts import pool\n{line}\n")
    assert len(list(replaces_our_own_code(path))) == found


def test_no_test_is_skipped() -> None:
    """A test of something that a machine lacks fails there, because a run without it would prove
    nothing.
    """
    ways = re.compile(
        r"pytest\.(?:skip|xfail|importorskip)\b|mark\.(?:skip|skipif|xfail)\b|unittest\.skip"
    )
    found = [
        f"{names(path)}: {line}"
        for path in TESTS
        if path != Path(__file__)
        for line in ways.findall(path.read_text())
    ]
    assert found == []


def test_every_claim_of_the_last_release_is_still_held_by_a_test() -> None:
    """Whoever moves or merges tests writes a row into tests/claims.tsv."""
    moved, tests = claims.moves(), set(claims.present())
    assert [claim for claim in claims.claims() if claims.successor(claim, moved) not in tests] == []


def test_every_row_of_the_table_of_claims_is_about_a_test_or_file_of_the_last_release() -> None:
    known = {place for claim in claims.claims() for place in (claim, claim.partition("::")[0])}
    assert sorted(set(claims.moves()) - known) == []
