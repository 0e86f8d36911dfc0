"""Peak of memory of ranking a batch of 512 users over a million items of 128 numbers, as `trainer.test` does it.

    python benchmarks/rank_memory.py
    python benchmarks/rank_memory.py --items 100000 --rows 512

The peak is that of the whole process: what torch takes and the item embedding (0.5 GB) are part of it.
"""

import argparse
import resource
import time
from functools import partial

import torch

from seqgen.attention.softmax import SoftmaxAttention
from seqgen.data.catalog import Catalog
from seqgen.data.ragged import Cases, Sequences
from seqgen.data.sequences import evaluation_batch
from seqgen.layers import Inference
from seqgen.model.sasrec import SASRec

LENGTH = 50


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("items", 1_000_000), ("width", 128), ("rows", 512)):
        parser.add_argument(f"--{name}", type=int, default=default)
    options = parser.parse_args()
    torch.manual_seed(0)
    rows, items = options.rows, options.items
    values = torch.randint(1, items + 1, (rows * LENGTH,), dtype=torch.int32)
    sequences = Sequences(values=values, offsets=torch.arange(rows + 1) * LENGTH)
    stop = sequences.offsets[1:] - 1
    cases = Cases(users=torch.arange(rows), start=sequences.offsets[:-1], stop=stop, seen_stop=stop)
    batch = evaluation_batch(sequences, cases, torch.arange(rows), max_len=LENGTH, mask_seen=True)
    counts = values.bincount(minlength=items + 1)
    known = {"item_counts": counts, "item_ids": [], "user_ids": [], "train": lambda: sequences}
    catalog = Catalog(fingerprint="generated", num_items=items, num_users=rows, **known)
    model = SASRec(
        catalog=catalog,
        metrics_k=[5, 10, 20],
        max_len=LENGTH,
        attention=partial(SoftmaxAttention, num_heads=2, dropout=0.0, out_proj=False),
        hidden_dim=options.width,
        num_layers=2,
        ffn_dim=options.width,
        activation="relu",
        norm="query",
        dropout=0.0,
        inference=Inference(samples=0, temperature=1.0),
    ).eval()
    before, start = peak(), time.process_time()
    with torch.inference_mode():
        model.test_step(batch, 0)
    spent = f"{time.process_time() - start:.1f} CPU-s"
    print(f"{rows} rows, {items:,} items of {options.width}: peak {peak():.2f} GB ({before:.2f} GB before), {spent}")


def peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


if __name__ == "__main__":
    main()
