"""Print an apt source (deb822) for another suite of Debian, from the archive that this machine's own sources name.

Usage: apt_suite.py SUITE [APT_DIRECTORY]. Reads sources.list and sources.list.d/*.list (one line an entry) and
sources.list.d/*.sources (deb822 stanzas), picks the first enabled entry that carries `main` of Debian itself (no
security, backports or updates, no other vendor), and keeps how it is verified. Uses nothing but the standard library.

Source: sources.list(5).
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_RELEASES = re.compile(
    r"(?:sid|unstable|testing|stable|oldstable|oldoldstable|bullseye|bookworm|trixie|forky|duke|experimental)/?"
)
_ONE_LINE = re.compile(r"^deb\s+(?:\[(?P<options>[^\]]*)\]\s+)?(?P<uri>\S+)\s+(?P<suite>\S+)\s+(?P<components>.+)$")
_KEPT = ("Signed-By", "Trusted", "Check-Valid-Until", "Allow-Insecure")


@dataclass(frozen=True, slots=True)
class Source:
    """One entry of apt's sources; *fields* are deb822 ones, a value of several lines keeps its line breaks."""

    uris: tuple[str, ...]
    suites: tuple[str, ...]
    components: tuple[str, ...]
    fields: tuple[tuple[str, str], ...] = ()

    def is_debian_main(self) -> bool:
        """Say whether this is the main archive: a release by its name, `main`, and no security archive."""
        return (
            bool(self.uris)
            and "main" in self.components
            and any(_RELEASES.fullmatch(suite) for suite in self.suites)
            and not any("security" in uri for uri in self.uris)
        )

    def for_suite(self, suite: str) -> str:
        """Write the entry as a deb822 stanza for *suite*, `main` only."""
        lines = ["Types: deb", f"URIs: {' '.join(self.uris)}", f"Suites: {suite}", "Components: main"]
        lines += [f"{name}: {value}" for name, value in self.fields]
        return "\n".join(lines) + "\n"


def parse_one_line(text: str) -> Iterator[Source]:
    """Parse a file of the old format; comments, `deb-src` and lines apt would refuse give nothing."""
    for line in text.splitlines():
        if match := _ONE_LINE.match(line.partition("#")[0].strip()):
            components = tuple(match["components"].split())
            yield Source((match["uri"],), (match["suite"],), components, tuple(_options(match["options"] or "")))


def _options(text: str) -> Iterator[tuple[str, str]]:
    known = {name.lower(): name for name in _KEPT}
    for option in text.split():
        name, _, value = option.partition("=")
        if name.lower() in known:
            yield known[name.lower()], value.replace(",", " ")


def parse_deb822(text: str) -> Iterator[Source]:
    """Parse a file of the deb822 format; disabled stanzas and those without binary packages give nothing."""
    uncommented = "\n".join(line for line in text.splitlines() if not line.startswith("#"))
    for stanza in re.split(r"\n\s*\n", uncommented):
        fields = dict(_fields(stanza))
        if "deb" not in fields.get("types", "").split() or fields.get("enabled", "yes").lower() in ("no", "false"):
            continue
        kept = tuple((name, fields[name.lower()]) for name in _KEPT if name.lower() in fields)
        uris, suites, components = (tuple(fields.get(name, "").split()) for name in ("uris", "suites", "components"))
        yield Source(uris, suites, components, kept)


def _fields(stanza: str) -> Iterator[tuple[str, str]]:
    for match in re.finditer(r"^(?P<name>[\w-]+):[ \t]*(?P<value>.*(?:\n[ \t].*)*)", stanza, re.MULTILINE):
        yield match["name"].lower(), match["value"].rstrip()


def read_sources(apt_directory: Path) -> Iterator[Source]:
    """Read every enabled binary entry below *apt_directory*, in apt's own order of files."""
    parts = sorted((apt_directory / "sources.list.d").glob("*"))
    for path in (apt_directory / "sources.list", *parts):
        if path.suffix == ".list" and path.is_file():
            yield from parse_one_line(path.read_text(errors="replace"))
        elif path.suffix == ".sources" and path.is_file():
            yield from parse_deb822(path.read_text(errors="replace"))


def main(arguments: list[str]) -> int:
    """Print the stanza; 1 and a reason where the machine names no archive of Debian."""
    suite, *rest = arguments
    apt_directory = Path(rest[0] if rest else "/etc/apt")
    source = next((source for source in read_sources(apt_directory) if source.is_debian_main()), None)
    if source is None:
        print(f"{apt_directory}: no enabled entry for main of Debian, so no suite {suite!r}", file=sys.stderr)
        return 1
    print(source.for_suite(suite), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
