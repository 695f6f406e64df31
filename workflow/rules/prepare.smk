# Info files for mmdet3d, from a nuScenes data set, real or synthetic.


rule prepare:
    input:
        dataset=dataset_marker,
    output:
        "results/{tier}/infos/data.json",
    log:
        "logs/{tier}/prepare.log",
    conda:
        "../../environment.yml"
    params:
        tier=reference(TIER.path),
        root=lambda wildcards: TIER.data_root or f"results/{wildcards.tier}/world",
        out=subpath(output[0], parent=True),
        code=code_hash_for("prepare"),
        version=TIER.version,
    message:
        "Info files of tier {wildcards.tier}"
    shell:
        "OMP_NUM_THREADS=1 python -m aqr_bench data --tier {params.tier} --root {params.root}"
        " --out {params.out} > {log} 2>&1"
        " || (tail -n 3 {log} >&2; exit 1)"


if TIER.database:

    rule database:
        input:
            infos="results/{tier}/infos/data.json",
        output:
            "results/{tier}/infos/dbinfos_train.pkl",
        log:
            "logs/{tier}/database.log",
        conda:
            "../../environment.yml"
        threads: workflow.cores or 1
        params:
            tier=reference(TIER.path),
            root=lambda wildcards: TIER.data_root or f"results/{wildcards.tier}/world",
            out=subpath(output[0], parent=True),
            code=code_hash_for("prepare"),
        message:
            "Objects for GT sampling, tier {wildcards.tier}"
        shell:
            "OMP_NUM_THREADS=1 python -m aqr_bench data --tier {params.tier} --root {params.root}"
            " --out {params.out} --database-only --workers {threads} --quiet > {log} 2>&1"
            " || (tail -n 3 {log} >&2; exit 1)"
