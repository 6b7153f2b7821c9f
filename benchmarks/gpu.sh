#!/usr/bin/env bash
# Everything that one CUDA GPU can tell, in one command; numbers in gpu.json, messages in gpu.log.
#
#     benchmarks/gpu.sh --out gpu                       # all pieces, in order of worth; run again to go on
#     benchmarks/gpu.sh --out gpu --pack gpu-pack       # on a machine without network or data: see benchmarks/gpu_pack.py
#     benchmarks/gpu.sh --list | --only speed | --minutes 9 | --toy
#
# The interpreter is the first python3 on the path, or $PYTHON; it must have torch.
set -euo pipefail
root="$(cd "$(dirname "$0")/.." && pwd)"
python="${PYTHON:-python3}"
pack=""
arguments=("$@")
for ((i = 0; i < $#; i++)); do
    [ "${arguments[i]}" = --pack ] && pack="${arguments[i + 1]:?--pack needs a folder}"
done

# Wheels go into a folder of their own on PYTHONPATH. A virtual environment would not do: where the interpreter with
# torch is in one itself, an environment made from it sees the system's packages and not torch.
if [ -n "$pack" ] && ls "$pack"/wheels/*.whl >/dev/null 2>&1; then
    site="${ICCLD_GPU_SITE:-${TMPDIR:-/tmp}/iccld-gpu-site}"
    if [ "$(cat "$site/.done" 2>/dev/null)" != "$(ls "$pack/wheels")" ]; then
        "$python" -m pip install -q --no-index --no-deps --no-compile --upgrade --find-links "$pack/wheels" \
            --target "$site" "$pack"/wheels/*.whl
        ls "$pack/wheels" >"$site/.done"
    fi
    export PYTHONPATH="$site${PYTHONPATH:+:$PYTHONPATH}"
fi
export PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1 HF_HUB_OFFLINE=1
exec "$python" "$root/benchmarks/gpu" ${arguments[@]+"${arguments[@]}"}
