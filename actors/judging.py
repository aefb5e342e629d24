"""`pit-ray judge`: verdicts on the answers of a finished evaluation, by a model behind an endpoint or by people."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import ValidationError

from pit_ray.config.endpoint import Endpoint
from pit_ray.data.parquet import write_table
from pit_ray.endpoint import EndpointClient
from pit_ray.errors import ConfigError, DataError
from pit_ray.evaluate.evaluation_folder import EvaluationFolder, read_evaluation
from pit_ray.evaluate.human import export_sheet, read_sheets
from pit_ray.evaluate.llm_judge import LlmJudge

VERDICTS = "verdicts.parquet"
SHEET, KEY = "sheet.csv", "sheet.key.json"


def endpoint_of(found: Endpoint | None, overrides: Sequence[str]) -> Endpoint:
    """The endpoint of a configuration with KEY=VALUE overrides; ConfigError names what is missing or wrong."""
    given = {} if found is None else found.model_dump()
    for override in overrides:
        key, separator, value = override.partition("=")
        if not separator or not key:
            raise ConfigError(f"'{override}' is not of the form key=value, for instance model=NAME")
        given[key.removeprefix("evaluation.llm.")] = value
    try:
        return Endpoint.model_validate(given)
    except ValidationError as error:
        wrong = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise ConfigError(f"the judge's endpoint: {wrong}; give for instance base_url=URL model=NAME") from None


def judge_by_model(path: Path, ours: str, theirs: str, count: int | None, endpoint: Endpoint, note) -> Path:
    """Asks a model which of two systems' answers is better, prompt by prompt, and adds its verdicts to the evaluation;
    prompts without a verdict get none. What was answered is kept, so the same call goes on after an interruption."""
    folder, (prompts, one, other) = answers(path, (ours, theirs))
    rows = slice(0, count)
    client = EndpointClient(endpoint, folder.path / "endpoint")
    found = LlmJudge(client).verdicts(
        prompts[rows], one[rows], other[rows], lambda done, total: note(f"{done}/{total}") if done % 50 == 0 else None
    )
    known = np.flatnonzero(found.known)
    spent = client.spent
    note(
        f"{len(known)} of {len(found.known)} prompts have a verdict ({found.same} equal answers, {found.ties} ties, "
        f"{found.inconsistent} depend on the order, {found.unparsable} answers without one, {found.refused} refused); "
        f"{spent.requests} requests, {spent.prompt_tokens + spent.completion_tokens} tokens, cost {spent.price:.2f}"
    )
    verdicts = [(ours, theirs, folder.uids[rows][known], found.outcome[known])]
    return add_verdicts(folder.path, f"llm:{endpoint.model}", verdicts)


def sheet_for_people(path: Path, systems: Sequence[str], count: int | None, seed: int) -> Path:
    """Writes a blinded sheet of so many prompts of an evaluation, and its key, beside it; returns the sheet."""
    folder, (prompts, *texts) = answers(path, systems)
    n = len(prompts) if count is None else min(count, len(prompts))
    place = folder.path / "human"
    place.mkdir(exist_ok=True)
    sheet = place / SHEET
    some = {name: list(found[:n]) for name, found in zip(systems, texts, strict=True)}
    export_sheet(sheet, place / KEY, folder.uids[:n].tolist(), list(prompts[:n]), some, seed)
    return sheet


def judge_by_people(path: Path, sheets: Sequence[Path], note) -> Path:
    """Adds what people wrote into their copies of the sheet to the evaluation."""
    folder = read_evaluation(path)
    found = read_sheets(folder.path / "human" / KEY, sheets)
    agreed = found.agreement
    if agreed.percent is not None:
        kappa = "" if agreed.kappa is None else f", kappa {agreed.kappa:.2f}"
        note(f"raters agree on {agreed.percent:.0f} % of {agreed.rows} rows{kappa}")
    for sheet, missing in found.missing.items():
        note(f"{sheet}: {missing} rows without an answer")
    verdicts = [(c.ours, c.theirs, c.uid[c.known], c.outcome[c.known]) for c in found.contests]
    return add_verdicts(folder.path, "human", verdicts)


def answers(path: Path, systems: Sequence[str]) -> tuple[EvaluationFolder, list[Sequence[str]]]:
    """An evaluation, its prompts, and the answers of some systems as texts; DataError where it has none of them."""
    folder = read_evaluation(path)
    texts = [folder.texts(name) for name in systems]
    if folder.prompts is None or any(found is None for found in texts):
        raise DataError(
            f"{folder.path}: has no answers.parquet, so there is nothing to judge; pit-ray evaluate writes it"
        )
    return folder, [folder.prompts, *(found for found in texts if found is not None)]


def add_verdicts(folder: Path, judge: str, verdicts: Iterable[tuple[str, str, np.ndarray, np.ndarray]]) -> Path:
    """Adds verdicts (ours, theirs, uids, outcomes) to an evaluation's; those of the same judge on the same two systems
    are replaced."""
    path = folder / VERDICTS
    kept = pq.read_table(path).to_pylist() if path.is_file() else []
    for ours, theirs, uid, outcome in verdicts:
        same = {(ours, theirs, judge), (theirs, ours, judge)}
        kept = [row for row in kept if (row["ours"], row["theirs"], row["judge"]) not in same]
        kept += [
            {"uid": int(u), "ours": ours, "theirs": theirs, "judge": judge, "outcome": int(o)}
            for u, o in zip(uid, outcome, strict=True)
        ]
    columns = {
        "uid": pa.int64(),
        "ours": pa.string(),
        "theirs": pa.string(),
        "judge": pa.string(),
        "outcome": pa.int8(),
    }
    write_table(pa.Table.from_pylist(kept, schema=pa.schema(columns)), path)
    return path
