# Info files for mmdet3d, from a nuScenes data set, real or synthetic.


rule prepare:
    input:
        # Is there once the world is complete. No file of a real data set: Snakemake would take braces in its path for
        # wildcards, and whether its tables changed is decided by their digest.
        dataset=LAYOUT.world_marker if TIER.kind == "synthetic" else [],
    output:
        "results/{tier}/infos/data.json",
        expand("results/{{tier}}/infos/{name}", name=INFO_FILES),
    log:
        "logs/{tier}/prepare.log",
    conda:
        "../../environment.yml"
    params:
        tier=constant(TIER_NAME),
        root=constant(str(DATA_ROOT)),
        out=subpath(output[0], parent=True),
        code=code_hash_for("prepare"),
        version=TIER.version,
        # A function, so that it is evaluated once more when the data set is written.
        tables=lambda wildcards: tables_digest(
            table_digests(DATA_ROOT, TIER.version, LAYOUT.infos)
        ),
    message:
        "Info files of tier {wildcards.tier}"
    shell:
        "OMP_NUM_THREADS=1 logged {log} python -m aqr_bench data --tier {params.tier:q} --root {params.root:q}"
        " --out {params.out}"


if TIER.database:

    rule database:
        input:
            **INFOS,
        output:
            "results/{tier}/infos/dbinfos_train.pkl",
        log:
            "logs/{tier}/database.log",
        conda:
            "../../environment.yml"
        threads: workflow.cores or 1
        params:
            tier=constant(TIER_NAME),
            root=constant(str(DATA_ROOT)),
            out=subpath(output[0], parent=True),
            code=code_hash_for("prepare"),
            data=data_hash,
        message:
            "Objects for GT sampling, tier {wildcards.tier}"
        shell:
            "OMP_NUM_THREADS=1 logged {log} python -m aqr_bench data --tier {params.tier:q} --root {params.root:q}"
            " --out {params.out} --database-only --workers {threads} --quiet"
