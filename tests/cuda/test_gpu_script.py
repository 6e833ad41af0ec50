#!/usr/bin/env python3
"""The checks that need a GPU (tests/gpu), tried out without one: the real planner, compiler, calibration and forecasts,
the recording device in place of the GPU, and made-up times, so that everything but the figures is as it will be.
usage: test_gpu_script.py BUILD"""
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[2]
BUILD = pathlib.Path(sys.argv[1]).resolve()
sys.dont_write_bytecode = True
sys.path[:0] = [str(ROOT / "tests/gpu"), str(ROOT / "tests/bench/baseline")]
import checks  # noqa: E402
import lines  # noqa: E402
import shapes  # noqa: E402
from ours import Staticfire  # noqa: E402

STEP_S, BESIDE, DEVICE = 0.125, 400_000_000, "NVIDIA H200"
# What a GPU would be asked for is asked of the recording device; it keeps no time, so every step takes as long.
STAND_IN = """#!/usr/bin/env python3
import json, subprocess, sys
words, skip = [], False
for word in sys.argv[1:]:
    if skip or word in ("--cache", "--no-cache", "--deterministic"):
        skip = not skip and word == "--cache"
        continue
    words.append("record" if word == "cuda" else word)
done = subprocess.run([REAL, *words], stdout=subprocess.PIPE, text=True)
if "--json" in words and done.returncode == 0:
    found = json.loads(done.stdout)
    for series, seconds in (("step_time_s", STEP_S), ("host_s", 15e-6), ("launch_s", 9e-6)):
        found[series] = [seconds] * found["steps"] if "record" in words else found[series]
    print(json.dumps(found))
else:
    print(done.stdout, end="")
sys.exit(done.returncode)
"""


def check(what, holds):
    if not holds:
        sys.exit(f"does not hold: {what}")


class Memory:
    """As much as was planned and what a process needs beside it, one part in a thousand more."""

    planned = 0

    def __enter__(self):
        self.peak = 0

    def __exit__(self, *_):
        self.peak = int(Memory.planned * 1.001) + BESIDE

    def close(self):
        pass


class Bench(checks.Bench):
    def __init__(self, folder):
        super().__init__(Staticfire(folder / "build", folder), folder, DEVICE, 3600, "record", "h200")
        self.memory = Memory

    def cuda(self, program, *options, steps):
        Memory.planned = self.predicted(str(program).replace(".sfprog", ".plan.yaml"))["device_memory_bytes"]
        return super().cuda(program, *options, steps=steps)


def write_program(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)


def stand_in(folder):
    real = f"REAL, STEP_S = {str(BUILD / 'staticfire-run')!r}, {STEP_S}\n"
    write_program(folder / "build/staticfire-run", STAND_IN.replace("words, skip =", real + "words, skip =", 1))
    (folder / "build/staticfire").symlink_to(BUILD / "staticfire")
    write_program(folder / "build/tests/cuda/gpu/cuda_gpu_test_a", "#!/bin/sh\nexit 0\n")
    row = '{"kernel": "add", "tb_per_s": 3.9}'
    write_program(folder / "build/tests/cuda/gpu/cuda_gpu_bench_a", f"#!/bin/sh\necho '{row}'\n")


def make_small():
    """Models that are captured in a moment, and a part of each table."""
    shapes.GPU_ROWS = {n: r._replace(config=shapes.TINY, seq=128, batch=8, job={}) for n, r in shapes.GPU_ROWS.items()}
    lines.GPU_ROWS = shapes.GPU_ROWS
    checks.NUMBERS = tuple((n, c, j, layouts[:1]) for n, c, j, layouts in checks.NUMBERS[:2])
    seen = len(checks.SEEN) * len(checks.DEPTHS_SEEN), len(checks.UNSEEN) * len(checks.DEPTHS_UNSEEN)
    check(f"twenty forecasts: {seen}", sum(seen) == 20)
    checks.SEEN, checks.UNSEEN = checks.SEEN[:1], checks.UNSEEN[:1]
    checks.compared = order_alone


def order_alone(b, forecast, trace, program):
    """The recording device's traces claim no times."""
    words = [BUILD / "staticfire", "compare", forecast, trace, "--program", program, "--order-only", "--json"]
    done = subprocess.run([str(w) for w in words], capture_output=True, text=True)
    if done.returncode != 0:
        raise checks.Failed(done.stderr)
    return json.loads(done.stdout)


def all_families():
    text = (ROOT / "planner/pipeline.h").read_text()
    return set(re.findall(r'^    X\(\w+, "([\w-]+)", \d, "', text, re.MULTILINE))


def orders(found):
    families = all_families()
    check(f"fourteen families: {sorted(families)}", len(families) == 14)
    check(f"each is checked: {families - found['rows'].keys()}", families <= found["rows"].keys())
    check(f"in order: {found}", found["passed"] and all(r["checked"] > 50 for r in found["rows"].values()))
    check("gaps of one rank alone", found["gaps_n"] > 50 and found["gap_us"] > 0)


def forecast(found, folder):
    rows = list(found["rows"].values())
    check(f"all of them: {found}", found["passed"] and len(rows) == 4)
    check("sealed", len({r["seal"] for r in rows}) == 4)
    check("errors are those of the forecast", all(abs(r["error"] - (r["predicted_s"] / STEP_S - 1)) < 1e-9 for r in rows))
    check(f"memory: {rows}", all(abs(r["memory_error"]) < 0.002 for r in rows))
    check("shapes with and without times of their own", [r["kernels_seen"] for r in rows] == [True] * 3 + [False])
    text = (folder / "seen.calib.yaml").read_text()
    check("calibrated on other programs", "dims: [4096, 1536, 512, 1]" in text and "dims: [8192, 640, 640" not in text)


def verdicts(found, table):
    by_line = {row["line"]: row for row in table}
    find = lambda words: next(row for line, row in by_line.items() if words in line)
    check("executed order", find("executed order")["verdict"] == "pass")
    check("tokens per second", abs(find("gpt2-124m: tokens/s")["found"] - 128 * 8 / STEP_S) < 1e-6)
    check("host time", find("host time per step")["verdict"] == "pass")
    check("peak memory", find("peak memory")["verdict"] == "pass")
    check("memory-bound kernels", find("memory-bound")["found"]["tb_per_s"] == 3.9)
    check("what had no run is unmeasured", find("virtual pipeline 8 x 64")["verdict"] == "unmeasured")
    check("four forecasts are not twenty", find("step time forecast: worst")["verdict"] == "unmeasured")
    found["forecasts"]["rows"] |= {f"x{i}": r for i, r in enumerate(list(found["forecasts"]["rows"].values()) * 4)}
    worst = next(r for r in lines.table(found, None, DEVICE) if r["line"] == "step time forecast: worst error")
    check(f"twenty are judged: {worst}", worst["verdict"] == "fail" and worst["found"] > 0.05)
    check("another GPU's rate is no verdict", lines.table(found, None, "NVIDIA B200")[3]["verdict"] == "unmeasured")


def budget(folder):
    b = checks.Bench(None, folder, DEVICE, 350)
    shares = []
    for i in range(len(checks.CHECKS)):
        b.begin(checks.CHECKS[i:])
        shares.append(b.left())
        b.ends -= shares[-1]  # it took all that it may
    names = [c.__name__ for c in checks.CHECKS]
    check(f"nobody is left without time: {dict(zip(names, shares))}", min(shares) > 0)
    check("what has seconds set aside gets them", all(shares[names.index(n)] >= s for n, s in checks.RESERVED_S.items()))


def main():
    if not os.access(BUILD / "staticfire-run", os.X_OK):
        print("skipped: no staticfire-run in this build")
        sys.exit(77)
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        budget(folder)
        stand_in(folder)
        make_small()
        b, found = Bench(folder), {}
        for one in (checks.numbers, checks.order, checks.kernels, checks.speed, checks.memory, checks.deterministic,
                    checks.cold_start, checks.calibration, checks.forecasts):
            b.begin((one, one))
            found[one.__name__] = one(b)
        check(f"numbers: {found['numbers']}", found["numbers"]["passed"])
        orders(found["order"])
        check(f"calibration: {found['calibration']}", found["calibration"]["passed"])
        forecast(found["forecasts"], folder)
        rest = {n: f for n, f in found.items() if not f["passed"]}
        check(f"every check passes on the stand-in: {rest}", not rest)
        verdicts(found, lines.table(found, None, DEVICE))
    print("the GPU script: checks, budget and verdicts on the recording device")


main()
