# The synthetic driving world, written out as a nuScenes data set.

if TIER.kind == "synthetic":

    rule world:
        output:
            "results/{tier}/world/world.json",
        log:
            "logs/{tier}/world.log",
        conda:
            "../../environment.yml"
        threads: workflow.cores or 1
        params:
            tier=reference(TIER.path),
            out=subpath(output[0], parent=True),
            code=code_hash_for("world"),
            settings=config_hash({"version": TIER.version, "world": TIER.world}),
        message:
            "World of tier {wildcards.tier}"
        shell:
            "OMP_NUM_THREADS=1 python -m aqr_bench world --tier {params.tier} --out {params.out}"
            " --workers {threads} --quiet > {log} 2>&1"
            " || (tail -n 3 {log} >&2; exit 1)"
