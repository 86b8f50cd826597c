#!/usr/bin/env bash
# Everything that wants a GPU, in under ten minutes from a machine that has Python and torch:
#
#   bash benchmarks/gpu.sh [OUT]                   # installs what is missing from PyPI
#   WHEELS=folder bash benchmarks/gpu.sh [OUT]     # installs the wheels in a folder, without a network
#   PARTS="tests step" bash benchmarks/gpu.sh      # some of it
#
# Each part has its own time limit and its log in OUT; the tables are printed at the end, with the machine's name.
set -uo pipefail
cd "$(dirname "$0")/.."
OUT=$(realpath -m "${1:-runs/gpu}")
PARTS=${PARTS:-tests step epoch snapshots memory drill-fp16 drill-bf16 drill-scaler}
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
  if timeout "$seconds" "$@" >"$OUT/$name.log" 2>&1; then
    echo "$name: passed, $((SECONDS - started)) s"
  else
    echo "$name: FAILED with $?, $((SECONDS - started)) s, see $OUT/$name.log"
    failed=1
  fi
}

part tests 200 "$PYTHON" -m pytest -m "slow or not slow" tests/test_cuda.py tests/test_host_syncs.py
part step 100 "$PYTHON" benchmarks/step.py --models yolo26n.yaml yolo26l.yaml yolo26n-pose.yaml
part epoch 100 "$PYTHON" benchmarks/epoch.py --rounds 2
part snapshots 40 "$PYTHON" benchmarks/snapshots.py
part memory 30 "$PYTHON" benchmarks/memory.py
for precision in fp16 bf16 scaler; do # those that a GPU has of its own
  part "drill-$precision" 60 "$PYTHON" -m yolo_gradsafe drill nan-pixel nan-gradient nan-weight fp16-overflow \
    --precision "$precision" --quick --no-stock --jobs 4 --out "$OUT/drill-$precision"
done

for name in $PARTS; do
  grep -ahE "^(###|\||[0-9]+ (passed|failed|skipped|of))" "$OUT/$name.log" || true
done
"$PYTHON" -c "import torch; print(torch.cuda.get_device_name() if torch.cuda.is_available() else 'no GPU here: CPU', torch.__version__)"
exit $failed
