#!/usr/bin/env python3
"""Holds the rooms of engine/, importer/ and netlink/ to the arrows that docs/design.md lists.

A room is a folder with a BUILD file. An arrow A -> B exists if a target of room A that is not a test depends on one of
room B (by `bazel query`), or if a source of such a target includes a header from there. The test fails for an arrow that
is not listed, for a listed one that does not exist, and for arrows that form a circle.

Bazel holds a lock on its output base while it runs this test, so the query has an output base of its own, offline, and
takes some 15 s.
"""

import os
import re
import subprocess
import sys
import tempfile
import xml.etree.ElementTree
import xml.sax.saxutils

SOURCES = os.path.dirname(os.path.dirname(os.path.dirname(os.path.realpath(__file__))))
DESIGN = "docs/design.md"
TOP = ("engine", "importer", "netlink")
QUERY = " + ".join(f"//{folder}/..." for folder in TOP)


def room(package):
    """The room of a package or of an included file's folder, by its last name; None outside of the rooms."""
    return package.rsplit("/", 1)[-1] if package.split("/", 1)[0] in TOP else None


def listed_arrows():
    """{(from, to): line} of the block in docs/design.md whose lines look like `spool -> rows system`."""
    arrows = {}
    with open(os.path.join(SOURCES, DESIGN), encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            if match := re.match(r"^(\w+) +-> (\w+(?: \w+)*)$", line):
                arrows.update({(match[1], to): f"{DESIGN}:{number}" for to in match[2].split()})
    return arrows


def query(folder):
    """The rules of the rooms, as XML elements."""
    bazel = ["bazel", "--batch", f"--output_user_root={folder}/root", f"--output_base={folder}/base"]
    done = subprocess.run(bazel + ["query", "--noshow_progress", "--output=xml", QUERY], cwd=SOURCES, text=True,
                          env=dict(os.environ, HOME=folder), capture_output=True, timeout=240, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"bazel query: status {done.returncode}\n{done.stderr}")
    # Python reads no XML 1.1, and there is nothing of it in there.
    return xml.etree.ElementTree.fromstring(done.stdout.replace('version="1.1"', 'version="1.0"', 1)).iter("rule")


def labels(rule, *attributes):
    """(package, name) of the labels of our own that the attributes list."""
    for attribute in attributes:
        for label in rule.findall(f"./list[@name='{attribute}']/label"):
            if match := re.match(r"^//([^:]*):(.*)$", label.get("value")):
                yield match[1], match[2]


def real_arrows(rules):
    """{(from, to): why}."""
    arrows = {}

    def add(source, target, why):
        if source and target and source != target:
            arrows.setdefault((source, target), why)

    for rule in rules:
        test_only = rule.find("./boolean[@name='testonly'][@value='true']") is not None
        if not re.match(r"^cc_(library|binary)$", rule.get("class")) or test_only:
            continue
        package = rule.get("name")[2:].split(":")[0]
        for other, name in labels(rule, "deps", "srcs", "hdrs"):
            add(room(package), room(other), f"{rule.get('name')} depends on //{other}:{name}")
        for other, name in labels(rule, "srcs", "hdrs"):
            path = os.path.join(other, name)
            if not os.path.exists(os.path.join(SOURCES, path)):  # It is generated.
                continue
            with open(os.path.join(SOURCES, path), encoding="utf-8") as file:
                for number, line in enumerate(file, 1):
                    if match := re.match(r'^\s*#\s*include\s+"([^"]+)/[^/"]+"', line):
                        add(room(package), room(match[1]), f"{path}:{number} includes {match[1]}/")
    return arrows


def circle(arrows):
    """The rooms that are left if those are taken away, again and again, from which no arrow leaves."""
    left = {name for arrow in arrows for name in arrow}
    while leaves := {name for name in left if not any(a == name and b in left for a, b in arrows)}:
        left -= leaves
    return left


def main():
    with tempfile.TemporaryDirectory(dir=os.environ.get("TEST_TMPDIR")) as folder:
        real = real_arrows(query(folder))
        subprocess.run(["chmod", "-R", "u+w", folder], check=False)  # Bazel's own files are read-only.
    listed = listed_arrows()
    upward = circle(real)
    cases = {
        "every arrow is listed": [f"{a} -> {b} is not in {DESIGN}: {real[a, b]}" for a, b in sorted(real.keys() - listed)],
        "every listed arrow exists": [f"{a} -> {b} does not exist, but {listed[a, b]} lists it"
                                      for a, b in sorted(listed.keys() - real)],
        "no circle": [f"arrows form a circle in or above: {' '.join(sorted(upward))}"] if upward else [],
    }
    print(f"{len({name for arrow in real for name in arrow})} rooms, {len(real)} arrows")
    text = []
    for name, errors in cases.items():
        print("\n    ".join([f"{'FAILED' if errors else 'ok    '} {name}"] + errors))
        failure = f"<failure>{xml.sax.saxutils.escape(chr(10).join(errors))}</failure>" if errors else ""
        text.append(f'<testcase classname="walls" name="{name}">{failure}</testcase>')
    if path := os.environ.get("XML_OUTPUT_FILE"):
        with open(path, "w", encoding="utf-8") as file:
            file.write(f'<testsuites><testsuite name="walls_test">{"".join(text)}</testsuite></testsuites>')
    return 1 if any(cases.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
