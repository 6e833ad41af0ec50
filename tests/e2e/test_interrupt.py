#!/usr/bin/env python3
"""Killed or interrupted at any moment: outputs are the old or the complete new file, and Ctrl-C ends work cleanly.

kill -9 comes at random moments and, every second time, as soon as a temporary file shows that an output is being
written. SIGINT and SIGTERM end staticfire-run after the running step with exit code 7 and complete outputs; SIGINT ends
a search with the best plan so far, or with exit code 7 when there is none yet.
"""
import json
import os
import pathlib
import random
import signal
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
BUILD = pathlib.Path(sys.argv[1]).resolve()
OLD = b"what was here before\n"
KILLS_EACH = 6
MODEL = {"model_type": "llama", "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 8, "vocab_size": 256,
         "num_attention_heads": 4, "num_key_value_heads": 2, "rms_norm_eps": 1e-5, "tie_word_embeddings": False}
CLUSTER = """name: cores
device: cpu-core
domains: 1
domain: { kind: host, trays: 1, gpus_per_tray: 8, cpus_per_tray: 1, nvswitches: 0, link: shm, links_per_gpu: 1 }
"""
SCENARIO = {"name": "interrupt", "cluster": "cluster.yaml", "model": "config.json",
            "plan": {"pp": 2, "tp": 1, "micro_batch": 1, "schedule": "1f1b", "recompute": "none"},
            "job": {"seq_len": 32, "global_batch": 64, "precision": "f32", "gpus": 4, "steps": 3, "seed": 1}}
bad = []


def words(command):
    return [str(BUILD / w) if w.startswith("staticfire") else w for w in command.split()]


def run(command, cwd):
    return subprocess.run(words(command), capture_output=True, text=True, cwd=cwd, timeout=120)


def must(command, cwd):
    result = run(command, cwd)
    if result.returncode:
        sys.exit(f"{command}\nexit {result.returncode}\n{result.stdout}{result.stderr}")


def prepare(folder):
    (folder / "config.json").write_text(json.dumps(MODEL))
    (folder / "cluster.yaml").write_text(CLUSTER)
    (folder / "scenario.yaml").write_text(json.dumps(SCENARIO))
    (folder / "text.txt").write_text("The quick brown fox jumps over the lazy dog.\n" * 50)
    must("staticfire plan scenario.yaml -o plan.yaml", folder)
    must("staticfire compile plan.yaml -o p.sfprog", folder)


# ---- kill -9 -------------------------------------------------------------------------------------------------------

TRAIN = "staticfire-run p.sfprog --data text.txt --steps 4 --quiet"
JOBS = [  # command, its outputs, and those of them that are the same every time
    ("staticfire plan scenario.yaml -o out.plan", ["out.plan"], ["out.plan"]),
    ("staticfire compile plan.yaml -o out.sfprog", ["out.sfprog"], ["out.sfprog"]),
    ("staticfire sim plan.yaml --forecast out.json", ["out.sftrace", "out.sfprog", "out.json"],
     ["out.sftrace", "out.sfprog", "out.json"]),
    ("staticfire prog dump p.sfprog -o out.txt", ["out.txt"], ["out.txt"]),
    (TRAIN + " --trace out.sftrace --dump out.safetensors", ["out.sftrace", "out.safetensors"], ["out.safetensors"]),
]


def reference(job, folder):
    command, outputs, same = job
    start = time.monotonic()
    must(command, folder)
    duration = time.monotonic() - start
    return duration, {name: (folder / name).read_bytes() for name in same}


def is_writing(folder):
    return any(".tmp-" in name for name in os.listdir(folder))


def kill_at(command, folder, moment, when_writing):
    """True when the process died of it."""
    process = subprocess.Popen(words(command), cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    end = time.monotonic() + moment
    while process.poll() is None and (time.monotonic() < end if not when_writing else not is_writing(folder)):
        pass
    process.kill()
    return process.wait() == -signal.SIGKILL


def check_outputs(job, folder, good, what):
    for name in job[1]:
        data = (folder / name).read_bytes()
        whole = data == OLD or data == good.get(name)
        if not whole and name not in good:
            whole = run(f"staticfire trace info {name}", folder).returncode == 0
        if not whole:
            bad.append(f"{what}: {name} is torn, {len(data)} bytes")
    for name in os.listdir(folder):
        if ".tmp-" in name:
            (folder / name).unlink()  # no process can tidy up after its own kill -9


def kill_job(job, folder, seed):
    duration, good = reference(job, folder)
    dice, died = random.Random(seed), 0
    for i in range(KILLS_EACH):
        for name in job[1]:
            (folder / name).write_bytes(OLD)
        died += kill_at(job[0], folder, dice.uniform(0, duration * 1.1), i % 2 == 1)
        check_outputs(job, folder, good, f"{job[0]}, kill {i}")
    return died


# ---- signals that may be caught ------------------------------------------------------------------------------------

def interrupt(command, folder, after_s, number=signal.SIGINT):
    process = subprocess.Popen(words(command), cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    time.sleep(after_s)
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    return process.returncode, out, err


def interrupt_training(folder, number):
    command = "staticfire-run p.sfprog --data text.txt --steps 20000 --trace out.sftrace --dump out.safetensors --json"
    (folder / "out.safetensors").write_bytes(OLD)
    code, out, err = interrupt(command, folder, 0.5, number)
    if code != 7:
        bad.append(f"training, signal {number}: exit {code}, not 7\n{err}")
        return
    report = json.loads(out)
    info = json.loads(run("staticfire trace info out.sftrace --json", folder).stdout)
    if not report["interrupted"] or not 0 < report["steps"] < 20000 or info["iterations"] != report["steps"]:
        bad.append(f"training, signal {number}: {report['steps']} steps, {info['iterations']} in the trace")
    if (folder / "out.safetensors").read_bytes() != OLD:
        bad.append(f"training, signal {number}: the dump of a run that did not end was written")


def interrupt_search(folder):
    """The later the signal, the surer there is a plan already."""
    command = f"staticfire plan {ROOT}/scenarios/grok1-gb300-220k/scenario.yaml --top 1000 -o out.plan"
    for after_s in (0.3, 1, 2, 4, 8):
        (folder / "out.plan").write_bytes(OLD)
        code, out, err = interrupt(command, folder, after_s)
        written = (folder / "out.plan").read_bytes()
        if code == 0 and "interrupted" in err:
            if not written.startswith(b"# A plan") or "Plan: out.plan" not in out:
                bad.append("search: interrupted, exit 0, but the best plan so far is not complete")
            return
        if code != 7 or written != OLD or "stopped before" not in err:
            bad.append(f"search, interrupted after {after_s} s: exit {code}\n{err}")
            return
    bad.append("search: interrupted five times, and never with a plan")


def documented():
    plan, train = run("staticfire plan --help", ROOT).stdout, run("staticfire-run --help", ROOT).stdout
    if "Ctrl-C" not in plan or "exit code 7" not in plan:
        bad.append("staticfire plan --help does not say what Ctrl-C does")
    if "SIGINT" not in train or "7 interrupted" not in train:
        bad.append("staticfire-run --help does not say what SIGINT does")


with tempfile.TemporaryDirectory() as work:
    folder = pathlib.Path(work)
    prepare(folder)
    died = sum(kill_job(job, folder, i) for i, job in enumerate(JOBS))
    if died < KILLS_EACH * len(JOBS) / 3:
        bad.append(f"only {died} kills came in time to prove anything")
    interrupt_training(folder, signal.SIGINT)
    interrupt_training(folder, signal.SIGTERM)
    interrupt_search(folder)
    documented()
summary = f"{KILLS_EACH * len(JOBS)} kills, {died} of them in time: no torn file; SIGINT and SIGTERM end cleanly"
print("\n".join(bad) or summary)
sys.exit(bool(bad))
