#!/usr/bin/env python3
"""Every number of a cluster file, of the catalog files it names, and of a job changes a result, or the file is refused:
each is changed on its own in a copy, a little and by far, and what the verbs then say is compared. What only describes
is listed with its reason, and must stay without effect.

Left out: catalog/nccl/tuning-2.30.yaml, which is NCCL's own table as a whole. Many of its cells are for pairs that NCCL
itself never considers, or rungs of ladders that no link rate here falls on; tests/unit/test_sim_coll*.c hold the port."""
import concurrent.futures
import json
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[2]
BUILD = pathlib.Path(sys.argv[1]).resolve()
WORKERS = 2
# They name the input, repeat the numbers themselves, or are the time this machine took.
NOT_RESULTS = ("wall_s", "search_time_s", "sources", "hash", "topo", "cost", "fold_s", "run_s", "max_rss_bytes", "digest",
               "events_per_s", "rests_on")
# A number in value position: not inside a word, a name, a comment or a source's text.
NUMBER = re.compile(r"(?<=[\s\[{:,])(\d+(?:\.\d+)?(?:e-?\d+)?)(?=[A-Za-z/%]*\s*(?:[,}\]]|$))")

RACKS, RAILS, POD3 = "clusters/racks.yaml", "clusters/rails.yaml", "clusters/hgx-h100-16k.yaml"
SHOW = [("topo", "show", RACKS), ("topo", "show", RACKS, "--routing", "ecmp", "--route", "0:73")]
PRECISIONS = ("bf16", "fp8", "f32", "mxfp8", "fp8_block", "nvfp4")
SIMS = [("sim", f"job/{p}.plan.yaml") for p in PRECISIONS] + [("sim", f"job/tiny-{p}.plan.yaml") for p in PRECISIONS]
PLAIN = [("sim", f"job/{p}.plan.yaml", "--cluster", "clusters/plain.yaml") for p in PRECISIONS]


def colls(cluster, *spans):
    return [("coll", cluster, "--op", op, "-n", n, "--per-domain", k, "-b", "8B..8GiB", "--all")
            for n, k in spans for op in ("all_reduce", "all_gather", "reduce_scatter", "all_to_all", "broadcast")]


INSIDE, ACROSS = [("72", "72"), ("8", "8"), ("2", "2"), ("5", "5")], [("144", "72"), ("216", "72"), ("8", "4"), ("4", "1"), ("48", "16")]
NCCL = colls(RACKS, ACROSS[0], INSIDE[0], *ACROSS[1:], *INSIDE[1:])
# file -> questions that its numbers can change the answer to, those that mostly do first
FILES = {
    RACKS: SHOW + SIMS[:1] + NCCL[:1],
    POD3: [("topo", "show", POD3), ("topo", "show", POD3, "--route", "0:16000")],
    "catalog/devices/gb300.yaml": SIMS,
    "catalog/devices/plain.yaml": PLAIN,
    "catalog/kernels/gb300.yaml": SIMS,
    "catalog/links/nvlink5.yaml": SHOW + NCCL[:4] + SIMS[:1] + PLAIN[:1],
    "catalog/links/nvlink-c2c.yaml": SHOW + [("sim", "job/away.plan.yaml")],
    "catalog/links/connectx8-800g.yaml": SHOW + NCCL,
    "catalog/switches/quantum-x800-q3400.yaml": SHOW + NCCL[:4],
    "catalog/switches/spectrum4-sn5600.yaml": [("topo", "show", "clusters/roce.yaml", "--routing", "ecmp", "--route", "0:73"),
                                               ("topo", "check", "clusters/roce.yaml")] +
                                              colls("clusters/roce.yaml", ("144", "72")),
    "catalog/nccl/gb300.yaml": NCCL + colls("clusters/sharp.yaml", ("144", "72")),
    "job/scenario.yaml": [("compile", "job/scenario.yaml", "-o", "job/step.sfprog"), ("run", "job/scenario.yaml", "--dry-run")],
}
# file, key -> why no result depends on it
DESCRIBES = {
    ("catalog/devices/gb300.yaml", "power.value"): "nothing counts energy or cost yet",
    ("catalog/devices/plain.yaml", "power.value"): "likewise",
    ("catalog/nccl/gb300.yaml", "compared_inside.value"): "for people; the grade beside it counts",
    ("catalog/nccl/gb300.yaml", "compared_across.value"): "likewise",
    **{("catalog/devices/gb300.yaml", f"gemm_efficiency.{p}.value"): "the fitted model of kernels/gb300.yaml covers this "
       "precision; devices/plain.yaml, the same without one, shows that the share counts where nothing is fitted"
       for p in PRECISIONS if p not in ("f32", "bf16")}, # bf16: the share of the memory that a product asks for
}


def numbers_of(text):
    """(line, start, end, key) of every number that a file states."""
    block = ""
    for at, line in enumerate(text.split("\n")):
        code = re.sub(r'"[^"]*"', lambda m: '"' + "_" * (len(m[0]) - 2) + '"', line)
        code = re.sub(r"#.*", "", code)
        top = re.match(r"([A-Za-z_][\w-]*):", code)
        block = top[1] if top else block
        for m in NUMBER.finditer(code):
            before = re.findall(r"([A-Za-z_][\w-]*):", code[:m.start()])
            key = before[-1] if before else block
            yield at, m.start(1), m.end(1), ".".join(dict.fromkeys([block, *before[:1], key]))


def changes(line, start, end):
    """A little, and by far; the ends of a range meet."""
    word, whole = line[start:end], re.fullmatch(r"\d+", line[start:end])
    span = re.search(r"\[(\d+), (\d+)\]", line[max(0, line.rfind("[", 0, start)):])
    if span and line.rfind("[", 0, start) > line.rfind("]", 0, start):
        yield span[2] if word == span[1] else span[1]
    if whole:
        yield str(int(word) + 1) if int(word) < 16 else str(int(word) * 9 // 8 + 1)
        yield str(int(word) // 8)
    else:
        yield repr(float(word) * 0.875)
        yield repr(float(word) / 8)


def ask(folder, args):
    r = subprocess.run([str(BUILD / "staticfire"), *args, "--json", "--catalog", "catalog"], capture_output=True,
                       text=True, cwd=folder)
    if r.returncode:
        return f"refused {r.returncode}"
    doc = json.loads(r.stdout) if r.stdout.startswith("{") else {"said": r.stdout}
    doc["extrapolated_share"] = doc.get("rests_on", {}).get("extrapolated_share")
    for key in NOT_RESULTS:
        doc.pop(key, None)
    if args[0] == "compile":
        doc["program"] = (folder / args[-1]).read_bytes().hex()
    return json.dumps(doc, sort_keys=True)


def write_clusters(folder):
    """Racks that are groups of their own, so that they meet in spines; the same with RoCE, and with switches that add."""
    text = (ROOT / "scenarios/clusters/gb300-nvl72-4rack.yaml").read_text().replace("leaf_down: 72", "leaf_down: 18")
    (folder / RACKS).write_text(text)
    roce = text.replace("connectx8-800g", "connectx8-800g-roce").replace("quantum-x800-q3400", "spectrum4-sn5600")
    (folder / "clusters/roce.yaml").write_text(roce.replace("rails: 4", "planes: 4\nrails: 4"))
    (folder / "clusters/plain.yaml").write_text(text.replace("device: gb300", "device: plain"))
    device = (folder / "catalog/devices/gb300.yaml").read_text().replace("name: gb300", "name: plain")
    (folder / "catalog/devices/plain.yaml").write_text(
        re.sub(r"(?m)^(kernels|collectives|messages):.*\n(  .*\n)*", "", device))
    (folder / "clusters/sharp.yaml").write_text(text + "collectives: { sharp: true }\n")


def prepare(folder):
    shutil.copytree(ROOT / "topo/catalog", folder / "catalog")
    shutil.copytree(ROOT / "scenarios/clusters", folder / "clusters")
    write_clusters(folder)
    (folder / "job").mkdir()
    (folder / "job/config.json").write_text((ROOT / "scenarios/models/mixtral-8x7b/config.json").read_text())
    (folder / "job/text.txt").write_text("text\n" * 9999)
    tiny = ROOT / "scenarios/models/tiny-llama/config.json"
    for precision in PRECISIONS:
        (folder / f"job/{precision}.yaml").write_text(job(precision))
        small = job(precision).replace("config.json", str(tiny)).replace("4096", "32").replace("ep: 2", "ep: 1")
        (folder / f"job/tiny-{precision}.yaml").write_text(small.replace("144", "2").replace("tp: 4, pp: 9, dp: 4", "tp: 1, pp: 2, dp: 1"))
        for name in (precision, f"tiny-{precision}"):
            r = subprocess.run([str(BUILD / "staticfire"), "plan", f"job/{name}.yaml", "-o", f"job/{name}.plan.yaml",
                                "--catalog", "catalog"], capture_output=True, text=True, cwd=folder)
            if r.returncode:
                sys.exit(f"planning {name}: {r.stderr}")
    text = (folder / "job/bf16.plan.yaml").read_text()
    (folder / "job/away.plan.yaml").write_text(text.replace("\ncanonical:", "\noffload: 1\ncanonical:"))
    (folder / "job/scenario.yaml").write_text(job("bf16"))


def job(precision):
    return f"""name: job
cluster: ../{RACKS}
model: config.json
job:
  seq_len: 4096
  global_batch: 64
  precision: {precision}
  gpus: 144
  optimizer: {{ kind: adamw, lr: 3e-4, beta1: 0.9, beta2: 0.95, eps: 1e-8, weight_decay: 0.1, warmup_steps: 20, clip_norm: 1.0 }}
  steps: 3
  seed: 1
  data: text.txt
  vocab_multiple: 128
  loss_rows: 1000
plan: {{ tp: 4, pp: 9, dp: 4, ep: 2, vpp: 1, micro_batch: 1, schedule: 1f1b, recompute: none, zero: 1 }}
"""


def try_number(folder, file, place):
    """What to complain about, or None."""
    at, start, end, key = place
    path = folder / file
    text = path.read_text()
    lines = text.split("\n")
    line, dead = lines[at], True
    for word in changes(line, start, end):
        lines[at] = line[:start] + word + line[end:]
        path.write_text("\n".join(lines))
        dead = dead and all(ask(folder, q) == plain[q] for q in FILES[file])
    path.write_text(text)
    described = (file, key) in DESCRIBES
    where = f"{file}:{at + 1}:{start + 1}: {key} {line[start:end]}"
    if dead and not described:
        return f"{where}: no result depends on it"
    return f"{where} has an effect and is listed as having none" if described and not dead else None


def work(folder, jobs, share):
    return [try_number(folder, file, place) for file, places in jobs for place in places[share::WORKERS]]


def main():
    with tempfile.TemporaryDirectory() as name:
        folders = [pathlib.Path(name) / str(i) for i in range(WORKERS)]
        folders[0].mkdir()
        prepare(folders[0])
        for folder in folders[1:]:
            shutil.copytree(folders[0], folder)
        only = sys.argv[2:] or list(FILES)
        plain.update({q: ask(folders[0], q) for f in only for q in FILES[f]})
        broken = [" ".join(q) for q, said in plain.items() if said.startswith("refused")]
        jobs = [(f, list(numbers_of((folders[0] / f).read_text()))) for f in only]
        with concurrent.futures.ThreadPoolExecutor(WORKERS) as pool:
            running = [pool.submit(work, folder, jobs, i) for i, folder in enumerate(folders)]
            bad = [line for r in running for line in r.result() if line]
    print(f"{sum(len(places) for _, places in jobs)} numbers changed one by one")
    for line in [f"refused before anything was changed: {b}" for b in broken] + sorted(bad):
        print(line)
    sys.exit(1 if bad or broken else 0)


plain = {}
main()
