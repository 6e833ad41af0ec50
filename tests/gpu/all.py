#!/usr/bin/env python3
"""Runs every check that needs a GPU, then the baselines in the time that is left, and writes one JSON with date,
device and versions. Exit 1 when a check failed: something did not work or did not agree. Figures that are too slow
are rows of `lines`."""

import datetime
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests/bench/baseline"))

import checks  # noqa: E402
import lines  # noqa: E402
from ours import Failed, Staticfire, command  # noqa: E402

BUDGET_S = float(os.environ.get("SF_GPU_BUDGET_S", 590))
SHARE_OF_BASELINES = 0.35


def query(what):
    return command(["nvidia-smi", f"--query-gpu={what}", "--format=csv,noheader", "-i", "0"]).strip()


def commit():
    """What was measured; "+" where files differ from it."""
    words = ["git", "-C", str(ROOT), "describe", "--always", "--abbrev=40", "--dirty=+"]
    done = subprocess.run(words, capture_output=True, text=True)
    return done.stdout.strip() if done.returncode == 0 else None


def libraries(build):
    """CUDA, NCCL, cuDNN and cuBLASLt, as the module that runs names them."""
    try:
        return json.loads(command([build / "staticfire-run", "--describe", "--backend", "cuda"]))["libraries"]
    except Failed as why:
        return str(why)


def run_checks(b):
    out = {}
    for number, check in enumerate(checks.CHECKS):
        start = time.monotonic()
        b.begin(checks.CHECKS[number:])
        try:
            if b.left() < 5:
                raise Failed("no time left in the budget")
            outcome = check(b)
        except Exception as why:  # one broken check must not hide the others
            outcome = {"passed": False, "why": f"{type(why).__name__}: {why}"[-900:]}
        outcome["seconds"] = round(time.monotonic() - start, 1)
        out[check.__name__] = outcome
        print(
            f"{check.__name__}: {'passed' if outcome['passed'] else 'FAILED'} in {outcome['seconds']} s "
            f"{outcome.get('why', '')}",
            flush=True,
        )
    return out


def run_baselines(build, folder, results, budget_s):
    """JAX and PyTorch are looked for in SF_JAX_PYTHON and SF_TORCH_PYTHON (default: this interpreter)."""
    rows = folder / "baseline.json"
    known = max(results.glob("gpu-*.baseline.json"), default=rows)
    words = [
        sys.executable,
        ROOT / "tests/bench/baseline/run.py",
        "gpu",
        build,
        "--out",
        rows,
        "--known",
        known,
        "--budget",
        budget_s,
        "--limit",
        120,
        "--jax-python",
        os.environ.get("SF_JAX_PYTHON", sys.executable),
        "--torch-python",
        os.environ.get("SF_TORCH_PYTHON", sys.executable),
    ]
    try:
        subprocess.run([str(w) for w in words], timeout=budget_s + 60, check=True)
        return json.loads(rows.read_text())
    except (subprocess.SubprocessError, OSError, ValueError) as why:
        print(f"baselines: {why}"[-600:])
        return None


def show(rows):
    for row in rows:
        found = "" if row["found"] is None else json.dumps(row["found"])[:60]
        print(
            f"{row['verdict']:10}  {row['line']:66}  wanted {row['wanted']}  found {found}  {row.get('why', '')[:120]}"
        )


def main():
    build, results = pathlib.Path(sys.argv[1]).resolve(), pathlib.Path(sys.argv[2])
    device = query("name")
    report = {
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "device": device,
        "driver": query("driver_version"),
        "memory": query("memory.total"),
        "commit": commit(),
        "versions": libraries(build),
    }
    with tempfile.TemporaryDirectory(prefix="staticfire-gpu-") as name:
        folder, began = pathlib.Path(name), time.monotonic()
        os.environ["XDG_CACHE_HOME"] = name  # nothing is kept for the user, and nothing of theirs is used
        report["checks"] = run_checks(
            checks.Bench(Staticfire(build, folder), folder, device, BUDGET_S * (1 - SHARE_OF_BASELINES))
        )
        baseline = run_baselines(build, folder, results, BUDGET_S - (time.monotonic() - began))
    report["lines"] = lines.table(report["checks"], baseline, device)
    show(report["lines"])
    results.mkdir(parents=True, exist_ok=True)
    path = results / f"gpu-{report['date'][:10]}-{device.split()[-1].lower()}.json"
    path.write_text(json.dumps(report, indent=2) + "\n")
    if baseline:
        path.with_suffix(".baseline.json").write_text(json.dumps(baseline, indent=1) + "\n")
    print(f"written to {path}")
    sys.exit(not all(c["passed"] for c in report["checks"].values()))


if __name__ == "__main__":
    main()
