# The report on the chosen studies, a check that no run failed, and targets: every study, variant and suite by name.


rule report:
    input:
        RECORDS,
        # Of models that are trained; a study of cost alone has none.
        [f"results/{TIER.name}/pictures/pictures.json" for study in TRAINED[:1]],
    output:
        page=report(
            f"results/{TIER.name}/report/index.html",
            caption="../report/page.rst",
            category="Report",
            labels={"page": "All studies on one page"},
        ),
        tables=report(
            directory(f"results/{TIER.name}/report/tables"),
            patterns=["{table}.csv"],
            caption="../report/table.rst",
            category="Tables",
            labels={"table": "{table}"},
        ),
        figures=report(
            directory(f"results/{TIER.name}/report/figures"),
            patterns=[f"{{study,{'|'.join(s.name for s in CHOSEN)}}}_{{figure}}.png"],
            caption="../report/figure.rst",
            category="Figures",
            subcategory="{study}",
            labels={"figure": "{figure}"},
        ),
    log:
        f"logs/{TIER.name}/report.log",
    conda:
        "../../environment.yml"
    params:
        tier=reference(TIER.path),
        studies=[reference(study.path) for study in CHOSEN],
        seeds=f"--seeds {SEEDS}" if SEEDS else "",
        out=subpath(output.page, parent=True),
        code=code_hash_for("report"),
        settings=config_hash({study.name: study.path.read_text() for study in CHOSEN}),
    message:
        "Report"
    shell:
        "python -m aqr_bench report --tier {params.tier} --study {params.studies} {params.seeds} --records results"
        " --out {params.out} > {log} 2>&1"
        " || (tail -n 3 {log} >&2; exit 1)"


rule check:
    input:
        RECORDS,
    log:
        f"logs/{TIER.name}/check.log",
    conda:
        "../../environment.yml"
    message:
        "Checking that no run failed"
    shell:
        "python -m aqr_bench records check {input} 2>&1 | tee {log}"


for study in STUDIES.values():

    rule:
        name:
            study.name
        input:
            study_records(study),
            base_records([study]),
        localrule: True

    for variant in study.variants:

        rule:
            name:
                f"{study.name}/{variant}"
            input:
                variant_records(study, variant),
            localrule: True


for suite in SUITES:

    rule:
        name:
            f"suite/{suite}"
        input:
            records_under(suite),
        localrule: True
