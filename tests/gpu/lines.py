"""The figures that the GPU backend is to reach, one row per line: what was wanted, what was found, and a verdict of
pass, fail or unmeasured. Nothing is called measured that was not; an unmeasured line says why."""

import math
import statistics

from shapes import GPU_ROWS


def verdict(line, wanted, found, passed, why=None):
    """`passed` None: unmeasured."""
    return {
        "line": line,
        "wanted": wanted,
        "found": found,
        "verdict": {True: "pass", False: "fail", None: "unmeasured"}[passed],
        **({"why": why} if why else {}),
    }


class Results:
    def __init__(self, checks, baseline, device):
        self.checks, self.baseline, self.h200 = checks, baseline or {}, "H200" in device
        self.other = None if self.h200 else f"the figure is for an H200; this is a {device}"

    def rows(self, check):
        return self.checks.get(check, {}).get("rows", {})

    def why(self, check):
        found = self.checks.get(check)
        return "not run" if found is None else found.get("why", "no row of it was measured")

    def on_h200(self, line, wanted, found, passed, check):
        if found is None:
            return verdict(line, wanted, None, None, self.why(check))
        return verdict(line, wanted, found, passed if self.h200 else None, self.other)


def executed_order(r):
    found = r.checks.get("order")
    if not found or not found.get("rows"):
        return [verdict("executed order = program", "0 violations, every schedule", None, None, r.why("order"))]
    return [verdict("executed order = program", "0 violations, every schedule", found["rows"], found["passed"])]


def tokens(r):
    out = []
    for name, (*_, goal) in GPU_ROWS.items():
        row = r.rows("speed").get(name, {})
        rate, line = row.get("tokens_per_s"), f"{name}: tokens/s on one H200, bf16"
        out.append(
            r.on_h200(line, goal, rate, rate >= goal, "speed")
            if rate
            else verdict(line, goal, None, None, row.get("failed", r.why("speed")))
        )
    mfu = r.rows("speed").get("llama-3-8b", {}).get("mfu")
    return out + [r.on_h200("llama-3-8b: MFU", 0.60, mfu, mfu is not None and mfu >= 0.60, "speed")]


def against(r):
    """JAX 1.35 at 124M; 1.2 (JAX) and 1.1 (PyTorch) from 1B parameters on; never below 1."""
    want = {("gpt2-124m", "jax"): 1.35, ("qwen2.5-0.5b", "jax"): 1.0}
    out, found = [], {(c["job"], c["against"]): c["times_as_fast"] for c in r.baseline.get("compare", [])}
    for job in GPU_ROWS:
        for framework in ("jax", "torch"):
            large = {"jax": 1.2, "torch": 1.1}[framework] if job in ("qwen2.5-1.5b", "llama-3-8b") else 1.0
            wanted, times = want.get((job, framework), large), found.get((job, framework))
            why = None if times else missing(r, job, framework)
            out.append(verdict(f"{job}: times as fast as {framework}", wanted, times, times and times >= wanted, why))
    return out


def missing(r, job, framework):
    for row in r.baseline.get("rows", []):
        if row["job"] == job and row["framework"] in (framework, "staticfire") and "failed" in row:
            return f"{row['framework']}: {row['failed'][-200:]}"
    return "no run of it"


def memory_bound(r):
    """Rates in TB/s are those of kernels that wait for memory; GEMMs and attention report FLOP/s."""
    rates = [
        k for k in r.checks.get("kernels", {}).get("rates", []) if "tb_per_s" in k and k["kernel"] != "device copy"
    ]
    slowest = min(rates, key=lambda k: k["tb_per_s"], default=None)
    return [
        r.on_h200(
            "memory-bound kernels: the slowest, TB/s",
            3.6,
            slowest,
            bool(slowest) and slowest["tb_per_s"] >= 3.6,
            "kernels",
        )
    ]


def host(r):
    gap = r.checks.get("order", {}).get("gap_us")
    worst = lambda key: max((row[key] for row in r.rows("speed").values() if key in row), default=None)
    launch, all_of_it = worst("launch_us"), worst("host_us")
    bound = "an upper bound: the kernels that stamp the time lie inside the gap"
    passed = True if gap is not None and gap <= 1.5 else None
    return [
        verdict(
            "host time per step without polling, us, median, the slowest shape",
            20,
            None if all_of_it is None else {"all": all_of_it, "in the launch call": launch},
            None if all_of_it is None else all_of_it <= 20,
            r.why("speed") if all_of_it is None else None,
        ),
        verdict("gap between dependent nodes, us, median", 1.5, gap, passed, bound if gap else r.why("order")),
    ]


def pipeline(r):
    sizes = r.baseline.get("pipeline", {}).get("sizes", [])
    out = []
    for way, wanted in (("one call per stage op", 10), ("one call per step", 2)):
        best = max((s for s in sizes if s["against"] == way), key=lambda s: s["times_as_fast"], default=None)
        out.append(
            verdict(
                f"virtual pipeline 8 x 64: times as fast as JAX with {way}, best size",
                wanted,
                best,
                best and best["times_as_fast"] >= wanted,
                None if best else "no run of it",
            )
        )
    swept = [s["job"] for s in sizes if s["against"] == "one call per step"]
    small = r.baseline.get("pipeline", {}).get("under 1.2x one call per step")
    why = f"above 1.2x at every size: {', '.join(swept)}" if swept else "no run of it"
    line = "virtual pipeline: sizes where the gain is under 1.2x"
    out.append(verdict(line, "found", small, True if swept and small else None, None if swept and small else why))
    return out


def cold(r):
    took = r.rows("cold_start").get("llama-3-8b", {}).get("cached_s")
    return [
        verdict(
            "llama-3-8b: cold process to first step, plans cached, s",
            2,
            took,
            took and took <= 2,
            None if took else r.rows("cold_start").get("llama-3-8b", {}).get("failed", r.why("cold_start")),
        )
    ]


def determinism(r):
    rows = r.rows("deterministic")
    if not rows:
        return [verdict("deterministic: same bits twice, slowdown", "yes, 0.03", None, None, r.why("deterministic"))]
    same = all(row["same bits twice"] for row in rows.values())
    slow = rows.get("gpt2-124m", {}).get("slowdown")
    return [
        verdict("deterministic: same bits twice", True, same, same),
        verdict("gpt2-124m: deterministic slowdown", 0.03, slow, None if slow is None else slow <= 0.03),
    ]


def forecasts(r):
    errors = [abs(row["error"]) for row in r.rows("forecasts").values() if "error" in row]
    whole = len(errors) >= 20
    middle, worst = (statistics.median(errors), max(errors)) if errors else (None, None)
    why = None if whole else r.why("forecasts")
    ledger = {n: row["error"] for n, row in r.rows("memory").items() if "error" in row}
    ledger |= {n: row["memory_error"] for n, row in r.rows("forecasts").items() if "memory_error" in row}
    known = {n: row["error"] for n, row in r.rows("forecasts").items() if "error" in row}
    shapes_seen = [abs(known[n]) for n, row in r.rows("forecasts").items() if n in known and row["kernels_seen"]]
    shapes_not = [abs(known[n]) for n, row in r.rows("forecasts").items() if n in known and not row["kernels_seen"]]
    furthest = max(map(abs, ledger.values()), default=math.inf)
    return [
        verdict(
            "step time forecast, 20 configurations unseen in calibration: median error",
            0.02,
            {
                "all": middle,
                "kernels measured": statistics.median(shapes_seen) if shapes_seen else None,
                "kernels fitted": statistics.median(shapes_not) if shapes_not else None,
            }
            if whole
            else None,
            middle <= 0.02 if whole else None,
            why,
        ),
        verdict("step time forecast: worst error", 0.05, worst, worst <= 0.05 if whole else None, why),
        verdict(
            "peak memory: worst error of the published shapes and the 20 configurations",
            0.01,
            ledger or None,
            furthest <= 0.01 if ledger else None,
            None if ledger else r.why("memory"),
        ),
    ]


def table(checks, baseline, device):
    r = Results(checks, baseline, device)
    elsewhere = "checked without a GPU: ctest -L cuda"
    rows = [
        verdict("builds for three architectures; no GSL in staticfire-run", "ctest", None, None, elsewhere),
        verdict("host checks", "ctest", None, None, elsewhere),
    ]
    for part in (executed_order, tokens, against, memory_bound, host, pipeline, cold, determinism, forecasts):
        rows += part(r)
    return rows
