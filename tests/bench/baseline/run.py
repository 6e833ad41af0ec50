#!/usr/bin/env python3
"""The same training by staticfire, JAX and PyTorch, each in its best of several configurations, side by side.

  run.py cpu BUILD [--out rows.json]     tiny models in f32 on this machine's CPU: training, and the virtual pipeline
  run.py gpu BUILD [--out rows.json]     the four model shapes in bf16 and the virtual pipeline on one GPU

Every configuration is a process of its own, on the same device and job, one after the other. A framework counts with
its fastest configuration. --budget ends the search early; configurations that won an earlier run (--known) go
first."""

import argparse
import datetime
import json
import os
import pathlib
import platform
import subprocess
import sys
import tempfile
import time

import shapes
from job import Model
from ours import Failed, Staticfire, command

HERE = pathlib.Path(__file__).resolve().parent
CONVENTIONS = {
    "step time": "from the completion of one step to that of the next, the next step being started before; "
    "median of >= 20 after the warm-up",
    "mfu": "model FLOPs: 6 per weight that multiplies and token, causal attention counted once (half of the square), "
    "recomputation never; over the dense peak of the precision",
    "precision": "f32: f32 throughout. bf16: arithmetic and activations in bf16; master weights, AdamW's moments, "
    "norms, softmax and loss in f32",
    "data": "the same bytes of the same text in the same order; JAX and PyTorch have all batches on the device before "
    "the first step, staticfire copies each step's tokens in the step",
    "cpu_s": "CPU time of all threads of the process per step; for staticfire of all ranks",
}
# On in the first configurations; the search then takes away and adds.
XLA = ["latency_hiding", "command_buffer", "autotune"]


def jax_candidates(large):
    chunks = 16
    base = {"attention": "cudnn", "loss_chunks": chunks, "xla": XLA}
    remats = ("dots", "full", "attention") if large else ("none", "dots")
    out = [base | {"layers": layers, "remat": remat} for remat in remats for layers in ("unrolled", "scan")]
    out += [out[0] | {"xla": xla} for xla in ([], ["latency_hiding"], XLA + ["no_triton"], XLA + ["exhaustive"])]
    return out + [out[0] | {"microbatches": n} for n in ((2,) if large else (2, 4, 8))] + [out[0] | {"loss_chunks": 1}]


def torch_candidates(large):
    base = {
        "attention": "cudnn",
        "loss_chunks": 16,
        "remat": "full" if large else "none",
        "optimizer": "in_backward" if large else "fused",
    }
    modes = [
        ("default", "step"),
        ("reduce-overhead", "none"),
        ("max-autotune", "none"),
        ("max-autotune-no-cudagraphs", "step"),
        ("default", "none"),
    ]
    modes = [m for m in modes if not (large and m[0] in ("reduce-overhead", "max-autotune"))]
    out = [base | {"compile": mode, "graph": graph} for mode, graph in modes]
    out += [out[0] | {"attention": "flash"}, out[0] | {"cast": "auto"}, out[0] | {"loss_chunks": 1}]
    return out + [out[0] | {"microbatches": n} for n in (() if large else (2, 4))]


def ours_candidates(large):
    return [{}, {"recompute": "full"}] if large else [{}, {"micro_batch": 8}, {"micro_batch": 16}]


class Bench:
    def __init__(self, a, folder):
        self.a, self.folder, self.began = a, pathlib.Path(folder), time.monotonic()
        self.ours, self.rows = Staticfire(a.build, folder), []
        self.known = json.loads(a.known.read_text())["rows"] if a.known and a.known.exists() else []

    def left(self):
        return self.a.budget - (time.monotonic() - self.began)

    def note(self, found, **labels):
        self.rows.append(found | labels)
        r = self.rows[-1]
        what = f"{r['line']:9} {r['job']:24} {r['framework']:10} {json.dumps(r['options'], sort_keys=True)}"
        if "failed" in r:
            print(f"{what}\n          not measured: {r['failed'][-200:]}", flush=True)
            return
        s, mfu = r["step_time_s"], "" if r["mfu"] is None else f"  MFU {r['mfu'] * 100:.1f} %"
        quartiles = f"({s['p25'] * 1e3:.3f} to {s['p75'] * 1e3:.3f}, n {s['n']})"
        print(
            f"{what}\n          {s['median'] * 1e3:9.3f} ms {quartiles}  "
            f"cpu {r['cpu_s']['median'] * 1e3:.3f} ms  {r['tokens_per_s']:.0f} tokens/s{mfu}",
            flush=True,
        )

    def attempt(self, framework, scenario, options, run, **labels):
        try:
            if self.left() < 5:
                raise Failed("no time left in the budget")
            found = run()
            if self.a.device == "gpu" and found.get("device") == "cpu":
                raise Failed("it ran on the CPU: its installation finds no GPU")
            self.note(found, **labels)
        except (Failed, OSError, ValueError, KeyError) as why:
            name = pathlib.Path(scenario).name.removesuffix(".scenario.json")
            self.note({"framework": framework, "job": name, "options": options, "failed": str(why)}, **labels)

    def program(self, script, scenario, options, *words, cores=0, **labels):
        python = self.a.torch_python if script.startswith("torch") else self.a.jax_python
        framework = script.split("_")[0]
        call = [
            python,
            "-B",
            HERE / script,
            scenario,
            "--data",
            shapes.TEXT,
            "--steps",
            self.a.steps,
            "--options",
            json.dumps(options),
            *words,
        ]
        self.attempt(
            framework,
            scenario,
            options,
            lambda: json.loads(command(call, min(self.left(), self.a.limit), cores).splitlines()[-1]),
            **labels,
        )

    def staticfire(self, scenario, options, *words, cores=0, peak=0, **labels):
        self.attempt(
            "staticfire",
            scenario,
            options,
            lambda: self.ours.row(
                scenario,
                options,
                *words,
                steps=self.a.steps,
                cores=cores,
                peak=peak,
                limit=min(self.left(), self.a.limit),
            ),
            **labels,
        )

    def winners_first(self, framework, job, candidates):
        before = [r for r in self.known if r["framework"] == framework and r["job"] == job and "failed" not in r]
        before.sort(key=lambda r: r["step_time_s"]["median"])
        asked = lambda c: next((i for i, r in enumerate(before) if c.items() <= r["options"].items()), len(before))
        return sorted(candidates, key=asked)

    def best(self, job, framework, line=None, by="step_time_s", **labels):
        same = [
            r
            for r in self.rows
            if r["job"].startswith(job)
            and r["framework"] == framework
            and "failed" not in r
            and (line is None or r["line"] == line)
            and labels.items() <= (r["options"] | r).items()
        ]
        return min(same, key=lambda r: r[by]["median"], default=None)

    def against(self, job, framework, line, mine, other):
        """How many times as fast, each side in its fastest configuration. The ratio of CPU times, each side in its most
        frugal one, holds where other processes share the machine."""
        a, o = self.best(job, "staticfire", line, **mine), self.best(job, framework, line, **other)
        if not a or not o:
            return []
        cpu = [self.best(job, f, line, "cpu_s", **more) for f, more in (("staticfire", mine), (framework, other))]
        ratio = lambda key, x, y: y[key]["median"] / x[key]["median"]
        return [
            {
                "job": job,
                "times_as_fast": ratio("step_time_s", a, o),
                "cpu_time_ratio": ratio("cpu_s", *cpu),
                "same first losses": same_losses(a, o),
            }
        ]


# ---- CPU -----------------------------------------------------------------------------------------------------------

CPU_TRAIN = {
    "tiny-4.9m": (shapes.TINY, 128, 8, {}),
    "tiny-0.4m": (shapes.model(64, 8, 4, 2, 160, 256, False), 64, 8, {}),
    "tiny-gpt2": (shapes.TINY_GPT2, 64, 8, shapes.PADDED),
    "tiny-qwen2": (shapes.TINY_QWEN2, 64, 8, {}),
}
CPU_JAX = [
    {"layers": "unrolled"},
    {"layers": "scan"},
    {"layers": "unrolled", "microbatches": 4},
    {"layers": "scan", "microbatches": 4},
    {"layers": "unrolled", "remat": "dots"},
]
CPU_TORCH = [{"compile": "default"}, {"compile": None}]


def cpu_train(b, threads):
    for name, (config, seq, batch, job) in CPU_TRAIN.items():
        clusters = {n: b.ours.machine(n) for n in {1, threads}}
        start = b.ours.weights(config, seq, batch, "f32", 1, {"pp": 1}, clusters[1], job=job)
        label = {"line": "train", "threads": threads}
        for plan in [{"micro_batch": n} for n in (1, 2, batch // threads)]:
            for shape in ({"pp": 1, "dp": threads}, {"pp": threads, "dp": 1})[:threads]:
                options = shape | plan
                scenario = shapes.scenario(
                    b.folder, name, config, seq, batch, "f32", threads, options, clusters[threads], job=job
                )
                b.staticfire(scenario, options, cores=threads, **label)
        for options in CPU_JAX:
            b.program(
                "jax_train.py", scenario, options | {"threads": threads}, "--weights", start, cores=threads, **label
            )
        for options in CPU_TORCH if b.a.torch else ():
            b.program(
                "torch_train.py", scenario, options | {"threads": threads}, "--weights", start, cores=threads, **label
            )


def pipeline(b, hidden, seq, cluster, precision, words, weights, cores=0):
    name, config = f"pipe-h{hidden}-s{seq}", shapes.stage_model(hidden)
    plan = {"pp": 8, "vpp": 1, "dp": 1, "micro_batch": 1, "schedule": "1f1b", "recompute": "none"}
    scenario = shapes.scenario(b.folder, name, config, seq, 64, precision, 8, plan, cluster)
    start = ["--weights", b.ours.weights(config, seq, 64, precision, 8, plan, cluster)] if weights else []
    more = {"attention": "cudnn"} if precision == "bf16" else {}
    b.staticfire(scenario, {"stages": 8, "microbatches": 64}, *words, cores=cores, line="pipeline")
    b.program(
        "jax_pipeline.py",
        scenario,
        more | {"mode": "op", "backward": "recompute"},
        *start,
        cores=cores,
        line="pipeline",
    )
    b.program(
        "jax_pipeline.py",
        scenario,
        more | {"mode": "op", "backward": "residuals"},
        *start,
        cores=cores,
        line="pipeline",
    )
    for xla in ([], ["command_buffer"]) if precision == "bf16" else ([],):
        b.program(
            "jax_pipeline.py", scenario, more | {"mode": "step", "xla": xla}, *start, cores=cores, line="pipeline"
        )
    return name


def gains(b, sizes):
    """How many times as fast as JAX's two ways, by stage size, and the sizes where the gain is small."""
    table = []
    for hidden, seq in sizes:
        name = f"pipe-h{hidden}-s{seq}"
        for mode, way in (("op", "one call per stage op"), ("step", "one call per step")):
            table += [{"against": way} | g for g in b.against(name, "jax", "pipeline", {}, {"mode": mode})]
    return {
        "sizes": table,
        "under 1.2x one call per step": [
            g["job"] for g in table if g["against"] == "one call per step" and g["times_as_fast"] < 1.2
        ],
    }


CPU_SIZES = ((16, 8), (32, 32), (64, 64), (128, 128))


def run_cpu(b):
    for threads in (1, 2):
        if "train" in b.a.only:
            cpu_train(b, threads)
    cluster = b.ours.machine(8)
    for hidden, seq in CPU_SIZES if "pipeline" in b.a.only else ():
        pipeline(b, hidden, seq, cluster, "f32", [], weights=True, cores=2)
    return gains(b, CPU_SIZES)


# ---- GPU -----------------------------------------------------------------------------------------------------------

GPU_SIZES = ((256, 256), (64, 64), (1024, 1024), (128, 128), (512, 512), (2048, 2048))


# Here all three begin with the same weights and their losses are compared. For the larger shapes gigabytes would be
# written, and read by every process, in the time that measurements need.
SAME_START = "gpt2-124m"


def same_start(b, row, cluster):
    try:
        words = ["--backend", "cuda", "--cache", b.folder]
        job = row.config, row.seq, row.batch, "bf16", 1, {"pp": 1}, cluster
        return ["--weights", b.ours.weights(*job, job=row.job, words=words, limit=min(b.left(), 60))]
    except (Failed, OSError, ValueError) as why:
        print(
            f"{SAME_START}: losses will not be compared, for want of the same weights to begin with: {why}", flush=True
        )
        return []


def gpu_name():
    return command(["nvidia-smi", "--query-gpu=name", "--format=csv,noheader", "-i", "0"]).strip()


def run_gpu(b):
    device = gpu_name()
    peak = next((value for word, value in shapes.PEAKS.items() if word in device), 0)
    cluster = shapes.ROOT / f"scenarios/clusters/hgx-{'h200' if 'H200' in device else 'h100'}-1node.yaml"
    turns = []
    for name, row in shapes.GPU_ROWS.items():
        large = Model(row.config).hidden >= 4096
        make = lambda plan, name=name, r=row: shapes.scenario(
            b.folder, name, r.config, r.seq, r.batch, "bf16", 1, {"pp": 1} | plan, cluster, job=r.job
        )
        start = same_start(b, row, cluster) if name == SAME_START and "train" in b.a.only else []
        mine = [
            lambda o=o, make=make: b.staticfire(
                make(o), o, "--backend", "cuda", "--cache", b.folder, peak=peak, line="train"
            )
            for o in ours_candidates(large)
        ]
        jax = [
            lambda o=o, make=make, start=start: b.program(
                "jax_train.py", make({}), o, "--peak", peak, *start, line="train", same_start=bool(start)
            )
            for o in b.winners_first("jax", name, jax_candidates(large))
        ]
        torch = [
            lambda o=o, make=make, start=start: b.program(
                "torch_train.py", make({}), o, "--peak", peak, *start, line="train", same_start=bool(start)
            )
            for o in b.winners_first("torch", name, torch_candidates(large))
        ]
        turns.append([t for same in zip_all(mine, jax, torch) for t in same])
    pipes = [
        lambda h=h, s=s: pipeline(b, h, s, cluster, "bf16", ["--backend", "cuda", "--virtual-ranks"], False)
        for h, s in GPU_SIZES
    ]
    first = [t for same in turns for t in same[:3]] if "train" in b.a.only else []
    rest = [t for same in zip_all(*(t[3:] for t in turns)) for t in same] if "train" in b.a.only else []
    for turn in first + (pipes if "pipeline" in b.a.only else []) + rest:
        if b.left() > 5:
            turn()
    return gains(b, sorted(GPU_SIZES))


def zip_all(*lists):
    """The first of each, then the second of each, for as long as any has one."""
    return [[one[i] for one in lists if i < len(one)] for i in range(max(map(len, lists), default=0))]


# ---- report --------------------------------------------------------------------------------------------------------


def same_losses(mine, other):
    """Where both began with the same weights: within 0.01 % in f32, which is always so on CPU; in bf16, where everybody
    rounds elsewhere, within 0.1 %."""
    if mine["precision"] != "f32" and not other.get("same_start"):
        return None
    tolerance = 1e-4 if mine["precision"] == "f32" else 1e-3
    return all(abs(x - y) <= tolerance * abs(y) for x, y in zip(mine["loss"][:8], other["loss"][:8]))


def compare(b):
    """Per job and thread count: how many times as fast as the best of each framework."""
    out = []
    for job, threads in dict.fromkeys((r["job"], r.get("threads")) for r in b.rows if r["line"] == "train"):
        label = {} if threads is None else {"threads": threads}
        for framework in ("jax", "torch"):
            out += [{"against": framework} | label | g for g in b.against(job, framework, "train", label, label)]
    return out


def cpu_name():
    info = pathlib.Path("/proc/cpuinfo")
    names = [line.split(":")[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
    return f"{names[0]}, {len(names)} cores" if names else platform.machine()


def versions(a):
    def ask(python, module):
        done = subprocess.run(
            [python, "-c", f"import {module}; print({module}.__version__)"], capture_output=True, text=True
        )
        return done.stdout.strip() if done.returncode == 0 else None

    return {"python": platform.python_version(), "jax": ask(a.jax_python, "jax"), "torch": ask(a.torch_python, "torch")}


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("device", choices=("cpu", "gpu"))
    parser.add_argument("build", help="folder with staticfire and staticfire-run")
    parser.add_argument("--out", type=pathlib.Path)
    parser.add_argument("--known", type=pathlib.Path, help="rows of an earlier run")
    parser.add_argument("--budget", type=float, default=7200, help="seconds for everything")
    parser.add_argument("--limit", type=float, default=900, help="seconds for one configuration")
    parser.add_argument("--steps", type=int, default=21)
    parser.add_argument("--only", choices=("train", "pipeline"), default="train pipeline")
    parser.add_argument("--no-torch", dest="torch", action="store_false")
    parser.add_argument("--jax-python", default=sys.executable)
    parser.add_argument("--torch-python", default=sys.executable)
    return parser.parse_args()


def main():
    a = arguments()
    with tempfile.TemporaryDirectory(prefix="staticfire-baseline-") as folder:
        b = Bench(a, folder)
        pipes = run_cpu(b) if a.device == "cpu" else run_gpu(b)
        report = {
            "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
            "device": cpu_name() if a.device == "cpu" else gpu_name(),
            "versions": versions(a),
            "load": os.getloadavg(),
            "conventions": CONVENTIONS,
            "compare": compare(b),
            "pipeline": pipes,
            "rows": b.rows,
        }
    print(json.dumps({"compare": report["compare"], "pipeline": pipes}, indent=1))
    if a.out:
        a.out.parent.mkdir(parents=True, exist_ok=True)
        a.out.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
