#!/usr/bin/env bash
# Runs on every VM of a slice: worker.sh VERB PARAMETERS
#
#   bootstrap   installs the package and mounts the bucket; quick where that is done
#   preflight   prints what must be alike on all workers
#   launch      starts an attempt, detached; harmless when it runs already or has ended
#   run         the attempt itself: trains, uploads the log, leaves the exit code as name of an object
#   guard       deletes the machine when its time is over, whatever became of who started it
#
# PARAMETERS is base64 of bash assignments (tpu_scripts/workers.py), so that no shell on the way sees a value.
set -uo pipefail

fail() {
  echo "worker $SLICE/$WORKER: $*" >&2
  exit 1
}

ack() {
  echo "ANCHORTRAIN-ACK $VERB $ATTEMPT $SLICE $WORKER $1"
}

install_package() {
  local python='' candidate source
  [[ -e $VENV/.ready ]] && return
  rm -rf "$VENV"
  for candidate in python3.12 python3.11; do
    if command -v "$candidate" >/dev/null && "$candidate" -c 'import ensurepip, venv' 2>/dev/null; then
      python=$candidate
      break
    fi
  done
  if [[ -n $python ]]; then
    "$python" -m venv "$VENV" || fail "cannot make a virtual environment"
  else # the images have Python 3.10
    python3 -m pip install --quiet --user uv || fail "no Python 3.11 or newer, and uv cannot be installed"
    python3 -m uv venv --quiet --seed --python 3.12 "$VENV" || fail "uv cannot install Python 3.12"
  fi
  source=$PACKAGE
  if [[ $PACKAGE == gs://* ]]; then
    source=$STATE/${PACKAGE##*/}
    gcloud storage cp "$PACKAGE" "$source" --quiet || fail "cannot read $PACKAGE"
    source="anchortrain[tpu] @ file://$source"
  else
    source="anchortrain[tpu]==${PACKAGE#*==}"
  fi
  local constraints=()
  if [[ -n $CONSTRAINTS ]]; then
    gcloud storage cp "$CONSTRAINTS" "$STATE/constraints.txt" --quiet || fail "cannot read $CONSTRAINTS"
    constraints=(--constraint "$STATE/constraints.txt")
  fi
  "$VENV/bin/python" -m pip install --quiet --disable-pip-version-check \
    ${constraints[@]+"${constraints[@]}"} "$source" || fail "cannot install $source"
  touch "$VENV/.ready"
}

mount_bucket() {
  local where=$MOUNT/$BUCKET
  mountpoint -q "$where" && return
  if ! command -v gcsfuse >/dev/null; then
    local list=/etc/apt/sources.list.d/gcsfuse.list key=/usr/share/keyrings/cloud.google.asc
    sudo curl -fsSL -o "$key" https://packages.cloud.google.com/apt/doc/apt-key.gpg || fail "cannot fetch gcsfuse's key"
    echo "deb [signed-by=$key] https://packages.cloud.google.com/apt gcsfuse-$(lsb_release -cs) main" |
      sudo tee "$list" >/dev/null
    # Right after the first boot another apt-get may hold the lock.
    sudo apt-get -o DPkg::Lock::Timeout=300 -qq update
    sudo apt-get -o DPkg::Lock::Timeout=300 -qq install -y gcsfuse || fail "cannot install gcsfuse"
  fi
  sudo mkdir -p "$where" || fail "cannot make $where"
  sudo chown "$(id -u):$(id -g)" "$where" || fail "cannot own $where"
  # No cache of what is there: workers must see each other's files. Orbax renames a checkpoint's folder when it is whole.
  gcsfuse --implicit-dirs --metadata-cache-ttl-secs=0 --rename-dir-limit=1000000 "$BUCKET" "$where" ||
    fail "cannot mount gs://$BUCKET; may the machine's service account read and write it?"
}

bootstrap() {
  exec 9>"$STATE/bootstrap.lock"
  flock 9
  install_package
  mount_bucket
  ack ready
}

preflight() {
  # Left behind by a process that was killed; a TPU that it locks would stay "already in use".
  if ! pgrep -u "$(id -u)" -f 'anchortrain train' >/dev/null; then
    sudo rm -f /tmp/libtpu_lockfile
  fi
  cd "$MOUNT/$BUCKET" || fail "$MOUNT/$BUCKET is not mounted"
  local probe="$FOLDER/.probe-$SLICE-$WORKER"
  mkdir -p "$FOLDER" || fail "cannot write to gs://$BUCKET"
  echo ok >"$probe" || fail "cannot write to gs://$BUCKET"
  [[ $(<"$probe") == ok ]] || fail "cannot read from gs://$BUCKET"
  rm -f "$probe"
  local facts
  facts=$("$VENV/bin/python" -c '
import json, platform
from importlib import metadata
from anchortrain.devices import tpu_chips
found = {"python": platform.python_version(), "chips": tpu_chips()}
for name in ("anchortrain", "jax", "jaxlib", "libtpu"):
    try:
        found[name] = metadata.version(name)
    except metadata.PackageNotFoundError:
        found[name] = "absent"
print(json.dumps(found, sort_keys=True, separators=(",", ":")))') || fail "the package cannot be imported"
  ack "$facts"
}

start_unit() { # NAME VERB
  sudo systemd-run --quiet --collect --uid="$(id -u)" --gid="$(id -g)" --unit="$1" --setenv=HOME="$HOME" --setenv=PATH="$PATH" \
    --property=KillMode=mixed --property=TimeoutStopSec=120 "$BASH" "$0" "$2" "$PARAMETERS"
}

launch() {
  exec 9>"$STATE/launch.lock"
  flock 9
  local unit=anchortrain-$RUN-$ATTEMPT other
  for other in "$STATE"/attempt-*.lock; do
    other=${other##*/attempt-}
    other=${other%.lock}
    if [[ $other != '*' && $other != "$ATTEMPT" ]]; then
      sudo systemctl stop "anchortrain-$RUN-$other" 2>/dev/null
    fi
  done
  if [[ $SLICE$WORKER == 00 ]] && flock -n "$STATE/guard.lock" true; then
    start_unit "anchortrain-$RUN-guard-$RANDOM" guard 9>&- || fail "systemd-run failed"
  fi
  if compgen -G "$STATE/attempt-$ATTEMPT.exit-*" >/dev/null; then
    ack ended
  elif ! flock -n "$STATE/attempt-$ATTEMPT.lock" true; then
    ack running
  else
    start_unit "$unit" run 9>&- || sudo systemctl is-active --quiet "$unit" || fail "systemd-run failed"
    ack started
  fi
}

stamp() {
  local line now
  while IFS= read -r line || [[ -n $line ]]; do
    now=$EPOCHREALTIME
    TZ=UTC printf '%(%Y-%m-%dT%H:%M:%S)T.%sZ %s\n' "${now%.*}" "${now#*.}" "$line"
  done
}

upload() {
  gcloud storage cp "$1" "$2" --quiet >/dev/null 2>&1
}

# COUNT WORD... NAME=VALUE...: a command of COUNT words, with variables that may have the names of ours.
become() {
  unset DELETE ENVIRONMENT SECRETS TRAIN # arrays would not be exported
  export "${@:$1+2}"
  exec "${@:2:$1}"
}

run() {
  exec 8>"$STATE/attempt-$ATTEMPT.lock"
  flock -n 8 || exit 0
  if compgen -G "$STATE/attempt-$ATTEMPT.exit-*" >/dev/null; then
    exit 0
  fi
  local log=$STATE/attempt-$ATTEMPT.log remote=$LOGS/slice-$SLICE/worker-$WORKER code pid='' uploader stop pair
  stop=$STATE/attempt-$ATTEMPT.stop
  # A stop that comes early must not be lost, so there is a file, too; the trainer saves and ends by itself.
  trap 'touch "$stop"; [[ -n $pid ]] && kill -TERM "$pid" 2>/dev/null' TERM INT
  cd "$MOUNT/$BUCKET" || exit 1
  (
    for pair in ${SECRETS[@]+"${SECRETS[@]}"}; do # into the process's memory, and nowhere else
      value=$(gcloud secrets versions access latest --secret="${pair#*=}" --project="$PROJECT" --quiet) ||
        { echo "anchortrain: cannot read the secret ${pair#*=}"; exit 78; }
      ENVIRONMENT+=("${pair%%=*}=$value")
    done
    [[ -e $stop ]] && exit 143
    set -- "$VENV/bin/python" -m anchortrain "${TRAIN[@]}"
    become $# "$@" "${ENVIRONMENT[@]}"
  ) > >(stamp >>"$log") 2>&1 </dev/null 8>&- &
  pid=$!
  (while sleep "$UPLOAD_SECONDS"; do upload "$log" "$remote.log"; done) </dev/null >/dev/null 2>&1 8>&- &
  uploader=$!
  while kill -0 "$pid" 2>/dev/null; do
    wait "$pid"
  done
  wait "$pid"
  code=$?
  kill "$uploader" 2>/dev/null
  sleep 0.2 # the last lines
  upload "$log" "$remote.log"
  echo "$code" >"$STATE/attempt-$ATTEMPT.exit-$code"
  until upload "$STATE/attempt-$ATTEMPT.exit-$code" "$remote.exit-$code"; do
    sleep "$UPLOAD_SECONDS"
  done
}

guard() {
  exec 7>"$STATE/guard.lock"
  flock -n 7 || exit 0
  while (($(date +%s) < DELETE_AT)); do
    sleep $((DELETE_AT - $(date +%s) < 60 ? DELETE_AT - $(date +%s) + 1 : 60))
  done
  while :; do # the machine ends with us; needs the role tpu.admin, `reap` is there where that is missing
    gcloud "${DELETE[@]}" --quiet
    sleep 600
  done
}

main() {
  VERB=$1 PARAMETERS=$2
  # shellcheck disable=SC1090
  source <(base64 -d <<<"$PARAMETERS") || exit 1
  STATE=$HOME/.anchortrain/$RUN
  VENV=$HOME/.anchortrain/venv-$PACKAGE_HASH
  mkdir -p "$STATE"
  case $VERB in
    bootstrap) bootstrap ;;
    preflight) preflight ;;
    launch) launch ;;
    run) run ;;
    guard) guard ;;
    *) fail "unknown verb $VERB" ;;
  esac
  exit
}

main "$@"
