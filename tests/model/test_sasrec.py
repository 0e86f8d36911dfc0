"""SASRec, one block with one head, written out from the paper's code with nothing of the package."""

import torch
import torch.nn.functional as F
from model_cases import HISTORIES, catalog_of, evaluation, sasrec, training


def test_one_block_is_the_network_of_the_paper() -> None:
    model = sasrec(catalog_of(HISTORIES)).double()
    p = {name.rpartition("0.0.")[2]: value for name, value in model.state_dict().items()}

    def dense(x: torch.Tensor, name: str) -> torch.Tensor:
        return x @ p[f"{name}.weight"].T + p[f"{name}.bias"]

    def norm(x: torch.Tensor, name: str) -> torch.Tensor:
        centred = x - x.mean()
        return centred / (centred**2).mean().sqrt() * p[f"{name}.weight"] + p[f"{name}.bias"]

    def hidden(items: list[int]) -> torch.Tensor:
        """Newest hidden state of a sequence."""
        x = [8**0.5 * p["embedding.item.weight"][item] for item in items]
        x = [row + p["embedding.position.weight"][len(items) - 1 - t] for t, row in enumerate(x)]
        query = norm(x[-1], "norm_attention")
        logits = [dense(query, "attention.query") @ dense(row, "attention.key") / 8**0.5 for row in x]
        weights = torch.softmax(torch.stack(logits), dim=0)
        attended = sum(w * dense(row, "attention.value") for w, row in zip(weights, x, strict=True))
        y = norm(query + attended, "norm_ffn")
        return norm(y + dense(F.relu(dense(y, "inner")), "outer"), "encoder.norms.0")

    scores = model.scores(evaluation(HISTORIES))
    for row, history in enumerate(HISTORIES):
        torch.testing.assert_close(scores[row], p["embedding.item.weight"] @ hidden(history[:-1][-6:]))

    # Positions count from the newest of the window, so a training window is computed as a whole.
    batch = training([[3, 5, 1]])
    states, _ = model.encode(batch.groups[0].items, batch.groups[0].lengths)
    torch.testing.assert_close(states[0, 1], hidden([3, 5]))
