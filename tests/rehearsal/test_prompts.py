"""Which prompts are chosen: by share, each once before any twice, and the same first ones however many."""

from collections import Counter

import pytest

from anchortrain.data.prepared import PreparedDataset
from anchortrain.errors import UserError
from anchortrain.rehearsal.prompts import Pool, choose, fingerprint, from_data, from_files


def test_pools_are_chosen_by_share_and_gone_through():
    pools = [Pool([f"a{i}" for i in range(50)], 3.0), Pool(["b0", "b1"], 1.0)]
    chosen = choose(pools, 400, [0, 1])
    by_pool = Counter(prompt[0] for prompt in chosen)
    assert 60 < by_pool["b"] < 140
    first = [prompt for prompt in chosen if prompt[0] == "a"][:50]
    assert len(set(first)) == 50
    assert choose(pools, 1000, [0, 1])[:400] == chosen
    assert choose(pools, 400, [0, 2]) != chosen
    assert fingerprint(pools) != fingerprint(pools[:1])


def test_prompts_of_prepared_data_are_the_text_of_records(data):
    dataset = PreparedDataset(data.instructions)
    sources = {str(data.documents): 1.0, str(data.instructions): 2.0}
    [pool] = from_data(sources, dataset.manifest.vocabulary_hash)
    assert pool.share == 2.0 and list(pool.prompts) == ["Tell"] * len(dataset)
    with pytest.raises(UserError, match="another vocabulary"):
        from_data(sources, "0")
    with pytest.raises(UserError, match="no prepared instructions"):
        from_data({str(data.documents): 1.0}, dataset.manifest.vocabulary_hash)


def test_prompts_of_files(tmp_path):
    (tmp_path / "p.jsonl").write_text('{"prompt": "Tell"}\n{"prompt": "Sing"}\n')
    assert list(from_files([tmp_path / "p.jsonl"])[0].prompts) == ["Tell", "Sing"]
