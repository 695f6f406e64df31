# Pretrained branches, base trainings that start from them, and the variants that start from those. Checkpoints to resume
# from live in results/<tier>/work.


rule pretrain:
    input:
        infos="results/{tier}/infos/data.json",
    output:
        "results/{tier}/pretrain/{branch}/train.jsonl",
    log:
        "logs/{tier}/pretrain/{branch}/train.log",
    conda:
        "../../environment.yml"
    threads: TIER.threads * TIER.launcher.processes
    resources:
        gpu=lambda wildcards: gpus_of(TIER.launcher),
    params:
        tier=reference(TIER.path),
        infos=subpath(input.infos, parent=True),
        launcher=TIER.launcher.command,
        own_threads=TIER.threads,
        code=code_hash_for("train"),
        settings=lambda wildcards: config_hash(
            {
                **model_settings(TIER.model),
                **vars(TIER.pretrain[wildcards.branch]),
                **launcher_settings(TIER.launcher),
            }
        ),
    message:
        "Pretraining of the {wildcards.branch} branch, tier {wildcards.tier}"
    shell:
        "OMP_NUM_THREADS={params.own_threads} python -m aqr_bench gpu-slots {resources.gpu} --"
        " {params.launcher} -m aqr_bench train --tier {params.tier} --infos {params.infos}"
        " --seed 0 --pretrain {wildcards.branch} --out {output} --work results/{wildcards.tier}/work"
        " > {log} 2>&1 || (tail -n 3 {log} >&2; exit 1)"


rule train_base:
    input:
        infos="results/{tier}/infos/data.json",
        features=feature_records(TIER.base.init),
        database=database_of(TIER.base),
    output:
        "results/{tier}/base/seed{seed}/train.jsonl",
    log:
        "logs/{tier}/base/seed{seed}/train.log",
    conda:
        "../../environment.yml"
    threads: TIER.threads * launcher_of(TIER.base).processes
    resources:
        gpu=lambda wildcards: gpus_of(launcher_of(TIER.base)),
    params:
        tier=reference(TIER.path),
        infos=subpath(input.infos, parent=True),
        features=lambda wildcards, input: option("--features", input.features),
        launcher=launcher_of(TIER.base).command,
        own_threads=TIER.threads,
        code=code_hash_for("train"),
        settings=config_hash(
            {
                **model_settings(TIER.model),
                "config": TIER.base.config,
                **memory_setting(TIER.base),
                **schedule_settings(TIER.base),
            }
        ),
    message:
        "Base training, tier {wildcards.tier}, seed {wildcards.seed}"
    shell:
        "OMP_NUM_THREADS={params.own_threads} python -m aqr_bench gpu-slots {resources.gpu} --"
        " {params.launcher} -m aqr_bench train --tier {params.tier} --infos {params.infos}"
        " --seed {wildcards.seed} {params.features} --out {output} --work results/{wildcards.tier}/work > {log} 2>&1"
        " || (tail -n 3 {log} >&2; exit 1)"


rule train_variant:
    input:
        infos="results/{tier}/infos/data.json",
        base=base_record,
        features=lambda wildcards: feature_records(schedule_of(wildcards).init),
        database=lambda wildcards: database_of(schedule_of(wildcards)),
    output:
        "results/{tier}/{study}/{variant}/seed{seed}/train.jsonl",
    log:
        "logs/{tier}/{study}/{variant}/seed{seed}/train.log",
    conda:
        "../../environment.yml"
    threads: lambda wildcards: TIER.threads * launcher_of(schedule_of(wildcards)).processes
    resources:
        gpu=lambda wildcards: gpus_of(launcher_of(schedule_of(wildcards))),
    params:
        tier=reference(TIER.path),
        study=lambda wildcards: reference(STUDIES[wildcards.study].path),
        infos=subpath(input.infos, parent=True),
        start=lambda wildcards, input: (
            option("--base", input.base) or option("--features", input.features)
        ),
        launcher=lambda wildcards: launcher_of(schedule_of(wildcards)).command,
        own_threads=TIER.threads,
        code=code_hash_for("train"),
        settings=schedule_hash,
    message:
        "Training {wildcards.study}/{wildcards.variant}, tier {wildcards.tier}, seed {wildcards.seed}"
    shell:
        "OMP_NUM_THREADS={params.own_threads} python -m aqr_bench gpu-slots {resources.gpu} --"
        " {params.launcher} -m aqr_bench train --tier {params.tier} --infos {params.infos}"
        " --seed {wildcards.seed} --study {params.study} --variant {wildcards.variant} {params.start}"
        " --out {output} --work results/{wildcards.tier}/work > {log} 2>&1"
        " || (tail -n 3 {log} >&2; exit 1)"
