"""Stage `data`: reads pairs or questions, prepares tokenizer and base model, tokenises and splits."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from pit_ray.config import Config
from pit_ray.data.lengths import apply_lengths
from pit_ray.data.parquet import write_pairs
from pit_ray.data.preferences import HUB_NAME, find_source, load_pairs
from pit_ray.data.randomness import derive_seed
from pit_ray.data.splits import Splits, split_pairs, too_few
from pit_ray.data.tasks import BASE, BASE_FOLDER, find_questions
from pit_ray.data.templates import Renderer
from pit_ray.data.worlds import base_folder, find_world
from pit_ray.errors import LINE, DataError, no_such_path, short
from pit_ray.models.folder import check_folder
from pit_ray.models.load import (
    fits,
    load_causal,
    load_tokenizer,
    new_llama,
    torch_dtype,
    train_tokenizer,
    with_tokenizer,
)
from pit_ray.records import PreferencePair
from pit_ray.run_folder import BASE_FILE
from pit_ray.stages import questions
from pit_ray.stages.context import RunContext
from pit_ray.stages.outlook import FoundData
from pit_ray.stages.ready import check_ready

SPLITS = ("sft", "reward", "rl", "validation", "held_out")
OWN_BASE = "base"
"""In the stage's folder: the base model, where it had to be made or changed."""
SAMPLE = 64
"""Pairs of a split that are looked at before a run starts."""


def run(context: RunContext) -> None:
    """Writes the splits as Parquet, the renderer, and base.txt (the folder of the base model)."""
    config, folder = context.config, context.folder.stage("data")
    asked = find_questions(config.data.source) is not None
    splits, description = questions.split_questions(config) if asked else split_source(config)
    texts = questions.texts(splits) if isinstance(splits, questions.QuestionSplits) else pair_texts(splits)
    renderer, base = prepare_base(config, folder, texts)
    check_ready(config, renderer)
    context.tracker.note(description)
    if isinstance(splits, questions.QuestionSplits):
        shown = questions.write_splits(context, renderer, splits)
    else:
        shown = write_splits(context, renderer, splits)
    renderer.save(folder / "renderer")
    own = base == folder / OWN_BASE
    (folder / BASE_FILE).write_text(f"./{OWN_BASE}\n" if own else f"{base}\n", encoding="utf-8")
    context.tracker.note("one rendered example: " + repr(renderer.tokenizer.decode(shown)))


def split_source(config: Config) -> tuple[Splits, str]:
    """The splits of the configured pairs, and one line about these."""
    pairs, description = read_source(config)
    return split_pairs(pairs, config.data, config.seed), description


def write_splits(context: RunContext, renderer: Renderer, splits: Splits) -> list[int]:
    """Each split of pairs as Parquet; returns one rendered example."""
    config, folder = context.config, context.folder.stage("data")
    for name in SPLITS:
        tokenised, report = apply_lengths(renderer.tokenise(getattr(splits, name)), config.data.lengths)
        write_pairs(tokenised, folder / f"{name}.parquet")
        context.tracker.note(f"{name}: {len(tokenised)} pairs; {report}")
        if name == "validation" and len(tokenised) < (ranks := config.actors.learner.ranks):
            raise DataError(
                f"{config.data.source}: data.lengths leaves {len(tokenised)} validation pairs, and {ranks} learner "
                "ranks need one each; raise data.validation or data.lengths.*.max_tokens"
            )
    return example(renderer, splits.sft[0])


def read_source(config: Config) -> tuple[list[PreferencePair], str]:
    """All pairs of the configured source, and one line about them."""
    world = find_world(config.data.source)
    if world is not None:
        pairs = world.pairs(config.data.pairs or 0, derive_seed(config.seed, "world"))
        return pairs, f"data: {len(pairs)} pairs made by {config.data.source}"
    loaded = load_pairs(config.data)
    skipped = "".join(f"; skipped {count} ({reason})" for reason, count in loaded.skipped.items())
    return loaded.pairs, f"data: {len(loaded.pairs)} pairs from {config.data.source}, form: {loaded.form}{skipped}"


def check_data(config: Config, renderer: Renderer | None) -> FoundData:
    """What a local source holds; DataError when its pairs cannot be read or split, or no pair of a split fits
    `data.lengths`.

    Of a world a few pairs are looked at. What is on the hub is read by the stage `data`.
    """
    data, world = config.data, find_world(config.data.source)
    if find_questions(data.source) is not None:
        return check_questions(config, renderer)
    if world is not None:
        count = data.pairs or 0
        if count < data.held_out + data.validation + 3:
            raise too_few(count, count, data)
        some = [world.pairs(min(SAMPLE, count), config.seed)]
        each = (count - data.held_out - data.validation) // 3
        sizes = dict(zip(SPLITS, (each, each, each, data.validation, data.held_out), strict=True))
        found = FoundData(f"data: {count} pairs to be made by {data.source}", sizes)
    elif find_source(data.source) is None:
        return FoundData(f"data: {data.source} on the hub, read when the run starts", {})
    else:
        pairs, description = read_source(config)
        splits = split_pairs(pairs, data, config.seed)
        some = [getattr(splits, name) for name in SPLITS]
        found = FoundData(description, {name: len(split) for name, split in zip(SPLITS, some, strict=True)})
    for pairs in some if renderer is not None else ():
        assert renderer is not None
        try:
            apply_lengths(renderer.tokenise(pairs[:SAMPLE]), data.lengths)
        except DataError:  # all of the sample is dropped, or one of it must not be: only the whole can tell
            apply_lengths(renderer.tokenise(pairs), data.lengths)
    return found


def check_questions(config: Config, renderer: Renderer | None) -> FoundData:
    """What a source of questions holds; DataError when it cannot be read or split, or nothing of a split fits
    `data.lengths`."""
    splits, description = questions.split_questions(config)
    sizes = {name: len(getattr(splits, name)) for name in questions.QUESTION_SPLITS}
    for name in sizes if renderer is not None else ():
        assert renderer is not None
        questions.tokenised(config, renderer, getattr(splits, name))
    return FoundData(description, sizes)


def prepare_base(config: Config, folder: Path, texts: Sequence[str]) -> tuple[Renderer, Path]:
    """The renderer, and the folder of the base model: the configured one as it is where it fits, else a copy here."""
    model, target = config.model, folder / OWN_BASE
    if model.from_scratch is not None:
        renderer = Renderer(train_tokenizer(texts, model.from_scratch.vocab_size), model.improve_instruction)
        new_llama(model.from_scratch, renderer.tokenizer, derive_seed(config.seed, "model")).save_pretrained(
            str(target)
        )
        return renderer, target
    path = base_path(config)
    renderer = base_renderer(config)
    if fits(path, renderer.tokenizer, model.trust_remote_code):
        return renderer, Path(path)
    loaded = load_causal(path, torch_dtype(model.dtype), model.trust_remote_code)
    with_tokenizer(loaded, renderer.tokenizer).save_pretrained(str(target))
    return renderer, target


def base_renderer(config: Config) -> Renderer:
    """The renderer of the configured base model; DataError when its tokenizer cannot serve."""
    return Renderer(load_tokenizer(base_path(config)), config.model.improve_instruction)


def pair_texts(splits: Splits) -> list[str]:
    """Every text of the SFT pairs, for training a tokenizer."""
    return [
        text for pair in splits.sft for text in (*(turn["content"] for turn in pair.prompt), pair.chosen, pair.rejected)
    ]


def base_path(config: Config) -> str:
    """The configured model as a folder or hub name; DataError when a path that is no hub name does not exist."""
    path = str(config.model.path)
    if path == BASE:
        return str(BASE_FOLDER)
    world = find_world(path, "model.path")
    if world is not None:
        return str(base_folder(world.name))
    folder = Path(os.path.expanduser(path))
    if os.path.exists(folder):  # False also for what cannot be a path
        check_folder(folder)
        return str(folder)
    # A name under an existing folder was never meant for the hub.
    if not HUB_NAME.fullmatch(path) or (folder.parent != Path() and os.path.exists(folder.parent)):
        raise DataError(f"model.path: '{short(path, LINE)}' is no folder: {no_such_path(folder)}")
    return path


def example(renderer: Renderer, pair: PreferencePair) -> list[int]:
    """x ‖ draft ‖ bridge ‖ y of one pair as the model reads it."""
    return [
        *renderer.prompt_ids(pair.prompt),
        *renderer.response_ids(pair.rejected),
        *renderer.bridge.tolist(),
        *renderer.response_ids(pair.chosen),
        renderer.eos,
    ]
