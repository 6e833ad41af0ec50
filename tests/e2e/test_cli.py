#!/usr/bin/env python3
"""The command line as a user and a script see it: help, hints, exit codes, one JSON document, files whole or absent."""
import json
import os
import pathlib
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[2]
BUILD = pathlib.Path(sys.argv[1]).resolve()
TINY = "scenarios/tiny-llama-cpu/scenario.yaml"
VERBS = ["topo", "plan", "schedule", "cut", "sim", "compile", "prog", "coll", "net", "trace", "run", "compare", "calibrate", "validate",
         "doctor"]
os.environ["OMPI_ALLOW_RUN_AS_ROOT"] = os.environ["OMPI_ALLOW_RUN_AS_ROOT_CONFIRM"] = "1"
bad = []


def sf(*args, stdout=subprocess.PIPE):
    return subprocess.run([str(BUILD / "staticfire"), *map(str, args)], stdout=stdout, stderr=subprocess.PIPE, text=True,
                          cwd=ROOT)


def check(truth, what):
    if not truth:
        bad.append(what)


def expect(code, *args, says="", silent=True):
    """Exit code, words on stderr; a failure prints nothing on stdout."""
    r = sf(*args)
    line = "staticfire " + " ".join(map(str, args))
    check(r.returncode == code, f"{line}: exit {r.returncode}, expected {code}: {r.stderr}")
    check(says in r.stderr, f'{line}: expected "{says}" in: {r.stderr}')
    if code not in (0, 5) and silent:
        check(r.stdout == "", f"{line}: a failure printed on stdout: {r.stdout[:200]}")
        check(r.stderr.startswith("staticfire: error: ") and r.stderr.count("\n") == 1, f"{line}: stderr is {r.stderr}")
    return r


def expect_json(*args, code=0):
    r = sf(*args, "--json")
    try:
        doc = json.loads(r.stdout)
    except ValueError as why:
        bad.append(f"staticfire {args} --json: {why}: {r.stdout[:200]}")
        return {}
    check(r.returncode == code, f"staticfire {args} --json: exit {r.returncode}: {r.stderr}")
    return doc


def test_help_and_usage():
    check(sf().returncode == 2, "no verb is a usage error")
    everything = expect(0, "--help").stdout
    for verb in VERBS:
        check(f"  {verb} " in everything, f"--help does not list {verb}")
        text = expect(0, verb, "--help").stdout
        check("Examples:" in text and "--json" in text, f"{verb} --help lacks examples or options")
        check(text == expect(0, "help", verb).stdout, f"help {verb} and {verb} --help differ")
        expect(2, verb, "--jsno", says="did you mean --json?")
        expect(2, verb, "-Z", says="unknown option -Z")
        check(expect_json(verb, "--nonsense", code=2).get("error", {}).get("code") == 2, f"{verb}: no JSON error")
    expect(2, "pln", says="did you mean plan?")
    expect(2, "check", says="prog check a program")
    for kind in ["1f1b", "auto"]:
        expect(2, "schedule", "--kind", kind, "-p", "2", "-m", "4", "--f", "0ms", "--b", "1ms", "--w", "1ms",
               says="--f expects a time above 0")
    expect(2, "plan", says="usage is")
    expect(2, "plan", TINY, "--top", says="needs a value")
    expect(2, "plan", TINY, "--top=0", says="from 1 to")
    expect(2, "plan", TINY, "--top=-1", says="from 1 to")
    expect(2, "plan", TINY, "--explain=yes", says="takes no value")
    expect(2, "plan", TINY, "extra", says='unexpected argument "extra"')
    expect(2, "topo", "shwo", "x", says="expected show, check or probe")
    expect(2, "topo", "show", "x", "--ranks", "2", says="belong to topo probe")
    expect(2, "sim", TINY, "--both", "--unfolded")
    expect(2, "sim", TINY, "--no-skip", "--unfolded")
    expect(2, "sim", TINY, "--no-skip", "--jitter", "5%")
    expect(2, "sim", TINY, "--trace-ranks", "1", says="without --trace")
    expect(2, "compare", "a", "b", "--tolerance", "ten", says="10% or 0.1")


def test_files_at_fault(folder):
    wrong = folder / "wrong.yaml"
    wrong.write_text("name: x\nclutser: y\n")
    (folder / "units.csv").write_text("kind,time\nlayer,1ms\n")
    expect(3, "cut", folder / "units.csv", "-p", "2", says="units.csv:1: unknown column")
    expect(8, "plan", "no/such/file.yaml", says="no/such/file.yaml")
    expect(3, "topo", "show", wrong, says=f"{wrong}:2:1")
    expect(3, "plan", wrong, says='unknown key "clutser"')
    expect(3, "sim", "/dev/null", says="/dev/null:1:1")
    expect(3, "prog", "hash", wrong)
    expect(3, "trace", "dump", TINY)
    error = expect_json("topo", "show", wrong, code=3)["error"]
    check((error["line"], error["column"]) == (2, 1), f"JSON error without a position: {error}")
    for args in (["doctor"], ["doctor", "--json"], ["--help"]):
        with open("/dev/full", "w") as full:
            check(sf(*args, stdout=full).returncode == 8, f"{args}: a full disk went unnoticed")


def test_topo(folder):
    cluster = "scenarios/clusters/gb300-nvl72-220k.yaml"
    doc = expect_json("topo", "check", cluster)
    check(doc["gpus"] == 220032 and doc["racks"] == 3056 and doc["checked"], f"the large cluster: {doc['gpus']}")
    check(all(s["grade"] and s["source"] for s in doc["sources"]), "a number without a source")
    svg = folder / "cluster.svg"
    expect(0, "topo", "show", cluster, "--svg", svg)
    check(svg.read_text().startswith("<"), "the drawing is no SVG")
    expect(0, "topo", "probe", "-o", folder / "machine", "--ranks", "2")
    check(expect_json("topo", "show", folder / "machine/machine.yaml")["gpus"] == 2, "the probed machine")
    return folder / "machine/machine.yaml"


def test_plan_and_programs(folder, machine):
    plan, program = folder / "tiny.plan.yaml", folder / "tiny.sfprog"
    doc = expect_json("plan", TINY, "--cluster", machine, "-o", plan, "--top", "3")
    check(len(doc["plans"]) == 3 and doc["plans"][0]["lost"] == "" and doc["plans"][1]["lost"], "plans and why they lost")
    best = doc["plans"][0]
    check(len(best["stage_memory_bytes"]) == best["degrees"]["pp"], "memory per stage")
    check(max(best["stage_memory_bytes"]) == best["peak_memory_bytes"], "the peak is the worst stage")
    check(best["lower_bound_s"] <= best["step_time_s"], "a bound above the simulated step")
    expect(0, "compile", plan, "--cluster", machine, "-o", program)
    hashed = sf("prog", "hash", program).stdout.strip()
    check(hashed == expect_json("prog", "check", program)["hash"] and len(hashed) == 32, "hash and check differ")
    expect(0, "prog", "dump", program, "-o", folder / "tiny.txt")
    expect(0, "prog", "asm", folder / "tiny.txt", "-o", folder / "again.sfprog")
    check(program.read_bytes() == (folder / "again.sfprog").read_bytes(), "dump and asm do not round-trip")
    expect(2, "sim", program, says="--cluster")
    expect(2, "compile", program, says="already")
    expect(8, "compile", plan, "--cluster", machine, "-o", folder / "no/such/folder.sfprog")
    return plan, program


def test_sim_and_forecast(folder, machine, plan, program):
    doc = expect_json("sim", plan, "--cluster", machine, "--both", "--forecast", folder / "forecast.json")
    check(doc["folded_equals_unfolded"], "folded and unfolded")
    check(abs(sum(doc["breakdown_s"].values()) - doc["step_time_s"]) < 1e-9, "the breakdown does not add up to the step")
    low, high = doc["interval"]["low_s"], doc["interval"]["high_s"]
    check(low < doc["step_time_s"] < high and doc["interval"]["basis"], "the interval")
    check(doc["digest"] == expect_json("sim", program, "--cluster", machine)["digest"], "plan and program differ")
    first = (folder / "forecast.json").read_bytes(), (folder / "forecast.sftrace").read_bytes()
    expect(0, "sim", plan, "--cluster", machine, "--forecast", folder / "forecast.json")
    check(first == ((folder / "forecast.json").read_bytes(), (folder / "forecast.sftrace").read_bytes()), "not repeatable")
    check("sim" in expect_json("trace", "info", folder / "forecast.sftrace")["origin"], "the trace's origin")


def test_compare(folder, program):
    measured, report = folder / "run.sftrace", folder / "report.html"
    run = sf("run", program, "--data", "scenarios/data/shakespeare.txt", "--steps", "3", "--quiet", "--trace", measured)
    check(run.returncode == 0, f"run: exit {run.returncode}: {run.stderr}")
    forecast = folder / "forecast.json"
    # An uncalibrated forecast of a guessed machine is far off: a result, not an error.
    doc = expect_json("compare", forecast, measured, "--tolerance", "0.1%", "--report", report, code=5)
    check(doc["verdict"] == "outside tolerance" and doc["forecast"]["verified"], "the verdict")
    check(doc["order_violations"] == 0 and doc["order"]["checked"] > 300, "the executed order")
    check(doc["makespan_replayed_s"] > 0, "the replay")
    check("<svg" in report.read_text() and "http" not in report.read_text(), "the report")
    check(expect_json("compare", forecast, measured, "--tolerance", "1000%")["verdict"] == "within tolerance", "tolerance")
    same = expect_json("compare", forecast.with_suffix(".sftrace"), measured, "--program", program, "--forecast", forecast,
                       code=5)
    check(same["step_error"] == doc["step_error"], "a forecast and its trace compare differently")
    expect(3, "compare", forecast, measured, "--skip", "3", says="skip fewer")
    text = forecast.read_text()
    forecast.write_text(text.replace('"step_cpu_ps": ', '"step_cpu_ps": 1'))
    expect(3, "compare", forecast, measured, says="seal is broken")
    forecast.write_text(text)
    launched = sf("run", program, "--transport", "mpi", "--dry-run").stdout
    check("mpirun" in launched and "-n 2" in launched and "--oversubscribe" in launched, f"mpirun: {launched}")
    expect(2, "run", program, "--transport", "carrier-pigeon", says="threads or mpi")


def test_overlay_and_routing(folder):
    """A rack is lost: the plan made before says who lost what, a new plan steps over it, spare racks step in."""
    cluster = ROOT / "scenarios/clusters/gb300-nvl72-4rack.yaml"
    job, lost, spare = folder / "racks.yaml", folder / "lost.yaml", folder / "spare.yaml"
    job.write_text(f"name: racks\ncluster: {cluster}\nmodel: {ROOT}/scenarios/models/llama-3.1-8b/config.json\n"
                   "job: { seq_len: 2048, global_batch: 288, precision: bf16 }\nplan: { tp: 8, pp: [1, 2, 4] }\n")
    lost.write_text('dead: { gpus: ["72..143"] }\n')
    spare.write_text('spare: { domains: [3] }\ndead: { gpus: ["72..143"] }\n')
    whole, rest = folder / "whole.plan.yaml", folder / "rest.plan.yaml"
    check(expect_json("plan", job, "-o", whole)["gpus"] == 288, "all GPUs without an overlay")
    expect(3, "sim", whole, "--overlay", lost, says="ranks 72 to 143 find no seats: domain 1 has 0 of the 72")
    doc = expect_json("plan", job, "--overlay", lost, "-o", rest)
    check(0 < doc["gpus"] <= 216 and doc["gpus_in_use"] == 216, f"a plan for what is left: {doc['gpus']}")
    check(expect_json("sim", rest)["seats"]["ranks_lost"] > 0, "the plan remembers its overlay")
    check(expect_json("sim", rest, "--overlay", spare)["seats"]["ranks_on_spares"] > 0, "spare seats step in")
    expect(0, "compile", rest, "-o", folder / "rest.sfprog")
    expect(3, "plan", job, "--overlay", job, says="unknown key")
    expect(2, "plan", job, "--routing", "sideways", says="--routing expects adaptive, ecmp, rail-local or pxn")
    expect(2, "plan", TINY, "--cluster", "scenarios/clusters/cpu-8.yaml", "--routing", "ecmp")
    expect(2, "sim", whole, "--routing-seed", "3", says="--routing ecmp and --links")
    expect(2, "sim", whole, "--overlay", spare, "--forecast", folder / "f.json", says="leave out --overlay")
    check(expect_json("sim", whole, "--audit")["violations"] == 0, "the checks of the simulation")


with tempfile.TemporaryDirectory() as name:
    where = pathlib.Path(name)
    test_help_and_usage()
    test_files_at_fault(where)
    machine_file = test_topo(where)
    plan_file, program_file = test_plan_and_programs(where, machine_file)
    test_sim_and_forecast(where, machine_file, plan_file, program_file)
    test_compare(where, program_file)
    test_overlay_and_routing(where)
print("\n".join(bad) or "the command line behaves")
sys.exit(bool(bad))
