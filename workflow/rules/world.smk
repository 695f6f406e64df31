# The synthetic driving world, written out as a nuScenes data set.

if TIER.kind == "synthetic":

    rule world:
        input:
            make_again,
        output:
            f"{RESULTS_OF_TIER}/world/world.json",
        log:
            "logs/{tier}/world.log",
        conda:
            "../../environment.yml"
        threads: workflow.cores or 1
        params:
            tier=constant(TIER_NAME),
            out=subpath(output[0], parent=True),
        message:
            "World of tier {wildcards.tier}"
        shell:
            "OMP_NUM_THREADS=1 logged {log} python -m aqr_bench world --tier {params.tier:q} --out {params.out:q}"
            " --workers {threads} --quiet"
