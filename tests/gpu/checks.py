"""What is measured on a GPU, one function per subject. Each returns a dict with `passed`: did everything work and
agree? How fast it was, and whether that is enough, is for lines.py."""

import ctypes
import json
import math
import pathlib
import statistics
import struct
import subprocess
import threading
import time

import shapes
from ours import Failed, command


RESERVED_S = {"speed": 60, "calibration": 25, "forecasts": 120}


class Bench:
    def __init__(self, ours, folder, device, budget_s, backend="cuda", device_class=None):
        """`backend`, of calibrations, and the device's class, which else its name says: for trying the checks out."""
        self.ours, self.folder, self.device, self.backend = ours, pathlib.Path(folder), device, backend
        self.device_class = ["--device", device_class] if device_class else []
        self.memory = Memory
        self.cluster = shapes.ROOT / f"scenarios/clusters/hgx-{'h200' if 'H200' in device else 'h100'}-1node.yaml"
        self.ends = self.check_ends = time.monotonic() + budget_s

    def begin(self, checks):
        """The first of `checks` may take half of what is left for it and those behind it, the last one all: none
        starves the others. What RESERVED_S names has its seconds set aside until it is its turn."""
        left = self.ends - time.monotonic()
        own = RESERVED_S.get(checks[0].__name__, 0)
        free = max(left - own - sum(RESERVED_S.get(c.__name__, 0) for c in checks[1:]), 0)
        self.check_ends = time.monotonic() + (min(own + free / 2, left) if len(checks) > 1 else left)

    def left(self):
        return self.check_ends - time.monotonic()

    def row(self, name, prefix=""):
        """Plan and program of a row of shapes.GPU_ROWS."""
        r = shapes.GPU_ROWS[name]
        return self.compiled(prefix + name, r.config, r.seq, r.batch, "bf16", job=r.job)

    def scenario(self, name, config, seq, batch, precision, gpus=1, plan=None, **more):
        return shapes.scenario(
            self.folder, name, config, seq, batch, precision, gpus, plan or {"pp": 1}, self.cluster, **more
        )

    def compiled(self, *arguments, **more):
        return self.ours.compile(self.scenario(*arguments, **more))

    def cuda(self, program, *options, steps):
        """Algorithms are kept in the checks' own folder unless the options say otherwise, never in the user's."""
        cache = () if {"--cache", "--no-cache"} & set(options) else ("--cache", self.folder)
        return self.ours.train(program, "--backend", "cuda", *cache, *options, steps=steps, limit=self.left())

    def predicted(self, plan, kernels=None):
        words = [self.ours.build / "staticfire", "sim", plan, "--json", *(["--kernels", kernels] if kernels else [])]
        return json.loads(command(words, self.left()))

    def sealed(self, plan, name, kernels):
        """The forecast as a file with a seal, which its numbers cannot be changed under."""
        path = self.folder / f"{name}.forecast.json"
        command([self.ours.build / "staticfire", "sim", plan, "--kernels", kernels, "--forecast", path], self.left())
        found = json.loads(path.read_text())
        return {"predicted_s": found["step_time_ps"] * 1e-12, "seal": found["seal"]}


def tensors(path):
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    body = memoryview(data)[8 + length :]
    return {name: body[slice(*entry["data_offsets"])].cast("f") for name, entry in header.items()}


# Of weights after a few steps. AdamW moves a weight by its learning rate whatever the size of the gradient, so where a
# gradient is nearly nothing rounding picks the direction, and the worst single weight says little. An optimizer that
# is wrong everywhere moves the mean square by a tenth of it or more.
PARAM_RMS = 1e-2


def furthest(a, b):
    """Worst difference per kind, relative to the largest value of its tensor: f32 sums in another order. For weights
    also the root of the mean square, relative to that of the tensor."""
    worst = {"loss": 0.0, "grad": 0.0, "param": 0.0, "param_rms": 0.0}
    for name, x in a.items():
        y, kind = b[name], name.split("/")[0]
        scale = max(max(map(abs, x)), 1e-12)
        worst[kind] = max(worst[kind], max(abs(p - q) for p, q in zip(x, y)) / scale)
        if kind == "param":
            squares = math.fsum(p * p for p in x), math.fsum((p - q) ** 2 for p, q in zip(x, y))
            worst["param_rms"] = max(worst["param_rms"], math.sqrt(squares[1] / max(squares[0], 1e-24)))
    return worst


def kernels(b):
    programs = lambda what: [p for p in sorted(b.ours.build.glob(f"tests/cuda/*/cuda_gpu_{what}_*")) if p.is_file()]
    run = lambda p: subprocess.run([str(p)], capture_output=True, text=True, timeout=max(b.left(), 1))
    codes = {p.name: run(p).returncode for p in programs("test")}
    rates = []
    for program in programs("bench"):
        rates += [json.loads(line) for line in run(program).stdout.splitlines() if line.startswith("{")]
    return {"tests": codes, "rates": rates, "passed": bool(codes) and all(c == 0 for c in codes.values())}


# Layouts are pp, dp, tp. Of gpt2: layer norms, biases, learned positions, a padded vocabulary, logits in parts; of
# qwen2: biases of q, k and v.
NUMBERS = (
    ("llama", shapes.TINY, {}, ((1, 1, 1), (2, 1, 1), (4, 1, 1), (2, 2, 1), (1, 1, 2), (2, 1, 2))),
    ("gpt2", shapes.TINY_GPT2, shapes.PADDED, ((1, 1, 1), (2, 1, 1))),
    ("gpt2 logits in parts", shapes.TINY_GPT2, shapes.PADDED | {"loss_rows": 48}, ((2, 1, 1),)),
    ("qwen2", shapes.TINY_QWEN2, {}, ((1, 1, 1), (2, 2, 1))),
)


def numbers(b):
    rows = {}
    for name, config, job, layouts in NUMBERS:
        for pp, dp, tp in layouts:
            stem, plan = f"numbers-{name.replace(' ', '-')}-{pp}-{dp}-{tp}", {"pp": pp, "dp": dp, "tp": tp, "zero": 0}
            _, program = b.compiled(stem, config, 128, 16, "f32", pp * dp * tp, plan, canonical=True, job=job)
            cpu, gpu = b.folder / "cpu.dump", b.folder / "gpu.dump"
            b.ours.train(program, "--dump", cpu, steps=4, limit=b.left())
            b.cuda(program, "--virtual-ranks", "--dump", gpu, steps=4)
            rows[f"{name} pp{pp} dp{dp} tp{tp}"] = furthest(tensors(cpu), tensors(gpu))
    passed = all(r["loss"] < 1e-4 and r["grad"] < 1e-2 and r["param_rms"] < PARAM_RMS for r in rows.values())
    norms = clipped(b)
    return {"rows": rows, "clipped": norms, "passed": passed and norms["error"] < 1e-4}


def clipped(b):
    """The gradient's norm of every step against the CPU's, over two stages and two parts of every matrix."""
    _, program = b.compiled("clipped", shapes.TINY, 128, 16, "f32", 4, {"pp": 2, "tp": 2, "dp": 1}, clip_norm=0.5)
    cpu = b.ours.train(program, steps=4, limit=b.left())["grad_norm"]
    gpu = b.cuda(program, "--virtual-ranks", steps=4)["grad_norm"]
    return {"cpu": cpu, "gpu": gpu, "error": max(abs(g / c - 1) for g, c in zip(gpu, cpu))}


def training(b):
    rows = {}
    for name, config, precision, seq, job in (
        ("f32", shapes.TINY, "f32", 256, {}),
        ("bf16", shapes.TINY, "bf16", 256, {}),
        ("gpt2 bf16", shapes.TINY_GPT2, "bf16", 128, shapes.PADDED),
        ("qwen2 bf16", shapes.TINY_QWEN2, "bf16", 256, {}),
    ):
        _, program = b.compiled(f"train-{name.replace(' ', '-')}", config, seq, 16, precision, job=job)
        loss = b.cuda(program, steps=200)["loss"]
        rows[name] = {"first": loss[0], "last": loss[-1]}
    return {"rows": rows, "passed": all(math.isfinite(r["last"]) and r["last"] < r["first"] - 2 for r in rows.values())}


# Every family of the planner, then what changes the passes of one.
SCHEDULES = (
    ("gpipe", {}),
    ("breadth-first", {"vpp": 2}),
    ("1f1b", {}),
    ("interleaved", {"vpp": 2}),
    ("zb-h1", {}),
    ("zb-h2", {}),
    ("zb-1p", {}),
    ("zb-2p", {}),
    ("zb-v", {}),
    ("v-half", {}),
    ("v-min", {}),
    ("1f1b-v", {}),
    ("dualpipe", {}),
    ("dualpipev", {}),
    ("1f1b in slices", {"schedule": "1f1b", "line": "slices: 4"}),
    ("1f1b, head split", {"schedule": "1f1b", "line": "split_head: true"}),
)


def order(b):
    """From traces: did every op run after what it follows in the program? And how long is nothing between two ops?"""
    rows = {}
    for schedule, more in SCHEDULES:
        plan, stem = {"pp": 4, "dp": 1, "schedule": schedule, "micro_batch": 1} | more, f"order-{len(rows)}"
        line = plan.pop("line", None)
        try:
            path, program = b.compiled(stem, shapes.TINY, 128, 16, "bf16", 4, plan)
            if line:  # which scenarios have no key for
                path.write_text(path.read_text() + line + "\n")
                command([b.ours.build / "staticfire", "compile", path, "-o", program])
            trace, forecast = b.folder / "order.sftrace", b.folder / f"{stem}.json"
            b.cuda(program, "--virtual-ranks", "--trace", trace, steps=4)
            command([b.ours.build / "staticfire", "sim", path, "--forecast", forecast], b.left())
            rows[schedule] = compared(b, forecast, trace, program)["order"]
        except Failed as why:
            rows[schedule] = {"failed": str(why)}
    good = [r for r in rows.values() if "failed" not in r]
    passed = len(good) == len(SCHEDULES) and all(r["violations"] == 0 and r["missing_ops"] == 0 for r in good)
    try:
        return {"rows": rows, "passed": passed} | alone(b)
    except Failed as why:
        return {"rows": rows, "passed": False, "why": f"gaps: {why}"}


def compared(b, forecast, trace, program):
    words = [b.ours.build / "staticfire", "compare", forecast, trace, "--program", program, "--json"]
    done = subprocess.run([str(w) for w in words], capture_output=True, text=True, timeout=max(b.left(), 1))
    if done.returncode not in (0, 5):
        raise Failed(done.stderr.strip()[-300:])
    return json.loads(done.stdout)


def alone(b):
    """Gaps of one rank that has the device to itself: sixteen microbatches, one op after the other."""
    _, program = b.compiled("gaps", shapes.TINY, 128, 16, "bf16", 1, {"pp": 1, "dp": 1, "micro_batch": 1})
    trace = b.folder / "gaps.sftrace"
    b.cuda(program, "--trace", trace, steps=8)
    dump = json.loads(command([b.ours.build / "staticfire", "trace", "dump", trace, "--json"], b.left()))
    gaps = gaps_of(dump["recs"])
    return {"gap_us": statistics.median(gaps) if gaps else None, "gaps_n": len(gaps), "ran_on": dump.get("note")}


def gaps_of(recs):
    """Microseconds from an op's end to the start of the next on the busiest stream, where the second waited for
    nothing else: no op of another stream ended in between. The kernels that stamp the time lie inside the gap, so the
    true one is smaller."""
    by_stream, ends = {}, {}
    for r in recs:
        by_stream.setdefault(r["stream"], []).append(r)
    busiest = max(by_stream, key=lambda s: len(by_stream[s]), default=None)
    for r in recs:
        if r["stream"] != busiest:
            ends.setdefault((r["rank"], r["iter"]), []).append(r["end_ps"])
    ran = sorted(by_stream.get(busiest, []), key=lambda r: (r["rank"], r["iter"], r["start_ps"]))
    return [
        (b["start_ps"] - a["end_ps"]) / 1e6
        for a, b in zip(ran, ran[1:])
        if (a["rank"], a["iter"]) == (b["rank"], b["iter"])
        and not any(a["end_ps"] < end <= b["start_ps"] for end in ends.get((a["rank"], a["iter"]), ()))
    ]


def speed(b):
    """Tokens per second of the four shapes; the forecast is made before."""
    rows = {}
    for name, (_, seq, batch, _, goal) in shapes.GPU_ROWS.items():
        try:
            plan, program = b.row(name)
            forecast = b.predicted(plan)
            run = b.cuda(program, steps=14)
            step = statistics.median(run["step_time_s"][3:-1])
            rows[name] = {
                "tokens_per_s": seq * batch / step,
                "goal": goal,
                "step_time_s": step,
                "forecast_s": forecast["step_time_s"],
                "forecast_error": forecast["step_time_s"] / step - 1,
                "mfu": forecast["mfu"] * forecast["step_time_s"] / step,
                "launch_us": 1e6 * statistics.median(run["launch_s"][3:-1]),
                "host_us": 1e6 * statistics.median(run["host_s"][3:-1]),
            }
        except (Failed, KeyError, ValueError) as why:
            rows[name] = {"failed": str(why)[-600:], "goal": goal}
    return {"rows": rows, "passed": all("tokens_per_s" in r for r in rows.values())}


class Memory:
    """The device's used memory, as cuMemGetInfo sees it, sampled while a block runs. All processes count, so nothing
    else may use the device; what was in use before is subtracted."""

    def __init__(self):
        self.cuda, context = ctypes.CDLL("libcuda.so.1"), ctypes.c_void_p()
        device = ctypes.c_int()
        if (
            self.cuda.cuInit(0)
            or self.cuda.cuDeviceGet(ctypes.byref(device), 0)
            or self.cuda.cuDevicePrimaryCtxRetain(ctypes.byref(context), device)
        ):
            raise Failed("the CUDA driver gives no context to read memory with")
        self.device, self.context = device, context

    def used(self):
        free, total = ctypes.c_size_t(), ctypes.c_size_t()
        self.cuda.cuCtxSetCurrent(self.context)
        if self.cuda.cuMemGetInfo_v2(ctypes.byref(free), ctypes.byref(total)):
            raise Failed("cuMemGetInfo failed")
        return total.value - free.value

    def __enter__(self):
        self.before, self.peak, self.stop = self.used(), 0, threading.Event()
        self.thread = threading.Thread(target=self.watch)
        self.thread.start()
        return self

    def watch(self):
        while not self.stop.wait(0.002):
            self.peak = max(self.peak, self.used() - self.before)

    def __exit__(self, *_):
        self.stop.set()
        self.thread.join()

    def close(self):
        self.cuda.cuDevicePrimaryCtxRelease_v2(self.device)


def peak(b, watch, plan, program):
    with watch:
        b.cuda(program, steps=4)
    return b.predicted(plan)["device_memory_bytes"], watch.peak


def beside_plan(b, watch):
    """What a process needs beside the plan's arena (context, modules, libraries): what the tiny model uses more than
    its plan says."""
    planned, used = peak(b, watch, *b.compiled("memory-tiny", shapes.TINY, 128, 8, "bf16"))
    return used - planned


def memory(b):
    """Peak against plan; what is beside both is the error."""
    watch, rows = b.memory(), {}
    beside = beside_plan(b, watch)
    for name in shapes.GPU_ROWS:
        try:
            planned, used = peak(b, watch, *b.row(name, "memory-"))
            error = planned / (used - beside) - 1
            rows[name] = {"planned_bytes": planned, "peak_bytes": used, "beside_bytes": beside, "error": error}
        except (Failed, KeyError) as why:
            rows[name] = {"failed": str(why)[-400:]}
    watch.close()
    return {"rows": rows, "passed": all("failed" not in r for r in rows.values())}


def deterministic(b):
    """The same bits twice, for the largest shape whose dump is small and for virtual ranks; and what it costs. The
    two processes that must agree share no file of choices."""
    rows = {}
    _, large = b.row("gpt2-124m", "deterministic-")
    _, tiny = b.compiled("deterministic-tiny", shapes.TINY, 128, 16, "bf16", 4, {"pp": 2, "dp": 2, "zero": 1})
    for job, program, options in (("gpt2-124m", large, []), ("tiny pp2 dp2", tiny, ["--virtual-ranks"])):
        dumps = [b.folder / "first.dump", b.folder / "second.dump"]
        for dump in dumps:
            b.cuda(program, *options, "--no-cache", "--deterministic", "--dump", dump, steps=4)
        same = dumps[0].read_bytes() == dumps[1].read_bytes()
        pace = lambda *more: statistics.median(
            b.cuda(program, *options, "--cache", b.folder, *more, steps=24)["step_time_s"][3:-1]
        )
        usual, fixed = [], []
        for _ in range(2):  # in turns, so that a change of clocks meets both
            usual.append(pace())
            fixed.append(pace("--deterministic"))
        rows[job] = {"same bits twice": same, "slowdown": min(fixed) / min(usual) - 1}
    return {"rows": rows, "passed": all(r["same bits twice"] for r in rows.values())}


def first_step_s(b, program, cache):
    """From starting the process to its first line: loss and weights of step 1."""
    words = [
        b.ours.build / "staticfire-run",
        program,
        "--data",
        shapes.TEXT,
        "--backend",
        "cuda",
        "--cache",
        cache,
        "--steps",
        2,
    ]
    began = time.monotonic()
    with subprocess.Popen(
        [str(w) for w in words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        stop = threading.Timer(max(b.left(), 1), process.kill)
        stop.start()
        line = process.stdout.readline()
        took = time.monotonic() - began
        _, errors = process.communicate()
        stop.cancel()
    if not line.startswith("step"):
        raise Failed(f"no first step: {errors.strip()[-300:]}")
    return took


def cold_start(b):
    rows = {}
    for name in shapes.GPU_ROWS:
        try:
            _, program = b.row(name, "cold-")
            cache = b.folder / f"cold-{name}.cache"  # the other checks' folder knows these shapes already
            cache.mkdir()
            rows[name] = {"searching_s": first_step_s(b, program, cache), "cached_s": first_step_s(b, program, cache)}
        except Failed as why:
            rows[name] = {"failed": str(why)[-400:]}
    return {"rows": rows, "passed": all("failed" not in r for r in rows.values())}


def calibration(b):
    """staticfire calibrate measures this GPU by itself: is every kernel fitted, and how well?"""
    path = b.folder / "own.calib.yaml"
    words = [b.ours.build / "staticfire", "calibrate", "--backend", b.backend, "--models", "2", "-o", path, "--json"]
    found = json.loads(command(words + b.device_class, b.left()))
    errors = {f"{m['kind']} {m['dtype']}": m["p90_error"] for m in found["models"] if m["form"] != "link"}
    kinds = {m["kind"] for m in found["models"]}
    wanted = {"gemm", "attn_fwd", "attn_bwd", "rmsnorm_fwd", "layernorm_bwd", "glu_fwd", "bias_bwd", "xent", "adamw"}
    return {
        "p90_errors": errors,
        "kernel_to_kernel": found["transport"]["dispatch_s"],
        "rows": {"missing": sorted(wanted - kinds)},
        "passed": wanted <= kinds,
    }


# Hidden, sequence, sequences of a microbatch. What the first ones' kernels take is measured in two layers and one
# microbatch; every forecast is of another depth or batch, or of a shape that nothing was measured of.
SEEN = ((512, 512, 8), (512, 2048, 4), (1024, 512, 8), (1024, 2048, 4), (768, 1024, 8))
UNSEEN = ((640, 1024, 8), (896, 512, 8), (1280, 1024, 4), (512, 1024, 8), (1024, 1024, 8))
# Layers, and microbatches.
DEPTHS_SEEN = ((4, 4), (8, 1), (6, 8))
DEPTHS_UNSEEN = ((4, 2),)


def forecast_job(b, prefix, hidden, seq, micro_batch, layers, microbatches):
    config = shapes.model(hidden, layers, hidden // 64, hidden // 128, 3 * hidden, 32000, False)
    plan = {"pp": 1, "dp": 1, "tp": 1, "micro_batch": micro_batch}
    name = f"h{hidden}-s{seq}-l{layers}-{microbatches}x{micro_batch}"
    return name, b.compiled(f"{prefix}-{name}", config, seq, micro_batch * microbatches, "bf16", plan=plan)


def calibrate_seen(b):
    """A calibration file of the programs that are not forecast."""
    tables, path = [], b.folder / "seen.calib.yaml"
    for hidden, seq, micro_batch in SEEN:
        name, (_, program) = forecast_job(b, "calibrate", hidden, seq, micro_batch, 2, 1)
        tables.append(b.folder / f"{name}.kernels.yaml")
        words = [b.ours.build / "staticfire-run", "--measure", program, "--backend", b.backend, "-o", tables[-1]]
        words += ["--cache", b.folder] if b.backend == "cuda" else []
        command(words, b.left())
    command([b.ours.build / "staticfire", "calibrate", "--from", *tables, "-o", path], b.left())
    return path


def forecast_rows(b, kernels):
    rows = {}
    for sizes, depths, seen in ((SEEN, DEPTHS_SEEN, True), (UNSEEN, DEPTHS_UNSEEN, False)):
        for hidden, seq, micro_batch in sizes:
            for layers, microbatches in depths:
                name, (plan, program) = forecast_job(b, "forecast", hidden, seq, micro_batch, layers, microbatches)
                planned = b.predicted(plan, kernels)["device_memory_bytes"]
                rows[name] = {"program": str(program), "kernels_seen": seen, "planned_bytes": planned}
                rows[name] |= b.sealed(plan, name, kernels)
    return rows


def forecasts(b):
    """Twenty configurations that no calibration has seen: all step times and peaks are predicted and sealed before the
    first is measured. Peaks have runs of their own, so that reading them slows no step down."""
    rows = forecast_rows(b, calibrate_seen(b))
    for row in rows.values():
        steps = b.cuda(row["program"], steps=10)["step_time_s"][3:-1]
        row["measured_s"] = statistics.median(steps)
        row["error"] = row["predicted_s"] / row["measured_s"] - 1
    watch = b.memory()
    beside = beside_plan(b, watch)
    for row in rows.values():
        program = row.pop("program")
        if b.left() > 10:
            with watch:
                b.cuda(program, steps=2)
            row["memory_error"] = row["planned_bytes"] / (watch.peak - beside) - 1
    watch.close()
    return {"rows": rows, "passed": all("error" in row for row in rows.values())}


CHECKS = (numbers, training, order, kernels, speed, memory, deterministic, cold_start, calibration, forecasts)
