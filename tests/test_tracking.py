"""Metrics reach the file whatever happens around it, the console safely, and wandb without a network."""

import io
import json
import math
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from pit_ray.config.tree import Tracking
from pit_ray.errors import DataError
from pit_ray.metrics import Metrics
from pit_ray.progress import duration
from pit_ray.tracking import Tracker, read_metrics, visible

PLAIN = Tracking(wandb=False, console="plain")
STEP = Metrics.of(
    8, objective__gap=0.42, objective__kl=3.1, objective__gold=5.2, val__response_length=24.0, time__step=3.9
)


def tracker(run: Path, tracking: Tracking = PLAIN) -> tuple[Tracker, io.StringIO]:
    out = io.StringIO()
    return Tracker(run, tracking, {"seed": 1}, console=Console(file=out, width=60)), out


def steps_of(run: Path) -> list[tuple[str, int]]:
    return [(record["stage"], record["step"]) for record in read_metrics(run)]


def write_three(run: Path) -> None:
    with tracker(run)[0] as track:
        track.log("sft_policy", "", 0, STEP)
        track.log("ppo_policy", "policy", 0, STEP)
        track.log("ppo_policy", "policy", 1, STEP)


def test_a_step_is_one_strict_json_line(tmp_path):
    with tracker(tmp_path / "new" / "run")[0] as track:
        track.log("sft_policy", "", 3, Metrics.of(4, loss__sft=0.1, lr=1e-5) | Metrics.of(1, val__ratio=math.nan))
        track.log("sft_policy", "", 4, Metrics.of(4, loss__sft=math.inf))
    text = (tmp_path / "new" / "run" / "metrics.jsonl").read_text()
    first, second = [json.loads(line, parse_constant=pytest.fail) for line in text.splitlines()]
    assert first.pop("time") > 1.7e9
    assert first == {"stage": "sft_policy", "phase": "", "step": 3, "loss/sft": 0.1, "lr": 1e-5, "val/ratio": None}
    assert second["loss/sft"] is None
    assert read_metrics(tmp_path) == []


def test_rewind_drops_the_steps_that_will_be_done_again(tmp_path):
    write_three(tmp_path)
    tracker(tmp_path)[0].rewind("ppo_policy", 1)
    assert steps_of(tmp_path) == [("sft_policy", 0), ("ppo_policy", 0)]
    tracker(tmp_path)[0].rewind("ppo_policy", 0)
    assert steps_of(tmp_path) == [("sft_policy", 0)]
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.jsonl"]


def test_a_writer_killed_at_any_byte_costs_at_most_its_last_line(tmp_path):
    write_three(tmp_path)
    path = tmp_path / "metrics.jsonl"
    whole = path.read_bytes()
    last = whole.rindex(b"\n", 0, -1) + 1
    for cut in range(last, len(whole) + 1):
        path.write_bytes(whole[:cut])
        kept = steps_of(tmp_path)
        whole_line = cut >= len(whole) - 1  # only the newline may be missing
        assert kept == [("sft_policy", 0), ("ppo_policy", 0), ("ppo_policy", 1)][: 3 if whole_line else 2]
        tracker(tmp_path)[0].log("ppo_policy", "policy", 9, STEP)
        assert steps_of(tmp_path) == [*kept, ("ppo_policy", 9)]


@pytest.mark.parametrize("line", ["{torn", "[1]", '{"stage": "x"}'])
def test_a_damaged_line_inside_the_file_is_named(tmp_path, line):
    write_three(tmp_path)
    path = tmp_path / "metrics.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text(lines[0] + line + "\n" + lines[1])
    with pytest.raises(DataError, match=r"metrics\.jsonl, line 2"):
        read_metrics(tmp_path)


def test_plain_console_prints_one_unwrapped_line_per_step(tmp_path):
    track, out = tracker(tmp_path)
    with track:
        track.begin("ppo_improver", 30)
        track.log("ppo_improver", "annotated", 11, STEP)
        track.log("ppo_improver", "on_policy", 12, STEP | Metrics.of(8, objective__score=9.0))
        track.end("ppo_improver", 125.4)
    values = "gap  +0.42  kl   3.1  gold  5.20  len   24  3.9 s"
    assert out.getvalue().splitlines() == [
        "ppo_improver: 30 steps",
        f"ppo_improver annotated  12/30  {values}",
        f"ppo_improver on_policy  13/30  {values}",
        "ppo_improver done in 2 min 05 s",
    ]


def test_what_is_measured_after_the_last_step_is_shown_and_counts_no_step(tmp_path):
    track, out = tracker(tmp_path)
    track.begin("reward", 2)
    track.log("reward", "", 1, Metrics.of(4, loss__reward=0.5))
    track.log("reward", "", 2, Metrics.of(4, val__validation_accuracy=0.75))
    assert out.getvalue().splitlines()[-1].split() == "reward 2/2 accuracy on validation pairs 0.750".split()


def test_auto_is_live_on_a_terminal_and_plain_elsewhere(tmp_path):
    auto = Tracking(wandb=False, console="auto")
    outputs = []
    for terminal in (True, False):
        out = io.StringIO()
        console = Console(file=out, force_terminal=terminal, width=100, _environ={})
        with Tracker(tmp_path, auto, {}, console=console) as track:
            track.begin("sft_policy", 40)
            track.log("sft_policy", "", 7, Metrics.of(1, loss__sft=2.5, time__tokens_per_second=1234.0))
            track.note("a [bold]note[/bold] :smile:")
        outputs.append(out.getvalue())
    live, plain = outputs
    assert "\x1b[?25l" in live and "8/40" in live and "left" in live and "loss  2.5000  1,234 tokens/s" in live
    assert "\x1b" not in plain and "  8/40  loss  2.5000" in plain
    assert all("a [bold]note[/bold] :smile:" in output for output in outputs)


def test_untrusted_text_cannot_drive_the_terminal(tmp_path):
    track, out = tracker(tmp_path)
    track.note("model says \x1b[2J\x07\x9b31m\u202eevil")
    track.log("st\x1bage", "ph\rase", 0, STEP)
    assert out.getvalue().startswith("model says <U+001B>[2J<U+0007><U+009B>31m<U+202E>evil\n")
    assert "\x1b" not in out.getvalue() and "\r" not in out.getvalue()


def test_a_gap_of_next_to_nothing_has_no_sign_of_a_loss(tmp_path):
    track, out = tracker(tmp_path)
    with track:
        track.begin("ppo_improver", 30)
        track.log("ppo_improver", "annotated", 0, Metrics.of(8, objective__gap=-0.001))
    assert "gap  +0.00" in out.getvalue()


@given(st.text(st.characters()))
def test_visible_leaves_nothing_invisible_but_line_and_tab(text):
    shown = visible(text)
    assert {c for c in shown if unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp")} <= {"\n", "\t"}
    assert all(c in shown for c in text if unicodedata.category(c)[0] in "LNP")


def test_a_console_that_cannot_show_a_character_shows_its_code(tmp_path):
    raw = io.BytesIO()
    console = Console(file=io.TextIOWrapper(raw, encoding="ascii", write_through=True))
    Tracker(tmp_path, PLAIN, {}, console=console).note("Δ up")
    assert raw.getvalue() == b"\\u0394 up\n"


def test_a_log_for_programs_is_an_object_a_line(tmp_path):
    out = io.StringIO()
    plain = Tracking(wandb=False, console="json")
    with Tracker(tmp_path, plain, {}, console=Console(file=out, width=60)) as track:
        track.begin("ppo_policy", 4)
        track.log("ppo_policy", "policy", 0, Metrics.of(8, objective__score=0.5))
        track.note("rollout/1 died\nwith a long message that is wider than the terminal is, by far")
    first, step, note = [json.loads(line) for line in out.getvalue().splitlines()]
    assert first["text"] == "ppo_policy: 4 steps"
    assert (step["stage"], step["step"], step["objective/score"]) == ("ppo_policy", 0, 0.5)
    assert note["text"].startswith("rollout/1 died\nwith a long")


def test_duration_in_words():
    assert [duration(s) for s in (3.94, 59.99, 61, 3600, 7265)] == [
        "3.9 s",
        "1 min 00 s",
        "1 min 01 s",
        "1 h 00 min",
        "2 h 01 min",
    ]


@pytest.fixture
def no_login(tmp_path, monkeypatch):
    """Neither a key nor a server: what asks or connects fails or hangs."""
    for name in ("WANDB_API_KEY", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "no-netrc"))
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("HOME", str(tmp_path))


def wandb_record(run: Path) -> bytes:
    (record,) = run.glob("wandb/offline-run-*/run-*.wandb")
    return record.read_bytes()


def test_wandb_runs_offline_without_a_login(tmp_path, no_login, monkeypatch, capfd):
    monkeypatch.setenv("MY_API_KEY", "correct-horse-battery-staple")
    track, out = tracker(tmp_path / "run", Tracking(console="plain"))
    with pytest.raises(RuntimeError, match="the run's own"), track:
        track.begin("ppo_improver", 30)
        track.log("ppo_improver", "annotated", 0, STEP)
        raise RuntimeError("the run's own")
    assert b"ppo_improver/objective/gap" in wandb_record(tmp_path / "run")
    assert steps_of(tmp_path / "run") == [("ppo_improver", 0)]
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and b"battery" in path.read_bytes()]
    assert "wandb" not in out.getvalue() and capfd.readouterr() == ("", "")


def test_a_key_that_wandb_refuses_does_not_stop_the_run(tmp_path, no_login, monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", "too-short")
    track, out = tracker(tmp_path / "run", Tracking(console="plain"))
    with track:
        track.log("sft_policy", "", 0, Metrics.of(1, loss__sft=2.0))
    assert "wandb could not start" in out.getvalue()
    assert b"sft_policy/loss/sft" in wandb_record(tmp_path / "run")
    assert steps_of(tmp_path / "run") == [("sft_policy", 0)]
