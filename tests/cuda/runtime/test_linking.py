#!/usr/bin/env python3
"""What meets in which binary: staticfire-run needs no CUDA and links no GSL; the module shows one name; where there is no
GPU, asking for one says what was looked for."""
import os
import pathlib
import re
import subprocess
import sys
import tempfile

build = pathlib.Path(sys.argv[1])
run, module = build / "staticfire-run", build / "libstaticfire-cuda.so"


def needed(path):
    text = subprocess.run(["readelf", "-d", path], capture_output=True, text=True, check=True).stdout
    return re.findall(r"NEEDED.*\[(.+)\]", text)


bad = []
for library in needed(run):
    if re.match(r"lib(gsl|gslcblas|cuda|cudart|cublas|cublasLt|cudnn|nccl)\.", library):
        bad.append(f"staticfire-run needs {library}")
if module.exists():
    bad += [f"the CUDA module needs {library}" for library in needed(module) if re.match(r"lib(gsl|mpi|dnnl)", library)]
    names = subprocess.run(["nm", "-D", "--defined-only", module], capture_output=True, text=True, check=True).stdout
    shown = {line.split()[-1] for line in names.splitlines()}
    if shown != {"sfi_gpu_module", "ncclTunerPlugin_v4"}:
        bad.append(f"the CUDA module shows {sorted(shown)}, expected sfi_gpu_module and ncclTunerPlugin_v4 alone")

if not pathlib.Path("/dev/nvidia0").exists():
    with tempfile.TemporaryDirectory() as folder:
        program = pathlib.Path(folder) / "tiny.sfprog"
        made = subprocess.run([build / "tests/cuda/runtime/cuda_runtime_make_program", program], capture_output=True)
        if made.returncode != 0:
            bad.append("cannot make a program: " + made.stderr.decode())

        def ask(cache, *more):
            return subprocess.run(
                [run, program, "--backend", "cuda", "--virtual-ranks", *more],
                capture_output=True,
                text=True,
                env=os.environ | {"XDG_CACHE_HOME": str(cache)},
            )

        kept = pathlib.Path(folder) / "cache" / "staticfire"
        asked = ask(kept.parent, "--no-cache")
        if asked.returncode != 6 or "looked for" not in asked.stderr:
            bad.append(f"without a GPU: {asked.returncode} and {asked.stderr!r}, expected 6 and what was looked for")
        if kept.exists():
            bad.append("--no-cache makes a folder")
        if "no folder" in ask(kept.parent).stderr or not kept.is_dir():
            bad.append("the usual folder for algorithms was not made")
        if "no folder to keep algorithms in: " + str(program) not in ask(program).stderr:
            bad.append("nothing is said of a cache folder that cannot be made")
        if ask(kept.parent, "--no-cache", "--cache", folder).returncode != 2:
            bad.append("--no-cache with --cache is taken")
print("\n".join(bad) or "links hold")
sys.exit(bool(bad))
