#!/usr/bin/env python3
"""Prints docs/reference.md: flags as the programs print them, metrics and tables as the sources describe them.

usage: reference.py SOURCES BUILT
  SOURCES  the top folder of the sources
  BUILT    folder of built programs, laid out as Bazel does
"""
import os
import re
import subprocess
import sys

# Name in the package and Bazel's label; where Bazel puts it.
PROGRAMS = {
    "engine": ("ctacct-engine", "//engine", "engine/engine"),
    "names": ("ctacct-names", "//engine:names", "engine/names/names"),
    "importer": ("ctacct-importer", "//importer", "importer/importer"),
    "report": ("ctacct-report", "//importer:report", "importer/report/report"),
    "top": ("ctacct-top", "//engine:top", "engine/top/top"),
    "doctor": ("ctacct-doctor", "//importer:doctor", "importer/doctor/doctor"),
    "spooldump": ("ctacct-spooldump", "//engine:spooldump", "engine/spool/spooldump"),
}
METRICS = {"engine": ("ctacct_", "engine/metrics.cc"), "importer": ("ctacct_importer_", "importer/metrics.cc")}
SCHEMA = "importer/tables/schema"
SECONDS_MAX = 60


def cell(text):
    """Angle brackets and bars would be markup."""
    return re.sub(r"\s+", " ", text).strip().replace("|", "\\|").replace("<", "&lt;")


def flags(built, name):
    package, label, path = PROGRAMS[name]
    shown = subprocess.run([os.path.join(built, path), "--help"], capture_output=True, text=True, timeout=SECONDS_MAX,
                           check=True).stdout
    found = re.findall(r"^  -([a-z][a-z0-9-]*)\n {8}(.*)$", shown, re.M)
    yield f"### {name}\n"
    yield f"`{package}`, or `bazel run {label} --`." + ("\n" if found else " It has no flags: `--help` shows its arguments.\n")
    if not found:
        return
    yield "| flag | default | |"
    yield "|---|---|---|"
    for flag, text in found:
        # Said in words, it may have another value on each machine.
        default = re.search(r" \(default: (.*?)\)( \(default \w+\))?$", text) or re.search(r" \(default (.*)\)$", text)
        meaning = text[:default.start()] if default else text
        yield f"| `-{flag}` | {cell(default[1]) if default else ''} | {cell(meaning)} |"
    yield ""


def literal(text):
    """Of neighbouring string literals, the text."""
    return "".join(re.findall(r'"((?:[^"\\]|\\.)*)"', text)).replace('\\"', '"')


def metrics(sources, name):
    prefix, path = METRICS[name]
    with open(os.path.join(sources, path), encoding="utf-8") as file:
        code = file.read()
    yield f"### Of the {name}\n"
    yield "| metric | type | |"
    yield "|---|---|---|"
    for kind, metric, text in re.findall(r'\b(Counter|Gauge)\(\s*"(\w+)",\s*((?:"(?:[^"\\]|\\.)*"\s*)+)', code):
        yield f"| `{prefix}{metric}` | {kind.lower()} | {cell(literal(text))} |"
    yield ""


def tables(sources):
    text = ""
    for name in sorted(os.listdir(os.path.join(sources, SCHEMA))):
        with open(os.path.join(sources, SCHEMA, name), encoding="utf-8") as file:
            text += file.read()
    comments = re.findall(r"COMMENT ON (TABLE|VIEW|FUNCTION|COLUMN) ([\w.]+)[^;]*? IS\s+((?:'(?:[^']|'')*'\s*)+);", text)
    columns = {}
    for kind, name, said in comments:
        said = cell("".join(re.findall(r"'((?:[^']|'')*)'", said)).replace("''", "'"))
        if kind == "COLUMN":
            table, column = name.split(".")
            columns.setdefault(table, []).append((column, said))
        else:
            columns.setdefault(name, []).insert(0, (kind.lower(), said))
    yield "| name | column | |"
    yield "|---|---|---|"
    for name, entries in columns.items():
        for column, said in entries:
            whole = column in ("table", "view", "function")
            yield f"| {f'`{name}`' if whole else ''} | {f'({column})' if whole else f'`{column}`'} | {said} |"
    yield ""


def page(sources, built):
    yield "# Reference\n"
    yield "Made by `./dev reference` from the programs and the schema; a test fails if it differs from them.\n"
    yield "## Flags\n"
    yield "One or two dashes, then `=` or a space. A flag that is given twice is an error. `-flagfile=FILE` reads more, one per line.\n"
    for name in PROGRAMS:
        yield from flags(built, name)
    yield "## Metrics\n"
    yield "[Monitoring](monitoring.md) says how to collect them, and which alerts use them. Each has the label `gateway`.\n"
    for name in METRICS:
        yield from metrics(sources, name)
    yield "## Tables and functions\n"
    yield "[Database](database.md) explains them; rollups, `traffic_NAME`, are rows of `traffic_rollups`.\n"
    yield from tables(sources)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        print(__doc__.split("\n\n")[1], file=sys.stderr)
        sys.exit(2)
    print("\n".join(page(sys.argv[1], sys.argv[2])).rstrip())
