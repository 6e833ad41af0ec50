#!/usr/bin/env python3
"""The GPU backend's checks that need no GPU fit into CI: test_host_time.py BUILD adds up what ctest last wrote down for
each. Exit 77 before the first run. What a run takes is judged by the next one, because ctest writes at its end."""
import pathlib
import sys

LIMIT_S = 300

costs = pathlib.Path(sys.argv[1]) / "Testing/Temporary/CTestCostData.txt"
if not costs.exists():
    print(f"{costs} is not there yet")
    sys.exit(77)
took = {}
for line in costs.read_text().splitlines():
    words = line.split()  # name, runs, seconds; names of failed tests follow a line of dashes
    if len(words) == 3 and words[0].startswith("cuda."):
        took[words[0]] = float(words[2])
if not took:
    print("no check has run yet")
    sys.exit(77)
for name, seconds in sorted(took.items(), key=lambda one: -one[1]):
    print(f"{seconds:8.2f}  {name}")
print(f"{sum(took.values()):8.2f}  in all, at most {LIMIT_S}")
sys.exit(sum(took.values()) > LIMIT_S)
