# Info files for mmdet3d, from a nuScenes data set, real or synthetic.


rule prepare:
    input:
        # Is there once the data set is.
        dataset=by_content(
            LAYOUT.world_marker.as_posix()
            if TIER.kind == "synthetic"
            else (DATA_ROOT / TIER.version / "scene.json").as_posix()
        ),
        stale=make_again,
    output:
        "results/{tier}/infos/data.json",
        expand("results/{{tier}}/infos/{name}", name=INFO_FILES),
    log:
        "logs/{tier}/prepare.log",
    conda:
        "../../environment.yml"
    params:
        tier=TIER_NAME,
        root=lambda wildcards: str(DATA_ROOT),
        out=subpath(output[0], parent=True),
        code=prepare_code(),
    message:
        "Info files of tier {wildcards.tier}"
    shell:
        "OMP_NUM_THREADS=1 logged {log} python -m aqr_bench data --tier {params.tier} --root {params.root}"
        " --out {params.out} --code {params.code}"


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
            tier=TIER_NAME,
            root=lambda wildcards: str(DATA_ROOT),
            out=subpath(output[0], parent=True),
        message:
            "Objects for GT sampling, tier {wildcards.tier}"
        shell:
            "OMP_NUM_THREADS=1 logged {log} python -m aqr_bench data --tier {params.tier} --root {params.root}"
            " --out {params.out} --database-only --workers {threads} --quiet"
