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


class Bench:
    def __init__(self, ours, folder, device, budget_s):
        self.ours, self.folder, self.device = ours, pathlib.Path(folder), device
        self.cluster = shapes.ROOT / f"scenarios/clusters/hgx-{'h200' if 'H200' in device else 'h100'}-1node.yaml"
        self.ends = self.check_ends = time.monotonic() + budget_s

    def begin(self, checks_left):
        """A check may take half of what is left for it and those behind it, the last one all: none starves the
        others."""
        left = self.ends - time.monotonic()
        self.check_ends = time.monotonic() + (left / 2 if checks_left > 1 else left)

    def left(self):
        return self.check_ends - time.monotonic()

    def scenario(self, name, config, seq, batch, precision, gpus=1, plan=None, **more):
        return shapes.scenario(
            self.folder, name, config, seq, batch, precision, gpus, plan or {"pp": 1}, self.cluster, **more
        )

    def compiled(self, *arguments, **more):
        return self.ours.compile(self.scenario(*arguments, **more))

    def cuda(self, program, *options, steps):
        return self.ours.train(program, "--backend", "cuda", *options, steps=steps, limit=self.left())

    def predicted(self, plan):
        return json.loads(command([self.ours.build / "staticfire", "sim", plan, "--json"], self.left()))


def tensors(path):
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    body = memoryview(data)[8 + length :]
    return {name: body[slice(*entry["data_offsets"])].cast("f") for name, entry in header.items()}


def furthest(a, b):
    """Worst difference per kind, relative to the largest value of its tensor: f32 sums in another order."""
    worst = {"loss": 0.0, "grad": 0.0, "param": 0.0}
    for name, x in a.items():
        y, kind = b[name], name.split("/")[0]
        scale = max(max(map(abs, x)), 1e-12)
        worst[kind] = max(worst[kind], max(abs(p - q) for p, q in zip(x, y)) / scale)
    return worst


def kernels(b):
    programs = lambda what: [
        p for p in sorted((b.ours.build / "tests/cuda/gpu").glob(f"cuda_gpu_{what}_*")) if p.is_file()
    ]
    run = lambda p: subprocess.run([str(p)], capture_output=True, text=True, timeout=max(b.left(), 1))
    codes = {p.name: run(p).returncode for p in programs("test")}
    rates = []
    for program in programs("bench"):
        rates += [json.loads(line) for line in run(program).stdout.splitlines() if line.startswith("{")]
    return {"tests": codes, "rates": rates, "passed": bool(codes) and all(c == 0 for c in codes.values())}


def numbers(b):
    rows = {}
    for pp, dp in ((1, 1), (2, 1), (4, 1), (2, 2)):
        _, program = b.compiled(
            f"numbers-{pp}-{dp}", shapes.TINY, 128, 16, "f32", pp * dp, {"pp": pp, "dp": dp}, canonical=True
        )
        cpu, gpu = b.folder / "cpu.dump", b.folder / "gpu.dump"
        b.ours.train(program, "--dump", cpu, steps=4, limit=b.left())
        b.cuda(program, "--virtual-ranks", "--dump", gpu, steps=4)
        rows[f"pp{pp} dp{dp}"] = furthest(tensors(cpu), tensors(gpu))
    return {"rows": rows, "passed": all(r["loss"] < 1e-4 and r["grad"] < 1e-2 for r in rows.values())}


def training(b):
    rows = {}
    for precision in ("f32", "bf16"):
        _, program = b.compiled(f"train-{precision}", shapes.TINY, 256, 16, precision)
        loss = b.cuda(program, steps=200)["loss"]
        rows[precision] = {"first": loss[0], "last": loss[-1]}
    return {"rows": rows, "passed": all(math.isfinite(r["last"]) and r["last"] < r["first"] - 2 for r in rows.values())}


def order(b):
    """From traces: did every op run after what it follows in the program? And how long is nothing between two ops?"""
    rows, gaps = {}, []
    for schedule in ("gpipe", "1f1b", "interleaved", "zb-h1", "zb-h2", "zb-v", "v-half", "v-min", "dualpipev"):
        chunks = {"interleaved": {"vpp": 2}}.get(schedule, {})
        plan = {"pp": 4, "dp": 1, "schedule": schedule, "micro_batch": 1} | chunks
        try:
            path, program = b.compiled(f"order-{schedule}", shapes.TINY, 128, 16, "bf16", 4, plan)
            trace, forecast = b.folder / "order.sftrace", b.folder / f"order-{schedule}.json"
            b.cuda(program, "--virtual-ranks", "--trace", trace, steps=4)
            command([b.ours.build / "staticfire", "sim", path, "--forecast", forecast], b.left())
            done = subprocess.run(
                [
                    str(w)
                    for w in (b.ours.build / "staticfire", "compare", forecast, trace, "--program", program, "--json")
                ],
                capture_output=True,
                text=True,
            )
            if done.returncode not in (0, 5):
                raise Failed(done.stderr.strip()[-300:])
            rows[schedule] = json.loads(done.stdout)["order"]
            gaps += gaps_of(b, trace)
        except Failed as why:
            rows[schedule] = {"failed": str(why)}
    good = [r for r in rows.values() if "failed" not in r]
    passed = bool(good) and len(good) == len(rows) and all(r["violations"] == 0 and r["missing_ops"] == 0 for r in good)
    return {"rows": rows, "gap_us": statistics.median(gaps) if gaps else None, "passed": passed}


def gaps_of(b, trace):
    """Microseconds from an op's end to the start of the next on the same stream, where that followed at once. The two
    kernels that stamp the time lie in between, so the true gap is smaller."""
    found = json.loads(command([b.ours.build / "staticfire", "trace", "dump", trace, "--json"], b.left()))["recs"]
    ends, gaps = {}, []
    for rec in sorted(found, key=lambda r: (r["rank"], r["iter"], r["stream"], r["op"])):
        key = rec["rank"], rec["iter"], rec["stream"]
        if key in ends:
            gaps.append((rec["start_ps"] - ends[key]) / 1e6)
        ends[key] = rec["end_ps"]
    shortest = sorted(g for g in gaps if g >= 0)
    return shortest[: len(shortest) // 2]  # the longer half waited for other ranks


def speed(b):
    """Tokens per second of the four shapes; the forecast is made before."""
    rows = {}
    for name, (config, seq, batch, goal) in shapes.GPU_ROWS.items():
        try:
            plan, program = b.compiled(name, config, seq, batch, "bf16")
            forecast = b.predicted(plan)
            run = b.cuda(program, "--cache", b.folder, steps=14)
            step = statistics.median(run["step_time_s"][3:-1])
            rows[name] = {
                "tokens_per_s": seq * batch / step,
                "goal": goal,
                "step_time_s": step,
                "forecast_s": forecast["step_time_s"],
                "forecast_error": forecast["step_time_s"] / step - 1,
                "mfu": forecast["mfu"] * forecast["step_time_s"] / step,
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


def memory(b):
    """Peak against plan. What a process needs beside the plan's arena (context, modules, libraries) is what the tiny
    model uses more than its plan says; the rest of the difference is the error."""
    watch, rows = Memory(), {}

    def peak(name, config, seq, batch):
        plan, program = b.compiled(f"memory-{name}", config, seq, batch, "bf16")
        with watch:
            b.cuda(program, "--cache", b.folder, steps=4)
        return b.predicted(plan)["peak_memory_bytes"], watch.peak

    planned, used = peak("tiny", shapes.TINY, 128, 8)
    beside = used - planned
    for name, (config, seq, batch, _) in shapes.GPU_ROWS.items():
        try:
            planned, used = peak(name, config, seq, batch)
            error = planned / (used - beside) - 1
            rows[name] = {"planned_bytes": planned, "peak_bytes": used, "beside_bytes": beside, "error": error}
        except (Failed, KeyError) as why:
            rows[name] = {"failed": str(why)[-400:]}
    watch.close()
    return {"rows": rows, "passed": all("failed" not in r for r in rows.values())}


def deterministic(b):
    """The same bits twice, for the largest shape whose dump is small and for virtual ranks; and what it costs."""
    rows = {}
    name = "gpt2-124m"
    config, seq, batch, _ = shapes.GPU_ROWS[name]
    for job, arguments, options in (
        (name, (config, seq, batch, "bf16"), []),
        ("tiny pp2 dp2", (shapes.TINY, 128, 16, "bf16", 4, {"pp": 2, "dp": 2}), ["--virtual-ranks"]),
    ):
        _, program = b.compiled(f"deterministic-{job.replace(' ', '-')}", *arguments)
        dumps = [b.folder / "first.dump", b.folder / "second.dump"]
        for dump in dumps:
            b.cuda(program, *options, "--cache", b.folder, "--deterministic", "--dump", dump, steps=4)
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


def first_step_s(b, program):
    """From starting the process to its first line: loss and weights of step 1."""
    words = [
        b.ours.build / "staticfire-run",
        program,
        "--data",
        shapes.TEXT,
        "--backend",
        "cuda",
        "--cache",
        b.folder,
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
    for name, (config, seq, batch, _) in shapes.GPU_ROWS.items():
        try:
            _, program = b.compiled(f"cold-{name}", config, seq, batch, "bf16")
            rows[name] = {"searching_s": first_step_s(b, program), "cached_s": first_step_s(b, program)}
        except Failed as why:
            rows[name] = {"failed": str(why)[-400:]}
    return {"rows": rows, "passed": all("failed" not in r for r in rows.values())}


def forecasts(b):
    """Twenty configurations: all step times are predicted and kept before the first is measured."""
    sizes = [
        (h, layers, seq, batch) for h in (512, 1024) for layers in (4, 8) for seq in (512, 2048) for batch in (8, 32)
    ]
    sizes += [(768, 6, 1024, n) for n in (8, 16, 32, 64)]
    rows = {}
    for h, layers, seq, batch in sizes:
        name = f"h{h}-l{layers}-s{seq}-b{batch}"
        config = shapes.model(h, layers, h // 64, h // 128, 3 * h, 32000, False)
        plan, program = b.compiled(f"forecast-{name}", config, seq, batch, "bf16")
        rows[name] = {"program": str(program), "predicted_s": b.predicted(plan)["step_time_s"]}
    for row in rows.values():
        steps = b.cuda(row.pop("program"), "--cache", b.folder, steps=10)["step_time_s"][3:-1]
        row["measured_s"] = statistics.median(steps)
        row["error"] = row["predicted_s"] / row["measured_s"] - 1
    return {"rows": rows, "passed": True}


CHECKS = (numbers, training, order, kernels, speed, memory, deterministic, cold_start, forecasts)
