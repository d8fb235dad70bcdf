#!/usr/bin/env bash
# Measure on one GPU, within eight minutes, every ratio that a CPU cannot give.
#
#     benchmarks/gpu.sh [FOLDER]        # default: $OUT, else build/gpu
#     SMALL=1 benchmarks/gpu.sh         # everything in small, on the CPU: does it run?
#
# FOLDER gets results.jsonl (a line of JSON per part), table.md and log.txt (stderr of the parts).
# Each part has its own limit of time; one that fails or runs out of it is named, and the others go
# on. What compiles comes last. BUDGET: seconds in all; PYTHON: the interpreter; REPOS: a folder with
# a checkout `mae` of facebookresearch/mae, without which the pre-training step is left out.
# Status 1 if a part failed.

set -u
cd "$(dirname "$0")/.." || exit 1
out=${1:-${OUT:-build/gpu}}
python=${PYTHON:-$([ -x .venv/bin/python ] && echo .venv/bin/python || echo python3)}
mkdir -p "$out" || exit 1
results=$out/results.jsonl
: >"$results" >"$out/log.txt"
photos=$(mktemp -d)
trap 'rm -rf "$photos"' EXIT
failed=()

"$python" -c 'import torch; raise SystemExit(not torch.cuda.is_available())' || SMALL=${SMALL:-1}
if [ "${SMALL:-0}" = 1 ]; then
    export OMP_NUM_THREADS=1
    device=cpu budget=${BUDGET:-1800} least=600 images=4
    models=(test_vit) sizes=(32 64) repeats=1 # timm's smallest
    declare -A batch=([test-32]=2 [test-64]=1)
    cut="--images 2 --repeats 1" export_="--model vit_tiny_patch16_224@none --image-size 64 --naive 2 --repeats 1"
    photographs="--count 4 --repeats 1"
    views="--batch-size 4 --repeats 1" keys=2000 queries=100 mae="--model tiny --batch-size 1 --repeats 1"
else
    device=cuda budget=${BUDGET:-470} least=0 images=256
    models=(vit_small_patch16_224 vit_base_patch16_224) sizes=(224 448) repeats=10
    declare -A batch=([small-224]=128 [small-448]=32 [base-224]=64 [base-448]=16)
    cut="--images 64 --repeats 5" export_="--model vit_small_patch16_224@none --repeats 3"
    photographs="--count 128 --repeats 7"
    views="--batch-size 256 --repeats 7" keys=1281167 queries=50000 mae="--model base --batch-size 64"
    # Keys of 768 numbers, normalized ones beside them, and a chunk of similarities.
    free=$("$python" -c 'import torch; print(torch.cuda.mem_get_info()[0] >> 30)')
    [ "$free" -ge 30 ] || keys=200000
fi

# part NAME SECONDS SCRIPT ARGUMENTS...: run a benchmark; its lines of JSON get the part's name.
part() {
    local name=$1 limit=$2 left=$((budget - SECONDS)) start=$SECONDS status
    shift 2
    limit=$((limit > least ? limit : least))
    limit=$((limit < left ? limit : left))
    if [ "$limit" -lt 5 ]; then
        failed+=("$name (no time left)")
        return
    fi
    echo "== $name: $*" >>"$out/log.txt"
    timeout -k 5 "$limit" "$python" "benchmarks/$1.py" "${@:2}" 2>>"$out/log.txt" |
        sed -u "s/^{/{\"part\": \"$name\", /" >>"$results"
    status=${PIPESTATUS[0]}
    case $status in
    0) ;;
    124 | 137) failed+=("$name (more than $limit s)") ;;
    *) failed+=("$name (status $status, see log.txt)") ;;
    esac
    echo "$name: $((SECONDS - start)) s, status $status" >&2
}

# steps COMPILED LIMIT [ARGUMENTS...]: fine-tuning steps of all models and sizes.
steps() {
    local how=$1 limit=$2 size model
    shift 2
    for size in "${sizes[@]}"; do
        for model in "${models[@]}"; do
            local short=${model#vit_}
            short=${short%%_*}
            part "$how-$short-$size" "$limit" finetune_step --device "$device" --precision bf16 \
                --model "$model" --image-size "$size" --batch-size "${batch[$short-$size]}" \
                --repeats "$repeats" "$@"
        done
    done
}

"$python" - "$photos" "$images" <<'PYTHON' || exit 1
import sys
from pathlib import Path

from PIL import Image

from gtacli.scenes.trials import draw_trial

folder, count = Path(sys.argv[1]), int(sys.argv[2])
drawn = [Image.fromarray(draw_trial(k, 480)[0]) for k in range(min(count, 32))]
for k in range(count):
    drawn[k % 32].save(folder / f"{k:04}.jpg", quality=90)
PYTHON

memory=$([ "$device" = cpu ] && echo --no-memory)
steps step 40 $memory --variants plain gta kept naive
steps rows-all 25 $memory --variants plain gta --rows all
for side in 14 30; do
    part "cut-$((side * side))" 40 tokencut --device "$device" --sizes "$side" $cut
done
part knn 60 probe --what knn --without sklearn --device "$device" --width 768 --classes 1000 \
    --keys "$keys" --queries "$queries"
part export 60 attention_export --device "$device" --images "$photos" --count "$images" $export_
part decode 30 decode --device "$device" $photographs
part augment 30 augment --device "$device" $views
part augment-rand 30 augment --device "$device" --auto-augment rand-m9-mstd0.5-inc1 $views
if [ -n "${REPOS:-}" ]; then
    part mae 60 pretrain_step --repos "$REPOS" --device "$device" --precision bf16 $mae
else
    echo "mae: left out, it needs REPOS" >&2
fi
steps compiled 90 --no-memory --compile --variants plain gta kept

"$python" benchmarks/gpu_table.py "$results" | tee "$out/table.md"
if [ "${#failed[@]}" -gt 0 ]; then
    printf 'failed: %s\n' "${failed[@]}" | tee -a "$out/table.md"
    exit 1
fi
