# Pretrained branches, base trainings that start from them, and the variants that start from those. Checkpoints to resume
# from live in results/<tier>/work.


rule pretrain:
    input:
        **INFOS,
    output:
        f"{RESULTS_OF_TIER}/pretrain/{{branch}}/train.jsonl",
    log:
        "logs/{tier}/pretrain/{branch}/train.log",
    conda:
        "../../environment.yml"
    threads: TIER.threads * TIER.launcher.processes
    resources:
        gpu=lambda wildcards: gpus_of(TIER.launcher),
    params:
        tier=constant(TIER_NAME),
        infos=subpath(input.infos, parent=True),
        work=LAYOUT.work.as_posix(),
        launcher=TIER.launcher.command,
        own_threads=TIER.threads,
    message:
        "Pretraining of the {wildcards.branch} branch, tier {wildcards.tier}"
    shell:
        "OMP_NUM_THREADS={params.own_threads} logged {log} python -m aqr_bench gpu-slots {resources.gpu} --"
        " {params.launcher} -m aqr_bench train --tier {params.tier:q} --infos {params.infos:q}"
        " --seed 0 --pretrain {wildcards.branch} --out {output:q} --work {params.work:q}"


rule train_base:
    input:
        **INFOS,
        start=lambda wildcards: start_records(wildcards, TIER.base.init),
        database=database_of(TIER.base),
    output:
        f"{RESULTS_OF_TIER}/base/seed{{seed}}/train.jsonl",
    log:
        "logs/{tier}/base/seed{seed}/train.log",
    conda:
        "../../environment.yml"
    threads: TIER.threads * launcher_of(TIER, TIER.base).processes
    resources:
        gpu=lambda wildcards: gpus_of(launcher_of(TIER, TIER.base)),
    params:
        tier=constant(TIER_NAME),
        infos=subpath(input.infos, parent=True),
        work=LAYOUT.work.as_posix(),
        start=lambda wildcards, input: start_option(TIER.base.init, input.start),
        launcher=launcher_of(TIER, TIER.base).command,
        own_threads=TIER.threads,
    message:
        "Base training, tier {wildcards.tier}, seed {wildcards.seed}"
    shell:
        "OMP_NUM_THREADS={params.own_threads} logged {log} python -m aqr_bench gpu-slots {resources.gpu} --"
        " {params.launcher} -m aqr_bench train --tier {params.tier:q} --infos {params.infos:q}"
        " --seed {wildcards.seed} {params.start:q} --out {output:q} --work {params.work:q}"


rule train_variant:
    input:
        **INFOS,
        start=lambda wildcards: start_records(wildcards, schedule_of(wildcards).init),
        database=lambda wildcards: database_of(schedule_of(wildcards)),
    output:
        f"{RESULTS_OF_TIER}/{{study}}/{{variant}}/seed{{seed}}/train.jsonl",
    log:
        "logs/{tier}/{study}/{variant}/seed{seed}/train.log",
    conda:
        "../../environment.yml"
    threads: lambda wildcards: TIER.threads * launcher_of(TIER, schedule_of(wildcards)).processes
    resources:
        gpu=lambda wildcards: gpus_of(launcher_of(TIER, schedule_of(wildcards))),
    params:
        tier=constant(TIER_NAME),
        study=lambda wildcards: study_option(wildcards.study),
        infos=subpath(input.infos, parent=True),
        work=LAYOUT.work.as_posix(),
        start=lambda wildcards, input: start_option(
            schedule_of(wildcards).init, input.start
        ),
        launcher=lambda wildcards: launcher_of(TIER, schedule_of(wildcards)).command,
        own_threads=TIER.threads,
    message:
        "Training {wildcards.study}/{wildcards.variant}, tier {wildcards.tier}, seed {wildcards.seed}"
    shell:
        "OMP_NUM_THREADS={params.own_threads} logged {log} python -m aqr_bench gpu-slots {resources.gpu} --"
        " {params.launcher} -m aqr_bench train --tier {params.tier:q} --infos {params.infos:q}"
        " --seed {wildcards.seed} {params.study:q} --variant {wildcards.variant} {params.start:q}"
        " --out {output:q} --work {params.work:q}"
