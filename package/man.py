"""What does `man rc-push` say? docs/commands.md, as a man page on stdout.

Knows the Markdown that the page uses: headings, paragraphs, tables, blocks, and the marks inside of a line.
"""

from __future__ import annotations

import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "commands.md"
FILES = {
    "/etc/rc-push/config.toml": "the configuration of the system service",
    "/var/lib/rc-push/journal.db": "the journal: every event of the last days",
    "/var/log/rc-push/": "what handlers write",
    "/run/rc-push/control": "where the running service listens for commands",
    "/usr/share/doc/rc-push/": "the other pages of the documentation",
}


def main() -> None:
    """Print the page."""
    sys.stdout.write(page(PAGE.read_text("utf-8"), tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))))


def page(markdown: str, project: dict[str, dict[str, str]]) -> str:
    """Return *markdown* as a man page; its first heading becomes what every man page begins with."""
    version = re.findall(r'__version__ = "(.+)"', (ROOT / "rc_push" / "__init__.py").read_text("utf-8"))[0]
    about = project["project"]["description"]
    lines = [
        f'.TH RC-PUSH 1 "" "rc-push {version}" "rc-push"',
        ".SH NAME",
        rf"rc-push \- {inline(about[0].lower() + about[1:])}",
        ".SH DESCRIPTION",
        *body(re.sub(r"\A# .*\n", "", markdown)),
        ".SH FILES",
    ]
    for path, meaning in FILES.items():
        lines += [".TP", rf"\fI{path}\fR", inline(meaning)]
    lines += [".SH SEE ALSO", r"\fBsystemctl\fR(1), \fBjournalctl\fR(1), \fBsystemd.exec\fR(5), \fBsystemd-creds\fR(1)"]
    return "\n".join(lines) + "\n"


def body(markdown: str) -> Iterator[str]:
    """Yield the requests and lines of everything below the first heading."""
    for part in re.split(r"\n{2,}", markdown.strip()):
        if heading := re.fullmatch(r"#+ (.+)", part):
            yield f".SH {inline(heading[1]).upper()}"
        elif part.startswith("|"):
            yield from table(part.splitlines())
        elif part.startswith("```"):
            yield from [".PP", ".EX", *(escaped(line) for line in part.splitlines()[1:-1]), ".EE"]
        else:
            yield from [".PP", *(safe(inline(line)) for line in part.splitlines())]


def table(lines: list[str]) -> Iterator[str]:
    """Yield a paragraph for each row: its first cell hangs out, the others follow under their headings."""
    head, *rows = ([cell.strip() for cell in line.strip("|").split("|")] for line in lines)
    for first, meaning, *others in rows[1:]:
        yield from [".TP", rf"\fB{inline(first.replace('`', ''))}\fR", safe(inline(meaning))]
        for name, cell in zip(head[2:], others, strict=True):
            if cell:
                yield from [".br", f"{name}: {inline(cell)}"]


def inline(text: str) -> str:
    """Return one line with its marks as fonts; of links, the text and the page."""
    text = re.sub(r"\[([^\]]+)\]\(([^)#]+)[^)]*\)", r"\1: \2", text)
    parts = re.split(r"`([^`]+)`", text)  # what is code stands at the odd places
    return "".join(rf"\fB{escaped(part)}\fR" if at % 2 else escaped(part) for at, part in enumerate(parts))


def escaped(text: str) -> str:
    """Return *text* as roff shows it: a backslash is one, a hyphen can be copied from the page."""
    return text.replace("\\", r"\e").replace("-", r"\-")


def safe(line: str) -> str:
    """Return *line* so that it is no request."""
    return rf"\&{line}" if line.startswith((".", "'")) else line


if __name__ == "__main__":
    main()
