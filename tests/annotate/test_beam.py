"""The pipeline gives what one process gives, to the byte, and its errors are one line."""

import sys

import pytest

from anchortrain.annotate.beam import annotate_on
from anchortrain.annotate.job import annotate
from anchortrain.data.records import read_documents
from anchortrain.errors import UserError
from tests.annotate.jobs import annotating, command, error, product, run, tales, write


@pytest.fixture
def corpus(tmp_path):
    return write(tmp_path / "tales.jsonl", tales(60))


def test_in_memory_it_gives_the_same_and_continues_what_was_begun(corpus, tmp_path):
    settings = annotating(annotator="labels+offline", schema="stories")
    annotate([corpus], tmp_path / "a", settings)
    manifest = annotate_on("DirectRunner", "", [corpus], tmp_path / "b", settings)
    assert manifest["parts"] and product(tmp_path / "b") == product(tmp_path / "a")
    for name in ("part-00001", "part-00003"):
        (tmp_path / "b" / f"{name}.jsonl").unlink()
    annotate_on("DirectRunner", "", [corpus], tmp_path / "b", settings)
    assert product(tmp_path / "b") == product(tmp_path / "a")


def test_in_processes_it_gives_the_same(corpus, tmp_path):
    annotate([corpus], tmp_path / "a", annotating())
    options = ["--runner", "DirectRunner"]
    options += ["--runner_options", "--direct_num_workers=2 --direct_running_mode=multi_processing"]
    done = run(command(corpus, tmp_path / "b", *options))
    assert done.returncode == 0, done.stderr
    assert "annotate: 100% 120/120 chunks" in done.stderr and "Traceback" not in done.stderr
    assert product(tmp_path / "b") == product(tmp_path / "a")


@pytest.mark.parametrize(
    ("runner", "options", "message"),
    [
        ("DirektRunner", "", "Beam has no runner 'DirektRunner': "),
        ("DirectRunner", "--a='b", '--runner_options "--a=\'b": no closing quotation'),
        ("DirectRunner", "--direct_num_workers=many", "--runner_options '--direct_num_workers=many': "),
    ],
)
def test_settings_that_beam_does_not_know(corpus, tmp_path, runner, options, message):
    with pytest.raises(UserError) as caught:
        annotate_on(runner, options, [corpus], tmp_path / "a", annotating())
    assert str(caught.value).startswith(message) and not (tmp_path / "a").exists()


def test_an_error_within_a_worker_is_told_as_if_it_were_here(corpus, tmp_path, monkeypatch):
    from anchortrain.annotate import annotators

    class Broken:
        def annotate(self, passages):
            raise UserError("no money left", where=passages[0].record)

        def close(self):
            pass

    with monkeypatch.context() as patch:
        patch.setattr(annotators, "_open", lambda *_: Broken())
        with pytest.raises(UserError, match="^tales.jsonl:2: no money left|^tale/0: no money left"):
            annotate_on("DirectRunner", "", [corpus], tmp_path / "a", annotating())
    assert not list((tmp_path / "a" / "state").glob("*.error"))
    annotate([corpus], tmp_path / "a", annotating())
    assert len(list(read_documents([tmp_path / "a"]))) == 60


def test_without_beam_it_says_what_to_install(corpus, tmp_path):
    program = "import sys; sys.modules['apache_beam'] = None; from anchortrain.cli import main; sys.exit(main())"
    argv = command(corpus, tmp_path / "a", "--runner", "DirectRunner")
    line = error(run([sys.executable, "-c", program, *argv[3:]]))
    assert line.startswith("--runner needs Apache Beam") and line.endswith("pip install 'anchortrain[beam]'")
