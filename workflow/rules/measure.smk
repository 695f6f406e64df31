# Latency, throughput and memory of every variant, in a fresh process that has the machine to itself.


rule measure:
    input:
        infos="results/{tier}/infos/data.json",
    output:
        "results/{tier}/{study}/{variant}/measure.jsonl",
    log:
        "logs/{tier}/{study}/{variant}/measure.log",
    conda:
        "../../environment.yml"
    # Claims every core so that nothing else runs beside it; the job itself uses the tier's threads.
    threads: workflow.cores or 1
    resources:
        gpu=lambda wildcards: gpus_of(ONE_PROCESS),
    params:
        tier=reference(TIER.path),
        study=lambda wildcards: reference(STUDIES[wildcards.study].path),
        infos=subpath(input.infos, parent=True),
        own_threads=TIER.threads,
        code=code_hash_for("measure"),
        settings=measure_hash,
    message:
        "Measuring {wildcards.study}/{wildcards.variant}, tier {wildcards.tier}"
    shell:
        "OMP_NUM_THREADS={params.own_threads} python -m aqr_bench gpu-slots {resources.gpu} --"
        " python -m aqr_bench measure --tier {params.tier}"
        " --infos {params.infos} --study {params.study} --variant {wildcards.variant} --out {output}"
        " > {log} 2>&1"
        " || (tail -n 3 {log} >&2; exit 1)"
