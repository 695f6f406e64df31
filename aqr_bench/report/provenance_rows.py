"""Where the numbers of a page come from: command, tier, schedule, commits, versions, machines and hashes, as rows."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from aqr_bench import __version__
from aqr_bench.records.provenance import git_state, portable_path
from aqr_bench.records.record import Record
from aqr_bench.study.spec import Study, Tier


def provenance_rows(tier: Tier, studies: Sequence[Study], records: Sequence[Record]) -> list[tuple[str, str]]:
    """Label and text of everything needed to say where the numbers come from, and to get them again."""
    facts = [r.provenance for r in records if r.provenance]
    machines = [p.get("machine") or {} for p in facts]
    names = " ".join(as_typed(study.path, study.name) for study in studies)
    page_state = git_state()
    commits = sorted(
        {f"{p['git_commit']}{' with changes' if p.get('git_dirty') else ''}" for p in facts if p.get("git_commit")}
    )
    times = sorted(str(p[key]) for p in facts for key in ("started", "finished") if p.get(key))
    seeds = sorted({seed for study in studies for seed in study.seeds})
    rows = [
        ("Reproduce", f"aqr-bench run --tier {as_typed(tier.path, tier.name)} --study {names}"),
        ("Tier", f"{tier.name}: {tier.summary} Data: {tier.kind} {tier.version}. Model config: {tier.model}"),
        ("Schedule", _schedule(tier)),
        ("Seeds", ", ".join(map(str, seeds)) or "none: nothing is trained"),
        ("Git commit of the runs", joined(commits)),
        (
            "Git commit of this page",
            f"{page_state['git_commit'] or 'unknown'}{' with changes' if page_state['git_dirty'] else ''}",
        ),
        ("Package", f"aqr-bench {__version__}"),
        ("Versions", joined(versions(facts))),
        ("Machine", joined(sorted({_machine(m) for m in machines if m}))),
        ("Run between", f"{times[0]} and {times[-1]}" if times else "unknown"),
    ]
    for key, label in (("code_sha256", "Code"), ("data_sha256", "Data"), ("infos_sha256", "Info files")):
        for kind in ("train", "evaluate", "measure"):
            values = sorted({r.provenance[key] for r in records if r.kind == kind and r.provenance.get(key)})
            if values:
                rows.append((f"{label} hash, {kind}", ", ".join(v[:16] for v in values)))
    return rows


def as_typed(path: Path, name: str) -> str:
    """Argument of `aqr-bench run` for a tier or study: a shipped one by its name, another file by its path."""
    where = Path(portable_path(path.resolve()))
    return name if where.parts[0] in ("ablations", "<elsewhere>") else where.as_posix()


def _schedule(tier: Tier) -> str:
    parts = [f"{p.name} branch {p.iterations} iterations alone" for p in tier.pretrain.values()]
    starts = {"base": "the base model", "features": "the pretrained branches", "scratch": "scratch"}
    starts["published"] = "a published checkpoint"
    parts.append(f"base {tier.base.length} from {starts[tier.base.init]}")
    parts.append(f"variants {tier.variant.length} from {starts[tier.variant.init]}")
    return "; ".join(parts) + " (where a study does not say otherwise)"


def joined(values: Iterable[str]) -> str:
    return "; ".join(values) or "unknown"


def versions(facts: Sequence[dict]) -> list[str]:
    packages: dict[str, set[str]] = {}
    for fact in facts:
        for name, version in (fact.get("packages") or {}).items():
            packages.setdefault(name, set()).add(str(version))
    return [f"{name} {' / '.join(sorted(versions))}" for name, versions in sorted(packages.items())]


def _machine(machine: dict) -> str:
    words = [machine.get("cpu"), f"{machine['cores']} cores" if machine.get("cores") else None]
    words += [f"{machine['memory_gb']} GB" if machine.get("memory_gb") else None, machine.get("gpu") or "no GPU"]
    words += [machine.get("system"), f"Python {machine['python']}" if machine.get("python") else None]
    return ", ".join(str(w) for w in words if w)
