"""Two sets of results: their records, whether they may be compared, and their differences."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from aqr_bench.data.digests import known_infos_digest
from aqr_bench.errors import UserError, nearest
from aqr_bench.metrics.scoring_rules import rules_of
from aqr_bench.records.diff import cost_ratios
from aqr_bench.records.freshness import causes
from aqr_bench.records.loose import record_path, stale_reasons
from aqr_bench.records.record import Record, describe, read_run, record_files

MAX_NAMES = 5  # in a sentence
Key = tuple[str, str, str, int | None, str, str]  # kind, study (or base), variant, seed, suite, condition


@dataclass(frozen=True)
class ResultSet:
    """All records of one tier below a folder, by run; ``label`` is the folder as given, ``files`` has their files."""

    label: str
    tier: str
    records: Mapping[Key, Record]
    infos_sha256: str | None = None  # of the info files in the folder, if there are any
    files: Mapping[Key, Path] = field(default_factory=dict)

    @functools.cached_property
    def stale(self) -> dict[Key, tuple[str, ...]]:
        """Records that are not of what tier, study and suite of their names ask for now, with the reasons."""
        reasons = stale_reasons(self.records.values(), self.infos_sha256)
        keys = {key: (record_path(record), record.condition) for key, record in self.records.items()}
        return {key: reasons[entry] for key, entry in keys.items() if entry in reasons}

    @functools.cached_property
    def stale_scores(self) -> dict[tuple[str, str, str, str], str]:
        """Reasons of all seeds, by study, variant, suite and condition."""
        reasons: dict[tuple[str, str, str, str], dict[str, None]] = {}
        for (kind, study, variant, _, suite, condition), why in self.stale.items():
            if kind == "evaluate":
                reasons.setdefault((study, variant, suite, condition), {}).update(dict.fromkeys(why))
        return {key: "; ".join(causes(why)) for key, why in reasons.items()}

    def of(self, kind: str) -> dict[Key, Record]:
        """The records of one kind that are ok."""
        return {key: r for key, r in self.records.items() if r.kind == kind and r.ok}

    @property
    def without_tier(self) -> bool:
        """Whether it is of one model that was trained elsewhere; ``tier`` is the name of that model then."""
        return all(record.without_tier for record in self.records.values())

    @property
    def provenances(self) -> list[Mapping]:
        return [r.provenance for r in self.records.values() if r.provenance]


def key_of(record: Record) -> Key:
    """The run that a record is of; a base model's study is ``base``, that of a pretrained branch ``pretrain``."""
    branch = record.extra.get("pretrain")
    study = record.study or ("pretrain" if branch else "base")
    variant = record.variant or branch or "base"
    return (record.kind, study, variant, record.seed, record.suite or "", record.condition or "")


def read_set(folder: Path, tier: str | None = None) -> ResultSet:
    """The records below a results folder (``results/quick``) or any copy of one, or of a single record file.

    Raises UserError for no folder, no record, several tiers and none chosen, and two records of the same run.
    """
    if not folder.is_dir() and not folder.is_file():
        raise UserError(f"no folder '{folder}': give a results folder such as results/quick, or a folder of records")
    tiers: dict[str, dict[Key, tuple[Path, Record]]] = {}
    damaged: list[tuple[Path, Record]] = []
    for path in record_files(folder):
        for record in read_run(path):
            if record.extra.get("damaged"):
                damaged.append((path, record))  # only its path is known, and that may not name the tier
                continue
            of_tier = tiers.setdefault(record.tier, {})
            other = of_tier.get(key_of(record), (path, record))[0]
            if other != path:
                raise UserError(f"{folder}: two records of {describe(record)}: {other} and {path}. Name one folder.")
            of_tier[key_of(record)] = (path, record)
    if not tiers:
        why = f" (all {len(damaged)} are damaged, {damaged[0][0]} first)" if damaged else ""
        raise UserError(f"{folder}: no records in it{why}. Give a results folder such as results/quick.")
    if tier is not None and tier not in tiers:
        raise UserError(f"{folder}: no records of tier '{tier}'{nearest(tier, tiers)}")
    if tier is None and len(tiers) > 1:
        raise UserError(f"{folder}: records of several tiers ({', '.join(sorted(tiers))}): choose one with --tier")
    name = tier or next(iter(tiers))
    records = {key: record for key, (_, record) in tiers[name].items()}
    files = {key: path for key, (path, _) in tiers[name].items()}
    for _, record in damaged:
        records.setdefault(key_of(record), record)
    return ResultSet(str(folder), name, records, known_infos_digest(folder / "infos"), files)


# ---------------------------------------------------------------- may they be compared


def incompatible(a: ResultSet, b: ResultSet) -> list[str]:
    """Why the two must not be compared; nothing if they may."""
    if a.tier != b.tier and not (a.without_tier and b.without_tier):
        return [f"they are of different tiers: '{a.tier}' and '{b.tier}'"]
    reasons = []
    for key in ("data_sha256", "infos_sha256"):
        data = [{p.get(key) for p in _facts(s, "evaluate")} - {None} for s in (a, b)]
        if all(data) and data[0] != data[1]:
            first, second = (", ".join(sorted(d[:12] for d in hashes)) for hashes in data)
            reasons.append(f"they were evaluated on different data ({key} {first} and {second})")
            break
    rules = [{rules_of(r.extra).text for r in s.of("evaluate").values()} for s in (a, b)]
    if all(rules) and rules[0] != rules[1]:
        first, second = (" and ".join(sorted(text or "nuScenes' rules" for text in texts)) for texts in rules)
        reasons.append(f"they are scored by different rules ({first}; {second})")
    conditions = [_conditions(s) for s in (a, b)]
    for suite in sorted(set(conditions[0]) & set(conditions[1])):
        first, second = (c[suite] for c in conditions)
        parts = [("A", first - second), ("B", second - first)]
        only = "; ".join(f"only in {name}: {', '.join(sorted(extra))}" for name, extra in parts if extra)
        if only:
            reasons.append(f"suite '{suite}' has other conditions ({only})")
    changed, same = other_inputs(a, b)
    if changed and not same and not reasons:
        reasons.append("under no condition were the inputs the same (input_sha256)")
    return reasons


def other_inputs(a: ResultSet, b: ResultSet) -> tuple[set[tuple[str, str]], set[tuple[str, str]]]:
    """(suite, condition) under which a run got other inputs in B than in A, and those under which none did."""
    changed, compared = set(), set()
    records_a, records_b = a.of("evaluate"), b.of("evaluate")
    for key in records_a.keys() & records_b.keys():
        hashes = {s[key].provenance.get("input_sha256") for s in (records_a, records_b)}
        compared.add(key[4:])
        if None not in hashes and len(hashes) > 1:
            changed.add(key[4:])
    return changed, compared - changed


def _conditions(results: ResultSet) -> dict[str, set[str]]:
    conditions: dict[str, set[str]] = {}
    for key, record in results.records.items():
        if record.kind == "evaluate" and not record.extra.get("damaged"):
            conditions.setdefault(key[4], set()).add(key[5])
    return conditions


def _facts(results: ResultSet, kind: str) -> list[Mapping]:
    return [r.provenance for r in results.of(kind).values()]


# ---------------------------------------------------------------- side by side


def side_by_side(a: ResultSet, b: ResultSet) -> list[tuple[str, str, str]]:
    """Label, and the values of A and B; package versions only where they differ."""
    rows: list[tuple[str, Callable[[ResultSet], Iterable[str]]]] = [
        ("folder", lambda s: [s.label]),
        ("tier", lambda s: [s.tier]),
        ("records ok", lambda s: [f"{sum(r.ok for r in s.records.values())} of {len(s.records)}"]),
        ("studies", lambda s: {key[1] for key in s.records}),
        ("seeds", lambda s: {str(key[3]) for key in s.records if key[3] is not None}),
        ("commit", lambda s: {_commit(p) for p in s.provenances if p.get("git_commit")}),
        ("machine", lambda s: {_machine(p["machine"]) for p in s.provenances if p.get("machine")}),
        ("run between", _span),
        ("data", lambda s: {p["data_sha256"][:12] for p in _facts(s, "evaluate") if p.get("data_sha256")}),
    ]
    rows += [(f"code, {kind}", lambda s, k=kind: _code(s, k)) for kind in ("train", "evaluate", "measure")]
    versions = [_versions(s) for s in (a, b)]
    for name in sorted(set(versions[0]) | set(versions[1])):
        if versions[0].get(name) != versions[1].get(name):
            rows.append((name, lambda s, n=name: _versions(s).get(n, ())))
    return [(label, *(", ".join(sorted(of(s))) or "–" for s in (a, b))) for label, of in rows]


def _commit(facts: Mapping) -> str:
    return f"{facts['git_commit'][:10]}{' with changes' if facts.get('git_dirty') else ''}"


def _code(results: ResultSet, kind: str) -> set[str]:
    return {p["code_sha256"][:12] for p in _facts(results, kind) if p.get("code_sha256")}


def _machine(machine: Mapping) -> str:
    words = [machine.get("gpu"), machine.get("cpu"), f"{machine['cores']} cores" if machine.get("cores") else None]
    return " / ".join(str(w) for w in words if w)


def _span(results: ResultSet) -> list[str]:
    times = sorted(str(p[k]) for p in results.provenances for k in ("started", "finished") if p.get(k))
    return [f"{times[0]} and {times[-1]}"] if times else []


def _versions(results: ResultSet) -> dict[str, set[str]]:
    versions: dict[str, set[str]] = {}
    for facts in results.provenances:
        machine = facts.get("machine") or {}
        packages = {"python": machine.get("python"), **(facts.get("packages") or {})}
        for name, version in packages.items():
            if version:
                versions.setdefault(name, set()).add(str(version))
    return versions


def changes(a: ResultSet, b: ResultSet) -> Iterator[str]:
    """Sentences on other differences: configs, inputs, runs of one set alone, and statuses."""
    shared = a.records.keys() & b.records.keys()
    configs = sorted({f"{k[1]}/{k[2]}" for k in shared if k[0] == "train" and _other(a, b, k, "config_sha256")})
    if configs:
        yield f"config of {_some(configs)}"
    inputs = sorted({f"{suite}/{condition}" for suite, condition in other_inputs(a, b)[0]})
    if inputs:
        yield f"inputs under {_some(inputs)}: left out of the comparison"
    for name, results, other in (("A", a, b), ("B", b, a)):
        only = [k for k in results.records if k not in other.records]
        if only:
            runs = sorted({f"{k[1]}/{k[2]}" for k in only})
            yield f"only in {name}: {len(only)} record{'s' * (len(only) != 1)} of {_some(runs)}"
    yield from outcomes(a, b)


def outcomes(a: ResultSet, b: ResultSet) -> list[str]:
    """Runs that are ok in one set and recorded as failed, or damaged, in the other."""
    texts = []
    for key in (k for k in a.records if k in b.records):
        record_a, record_b = a.records[key], b.records[key]
        if record_a.ok != record_b.ok:
            failed = record_b if record_a.ok else record_a
            texts.append(f"{record_a.status} -> {record_b.status}: {describe(record_a)}: {failed.reason}")
    for name, results, other in (("A", a, b), ("B", b, a)):
        damaged = [r for k, r in results.records.items() if k not in other.records and r.extra.get("damaged")]
        texts += [f"damaged in {name}: {record.reason}" for record in damaged]
    return texts


def one_sided_values(a: ResultSet, b: ResultSet, metrics: Iterable[str]) -> list[str]:
    """Variants that one set alone has, and scores that one alone of two records of a run has: NaN is no score."""
    texts = []
    variants = [{f"{key[1]}/{key[2]}" for key in results.records} for results in (a, b)]
    for name, only in (("A", variants[0] - variants[1]), ("B", variants[1] - variants[0])):
        texts += [f"only in {name}: variant {variant}" for variant in sorted(only)]
    evaluations = a.of("evaluate"), b.of("evaluate")
    for key in (k for k in evaluations[0] if k in evaluations[1]):
        for metric in metrics:
            has = [_is_score(records[key].score(metric)) for records in evaluations]
            if has[0] != has[1]:
                texts.append(f"only in {'A' if has[0] else 'B'}: {metric} of {describe(evaluations[0][key])}")
    return texts


def _is_score(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def stale_lines(a: ResultSet, b: ResultSet) -> list[str]:
    """What of each set is not of what is asked for now, a line for each reason."""
    lines = []
    for name, results in (("A", a), ("B", b)):
        groups: dict[str, list[str]] = {}
        for key, reasons in results.stale.items():
            groups.setdefault("; ".join(causes(reasons)), []).append(f"{key[0]} {key[1]}/{key[2]}")
        for why, runs in groups.items():
            records = f"{len(runs)} record{'s' * (len(runs) != 1)}"
            lines.append(f"{name}: {why}: {records} of {_some(list(dict.fromkeys(runs)))}")
    return lines


def cost_lines(a: ResultSet, b: ResultSet) -> list[str]:
    """Latency, training step and peak memory of the variants that both sets measured."""
    measured = a.of("measure"), b.of("measure")
    return [
        f"{key[1]}/{key[2]}: {text}"
        for key in measured[0]
        if key in measured[1]
        for text in cost_ratios(measured[0][key].cost, measured[1][key].cost)
    ]


def _other(a: ResultSet, b: ResultSet, key: Key, name: str) -> bool:
    values = {s.records[key].provenance.get(name) for s in (a, b)} - {None}
    return len(values) > 1


def _some(names: list[str]) -> str:
    more = f" and {len(names) - MAX_NAMES} more" if len(names) > MAX_NAMES else ""
    return ", ".join(names[:MAX_NAMES]) + more
