# Info files for mmdet3d, from a nuScenes data set, real or synthetic.


rule prepare:
    input:
        # Is there once the world is complete. No file of a real data set: Snakemake would take braces in its path for
        # wildcards, and whether its tables changed is decided by their digest.
        dataset=(
            by_content(LAYOUT.world_marker.as_posix())
            if TIER.kind == "synthetic"
            else []
        ),
        stale=make_again,
    output:
        f"{RESULTS_OF_TIER}/infos/data.json",
        [f"{RESULTS_OF_TIER}/infos/{name}" for name in INFO_FILES],
    log:
        "logs/{tier}/prepare.log",
    conda:
        "../../environment.yml"
    params:
        tier=constant(TIER_NAME),
        root=constant(str(DATA_ROOT)),
        out=subpath(output[0], parent=True),
        code=prepare_code(),
    message:
        "Info files of tier {wildcards.tier}"
    shell:
        "OMP_NUM_THREADS=1 logged {log} python -m aqr_bench data --tier {params.tier:q} --root {params.root:q}"
        " --out {params.out:q} --code {params.code}"


if TIER.database:

    rule database:
        input:
            **INFOS,
        output:
            f"{RESULTS_OF_TIER}/infos/dbinfos_train.pkl",
        log:
            "logs/{tier}/database.log",
        conda:
            "../../environment.yml"
        threads: workflow.cores or 1
        params:
            tier=constant(TIER_NAME),
            root=constant(str(DATA_ROOT)),
            out=subpath(output[0], parent=True),
        message:
            "Objects for GT sampling, tier {wildcards.tier}"
        shell:
            "OMP_NUM_THREADS=1 logged {log} python -m aqr_bench data --tier {params.tier:q} --root {params.root:q}"
            " --out {params.out:q} --database-only --workers {threads} --quiet"
