#!/usr/bin/env python3
"""Counts test cases from Bazel's XML: `bazel query 'tests(//...)' | count_cases.py TESTLOGS BAZEL_STATUS`.

Ends with the line "N passed, N failed" (", N skipped" where any were). Exit status 1 if anything failed, if a skip
happened under CI, if a target left no XML (it counts as one failure), or if Bazel itself failed.
"""

import os
import sys
import xml.etree.ElementTree

passed = failed = skipped = 0
testlogs, bazel_status = sys.argv[1], int(sys.argv[2])
for label in sys.stdin.read().split():
    path = os.path.join(testlogs, label.removeprefix("//").replace(":", "/"), "test.xml")
    try:
        cases = list(xml.etree.ElementTree.parse(path).getroot().iter("testcase"))
    except (OSError, xml.etree.ElementTree.ParseError):
        cases = []
    if not cases:
        print(f"{label}: no test case ran")
        failed += 1
    for case in cases:
        name = f"{label} {case.get('classname', '')}.{case.get('name', '')}"
        if case.find("failure") is not None or case.find("error") is not None:
            print(f"FAILED  {name}")
            failed += 1
        elif case.find("skipped") is not None or case.get("result") == "skipped":
            print(f"SKIPPED {name}")
            skipped += 1
        else:
            passed += 1
print(f"{passed} passed, {failed} failed" + (f", {skipped} skipped" if skipped else ""))
sys.exit(1 if failed or bazel_status or (skipped and os.environ.get("CI")) else 0)
