# Latency, throughput and memory of every variant, in a fresh process that has the machine to itself.


rule measure:
    input:
        **INFOS,
    output:
        f"{RESULTS_OF_TIER}/{{study}}/{{variant}}/measure.jsonl",
    log:
        "logs/{tier}/{study}/{variant}/measure.log",
    conda:
        "../../environment.yml"
    # Claims every core so that nothing else runs beside it; the job itself uses the tier's threads.
    threads: workflow.cores or 1
    resources:
        gpu=lambda wildcards: gpus_of(ONE_PROCESS),
    params:
        tier=constant(TIER_NAME),
        study=lambda wildcards: study_option(wildcards.study),
        infos=subpath(input.infos, parent=True),
        own_threads=TIER.threads,
    message:
        "Measuring {wildcards.study}/{wildcards.variant}, tier {wildcards.tier}"
    shell:
        "OMP_NUM_THREADS={params.own_threads} logged {log} python -m aqr_bench gpu-slots {resources.gpu} --"
        " python -m aqr_bench measure --tier {params.tier:q} --infos {params.infos:q}"
        " {params.study:q} --variant {wildcards.variant} --out {output:q}"
