"""Order, resume, sharding and the leave-one-out split, over a log in memory."""

import io
import random
from itertools import chain
from types import SimpleNamespace

import pytest
import pytorch_lightning as L
import torch
from memory import memory_source

from seqgen.data.catalog import Catalog
from seqgen.data.datamodule import SequenceDataModule, _Batches
from seqgen.data.ragged import count_transitions
from seqgen.data.split import leave_one_out
from seqgen.errors import UserError

MARKER = 1000  # original ids from here on are held out
RNG = random.Random(5)
# User 4 has one training item only, so nothing to learn from.
HISTORIES = [[RNG.randint(1, 20) for _ in range(3 if user == 4 else RNG.randint(4, 25))] for user in range(37)]


@pytest.fixture
def make(tmp_path):
    def data(histories=HISTORIES, **more):
        rows = [(user, item) for user, history in enumerate(histories) for item in history]
        settings = {"min_user_interactions": 3, "min_item_interactions": 1, "max_len": 6, "batch_size": 8}
        settings |= {"source": memory_source(rows), "cache_dir": str(tmp_path), "eval_batch_size": 10}
        return SequenceDataModule(**(settings | more))

    return data


def epoch_of(loader, epoch):
    """Users of each batch of an epoch, told as Lightning tells it."""
    loader.sampler.set_epoch(epoch)
    return [batch.users.tolist() for batch in loader]


def test_order_depends_on_seed_and_epoch_alone(make):
    torch.manual_seed(1)
    loader = make(seed=3).train_dataloader()
    epochs = [epoch_of(loader, epoch) for epoch in range(4)]
    torch.manual_seed(2)
    again = make(seed=3, max_len=2, eval_batch_size=3).train_dataloader()
    assert [epoch_of(again, epoch) for epoch in (3, 1, 0, 2)] == [epochs[epoch] for epoch in (3, 1, 0, 2)]
    other = make(seed=4).train_dataloader()
    orders = [str(epoch_of(other, epoch)) for epoch in range(4)] + list(map(str, epochs))
    assert len(set(orders)) == 8


def test_every_user_that_can_learn_once_an_epoch(make):
    loader = make().train_dataloader()
    batches = epoch_of(loader, 2)
    assert sorted(chain(*batches)) == [user for user in range(37) if user != 4]
    assert [len(batch) for batch in batches] == [8, 8, 8, 8, 4]
    assert len(loader) == 5


def test_evaluation_takes_every_user_in_order(make):
    data = make()
    for loader in (data.val_dataloader(), data.test_dataloader()):
        assert [batch.users.tolist() for batch in loader] == [
            list(range(first, min(first + 10, 37))) for first in range(0, 37, 10)
        ]


def test_worker_processes_change_nothing(make):
    plain, worked = make().train_dataloader(), make(num_workers=1).train_dataloader()
    assert epoch_of(worked, 1) == epoch_of(plain, 1)
    assert epoch_of(worked, 2) == epoch_of(plain, 2)


class Recorder(L.LightningModule):
    """Learns nothing and notes what it is given."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.given = []

    def training_step(self, batch, _):
        self.given.append((self.current_epoch, batch.users.tolist(), batch.targets.tolist()))
        return self.weight * batch.normalizer

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


@pytest.mark.filterwarnings("ignore")
def test_resume_continues_with_the_same_batches(make, tmp_path):
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    quiet |= {"accelerator": "cpu", "enable_checkpointing": False, "default_root_dir": tmp_path}
    whole, first, rest = Recorder(), Recorder(), Recorder()
    L.Trainer(max_epochs=3, **quiet).fit(whole, make())
    trainer = L.Trainer(max_epochs=1, **quiet)
    trainer.fit(first, make())
    trainer.save_checkpoint(tmp_path / "one.ckpt")
    L.Trainer(max_epochs=3, **quiet).fit(rest, make(), ckpt_path=tmp_path / "one.ckpt")
    assert [epoch for epoch, *_ in whole.given] == [0] * 5 + [1] * 5 + [2] * 5
    assert first.given + rest.given == whole.given


@pytest.mark.parametrize("world", [1, 2, 3, 4])
def test_processes_share_a_batch(make, world):
    data = make()
    cases = leave_one_out(data.sequences, held_out=2)
    lengths = [len(history) - 2 for history in HISTORIES]
    for index in torch.randperm(37, generator=torch.Generator().manual_seed(0)).split(8):
        slices = [
            _Batches(data, data.sequences, cases, train=True, rank=rank, world=world)[index] for rank in range(world)
        ]
        users = [user for part in slices for user in part.users.tolist()]
        assert len(users) == len(index)
        assert set(users) == set(index.tolist())
        targets = sum(min(lengths[user] - 1, data.max_len) for user in users)
        assert sum(len(part.targets) for part in slices) == targets
        for part in slices:
            assert part.normalizer * world == pytest.approx(targets)


def test_processes_share_an_evaluation(make):
    data = make()
    cases = leave_one_out(data.sequences, held_out=1)
    parts = [
        _Batches(data, data.sequences, cases, train=False, rank=rank, world=3)[torch.tensor([9, 30])]
        for rank in range(3)
    ]
    assert [part.users.tolist() for part in parts] == [[9], [30], []]
    assert [part.targets.tolist() for part in parts[:2]] == [[HISTORIES[9][-1]], [HISTORIES[30][-1]]]


@pytest.mark.parametrize(("batch_size", "world"), [(8, 5), (35, 2), (2, 3)])
def test_a_process_without_users_is_refused(make, batch_size, world):
    # 36 users: the last batch holds 4, 1 and 2 of them.
    data = make(batch_size=batch_size)
    data.trainer = SimpleNamespace(
        global_rank=0, world_size=world, strategy=SimpleNamespace(root_device=torch.device("cpu"))
    )
    with pytest.raises(UserError, match=rf"data\.batch_size={batch_size}\b"):
        data.train_dataloader()


def test_loaders_take_the_rank_of_the_trainer(make):
    data = make(batch_size=9)
    data.trainer = SimpleNamespace(
        global_rank=1, world_size=3, strategy=SimpleNamespace(root_device=torch.device("cpu"))
    )
    mine = epoch_of(data.train_dataloader(), 0)
    assert mine == [batch[1::3] for batch in epoch_of(make(batch_size=9).train_dataloader(), 0)]
    assert next(iter(data.test_dataloader())).users.tolist() == [1, 4, 7]


@pytest.fixture
def marked(make):
    """The last two items of each user stand nowhere else."""
    held_out = [[MARKER + 2 * user, MARKER + 2 * user + 1] for user in range(len(HISTORIES))]
    return make([history[:-2] + marks for history, marks in zip(HISTORIES, held_out, strict=True)], batch_size=8)


def test_held_out_items_reach_no_training(marked):
    ids = torch.tensor([0, *marked.catalog.item_ids])

    def clean(items):
        return bool((ids[items.long()] < MARKER).all())

    assert (ids >= MARKER).sum() == 2 * len(HISTORIES)
    assert clean(marked.train_sequences().values)
    assert marked.train_sequences().lengths.tolist() == [len(history) - 2 for history in HISTORIES]
    assert clean(marked.catalog.train().values)
    assert marked.catalog.item_counts[ids >= MARKER].sum() == 0
    assert marked.catalog.item_counts.sum() == sum(len(history) - 2 for history in HISTORIES)
    head, tail, _ = count_transitions(marked.train_sequences(), num_items=marked.catalog.num_items, time_span=5)
    assert clean(head)
    assert clean(tail)
    for batch in marked.train_dataloader():
        assert clean(batch.inputs())
        assert clean(batch.targets)
        assert clean(batch.seen_items)


def test_held_out_items_are_the_targets(marked):
    ids = torch.tensor([0, *marked.catalog.item_ids])
    for batch in marked.val_dataloader():
        assert ids[batch.targets].tolist() == (MARKER + 2 * batch.users).tolist()
        assert (ids[batch.inputs()] < MARKER).all()
        assert (ids[batch.seen_items] < MARKER).all()
    for batch in marked.test_dataloader():
        assert ids[batch.targets].tolist() == (MARKER + 2 * batch.users + 1).tolist()
        assert ids[batch.newest()].tolist() == (MARKER + 2 * batch.users).tolist()
        seen = ids[batch.seen_items]
        assert sorted(seen[seen >= MARKER].tolist()) == (MARKER + 2 * batch.users).tolist()


def test_mask_seen_false_gives_no_seen_items(make):
    for batch in make(mask_seen=False).test_dataloader():
        assert len(batch.seen_items) == 0


def test_test_cases_by_hand(tmp_path):
    histories = {"ann": "abcd", "bob": "cdab", "cat": "dbc"}  # training parts: ab, cd, d
    rows = [(user, item, time) for user, items in histories.items() for time, item in enumerate(items)]
    data = SequenceDataModule(
        source=memory_source(rows[::-1]), cache_dir=str(tmp_path), min_user_interactions=3, min_item_interactions=1
    )
    cases = data.test_cases()
    assert cases.columns == ["user", "target", "history_len", "target_count", "transition_seen"]
    assert cases.rows() == [
        ("ann", "d", 3, 2, True),  # c -> d: in bob's training part
        ("bob", "b", 3, 1, True),  # a -> b: in ann's
        ("cat", "c", 2, 1, False),  # b -> c: in ann's history, but held out
    ]


def test_catalog_without_titles(make):
    catalog = make().catalog
    assert catalog.titles is None
    assert catalog.categories is None
    assert catalog.truth is None
    assert catalog.item_ids == list(range(1, 21))
    assert catalog.user_ids == list(range(37))
    assert catalog.item_counts[0] == 0
    assert len(catalog.item_counts) == 21


def test_catalog_state_is_safe_to_load_and_leaves_the_data_out(make):
    catalog = make().catalog
    file = io.BytesIO()
    torch.save(catalog.state(), file)
    file.seek(0)
    loaded = Catalog(**torch.load(file, weights_only=True))
    assert loaded.fingerprint == catalog.fingerprint
    assert loaded.item_ids == catalog.item_ids
    assert loaded.item_counts.equal(catalog.item_counts)
    assert loaded.train is None


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("min_user_interactions", 2),
        ("min_item_interactions", 0),
        ("max_len", 0),
        ("batch_size", 0),
        ("eval_batch_size", -1),
        ("num_workers", -1),
    ],
)
def test_refused_settings(make, key, value):
    with pytest.raises(UserError, match=rf"^{key}={value} must be at least"):
        make(**{key: value})


def test_nothing_to_learn_from_is_refused(make):
    data = make([[1, 2, 3], [2, 3, 1]])
    assert len(data.test_dataloader()) == 1
    with pytest.raises(UserError, match="two training items"):
        data.train_dataloader()


def test_every_batch_knows_whether_a_user_of_the_data_has_seen_every_item(make, tmp_path):
    def told(*training_parts):
        """Two items are held out behind each training part."""
        data = make([[*part, 1, 2] for part in training_parts], batch_size=1, cache_dir=f"{tmp_path}/{training_parts}")
        assert data.catalog.num_items == 5
        [told] = {batch.most_seen for batch in data.train_dataloader()}
        return told

    assert told([1, 2, 3], [4, 5]) == 0  # nobody has a history of five
    assert told([1, 2, 3, 3, 3, 3], [4, 5]) == 3
    assert told([1, 2], [1, 2, 3, 4, 5, 1], [4, 5]) == 5
