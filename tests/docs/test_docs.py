"""The documentation says what the program does: its code runs, its commands parse, its links and pins hold."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[2]
PRETRAINED = ROOT / "dfplan" / "pretrained"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
FENCE = re.compile(
    r"^(?P<mark><!-- no-run -->\n+)?^```(?P<lang>\w+)[^\n]*\n(?P<code>.*?)^```$", re.MULTILINE | re.DOTALL
)
BUNDLED = re.compile(r"from_pretrained\(\s*[\"']([\w-]+)[\"']")


@dataclass(frozen=True)
class Block:
    """One fenced block of a page."""

    language: str
    code: str
    line: int
    runs: bool


def blocks(page: Path) -> list[Block]:
    """List the fenced blocks of a page with the line on which their code starts."""
    text = page.read_text(encoding="utf-8")
    return [
        Block(m["lang"], m["code"], text.count("\n", 0, m.start("code")) + 1, m["mark"] is None)
        for m in FENCE.finditer(text)
    ]


def name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def with_language(*languages: str) -> list[Path]:
    return [page for page in PAGES if any(b.language in languages for b in blocks(page))]


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_fence_is_found(page: Path) -> None:
    """Catches a block that the pattern above would silently leave out (indented, or without a language)."""
    fences = sum(line.lstrip().startswith("```") for line in page.read_text(encoding="utf-8").splitlines())
    assert fences == 2 * len(blocks(page))


@pytest.mark.parametrize("page", with_language("python"), ids=name)
def test_python_blocks_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches code in the documentation that no longer runs; a page is one program."""
    found = [b for b in blocks(page) if b.language == "python"]
    source = "\n".join(b.code for b in found if b.runs)
    absent = sorted(n for n in set(BUNDLED.findall(source)) if not (PRETRAINED / n).is_dir())
    monkeypatch.chdir(tmp_path)
    programs = [(b, compile("\n" * (b.line - 1) + b.code, name(page), "exec")) for b in found]
    if absent:
        pytest.skip(f"bundled checkpoint not in this tree: {', '.join(absent)}")
    namespace: dict[str, Any] = {"__name__": "__main__"}
    for block, program in programs:
        if block.runs:
            exec(program, namespace)


def commands(page: Path) -> list[tuple[int, list[str]]]:
    """List the calls of ``dfplan`` in a page's shell blocks, without the program name."""
    found = []
    for block in blocks(page):
        if block.language not in ("bash", "console", "sh"):
            continue
        for line in block.code.replace("\\\n", " ").splitlines():
            for part in re.split(r"&&|\|\||;|\|", line.removeprefix("$ ")):
                words = shlex.split(part, comments=True)
                calls = [i for i, word in enumerate(words) if word.rpartition("/")[2] == "dfplan"]
                end = words.index(">") if ">" in words else len(words)
                found += [(block.line, words[i + 1 : end]) for i in calls[:1]]
    return found


def parse(words: list[str]) -> None:
    """Let the command line's own parser read the words; it does not call the command."""
    import typer

    from dfplan.cli import app

    command: Any = typer.main.get_command(app)
    context = None
    words = [word for word in words if word not in ("--help", "--version")]  # would print and leave
    if not words:
        return
    while True:
        context = command.make_context(command.name or "dfplan", list(words), parent=context)
        rest = [*getattr(context, "_protected_args", []), *context.args]
        if not hasattr(command, "commands") or not rest:
            return
        _, command, words = command.resolve_command(context, rest)


@pytest.mark.parametrize("page", [p for p in PAGES if commands(p)], ids=name)
def test_shell_commands_parse(page: Path) -> None:
    """Catches a renamed command, option or choice."""
    for line, words in commands(page):
        try:
            parse(words)
        except Exception as error:
            where = f"{name(page)}, block at line {line}"
            raise AssertionError(f"{where}: dfplan {shlex.join(words)}: {error!r}") from error


def test_parser_refuses_what_does_not_exist() -> None:
    """Catches a check above that would let everything pass."""
    with pytest.raises(Exception, match=r"(?i)no such option"):
        parse(["eval", "--env", "maze2d-large", "--no-such-option"])
    with pytest.raises(Exception, match=r"(?i)no such command"):
        parse(["evaluate"])


@pytest.mark.parametrize("page", [ROOT / "README.md", ROOT / "CONTRIBUTING.md"], ids=name)
def test_local_links_exist(page: Path) -> None:
    """Catches a link or picture that points nowhere (the site's own build checks the pages under docs/)."""
    targets = re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text(encoding="utf-8"))
    missing = [t for t in targets if "://" not in t and not (page.parent / t).exists()]
    assert not missing


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_nothing_is_left_to_fill_in(page: Path) -> None:
    """Catches a figure that was announced and never measured."""
    assert "<!-- FILL" not in page.read_text(encoding="utf-8")


def test_tables_come_from_the_results() -> None:
    """Catches a figure in a table that was typed, or that a new result has overtaken."""
    found = subprocess.run(
        [sys.executable, ROOT / "benchmarks" / "tables.py", "--check"], capture_output=True, text=True, check=False
    )
    assert found.returncode == 0, f"{found.stderr}run: python benchmarks/tables.py"


def marked(kind: str) -> str:
    match = re.search(
        rf"<!-- command: {kind} -->\n+```bash\n(.*?)```\n+<!-- end -->",
        (ROOT / "README.md").read_text("utf-8"),
        re.DOTALL,
    )
    assert match, f"README.md has no block marked 'command: {kind}'"
    return match[1].strip()


@pytest.mark.parametrize("kind", ["eval", "test"])
def test_set_up_is_one_line(kind: str) -> None:
    """Catches a set-up line that .ci/run could not take over verbatim, or that asks for an extra that is not there."""
    line = marked(kind)
    assert "\n" not in line
    assert line.startswith("python3 -m venv .venv && .venv/bin/pip install -c constraints.txt ")
    extras = re.search(r"'\.\[([\w,-]+)\]'", line)
    assert extras
    assert set(extras[1].split(",")) <= set(project()["optional-dependencies"])


def project() -> dict[str, Any]:
    table = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert isinstance(table, dict)
    return table


def test_constraints_pin_every_requirement_within_its_range() -> None:
    """Catches a requirement that is left open or contradicted, and pins that only one machine can resolve."""
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    lines = [line for line in lines if line and not line.startswith("#")]
    assert all(re.fullmatch(r"[A-Za-z0-9_.-]+==[0-9][0-9a-z.]*", line) for line in lines)
    pins = {canonical(line.split("==")[0]): Version(line.split("==")[1]) for line in lines}
    extras = project()["optional-dependencies"]
    # The extra d4rl stands outside the set that is tested together.
    wanted = [*project()["dependencies"], *(r for extra in extras if extra != "d4rl" for r in extras[extra])]
    for requirement in map(Requirement, wanted):
        if requirement.name != "dfplan":
            assert canonical(requirement.name) in pins, f"{requirement.name} is not pinned"
            assert pins[canonical(requirement.name)] in requirement.specifier, str(requirement)


def canonical(package: str) -> str:
    return re.sub(r"[-_.]+", "-", package).lower()
