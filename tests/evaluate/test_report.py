"""The report holds a run's numbers, leaves out what is missing, and is safe to open whatever a model wrote."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pit_ray.errors import DataError
from pit_ray.evaluate.curves import trajectories
from pit_ray.evaluate.report import word_changes, write_report
from pit_ray.events import record_event

EVIL = 'Hi <script>alert(1)</script> <img src="https://evil.example/x.png"> \x1b[31m\u202e{{ 7 * 7 }} ]]> \ud800'


def comparison(**changes: object) -> dict:
    base = {"name": "improver_vs_policy", "judge": "gold", "iterations": 1, "stopping_rule": False, "n": 1768}
    return base | {"win": 48.1, "lose": 20.2, "delta": 27.9, "ci95": [22.1, 33.4]} | changes


def write_json(path: Path, content: object) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(content))


def write_metrics(run: Path, evil: str = "") -> None:
    records = [{"stage": "sft_policy", "phase": "", "step": k, "loss/sft": 3 - k / 50} for k in range(40)]
    records += [{"stage": "sft_improver", "phase": "", "step": k, "loss/sft": 2.5} for k in range(3)]
    records += [
        {"stage": "gap_reward", "phase": "", "step": k, "loss/reward": 3.4, "val/accuracy": 0.8} for k in range(3)
    ]
    common = {"objective/kl": 1.5, "val/response_length": 24.0, "time/step": 4.0, "time/generate": 2.0}
    for k in range(6):
        phase = ("annotated" if k < 3 else r"$\frac$ on_policy") + evil
        step = {"stage": "ppo_improver", "phase": phase, "step": k, "objective/gap": None if k == 2 else 0.1 * k}
        records.append(step | common | {"objective/gold": 5.0, "time/learn": 1.25})
    (run / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))


def write_run(run: Path) -> None:
    write_metrics(run, EVIL)
    comparisons = [
        comparison(),
        comparison(iterations=3, stopping_rule=True, delta=31.5, ci95=[25.0, 38.0]),
        comparison(judge="reward", delta=40.3, ci95=[35.1, 44.9]),
        comparison(name=EVIL, iterations=0, delta=-9.8, ci95=[-14.2, -5.6]),
        comparison(name="improver_vs_previous", iterations=2, delta=3.5, ci95=[1.0, 6.0]),
    ]
    controlled = [comparison(delta=21.4, ci95=[16.3, 26.2])]
    health = {"policy": {"tokens": 31.25, "truncated": 0.0125, "distinct": 0.875, "copied": None}}
    health["policy"]["reward_length_correlation"] = -0.123
    measures = [
        {"score": "five", "pairs": "written", "n": 1234, "accuracy": 0.775, "order_holds": None}
        | {"gold_n": 1234, "gold_agreement": 0.712, "gold_ci95": [0.654, 0.763], "gold_pearson": -0.4567},
        {"score": "difference", "pairs": "annotated", "n": 0, "accuracy": None, "order_holds": None},
    ]
    gap_reward = {"accuracy": 0.813, "order_holds": 0.702, "n": 256, "measures": measures}
    seconds = {"ppo_improver": 125.0, "sft_policy": 12.3, EVIL: 1.0}
    summary = {"world": "notes", "seed": 7, "comparisons": comparisons, "gap_reward": gap_reward, "margin": 0.35}
    summary |= {"seconds": seconds, "length_controlled": controlled, "health": health}
    write_json(run / "evaluation" / "summary.json", summary)
    texts = {"prompt": EVIL, "draft": "Dear Ana, bring stuff. " + EVIL, "revisions": ["Dear Ana, bring fruit.", EVIL]}
    samples = [texts | {"gaps": [1.25, -0.5], "golds": [3.0, 6.5, 1.0], "kept": 1}]
    write_json(run / "evaluation" / "samples.json", samples)
    write_json(run / "environment.json", {"python": "3.11.9", "note": EVIL})
    (run / "config.yaml").write_bytes(b'seed: 7\nmodel: {improve_instruction: "</pre><script>\xff\x1b"}\n')


class Page(HTMLParser):
    """The elements and the text of a page, and whether every element was closed."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.attributes: list[tuple[str, str, str]] = []
        self.tags: list[str] = []
        self.words = ""
        self._open: list[str] = []
        self.feed(page)
        self.close()
        assert self._open == []
        self.words = " ".join(self.words.split())

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in ("meta", "br"):
            self._open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if self._open and self._open[-1] == tag:
            self._open.pop()

    def handle_endtag(self, tag):
        assert self._open.pop() == tag
        self.words += " " if tag in ("td", "th", "h3", "span", "summary", "div") else ""

    def handle_data(self, data):
        self.words += data


def report(run: Path) -> tuple[str, Page]:
    text = write_report(run).read_text(encoding="utf-8")
    return text, Page(text)


def test_untrusted_text_stays_text(tmp_path):
    write_run(tmp_path)
    text, page = report(tmp_path)
    assert not {"script", "img", "iframe", "object", "link", "base", "form", "a"} & set(page.tags)
    assert not [name for _, name, _ in page.attributes if name.startswith("on")]
    assert "<script>alert(1)</script>" in page.words and "{{ 7 * 7 }}" in page.words
    assert "<U+001B>[31m<U+202E>" in page.words and "<U+D800>" in page.words
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202e]", text)


def test_nothing_is_loaded(tmp_path):
    write_run(tmp_path)
    text, page = report(tmp_path)
    loading = [(name, value) for _, name, value in page.attributes if name in ("src", "srcset", "href", "xlink:href")]
    assert all(name == "xlink:href" and value.startswith("#") for name, value in loading)
    styles = [value for _, _, value in page.attributes] + re.findall(r"<style.*?</style>", text, re.DOTALL)
    assert all(target.startswith("#") for style in styles for target in re.findall(r"url\(['\"]?(.)", style))
    assert not [style for style in styles if "@import" in style]
    (policy,) = [value for tag, name, value in page.attributes if name == "content" and "default-src" in value]
    assert policy.startswith("default-src 'none'; style-src 'unsafe-inline'") and "script-src" not in policy
    assert not [value for _, _, value in page.attributes if "//" in value]


def test_the_numbers_are_there(tmp_path):
    write_run(tmp_path)
    text, page = report(tmp_path)
    assert "On 1,768 prompts that no model was trained on" in page.words
    assert "scored higher than the policy's own response on 48.1 % and lower on 20.2 %" in page.words
    assert "Δ, is +27.9 points (95 % interval +22.1 to +33.4)" in page.words
    assert "Judge: the gold score" in page.words and "the improver improves" in page.words
    assert "+27.9 +22.1 to +33.4 +21.4 +16.3 to +26.2" in page.words, "and at equal length"
    before, _, after = page.words.partition("From one revision to the next")
    assert "improver vs. one revision less gold 2 1,768 48.1 20.2 +3.5 +1.0 to +6.0" in after
    assert "one revision less" not in before
    assert "policy 31.2 1.2 87.5 – −0.12" in page.words
    assert "written five 1,234 77.5 – 71.2 65.4 to 76.3 −0.46" in page.words
    assert "annotated difference 0 – – – – –" in page.words
    assert "improver vs. policy gold up to 3 1,768 48.1 20.2 +31.5 +25.0 to +38.0" in page.words
    assert "improver vs. policy reward 1 1,768 48.1 20.2 +40.3 +35.1 to +44.9" in page.words
    assert "– 1,768 48.1 20.2 −9.8 −14.2 to −5.6" in page.words
    assert "in 81.3 %" in page.words and "holds in 70.2 %" in page.words
    assert "gap exceeds 0.35" in page.words
    assert "gap +1.25 gold 6.50 (+3.50) the stopping rule ends here" in page.words
    assert "gap −0.50 gold 1.00 (−5.50) not kept by the stopping rule" in page.words
    assert "<del>stuff" in text and "<ins>fruit" in text
    assert "Stages, 2 min 18 s in all policy, SFT 12.3 s improver, RL 2 min 05 s" in page.words
    assert "generate 2.0 s learn 1.2 s other 0.8 s" in page.words
    assert "python" in page.words and "improve_instruction" in page.words


def test_curves_are_drawn_in_the_pages_colours_with_phases_marked(tmp_path):
    write_run(tmp_path)
    text, page = report(tmp_path)
    titles = re.findall(r"<figcaption>(.*?)</figcaption>", text)
    assert titles == [
        "SFT loss, nats per token",
        "Loss of the reward models",
        "Pairs ordered rightly",
        "Gap: how much better than the draft",
        "Gold score",
        "KL to the SFT model, nats per response",
        "Response length, tokens",
        "improver, RL",
    ]
    figures = re.findall(r"<svg.*?</svg>", text, re.DOTALL)
    assert len(figures) == len(titles)
    assert "var(--series-1)" in figures[0] and "var(--series-2)" in figures[0] and "policy, SFT" in page.words
    assert all(("annotated" in figure) == (3 <= k < 7) for k, figure in enumerate(figures))
    assert r"$\frac$ on_policy" in figures[3]
    assert "#0102" not in text


def test_gap_and_gold_are_drawn_against_kl_phase_by_phase():
    def step(phase: str, kl: float, gap: float | None, gold: float | None) -> dict:
        values = {"objective/kl": kl, "objective/gap": gap, "objective/score": 9.0, "objective/gold": gold}
        return {"phase": phase} | values

    records = [step("a", 0.1, 1.0, 5.0), step("a", 0.2, 1.5, 5.5), step("a", 0.3, None, 6.0), step("b", 0.4, 2.0, 4.0)]
    first, second = trajectories(records)
    assert [column.tolist() for column in first] == [[0.1, 0.2], [1.0, 1.5], [5.0, 5.5]]
    assert [column.tolist() for column in second] == [[0.4], [2.0], [4.0]]
    of_policy = [{k: v for k, v in record.items() if k != "objective/gap"} for record in records]
    assert trajectories(of_policy)[0].proxy.tolist() == [9.0, 9.0, 9.0]
    assert trajectories([record | {"objective/gold": None} for record in records]) == []


def test_without_gold_the_reward_model_judges(tmp_path):
    comparisons = [comparison(judge="reward", iterations=2), comparison(judge="reward", delta=1.5, ci95=[-2.0, 5.0])]
    write_json(tmp_path / "evaluation" / "summary.json", {"world": None, "seed": 1, "comparisons": comparisons})
    sample = {"prompt": "p", "draft": "d", "revisions": ["d"], "gaps": [0.0], "golds": None, "kept": 0}
    write_json(tmp_path / "evaluation" / "samples.json", [sample])
    _, page = report(tmp_path)
    assert "Δ, is +1.5 points" in page.words and "Judge: the reward model" in page.words
    assert "does not show a difference" in page.words and "gold score, the truth" not in page.words
    assert "Sample 1 · draft kept" in page.words and "gap +0.00 not kept by the stopping rule unchanged" in page.words


def test_a_worse_improver_is_called_worse(tmp_path):
    bad = comparison(delta=-12.0, ci95=[-18.0, -6.0])
    write_json(tmp_path / "evaluation" / "summary.json", {"comparisons": [bad]})
    _, page = report(tmp_path)
    assert "makes responses worse" in page.words and ("div", "class", "number bad") in page.attributes


def test_what_has_befallen_the_run_is_told(tmp_path):
    record_event(tmp_path, "rollout/1 died: <killed>")
    assert "rollout/1 died: &lt;killed&gt;" in write_report(tmp_path).read_text(encoding="utf-8")


def test_what_is_missing_is_left_out(tmp_path):
    _, empty = report(tmp_path)
    assert "h1" in empty.tags and not {"h2", "svg", "table", "details"} & set(empty.tags)
    write_metrics(tmp_path)
    _, training = report(tmp_path)
    assert training.tags.count("h2") == 2 and "table" not in training.tags
    assert sorted(path.name for path in tmp_path.iterdir()) == ["metrics.jsonl", "report.html"]


def test_the_same_run_gives_the_same_page(tmp_path):
    write_run(tmp_path)
    assert report(tmp_path)[0] == report(tmp_path)[0]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("summary.json", '{"comparisons": [{"name": "x"}]}'),
        ("summary.json", "{"),
        ("samples.json", '[{"prompt": "p", "draft": "d", "revisions": ["r"], "gaps": [], "kept": 0}]'),
    ],
)
def test_a_file_that_cannot_be_understood_is_named(tmp_path, name, content):
    (tmp_path / "evaluation").mkdir()
    (tmp_path / "evaluation" / name).write_text(content)
    with pytest.raises(DataError, match=re.escape(name)):
        write_report(tmp_path)
    with pytest.raises(DataError, match="no such run folder"):
        write_report(tmp_path / "elsewhere")


def test_changed_words_are_marked_and_a_replaced_phrase_stays_whole():
    assert word_changes("Bring the old stuff, Ana.", "Bring a new blanket, Ana!") == [
        ("same", "Bring "),
        ("del", "the old stuff"),
        ("ins", "a new blanket"),
        ("same", ", Ana"),
        ("del", "."),
        ("ins", "!"),
    ]
    assert word_changes("same", "same") == [("same", "same")]
    assert word_changes("", "") == []


words = st.lists(st.sampled_from(["a", "b", "c", " ", "  ", "\n", ".", "é1"]), max_size=20).map("".join)


@given(words, words)
def test_changes_hold_both_texts(before, after):
    changes = word_changes(before, after)
    assert "".join(text for kind, text in changes if kind != "ins") == before
    assert "".join(text for kind, text in changes if kind != "del") == after
