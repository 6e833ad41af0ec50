#!/usr/bin/env python3
"""The published tables rerun: figures per table within two points of tests/golden/validate.json, within the time promised.

usage: test_validate.py BUILD [--write]      (--write renews the golden file after an intended change)"""
import json
import pathlib
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
BUILD = pathlib.Path(sys.argv[1]).resolve()
GOLDEN = ROOT / "tests/golden/validate.json"
TOLERANCE, SECONDS = 0.02, 60

bad = []


def check(ok, message):
    if not ok:
        bad.append(message)


def run(*arguments):
    return subprocess.run([str(BUILD / "staticfire"), "validate", *map(str, arguments)], cwd=ROOT, text=True,
                          capture_output=True)


start = time.monotonic()
result = run("--json")
if result.returncode:
    sys.exit(f"exit {result.returncode}\n{result.stderr}")
document = json.loads(result.stdout)
rows = document["rows"]
found = {f"{s['source_file']} {s['tier']}{' assumed' if s['assumed'] else ''}": {
    k: s[k] for k in ("rows", "n", "refused", "calibration", "mean_abs_error", "max_abs_error", "spearman")}
    for s in document["summaries"]}
check(any(row["case_id"] == "vtrain-0000" for row in rows), "the second published table was not read")
seconds = time.monotonic() - start
check(seconds < SECONDS, f"both tables took {seconds:.0f} s, at most {SECONDS}")

check(document["coverage"] >= 0.85, f"90 % intervals hold {document['coverage']:.0%} of the test rows, at least 85 %")
peaks = document["peak_memory"]
check(peaks["n"] >= 48 and peaks["mean_abs_error"] <= 0.02 and peaks["max_abs_error"] <= 0.05, f"peak memory: {peaks}")
for row in rows:
    ran = row["refused"] is None
    check(ran == (row["predicted_s"] is not None), f"{row['case_id']}: a refused row has a prediction, or the reverse")
    check(ran or len(row["refused"]) > 5, f"{row['case_id']}: refused without a reason")
    if ran:
        error = row["predicted_s"] / row["measured_s"] - 1
        check(abs(error - row["error"]) < 1e-9, f"{row['case_id']}: error {row['error']} is not {error}")
        check(row["interval"]["low_s"] <= row["predicted_s"] <= row["interval"]["high_s"], f"{row['case_id']}: interval")

if "--write" in sys.argv:
    GOLDEN.write_text(json.dumps(found, indent=1, sort_keys=True) + "\n")
golden = json.loads(GOLDEN.read_text())
check(golden.keys() == found.keys(), f"tables differ: {sorted(golden.keys() ^ found.keys())}")
for name in golden.keys() & found.keys():
    for key, expected in golden[name].items():
        value = found[name][key]
        same = value == expected if expected is None or isinstance(expected, int) else (
            value is not None and abs(value - expected) <= TOLERANCE)
        check(same, f"{name}: {key} was {expected}, is {value}")

goals = {g["line"]: g for g in document["goals"]}
check(len(goals) == len(document["goals"]) >= 14 and all(g["n"] > 0 for g in goals.values()), f"goals: {goals}")
for line in ("90 % intervals", "GB300 and GB200", "its loss per doubling", "Zero Bubble's Table 4"): # what was reached stays reached
    check(all(g["met"] for name, g in goals.items() if name.startswith(line)), f"{line}: {goals}")
for arguments, code, text in ((["no-such.csv"], 8, "no-such.csv"), (["--tier", "Z"], 3, "nothing to validate"),
                              (["--source", "no-such.csv"], 3, "source_file no-such.csv"), ([ROOT / "CMakeLists.txt"], 3, "CMakeLists.txt:"),
                              (["--markdown", "--json"], 2, "two forms")):
    result = run(*arguments)
    check(result.returncode == code and text in result.stderr,
          f"{arguments}: expected exit {code} and \"{text}\", found {result.returncode}: {result.stderr[:200]}")
twice = [run("--source", "mlperf_llm_summary.csv", "--json").stdout for _ in range(2)]
check(twice[0] == twice[1] and len(twice[0]) > 1000, "the same table printed differently twice")

print("\n".join(bad) or f"{len(rows)} rows in {seconds:.1f} s")
sys.exit(bool(bad))
