# Base trainings, and the variants that start from them. Checkpoints to resume from live in results/<tier>/work.


rule train_base:
    input:
        infos="results/{tier}/infos/data.json",
    output:
        "results/{tier}/base/seed{seed}/train.jsonl",
    log:
        "logs/{tier}/base/seed{seed}/train.log",
    conda:
        "../../environment.yml"
    threads: TIER.threads
    params:
        tier=reference(TIER.path),
        infos=subpath(input.infos, parent=True),
        code=rooms_hash("train"),
        settings=config_hash(
            {
                "model": TIER.model,
                "iterations": TIER.base.iterations,
                "config": TIER.base.config,
            }
        ),
    message:
        "Base training, tier {wildcards.tier}, seed {wildcards.seed}"
    shell:
        "OMP_NUM_THREADS={threads} python -m aqr_bench.train --tier {params.tier} --infos {params.infos}"
        " --seed {wildcards.seed} --out {output} --work results/{wildcards.tier}/work > {log} 2>&1"
        " || (tail -n 3 {log} >&2; exit 1)"


rule train_variant:
    input:
        infos="results/{tier}/infos/data.json",
        base=base_record,
    output:
        "results/{tier}/{study}/{variant}/seed{seed}/train.jsonl",
    log:
        "logs/{tier}/{study}/{variant}/seed{seed}/train.log",
    conda:
        "../../environment.yml"
    threads: TIER.threads
    params:
        tier=reference(TIER.path),
        study=lambda wildcards: reference(STUDIES[wildcards.study].path),
        infos=subpath(input.infos, parent=True),
        base=lambda wildcards, input: f"--base {input.base}" if input.base else "",
        code=rooms_hash("train"),
        settings=schedule_hash,
    message:
        "Training {wildcards.study}/{wildcards.variant}, tier {wildcards.tier}, seed {wildcards.seed}"
    shell:
        "OMP_NUM_THREADS={threads} python -m aqr_bench.train --tier {params.tier} --infos {params.infos}"
        " --seed {wildcards.seed} --study {params.study} --variant {wildcards.variant} {params.base}"
        " --out {output} --work results/{wildcards.tier}/work > {log} 2>&1"
        " || (tail -n 3 {log} >&2; exit 1)"
