#!/usr/bin/env python3
"""Every key of a cluster file and of an overlay, and every word that one of them takes, changes a result or is refused.
The keys are those that the loader accepts, read from its source, so a new one without a line here fails. Numbers are
changed one by one in test_every_key.py."""
import json
import pathlib
import re
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[2]
BUILD = pathlib.Path(sys.argv[1]).resolve()
NOT_RESULTS = ("hash", "sources", "topo", "cost", "wall_s", "name", "cluster")
DOMAIN = ("{ kind: nvl72, trays: 18, gpus_per_tray: 4, cpus_per_tray: 2, nvswitches: 18, link: nvlink5, links_per_gpu: 18, "
          "cpu_link: nvlink-c2c }")
FABRIC = ("fabric: { switch: quantum-x800-q3400, leaf_down: 18, tiers: 3, oversubscription: 1, "
          "cables: { nic_leaf: 5m, leaf_spine: 30m, spine_core: 100m } }\n")
RACKS = f"name: racks\ndevice: gb300\ndomains: 6\ndomain: {DOMAIN}\nnic: connectx8-800g\nrails: 4\n" + FABRIC
MIXED = (f"name: mixed\ngroups:\n  - {{ device: gb200, domains: 3, nic: connectx7-400g, domain: {DOMAIN} }}\n"
         f"  - {{ device: gb300, domains: 3, nic: connectx8-800g, domain: {DOMAIN} }}\nrails: 4\n"
         + FABRIC.replace("leaf_down: 18", "leaf_down: 72"))
HALF = RACKS.replace("nvswitches: 18", "nvswitches: 9")
ECMP = RACKS.replace("tiers: 3", "routing: ecmp, tiers: 3")
PODS = RACKS.replace("domains: 6", "domains: 40")
SHARP = RACKS + "collectives: { sharp: true }\n"
LL = RACKS + "collectives: { protocol: ll }\n"
SHOW, NEAR, WAY = ("topo", "show"), ("topo", "show", "--route", "0:1"), ("topo", "show", "--route", "0:145")
FAR, CORES = ("topo", "show", "--route", "3:218"), ("topo", "show", "--route", "0:2808")
COLL = ("coll", "-n", "144", "-b", "1KiB..1GiB", "--all")
INSIDE, ACROSS = ("coll", "-n", "72", "-b", "1KiB..1GiB"), ("coll", "-n", "144", "-b", "1KiB..1GiB")
ALONE = ("coll", "-n", "6", "--per-domain", "1", "-b", "1KiB..1GiB")
bad = []

# what it is about -> cluster, text to take out, text to put in, a question whose answer changes
LINES = {
    "name": (RACKS, "name: racks", "name: shelves", ("topo", "show", "--named")),
    "device": (RACKS, "device: gb300", "device: h100", INSIDE),
    "domain": (RACKS, DOMAIN, DOMAIN.replace("18,", "9,", 1), SHOW),
    "domains": (RACKS, "domains: 6", "domains: 5", SHOW),
    "groups": (MIXED, "domains: 3, nic: connectx7", "domains: 4, nic: connectx7", SHOW),
    "gpus_in_use": (RACKS, "rails: 4", "rails: 4\ngpus_in_use: 300", SHOW),
    "nic": (RACKS, "connectx8-800g", "connectx7-400g", WAY),
    "planes": (RACKS, "rails: 4", "rails: 4\nplanes: 2", SHOW),
    "rails": (RACKS, "rails: 4", "rails: 2", SHOW),
    "fabric": (RACKS, FABRIC, FABRIC.replace("5m", "9m"), WAY),
    "collectives": (RACKS, "rails: 4", "rails: 4\ncollectives: { algorithm: ring }", INSIDE),
    "overlay": (RACKS, "rails: 4", 'rails: 4\noverlay: { dead: { gpus: ["7"] } }', SHOW),
    "kind": (RACKS, "kind: nvl72", "kind: rack", ("topo", "show", "--named")),
    "trays": (RACKS, "trays: 18", "trays: 9", SHOW),
    "gpus_per_tray": (RACKS, "gpus_per_tray: 4", "gpus_per_tray: 8", SHOW),
    "cpus_per_tray": (RACKS, "cpus_per_tray: 2", "cpus_per_tray: 1", SHOW),
    "nvswitches": (RACKS, "nvswitches: 18", "nvswitches: 9", SHOW),
    "link": (RACKS, "link: nvlink5", "link: nvlink4", NEAR),
    "links_per_gpu": (HALF, "links_per_gpu: 18", "links_per_gpu: 9", NEAR),
    "cpu_link": (RACKS, ", cpu_link: nvlink-c2c", "", SHOW),
    "domain.gpus_in_use": (RACKS, "trays: 18", "gpus_in_use: 40, trays: 18", SHOW),
    "starts group": (MIXED, "{ device: gb300", "{ starts: group, device: gb300", SHOW),
    "starts pod": (MIXED, "{ device: gb300", "{ starts: pod, device: gb300", SHOW),
    "switch": (RACKS, "quantum-x800-q3400", "spectrum4-sn5600", SHOW),
    "leaf_down": (RACKS, "leaf_down: 18", "leaf_down: 36", SHOW),
    "tiers": (RACKS, "tiers: 3", "tiers: 2", SHOW),
    "oversubscription": (RACKS, "oversubscription: 1", "oversubscription: 2", SHOW),
    "cables.nic_leaf": (PODS, "nic_leaf: 5m", "nic_leaf: 6m", CORES),
    "cables.leaf_spine": (PODS, "leaf_spine: 30m", "leaf_spine: 31m", CORES),
    "cables.spine_core": (PODS, "spine_core: 100m", "spine_core: 50m", CORES),
    "routing adaptive": (ECMP, "routing: ecmp", "routing: adaptive", FAR),
    "routing ecmp": (RACKS, "tiers: 3", "routing: ecmp, tiers: 3", FAR),
    "routing rail-local": (RACKS, "tiers: 3", "routing: rail-local, tiers: 3", FAR),
    "routing pxn": (RACKS, "tiers: 3", "routing: pxn, tiers: 3", FAR),
    "seed": (ECMP, "tiers: 3", "seed: 7, tiers: 3", FAR),
    "sharp": (RACKS, "rails: 4", "rails: 4\ncollectives: { sharp: true }", COLL),
    **{f"algorithm {a}": (SHARP, "sharp: true", f"sharp: true, algorithm: {a}", question + ("--op", op, "sharp: true", f"sharp: true, algorithm: {than}"))
       for a, than, op, question in (("tree", "ring", "all_reduce", ACROSS), ("ring", "tree", "all_reduce", ACROSS),
                                     ("collnet", "ring", "all_reduce", ACROSS), ("nvls", "ring", "all_reduce", INSIDE),
                                     ("nvls_tree", "ring", "all_reduce", ACROSS), ("pat", "ring", "all_gather", ALONE),
                                     ("direct", "rail", "all_to_all", ACROSS), ("rail", "direct", "all_to_all", ACROSS),
                                     ("hierarchical", "rail", "all_to_all", ACROSS))},
    "times nccl": (RACKS, "rails: 4", "rails: 4\ncollectives: { times: nccl }", ACROSS),
    "times steps": (RACKS + "collectives: { times: nccl }\n", "times: nccl", "times: steps", ACROSS),
    "protocol ll": (RACKS, "rails: 4", "rails: 4\ncollectives: { protocol: ll }", INSIDE),
    "protocol ll128": (LL, "protocol: ll", "protocol: ll128", INSIDE),
    "protocol simple": (LL, "protocol: ll", "protocol: simple", INSIDE),
    **{f"{section}.{key}": (RACKS, "rails: 4", f"rails: 4\noverlay: {{ {section}: {text} }}", question)
       for section, key, text, question in (
           ("spare", "gpus", '{ gpus: ["7"] }', SHOW), ("spare", "domains", '{ domains: ["2"] }', SHOW),
           ("dead", "gpus", '{ gpus: ["7"] }', SHOW), ("dead", "domains", '{ domains: ["2"] }', SHOW),
           ("dead", "nics", '{ nics: ["0"] }', WAY), ("dead", "links", '{ links: ["leaf-up 0:0"] }', SHOW),
           ("dead", "switches", '{ switches: ["spine 1"] }', SHOW),
           ("degraded", "nics", '[{ nics: ["0"], rate: 0.5 }]', WAY),
           ("degraded", "links", '[{ links: ["leaf-up 0:1"], rate: 0.5 }]', SHOW))},
    "degraded.rate": (RACKS + 'overlay: { degraded: [{ nics: ["0"], rate: 0.5 }] }\n', "rate: 0.5", "rate: 0.25", WAY),
}
# sections whose keys have lines of their own
SECTIONS = {"spare", "dead", "degraded"}


def ask(folder, text, question):
    (folder / "c.yaml").write_text(text)
    verb, rest = question[0], list(question[1:])
    named = "--named" in rest
    rest = [r for r in rest if r != "--named"]
    args = [verb, *([rest.pop(0)] if verb == "topo" else []), "c.yaml", *rest, "--json"]
    r = subprocess.run([str(BUILD / "staticfire"), *args], capture_output=True, text=True, cwd=folder)
    if r.returncode:
        return r.returncode, r.stderr
    doc = json.loads(r.stdout)
    for key in () if named else NOT_RESULTS:
        doc.pop(key, None)
    return 0, json.dumps(doc, sort_keys=True)


def accepted():
    """(key, words) of the arrays in the loader's source."""
    for name in ("topo_load", "topo_stocks", "topo_fabric", "topo_coll", "topo_overlay"):
        source = (ROOT / f"topo/{name}.c").read_text()
        for array, body in re.findall(r"const char \*const (\w+)\[\] = \{([^}]*)\}", source):
            yield array, re.findall(r'"([^"]+)"', body)


def check_all_are_here():
    tried = {part for line in LINES for part in re.split(r"[ .]", line)} | SECTIONS
    for array, words in accepted():
        bad.extend(f"{w} (of {array}[] in topo/) has no line in this test" for w in words if w not in tried)
    routings = re.findall(r'X\(\w+, "([\w-]+)"\)', (ROOT / "topo/topo.h").read_text().split("define SF_ROUTINGS")[1].split("enum")[0])
    bad.extend(f"routing {r} has no line in this test" for r in routings if f"routing {r}" not in LINES)


def main():
    check_all_are_here()
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        for what, (text, out, put, question) in LINES.items():
            extra = [q for q in question if ": " in q]  # of the cluster before, too
            question = tuple(q for q in question if ": " not in q)
            if text.count(out) < 1:
                bad.append(f"{what}: \"{out}\" is not in its cluster")
                continue
            before = ask(folder, text.replace(*extra) if extra else text, question)
            after = ask(folder, text.replace(out, put, 1), question)
            if before[0]:
                bad.append(f"{what}: refused before anything was changed: {before[1]}")
            elif after == before:
                bad.append(f"{what}: neither changes a result nor is refused")
            elif after[0] not in (0, 2, 3):
                bad.append(f"{what}: exit {after[0]}: {after[1]}")
            elif "-v" in sys.argv:
                print(what, "refused: " + after[1].strip() if after[0] else "ok")
    print("\n".join(bad) if bad else f"{len(LINES)} keys and words")
    sys.exit(1 if bad else 0)


main()
