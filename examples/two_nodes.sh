#!/bin/sh
# One run over two nodes, both of them this machine: two launchers with one process each, which talk over gloo.
#
#   examples/two_nodes.sh model=sasrec data=synthetic trainer.max_epochs=3
#
# On two machines type the torchrun line on each, with its own --node_rank, and the first one's address. Only the first process
# writes, into the folder on its own machine.
set -eu
PYTHON=${PYTHON:-python}
ADDRESS=${MASTER_ADDR:-127.0.0.1}
PORT=${MASTER_PORT:-29533}

node() {
    rank=$1
    shift
    "$PYTHON" -m torch.distributed.run --nnodes=2 --nproc_per_node=1 --node_rank="$rank" \
        --master_addr="$ADDRESS" --master_port="$PORT" -m seqgen.run trainer.accelerator=cpu "$@"
}

node 1 "$@" &
second=$!
trap 'kill "$second" 2>/dev/null || true' INT TERM
node 0 "$@"
wait "$second"
