# From world to report:   snakemake --cores 2 --workflow-profile workflow/profiles/default
# Another tier or study:  snakemake --cores 2 --config tier=smoke studies=smoke
# Targets: all and report, check (fails if any run failed), a study (bias_site), one of its variants (bias_site/cross),
# a condition suite (suite/missing_sensors).
# `aqr-bench run` wraps this and looks after locks, disk space and error messages.


include: "workflow/rules/common.smk"


rule all:
    input:
        LAYOUT.page.as_posix(),
        # Snakemake passes over a deleted file that only stands between others and a newer report; records are results.
        RECORDS,
    localrule: True


include: "workflow/rules/world.smk"
include: "workflow/rules/prepare.smk"
include: "workflow/rules/train.smk"
include: "workflow/rules/evaluate.smk"
include: "workflow/rules/measure.smk"
include: "workflow/rules/report.smk"
