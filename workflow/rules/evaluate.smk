# Every trained model, base or variant, under every condition of a suite; and pictures of what one of them detects.


rule evaluate:
    input:
        **INFOS,
        train=by_content(f"{RESULTS_OF_TIER}/{{run}}/seed{{seed}}/train.jsonl"),
    output:
        f"{RESULTS_OF_TIER}/{{run}}/seed{{seed}}/evaluate.{{suite}}.jsonl",
    log:
        "logs/{tier}/{run}/seed{seed}/evaluate.{suite}.log",
    wildcard_constraints:
        run="base|(" + "|".join(STUDIES) + r")/[^/]+",
    conda:
        "../../environment.yml"
    threads: TIER.threads
    resources:
        gpu=lambda wildcards: gpus_of(ONE_PROCESS),
    params:
        tier=constant(TIER_NAME),
        suite=lambda wildcards: name_or_path(SUITES[wildcards.suite].path),
        study=lambda wildcards: study_option(wildcards.run.partition("/")[0]),
        infos=subpath(input.infos, parent=True),
        work=LAYOUT.work.as_posix(),
    message:
        "Evaluating {wildcards.run}, tier {wildcards.tier}, seed {wildcards.seed}, suite {wildcards.suite}"
    shell:
        "OMP_NUM_THREADS={threads} logged {log} python -m aqr_bench gpu-slots {resources.gpu} --"
        " python -m aqr_bench evaluate --tier {params.tier:q} --infos {params.infos:q}"
        " --suite {params.suite:q} --train {input.train:q} {params.study:q} --out {output:q}"
        " --work {params.work:q} --allow-failures"


# A study of cost alone has no models to draw.
if SELECTION.trained:
    PICTURED, PICTURED_SUITE = SELECTION.pictured_run(), SELECTION.trained[0].suite

    rule pictures:
        input:
            **INFOS,
            train=by_content(LAYOUT.train(PICTURED).as_posix()),
            evaluation=by_content(
                LAYOUT.evaluate(PICTURED, PICTURED_SUITE.name).as_posix()
            ),
        output:
            f"{RESULTS_OF_TIER}/pictures/pictures.json",
        log:
            "logs/{tier}/pictures.log",
        conda:
            "../../environment.yml"
        threads: TIER.threads
        resources:
            gpu=lambda wildcards: gpus_of(ONE_PROCESS),
        params:
            tier=constant(TIER_NAME),
            suite=constant(name_or_path(PICTURED_SUITE.path)),
            study=constant(study_option(PICTURED.study)),
            infos=subpath(input.infos, parent=True),
            work=LAYOUT.work.as_posix(),
            out=subpath(output[0], parent=True),
        message:
            "Pictures of detections, tier {wildcards.tier}"
        shell:
            "OMP_NUM_THREADS={threads} logged {log} python -m aqr_bench gpu-slots {resources.gpu} --"
            " python -m aqr_bench pictures --tier {params.tier:q} --infos {params.infos:q}"
            " --suite {params.suite:q} --train {input.train:q} --evaluation {input.evaluation:q}"
            " {params.study:q} --work {params.work:q} --out {params.out:q}"
