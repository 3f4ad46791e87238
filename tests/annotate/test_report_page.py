"""Page and text of the report: whole, escaped, harmless, and sensible for whatever corpus."""

import json
import re
import unicodedata
from html.parser import HTMLParser

import pytest

from anchortrain.annotate.report import wording
from anchortrain.annotate.report.page import page
from anchortrain.annotate.report.statistics import make_report
from anchortrain.annotate.report.text import format_text

EVIL = "<script>alert('&\")</script></style><img src=x onerror=y> {style}"
HIDDEN = "\u202egnp.exe\u2066 \u200b \x1b[2J \x07 \x00"
_OBEYED = {"Cc", "Cf", "Cs", "Zl", "Zp"}


class _Balanced(HTMLParser):
    VOID = {"meta", "br"}

    def __init__(self):
        super().__init__()
        self.open, self.seen, self.attributes, self.texts = [], set(), set(), []

    def handle_starttag(self, tag, attrs):
        self.seen.add(tag)
        self.attributes |= {name for name, _ in attrs}
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)


def checked(html):
    """Balanced, without script or assets, without control characters, without NaN."""
    parser = _Balanced()
    parser.feed(html)
    assert not parser.open
    assert not parser.seen & {"script", "img", "link", "iframe", "object", "svg"}
    assert not parser.attributes & {"src", "href", "onerror"}
    assert html.count("<style>") == html.count("</style>") == 1
    assert not re.search(r"url\(|@import|https?://|\bnan\b|\binf\b", html, re.IGNORECASE)
    assert not {c for c in html if unicodedata.category(c) in _OBEYED} - {"\n", "\t", "\u200c", "\u200d"}
    return parser


def harmless(text):
    assert not {c for c in text if unicodedata.category(c) in _OBEYED} - {"\n"}
    assert not re.search(r"\bnan\b|\binf\b|\bNone\b(?! of)", text)
    assert max(map(len, text.splitlines())) <= 200


def document(name, *chunks):
    return {"id": name, "chunks": [{"text": text, "annotation": annotation} for text, annotation in chunks]}


def reported(tmp_path, records, **options):
    path = tmp_path / ("long" * 20) / "corpus.jsonl"
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return make_report([path], **options)


def tales(n=150):
    """Tales in which the hero acts: enough to be measured."""
    heroes = {"fox": "ran slyly through the wood", "hen": "sat on her eggs", "king": "wore a crown of gold"}
    names = list(heroes)
    for i in range(n):
        hero = names[i % 3]
        text = f"Once the {hero} {heroes[hero]} on day {i}.\n\n"
        yield document(f"tale-{i}", (text, {"hero": hero, "world": "tales", "number": f"n{i}"}), ("Chapter", None))


def test_the_page_of_a_measured_corpus(tmp_path):
    report = reported(tmp_path, tales())
    seen = checked(page(report))
    said = " ".join(seen.texts)
    for one in (
        "150 of 300 chunks (50 %) have tags", "Near-constant: world", "Near-unique: number", "The tag from the text",
        "The text from the tag", "Which of", "Once the", "corpus.jsonl", "drawn by the hash",
    ):  # fmt: skip
        assert one in said
    assert page(report) == page(reported(tmp_path, tales()))
    text = format_text(report)
    harmless(text)
    for one in ("the tag from the text", "hero", "Near-constant: world", "words and punctuation marks"):
        assert one in text


def test_everything_from_the_corpus_is_escaped_and_harmless(tmp_path):
    value = EVIL + "\u202e\u200d" + "'\"&"
    rows = [document(EVIL + HIDDEN + str(i), (EVIL + HIDDEN, {"evil": [value, EVIL]})) for i in range(20)]
    failed = {"chunks": [{"text": "x", "annotation": None, "failed": EVIL + HIDDEN + "\ud800"}]}
    report = reported(tmp_path, [*rows, failed])
    said = " ".join(checked(page(report)).texts)
    assert "<script>alert" in said and "?gnp.exe?" in said
    harmless(format_text(report))


def test_joiners_of_emoji_stay_on_the_page(tmp_path):
    report = reported(tmp_path, [document("a", ("👩\u200d🚀 flies", {"who": "👩\u200d🚀"}))])
    assert "👩\u200d🚀</mark> flies" in page(report)
    assert "👩?🚀" in format_text(report)


@pytest.mark.parametrize(
    "records",
    [
        [{"text": "No annotation at all.\n\nNone."}],
        [document("a", ("One chunk.", {"k": "v"}))],
        [document("a", ("Empty.", {})), document("b", ("Empty.", {}))],
        [document(f"d{i}", ("Alike.", {"k": "v"})) for i in range(300)],
        [document(f"d{i}", (f"Text {i}.", {"k": "v"} | ({"once": "x"} if i == 7 else {}))) for i in range(200)],
        [document("a", ("word " * 250_000 + "\x00", {"k": "v"}))],
        [document(f"d{i}", (f"t {i}", {f"key{100 * i + j}": "v" for j in range(100)})) for i in range(60)],
        [document("a", *((f"t {i}", {"k": f"v{i}"}) for i in range(1500)))],
        [{"prompt": "", "response": f"r {i}", "annotation": {"k": f"v{i % 2}"}} for i in range(150)],
        [{"prompt": "p", "response": "r", "annotation": None, "failed": ["not", "a", "string"]}],
    ],
    ids=["unannotated", "one chunk", "empty", "one value", "a rare key", "1 MB", "6000 keys", "a novel",
         "instructions", "odd failure"],
)  # fmt: skip
def test_any_corpus_gives_a_sensible_report(tmp_path, records):
    report = reported(tmp_path, records)
    html, text = page(report), format_text(report)
    checked(html)
    harmless(text)
    assert len(html) < 400_000
    json.dumps(report.figures, allow_nan=False)
    assert "chunk" in text.splitlines()[0]


def test_no_annotation_says_what_to_do(tmp_path):
    text = format_text(reported(tmp_path, [{"text": "Plain."}]))
    assert text.startswith("None of 1 chunk in 1 document has a tag.")
    assert "Run `anchortrain annotate`" in text


def test_shares_never_round_to_nothing_or_all():
    assert [wording.share(one) for one in (0.0, 0.0004, 0.012, 0.5, 0.991, 0.99999, 1.0, None)] == [
        "0 %", "<0.1 %", "1.2 %", "50 %", "99.1 %", ">99.9 %", "100 %", "n/a"
    ]  # fmt: skip
    assert wording.bound(-0.2) == "0 (-0.20)" and wording.bound(0.456) == "0.46" and wording.bound(-0.001) == "0.00"
