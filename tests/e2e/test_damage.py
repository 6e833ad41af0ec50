#!/usr/bin/env python3
"""What is broken costs something wherever traffic meets it, and what is wrong is said with the file that it is in: dead
switch chips and slow lanes in `coll`, `sim` and `topo check`, the way around them, errors of overlays, work that is too
much for `net`."""
import json
import pathlib
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
BUILD = pathlib.Path(sys.argv[1]).resolve()
CLUSTERS = ROOT / "scenarios/clusters"
OVERLAYS = {
    "chips": 'dead: { switches: ["nvswitch 0..8"] }\n',
    "lanes": 'degraded: [{ links: ["nvlink-up 5:0..17"], rate: 0.5 }]\n',
    "nics": 'degraded: [{ nics: ["0..287"], rate: 0.5 }]\n',
    "gone": 'dead: { gpus: ["300000"] }\n',
    "spines": 'dead: { switches: ["spine 0"] }\n',
}
SCENARIO = """name: rack
cluster: {cluster}
model: {model}
job:
  seq_len: 4096
  global_batch: 64
  precision: bf16
  gpus: 64
  optimizer: {{ kind: adamw, lr: 3e-4, beta1: 0.9, beta2: 0.95, eps: 1e-8, weight_decay: 0.1, warmup_steps: 2000 }}
  steps: 2
  seed: 1
plan: {{ tp: 8, pp: 2 }}
"""
failures = []


def check(what, holds, *seen):
    if not holds:
        failures.append(what)
        print("FAILED:", what, *seen, file=sys.stderr)


def run(*args):
    return subprocess.run([BUILD / "staticfire", *map(str, args)], capture_output=True, text=True, timeout=60)


def answer(*args):
    done = run(*args, "--json")
    if done.returncode != 0:
        raise SystemExit(f"{args}: {done.stderr}")
    return json.loads(done.stdout)


def coll_us(cluster, op, overlay=None, *more):
    extra = ["--overlay", overlay] if overlay else []
    return answer("coll", cluster, "--op", op, "-b", "1GiB", *more, *extra)["rows"][0]["time_us"]


def collectives(overlay):
    one, four = CLUSTERS / "gb300-nvl72-1rack.yaml", CLUSTERS / "gb300-nvl72-4rack.yaml"
    for op in ("all_reduce", "all_gather", "reduce_scatter", "all_to_all"):
        whole = coll_us(one, op)
        for name in ("chips", "lanes"):
            ratio = coll_us(one, op, overlay[name]) / whole
            check(f"{op} at half of the lanes ({name}) takes up to twice as long", 1.5 < ratio <= 2.0, ratio)
            both = coll_us(four, op, overlay[name], "-n", "72")
            check(f"{op}: a rack is a rack among others", abs(both / whole - ratio) < 0.01, both, whole)
    across = ("-n", "288", "--algorithm", "ring", "--protocol", "simple")
    ratio = coll_us(four, "all_gather", overlay["nics"], *across) / coll_us(four, "all_gather", None, *across)
    check("all NICs of the cluster at half their rate", 1.2 < ratio <= 2.0, ratio)


def simulations(folder, overlay):
    scenario, plan = folder / "scenario.yaml", folder / "plan.yaml"
    model = ROOT / "scenarios/models/llama-3.1-8b/config.json"
    scenario.write_text(SCENARIO.format(cluster=CLUSTERS / "gb300-nvl72-1rack.yaml", model=model))
    answer("plan", scenario, "-o", plan)
    whole = answer("sim", plan)
    for name in ("chips", "lanes"):
        hurt = answer("sim", plan, "--overlay", overlay[name])
        tp, was = hurt["breakdown_s"]["tp_comm"], whole["breakdown_s"]["tp_comm"]
        check(f"tp traffic feels {name}", tp > 1.3 * was and hurt["step_time_s"] > whole["step_time_s"], tp, was)
    done = run("sim", plan, "--overlay", overlay["gone"])
    wanted = f"{overlay['gone']}:1:16: the overlay over the cluster of plan"
    check("an overlay's error is the overlay's",
          done.returncode == 3 and wanted in done.stderr and "scenario" not in done.stderr, done.stderr)
    done = run("sim", plan, "--slow", "nic:3=0.5")
    check("no NICs to be slow", done.returncode == 3 and "one domain and no NICs" in done.stderr, done.stderr)


def checks(overlay):
    four = CLUSTERS / "gb300-nvl72-4rack.yaml"
    whole, hurt = answer("topo", "check", four), answer("topo", "check", four, "--overlay", overlay["chips"])
    check("least NVLink", hurt["least_nvlink_bytes_per_s"] == whole["least_nvlink_bytes_per_s"] // 2, hurt)
    text = run("topo", "check", four, "--overlay", overlay["chips"]).stdout
    check("the plan is proven, not the day", "of the plan agrees" in text and "340.0 GB/s NVLink" in text, text)
    text = run("topo", "check", CLUSTERS / "hgx-h100-2048.yaml", "--overlay", overlay["spines"]).stdout
    check("a dead spine blocks", "non-blocking" not in text and "planned" in text, text)
    route = run("topo", "show", four, "--overlay", overlay["chips"], "--route", "0:5").stdout
    check("the way shown is alive", "nvlink-up 0:9" in route and "dead  " not in route.split("From gpu")[1], route)


def too_much():
    cluster = CLUSTERS / "gb300-nvl72-220k.yaml"
    begun = time.monotonic()
    done = run("net", "all-to-all", cluster, "-n", "220000")
    check("refused before it is built", done.returncode == 2 and "expected at most 11587 endpoints" in done.stderr and
          time.monotonic() - begun < 5, done.stderr)
    done = run("net", "pipeline", cluster, "-n", "8", "--stages", "4", "--forward", "10d")
    check("a time in the words of the option", "--forward expects a time up to 40h, found 10d" in done.stderr,
          done.stderr)


def main():
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        overlay = {}
        for key, text in OVERLAYS.items():
            overlay[key] = folder / f"{key}.yaml"
            overlay[key].write_text(text)
        collectives(overlay)
        simulations(folder, overlay)
        checks(overlay)
        too_much()
    return 1 if failures else 0


sys.exit(main())
