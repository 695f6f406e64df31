# The report on the chosen studies, a check that no run failed, and targets: every study, variant and suite by name.


rule report:
    input:
        by_content(*RECORDS),
        # Of models that are trained; a study of cost alone has none.
        by_content(*[LAYOUT.pictures.as_posix()] if SELECTION.trained else []),
        make_again,
    output:
        page=report(
            LAYOUT.page.as_posix(),
            caption="../report/page.rst",
            category="Report",
            labels={"page": "All studies on one page"},
        ),
        # Those of other studies, from earlier calls, stay.
        studies=report(
            [
                (LAYOUT.report / s.name / "index.html").as_posix()
                for s in SELECTION.studies
            ],
            caption="../report/page.rst",
            category="Report",
        ),
        tables=report(
            directory((LAYOUT.report / "tables").as_posix()),
            patterns=["{table}.csv"],
            caption="../report/table.rst",
            category="Tables",
            labels={"table": "{table}"},
        ),
        figures=report(
            directory((LAYOUT.report / "figures").as_posix()),
            patterns=[
                f"{{study,{'|'.join(s.name for s in SELECTION.studies)}}}_{{figure}}.png"
            ],
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
        tier=constant(TIER_NAME),
        studies=constant([name_or_path(s.path) for s in SELECTION.studies]),
        seeds=f"--seeds {SELECTION.seeds}" if SELECTION.seeds else "",
        variants=["--variants", *SELECTION.variants] if SELECTION.variants else [],
        results=constant(LAYOUT.results.as_posix()),
        out=subpath(output.page, parent=True),
    message:
        "Report"
    shell:
        "logged {log} python -m aqr_bench report --tier {params.tier:q} --study {params.studies:q} {params.seeds}"
        " {params.variants:q}"
        " --records {params.results:q} --out {params.out:q}"


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
        "python -m aqr_bench records check {input:q} 2>&1 | tee {log}"


for study in STUDIES.values():

    rule:
        name:
            study.name
        input:
            SELECTION.study_records(study),
            SELECTION.base_records([study]),
        localrule: True

    for variant in study.variants:

        rule:
            name:
                f"{study.name}/{variant}"
            input:
                SELECTION.study_records(study, [variant]),
            localrule: True


for suite in SUITES:

    rule:
        name:
            f"suite/{suite}"
        input:
            SELECTION.suite_records(suite),
        localrule: True
