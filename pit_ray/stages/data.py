"""Stage `data`: reads the pairs, prepares tokenizer and base model, tokenises and splits."""

from __future__ import annotations

from pathlib import Path

from pit_ray.config import Config
from pit_ray.data.lengths import apply_lengths
from pit_ray.data.parquet import write_pairs
from pit_ray.data.preferences import load_pairs
from pit_ray.data.randomness import derive_seed
from pit_ray.data.splits import Splits, split_pairs
from pit_ray.data.templates import Renderer
from pit_ray.data.worlds import base_folder, find_world
from pit_ray.errors import DataError
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
from pit_ray.stages.context import RunContext


def run(context: RunContext) -> None:
    """Writes the splits as Parquet, the renderer, and base.txt (the folder of the base model)."""
    config, folder = context.config, context.folder.stage("data")
    pairs, description = read_source(config)
    splits = split_pairs(pairs, config.data, config.seed)
    renderer, base = prepare_base(config, folder, splits)
    check_ready(config, renderer)
    context.tracker.note(description)
    for name in ("sft", "reward", "rl", "validation", "held_out"):
        tokenised, report = apply_lengths(renderer.tokenise(getattr(splits, name)), config.data.lengths)
        write_pairs(tokenised, folder / f"{name}.parquet")
        context.tracker.note(f"{name}: {len(tokenised)} pairs; {report}")
    renderer.save(folder / "renderer")
    (folder / "base.txt").write_text(f"{base}\n", encoding="utf-8")
    context.tracker.note("one rendered example: " + example(renderer, splits.sft[0]))


def read_source(config: Config) -> tuple[list[PreferencePair], str]:
    """All pairs of the configured source, and one line about them."""
    world = find_world(config.data.source)
    if world is not None:
        pairs = world.pairs(config.data.pairs or 0, derive_seed(config.seed, "world"))
        return pairs, f"data: {len(pairs)} pairs made by {config.data.source}"
    loaded = load_pairs(config.data)
    skipped = "".join(f"; skipped {count} ({reason})" for reason, count in loaded.skipped.items())
    return loaded.pairs, f"data: {len(loaded.pairs)} pairs from {config.data.source}, form: {loaded.form}{skipped}"


def prepare_base(config: Config, folder: Path, splits: Splits) -> tuple[Renderer, Path]:
    """The renderer, and the folder of the base model: the configured one as it is where it fits, else a copy here."""
    model, target = config.model, folder / "base"
    if model.from_scratch is not None:
        texts = [text for pair in splits.sft for text in texts_of(pair)]
        renderer = Renderer(train_tokenizer(texts, model.from_scratch.vocab_size), model.improve_instruction)
        new_llama(model.from_scratch, renderer.tokenizer, derive_seed(config.seed, "model")).save_pretrained(
            str(target)
        )
        return renderer, target
    path = base_path(config)
    renderer = Renderer(load_tokenizer(model, path), model.improve_instruction)
    if fits(path, renderer.tokenizer, model.trust_remote_code):
        return renderer, Path(path)
    loaded = load_causal(path, torch_dtype(model.dtype), model.trust_remote_code)
    with_tokenizer(loaded, renderer.tokenizer).save_pretrained(str(target))
    return renderer, target


def check_ready(config: Config, renderer: Renderer) -> None:
    """DataError when a model given ready is no local folder, or does not share the base model's tokens."""
    trust = config.model.trust_remote_code
    for stage, path in config.ready.model_dump().items():
        if path is None:
            continue
        if not (Path(path) / "config.json").is_file():
            raise DataError(f"ready.{stage}: '{path}' is no model folder (it has no config.json)")
        tokenizer = load_tokenizer(config.model, path)
        if tokenizer.get_vocab() != renderer.tokenizer.get_vocab():
            raise DataError(f"ready.{stage}: '{path}' has another tokenizer than the base model; all must share one")
        if not fits(path, tokenizer, trust):
            raise DataError(
                f"ready.{stage}: '{path}' has no pad token of its own (one that is not the end token) in tokenizer and "
                "config.json; add one to the base model and to this one"
            )


def texts_of(pair: PreferencePair) -> list[str]:
    """Every text of a pair, for training a tokenizer."""
    return [*(turn["content"] for turn in pair.prompt), pair.chosen, pair.rejected]


def base_path(config: Config) -> str:
    """The configured model as a folder or hub name; DataError when a local-looking path does not exist."""
    path = str(config.model.path)
    world = find_world(path)
    if world is not None:
        return str(base_folder(world.NAME))
    if (path.startswith((".", "/", "~")) or path.count("/") > 1) and not Path(path).expanduser().is_dir():
        raise DataError(f"model.path: no folder '{path}'")
    return str(Path(path).expanduser()) if Path(path).expanduser().is_dir() else path


def example(renderer: Renderer, pair: PreferencePair) -> str:
    """x ‖ draft ‖ bridge ‖ y of one pair as the model reads it, special tokens shown."""
    ids = [
        *renderer.prompt_ids(pair.prompt),
        *renderer.response_ids(pair.rejected),
        *renderer.bridge.tolist(),
        *renderer.response_ids(pair.chosen),
        renderer.eos,
    ]
    return repr(renderer.tokenizer.decode(ids))
