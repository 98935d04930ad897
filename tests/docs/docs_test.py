#!/usr/bin/env python3
"""Holds the documentation against the program: README.md, CONTRIBUTING.md, docs/.

Runs every fenced block marked sh or sql, page by page and in order, as root on a gateway of tests/support/gateway.sh, with a
PostgreSQL of its own, and with `bazel` standing for the programs of this build. All of it happens under an overlay of this
machine's files, in namespaces of its own: a page may write where it likes, and nothing of it stays. Also checks links,
flags (those named exist; those that exist are named), metrics, and that no command hides where it would not be run.

A comment before a block says what is special about it. Several may stand there:

  <!-- test: until: COMMAND -->          it runs until it is stopped: once COMMAND succeeds (and, if it is an engine, traffic was
                                         played), SIGTERM has to end it with status 0. $LOG is a file with its output
  <!-- test: gives: REGEX -->            its output must match
  <!-- test: fails: STATUS -->           its exit status must be this
  <!-- test: before: COMMAND -->         is run first: what the page takes for granted
  <!-- test: elsewhere: FILE: REASON --> is not run; FILE tests it. The test lists these

What a page finds: a spool with rows in /var/spool/ctacct, the same in the database `traffic`, where root and ctacct may
do all; a host name `db` for it; the sources as current folder.
"""

import glob
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import xml.sax.saxutils

SOURCES = os.path.dirname(os.path.dirname(os.path.dirname(os.path.realpath(__file__))))
PAGES = ["README.md", "CHANGELOG.md", "CONTRIBUTING.md"] + sorted(
    os.path.relpath(path, SOURCES) for path in glob.glob(SOURCES + "/docs/*.md"))
# Bazel's label, and where its program lies below the folder of built ones.
PROGRAMS = {
    "//engine": "engine/engine",
    "//engine:names": "engine/names/names",
    "//engine:spooldump": "engine/spool/spooldump",
    "//engine:top": "engine/top/top",
    "//importer": "importer/importer",
    "//importer:doctor": "importer/doctor/doctor",
    "//importer:report": "importer/report/report",
}
GENERATOR = "tests/support/traffic_generator"
LANGUAGES_RUN = ("sh", "sql")
LANGUAGES_SHOWN = ("text", "yaml", "toml", "ini")
ANNOTATIONS = ("until", "gives", "fails", "before", "elsewhere")
# How a command looks that hides in a block which is not run.
COMMAND = re.compile(r"^\s*[$#]?\s*(bazel (run|build)|\./dev|psql|sudo|systemctl|apt|apt-get|ctacct-\w+ -)\b", re.M)
SECONDS_MAX = 120  # For what should take some; a hang must not be Bazel's to find.


def source(path):
    with open(os.path.join(SOURCES, path), encoding="utf-8") as file:
        return file.read()


class Block:
    def __init__(self, page, line, language, text, annotations):
        self.page, self.line, self.language, self.text = page, line, language, text
        self.annotations = annotations  # Of (key, value).

    def get(self, key):
        values = [value for name, value in self.annotations if name == key]
        return values[0] if values else None

    def __str__(self):
        return f"{self.page}:{self.line}"


class Page:
    """A page's blocks, and its prose without them."""

    def __init__(self, path):
        self.path = path
        self.blocks, self.errors = [], []
        prose, annotations, block = [], [], None
        for number, line in enumerate(source(path).splitlines(), 1):
            fence = re.match(r"^( *)```(\w*)\s*$", line)
            if block is not None:
                if fence:
                    self.blocks.append(block)
                    block = None
                else:
                    block.text += line[block.indentation:] + "\n"
                prose.append("")
                continue
            if fence:
                block = Block(path, number, fence[2], "", annotations)
                block.indentation = len(fence[1])
                annotations = []
                if fence[2] not in LANGUAGES_RUN + LANGUAGES_SHOWN:
                    self.errors.append(f"{path}:{number}: a block of language '{fence[2]}'")
                prose.append("")
                continue
            comment = re.match(r"^ *<!-- test: (\w+): (.*?) *-->$", line)
            if comment:
                annotations.append((comment[1], comment[2]))
                if comment[1] not in ANNOTATIONS:
                    self.errors.append(f"{path}:{number}: no such annotation: {comment[1]}")
            elif annotations:
                self.errors.append(f"{path}:{number}: an annotation without a block")
                annotations = []
            elif "<!--" in line:
                self.errors.append(f"{path}:{number}: a comment that is none of the test's")
            elif line.startswith("    ") and (not prose or not prose[-1].strip()):
                self.errors.append(f"{path}:{number}: an indented block: fence it, and say what it is")
            prose.append(line)
        if block is not None:
            self.errors.append(f"{path}: a fence that does not end")
        self.prose = "\n".join(prose)
        for block in self.blocks:
            if block.language in LANGUAGES_SHOWN and COMMAND.search(block.text):
                self.errors.append(f"{block}: a command in a block that is not run")
            if block.language in LANGUAGES_SHOWN and block.annotations:
                self.errors.append(f"{block}: an annotation on what is not run")
            if elsewhere := block.get("elsewhere"):
                file, _, reason = elsewhere.partition(": ")
                if not reason or not os.path.exists(os.path.join(SOURCES, file)):
                    self.errors.append(f"{block}: says neither where else nor why: {elsewhere}")

    def code(self):
        """Words in backticks."""
        return re.findall(r"`([^`\n]+)`", self.prose)

    def anchors(self):
        seen = []
        for heading in re.findall(r"^#+ (.*)$", self.prose, re.M):
            text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).replace("`", "")
            seen.append(re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-"))
        return seen


# ---- checks that need no run of a page ----


def check_links(pages):
    errors = []
    anchors = {page.path: page.anchors() for page in pages}
    for page in pages:
        for target in re.findall(r"\]\(([^)\s]+)\)", page.prose):
            if re.match(r"^(https?|mailto):", target):
                continue
            path, _, anchor = target.partition("#")
            file = os.path.normpath(os.path.join(os.path.dirname(page.path), path)) if path else page.path
            if not os.path.exists(os.path.join(SOURCES, file)):
                errors.append(f"{page.path}: a link to {target}: there is no {file}")
            elif anchor and anchor not in anchors.get(file, Page(file).anchors() if file.endswith(".md") else []):
                errors.append(f"{page.path}: a link to {target}: no heading makes this anchor")
    # Every page can be found from README.
    linked = set(re.findall(r"\]\(([^)\s#]+)", pages[0].prose))
    errors += [f"README.md does not link {page.path}" for page in pages[1:] if page.path not in linked]
    # What sources and units say of our pages: `docs/x.md, "Heading"`.
    for folder in ("configs", "engine", "importer", "netlink", "tests", "bench"):
        for path in glob.glob(f"{SOURCES}/{folder}/**", recursive=True):
            if not re.search(r"\.(cc|h|sql|service|conf|flags|sh|yaml)$", path):
                continue
            for file, heading in re.findall(r"\b((?:docs/)?\w+\.md), \"([^\"]+)\"", source(path)):
                if not os.path.exists(f"{SOURCES}/{file}") or heading not in re.findall(
                        r"^#+ (.*)$", source(file), re.M):
                    errors.append(f"{path}: speaks of {file}, \"{heading}\", which is not there")
    return errors


def check_flags(pages, programs):
    errors = []
    flags = {}
    for label, program in programs.items():
        shown = subprocess.run([program, "--help"], capture_output=True, text=True, timeout=SECONDS_MAX, check=True)
        flags[label] = set(re.findall(r"^  --?([a-z][a-z0-9-]*)", shown.stdout, re.M))
    known = set().union(*flags.values()) | {"help", "version"}
    text = "\n".join(page.prose + "".join(block.text for block in page.blocks) for page in pages)
    for page in pages:
        if page.path == "CONTRIBUTING.md":  # It speaks of Bazel's.
            continue
        for word in page.code():
            if named := re.match(r"^--?([A-Za-z][\w-]+)(=\S*)?$", word):
                if named[1].replace("_", "-") not in known:
                    errors.append(f"{page.path}: no program of ours has the flag {word}")
    for label in flags:
        for flag in sorted(flags[label]):
            if not re.search(rf"(?<![\w-])--?{flag}(?![\w-])", text):
                errors.append(f"{label}: the flag -{flag} is nowhere in the documentation")
    return errors


def check_inline_commands(pages):
    """Commands within a sentence: those of ./dev and the programs must exist."""
    errors = []
    commands = re.findall(r"^  (\w+)  ", source("dev"), re.M)
    for page in pages:
        for word in page.code():
            if (dev := re.match(r"^\./dev (\S+)", word)) and dev[1] not in commands:
                errors.append(f"{page.path}: ./dev knows no {dev[1]}")
            if (run := re.match(r"^bazel run (\S+)", word)) and run[1] not in PROGRAMS:
                errors.append(f"{page.path}: the test knows no program {run[1]}")
    return errors


def check_functions():
    """Files and functions that docs/design.md names in backquotes, a file before its functions: each stands in its file.
    At most 20 numbered steps follow an event to its row."""
    errors = []
    text = source("docs/design.md")
    steps = re.findall(r"^\d+\. ", text, re.M)
    if not 10 <= len(steps) <= 20:
        errors.append(f"docs/design.md: {len(steps)} numbered steps; there should be 10 to 20")
    named = re.findall(r"`([\w/]+\.(?:cc|h))` `(?:(\w+)::)?(\w+)`", text)
    if len(named) < len(steps):
        errors.append("docs/design.md: each step names a file and, after it, a function")
    for path, of_class, function in named:
        try:
            code = source(path)
        except OSError as exception:
            errors.append(f"docs/design.md: {exception}")
            continue
        # The line that begins its definition, also that of a template.
        prefix = rf"{of_class}(?:<\w+>)?::" if of_class else ""
        defined = re.search(rf"^\w.*\b{prefix}{function}\(", code, re.M)
        if not defined:
            errors.append(f"docs/design.md: {path} does not define {of_class + '::' if of_class else ''}{function}")
    return errors


def check_alarms(pages):
    """All of alerts.yml are described, and no others."""
    alarms = set(re.findall(r"alert: (\w+)", source("configs/prometheus/alerts.yml")))
    named = {word for page in pages for word in page.code() if re.match(r"^Ctacct\w+$", word)}
    return [f"the alarm {name} is only in alerts.yml or only in the documentation" for name in sorted(alarms ^ named)]


def check_reference(built):
    """docs/reference.md is what the programs and the schema say now."""
    made = subprocess.run([os.path.join(SOURCES, "tests/docs/reference.py"), SOURCES, built], capture_output=True, text=True,
                          timeout=SECONDS_MAX, check=True).stdout
    return [] if made == source("docs/reference.md") else ["docs/reference.md is not up to date: ./dev reference"]


def check_version():
    """CHANGELOG.md begins with the version of the package."""
    package = re.match(r"\w+ \(([\d.]+)\)", source("configs/debian/changelog"))[1]
    newest = re.search(r"^## ([\d.]+)$", source("CHANGELOG.md"), re.M)[1]
    return [] if package == newest else [f"CHANGELOG.md begins with {newest}, configs/debian/changelog with {package}"]


def check_disk():
    """The tables of disk space in docs/tuning.md are the products of their own figures."""
    page = source("docs/tuning.md")
    number = r"([\d.,]+)"
    kinds = re.search(rf"^\| rows per 15 s \| {number} \| {number} \|$", page, re.M)
    days = re.findall(r"^\| a (?:game|provider), as above \| (\d+) B \| (\d+) B \| (\d+) GB \|$", page, re.M)
    if not kinds or len(days) != 2:
        return ["docs/tuning.md has no table of bytes per row"]
    errors = []

    def compare(what, row_count, bytes_per_row, kept_days, said):
        gigabytes = row_count * 5760 * bytes_per_row * kept_days / 1e9
        text = f"{gigabytes / 1000:.1f} TB" if gigabytes >= 1000 else f"{gigabytes:.0f} GB"
        if text != said:
            errors.append(f"docs/tuning.md: {what}: {said} should be {text}")

    def whole(text):
        return int(text.replace(",", ""))

    for rows, (row, rollups, said) in zip(kinds.groups(), days):
        compare(f"a day of {rows} rows", whole(rows), int(row) + int(rollups), 1, f"{said} GB")
    table = re.findall(rf"^\| {number} \| {number} (GB|TB) \| {number} (GB|TB) \| {number} (GB|TB) \|$", page, re.M)
    if not table:
        errors.append("docs/tuning.md has no table of disk space by rows and days")
    for rows, *cells in table:
        for kept_days, said, unit in zip((30, 90, 365), cells[::2], cells[1::2]):
            compare(f"{rows} rows, {kept_days} days", whole(rows), int(days[0][0]) + int(days[0][1]), kept_days, f"{said} {unit}")
    return errors


# Where a page states a measured figure: the words around it, the row of bench/RESULTS.md (`A > B`: the first B after A), and the
# words around it there. A page may give fewer digits, in a unit of its own (a factor).
GAME = "PostgreSQL: a game of 100 M rows, loaded"
PROVIDER = "PostgreSQL: VPN provider"
GATEWAYS = "PostgreSQL: 50 gateways"


def in_thousands(rate):
    return round(rate, -3)


FIGURES = [
    ("README.md", r"(\d+) bytes of memory for an IPv4 flow", "resident memory per flow, 1 M flows", r"\| (\d+) B;"),
    ("README.md", r"\*\*ctacct\*\* .*\| (\d+) %; ", "connection rate, precise", r"\| ([\d.]+) %"),
    ("README.md", r"\*\*ctacct\*\* .*; ([\d.]+) us \|", "CPU per TCP connection, live, precise, a dump", r"\| ([\d.]+) us"),
    ("README.md", r"with `-mode=light` .*\| (\d+) %; ", "connection rate, light", r"\| ([\d.]+) %"),
    ("README.md", r"with `-mode=light` .*; ([\d.]+) us \|", "CPU per TCP connection, live, light, a dump", r"\| ([\d.]+) us"),
    ("README.md", r"\| ulogd2 .*\| (\d+) %; ", "CPU per TCP connection, live, against ulogd2", r"rate ([\d.]+) %"),
    ("README.md", r"\| ulogd2 .*; ([\d.]+) us \|", "CPU per TCP connection, live, against ulogd2", r"us \| ([\d.]+) us"),
    ("README.md", r"`conntrack -E` .*\| (\d+) %; ", "CPU per TCP connection, live, against conntrack -E", r"rate ([\d.]+) %"),
    ("README.md", r"`conntrack -E` .*; ([\d.]+) us; ", "CPU per TCP connection, live, against conntrack -E", r"us \| ([\d.]+) us"),
    ("README.md", r"([\d,]+) events lost", "CPU per TCP connection, live, against conntrack -E", r"dropped (\d+) events"),
    ("README.md", r"IPv4 flow and (\d+) for an IPv6 flow", "flow table, 1 M flows of IPv6", r"\| (\d+) B"),
    ("docs/tuning.md", r"(\d+) bytes in the engine, \d+ for IPv6", "resident memory per flow, 1 M flows", r"\| (\d+) B;"),
    ("docs/tuning.md", r"bytes in the engine, (\d+) for IPv6", "flow table, 1 M flows of IPv6", r"\| (\d+) B"),
    ("docs/tuning.md", r"one million IPv4 flows: (\d+) MB in total", "resident memory per flow, 1 M flows", r"(\d+) B with all else"),
    ("docs/tuning.md", r"do ([\d.]+) times the work of one", "two workers against one", r"\| ([\d.]+) x"),
    ("docs/tuning.md", r"One worker accounts (\d+) million events", "two workers against one", r"one ([\d.]+) M/s"),
    ("docs/tuning.md", r"million events per second \((\d+) ns each\)", "two workers against one", r"one ([\d.]+) M/s", lambda rate: 1000 / rate),
    ("docs/tuning.md", r"engine, `-mode=precise` .*?\| (\d+) %", "connection rate, precise", r"\| ([\d.]+) %"),
    ("docs/tuning.md", r"engine, `-mode=precise` .*?\| ([\d.]+) us", "CPU per TCP connection, live, precise, a dump", r"\| ([\d.]+) us"),
    ("docs/tuning.md", r"only receives them \| the same \| (\d+) %", "connection rate, precise", r"receive-only ([\d.]+) %"),
    ("docs/tuning.md", r"only receives them \| the same \| \d+ % \| ([\d.]+) us", "CPU per TCP connection, live, precise, a dump",
     r"receive-only ([\d.]+) us"),
    ("docs/tuning.md", r"engine, `-mode=light` .*?\| (\d+) %", "connection rate, light", r"\| ([\d.]+) %"),
    ("docs/tuning.md", r"engine, `-mode=light` .*?\| ([\d.]+) us", "CPU per TCP connection, live, light, a dump", r"\| ([\d.]+) us"),
    ("docs/tuning.md", r"only receives them \| the same \| (\d+) % \| 3", "connection rate, light", r"receive-only ([\d.]+) %"),
    ("docs/tuning.md", r"only receives them \| the same \| \d+ % \| (3[\d.]+) us", "CPU per TCP connection, live, light, a dump",
     r"receive-only ([\d.]+) us"),
    ("docs/tuning.md", r"ulogd2 .*?\| (\d+) %", "CPU per TCP connection, live, against ulogd2", r"rate ([\d.]+) %"),
    ("docs/tuning.md", r"ulogd2 .*?\| ([\d.]+) us", "CPU per TCP connection, live, against ulogd2", r"us \| ([\d.]+) us"),
    ("docs/tuning.md", r"`conntrack -E` .*?\| (\d+) %", "CPU per TCP connection, live, against conntrack -E", r"rate ([\d.]+) %"),
    ("docs/tuning.md", r"`conntrack -E` .*?\| ([\d.]+) us", "CPU per TCP connection, live, against conntrack -E", r"us \| ([\d.]+) us"),
    ("docs/tuning.md", r"`conntrack -E` .*\| ([\d,]+) \|", "CPU per TCP connection, live, against conntrack -E", r"dropped (\d+) events"),
    ("docs/tuning.md", r"rows loaded per second, with all rollups \| ([\d,]+) ", GAME, r"\| ([\d,]+) rows/s", in_thousands),
    ("docs/tuning.md", r"rows loaded per second, with all rollups \| .*?\| ([\d,]+) ", PROVIDER, r"\| ([\d,]+) rows/s", in_thousands),
    ("docs/tuning.md", r"panels of the dashboard over 1 hour \| (\d+) ms", GAME + " > ... slowest panel over 1 h", r"\| (\d+) ms"),
    ("docs/tuning.md", r"panels of the dashboard over 1 hour \| \d+ ms; (\d+) ms", GAME + " > ... slowest panel with filters over 1 h", r"\| (\d+) ms"),
    ("docs/tuning.md", r"panels of the dashboard over 1 hour \| .*?\| (\d+) ms", PROVIDER + " > ... slowest panel over 1 h", r"\| (\d+) ms"),
    ("docs/tuning.md", r"panels of the dashboard over 1 hour \| .*?\| \d+ ms; (\d+) ms", PROVIDER + " > ... slowest panel with filters over 1 h", r"\| (\d+) ms"),
    ("docs/tuning.md", r"panels over 8 hours \| (\d+) ms", GAME + " > ... slowest panel over 8 h", r"\| (\d+) ms"),
    ("docs/tuning.md", r"panels over 8 hours \| \d+ ms; (\d+) ms", GAME + " > ... slowest panel with filters over 8 h", r"\| (\d+) ms"),
    ("docs/tuning.md", r"panels over 8 hours \| .*?\| (\d+) ms", PROVIDER + " > ... slowest panel over 8 h", r"\| (\d+) ms"),
    ("docs/tuning.md", r"panels over 8 hours \| .*?\| \d+ ms; (\d+) ms", PROVIDER + " > ... slowest panel with filters over 8 h", r"\| (\d+) ms"),
    ("docs/tuning.md", r"five minutes of a client, from the rows \| (\d+) ms", GAME + " > ... five minutes of a client", r"\| (\d+) ms"),
    ("docs/tuning.md", r"five minutes of a client, from the rows \| .*?\| (\d+) ms", PROVIDER + " > ... five minutes of a client", r"\| (\d+) ms"),
    ("docs/tuning.md", r"(\d+) MB while it loads a provider's backlog", PROVIDER + " > ... the importer's peak memory", r"\| (\d+) MB"),
    ("docs/tuning.md", r"without rollups at ([\d.]+) times the", GAME + " > ... a tenth of it", r"\| ([\d.]+) of its rate", lambda rate: 1 / rate),
    ("docs/tuning.md", r"1, as it comes \| ([\d.]+) ", GATEWAYS + " > ... ", r"server ([\d.]+) s"),
    ("docs/tuning.md", r"1, as it comes \| [\d.]+ \| ([\d.]+) ", GATEWAYS + " > ... ", r"importers ([\d.]+) s"),
    ("docs/tuning.md", r"6, after a lag of 90 s \| ([\d.]+) ", GATEWAYS + ", 1 importers, all files", r"server ([\d.]+) s"),
    ("docs/tuning.md", r"6, after a lag of 90 s \| [\d.]+ \| ([\d.]+) ", GATEWAYS + ", 1 importers, all files", r"importers ([\d.]+) s"),
    ("docs/tuning.md", r"a game, as above \| (\d+) B", GAME + " > ... bytes a row", r"\| ([\d.]+) \+"),
    ("docs/tuning.md", r"a game, as above \| \d+ B \| (\d+) B", GAME + " > ... bytes a row", r"\+ ([\d.]+) B"),
    ("docs/tuning.md", r"a provider, as above \| (\d+) B", PROVIDER + " > ... bytes a row", r"\| ([\d.]+) \+"),
    ("docs/tuning.md", r"a provider, as above \| \d+ B \| (\d+) B", PROVIDER + " > ... bytes a row", r"\+ ([\d.]+) B"),
]


def check_figures():
    """Figures of the pages are those of bench/RESULTS.md (or of CHOICES.md beside it), rounded."""
    errors = []
    rows = (source("bench/RESULTS.md") + source("bench/CHOICES.md")).splitlines()
    for page, words, work, there, *convert in FIGURES:
        said = re.search(words, source(page))
        section, _, row_wanted = work.rpartition(" > ")
        begins = next((at for at, row in enumerate(rows) if row.startswith(f"| {section}")), len(rows))
        measured = [found[1].replace(",", "") for row in rows[begins:] if row.startswith(f"| {row_wanted}") for found in re.finditer(there, row)][:1]
        if not said or not measured:
            errors.append(f"{page} has no {words!r}" if not said else f"bench/RESULTS.md has no {there!r} in a row {work!r}")
            continue
        text = said[1].replace(",", "")
        decimals = len(text.partition(".")[2])
        value = convert[0](float(measured[0])) if convert else float(measured[0])
        if f"{value:.{decimals}f}" != text:
            errors.append(f"{page}: {said[0]!r}, but {value:.{decimals}f} in bench/RESULTS.md ({work})")
    return errors


def check_gateways():
    """The figures of many gateways in docs/tuning.md are products of those that were measured."""
    page = source("docs/tuning.md")
    costs = re.findall(r"^\| (?:1, as it comes|6, after a lag of 90 s) \| ([\d.]+) \| ([\d.]+) \|$", page, re.M)
    row = re.search(r"^\| a game, as above \| (\d+) B \| (\d+) B \|", page, re.M)
    table = re.findall(r"^\| (\d+) \| ([\d,]+) \| ([\d.]+) \| ([\d.]+) \| ([\d.]+ [GT]B) \|$", page, re.M)
    if len(costs) != 2 or not row or not table:
        return ["docs/tuning.md has no table of gateways"]
    errors = []
    for gateways, *said in table:
        rate = int(gateways) * 20_000 / 15
        gigabytes = rate * 86_400 * (int(row[1]) + int(row[2])) / 1e9
        made = [f"{rate:,.0f}", *(f"{rate / 1e6 * sum(map(float, cost)):.1f}" for cost in costs),
                f"{gigabytes / 1000:.1f} TB" if gigabytes >= 1000 else f"{gigabytes:.0f} GB"]
        if said != made:
            errors.append(f"docs/tuning.md: {gateways} gateways: {said} should be {made}")
    # Of one process.
    said = re.findall(r"([\d,]+) rows per second, or\s+(\d+)(?: such)? gateways", page)
    made = [(f"{round(1e6 / float(server), -3):,.0f}", f"{1e6 / float(server) * 15 / 20_000:.0f}") for server, _ in costs]
    if said != made:
        errors.append(f"docs/tuning.md: one importer takes {said}, which should be {made}")
    return errors


def check_limits():
    """Each line of the table of limits in docs/tuning.md has the number that its constant has in the source that it links."""
    section = source("docs/tuning.md").partition("\n## Limits\n")[2].partition("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("| ")][1:]
    errors = [] if len(lines) >= 15 else ["docs/tuning.md has no table of limits"]
    for line in lines:
        found = re.search(r"\| ([\d,]+)( MiB)? \|.*\[`(\w+)`\]\(\.\./([\w/.]+)\) \|$", line)
        if not found:
            errors.append(f"docs/tuning.md: a limit without a number or a constant: {line}")
            continue
        number, unit, name, path = found.groups()
        value = re.search(rf"\bconstexpr \w+ {name} = ([^;]+);", source(path))
        # 10'000, 8 << 20 and size_t{24} << 20.
        number = int(number.replace(",", "")) << (20 if unit else 0)
        if not value or number != eval(re.sub(r"'|\w+_t(?=\{)|[{}]", "", value[1]), {}):
            errors.append(f"docs/tuning.md: {name} is {value and value[1]} in {path}, not {number}")
    return errors


def check_tested_on():
    """What README says it is tested on is what CI runs on: this machine and Debian's stock kernels."""
    claim = re.search(r"Tested on Debian (\d+) with Linux ([\d., and]+)\.\s", source("README.md"))
    if not claim:
        return ["README.md does not say on which Debian and which kernels it is tested"]
    errors = []
    if "./dev kernels --ci" not in source(".ci/run").splitlines():
        errors.append(".ci/run does not run the stock kernels")
    claimed = set(re.findall(r"\d+\.\d+", claim[2]))
    run = set(re.search(r"VERSIONS=\((.*?)\)", source("tests/kernels/kernels.sh"))[1].split())
    errors += [f"README.md does not name the kernel {version}" for version in sorted(run - claimed)]
    if os.environ.get("CI") == "true":
        run.add(re.match(r"\d+\.\d+", os.uname().release)[0])
        errors += [f"README.md names the kernel {version}, and CI does not run it" for version in sorted(claimed - run)]
        errors += [f"README.md does not name CI's kernel {version}" for version in sorted(run - claimed)]
        with open("/etc/os-release", encoding="utf-8") as file:
            if f'VERSION_ID="{claim[1]}"' not in file.read():
                errors.append(f"CI does not run on Debian {claim[1]}")
    return errors


# Words that make readers stop, and what to write instead. Whole words, in any case; each rule has no known false alarm.
STYLE = {
    r"tells?|telling|told": "report, contain, say or log",
    r"mend(s|ed|ing)?": "repair or correct",
    r"go(es)? on|going on|went on": "continue",
    r"so many": "the number of",
    r"whoever": "say who",
    r"how (it|they|the engine) do(es)?": "state or health",
    r"com(e|es|ing) to (an|its|their) end": "end",
    r"by (itself|themselves)": "alone, separately or automatically",
    r"(?-i:where not)": "otherwise",
    r"too(?=[.;:)])": "also",
    r"likewise": "also",
    r"(may|might|can|still) lack(?=[ .,;:)])": "may be missing",
    r"for good": "permanently",
    r"in vain": "without an answer",
    r"such as (did|do|are|is|have|were|lack)": "those that",
    r"anew": "again",
    r"hears? (of|nothing)": "receive or know",
    r"for want of": "because there is no",
    r"sign of life": "say which file or message is expected",
}
SENTENCE_WORDS_MAX = 35


def user_texts():
    """(where, text) of all that users read and the pages do not contain: strings of programs, files of configs/."""
    for folder in ("engine", "importer", "netlink"):
        for path in sorted(glob.glob(f"{SOURCES}/{folder}/**/*.cc", recursive=True)):
            if path.endswith("_test.cc"):
                continue
            for number, line in enumerate(source(path).splitlines(), 1):
                if not re.match(r"\s*(#include|//)", line):
                    for text in re.findall(r'"((?:[^"\\]|\\.)*)"', line):
                        yield f"{os.path.relpath(path, SOURCES)}:{number}", text
    for path in sorted(glob.glob(f"{SOURCES}/configs/**/*", recursive=True)):
        if re.search(r"\.(flags|service|conf|yml|yaml|json|h2m|Debian)$|/control$", path):
            for number, line in enumerate(source(path).splitlines(), 1):
                yield f"{os.path.relpath(path, SOURCES)}:{number}", line


def check_style(pages):
    errors = []
    rules = [(re.compile(rf"\b(?:{words})(?!\w)", re.I), instead) for words, instead in STYLE.items()]
    texts = list(user_texts())
    for page in pages:
        prose = re.sub(r"`[^`\n]*`", "`code`", page.prose)  # What programs print is theirs.
        prose = re.sub(r"<!--.*?-->", "", prose)
        texts += [(f"{page.path}:{number}", line) for number, line in enumerate(prose.splitlines(), 1)]
        for paragraph in re.split(r"\n\s*\n|\n(?=\s*(?:[-*|#]|\d+\. ))", re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", prose)):
            if paragraph.lstrip().startswith("|"):
                continue
            for sentence in re.split(r"(?<=[.:;!?])\s", paragraph):
                if len(sentence.split()) > SENTENCE_WORDS_MAX:
                    errors.append(f"{page.path}: a sentence of {len(sentence.split())} words: {' '.join(sentence.split())[:80]}...")
    for where, text in texts:
        for rule, instead in rules:
            if found := rule.search(text):
                errors.append(f"{where}: '{found[0]}': write {instead}")
    return errors


# ---- the environment ----


class Environment:
    """What a page's commands run in. Made within the namespaces, changes the root folder of this process."""

    def __init__(self, gateway, programs):
        self.gateway = gateway
        self.flows = 0
        work = "/mnt"
        subprocess.run(["mount", "--make-rprivate", "/"], check=True)
        subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=755", "none", work], check=True)
        os.mkdir(work + "/root")
        for number, path in enumerate(("/", SOURCES)):
            layers = [f"{work}/upper{number}", f"{work}/work{number}"]
            for layer in layers:
                os.mkdir(layer)
            os.makedirs(work + "/root" + path, exist_ok=True)
            subprocess.run(["mount", "-t", "overlay", "-o",
                            f"lowerdir={path},upperdir={layers[0]},workdir={layers[1]}",
                            "overlay", work + "/root" + path], check=True)
        for path in ("/dev", "/sys", "/run/netns"):
            os.makedirs(work + "/root" + path, exist_ok=True)
            subprocess.run(["mount", "--rbind", path, work + "/root" + path], check=True)
        subprocess.run(["mount", "-t", "proc", "proc", work + "/root/proc"], check=True)
        for program in programs + [GENERATOR]:
            os.makedirs(os.path.dirname(f"{work}/root/opt/built/{program}"), exist_ok=True)
            shutil.copy(os.path.join(os.environ["DOCS_TEST_PROGRAMS"], program), f"{work}/root/opt/built/{program}")
        os.chroot(work + "/root")
        os.chdir(SOURCES)
        for path in ("/tmp", "/var/tmp"):
            os.makedirs(path, exist_ok=True)
            os.chmod(path, 0o1777)
        self.environ = {
            "PATH": "/opt/shim:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root",
            "LC_ALL": "C.UTF-8", "PAGER": "cat",
        }
        os.makedirs("/opt/shim", exist_ok=True)
        cases = "".join(f"  {label}) echo /opt/built/{path} ;;\n" for label, path in PROGRAMS.items())
        with open("/opt/shim/bazel", "w", encoding="utf-8") as shim:
            shim.write(f"""#!/bin/bash
set -eu
program() {{
  case $1 in
{cases}  *) echo "no such program: $1" >&2; exit 1 ;;
  esac
}}
case $1 in
  run)
    path=$(program "$2")
    shift 2
    [ "${{1:-}}" != -- ] || shift
    cd /  # Bazel runs a program elsewhere, too.
    exec "$path" "$@"
    ;;
  build) for word in "${{@:2}}"; do case $word in //*) program "$word" >/dev/null ;; esac; done ;;
  info) echo /opt/built ;;
  *) echo "bazel $1?" >&2; exit 1 ;;
esac
""")
        os.chmod("/opt/shim/bazel", 0o755)
        with open("/etc/hosts", "a", encoding="utf-8") as hosts:
            hosts.write("127.0.0.1 db localhost\n")
        self.start_database()
        self.fill()

    def run(self, command, log=None):
        """A command to its end. (Status, output)."""
        done = subprocess.run(["/bin/bash", "-c", "set -euo pipefail\n" + command], env=self.environ, cwd=SOURCES,
                              stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                              timeout=SECONDS_MAX, check=False)
        return done.returncode, done.stdout

    def must(self, command):
        status, output = self.run(command)
        if status != 0:
            raise RuntimeError(f"{command}: status {status}\n{output}")
        return output

    def start_database(self):
        self.must("""
            tests/support/private_postgres.sh start /srv/postgres --no-fsync
            tests/support/private_postgres.sh stop /srv/postgres
            echo "listen_addresses = '127.0.0.1'" >> /srv/postgres/data/postgresql.auto.conf
            echo "unix_socket_directories = '/srv/postgres, /var/run/postgresql'" >> /srv/postgres/data/postgresql.auto.conf
            mkdir -p /var/run/postgresql && chown "$(stat -c %U /srv/postgres)" /var/run/postgresql
            tests/support/private_postgres.sh start /srv/postgres --no-fsync
            psql -X -q -U postgres -d postgres -c 'CREATE ROLE root SUPERUSER LOGIN' -c 'CREATE ROLE ctacct SUPERUSER LOGIN'
            createdb pristine""")

    def play(self):
        self.must(f"/opt/built/{GENERATOR} --gateway={self.gateway} --tcp=200 --udp=100 --first-flow={self.flows}")
        self.flows += 200

    def fill(self):
        self.must("install -d -m 1777 /srv/metrics")  # The engine does not stay root.
        output = self.goes_on("bazel run //engine -- -interval=1 -gateway=gw1 -src-group-mask=/24 -dst-group-mask=/24 "
                              "-output=/srv/spool -metrics-file=/srv/metrics/engine.prom",
                              'grep -q "accounting live" $LOG')
        if output is not None:
            raise RuntimeError(output)
        self.must("""cp -r /srv/spool /srv/spool-to-load
            bazel run //importer -- -conninfo=dbname=pristine -watch=/srv/spool-to-load -once \\
                                    -metrics-file=/srv/importer.prom""")

    def fresh(self):
        """What each page finds."""
        self.must("""
            dropdb --if-exists --force traffic && createdb -T pristine traffic
            rm -rf /var/spool/ctacct && cp -a /srv/spool /var/spool/ctacct""")

    def goes_on(self, command, until):
        """None, or what is wrong."""
        with tempfile.NamedTemporaryFile("r", dir="/tmp") as log:
            environ = dict(self.environ, LOG=log.name)
            with open(log.name, "w", encoding="utf-8") as out:
                # Bash has to outlive the signal that its program gets as well.
                process = subprocess.Popen(["/bin/bash", "-c", "trap : TERM\nset -euo pipefail\n" + command], env=environ,
                                           cwd=SOURCES, stdin=subprocess.DEVNULL, stdout=out, stderr=out,
                                           start_new_session=True)
            try:
                deadline = time.monotonic() + SECONDS_MAX
                while subprocess.run(["/bin/bash", "-c", until], env=environ, stdout=subprocess.DEVNULL,
                                     stderr=subprocess.DEVNULL, check=False).returncode != 0:
                    if process.poll() is not None:
                        return f"it ended by itself, with status {process.returncode}:\n{log.read()}"
                    if time.monotonic() > deadline:
                        return f"this never came true: {until}\n{log.read()}"
                    time.sleep(0.05)
                if re.search(r"bazel run //engine ", command):
                    self.play()
                os.killpg(process.pid, signal.SIGTERM)
                status = process.wait(SECONDS_MAX)
                return None if status == 0 else f"status {status} when it was ended:\n{log.read()}"
            finally:
                if process.poll() is None:
                    os.killpg(process.pid, signal.SIGKILL)
                    process.wait()

    def execute(self, block):
        """None, or what is wrong."""
        for key, value in block.annotations:
            if key == "before":
                self.must(value)
        if block.language == "sql":
            command = f"psql -X -v ON_ERROR_STOP=1 -d traffic <<'END_OF_BLOCK'\n{block.text}END_OF_BLOCK\n"
        else:
            command = block.text
        if until := block.get("until"):
            return self.goes_on(command, until)
        status, output = self.run(command)
        if status != int(block.get("fails") or 0):
            return f"status {status}:\n{output}"
        if (gives := block.get("gives")) and not re.search(gives, output):
            return f"its output does not match {gives}:\n{output}"
        return None

    def names(self):
        """All that begins with ctacct_: metrics, roles, tables."""
        metrics = set(self.must("sed -n 's/^# TYPE \\([^ ]*\\) .*/\\1/p' /srv/*.prom /srv/metrics/*.prom").split())
        return metrics | set(self.must("psql -X -A -t -d traffic -c "
                                       "'SELECT rolname FROM pg_roles UNION SELECT relname FROM pg_class'").split())


def check_names(pages, names):
    pipe_only = {"ctacct_pipe_lines_written_total", "ctacct_pipe_lines_dropped_total"}  # With -pipe.
    return [f"{page.path}: nothing is called {name}" for page in pages
            for name in sorted(set(re.findall(r"\bctacct_[a-z]\w*", page.prose)) - names - pipe_only)]


# ---- the test ----


class Report:
    def __init__(self):
        self.cases = []

    def add(self, name, error, seconds=0.0):
        self.cases.append((name, error, seconds))
        print(f"{'FAILED' if error else 'ok    '} {name} ({seconds:.1f} s)", flush=True)
        if error:
            print("    " + error.replace("\n", "\n    "), flush=True)

    def failed(self):
        return any(error for _, error, _ in self.cases)

    def xml(self):
        text = []
        for name, error, seconds in self.cases:
            text.append(f'<testcase classname="docs" name={xml.sax.saxutils.quoteattr(name)} time="{seconds:.3f}">')
            if error:
                printable = re.sub(r"[^\n -~]", "?", error)
                text.append(f"<failure>{xml.sax.saxutils.escape(printable)}</failure>")
            text.append("</testcase>")
        return "".join(text)


def run_pages(gateway, pages, report):
    environment = Environment(gateway, list(PROGRAMS.values()))
    for page in pages:
        environment.fresh()
        for block in page.blocks:
            if block.language not in LANGUAGES_RUN or block.get("elsewhere"):
                continue
            began = time.monotonic()
            try:
                error = environment.execute(block)
            except (RuntimeError, subprocess.TimeoutExpired) as exception:
                error = str(exception)
            report.add(str(block), error and f"{block.text}{error}", time.monotonic() - began)
    environment.fresh()
    environment.must("psql -X -q -d traffic -f configs/postgres/roles.sql")
    report.add("names", "\n".join(check_names(pages, environment.names())))


def main():
    pages = [Page(path) for path in PAGES]
    report = Report()
    if len(sys.argv) == 3 and sys.argv[1] == "--inside":
        with open(os.environ["DOCS_TEST_CASES"], "w", encoding="utf-8") as file:  # Before the root folder is another.
            try:
                run_pages(sys.argv[2], pages, report)
            except (RuntimeError, subprocess.CalledProcessError, subprocess.TimeoutExpired, OSError) as exception:
                report.add("environment", str(exception))
            file.write(report.xml())
        return 1 if report.failed() else 0

    built = os.path.join(os.environ["TEST_SRCDIR"], os.environ["TEST_WORKSPACE"])
    report.add("blocks", "\n".join(error for page in pages for error in page.errors))
    report.add("links", "\n".join(check_links(pages)))
    report.add("flags", "\n".join(check_flags(pages, {label: f"{built}/{path}" for label, path in PROGRAMS.items()})))
    report.add("commands in sentences", "\n".join(check_inline_commands(pages)))
    report.add("functions", "\n".join(check_functions()))
    report.add("alarms", "\n".join(check_alarms(pages)))
    report.add("disk", "\n".join(check_disk()))
    report.add("figures", "\n".join(check_figures()))
    report.add("gateways", "\n".join(check_gateways()))
    report.add("limits", "\n".join(check_limits()))
    report.add("tested_on", "\n".join(check_tested_on()))
    report.add("reference", "\n".join(check_reference(built)))
    report.add("version", "\n".join(check_version()))
    report.add("style", "\n".join(check_style(pages)))
    print("Not run here:")
    for page in pages:
        for block in page.blocks:
            if elsewhere := block.get("elsewhere"):
                print(f"    {block}: {elsewhere}")

    failed, cases = run_on_gateway(built, report)
    if path := os.environ.get("XML_OUTPUT_FILE"):
        with open(path, "w", encoding="utf-8") as file:
            file.write(f'<testsuites><testsuite name="docs_test">{report.xml()}{cases}</testsuite></testsuites>')
    return 1 if failed or report.failed() else 0


def run_on_gateway(built, report):
    """Whether the pages failed, and their cases as XML."""
    make = f"{built}/tests/support/gateway.sh"
    possible = subprocess.run([make, "check"], capture_output=True, text=True, check=False)
    if possible.returncode != 0:
        why = f"no gateway can be made here: {possible.stderr.strip()}"
        if os.environ.get("CI") == "true":
            report.add("pages", why)
            return True, ""
        print(f"SKIPPED the pages' commands: {why}")
        return False, f'<testcase classname="docs" name="pages"><skipped message={xml.sax.saxutils.quoteattr(why)}/></testcase>'
    # As tests/support/gateway.cc names them, which removes what a killed test has left.
    gateway = f"ctt{os.getpid()}x0"
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    with tempfile.NamedTemporaryFile("r", encoding="utf-8") as file:
        try:
            subprocess.run([make, "up", gateway], check=True)
            status = subprocess.run(
                ["ip", "netns", "exec", f"{gateway}-gw", "unshare", "--mount", "--pid", "--fork", "--kill-child",
                 sys.executable, os.path.realpath(__file__), "--inside", gateway],
                env=dict(os.environ, DOCS_TEST_PROGRAMS=built, DOCS_TEST_CASES=file.name), check=False).returncode
        finally:
            subprocess.run([make, "down", gateway], check=False)
        cases = file.read()
    return status != 0 or not cases, cases


if __name__ == "__main__":
    sys.exit(main())
