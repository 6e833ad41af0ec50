#!/usr/bin/env python3
"""Runs of several processes on a fake GPU: as torchrun and as srun without PMIx start them, and under mpirun. What goes
wrong on one rank, and when, must end all of them within seconds, with its name and its error."""
import json
import os
import pathlib
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import time

BUILD = pathlib.Path(sys.argv[1]).resolve()
RUN = BUILD / "staticfire-run"
MAKE = BUILD / "tests/cuda/runtime/cuda_runtime_make_program"
MODULE = BUILD / "tests/cuda/runtime/libfake_gpu.so"
RANKS = 4
LIMIT_S = 5.0
problems = []


def check(ok, what):
    if not ok:
        problems.append(what)
        print(f"FAILED: {what}")


def free_port():
    """With two more behind it."""
    for port in range(23000 + os.getpid() % 5000, 65000, 3):
        held = []
        try:
            for k in range(3):
                held.append(socket.create_server(("", port + k)))
            return port
        except OSError:
            continue
        finally:
            for s in held:
                s.close()
    sys.exit("no port is free")


def torchrun(rank, port):
    return {"RANK": rank, "WORLD_SIZE": RANKS, "LOCAL_RANK": rank, "LOCAL_WORLD_SIZE": RANKS,
            "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}


def srun(rank, port):
    """The first host of the list is this one, by its address."""
    return {"SLURM_STEP_ID": 3, "SLURM_JOB_ID": port * 7, "SLURM_PROCID": rank, "SLURM_STEP_NUM_TASKS": RANKS,
            "SLURM_NTASKS": 1, "SLURM_LOCALID": rank, "SLURM_STEP_NUM_NODES": 1,
            "SLURM_STEP_NODELIST": "127.0.0.[1,3-9],elsewhere[01-07]"}


def clean_environment(fault):
    env = {k: v for k, v in os.environ.items()
           if not k.startswith(("SLURM_", "OMPI_", "PMI", "RANK", "WORLD_", "LOCAL_", "MASTER_", "NCCL_", "TORCHEL"))}
    return env | {"SF_CUDA_MODULE": str(MODULE)} | ({"FAKE_GPU_FAULT": fault} if fault else {})


def command(program, *args):
    return [RUN, program, "--backend", "cuda", "--no-cache", "--data", "text.txt", "--steps", "4", *args]


def run(folder, launcher, *args, fault=None, programs=None):
    """(exit codes, texts on stderr, seconds) of all ranks."""
    port = free_port()
    clean = clean_environment(fault)
    begin = time.monotonic()
    ranks = []
    for rank in range(RANKS):
        env = clean | {k: str(v) for k, v in launcher(rank, port).items()}
        ranks.append(subprocess.Popen(command((programs or {}).get(rank, "ranks.prog"), *args), cwd=folder, env=env,
                                      stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True))
    out = []
    for process in ranks:
        try:
            out.append(process.communicate(timeout=30))
        except subprocess.TimeoutExpired:
            process.kill()
            out.append(process.communicate())
    return [p.returncode for p in ranks], [o[1] for o in out], time.monotonic() - begin, [o[0] for o in out]


def under_mpirun(folder, fault, *args):
    """(exit code, stderr, seconds); the fake GPU learns its rank as from srun."""
    env = clean_environment(fault) | {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    script = 'SLURM_PROCID=$OMPI_COMM_WORLD_RANK exec "$@"'
    begin = time.monotonic()
    r = subprocess.run(["mpirun", "--oversubscribe", "-n", str(RANKS), "sh", "-c", script, "sh",
                        *command("ranks.prog", *args)], cwd=folder, env=env, capture_output=True, text=True, timeout=60)
    return r.returncode, r.stderr, time.monotonic() - begin


def with_mpi(folder):
    if not shutil.which("mpirun"):
        print("not tried: mpirun")
        return
    code, errors, _ = under_mpirun(folder, None, "--trace", "mpi.trace", "--dump", "mpi.dump")
    check(code == 0 and (folder / "mpi.trace").exists(), f"mpirun: {code}: {errors}")
    check((folder / "mpi.dump").read_bytes() == (folder / "torchrun.dump").read_bytes(), "mpirun: another dump")
    for where, expected in ("prepare", 3), ("split", 6), ("capture", 6), ("launch:1", 6):
        code, errors, seconds = under_mpirun(folder, f"2:{where}")
        check(code == expected and seconds < LIMIT_S and f"{where.split(':')[0]} fails" in errors,
              f"mpirun, rank 2, {where}: {code} after {seconds:.1f} s: {errors}")


def unwritable(folder):
    """Found before the training whose results it is to take, and by all."""
    args = "--estimates", "nowhere/e.json"
    codes, errors, seconds, out = run(folder, torchrun, *args)
    check(codes == [8] * RANKS and out == [""] * RANKS, f"estimates to nowhere: exit codes {codes}, {out}")
    check(all("nowhere/e.json" in e for e in errors) and seconds < LIMIT_S, f"estimates to nowhere: {errors}")


def tensors(path):
    data = path.read_bytes()
    n = struct.unpack("<Q", data[:8])[0]
    return json.loads(data[8:8 + n])


def well(folder, name, launcher):
    codes, errors, seconds, out = run(folder, launcher, "--trace", f"{name}.trace", "--dump", f"{name}.dump")
    check(codes == [0] * RANKS, f"{name}: exit codes {codes}: {errors}")
    check(out[0].count("step ") == 4 and out[1:] == [""] * (RANKS - 1), f"{name}: what is printed: {out}")
    parts = [folder / f"{name}.trace.rank{r}" for r in range(RANKS)]
    check(all(p.exists() for p in parts), f"{name}: traces: {[p.exists() for p in parts]}")
    dump = folder / f"{name}.dump"
    check(dump.exists(), f"{name}: no dump")
    if dump.exists():
        found = tensors(dump)
        check(found["loss"]["shape"] == [4], f"{name}: losses {found.get('loss')}")
        check(any(k.startswith("param/") for k in found) and any(k.startswith("grad/") for k in found),
              f"{name}: tensors {list(found)}")


def fails(folder, launcher, culprit, where, code):
    what = f"{launcher.__name__}, rank {culprit}, {where}"
    codes, errors, seconds, _ = run(folder, launcher, fault=f"{culprit}:{where}")
    check(codes == [code] * RANKS, f"{what}: exit codes {codes}: {errors}")
    check(seconds < LIMIT_S, f"{what}: {seconds:.1f} s")
    said = f"fake GPU: {where.split(':')[0]} fails"
    for rank in range(RANKS):
        wanted = said if rank == culprit else f"rank {culprit}"
        check(wanted in errors[rank] and said in errors[rank], f"{what}: rank {rank} says {errors[rank]!r}")


def dies(folder, culprit):
    codes, errors, seconds, _ = run(folder, torchrun, fault=f"{culprit}:die:1")
    check([c for r, c in enumerate(codes) if r != culprit] == [6] * (RANKS - 1), f"death of {culprit}: codes {codes}")
    check(seconds < LIMIT_S, f"death of {culprit}: {seconds:.1f} s")
    for rank in range(RANKS):
        check(rank == culprit or f"rank {culprit}: is gone" in errors[rank], f"death: rank {rank}: {errors[rank]!r}")


def hangs(folder):
    codes, errors, seconds, _ = run(folder, torchrun, "--stall", "500ms", fault="1:hang:2")
    check(codes == [6] * RANKS, f"hang: exit codes {codes}")
    check(seconds < LIMIT_S, f"hang: {seconds:.1f} s")
    check(all("step 2 made no progress for 0.5 s" in e and " op " in e for e in errors), f"hang: {errors}")


def missing(folder):
    codes, errors, seconds, _ = run(folder, torchrun, programs={2: "nowhere.prog"})
    check(codes == [8] * RANKS, f"missing program: exit codes {codes}")
    check(all("nowhere.prog" in e for e in errors), f"missing program: {errors}")
    codes, errors, seconds, _ = run(folder, torchrun, programs={2: "other.prog"})
    check(codes == [2] * RANKS, f"another program: exit codes {codes}: {errors}")
    check(all("has another program than rank 0" in e for e in errors), f"another program: {errors}")


def main():
    if not MODULE.exists():
        print("skipped: the fake module is not built")
        return 77
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        (folder / "text.txt").write_text("the quick brown fox jumps over the lazy dog; " * 200)
        subprocess.run([MAKE, folder / "ranks.prog", str(RANKS)], check=True)
        subprocess.run([MAKE, folder / "other.prog", str(RANKS), "zero"], check=True)
        for launcher in torchrun, srun:
            well(folder, launcher.__name__, launcher)
        for where, code in (("open", 6), ("prepare", 3), ("world", 6), ("split", 6), ("capture", 6), ("launch:1", 6),
                            ("link:2", 6)):
            fails(folder, torchrun, 0 if where == "split" else 2, where, code)
        fails(folder, torchrun, 0, "launch:2", 6)
        fails(folder, srun, 3, "capture", 6)
        for culprit in 0, 3:
            dies(folder, culprit)
        hangs(folder)
        missing(folder)
        unwritable(folder)
        with_mpi(folder)
    print("all well" if not problems else f"{len(problems)} problems")
    return 1 if problems else 0


sys.exit(main())
