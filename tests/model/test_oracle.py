"""Oracle: the probabilities that the data was drawn with, by original ids."""

from pathlib import Path

import numpy as np
import pytest
from model_cases import HISTORIES, catalog_of, generated

from seqgen.errors import UserError
from seqgen.metrics import target_ranks
from seqgen.model.oracle import Oracle


def test_oracle_ranks_by_the_probabilities_the_data_was_drawn_with(tmp_path: Path) -> None:
    data = generated(tmp_path)
    catalog = data.catalog
    assert catalog.num_items < 40
    assert catalog.item_ids != list(range(catalog.num_items))
    model, truth = Oracle(catalog=catalog, metrics_k=[1]), data.source.truth()
    item_ids, histories = np.array(catalog.item_ids), data.sequences.values.tolist()
    for batch in data.test_dataloader():
        scores, ranks = model.scores(batch), target_ranks(model.ranking_scores(batch), batch.targets)
        for row, user in enumerate(batch.users.tolist()):
            start, stop = data.sequences.offsets[user : user + 2].tolist()
            *history, target = histories[start:stop]
            last, who = item_ids[history[-1] - 1], catalog.user_ids[user]
            weight = truth["transition"][last] + truth["taste"][who] + truth["popularity"]
            np.testing.assert_allclose(scores[row, 1:].numpy(), weight[item_ids], rtol=1e-12)
            candidates = [i for i in range(1, catalog.num_items + 1) if i not in history]
            chance = {i: weight[item_ids[i - 1]] for i in candidates}
            assert ranks[row] == sum(chance[i] >= chance[target] for i in candidates)


def test_oracle_refuses_data_that_was_not_generated() -> None:
    with pytest.raises(UserError, match=r"^model=oracle needs generated data.* use data=synthetic\.$"):
        Oracle(catalog=catalog_of(HISTORIES), metrics_k=[1])
