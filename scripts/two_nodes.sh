#!/usr/bin/env bash
# scripts/two_nodes.sh [--nproc-per-node=2] SCRIPT [ARGUMENTS]: torchrun on two nodes, each a network namespace of this
# machine, which reach each other by one virtual cable alone. Needs root and iproute2. PYTHON names another than .venv's.
set -euo pipefail
cd "$(dirname "$0")/.."
[ $# -gt 0 ] || { sed -n '2,3s/^# //p' "$0" >&2; exit 2; }
python=${PYTHON:-.venv/bin/python}
names=("portable-mps-$$-0" "portable-mps-$$-1")

tidy() {
  for name in "${names[@]}"; do ip netns delete "$name" 2>/dev/null || true; done
}
trap tidy EXIT

for place in 0 1; do
  ip netns add "${names[$place]}"
  ip -n "${names[$place]}" link set lo up
done
ip -n "${names[0]}" link add cable type veth peer name cable netns "${names[1]}"
for place in 0 1; do
  ip -n "${names[$place]}" address add "10.77.0.$((place + 1))/24" dev cable
  ip -n "${names[$place]}" link set cable up
done

node() { # the place of the node, torchrun's own arguments, the script and its
  local place=$1
  shift
  GLOO_SOCKET_IFNAME=cable ip netns exec "${names[$place]}" "$python" -m torch.distributed.run \
    --nnodes=2 --node-rank="$place" --master-addr=10.77.0.1 --master-port=29400 "$@"
}
node 1 "$@" &
node 0 "$@"
wait $!
