#!/usr/bin/env bash
# Everything that wants a GPU, in under ten minutes from a machine that has Python and torch:
#
#   bash benchmarks/gpu.sh [OUT]                   # installs what is missing from PyPI
#   WHEELS=folder bash benchmarks/gpu.sh [OUT]     # installs the wheels in a folder, without a network
#   PARTS="tests step" bash benchmarks/gpu.sh      # some of it
#   bash benchmarks/gpu.sh --dry [OUT]             # on the CPU at tiny sizes, to find slips in the script; minutes
#
# Each part has its own time limit and its log in OUT. At the end: one table, and OUT/gpu.json.
set -uo pipefail
cd "$(dirname "$0")/.."
DRY=
if [ "${1:-}" = --dry ]; then
  DRY=1
  shift
fi
OUT=$(realpath -m "${1:-runs/gpu}")
ALL="tests parity syncs step epoch-16 epoch-64 snapshots memory oom compiled ranks bytes drill-fp16 drill-bf16 drill-scaler basin"
PARTS=${PARTS:-$ALL}
PYTHON=${PYTHON:-python3}
export YOLO_OFFLINE=true PYTHONPATH=$PWD
mkdir -p "$OUT"

if [ -n "${WHEELS:-}" ]; then
  "$PYTHON" -m pip install --quiet --no-index --no-deps "$WHEELS"/*.whl || exit 1
elif ! "$PYTHON" -c "import ultralytics, pydantic, typer, pytest, hypothesis" 2>/dev/null; then
  "$PYTHON" -m pip install --quiet --editable . pytest hypothesis || exit 1
fi

failed=0
part() { # NAME SECONDS COMMAND...
  local name=$1 seconds=$2 started=$SECONDS
  shift 2
  [[ " $PARTS " == *" $name "* ]] || return 0
  rm -f "$OUT/$name.json"
  [ -z "$DRY" ] || seconds=$((seconds * 10)) # a CPU is slow
  if timeout "$seconds" "$@" >"$OUT/$name.log" 2>&1; then
    echo "$name: passed, $((SECONDS - started)) s"
  else
    echo "$name: FAILED with $?, $((SECONDS - started)) s, see $OUT/$name.log"
    failed=1
  fi
}

device=0 jobs=4 models="yolo26n.yaml yolo26l.yaml yolo26n-pose.yaml" repeats=60 size=640 batches="16 64" rounds=3
rates="0.003 0.03 0.3" basin=320
if [ -n "$DRY" ]; then
  device=cpu jobs=1 models=yolo26n.yaml repeats=1 size=64 batches="4 8" rounds=1 rates=0.003 basin=64
fi
read -r small large <<<"$batches"
check() { # NAME SECONDS
  part "$1" "$2" "$PYTHON" benchmarks/gpu.py "$1" --out "$OUT" --device "$device"
}

part tests 150 "$PYTHON" -m pytest -p no:cacheprovider -m "slow or not slow" tests/test_cuda.py tests/test_host_syncs.py -k "cuda or gpu"
check parity 90
check syncs 25
# shellcheck disable=SC2086
part step 60 "$PYTHON" benchmarks/step.py --models $models --repeats "$repeats" --device "$device"
part epoch-16 50 "$PYTHON" benchmarks/epoch.py --device "$device" --imgsz "$size" --batch "$small" --images $((4 * small)) \
  --epochs "$rounds" --rounds 1
part epoch-64 60 "$PYTHON" benchmarks/epoch.py --device "$device" --imgsz "$size" --batch "$large" --images $((2 * large)) \
  --epochs "$rounds" --rounds 1
check snapshots 25
check memory 40
check oom 40
check compiled 60
check ranks 40
part bytes 20 "$PYTHON" benchmarks/memory.py --models yolo26n.yaml --device "$device"
for precision in fp16 bf16 scaler; do # those that a GPU has of its own
  part "drill-$precision" 45 "$PYTHON" -m yolo_gradsafe drill nan-pixel nan-gradient nan-weight fp16-overflow \
    --precision "$precision" --quick --no-stock --jobs "$jobs" --out "$OUT/drill-$precision" device="$device"
done
# shellcheck disable=SC2086
part basin 60 "$PYTHON" benchmarks/basin.py --models yolo26n --optimizers AdamW --rates $rates --seeds 0 --sets shapes \
  --variants amp --imgsz "$basin" --jobs "$jobs" --folder "$OUT/basin" --device "$device"

# shellcheck disable=SC2086
"$PYTHON" benchmarks/gpu.py collect --out "$OUT" --device "$device" --parts $PARTS || failed=1
exit $failed
