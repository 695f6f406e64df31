# Every trained model, base or variant, under every condition of a suite; and pictures of what one of them detects.


rule evaluate:
    input:
        infos="results/{tier}/infos/data.json",
        train="results/{tier}/{run}/seed{seed}/train.jsonl",
    output:
        "results/{tier}/{run}/seed{seed}/evaluate.{suite}.jsonl",
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
        tier=reference(TIER.path),
        suite=lambda wildcards: reference(SUITES[wildcards.suite].path),
        study=study_option,
        infos=subpath(input.infos, parent=True),
        code=code_hash_for("evaluate"),
        settings=suite_hash,
    message:
        "Evaluating {wildcards.run}, tier {wildcards.tier}, seed {wildcards.seed}, suite {wildcards.suite}"
    shell:
        "OMP_NUM_THREADS={threads} python -m aqr_bench gpu-slots {resources.gpu} --"
        " python -m aqr_bench evaluate --tier {params.tier} --infos {params.infos}"
        " --suite {params.suite} --train {input.train} {params.study} --out {output}"
        " --work results/{wildcards.tier}/work > {log} 2>&1"
        " || (tail -n 3 {log} >&2; exit 1)"


rule pictures:
    input:
        infos="results/{tier}/infos/data.json",
        train=lambda wildcards: train_record(pictured_run()),
        evaluation=lambda wildcards: f"results/{pictured_run().folder}/evaluate.{TRAINED[0].suite.name}.jsonl",
    output:
        "results/{tier}/pictures/pictures.json",
    log:
        "logs/{tier}/pictures.log",
    conda:
        "../../environment.yml"
    threads: TIER.threads
    resources:
        gpu=lambda wildcards: gpus_of(ONE_PROCESS),
    params:
        tier=reference(TIER.path),
        suite=reference((TRAINED or CHOSEN)[0].suite.path),
        study=lambda wildcards: (
            option("--study", reference(TRAINED[0].path))
            if pictured_run().study
            else ""
        ),
        infos=subpath(input.infos, parent=True),
        out=subpath(output[0], parent=True),
        code=code_hash_for("pictures"),
    message:
        "Pictures of detections, tier {wildcards.tier}"
    shell:
        "OMP_NUM_THREADS={threads} python -m aqr_bench gpu-slots {resources.gpu} --"
        " python -m aqr_bench pictures --tier {params.tier} --infos {params.infos}"
        " --suite {params.suite} --train {input.train} --evaluation {input.evaluation}"
        " {params.study} --work results/{wildcards.tier}/work --out {params.out} > {log} 2>&1"
        " || (tail -n 3 {log} >&2; exit 1)"
